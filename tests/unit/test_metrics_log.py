"""The metrics log is valid JSON line by line, and a resumed run takes back what it will say again."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path

import pytest

from seqkit.errors import DataError
from seqkit.runs.metrics_log import MetricsLog, read_metrics


def fill(path: Path, *steps: int) -> None:
    with MetricsLog(path) as log:
        for step in steps:
            log.report(step=step, epoch=step / 10, split="train", loss=1.0 / step)


def test_a_report_is_one_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        row = log.report(step=7, epoch=0.5, split="valid", loss=1.45, sample="zwei\nZeilen ü", lr=1e-4)
        written = path.read_text(encoding="utf-8")
    assert written.endswith("}\n") and written.count("\n") == 1
    assert json.loads(written) == row
    assert list(row) == ["time", "step", "epoch", "split", "loss", "sample", "lr"]
    assert row["time"].endswith("Z") and datetime.fromisoformat(row["time"]).tzinfo is not None
    assert read_metrics(path) == [row]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.report(step=1, epoch=0, split="train", loss=math.nan, parts={"a": [math.inf, 1.0]})
    row = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["loss"] is None and row["parts"] == {"a": [None, 1.0]}


def test_truncating_keeps_the_steps_up_to_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, 10, 20, 20, 30)
    with MetricsLog(path) as log:
        log.truncate_after(20)
        log.report(step=25, epoch=0, split="train")
    assert [row["step"] for row in read_metrics(path)] == [10, 20, 20, 25]
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("rest", ['{"time": "2026', "{", '{"step": 30}'])
def test_a_half_written_line_is_dropped(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, 10, 20)
    with path.open("a") as file:
        file.write(rest)
    assert [row["step"] for row in read_metrics(path)] == [10, 20]
    fill(path, 30)
    assert [row["step"] for row in read_metrics(path)] == [10, 20, 30]


def test_a_file_of_half_a_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("{")
    fill(path)
    assert path.read_bytes() == b""


def test_a_missing_log_has_no_reports(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"split": "train"}', b"\xff", b""])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, 10)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a line of a metrics log"):
        read_metrics(path)
