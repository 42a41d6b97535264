"""What training needs of a task: its data ready, its model, its loss and its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from seqkit.training.loop import BatchSource, LossSum


class Prepared(Protocol):
    """A task with its data ready: everything training needs, and nothing about how training goes."""

    @property
    def batches(self) -> BatchSource:
        """The training batches."""
        ...

    @property
    def tokenizer_files(self) -> Mapping[str, str]:
        """File name to text, to be kept in every checkpoint."""
        ...

    @property
    def unit(self) -> str:
        """The noun of a token: character, byte, word."""
        ...

    @property
    def carries_state(self) -> bool:
        """Whether hidden state goes from a batch to the next, so that its rows must stay together."""
        ...

    def describe_data(self) -> str:
        """The data in a few words, with counts."""
        ...

    def facts(self) -> dict[str, Any]:
        """Sizes and data hashes, for ``model.json``."""
        ...

    def build_model(self) -> nn.Module:
        """A fresh model, initialised from the global random state, on the CPU."""
        ...

    def loss(self, model: nn.Module, batch: Any, carry: Any, spent: float) -> LossSum:
        """The loss of one batch over real tokens, as sum and count, where ``spent`` of the budget is behind."""
        ...

    def evaluate(self, model: nn.Module, on_part: Callable[[], None]) -> dict[str, float]:
        """Scores on the validation set: ``loss`` (nats per token), and what ``train.best_by`` names.

        Calls ``on_part`` every second or so; it may raise to leave the evaluation.
        """
        ...

    def show_sample(self, model: nn.Module, *, length: int, number: int) -> str:
        """A short example of what the model writes now; takes nothing from the global random state.

        Args:
            model: The model.
            length: Most tokens of it.
            number: Evaluations before this one, for a task that shows another example each time.
        """
        ...
