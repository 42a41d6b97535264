"""Whole processes for benchmarks: commands timed and weighed, the one under test, functions in fresh interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .sides import REPOSITORY

SEQKIT = (sys.executable, "-m", "seqkit")
"""The command line of the code under test, whatever else is installed."""


def run_command(command: Sequence[str], source: Path | None = None, output: Path | None = None) -> float:
    """Seconds that a whole process takes."""
    with (source or Path(os.devnull)).open("rb") as stdin, (output or Path(os.devnull)).open("wb") as stdout:
        began = time.perf_counter()
        subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=REPOSITORY, check=True)
        return time.perf_counter() - began


def run_and_weigh(
    command: Sequence[str], source: Path, output: Path | None = None, *, every: float = 0.02
) -> tuple[float, float]:
    """Run a command; seconds, and the most memory in MB that it and its descendants took together.

    Memory is the sum of their proportional shares (PSS), looked at now and then.

    Args:
        command: Reads stdin, writes stdout.
        source: Its stdin.
        output: Its stdout; ``None``: nowhere.
        every: Seconds between two looks.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    with source.open("rb") as stdin, (output or Path(os.devnull)).open("wb") as stdout:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, cwd=REPOSITORY)
        peak = 0.0
        while True:
            peak = max(peak, family_megabytes(process.pid))
            try:
                # Not a sleep: the end of the process is the end of the time.
                process.wait(every)
                break
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, peak


def run_seqkit_json(words: Sequence[str]) -> dict[str, Any]:
    """What a command prints with ``--json``; its stderr is shown."""
    done = subprocess.run(
        [*SEQKIT, *words, "--json"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def train_model(recipe: str, folder: Path, *overrides: str) -> Path:
    """Train a recipe with ``KEY=VALUE`` changes in ``folder``; its run folder."""
    words = ["train", recipe, "--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache")]
    changes = [word for change in overrides for word in ("--set", change)]
    return Path(run_seqkit_json([*words, *changes])["run_dir"])


def family_of(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [pid, *(one for task in tasks for child in task.split() for one in family_of(int(child)))]


def family_megabytes(pid: int) -> float:
    """Memory in MB that a process and its descendants take together: the sum of their proportional shares (PSS)."""
    return sum(map(_pss_megabytes, family_of(pid)))


def _pss_megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


CALL = """\
import importlib, json, sys
module, function, *arguments = sys.argv[1:]
result = getattr(importlib.import_module(module), function)(*arguments)
print("\\n" + json.dumps(result))
"""
"""A program that calls a function, named by module and name, with texts, and prints the dictionary that it returns."""


def call_in_new_process(module: str, function: str, *arguments: str) -> dict[str, Any]:
    """Call a function in a fresh interpreter and return the dictionary that it returned.

    Args:
        module: Its module's full name.
        function: Its name.
        *arguments: Texts to call it with.
    """
    command = [sys.executable, "-c", CALL, module, function, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak_megabytes() -> float:
    """The most memory this process has held so far, in units of 10⁶ bytes; mapped file pages that it read count.

    Not ``ru_maxrss``, which a child inherits from the process that started it, across ``exec``.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("/proc/self/status has no VmHWM")
