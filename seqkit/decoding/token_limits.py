"""What the next token must or must not be: forbidden tokens, a least length, no repeated n-grams, a forced prefix.

All of it is done on the logits, after their normaliser was taken: a limit changes which tokens are chosen, never what
the model is said to have thought of them.

Legend: N rows, V vocabulary, T tokens so far, P prefix tokens, B sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FREE = -1


class TokenLimits:
    """The limits of one search.

    Args:
        eos_id: The end token.
        forbidden_ids: Tokens that are never chosen.
        min_length: Fewest tokens before the end token.
        no_repeat_ngram: No n-gram of this length occurs twice in an output; 0: no limit.
        prefixes: The tokens that each sentence begins with, if any; they are exempt from the other limits.
        device: Where the logits are.
    """

    def __init__(
        self,
        *,
        eos_id: int,
        forbidden_ids: Sequence[int],
        min_length: int,
        no_repeat_ngram: int,
        prefixes: Sequence[Sequence[int]] | None,
        device: torch.device,
    ) -> None:
        self._eos_id = eos_id
        self._forbidden_ids = sorted(set(forbidden_ids))
        self._forbidden = torch.tensor(self._forbidden_ids, dtype=torch.long, device=device)
        self._min_length = min_length
        self._ngram = no_repeat_ngram
        self._longest_prefix = max(map(len, prefixes or ()), default=0)
        self._prefix_BP = torch.tensor(
            [[*prefix, *[_FREE] * (self._longest_prefix - len(prefix))] for prefix in prefixes or ()],
            dtype=torch.long,
            device=device,
        )

    @property
    def needs_history(self) -> bool:
        """Whether ``block_`` looks at the tokens so far."""
        return self._ngram > 0

    def may_leave_nothing(self, step: int) -> bool:
        """Whether every token of a row may be blocked; the end token never is, once an output is long enough."""
        return step < self._min_length

    def forced(self, step: int, sentence_B: Tensor, width: int = 1) -> Tensor | None:
        """The token that each of ``width`` rows a sentence must take, -1 where it is free; ``None`` if all are."""
        if step >= self._longest_prefix:
            return None
        return self._prefix_BP[sentence_B, step].repeat_interleave(width)

    def blocked_ids(self, step: int) -> list[int]:
        """What ``block_`` blocks in every row."""
        return [*self._forbidden_ids, *([self._eos_id] if step < self._min_length else [])]

    def block_(self, logits_NV: Tensor, step: int, history_NT: Tensor | None) -> None:
        """Set the logits of tokens that may not come next to minus infinity.

        Args:
            logits_NV: Written into.
            step: T, the tokens that each row has so far.
            history_NT: Those tokens, where ``needs_history``.
        """
        if self._forbidden.size(0):
            logits_NV.index_fill_(1, self._forbidden, -torch.inf)
        if step < self._min_length:
            logits_NV[:, self._eos_id] = -torch.inf
        if history_NT is not None and step >= self._ngram > 0:
            row_M, token_M = repeating_tokens(history_NT, self._ngram)
            logits_NV[row_M, token_M] = -torch.inf


def repeating_tokens(history_NT: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Rows and tokens that would complete an n-gram which the row has already.

    >>> repeating_tokens(torch.tensor([[1, 2, 3, 1, 2], [1, 2, 3, 2, 1]]), 3)
    (tensor([0]), tensor([3]))
    """
    window_NMn = history_NT.unfold(1, n, 1)
    begins_alike_NM = (window_NMn[:, :, : n - 1] == history_NT[:, None, history_NT.size(1) - n + 1 :]).all(dim=2)
    row_M, first_M = begins_alike_NM.nonzero(as_tuple=True)
    return row_M, history_NT[row_M, first_M + n - 1]
