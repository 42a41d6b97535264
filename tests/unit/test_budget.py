"""Budgets by steps, epochs and minutes, by a clock that the tests wind: when training stops, and the rate till then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit.recipe.training_schema import Constant, Cosine, Linear, Plateau, Schedule, Sgd, Training
from seqkit.training.loop import LossSum, StepResult, budget_spent, train_steps
from seqkit.training.optimizers import build_optimizer
from seqkit.training.state import Progress, TrainState

SGD = Sgd(type="sgd", lr=0.5)


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class NumberedBatch:
    epoch: int
    index: int

    @property
    def starts_fresh(self) -> bool:
        return self.index == 0


@dataclass
class NumberedBatches:
    """Batches that know their place: seven an epoch, or as many as ``sizes`` says in each epoch in turn."""

    sizes: tuple[int, ...] = (7,)

    def num_batches(self, epoch: int) -> int:
        return self.sizes[epoch % len(self.sizes)]

    def batch(self, epoch: int, index: int) -> NumberedBatch:
        assert 0 <= index < self.num_batches(epoch)
        return NumberedBatch(epoch, index)


@dataclass
class Objective:
    """A quadratic loss whose evaluation takes known seconds; notes the batches and what was carried to them.

    Attributes:
        spent: The fraction of the budget that each batch was told.
    """

    clock: Clock
    seconds: float = 0.0
    num_tokens: int = 3

    def __post_init__(self) -> None:
        self.met: list[tuple[int, int, Any]] = []
        self.spent: list[float] = []

    def __call__(self, model: nn.Module, batch: NumberedBatch, carry: Any, spent: float) -> LossSum:
        self.spent.append(spent)
        self.clock.now += self.seconds
        self.met.append((batch.epoch, batch.index, carry))
        nats: Tensor = sum((parameter**2).sum() for parameter in model.parameters())  # type: ignore[assignment]
        return LossSum(nats, self.num_tokens, carry=f"after {batch.epoch}.{batch.index}")


def make_state(config: Training, progress: Progress | None = None) -> TrainState:
    torch.manual_seed(1)
    model = nn.Linear(3, 5)
    optimizer = build_optimizer(config.optimizer, model, torch.device("cpu"))
    return TrainState(model=model, optimizer=optimizer, precision="fp32", progress=progress or Progress())


def train(
    config: Training,
    *,
    seconds: float = 0.0,
    progress: Progress | None = None,
    batches: NumberedBatches | None = None,
) -> tuple[list[StepResult], TrainState, Objective]:
    clock = Clock()
    state, objective = make_state(config, progress), Objective(clock, seconds)
    results = list(train_steps(state, batches or NumberedBatches(), objective, config, clock=clock))
    return results, state, objective


@pytest.mark.parametrize(
    ("limits", "progress", "expected"),
    [
        ({"max_steps": 40}, Progress(step=10), 0.25),
        ({"max_epochs": 2}, Progress(epoch=1, batch_index=0), 0.5),
        ({"max_epochs": 2.5}, Progress(epoch=1, batch_index=7), 0.6),
        ({"max_epochs": 0.5}, Progress(epoch=0, batch_index=7), 1.0),
        ({"max_minutes": 2}, Progress(elapsed=30.0), 0.25),
        ({"max_minutes": 0.5}, Progress(elapsed=45.0), 1.5),
        # The tightest of several counts.
        ({"max_steps": 40, "max_epochs": 2, "max_minutes": 2}, Progress(step=10, epoch=1, elapsed=30.0), 0.5),
        ({"max_steps": 40, "max_minutes": 2}, Progress(step=10, elapsed=90.0), 0.75),
        ({"max_steps": 40, "max_minutes": 2}, Progress(step=38, elapsed=90.0), 0.95),
        ({"max_steps": 40}, Progress(), 0.0),
    ],
)
def test_the_fraction_spent(limits: dict[str, Any], progress: Progress, expected: float) -> None:
    assert budget_spent(Training(**limits), progress, NumberedBatches((14,))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("limits", "num_steps"),
    [
        ({"max_steps": 5}, 5),
        ({"max_epochs": 1}, 7),
        ({"max_epochs": 2}, 14),
        # 3.5 and 10.5 batches: the step that passes the limit is still made.
        ({"max_epochs": 0.5}, 4),
        ({"max_epochs": 1.5}, 11),
        # 6 s a step: 60 s are 10 steps; 63 s are passed by the 11th.
        ({"max_minutes": 1}, 10),
        ({"max_minutes": 1.05}, 11),
        ({"max_minutes": 1, "max_steps": 8}, 8),
        ({"max_minutes": 1, "max_epochs": 1}, 7),
        ({"max_minutes": 1, "max_steps": 100, "max_epochs": 100}, 10),
    ],
)
def test_training_stops_when_the_first_budget_is_spent(limits: dict[str, Any], num_steps: int) -> None:
    results, state, _ = train(Training(**limits, optimizer=SGD), seconds=6.0)
    assert [result.step for result in results] == list(range(1, num_steps + 1))
    assert state.progress.step == num_steps
    assert (state.progress.epoch, state.progress.batch_index) == divmod(num_steps, 7)
    assert state.progress.elapsed == pytest.approx(6.0 * num_steps)
    assert state.progress.num_tokens == 3 * num_steps


@pytest.mark.parametrize(
    ("limits", "num_steps"), [({"max_steps": 10}, 10), ({"max_minutes": 1}, 10), ({"max_epochs": 2}, 14)]
)
@pytest.mark.parametrize("schedule", [Linear(type="linear", final_fraction=0.1), Cosine(type="cosine", warmup_steps=3)])
def test_the_schedule_is_fitted_to_the_budget(limits: dict[str, Any], num_steps: int, schedule: Schedule) -> None:
    results, _, objective = train(Training(**limits, optimizer=SGD, schedule=schedule), seconds=6.0)
    assert len(results) == num_steps
    assert objective.spent == pytest.approx([number / num_steps for number in range(num_steps)])
    for number, result in enumerate(results):
        spent = number / num_steps
        if isinstance(schedule, Linear):
            factor = 1 - 0.9 * spent
        else:
            factor = min(1, (number + 1) / 3) * (1 + math.cos(math.pi * spent)) / 2
        assert result.learning_rate == pytest.approx(0.5 * factor)


def test_a_slower_machine_makes_fewer_steps_on_the_same_curve() -> None:
    config = Training(max_minutes=1, optimizer=SGD, schedule=Linear(type="linear"))
    fast, _, _ = train(config, seconds=3.0)
    slow, _, _ = train(config, seconds=6.0)
    assert (len(fast), len(slow)) == (20, 10)
    assert [result.learning_rate for result in fast[::2]] == pytest.approx([r.learning_rate for r in slow])


def test_time_of_the_caller_counts() -> None:
    config = Training(max_minutes=1, optimizer=SGD)
    clock = Clock()
    state, objective = make_state(config), Objective(clock, seconds=6.0)
    steps = 0
    for _ in train_steps(state, NumberedBatches(), objective, config, clock=clock):
        steps += 1
        clock.now += 14.0
    assert steps == 3


def test_a_resumed_run_has_only_the_rest_of_its_budget() -> None:
    config = Training(max_minutes=1, optimizer=SGD, schedule=Linear(type="linear"))
    results, state, _ = train(config, seconds=6.0, progress=Progress(step=4, batch_index=4, elapsed=30.0))
    assert [result.step for result in results] == [5, 6, 7, 8, 9]
    assert results[0].learning_rate == pytest.approx(0.25)
    assert state.progress.elapsed == pytest.approx(60.0)
    again, state, objective = train(config, seconds=6.0, progress=Progress(step=9, elapsed=60.0))
    assert again == [] and objective.met == [] and state.progress.step == 9


def test_the_plateau_cuts_of_the_state_are_used() -> None:
    config = Training(max_steps=3, optimizer=SGD, schedule=Plateau(type="plateau", warmup_steps=2))
    results, _, _ = train(config, progress=Progress(plateau_factor=0.25))
    assert [result.learning_rate for result in results] == pytest.approx([0.0625, 0.125, 0.125])


def test_batches_come_in_order_and_the_state_is_carried_within_an_epoch() -> None:
    _, _, objective = train(Training(max_steps=9, optimizer=SGD), progress=Progress(epoch=2, batch_index=5))
    assert objective.met[:4] == [(2, 5, None), (2, 6, "after 2.5"), (3, 0, None), (3, 1, "after 3.0")]
    assert [met[:2] for met in objective.met[4:]] == [(3, 2), (3, 3), (3, 4), (3, 5), (3, 6)]


@pytest.mark.parametrize(
    ("limits", "num_steps"), [({"max_epochs": 2}, 8), ({"max_epochs": 3.5}, 12), ({"max_steps": 9}, 9)]
)
def test_epochs_may_differ_in_length(limits: dict[str, Any], num_steps: int) -> None:
    config = Training(**limits, optimizer=SGD, schedule=Linear(type="linear"))
    results, _, objective = train(config, batches=NumberedBatches((3, 5, 2)))
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert [met[:2] for met in objective.met] == places[:num_steps]
    assert [met[2] is None for met in objective.met] == [index == 0 for _, index in places[:num_steps]]
    if "max_epochs" in limits:
        spent = [(epoch + index / (3, 5, 2)[epoch % 3]) / limits["max_epochs"] for epoch, index in places[:num_steps]]
        assert [result.learning_rate for result in results] == pytest.approx([0.5 * (1 - part) for part in spent])


def test_an_epoch_that_the_budget_does_not_reach_is_not_asked_for() -> None:
    asked = []

    class Asked(NumberedBatches):
        def num_batches(self, epoch: int) -> int:
            asked.append(epoch)
            return super().num_batches(epoch)

    train(Training(max_epochs=2, optimizer=SGD), batches=Asked((3, 5)))
    assert set(asked) == {0, 1}


def test_the_update_is_from_the_mean_over_tokens() -> None:
    config = Training(max_steps=1, optimizer=SGD, schedule=Constant(type="constant"))
    before = make_state(config).model.state_dict()
    (result,), state, _ = train(config)
    # The loss is Σ w² over 3 tokens, so the gradient is 2 w / 3, and the rate 1/2.
    for name, weight in state.model.state_dict().items():
        torch.testing.assert_close(weight, before[name] * (1 - 0.5 * 2 / 3))
    assert result.nats == pytest.approx(sum(float((w**2).sum()) for w in before.values()), rel=1e-5)
    assert (result.num_tokens, result.grad_norm, result.was_skipped) == (3, None, False)
