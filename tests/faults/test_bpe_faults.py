"""``seqkit bpe`` when something goes wrong around it: signals, killed processes, full disks, closed streams, floods."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from commandline import REAL, Forked, ForkServer, clean_environment, wait_until

LINES = "the cat sat on the mat\nlow lower newest widest\n\n" * 50

PROMPTLY_S = 5.0
"""Much less than the tests' patience, much more than a busy machine needs."""


@pytest.fixture(scope="module")
def folder(bpe_examples: Path, tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Path:
    """``text``, the tokenizer ``bpe.json``, and ``pieces`` of the text."""
    place = tmp_path_factory.mktemp("faults")
    (place / "text").write_text(LINES)
    shutil.copyfile(bpe_examples / "bpe.json", place / "bpe.json")
    words = ("encode", "text", "--tokenizer", "bpe.json", "-o", "pieces")
    done = fork_server.start("bpe", *words, folder=place).wait()
    assert done.code == 0, done.err
    return place


@contextmanager
def endless(fifo: Path, lines: bytes) -> Iterator[None]:
    """Lines without end into a pipe, until whoever reads it is gone."""
    os.mkfifo(fifo)

    def feed() -> None:
        with suppress(BrokenPipeError), fifo.open("wb", buffering=0) as pipe:
            while True:
                pipe.write(lines)

    # A test that fails must not wait for it.
    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    yield
    feeder.join()


def is_anyone_left(group: int) -> bool:
    """Whether a process of a group is there, zombies aside."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                return True
    return False


def workers_of(process: Forked) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def send(process: Forked, number: signal.Signals) -> None:
    """A signal as it comes in life: Ctrl-C to the whole group, ``kill`` to one process."""
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "words", [("encode",), ("encode", "--workers", "2"), ("encode", "--dropout", "0.1"), ("decode",)], ids=" ".join
)
def test_a_signal_in_the_middle_of_endless_input(
    fork_server: ForkServer, folder: Path, tmp_path: Path, words: tuple[str, ...], number: signal.Signals
) -> None:
    fifo, out = tmp_path / "fifo", tmp_path / "out"
    os.mkfifo(out)
    lines = (folder / ("pieces" if words == ("decode",) else "text")).read_bytes()
    with endless(fifo, lines):
        process = fork_server.start(
            "bpe",
            *words,
            "--tokenizer",
            folder / "bpe.json",
            folder=tmp_path,
            stdin=fifo,
            stdout=out,
            stderr=tmp_path / "err",
        )
        with out.open("rb") as reader:
            assert sum(len(reader.readline()) for _ in range(10_000)) > 100_000
            if "--workers" in words:
                # They start with the second block, which need not have come yet.
                while len(workers_of(process)) < 2:
                    reader.readline()
            began = time.monotonic()
            send(process, number)
            while reader.read(1 << 16):
                pass
            code = process.wait_for_code()
            assert time.monotonic() - began < PROMPTLY_S
    wait_until(lambda: not is_anyone_left(process.pid), "the end of the workers")
    error = (tmp_path / "err").read_text()
    if number == signal.SIGKILL:
        assert (code, error) == (-signal.SIGKILL, "")
    else:
        assert (code, error) == (128 + number, f"seqkit: error: stopped by {number.name}\n")


@pytest.mark.parametrize("words", [("encode",), ("learn", "-o", "new.json", "--num-merges", "5")], ids=" ".join)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_waiting_for_input(
    fork_server: ForkServer, folder: Path, tmp_path: Path, words: tuple[str, ...], number: signal.Signals
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    tokenizer = ("--tokenizer", folder / "bpe.json") if words == ("encode",) else ()
    process = fork_server.start("bpe", *words, *tokenizer, folder=tmp_path, stdin=fifo)
    with fifo.open("wb", buffering=0) as feed:
        # More than a pipe holds: when all is written, the process is reading.
        feed.write(LINES.encode() * 100 + b"and half of")
        time.sleep(0.1)
        assert process.is_running()
        began = time.monotonic()
        send(process, number)
        done = process.wait()
    assert time.monotonic() - began < PROMPTLY_S
    assert done.code == 128 + number and done.error_line == f"stopped by {number.name}"
    assert not (tmp_path / "new.json").exists()


def test_a_signal_while_merges_are_learned(fork_server: ForkServer, tmp_path: Path) -> None:
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=12)) for _ in range(60_000)]
    (tmp_path / "text").write_text(" ".join(words) + "\n")
    command = ("bpe", "learn", "text", "-o", "t.json", "--num-merges", 1_000_000, "--min-frequency", 1, "-v")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = fork_server.start(*command, folder=tmp_path)
        process.wait_for("60,000 different words")
        # The library now computes for several seconds, and does not listen.
        time.sleep(0.2)
        assert process.is_running()
        began = time.monotonic()
        send(process, number)
        done = process.wait()
        assert time.monotonic() - began < PROMPTLY_S
        assert (done.code, done.out) == (128 + number, "") and done.error_line == f"stopped by {number.name}"
        assert not (tmp_path / "t.json").exists()


def test_a_killed_worker_is_an_error(fork_server: ForkServer, folder: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    out = tmp_path / "out"
    os.mkfifo(out)
    (tmp_path / "old").write_text("old\n")
    words = ("bpe", "encode", "--tokenizer", folder / "bpe.json", "--workers", 2, "-o", "old")
    with endless(fifo, LINES.encode()):
        process = fork_server.start(*words, folder=tmp_path, stdin=fifo)
        wait_until(lambda: len(workers_of(process)) == 2, "two workers")
        os.kill(workers_of(process)[0], signal.SIGKILL)
        done = process.wait()
    assert (done.code, done.out) == (1, "")
    assert done.error_line.startswith("a worker process ended by SIGKILL at the lines from ")
    assert not is_anyone_left(process.pid) and (tmp_path / "old").read_text() == "old\n"
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


def test_a_full_disk_leaves_the_old_file(fork_server: ForkServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(LINES * 100)
    (tmp_path / "old").write_text("old\n")
    words = ("bpe", "encode", "text", "--tokenizer", folder / "bpe.json")
    done = fork_server.start(*words, "-o", "old", folder=tmp_path, limits={"RLIMIT_FSIZE": 100_000}).wait_for_code()
    assert done == 1
    assert (tmp_path / "old").read_text() == "old\n" and not list(tmp_path.glob(".*"))
    full = fork_server.start(*words, folder=tmp_path, stdout=Path("/dev/full")).wait()
    assert full.code == 1 and "no space left" in full.error_line
    nowhere = fork_server.start(*words, "-o", "no/such/folder", folder=tmp_path).wait()
    assert nowhere.code == 1 and nowhere.error_line == f"{tmp_path / 'no/such'}: no such file or folder"


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [("<&-", 2, b"stdin is closed"), (">&-", 2, b"stdout is closed"), ("2>&-", 0, b""), ("</dev/null", 0, b"")],
)
def test_closed_streams(folder: Path, redirection: str, code: int, message: bytes) -> None:
    command = " ".join([*REAL, "bpe", "encode", "--tokenizer", str(folder / "bpe.json"), redirection])
    done = subprocess.run(
        ["sh", "-c", command], input=b"", capture_output=True, env=clean_environment(), check=False, cwd=folder
    )
    assert (done.returncode, done.stdout) == (code, b"") and message in done.stderr and b"Traceback" not in done.stderr


def test_what_is_no_text_is_refused_early(fork_server: ForkServer, folder: Path, tmp_path: Path) -> None:
    words = ("bpe", "encode", "--tokenizer", folder / "bpe.json")
    done = fork_server.start(*words, str(folder), folder=tmp_path).wait()
    assert done.code == 1 and done.error_line == f"{folder}: is a folder"
    done = fork_server.start(*words, folder=tmp_path, stdin=Path("/bin/sh")).wait()
    assert done.code == 1 and done.error_line.startswith("<stdin>:1: not UTF-8")


@pytest.mark.slow
def test_a_line_of_ten_megabytes(fork_server: ForkServer, folder: Path, tmp_path: Path) -> None:
    line = "the cat sät on " * 650_000 + "x" * 400_000
    (tmp_path / "text").write_text(f"short\n{line}\nshort")
    words = ("--tokenizer", folder / "bpe.json")
    for more in ((), ("--workers", 2)):
        done = fork_server.start("bpe", "encode", "text", *words, *more, "-o", "pieces", folder=tmp_path).wait()
        assert done.code == 0, done.err
        back = fork_server.start("bpe", "decode", "pieces", *words, "-o", "back", folder=tmp_path).wait()
        assert back.code == 0, back.err
        assert (tmp_path / "back").read_bytes() == (tmp_path / "text").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("encode",), ("encode", "--workers", "2"), ("decode",)], ids=" ".join)
def test_s5_200_megabytes_of_stdin_take_flat_memory(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    lines = (folder / ("pieces" if words == ("decode",) else "text")).read_bytes()
    block = lines * (4_000_000 // len(lines))
    command = [*REAL, "bpe", *words, "--tokenizer", str(folder / "bpe.json")]
    sizes = []
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as process:
        assert process.stdin is not None
        for _ in range(50):
            process.stdin.write(block)
            family = [
                process.pid,
                *map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()),
            ]
            sizes.append(sum(map(resident_kilobytes, family)))
        process.stdin.close()
    assert process.returncode == 0
    # A sample may meet blocks at any stage of their way, in three processes: means are compared, and not too closely.
    early, late = statistics.mean(sizes[10:20]), statistics.mean(sizes[-10:])
    assert late - early < 60_000, f"resident kB after each 4 MB: {sizes}"
    assert (tmp_path / "out").read_bytes().count(b"\n") == 50 * block.count(b"\n")


def resident_kilobytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().split("\n"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0
