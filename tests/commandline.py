"""Running seqkit in tests: in this process, in a forked one that signals and pipes can reach, or for real.

A real process spends two seconds importing torch. This file is therefore also a program: a server that has imported
it already and forks a child for each command line (``python commandline.py``, one JSON request a line). What is forked
ends with its test at the latest, and with the tests whatever becomes of them.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tripwire import Trip, arm

REAL = [sys.executable, "-m", "seqkit"]
"""The program itself, with its start-up."""

PATIENCE_S = 60.0
"""How long anything may take on a machine that is busy with other things."""

TINY_RECIPE = """\
task: lm
seed: 7
data:
  train: TEXT
model: {type: gru, d_model: 8}
train:
  max_steps: 12
  batch_size: 4
  sequence_length: 8
  precision: fp32
  evaluate_every: 4
  log_every: 2
  sample_length: 5
  threads: 1
  device: cpu
sample: {length: 6}
"""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The message of the one ``seqkit: error:`` line; a hint may follow it and nothing else."""
        lines = [line for line in self.err.split("\n") if line]
        errors = [line for line in lines if line.startswith("seqkit: error: ")]
        assert len(errors) == 1, self.err
        after = lines[lines.index(errors[0]) + 1 :]
        assert len(after) <= 1 and all(line.startswith("hint: ") for line in after), self.err
        assert "Traceback" not in self.err, self.err
        return errors[0].removeprefix("seqkit: error: ")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of stderr under ``--log-format jsonl``; each must be one."""
        return [json.loads(line) for line in self.err.removesuffix("\n").split("\n")] if self.err else []


@dataclass(frozen=True)
class Tiny:
    """A small text, a recipe for it, and a run that was trained with it; not to be changed."""

    folder: Path
    text: Path
    recipe: Path
    cache: Path
    runs: Path
    run: Path

    def recipe_with(self, folder: Path, **replacements: str) -> Path:
        """A copy of the recipe in which values are replaced: ``recipe_with(tmp_path, max_steps="9")``."""
        text = self.recipe.read_text()
        for key, value in replacements.items():
            before = next(line for line in text.split("\n") if line.strip().startswith(f"{key}:"))
            text = text.replace(before, before.partition(":")[0] + f": {value}")
        path = folder / "changed.yaml"
        path.write_text(text)
        return path


def write_tiny_text(path: Path, num_lines: int = 60) -> None:
    """A text of random short words; the same every time."""
    rng = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "by"]
    path.write_text("".join(" ".join(rng.choices(words, k=6)) + "\n" for _ in range(num_lines)))


class InProcess:
    """Runs command lines in this process.

    Args:
        capture: Catches what they write, at the descriptors.
        folder: For files that stand in for stdin.
    """

    def __init__(self, capture: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capture = capture
        self._folder = folder

    def __call__(self, *words: object, stdin: bytes | None = None) -> Done:
        """Run one command line; ``stdin`` is what a pipe would bring, None what cron gives."""
        from seqkit.cli import app, console

        source = Path(os.devnull)
        if stdin is not None:
            source = self._folder / "stdin"
            source.write_bytes(stdin)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = sys.stdin
        self._capture.readouterr()
        with source.open(encoding="utf-8") as sys.stdin:
            try:
                code = app.run([str(word) for word in words])
            finally:
                sys.stdin = before
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                console.configure(console.ConsoleOptions())
                logging.captureWarnings(False)
        captured = self._capture.readouterr()
        return Done(code, captured.out, captured.err)


class ForkServer:
    """Starts command lines in forked processes, each with descriptors, a folder and an environment of its own."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._codes: dict[int, int] = {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(os.getpid())]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def start(
        self,
        *words: object,
        folder: Path,
        env: Mapping[str, str] | None = None,
        stdin: Path = Path(os.devnull),
        stdout: Path | None = None,
        stderr: Path | None = None,
        limits: Mapping[str, int] | None = None,
        trip: Trip | None = None,
    ) -> Forked:
        """Start ``seqkit`` with ``words`` in ``folder``; stdin, stdout and stderr may be files, FIFOs or terminals."""
        number = time.monotonic_ns()
        out = stdout or folder / f"{number}.out"
        err = stderr or folder / f"{number}.err"
        request = {
            "words": [str(word) for word in words],
            "folder": str(folder),
            "env": {**clean_environment(), **(env or {})},
            "files": [str(stdin), str(out), str(err)],
            "limits": dict(limits or {}),
            "trip": trip.as_dict() if trip is not None else None,
        }
        pid = self.ask(request)
        self._running.add(pid)
        return Forked(self, pid, out, err)

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self._server.pid

    def poll(self, pid: int) -> int | None:
        """The exit code of a process, the negative number of the signal that killed it, or None if it runs."""
        if pid in self._running:
            answer = self.ask({"poll": pid})
            if answer == _RUNNING:
                return None
            self._running.discard(pid)
            self._codes[pid] = answer
        return self._codes[pid]

    def ask(self, request: dict[str, Any]) -> int:
        """Send a request and return the number that answers it."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(json.loads(self._server.stdout.readline()))

    def kill_all(self) -> None:
        """Kill what is running, as a test that failed leaves it, and all that it has started."""
        for pid in list(self._running):
            if self.poll(pid) is None:
                os.kill(pid, signal.SIGKILL)
                # Its children too; there is no group yet where it has only just been forked.
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: self.poll(pid) is not None, "the end of a killed process")

    def close(self) -> None:
        """Stop the server and all that it has started."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self.kill_all()
        self._server.kill()
        self._server.wait(PATIENCE_S)
        self._server.stdin.close()
        self._server.stdout.close()


