"""A hundred thousand lines through ``seqkit translate``: in order, in flat memory, answered as they come."""

from __future__ import annotations

import json
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from commandline import Forked, ForkServer, InProcess, wait_until
from conftest import Tally
from tiny_pairs import TinyPairs, tiny_sentences

NUM_LINES = 100_000
FIRST = 1_000
ROUND = 10_000
"""Lines between two looks at the memory."""

ODD = ["", "   ", "be\u2028c", "\x00\x01", "Ж", "tab\tand\rreturn", "abcde " * 40]
"""Lines that must not be lost, doubled or divided: blank, strange, long."""


def resident_kilobytes(process: Forked) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text().split("\n")
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--beam", "1"), ("--beam", "2", "--json", "--alignments", "hard")], ids=" ".join)
def test_a_hundred_thousand_lines(
    seqkit: InProcess,
    tiny_pairs: TinyPairs,
    fork_server: ForkServer,
    tmp_path: Path,
    tally: Tally,
    words: tuple[str, ...],
) -> None:
    options = ("translate", "-q", "--model", tiny_pairs.run, "--max-length", 8, *words)
    distinct = [*tiny_sentences(200, seed=5), *ODD]
    alone = seqkit(*options, "--deterministic", stdin="".join(f"{line}\n" for line in distinct).encode())
    expected = dict(zip(distinct, map(answer, alone.out.removesuffix("\n").split("\n")), strict=True))
    lines = random.Random(1).choices(distinct, k=NUM_LINES)

    fifo, out = tmp_path / "fifo", tmp_path / "out"
    os.mkfifo(fifo)
    process = fork_server.start(*options, folder=tmp_path, stdin=fifo, stdout=out, stderr=Path(os.devnull))
    sizes = []
    with fifo.open("wb", buffering=0) as feed:
        for start, end in pairwise([0, FIRST, *range(ROUND, NUM_LINES + 1, ROUND)]):
            feed.write("".join(f"{line}\n" for line in lines[start:end]).encode())
            if end == FIRST:
                # All that has come is answered, though the input goes on.
                wait_until(lambda: num_lines(out) == FIRST, "the first answers")
            else:
                sizes.append(resident_kilobytes(process))
    assert process.wait_for_code() == 0
    assert max(sizes) - sizes[0] < 20_000, f"resident kB after each {ROUND:,} lines: {sizes}"
    with out.open(encoding="utf-8", newline="\n") as found:
        told = [answer(line.removesuffix("\n")) for line in found]
    assert len(told) == NUM_LINES
    wrong = [number for number, (line, one) in enumerate(zip(lines, told, strict=True), 1) if one != expected[line]]
    assert not wrong, f"{len(wrong):,} lines, the first of them {wrong[:5]}"
    tally("lines through translate, each with its own translation", NUM_LINES)


def answer(line: str) -> str:
    """The translation in a line of output, whatever its form; with ``--json`` its input too."""
    if not line.startswith("{"):
        return line
    facts = json.loads(line)
    return f"{facts['input']}\t{facts['output']}"


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
