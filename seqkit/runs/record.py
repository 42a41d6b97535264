"""``run.json``: what was run, with what, when, and how it ended; kept for every session of a resumed run."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import seqkit
from seqkit.atomic import write_text_atomic
from seqkit.errors import CheckpointError, DataError
from seqkit.runs.json_values import finite
from seqkit.runs.metrics_log import read_metrics
from seqkit.runs.timestamps import seconds_between, utc_timestamp

RECORD_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"

Status = Literal["running", "completed", "interrupted", "failed"]
"""What ``run.json`` says; a killed process leaves ``running`` behind, which is shown as ``dead``."""


def read_record(run_dir: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = run_dir / RECORD_NAME
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; {run_dir} is no run folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("sessions"), list) or not record["sessions"]:
        raise CheckpointError(f"{path}: damaged (not the record of a run)")
    return record


def write_record(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Replace ``run.json``, whole or not at all."""
    text = json.dumps(finite(dict(record)), ensure_ascii=False, indent=2, allow_nan=False, default=str)
    write_text_atomic(run_dir / RECORD_NAME, text + "\n")


def first_record(
    *, recipe_name: str, task: str, model: str, seed: int, device: str, command: Sequence[str]
) -> dict[str, Any]:
    """What ``run.json`` says at the start of a new run; see :meth:`seqkit.runs.folder.RunFolder.start`."""
    session = _session(command, device)
    return {
        "recipe": recipe_name,
        "task": task,
        "model": model,
        "seed": seed,
        **session,
        "status": "running",
        "exit_code": None,
        "sessions": [session],
    }


def resumed_record(old: Mapping[str, Any], run_dir: Path, *, device: str, command: Sequence[str]) -> dict[str, Any]:
    """What ``run.json`` says when an old run goes on: the new session's facts, and the first one's start."""
    *earlier, previous = old["sessions"]
    if previous.get("end") is None:
        # It was killed: its last report is the last that is known of it.
        previous = {**previous, "end": last_report_time(run_dir) or previous["start"], "status": "dead"}
    session = _session(command, device)
    return {
        **old,
        **session,
        "start": old["start"],
        "status": "running",
        "exit_code": None,
        "sessions": [*earlier, previous, session],
    }


def finished_record(
    old: Mapping[str, Any], *, status: Status, exit_code: int, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``run.json`` says at the end: ``extra`` beside how and when it ended."""
    end = {"end": utc_timestamp(), "status": status, "exit_code": exit_code}
    *earlier, current = old["sessions"]
    return {**old, **extra, **end, "sessions": [*earlier, {**current, **end}]}


def total_seconds(record: Mapping[str, Any], run_dir: Path, *, is_live: bool) -> float | None:
    """Seconds that all sessions of a run took together; None if its record does not tell.

    Args:
        record: The content of ``run.json``.
        run_dir: Where the last report of a killed session is found.
        is_live: Whether the last session still runs, so that its time counts until now.
    """
    total = 0.0
    try:
        for session in record["sessions"]:
            end = session.get("end")
            if end is None:
                end = utc_timestamp() if is_live else last_report_time(run_dir) or session["start"]
            total += seconds_between(session["start"], end)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return total


def last_report_time(run_dir: Path) -> str | None:
    """When the last line of ``metrics.jsonl`` was written."""
    try:
        rows = read_metrics(run_dir / METRICS_NAME)
    except (DataError, OSError):
        return None
    time = rows[-1].get("time") if rows else None
    return time if isinstance(time, str) else None


def _session(command: Sequence[str], device: str) -> dict[str, Any]:
    return {
        "command": _printable(shlex.join(command)),
        "cwd": _printable(str(Path.cwd())),
        "device": device,
        "versions": {
            "seqkit": seqkit.__version__,
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
        },
        "git_commit": git_commit(Path.cwd()),
        "start": utc_timestamp(),
        "end": None,
    }


def _printable(text: str) -> str:
    """Bytes of a file name that are not UTF-8 as escapes, which JSON can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out around ``folder``; None without git or outside a work tree."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
