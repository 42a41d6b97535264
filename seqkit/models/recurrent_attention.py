"""Attention of a recurrent decoder to a memory: dot, general and additive scores.

Legend: B sources, T queries of a source (steps, or rows of one source), S memory positions, D width of what asks,
M width of the memory, K width of the keys, R of the sources, Q of their queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqkit.models.loop_sum import LoopSum

AttentionScore = Literal["dot", "general", "additive"]

_NUMBERS_PER_CHUNK = 2**17
"""The additive score handles this many numbers at once: half a megabyte, which stays in a core's cache."""
_NUMBERS_KEPT = 2**26
"""In a loop, it keeps up to this many for the backward pass: 256 MB."""


class RecurrentAttention(nn.Module):
    r"""Weights over the positions of a memory, and the mean of its vectors under them.

    ============  ==========================  ==============================================
    ``dot``       :math:`h^⊤ m`               Luong et al. 2015, section 3.1
    ``general``   :math:`h^⊤ W m`             the same
    ``additive``  :math:`v^⊤ \tanh(W h + U m + b)`  Bahdanau et al. 2015, appendix A.1.2; ``concat`` of Luong et al.
    ============  ==========================  ==============================================

    What a score needs of the memory alone, its keys, is computed once a source.

    Args:
        score: Which of them.
        d_query: D.
        d_memory: M; equals D for ``dot``.
        d_attention: K, for ``additive``; ``None``: D.

    Raises:
        ValueError: ``dot`` with D other than M.
    """

    def __init__(self, score: AttentionScore, d_query: int, d_memory: int, *, d_attention: int | None = None) -> None:
        super().__init__()
        self.score = score
        match score:
            case "dot":
                if d_query != d_memory:
                    raise ValueError(
                        f"dot attention needs a memory as wide as the decoder, found {d_memory} and {d_query}; "
                        "general and additive do not"
                    )
            case "general":
                self.key = nn.Linear(d_memory, d_query, bias=False)
            case "additive":
                width = d_attention or d_query
                self.key = nn.Linear(d_memory, width)
                self.query = nn.Linear(d_query, width, bias=False)
                self.vector = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise in place.

        ========  ==========================================
        matrices  uniform, Glorot and Bengio 2010; bias zero
        vector    uniform in ±1/√K
        ========  ==========================================
        """
        for module in self.children():
            assert isinstance(module, nn.Linear)
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.score == "additive":
            bound = self.vector.numel() ** -0.5
            nn.init.uniform_(self.vector, -bound, bound)

    def project_memory(self, values_BSM: Tensor) -> Tensor:
        """The keys, shape (B, S, K)."""
        keys_BSK: Tensor = values_BSM if self.score == "dot" else self.key(values_BSM)
        return keys_BSK

    def forward(
        self, query_BTD: Tensor, keys_BSK: Tensor, values_BSM: Tensor, bias_B1S: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attend with all queries at once.

        Args:
            query_BTD: What asks.
            keys_BSK: From ``project_memory``.
            values_BSM: The memory.
            bias_B1S: Added to the scores: minus infinity at padding.

        Returns:
            The contexts, shape (B, T, M), and the weights, shape (B, T, S).
        """
        if self.score == "additive":
            scores_BTS = additive_scores(self.query(query_BTD), keys_BSK, self.vector)
        else:
            scores_BTS = query_BTD @ keys_BSK.mT
        if bias_B1S is not None:
            scores_BTS = scores_BTS + bias_B1S
        weights_BTS = torch.softmax(scores_BTS, dim=-1)
        return weights_BTS @ values_BSM, weights_BTS


