"""What runs there are and what is known of each; reads, never writes, and needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkit.errors import SeqkitError
from seqkit.runs.lock import is_run_locked
from seqkit.runs.measures import MEASURES
from seqkit.runs.metrics_log import read_metrics
from seqkit.runs.record import METRICS_NAME, RECORD_NAME, read_record, total_seconds

LEAVING_PREFIX = ".pruned-"
"""How a run folder's name begins while it is being removed."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run in a few words; what its files do not tell is None."""

    path: Path
    recipe: str | None
    task: str | None
    model: str | None
    status: str
    """completed, interrupted, failed, running, dead (killed), or unreadable."""
    start: str | None
    """When its first session started, RFC 3339, UTC."""
    end: str | None
    """When its last session ended."""
    seconds: float | None
    """What all sessions took together."""
    step: int | None
    """The last step reported."""
    best_step: int | None
    best_by: str | None
    """The kind of score that decides which step is the best; see ``seqkit.runs.measures``."""
    best_score: float | None
    """That of the best step."""


def find_runs(runs_dir: Path) -> Iterator[Path]:
    """The run folders in ``runs_dir`` and in the folders in it (one a recipe), in no particular order."""
    for pattern in (f"*/{RECORD_NAME}", f"*/*/{RECORD_NAME}"):
        for path in runs_dir.glob(pattern):
            if not path.parent.name.startswith(LEAVING_PREFIX):
                yield path.parent


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """A summary of every run, the newest first; a damaged run is ``unreadable`` and comes last."""
    summaries = [summarize(path) for path in sorted(find_runs(runs_dir))]
    return sorted(summaries, key=lambda summary: summary.start or "", reverse=True)


def summarize(run_dir: Path) -> RunSummary:
    """A summary of one run."""
    try:
        record = read_record(run_dir)
    except SeqkitError:
        record = {"status": "unreadable"}
    status = true_status(record, run_dir)
    rows = reports(run_dir)
    best = record.get("best")
    by = next((name for name in MEASURES if name in best), None) if isinstance(best, dict) else None
    if not isinstance(best, dict):
        best = best_report(rows) or {}
        by = best.get("best_by", "loss" if best else None)
    step, score = best.get("step"), None if by is None else best.get(by)
    return RunSummary(
        path=run_dir,
        recipe=_text(record, "recipe"),
        task=_text(record, "task"),
        model=_text(record, "model"),
        status=status,
        start=_text(record, "start"),
        end=_text(record, "end"),
        seconds=total_seconds(record, run_dir, is_live=status == "running"),
        step=rows[-1]["step"] if rows else None,
        best_step=step if isinstance(step, int) else None,
        best_by=by,
        best_score=float(score) if isinstance(score, int | float) else None,
    )


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    return value if isinstance(value, str) else None


def true_status(record: dict[str, Any], run_dir: Path) -> str:
    """The status in ``run.json``, except that a run whose process was killed is ``dead``."""
    status = str(record.get("status"))
    return "dead" if status == "running" and not is_run_locked(run_dir) else status


def reports(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics log; none if it is missing or damaged."""
    try:
        return read_metrics(run_dir / METRICS_NAME)
    except (SeqkitError, OSError):
        return []


def best_report(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The report of the best validation, as the run itself judged it; None if nothing was validated.

    Where the reports do not tell, it is the one with the lowest loss, the first of equals.
    """
    told = [row for row in rows if row.get("is_best") is True and row.get("best_by") in MEASURES]
    if told:
        return told[-1]
    scored = [row for row in rows if row.get("split") == "valid" and isinstance(row.get("loss"), int | float)]
    return min(scored, key=lambda row: row["loss"] if not math.isnan(row["loss"]) else math.inf, default=None)
