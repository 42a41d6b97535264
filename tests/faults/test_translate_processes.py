"""``seqkit translate`` with a process a core: one that is killed is an error, and none outlives the command."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commandline import Forked, ForkServer, wait_until
from tiny_pairs import TinyPairs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

PROMPTLY_S = 30.0


@pytest.fixture
def source(tiny_pairs: TinyPairs, tmp_path: Path) -> Path:
    """Far more lines than are translated before a test is over."""
    path = tmp_path / "x.src"
    path.write_text("".join(f"{line}\n" for line in tiny_pairs.lines if line) * 50_000, encoding="utf-8")
    return path


def start(fork_server: ForkServer, tiny_pairs: TinyPairs, source: Path, *words: object) -> tuple[Forked, list[int]]:
    """The command at work, and its processes."""
    command = ("translate", "--model", tiny_pairs.run, "--threads", 2, *words, source)
    process = fork_server.start(*command, folder=source.parent)
    tasks = Path(f"/proc/{process.pid}/task")

    def children() -> list[int]:
        with suppress(OSError):
            return [int(pid) for task in tasks.glob("*/children") for pid in task.read_text().split()]
        return []

    wait_until(lambda: len(children()) == 2, "two processes")
    return process, children()


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all(
    fork_server: ForkServer, tiny_pairs: TinyPairs, source: Path, number: signal.Signals
) -> None:
    process, children = start(fork_server, tiny_pairs, source)
    wait_until(lambda: process.out.count("\n") > 1000, "some answers")
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send(number)
    done = process.wait()
    assert time.monotonic() - began < PROMPTLY_S
    wait_until(lambda: not any(map(is_there, children)), "the end of its processes")
    if number == signal.SIGKILL:
        assert (done.code, done.err) == (-number, "")
    else:
        assert done.code == 128 + number and done.error_line == f"stopped by {number.name}"


def test_a_killed_process_is_one_line_and_leaves_the_old_file(
    fork_server: ForkServer, tiny_pairs: TinyPairs, source: Path
) -> None:
    old = source.with_name("old")
    old.write_text("old\n")
    process, children = start(fork_server, tiny_pairs, source, "-o", old)
    os.kill(children[0], signal.SIGKILL)
    done = process.wait()
    assert (done.code, done.out) == (1, "")
    assert done.error_line == "a worker process ended by SIGKILL while it translated"
    assert "out of memory? try a lower --batch-tokens, or --threads 1" in done.err
    assert not any(map(is_there, children)) and old.read_text() == "old\n"
    assert not list(source.parent.glob(".old*")), "nothing half-written stays"


def test_a_reader_that_goes_ends_all(fork_server: ForkServer, tiny_pairs: TinyPairs, source: Path) -> None:
    out = source.with_name("out")
    os.mkfifo(out)
    words = ("translate", "--model", tiny_pairs.run, "--threads", 2, source)
    process = fork_server.start(*words, folder=source.parent, stdout=out)
    with out.open("rb") as reader:
        assert reader.readline()
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [int(pid) for task in tasks for pid in task.read_text().split()]
    assert len(children) == 2 and process.wait_for_code() in {-signal.SIGPIPE, 128 + signal.SIGPIPE}
    wait_until(lambda: not any(map(is_there, children)), "the end of its processes")


@pytest.mark.parametrize("words", [(), ("--beam", "1"), ("--min-length", "3")])
def test_without_compiled_steps_the_lines_are_the_same(
    fork_server: ForkServer, tiny_pairs: TinyPairs, tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = tmp_path / "few.src"
    path.write_text("".join(f"{line}\n" for line in tiny_pairs.lines), encoding="utf-8")
    command = ("translate", "-v", "--model", tiny_pairs.run, *words, path)
    compiled = fork_server.start(*command, folder=tmp_path).wait()
    without = fork_server.start(*command, folder=tmp_path, env={"SEQKIT_KERNELS": "off"}).wait()
    assert compiled.code == without.code == 0 and compiled.out == without.out
    assert "compiled steps: switched off by SEQKIT_KERNELS" in without.err
    assert "compiled steps: " in compiled.err and "switched off" not in compiled.err