class Forked:
    """A command line that runs in a forked process."""

    def __init__(self, server: ForkServer, pid: int, out: Path, err: Path) -> None:
        self._server = server
        self.pid = pid
        self._out = out
        self._err = err
        self._code: int | None = None

    @property
    def err(self) -> str:
        """What stands on stderr now."""
        return _read(self._err)

    @property
    def out(self) -> str:
        """What stands on stdout now."""
        return _read(self._out)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        if self._code is None:
            self._code = self._server.poll(self.pid)
        return self._code is None

    def wait(self, told: str = "") -> Done:
        """Wait for the end; a process killed by a signal has its negative number as code.

        Args:
            told: More to say if it does not end.
        """
        try:
            return Done(self.wait_for_code(), self.out, self.err)
        except AssertionError as error:
            said = self.err
            self.send(_ASKS_WHERE)
            time.sleep(1)
            where = self.err.removeprefix(said)
            raise AssertionError(f"{error}; it said {said!r}{told}; its threads were at:\n{where}") from None

    def wait_for_code(self) -> int:
        """Wait for the end, whatever was written."""
        wait_until(lambda: not self.is_running(), "the end of the process")
        assert self._code is not None
        return self._code

    def wait_for(self, text: str) -> None:
        """Wait until stderr holds ``text``."""

        def is_there() -> bool:
            if text in self.err:
                return True
            assert self.is_running() or text in self.err, f"ended without {text!r}: {self.err}"
            return False

        wait_until(is_there, f"{text!r} on stderr")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.is_running():
            os.kill(self.pid, number)


def wait_until(condition: Any, what: str) -> None:
    """Poll until ``condition()`` holds."""
    waited_s, looked_at = 0.0, time.monotonic()
    while not condition():
        assert waited_s < PATIENCE_S, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.005)
        # Time in which this process was stopped, or its machine slept, is no time that it has waited.
        now = time.monotonic()
        waited_s, looked_at = waited_s + min(now - looked_at, 1.0), now


def save_time(patch: Callable[[object, str, Any], None] = setattr) -> None:
    """Take out what costs time on a busy machine: threads that wait for each other, and for the disk."""
    patch(os, "sched_getaffinity", lambda process: {0})
    patch(os, "fsync", lambda descriptor: None)


def clean_environment() -> dict[str, str]:
    """The environment without what would change output or places."""
    drop = ("SEQKIT_", "XDG_", "NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS", "COLUMNS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    return {**kept, "TERM": "xterm"}


def snapshot(folder: Path) -> dict[str, tuple[str, bytes | str | None]]:
    """Everything under a folder: names, kinds and contents."""
    found: dict[str, tuple[str, bytes | str | None]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", None)
        else:
            found[name] = ("file", path.read_bytes())
    return found


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8") if path.is_file() else ""


_RUNNING = -1000
_ASKS_WHERE = signal.SIGUSR2
"""Has a forked process write to stderr where each of its threads is."""
_PR_SET_PDEATHSIG = 1


def _serve() -> None:
    """Read requests, fork, answer with a process id or an exit code."""
    _end_with(int(sys.argv[1]))
    import torch._dynamo  # noqa: F401 - torch imports it at the first optimizer step

    import seqkit.cli.app
    import seqkit.tasks.lm_predictor
    import seqkit.tasks.registry
    import seqkit.tasks.translation_ensemble
    import seqkit.training.distributed
    import seqkit.training.session  # noqa: F401

    server = os.getpid()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else _RUNNING
        else:
            answer = os.fork()
            if answer == 0:
                _become(request, server)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that comes; only Linux can."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(70)


def _become(request: dict[str, Any], server: int) -> NoReturn:
    """Turn a forked child of the server into ``seqkit``."""
    import resource

    code = 70
    try:
        os.setsid()
        _end_with(server)
        flags = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, (path, flag) in enumerate(zip(request["files"], flags, strict=True)):
            handle = os.open(path, flag | os.O_NOCTTY, 0o644)
            os.dup2(handle, descriptor)
            os.close(handle)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(descriptor, mode, closefd=False) for descriptor, mode in enumerate("rww")
        )
        # Heard even where a thread keeps the interpreter to itself.
        faulthandler.register(_ASKS_WHERE, file=sys.stderr, all_threads=True)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["env"])
        for name, value in request["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        sys.argv = ["seqkit", *request["words"]]
        save_time()
        if request["trip"] is not None:
            arm(Trip(**request["trip"]))

        from seqkit.cli.app import run

        code = run(request["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
