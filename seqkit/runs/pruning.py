"""Which runs nobody needs any more, and removing them so that none is ever left half there."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from seqkit.errors import LockedError
from seqkit.runs import step_folders
from seqkit.runs.folder import GENERATED_NAME, LOG_NAME, RECIPE_NAME, RESOLVED_NAME, TEMPORARY_FILE, is_of_a_start
from seqkit.runs.listing import LEAVING_PREFIX, RunSummary
from seqkit.runs.lock import LOCK_NAME, run_lock
from seqkit.runs.record import METRICS_NAME, RECORD_NAME

REMOVABLE = ("completed", "interrupted", "failed", "dead")
"""A run at work is never removed, nor one whose ``run.json`` cannot be read: what it is, nobody knows."""

_START_S = 3600.0
"""A folder this old in which nobody works will not become a run any more."""

_OWN_NAMES = {
    RECIPE_NAME,
    RESOLVED_NAME,
    LOG_NAME,
    METRICS_NAME,
    RECORD_NAME,
    LOCK_NAME,
    step_folders.CHECKPOINTS_NAME,
    *step_folders.LINK_NAMES,
}


def choose_runs(
    summaries: Sequence[RunSummary],
    *,
    keep: int | None,
    older_than: timedelta | None,
    statuses: Collection[str],
    now: datetime,
) -> list[RunSummary]:
    """The runs that meet all the conditions given.

    Args:
        summaries: All runs, the newest first.
        keep: Spare so many of the newest of each recipe; those that run or cannot be read are not counted.
        older_than: Only runs whose last session ended, or that began if they have no end, so long ago or longer.
        statuses: Only runs with one of these statuses; empty: any of ``REMOVABLE``.
        now: The time, with a time zone.

    Returns:
        In the order given.
    """
    newer: defaultdict[str | None, int] = defaultdict(int)
    chosen = []
    for summary in summaries:
        if summary.status not in REMOVABLE:
            continue
        newer[summary.recipe] += 1
        if keep is not None and newer[summary.recipe] <= keep:
            continue
        if statuses and summary.status not in statuses:
            continue
        if older_than is not None and not _last_seen(summary, now) <= now - older_than:
            continue
        chosen.append(summary)
    return chosen


def _last_seen(summary: RunSummary, now: datetime) -> datetime:
    """When a run was last known to be at work; now, where that cannot be told."""
    text = summary.end or summary.start
    try:
        seen = datetime.fromisoformat(text) if text else now
    except ValueError:
        return now
    return seen if seen.tzinfo else seen.replace(tzinfo=UTC)


def foreign_names(run_dir: Path) -> list[str]:
    """What somebody else put into a run folder, sorted."""
    names = (item.name for item in run_dir.iterdir())
    return sorted(name for name in names if name not in _OWN_NAMES and not _is_temporary(name))


def _is_temporary(name: str) -> bool:
    return TEMPORARY_FILE.fullmatch(name) is not None or step_folders.is_hidden_link(name)


def bytes_of(folder: Path) -> int:
    """What the files in a folder take, those it links to not counted."""
    return sum(item.lstat().st_size for item in folder.rglob("*") if not item.is_dir() or item.is_symlink())


def remove_run(run_dir: Path, runs_dir: Path) -> None:
    """Remove a run folder, and its recipe's folder in ``runs_dir`` if that is empty then.

    The folder is renamed first, so that whoever looks for runs sees all of it or nothing; a removal that is cut off
    is finished by ``finish_removals``.

    Raises:
        LockedError: A process works in it.
        OSError: It cannot be removed.
    """
    leaving = run_dir.with_name(f"{LEAVING_PREFIX}{run_dir.name}")
    with run_lock(run_dir):
        run_dir.rename(leaving)
    _remove(leaving, runs_dir)


def finish_removals(runs_dir: Path) -> int:
    """Remove what removals that were cut off left; returns how many.

    Raises:
        OSError: It cannot be removed.
    """
    count = 0
    for leaving in _half_removed(runs_dir):
        _remove(leaving, runs_dir)
        count += 1
    return count


def remove_dead_starts(runs_dir: Path) -> int:
    """Remove the folders of trainings that were killed before they had a ``run.json``; returns how many.

    No list of runs shows them, and nobody goes on with a folder whose name was drawn.

    Raises:
        OSError: It cannot be removed.
    """
    count = 0
    for pattern in (f"*/{LOCK_NAME}", f"*/*/{LOCK_NAME}"):
        for lock in sorted(runs_dir.glob(pattern)):
            try:
                if _is_old_start(lock):
                    remove_run(lock.parent, runs_dir)
                    count += 1
            except (LockedError, FileNotFoundError):
                # It is still preparing its data, or has given up at this moment.
                continue
    return count


def _is_old_start(lock: Path) -> bool:
    folder = lock.parent
    return (
        GENERATED_NAME.fullmatch(folder.name) is not None
        and all(is_of_a_start(item.name) for item in folder.iterdir())
        and not any((folder / step_folders.CHECKPOINTS_NAME).glob("*"))
        and lock.stat().st_mtime < time.time() - _START_S
    )


def _half_removed(runs_dir: Path) -> Iterator[Path]:
    for pattern in (f"{LEAVING_PREFIX}*", f"*/{LEAVING_PREFIX}*"):
        yield from sorted(runs_dir.glob(pattern))


def _remove(leaving: Path, runs_dir: Path) -> None:
    shutil.rmtree(leaving)
    if leaving.parent != runs_dir and not any(leaving.parent.iterdir()):
        leaving.parent.rmdir()
