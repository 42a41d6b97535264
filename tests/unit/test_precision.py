"""The precision probe: it leaves no trace, and chooses by the fastest run of each."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seqkit.training import precision
from seqkit.training.precision import Precision, PrecisionChoice, autocast, probe_precision

CPU = torch.device("cpu")


class FakeClock:
    """Seconds that pass only when a step is run; some of them the process waits, without working."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waited = 0.0
        clocks = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.now - self.waited)
        monkeypatch.setattr(precision, "time", clocks)


def choose(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[Precision, list[float]],
    *,
    waits: dict[Precision, float] | None = None,
    budget_seconds: float = 2.0,
    worthwhile: float = 1.1,
) -> tuple[PrecisionChoice, list[Precision]]:
    """What the probe chooses where steps take known times, the last one for ever, and wait beside; and what it ran."""
    clock = FakeClock(monkeypatch)
    runs: list[Precision] = []

    def run_step(kind: Precision) -> None:
        times = seconds[kind]
        wait = 0.0 if waits is None else waits[kind]
        clock.now += times[min(runs.count(kind), len(times) - 1)] + wait
        clock.waited += wait
        runs.append(kind)

    choice = probe_precision(nn.Linear(3, 5), run_step, CPU, budget_seconds=budget_seconds, worthwhile=worthwhile)
    assert choice.seconds == pytest.approx(clock.now - 100)
    return choice, runs


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen", "speedup"),
    [
        (0.5, 0.25, "bf16", 2.0),
        (0.5, 0.4, "bf16", 1.25),
        (0.5, 0.48, "fp32", 0.5 / 0.48),
        (0.5, 0.5, "fp32", 1.0),
        (0.25, 0.5, "fp32", 0.5),
    ],
)
def test_bf16_is_chosen_where_it_pays(
    fp32: float, bf16: float, chosen: Precision, speedup: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, _ = choose(monkeypatch, {"fp32": [fp32], "bf16": [bf16]})
    assert choice.precision == chosen
    assert choice.speedup == pytest.approx(speedup)


def test_first_runs_and_slow_ones_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    choice, _ = choose(monkeypatch, {"fp32": [0.01, 0.3, 0.2, 0.4], "bf16": [0.01, 0.5, 0.1, 0.9]})
    assert choice.speedup == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("waits", "speedup"),
    [
        # By the wall clock bf16 is twice as fast, and still a loss.
        ({"fp32": 2.0, "bf16": 0.0}, 0.8),
        # By the wall clock it is slower, since that is what waited: not chosen, but nothing is lost by that.
        ({"fp32": 0.0, "bf16": 3.0}, 1.0 / 4.25),
    ],
)
def test_a_step_that_waited_is_not_slow(
    waits: dict[Precision, float], speedup: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, _ = choose(monkeypatch, {"fp32": [1.0], "bf16": [1.25]}, waits=waits)
    assert choice.precision == "fp32"
    assert choice.speedup == pytest.approx(speedup)


def test_the_two_take_turns_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half a second a turn: after four turns the budget of 2 s is spent.
    _, runs = choose(monkeypatch, {"fp32": [0.3], "bf16": [0.2]})
    assert runs == ["fp32", "bf16"] * 4
    # Three turns are made even if one alone spends the budget, and eight are enough.
    _, runs = choose(monkeypatch, {"fp32": [60.0], "bf16": [40.0]})
    assert runs == ["fp32", "bf16"] * 3
    _, runs = choose(monkeypatch, {"fp32": [0.001], "bf16": [0.001]})
    assert runs == ["fp32", "bf16"] * 8


def test_a_machine_without_bf16_gets_fp32() -> None:
    model = nn.Linear(3, 5)

    def run_step(kind: Precision) -> None:
        model(torch.ones(1, 3)).sum().backward()
        if kind == "bf16":
            raise RuntimeError("could not create a primitive")

    random_state = torch.get_rng_state()
    choice = probe_precision(model, run_step, CPU)
    assert (choice.precision, choice.speedup) == ("fp32", 0.0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_other_errors_are_not_hidden() -> None:
    def run_step(kind: Precision) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        probe_precision(nn.Linear(3, 5), run_step, CPU)


def test_the_probe_leaves_no_trace() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    kinds: list[torch.dtype] = []

    def run_step(kind: Precision) -> None:
        with autocast(kind, CPU):
            y = model(torch.rand(7, 3))
        kinds.append(y.dtype)
        y.float().sum().backward()

    probe_precision(model, run_step, CPU, budget_seconds=0.0)
    assert kinds == [torch.float32, torch.bfloat16] * 3
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("kind", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_is_for_matrix_products(kind: Precision, expected: torch.dtype) -> None:
    layer, x = nn.Linear(3, 5), torch.ones(7, 3)
    with autocast(kind, CPU):
        assert layer(x).dtype == expected
    assert layer.weight.dtype == torch.float32
    assert layer(x).dtype == torch.float32
