"""Gradients of several batches make one step: the one that a batch of all of them would make, whatever their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.recipe.training_schema import AdamW, Sgd, Training
from seqkit.training.loop import LossSum, StepResult, train_steps
from seqkit.training.optimizers import build_optimizer
from seqkit.training.state import TrainState

# Tokens of each batch of the one epoch; 3 do not divide the 7 batches.
SIZES = (1, 6, 2, 9, 1, 1, 4)


@dataclass(frozen=True)
class Rows:
    inputs_N3: Tensor
    target_N: Tensor
    starts_fresh: bool


class RowBatches:
    """An epoch of batches of the given sizes, the same rows whatever the sizes."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        generator = torch.Generator().manual_seed(4)
        self._inputs_N3 = torch.randn(sum(SIZES), 3, generator=generator)
        self._target_N = torch.randint(5, (sum(SIZES),), generator=generator)

    def num_batches(self, epoch: int) -> int:
        return len(self._sizes)

    def batch(self, epoch: int, index: int) -> Rows:
        assert 0 <= index < len(self._sizes)
        first = sum(self._sizes[:index])
        rows = slice(first, first + self._sizes[index])
        return Rows(self._inputs_N3[rows], self._target_N[rows], starts_fresh=index == 0)


def smoothed_loss(model: nn.Module, batch: Rows, carry: Any, spent: float) -> LossSum:
    """What is minimised is not what is reported; the sum of all inputs of the epoch is carried."""
    logits_N5 = model(batch.inputs_N3)
    nats = F.cross_entropy(logits_N5, batch.target_N, reduction="sum")
    loss = F.cross_entropy(logits_N5, batch.target_N, reduction="sum", label_smoothing=0.25)
    total_3 = batch.inputs_N3.sum(dim=0) + (0 if carry is None else carry)
    return LossSum(loss, len(batch.target_N), reported=nats.detach(), carry=total_3)


def make_state(config: Training) -> TrainState:
    torch.manual_seed(2)
    model = nn.Linear(3, 5)
    return TrainState(
        model=model, optimizer=build_optimizer(config.optimizer, model, torch.device("cpu")), precision="fp32"
    )


def train(config: Training, sizes: tuple[int, ...], state: TrainState | None = None) -> tuple[list[StepResult], Any]:
    state = state or make_state(config)
    results = list(train_steps(state, RowBatches(sizes), smoothed_loss, config, clock=lambda: 0.0))
    return results, state


WAYS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": Sgd(type="sgd", lr=0.5)},
    "clip-norm": {"optimizer": Sgd(type="sgd", lr=0.5), "clip_norm": 0.05},
    "clip-value": {"optimizer": Sgd(type="sgd", lr=0.5), "clip_value": 0.01},
    "adamw": {"optimizer": AdamW(type="adamw", lr=0.1)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scaled", [False, True])
def test_some_batches_make_the_step_of_their_union(way: str, scaled: bool) -> None:
    parts = Training(max_epochs=2, accumulate=3, **WAYS[way])
    union = Training(max_epochs=2, **WAYS[way])
    states = [make_state(parts), make_state(union)]
    if scaled:
        for state in states:
            # As fp16 has it: gradients are scaled up until the step, and clipped at their true size.
            state.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    found, found_state = train(parts, SIZES, states[0])
    expected, expected_state = train(union, (1 + 6 + 2, 9 + 1 + 1, 4), states[1])
    assert [result.num_tokens for result in found] == [9, 11, 4, 9, 11, 4]
    for one, other in zip(found, expected, strict=True):
        assert (one.step, one.num_tokens, one.learning_rate) == (other.step, other.num_tokens, other.learning_rate)
        assert one.nats == pytest.approx(other.nats, rel=1e-5)
        assert one.grad_norm == (None if other.grad_norm is None else pytest.approx(other.grad_norm, rel=1e-4))
    for name, weight in found_state.model.state_dict().items():
        torch.testing.assert_close(weight, expected_state.model.state_dict()[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_state.carry, expected_state.carry)
    assert found_state.progress.num_tokens == expected_state.progress.num_tokens == 48


def test_each_token_counts_the_same_not_each_batch() -> None:
    # What a mean of the batches' means would come to is another step.
    config = Training(max_steps=1, accumulate=3, optimizer=Sgd(type="sgd", lr=0.5))
    _, state = train(config, SIZES)
    model = make_state(config).model
    batches = RowBatches(SIZES)
    losses = [smoothed_loss(model, batches.batch(0, index), None, 0.0) for index in range(3)]
    (torch.stack([loss.nats / loss.num_tokens for loss in losses]).mean()).backward()
    wrong = model.get_parameter("weight") - 0.5 * model.get_parameter("weight").grad  # type: ignore[operator]
    assert (state.model.weight - wrong).abs().max() > 0.01


def test_a_step_ends_with_its_epoch() -> None:
    config = Training(max_epochs=2.5, accumulate=3, optimizer=Sgd(type="sgd"))
    state = make_state(config)
    places = []
    for result in train_steps(state, RowBatches(SIZES), smoothed_loss, config, clock=lambda: 0.0):
        places.append((state.progress.epoch, state.progress.batch_index, result.num_tokens))
    one_epoch = [(0, 3, 9), (0, 6, 11), (1, 0, 4)]
    # Two and a half epochs end within the second step of the third one.
    assert places == [*one_epoch, (1, 3, 9), (1, 6, 11), (2, 0, 4), (2, 3, 9), (2, 6, 11)]
    # What is carried was that of the last batch, from the beginning of the epoch on.
    assert torch.allclose(state.carry, RowBatches((23, 1)).batch(0, 0).inputs_N3[:20].sum(dim=0), atol=1e-5)


def test_more_than_an_epoch_is_an_epoch() -> None:
    config = Training(max_steps=2, accumulate=100, optimizer=Sgd(type="sgd"))
    results, state = train(config, SIZES)
    assert [result.num_tokens for result in results] == [24, 24]
    assert (state.progress.epoch, state.progress.batch_index) == (2, 0)
