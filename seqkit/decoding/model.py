"""What search, sampling and scoring know of a model: a state, a step, and whole sequences at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

State = Any
"""Opaque: tensors whose first axis is the row (hypothesis, sample); only the model looks inside."""


class AutoregressiveModel(Protocol):
    """A model that predicts the next token of each row. B rows, V vocabulary, N rows kept.

    A state is used once: ``step`` and ``reorder`` may write into its memory. To go on from one state in two ways, name
    its rows twice in one ``reorder``. The hypotheses of one sentence are always adjacent rows, the same number W for
    every sentence (row = sentence · W + beam), also after sentences have left; so a model may keep one copy of what all
    hypotheses of a sentence share, such as the encoder's output, and learn from the index given to ``reorder`` which
    stay. Sentences that stay need not keep their order.
    """

    def initial_state(self, source: Any, batch_size: int) -> State:
        """The state before the first token; ``source`` is what the model attends to, if anything."""
        ...

    def step(self, state: State, token_B: Tensor) -> tuple[Tensor, State]:
        """Feed one token a row; return logits of shape (B, V) for the next, and the new state.

        The logits belong to the caller, who may write into them.
        """
        ...

    def reorder(self, state: State, index_N: Tensor) -> State:
        """The rows ``index_N`` of the state: beams move, repeat and end, finished rows leave."""
        ...


class PendingLogits(Protocol):
    """Logits of N rows over V tokens that need not all be written out."""

    def all(self) -> Tensor:
        """All of them, shape (N, V), which belong to the caller. This is used up."""
        ...

    def best(self, count: int, blocked_ids: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The best of them.

        Args:
            count: C, at most V.
            blocked_ids: Tokens that are not wanted, though they count in the normaliser.

        Returns:
            The normaliser, shape (N,); the largest logits, best first, of equals the lower token first, and their
            tokens, both (N, C).
        """
        ...


@runtime_checkable
class PendingModel(Protocol):
    """A model whose logits may be pending."""

    def pending_step(self, state: State, token_B: Tensor) -> tuple[Tensor | PendingLogits, State]:
        """See ``AutoregressiveModel.step``."""
        ...


class AttentiveModel(AutoregressiveModel, Protocol):
    """A model that says where it looked. N rows, S source positions."""

    def attention(self, state: State) -> Tensor | None:
        """The weights of the last step over the source, shape (N, S), or ``None`` where there are none.

        They are at least 0 and sum to 1 over real positions, which come first; later steps do not write into them.
        """
        ...


class SequenceModel(AutoregressiveModel, Protocol):
    """A model that also runs over whole sequences at once; agrees with ``step`` to rounding."""

    def __call__(self, ids_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits of shape (B, T, V) for the token after each of ``ids_BT``, and the state after the last."""
        ...
