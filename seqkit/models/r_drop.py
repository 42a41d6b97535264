"""R-Drop (Liang et al. 2021): two passes over a batch, of other dropout masks, are to predict the same distributions.

The loss of a token is the mean of both passes' cross-entropies, plus α/4 of the sum of both Kullback-Leibler
divergences between their distributions. That is half of the paper's equation 4, so α means what it means there, and
the loss has the size of an ordinary one. As in ``linear_cross_entropy.py``, a few rows at a time go all the way to
their gradients, so that the logits of a large vocabulary are never held.

Legend: N target tokens, R rows of one chunk, D width, V vocabulary; 2 the passes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LOGITS_PER_CHUNK = 2**21
"""Logits of one pass in a chunk: with those of the other pass and what is made of them, near what a cache holds."""
_FEWEST_ROWS = 64
"""Rows of a chunk at least: products of fewer run far below the machine's rate."""


def r_drop_cross_entropy(
    hidden_2ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    *,
    alpha: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The R-Drop loss of ``softmax(hidden @ weight.T + bias)``, summed over the tokens.

    Products run in the autocast type where autocast is on; distributions, loss and sums of gradients in fp32 at least.

    Args:
        hidden_2ND: What the output layer reads, in both passes; real tokens only.
        weight_VD: Its matrix.
        bias_V: Its bias, if it has one.
        target_N: The right tokens, int64.
        alpha: Weight of the divergences.
        label_smoothing: ε of the cross-entropies, as in ``linear_cross_entropy``; the divergences know none.

    Returns:
        The loss to minimise, in nats, with gradient; and the negative log-likelihood of the right tokens, in nats, the
        mean of both passes, without.
    """
    loss, nats = _ChunkedRDrop.apply(hidden_2ND, weight_VD, bias_V, target_N, alpha, label_smoothing)  # type: ignore[no-untyped-call]
    return loss, nats


class _ChunkedRDrop(torch.autograd.Function):
    """Makes the gradients in the forward pass, chunk by chunk; the backward pass scales them.

    With log-probabilities l₁ and l₂, p = exp l and d = l₁ - l₂, the divergences sum to Σ (p₁ - p₂) d. Their gradient
    with respect to the logits of the first pass is p₁ (d - Σ p₁ d) + p₁ - p₂; of the second the same with the passes
    exchanged.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_2ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        alpha: float,
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        device = hidden_2ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_2ND.dtype
        exact = torch.promote_types(dtype, torch.float32)
        vocab_size = weight_VD.size(0)
        rows = max(_FEWEST_ROWS, _LOGITS_PER_CHUNK // vocab_size)
        with torch.autocast(device, enabled=False):
            h_2ND, w_VD = hidden_2ND.to(dtype), weight_VD.to(dtype)
            b_V = None if bias_V is None else bias_V.to(dtype)
            grad_hidden_2ND = torch.empty_like(h_2ND, dtype=exact)
            grad_weight_VD = torch.zeros_like(weight_VD, dtype=exact)
            grad_bias_V = torch.zeros(vocab_size, device=h_2ND.device, dtype=exact)
            # In fp64: what is summed is reported, and compared over any split of a batch.
            nats, even, divergence = torch.zeros(3, dtype=torch.float64, device=h_2ND.device).unbind()
            for first in range(0, len(target_N), rows):
                part = slice(first, first + rows)
                target_R1 = target_N[part, None]
                log_prob_2RV = F.linear(h_2ND[:, part], w_VD, b_V).to(exact).log_softmax(dim=-1)
                target_2R1 = target_R1.expand(2, -1, -1)
                nats = nats - log_prob_2RV.gather(2, target_2R1).sum(dtype=torch.float64) / 2
                if smoothing:
                    even = even - log_prob_2RV.mean(dim=-1).sum(dtype=torch.float64) / 2
                difference_RV = log_prob_2RV[0] - log_prob_2RV[1]
                prob_2RV = log_prob_2RV.exp_()
                kl_2R1 = torch.stack(
                    [
                        (prob_2RV[0] * difference_RV).sum(dim=-1, keepdim=True),
                        -(prob_2RV[1] * difference_RV).sum(dim=-1, keepdim=True),
                    ]
                )
                divergence = divergence + kl_2R1.sum(dtype=torch.float64)
                # From here on with respect to the logits.
                gap_RV = (prob_2RV[0] - prob_2RV[1]).mul_(alpha / 4)
                grad_2RV = torch.stack([difference_RV, -difference_RV]).sub_(kl_2R1).mul_(alpha / 4).add_(0.5)
                grad_2RV.mul_(prob_2RV)
                grad_2RV[0].add_(gap_RV)
                grad_2RV[1].sub_(gap_RV)
                if smoothing:
                    grad_2RV.sub_(smoothing / (2 * vocab_size))
                right_2R1 = torch.full_like(target_2R1, -(1 - smoothing) / 2, dtype=exact)
                grad_2RV.scatter_add_(2, target_2R1, right_2R1)
                grad_bias_V += grad_2RV.sum(dim=(0, 1))
                low_2RV = grad_2RV.to(dtype)
                grad_hidden_2ND[:, part] = (low_2RV @ w_VD).to(exact)
                grad_weight_VD += low_2RV.flatten(0, 1).T @ h_2ND[:, part].flatten(0, 1)
            loss = (1 - smoothing) * nats + smoothing * even + alpha / 4 * divergence
        ctx.save_for_backward(grad_hidden_2ND, grad_weight_VD, None if bias_V is None else grad_bias_V)
        ctx.dtypes = (hidden_2ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype)
        reported = nats.to(exact)
        ctx.mark_non_differentiable(reported)
        return loss.to(exact), reported

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nats: Tensor) -> tuple[Tensor | None, ...]:
        # In place: nobody else has them, and a second backward pass through the same graph is refused by autograd.
        grads = [
            None if grad is None else grad.mul_(grad_loss).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None
