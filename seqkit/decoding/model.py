"""What search, sampling and scoring know of a model: a state, a step, and whole sequences at once."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

State = Any
"""Opaque: tensors whose first axis is the row (hypothesis, sample); only the model looks inside."""


class AutoregressiveModel(Protocol):
    """A model that predicts the next token of each row. B rows, V vocabulary, N rows kept."""

    def initial_state(self, source: Any, batch_size: int) -> State:
        """The state before the first token; ``source`` is what the model attends to, if anything."""
        ...

    def step(self, state: State, token_B: Tensor) -> tuple[Tensor, State]:
        """Feed one token a row; return logits of shape (B, V) for the next, and the new state."""
        ...

    def reorder(self, state: State, index_N: Tensor) -> State:
        """The rows ``index_N`` of the state: beams move, finished rows leave."""
        ...


class SequenceModel(AutoregressiveModel, Protocol):
    """A model that also runs over whole sequences at once; agrees with ``step`` to rounding."""

    def __call__(self, ids_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits of shape (B, T, V) for the token after each of ``ids_BT``, and the state after the last."""
        ...
