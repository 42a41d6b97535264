"""Which of a run's checkpoints a command works on: the last ones, or those with the best validation scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqkit.errors import UsageError
from seqkit.runs import step_folders
from seqkit.runs.measures import MEASURES, gain
from seqkit.runs.model_facts import read_facts

_HINT = "train.keep_last and train.average_last say how many a run keeps"


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run, with checkpoints in it, and not of a checkpoint."""
    return (path / step_folders.CHECKPOINTS_NAME).is_dir()


def single_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints that a run kept, oldest first, but for one that is the average of others."""
    return [path for path in step_folders.list_steps(run_dir) if not read_facts(path).get("averaged_steps")]


def last_checkpoints(run_dir: Path, count: int) -> list[Path]:
    """The ``count`` newest checkpoints of a run, oldest first.

    Raises:
        UsageError: There are fewer.
    """
    found = single_checkpoints(run_dir)
    if len(found) < count:
        raise UsageError(f"{run_dir}: has {_counted(len(found))}, not {count}", hint=_HINT)
    return found[-count:]


def best_checkpoints(run_dir: Path, count: int) -> list[Path]:
    """The ``count`` checkpoints of a run with the best validation scores, by what the run chose its best one by.

    Returns:
        Oldest first; of equal scores the older ones.

    Raises:
        UsageError: There are fewer that were scored.
    """
    scored: list[tuple[float, Path]] = []
    for path in single_checkpoints(run_dir):
        facts = read_facts(path)
        score = _deciding_score(facts)
        if score is not None:
            scored.append((score, path))
    if len(scored) < count:
        raise UsageError(f"{run_dir}: has {_counted(len(scored))} with a validation score, not {count}", hint=_HINT)
    best = sorted(scored, key=lambda pair: -pair[0])[:count]
    return sorted(path for _, path in best)


def _deciding_score(facts: dict[str, Any]) -> float | None:
    """The score that decides, such that more is better."""
    name = facts.get("best_by", "loss")
    score = facts.get("scores", {}).get(name)
    return gain(name, score, 0.0) if name in MEASURES and isinstance(score, int | float) else None


def _counted(count: int) -> str:
    return f"{count} checkpoint{'' if count == 1 else 's'}"
