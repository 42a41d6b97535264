"""What benchmarks of equal time share: what a side came to, its row of the table, and the side that is a recipe.

A side has so many minutes, validation included, set-up not. A recipe takes part as users run it, by the command line.
Imports no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqkit.runs.metrics_log import read_metrics

from .processes import run_seqkit_json
from .sides import SEQKIT_VERSION, Series, show


@dataclass
class Outcome:
    """What one side came to."""

    steps: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    """The budget as it was used: training and the validation within it, up to the last step."""
    valid_seconds: float = 0.0
    """Spent in validation, of ``seconds``."""
    valid_seconds_after: float = 0.0
    """Spent in validation after the last step."""
    setup_seconds: float = 0.0
    """Before the first step and after the last validation: not part of the budget."""
    validations: list[dict[str, float]] = field(default_factory=list)
    """Seconds since training began, and the loss that this side measured then; the ones after the budget too."""
    scores: dict[str, float] = field(default_factory=dict)
    """By name, of the model that came of it, measured when all was over."""
    version: str = SEQKIT_VERSION
    settings: str = ""

    @property
    def tokens_per_second(self) -> float:
        """Training speed, validation left out."""
        return self.num_tokens / max(self.seconds - self.valid_seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**vars(self), "tokens_per_second": self.tokens_per_second}


def outcome_series(outcomes: Mapping[str, Outcome], units: Mapping[str, str], *, rate_unit: str) -> list[Series]:
    """The sides for the table: scores and speed of each, all of one run.

    Args:
        outcomes: By side.
        units: Of the scores to show, by name.
        rate_unit: Of the speed.
    """
    series = []
    for side, outcome in outcomes.items():
        values = {f"{side}, {name}": (outcome.scores[name], unit) for name, unit in units.items()}
        values[f"{side}, training"] = (outcome.tokens_per_second, rate_unit)
        series += [
            Series(name=name, unit=unit, values=(value,), version=outcome.version, settings=outcome.settings)
            for name, (value, unit) in values.items()
        ]
    return series


def spending_header(unit: str) -> list[str]:
    """The columns of ``spending_cells``; ``unit`` is what a token is called."""
    return [f"{unit}/s", "steps", unit, "budget, s", "validation in it, s", "after it, s"]


def spending_cells(outcome: Outcome) -> list[str]:
    """What a side did with its budget, for a table."""
    return [
        show(outcome.tokens_per_second),
        f"{outcome.steps:,}",
        f"{outcome.num_tokens:,}",
        f"{outcome.seconds:.1f}",
        f"{outcome.valid_seconds:.1f}",
        f"{outcome.valid_seconds_after:.1f}",
    ]


def train_recipe(
    recipe: str, run_dir: Path, cache: Path, *, minutes: float, overrides: Sequence[str], threads: int | None
) -> Outcome:
    """Run ``seqkit train`` with a budget of wall-clock time and no other.

    Args:
        recipe: Its name.
        run_dir: The run folder, new.
        cache: Where token stores are kept.
        minutes: The budget.
        overrides: ``KEY=VALUE``, as of ``--set``.
        threads: For arithmetic; ``None``: one a core.

    Returns:
        What it took, with no score yet.
    """
    budget = [f"train.max_minutes={minutes}", "train.max_steps=null", "train.max_epochs=null"]
    changes = [word for change in [*budget, *overrides] for word in ("--set", change)]
    began = time.monotonic()
    words = ["train", recipe, "--run-dir", str(run_dir), *changes, *_shared_options(cache, threads)]
    metrics = run_seqkit_json(words)["metrics"]
    wall = time.monotonic() - began
    facts = json.loads((run_dir / "last" / "model.json").read_text(encoding="utf-8"))
    outcome = outcome_of_run(metrics, read_metrics(run_dir / "metrics.jsonl"), wall=wall)
    outcome.settings = " ".join([f"recipe {recipe}, {facts['precision']}", *overrides])
    return outcome


def outcome_of_run(metrics: dict[str, Any], rows: Sequence[dict[str, Any]], *, wall: float) -> Outcome:
    """What a run spent, from what it reported.

    Args:
        metrics: What ``seqkit train --json`` prints of the whole run.
        rows: Of its ``metrics.jsonl``.
        wall: Seconds that the command took.
    """
    valid = [row for row in rows if row["split"] == "valid"]
    return Outcome(
        steps=metrics["step"],
        num_tokens=metrics["num_tokens"],
        # The last validation follows the last step; the run's own clock counts it and the checkpoint after it too.
        seconds=valid[-1]["elapsed"],
        valid_seconds=sum(row["seconds"] for row in valid[:-1]),
        valid_seconds_after=valid[-1]["seconds"],
        setup_seconds=wall - metrics["elapsed"],
        validations=[{"elapsed": row["elapsed"], "loss": row["loss"]} for row in valid],
    )


def evaluate_run(run_dir: Path, cache: Path, *options: str, threads: int | None) -> dict[str, Any]:
    """What ``seqkit evaluate`` says of the best model of a run."""
    return run_seqkit_json(["evaluate", "--model", str(run_dir / "best"), *options, *_shared_options(cache, threads)])


def _shared_options(cache: Path, threads: int | None) -> list[str]:
    return ["--cache-dir", str(cache), *(["--threads", str(threads)] if threads else [])]
