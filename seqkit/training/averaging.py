"""Exponential moving average of the weights, and a model that holds other weights for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def holding(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model has copies of these weights; afterwards its own again."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


class WeightAverage:
    """A running average of a model's parameters: average ← decay · average + (1 - decay) · weights.

    Early on the decay is lower, (1 + n) / (10 + n) after n updates, so that the random start is soon forgotten.

    Args:
        model: The model to follow.
        decay: Weight of the past in each update; 0.999 averages over about a thousand steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._parameters: list[Tensor] = list(model.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights into the average."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            parameter.data, average.data = average.data, parameter.data

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """Everything needed to go on."""
        return {"num_updates": self.num_updates, "averages": [average.detach() for average in self._averages]}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Go on from a saved state."""
        averages = state["averages"]
        assert isinstance(averages, list)
        self.num_updates = int(state["num_updates"])  # type: ignore[arg-type]
        for average, saved in zip(self._averages, averages, strict=True):
            average.copy_(saved)
