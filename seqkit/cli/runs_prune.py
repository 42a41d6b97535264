"""``seqkit runs prune``: remove the runs that nobody needs any more, after showing which."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from seqkit.cli.command import Json, RunsDir, command
from seqkit.cli.streams import write_result
from seqkit.errors import LockedError, SeqkitError, UsageError
from seqkit.runs.listing import RunSummary, list_runs
from seqkit.runs.places import runs_dir as chosen_runs_dir
from seqkit.runs.pruning import bytes_of, choose_runs, finish_removals, foreign_names, remove_dead_starts, remove_run


class RemovableStatus(StrEnum):
    """As ``REMOVABLE`` has them."""

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DEAD = "dead"


_logger = logging.getLogger(__name__)

_EXAMPLES = """seqkit runs prune --keep 3
seqkit runs prune --status failed --status dead --force
0 4 * * 0  seqkit runs prune --older-than 30 --keep 1 --force -q   # in a crontab"""


def register(runs: typer.Typer) -> None:
    """Add ``prune`` to the commands on runs."""

    @command(runs, "prune", examples=_EXAMPLES)
    def prune(
        keep: Annotated[
            int | None,
            typer.Option(min=0, help="Spare the newest runs of each recipe, so many of them.", show_default=False),
        ] = None,
        older_than: Annotated[
            float | None,
            typer.Option(metavar="DAYS", min=0, help="Only runs that ended so many days ago.", show_default=False),
        ] = None,
        status: Annotated[
            list[RemovableStatus] | None,
            typer.Option(help="Only runs of this status; may be given several times.", show_default=False),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Remove them; without it they are only listed.")] = False,
        runs_dir: RunsDir = None,
        json_output: Json = False,
    ) -> None:
        """List the runs that meet all conditions given, and remove them with --force; prints their folders.

        A run at work, one whose run.json cannot be read, and one with files that are not seqkit's are left alone.
        With --force, what trainings left that were killed before their first record goes too.
        """
        if keep is None and older_than is None and not status:
            raise UsageError("say which runs: --keep, --older-than or --status", hint="seqkit runs prune --help")
        if runs_dir is not None and not runs_dir.is_dir():
            raise UsageError(f"--runs-dir {runs_dir}: no such folder")
        folder = chosen_runs_dir(runs_dir)
        chosen = choose_runs(
            list_runs(folder),
            keep=keep,
            older_than=None if older_than is None else timedelta(days=older_than),
            statuses={item.value for item in status or ()},
            now=datetime.now(UTC),
        )
        chosen = [summary for summary in chosen if not _has_foreign_files(summary)]
        sizes = {summary.path: bytes_of(summary.path) for summary in chosen}
        if force:
            chosen = _remove(chosen, folder)
        total = sum(sizes[summary.path] for summary in chosen)
        if json_output:
            rows = [{"run_dir": str(s.path), "status": s.status, "bytes": sizes[s.path]} for s in chosen]
            write_result(
                json.dumps(
                    {"runs_dir": str(folder), "removed": force, "bytes": total, "runs": rows}, ensure_ascii=False
                )
            )
        else:
            for summary in chosen:
                write_result(str(summary.path))
        what = f"{len(chosen):,} run{'' if len(chosen) == 1 else 's'}, {total / 1e6:.1f} MB"
        _logger.info("%s: %s", folder, f"removed {what}" if force else f"{what}; --force removes them")


def _has_foreign_files(summary: RunSummary) -> bool:
    names = foreign_names(summary.path)
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        _logger.warning("%s: left alone, since %s%s in it is not seqkit's", summary.path, names[0], more)
    return bool(names)


def _remove(chosen: list[RunSummary], folder: Path) -> list[RunSummary]:
    """Remove the runs; returns those that are gone."""
    removed = []
    try:
        if count := finish_removals(folder):
            _logger.info("%s: finished %d removals that had been cut off", folder, count)
        if count := remove_dead_starts(folder):
            _logger.info("%s: removed %d folders of trainings that were killed before they began", folder, count)
        for summary in chosen:
            try:
                remove_run(summary.path, folder)
            except LockedError as error:
                # It was resumed a moment ago.
                _logger.warning("%s: left alone: %s", summary.path, error)
                continue
            removed.append(summary)
    except OSError as error:
        raise SeqkitError(f"{error.filename or folder}: cannot be removed: {error.strerror or error}") from error
    return removed