class AttentionLoop:
    """The same in a loop over steps, one query of each row a step.

    Args:
        attention: What computes the scores.
        keys_BSK: From ``project_memory``.
        values_BSM: The memory.
        bias_B1S: Added to the scores: minus infinity at padding.
        num_steps: Steps of the loop.
        num_rows: N, a multiple of B: that many rows of each source stand one after the other.
    """

    def __init__(
        self,
        attention: RecurrentAttention,
        keys_BSK: Tensor,
        values_BSM: Tensor,
        bias_B1S: Tensor | None,
        *,
        num_steps: int,
        num_rows: int,
    ) -> None:
        batch_size, length, d_memory = values_BSM.shape
        self._shape = (batch_size, num_rows // batch_size)
        zero = values_BSM.new_zeros(())
        if attention.score == "additive":
            width = keys_BSK.size(2)
            # Of one query a time so little fits together that to compute it again costs more than to keep it.
            self._keeps = torch.is_grad_enabled() and num_steps * num_rows * length * width <= _NUMBERS_KEPT
            self._query = LoopSum(zero.expand(num_steps, num_rows, width), [attention.query.weight.T])
            self._keys_BSK, self._vector, self._bias_B1S = keys_BSK, attention.vector, bias_B1S
        else:
            bias = (zero if bias_B1S is None else bias_B1S).expand(num_steps, *self._shape, length)
            self._scores = LoopSum(bias, [keys_BSK.mT])
        self._is_additive = attention.score == "additive"
        self._context = LoopSum(zero.expand(num_steps, *self._shape, d_memory), [values_BSM])

    def __call__(self, query_ND: Tensor) -> tuple[Tensor, Tensor]:
        """The contexts, shape (N, M), and the weights, shape (N, S), of the next step."""
        if self._is_additive:
            query_BWK = self._query(query_ND).unflatten(0, self._shape)
            if self._keeps:
                scores_BWS = torch.tanh(query_BWK.unsqueeze(2) + self._keys_BSK.unsqueeze(1)) @ self._vector
            else:
                scores_BWS = additive_scores(query_BWK, self._keys_BSK, self._vector)
            if self._bias_B1S is not None:
                scores_BWS = scores_BWS + self._bias_B1S
        else:
            scores_BWS = self._scores(query_ND.unflatten(0, self._shape))
        weights_BWS = torch.softmax(scores_BWS, dim=-1)
        return self._context(weights_BWS).flatten(0, 1), weights_BWS.flatten(0, 1)


def additive_scores(query_BTK: Tensor, keys_BSK: Tensor, vector_K: Tensor) -> Tensor:
    """``vector · tanh(query + key)`` of every query with every key of its source, shape (B, T, S).

    There are B·T·S·K hyperbolic tangents. They are computed in chunks that fit a core's cache, and again in the
    backward pass instead of being kept: faster on a CPU than to keep them, and memory does not limit the length.
    """
    scores_BTS: Tensor = _AdditiveScores.apply(query_BTK, keys_BSK, vector_K)  # type: ignore[no-untyped-call]
    return scores_BTS


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BTK: Tensor, keys_BSK: Tensor, vector_K: Tensor) -> Tensor:
        ctx.save_for_backward(query_BTK, keys_BSK, vector_K)
        scores_BTS = query_BTK.new_empty(*query_BTK.shape[:2], keys_BSK.size(1))
        with torch.autocast(query_BTK.device.type, enabled=False):
            v_K = vector_K.to(query_BTK.dtype)
            for rows, queries in _chunks(query_BTK, keys_BSK):
                tanh_RQSK = _tanh_of_sums(query_BTK[rows, queries], keys_BSK[rows])
                scores_BTS[rows, queries] = tanh_RQSK @ v_K
        return scores_BTS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BTK, keys_BSK, vector_K = ctx.saved_tensors
        grad_query_BTK, grad_keys_BSK = torch.empty_like(query_BTK), torch.zeros_like(keys_BSK)
        grad_vector_K = torch.zeros_like(vector_K)
        with torch.autocast(query_BTK.device.type, enabled=False):
            v_K = vector_K.to(query_BTK.dtype)
            for rows, queries in _chunks(query_BTK, keys_BSK):
                tanh_RQSK = _tanh_of_sums(query_BTK[rows, queries], keys_BSK[rows])
                grad_RQS = grad_BTS[rows, queries]
                grad_vector_K += grad_RQS.flatten() @ tanh_RQSK.flatten(0, 2)
                # 1 - tanh², times the gradient; the vector's factor waits until the sums have made it small.
                slope_RQSK = tanh_RQSK.square_().neg_().add_(1).mul_(grad_RQS.unsqueeze(-1))
                grad_query_BTK[rows, queries] = slope_RQSK.sum(dim=2) * v_K
                grad_keys_BSK[rows] += slope_RQSK.sum(dim=1) * v_K
        return grad_query_BTK, grad_keys_BSK, grad_vector_K


def _tanh_of_sums(query_RQK: Tensor, keys_RSK: Tensor) -> Tensor:
    return (query_RQK.unsqueeze(2) + keys_RSK.unsqueeze(1)).tanh_()


def _chunks(query_BTK: Tensor, keys_BSK: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows, and queries of them, whose sums with their keys fit in the cache together."""
    batch_size, num_queries, width = query_BTK.shape
    # A GPU wants few large pieces; there, the bound is on memory.
    numbers = _NUMBERS_PER_CHUNK if query_BTK.is_cpu else 256 * _NUMBERS_PER_CHUNK
    queries = min(num_queries, max(1, numbers // max(1, keys_BSK.size(1) * width)))
    rows = max(1, numbers // max(1, queries * keys_BSK.size(1) * width))
    for first_row in range(0, batch_size, rows):
        for first_query in range(0, num_queries, queries):
            yield slice(first_row, first_row + rows), slice(first_query, first_query + queries)
