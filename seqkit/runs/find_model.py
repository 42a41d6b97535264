"""Which model a command uses: the flag, else ``SEQKIT_MODEL``, else the newest finished run of its task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqkit.errors import CheckpointError, UsageError
from seqkit.runs import step_folders
from seqkit.runs.listing import find_runs
from seqkit.runs.record import read_record


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model and how it was chosen, for the command to name on stderr."""

    path: Path
    """A run folder or a checkpoint folder, as given or found."""
    source: Literal["--model", "SEQKIT_MODEL", "newest run"]


def find_model(tasks: str | Sequence[str], flag: Path | None, runs_dir: Path) -> ModelChoice:
    """Choose the model for a command.

    Args:
        tasks: Such as ``lm``, one or several; they matter only where no model is named.
        flag: What ``--model`` says.
        runs_dir: Where finished runs are looked for.

    Raises:
        UsageError: The one named does not exist, or none is named and no finished run has a checkpoint.
    """
    if flag is not None:
        return ModelChoice(path=_existing(flag, "--model"), source="--model")
    named = os.environ.get("SEQKIT_MODEL")
    if named:
        return ModelChoice(path=_existing(Path(named).expanduser(), "SEQKIT_MODEL"), source="SEQKIT_MODEL")
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    newest = _newest_finished(wanted, runs_dir)
    if newest is None:
        raise UsageError(
            f"no model found: no finished run of the task {' or '.join(wanted)} under {runs_dir}",
            hint="train one, or name one with --model or SEQKIT_MODEL",
        )
    return ModelChoice(path=newest, source="newest run")


def _existing(path: Path, source: str) -> Path:
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        raise UsageError(f"{source} {path}: {what}", hint="name the folder of a run or of one of its checkpoints")
    return path


def _newest_finished(tasks: list[str], runs_dir: Path) -> Path | None:
    finished: list[tuple[str, Path]] = []
    for run_dir in find_runs(runs_dir):
        try:
            record = read_record(run_dir)
            step_folders.resolve(run_dir)
        except CheckpointError:
            continue
        if record.get("status") == "completed" and record.get("task") in tasks:
            finished.append((str(record.get("end")), run_dir))
    return max(finished)[1] if finished else None
