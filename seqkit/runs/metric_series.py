"""A logged metric of a run over its training: the points of a learning curve."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

XAxis = Literal["step", "epoch", "minutes", "tokens"]
"""What a curve may run over: optimizer steps, passes over the data, wall-clock minutes, training tokens read."""
Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = get_args(Split)

_NO_METRICS = frozenset({"time", "step", "epoch", "split", "elapsed"})
"""Fields of a report that say when it was made."""


@dataclass(frozen=True, kw_only=True)
class MetricPoint:
    """One report."""

    step: int
    x: float
    y: float | None
    """None where the value was not finite."""


def metric_names(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The metrics that reports hold, in the order in which they first occur.

    >>> metric_names([{"step": 1, "split": "train", "loss": 2.0}, {"step": 2, "split": "valid", "bleu": 9.1}])
    ['loss', 'bleu']
    """
    found = {key: None for row in rows for key, value in row.items() if key not in _NO_METRICS and _is_value(value)}
    return list(found)


def metric_points(rows: Sequence[dict[str, Any]], metric: str, split: Split, x: XAxis) -> list[MetricPoint]:
    """The values of a metric in one split's reports, in the order of the log.

    Args:
        rows: All reports of a run.
        metric: Its key.
        split: Whose reports.
        x: What to place them by; a report that does not tell is left out.
    """
    tokens = _TokensRead(rows) if x == "tokens" else None
    points = []
    for row in rows:
        if row.get("split") != split or metric not in row or not _is_value(row[metric]):
            continue
        match x:
            case "step":
                place: Any = row["step"]
            case "epoch":
                place = row.get("epoch")
            case "minutes":
                place = row["elapsed"] / 60 if _is_number(row.get("elapsed")) else None
            case "tokens":
                assert tokens is not None
                place = tokens.at(row["step"])
        if _is_number(place):
            points.append(MetricPoint(step=row["step"], x=float(place), y=row[metric]))
    return points


class _TokensRead:
    """Training tokens read until a step; the ``num_tokens`` of a validation report counts other tokens.

    Args:
        rows: All reports of a run.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        read = {
            row["step"]: row["num_tokens"]
            for row in rows
            if row.get("split") == "train" and _is_number(row.get("num_tokens"))
        }
        known: list[tuple[int, float]] = sorted({0: 0, **read}.items())
        self._steps = [step for step, _ in known]
        self._tokens = [tokens for _, tokens in known]

    def at(self, step: int) -> float | None:
        """Exact at training reports, else on the straight line through the nearest two."""
        if len(self._steps) < 2:
            return None
        right = min(max(bisect_left(self._steps, step), 1), len(self._steps) - 1)
        (first, last), (few, many) = self._steps[right - 1 : right + 1], self._tokens[right - 1 : right + 1]
        return few + (many - few) * (step - first) / (last - first)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_value(value: object) -> bool:
    """Whether a field of a report is a metric's: a number, or None, which stands for one that is not finite."""
    return value is None or _is_number(value)
