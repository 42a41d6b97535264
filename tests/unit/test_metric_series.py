"""The points of a learning curve, from the rows of a metrics log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqkit.runs.metric_series import XAxis, metric_names, metric_points
from seqkit.runs.metrics_log import MetricsLog, read_metrics

ROWS: list[dict[str, Any]] = [
    {"step": 10, "epoch": 0.5, "split": "train", "loss": 3.0, "num_tokens": 1000, "elapsed": 30.0},
    # The tokens of a validation are those that it scored, not those that training read.
    {"step": 15, "epoch": 0.75, "split": "valid", "loss": 2.5, "num_tokens": 77, "bleu": 1.5, "elapsed": 45},
    {"step": 20, "epoch": 1.0, "split": "train", "loss": None, "num_tokens": 2400, "elapsed": 60.0},
    {"step": 25, "epoch": 1.2, "split": "valid", "loss": 2.0, "num_tokens": 77, "bleu": 2.5, "elapsed": 90},
]  # fmt: skip


def xs(metric: str, split: Any, x: XAxis, rows: list[dict[str, Any]] = ROWS) -> list[float]:
    return [point.x for point in metric_points(rows, metric, split, x)]


def test_every_axis() -> None:
    assert xs("loss", "train", "step") == [10, 20]
    assert xs("loss", "valid", "epoch") == [0.75, 1.2]
    assert xs("loss", "train", "minutes") == [0.5, 1.0]
    assert xs("loss", "train", "tokens") == [1000, 2400]


def test_tokens_of_a_validation_are_those_that_training_had_read() -> None:
    # Halfway between two reports, and as far again after the last.
    assert xs("bleu", "valid", "tokens") == [1700, 3100]
    before_any_report = [{"step": 5, "split": "valid", "loss": 1.0}, {"step": 10, "split": "train", "num_tokens": 300}]
    assert xs("loss", "valid", "tokens", before_any_report) == [150]
    assert xs("loss", "valid", "tokens", before_any_report[:1]) == []


def test_values_that_are_not_finite_are_gaps_and_other_fields_no_metrics() -> None:
    assert [point.y for point in metric_points(ROWS, "loss", "train", "step")] == [3.0, None]
    rows = [*ROWS, {"step": 30, "split": "valid", "loss": "much", "note": "x", "is_best": True}]
    assert metric_names(rows) == ["loss", "num_tokens", "bleu"]
    assert len(metric_points(rows, "loss", "valid", "step")) == 2
    assert metric_points([{"step": 1, "split": "train", "loss": 1.0}], "loss", "train", "epoch") == []


def test_a_log_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.report(step=1, epoch=0.1, split="train", loss=2.0)
    with path.open("a") as file:
        file.write('{"time": "t", "step": 2, "spl')
    assert xs("loss", "train", "step", read_metrics(path)) == [1]


@pytest.mark.parametrize("x", ["step", "epoch", "minutes", "tokens"])
def test_no_rows_no_points(x: XAxis) -> None:
    assert metric_points([], "loss", "train", x) == [] and metric_names([]) == []
