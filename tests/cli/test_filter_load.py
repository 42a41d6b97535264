"""Filters under load: a million lines, a producer slower than the reader, and a reader slower than the producer."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from commandline import ForkServer, wait_until
from conftest import Tally
from piped_filter import PipedFilters
from tiny_pairs import TinyPairs

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds processes and their memory in /proc")

NUM_LINES = 1_000_000
BLOCK = 10_000
FIRST_LOOK = 200_000
ALLOWED_KB = 12_000
"""What the peaks may still grow by, of all processes together, in the last 800,000 lines, which are 23 MB of text."""

WORDS = "The cat sat on the mat. Die Katze saß auf der Matte, low lower newest widest! Ж \u2028 x\r".split(" ")


def numbered_lines(first: int, num_lines: int) -> bytes:
    """Lines of which no two are alike, so that one that is lost, doubled or moved is seen, of a few thousand words.

    Words that are ever new fill a tokenizer's table before they are forgotten, which takes its first 262,144 words.
    """
    lines = []
    for number in range(first, first + num_lines):
        start = number % len(WORDS)
        lines.append(f"{number // 1000} {number % 1000} {' '.join(WORDS[start : start + 5])}\n")
    return "".join(lines).encode()


Start = Callable[..., PipedFilters]


@pytest.fixture
def start(fork_server: ForkServer, tmp_path: Path) -> Iterator[Start]:
    """Starts filters between pipes; afterwards nothing is left of them."""
    started: list[PipedFilters] = []

    def start_filters(*commands: Any, **options: Any) -> PipedFilters:
        started.append(PipedFilters(fork_server, commands, tmp_path, **options))
        return started[-1]

    yield start_filters
    fork_server.kill_all()
    for filters in started:
        filters.close()


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_million_lines(start: Start, bpe_examples: Path, tally: Tally, workers: int) -> None:
    tokenizer = ("--tokenizer", bpe_examples / "bpe.json")
    filters = start(("bpe", "encode", *tokenizer, "--workers", workers), ("bpe", "decode", *tokenizer))
    filters.feed_from(numbered_lines(first, BLOCK) for first in range(0, NUM_LINES, BLOCK))
    peaks: dict[int, int] = {}
    num_lines, total, waiting = 0, 0, b""
    for first in range(0, NUM_LINES, BLOCK):
        expected = numbered_lines(first, BLOCK)
        pieces = [waiting]
        num_bytes = len(waiting)
        while num_bytes < len(expected) and (piece := filters.read()):
            pieces.append(piece)
            num_bytes += len(piece)
        waiting = b"".join(pieces)
        # Not `assert a == b`, which would show megabytes.
        is_same = waiting[: len(expected)] == expected
        assert is_same, f"something is wrong in the lines from {first:,} on"
        waiting = waiting[len(expected) :]
        num_lines += BLOCK
        total += len(expected)
        if num_lines >= FIRST_LOOK and num_lines % (BLOCK * 10) == 0:
            peaks[num_lines] = filters.peak_kilobytes()
    assert waiting == b"" and filters.read() == b""
    for process in filters.processes:
        done = process.wait_for_code()
        assert (done, process.err) == (0, "")
    growth = max(peaks.values()) - peaks[FIRST_LOOK]
    assert growth < ALLOWED_KB, f"peak kB of all processes after so many lines: {peaks}"
    tally("lines through bpe encode | bpe decode, all as they were", num_lines)
    tally("bytes tokenized and put together again, all as they were", total)


def commands(bpe_examples: Path, tiny_pairs: TinyPairs) -> dict[str, tuple[object, ...]]:
    """The filters, as one reader and its producer may use them."""
    encode = ("bpe", "encode", "--tokenizer", bpe_examples / "bpe.json")
    translate = ("translate", "-q", "--model", tiny_pairs.run, "--beam", 1, "--max-length", 8)
    return {
        "encode": encode,
        "encode one by one": (*encode, "--batch-size", 1),
        "encode in two processes": (*encode, "--workers", 2),
        "encode one by one in two processes": (*encode, "--batch-size", 1, "--workers", 2),
        "translate": translate,
        "translate one by one": (*translate, "--batch-size", 1),
    }


NAMES = [
    "encode",
    "encode one by one",
    "encode in two processes",
    "encode one by one in two processes",
    "translate",
    "translate one by one",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_slow_producer_is_answered_at_once(
    start: Start, bpe_examples: Path, tiny_pairs: TinyPairs, name: str
) -> None:
    filters = start(commands(bpe_examples, tiny_pairs)[name])
    seconds = []
    for _ in range(20):
        # A line comes in two parts, and the next one is not even begun.
        filters.feed(b"be ")
        time.sleep(0.005)
        began = time.monotonic()
        filters.feed(b"c\n")
        answer = filters.read()
        seconds.append(time.monotonic() - began)
        assert answer.endswith(b"\n") and answer.count(b"\n") == 1
    filters.end_input()
    assert filters.read() == b""
    assert filters.processes[0].wait_for_code() == 0
    # The first line has set-up to pay for. On a quiet machine it is a millisecond or a few.
    assert statistics.median(seconds) < 0.5, seconds


MEGABYTES = {
    "encode": 3,
    "encode one by one": 3,
    # Each process has a block at hand and one ahead, of a megabyte at most, besides what was read for whoever is free.
    "encode in two processes": 9,
    "encode one by one in two processes": 3,
}
"""More than a filter may hold while nobody reads."""


def hold_up(filters: PipedFilters, blocks: Iterable[bytes], num_bytes: float) -> None:
    """Feed a filter that nobody reads until it takes no more; then it must wait without work, and hold little."""
    filters.feed_from(blocks)
    fed = [-1, -2]

    def is_stuck() -> bool:
        time.sleep(0.3)
        fed.append(filters.num_fed)
        return len(set(fed[-3:])) == 1

    wait_until(is_stuck, "the producer to be held up")
    assert filters.num_fed < num_bytes, "all was taken though nobody has read"
    before = filters.peak_kilobytes(), filters.cpu_seconds()
    time.sleep(1.0)
    after = filters.peak_kilobytes(), filters.cpu_seconds()
    assert after[0] - before[0] < 500, f"peak kB while nobody reads: {before[0]}, {after[0]}"
    assert after[1] - before[1] < 0.3, f"seconds at work while nobody reads: {before[1]}, {after[1]}"


@needs_proc
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "one by one in" in name else name for name in MEGABYTES]
)
def test_a_slow_reader_holds_the_producer_up_and_loses_nothing(
    start: Start, bpe_examples: Path, tiny_pairs: TinyPairs, name: str
) -> None:
    filters = start(commands(bpe_examples, tiny_pairs)[name], pipe_bytes=4096)
    block = b"the cat sat on the mat low lower newest widest low lower newest widest the cat sat on the mat\n\nlow\n"
    filters.feed(block)
    answer = b""
    while answer.count(b"\n") < 3:
        answer += filters.read()
    num_blocks = MEGABYTES[name] * 1_000_000 // len(block)
    hold_up(filters, (block for _ in range(num_blocks)), num_blocks * len(block))
    rest, taken = answer * num_blocks, 0
    while piece := filters.read():
        is_same = rest[taken : taken + len(piece)] == piece
        assert is_same, f"something is wrong after {taken:,} bytes"
        taken += len(piece)
    assert taken == len(rest)
    assert (filters.processes[0].wait_for_code(), filters.processes[0].err) == (0, "")


@needs_proc
def test_a_slow_reader_of_translations_may_leave(start: Start, bpe_examples: Path, tiny_pairs: TinyPairs) -> None:
    # All lines would take too long; the flood of lines that comes through whole is in test_translate_flood.py.
    filters = start(commands(bpe_examples, tiny_pairs)["translate"], pipe_bytes=4096)
    hold_up(filters, repeat(b"be c\n\nbe c\n" * 100), math.inf)
    answers = b""
    while answers.count(b"\n") < 3_000:
        answers += filters.read()
    whole = answers[: answers.rindex(b"\n") + 1]
    assert whole == (b"BE C\n\nBE C\n" * 1_500)[: len(whole)]
    filters.leave()
    assert (filters.processes[0].wait_for_code(), filters.processes[0].err) == (141, "")
