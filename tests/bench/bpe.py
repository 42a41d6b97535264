"""Byte-pair encoding beside subword-nmt, the tokenizers library and SentencePiece, as whole processes.

1. Learning 8,000 pieces (subword-nmt: merges) from the English and German sides of Multi30k together.
2. Encoding a large text of Multi30k's lines in ever new order, from a file on stdin to a file, with flat memory.
   subword-nmt gets only the beginning of it, because it is slow; rates are compared, start-up included.
3. The same with BPE-dropout, on the beginning alone.

The sides cut text by rules of their own, so their pieces differ. Memory is the largest sum over a side's processes of
their proportional share (PSS), sampled in a run that is not timed. MB are 10⁶ bytes of input. A side whose package is
missing is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .sides import (
    REPOSITORY,
    SEQKIT,
    Series,
    add_json_option,
    note,
    print_environment,
    print_series,
    print_table,
    ratio_of_medians,
    run_alternately,
    show,
    write_json,
)

_SEED = 1
_PEERS = (sys.executable, "-m", "tests.bench.bpe_peers")
_SAMPLING_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One side of the encoding."""

    command: tuple[str, ...]
    """Reads stdin, writes stdout."""
    text: Path
    """What it is given."""


def generate_text(path: Path, corpora: Sequence[Path], megabytes: float) -> None:
    """Write the lines of some files in ever new order, the same for the same size.

    Args:
        path: The file to write.
        corpora: Whose lines.
        megabytes: Its size, to a line.
    """
    lines = np.array([line for file in corpora for line in file.read_bytes().splitlines(keepends=True)], dtype=object)
    generator = np.random.Generator(np.random.PCG64(_SEED))
    room = int(megabytes * 1e6)
    with path.open("wb") as file:
        while room > 0:
            block = b"".join(lines[generator.permutation(len(lines))].tolist())
            if len(block) > room:
                block = block[: block.rfind(b"\n", 0, room) + 1]
                room = 0
            room -= file.write(block)


def learners(folder: Path, corpora: Sequence[Path], vocab_size: int) -> dict[str, tuple[str, ...]]:
    """The command of each side that learns, and leaves its result in ``folder``."""
    files = tuple(map(str, corpora))
    joint = folder / "joint.txt"
    joint.write_bytes(b"".join(path.read_bytes() for path in corpora))
    size = str(vocab_size)
    sides = {"seqkit": (*SEQKIT, "bpe", "learn", *files, "-o", str(folder / "seqkit.json"), "--vocab-size", size)}
    if has_package("sentencepiece"):
        sides["SentencePiece"] = (*_PEERS, "sentencepiece-learn", str(folder / "sp"), size, *files)
    if has_package("tokenizers"):
        sides["tokenizers"] = (*_PEERS, "tokenizers-learn", str(folder / "tokenizers.json"), size, *files)
    if has_package("subword_nmt"):
        module = (sys.executable, "-m", "subword_nmt.learn_bpe")
        sides["subword-nmt"] = (*module, "-i", str(joint), "-o", str(folder / "codes"), "-s", size)
    return sides


def encoders(folder: Path, text: Path, beginning: Path, *, dropout: float) -> dict[str, Encoder]:
    """Each side that encodes, with what the learners left in ``folder``."""
    seqkit: tuple[str, ...] = (*SEQKIT, "bpe", "encode", "--tokenizer", str(folder / "seqkit.json"), "-q")
    subword_nmt: tuple[str, ...] = (sys.executable, "-m", "subword_nmt.apply_bpe", "-c", str(folder / "codes"))
    if dropout:
        seqkit += ("--dropout", str(dropout), "--seed", str(_SEED))
        subword_nmt += ("--dropout", str(dropout), "--seed", str(_SEED))
    sides = {
        "seqkit": Encoder(command=seqkit, text=text),
        "seqkit --workers 2": Encoder(command=(*seqkit, "--workers", "2"), text=text),
    }
    if has_package("sentencepiece"):
        for threads in (2, 1):
            peer = (*_PEERS, "sentencepiece-encode", str(folder / "sp.model"), str(threads), str(dropout))
            sides[f"SentencePiece, {threads} thread{'s' * (threads > 1)}"] = Encoder(command=peer, text=text)
    if has_package("subword_nmt"):
        sides["subword-nmt"] = Encoder(command=subword_nmt, text=beginning)
    return sides


def has_package(name: str) -> bool:
    """Whether a package can be imported; says so if not."""
    if importlib.util.find_spec(name) is not None:
        return True
    note(f"left out, not installed: {name}")
    return False


def run_command(command: Sequence[str], source: Path | None = None, output: Path | None = None) -> float:
    """Seconds that a whole process takes."""
    with (source or Path(os.devnull)).open("rb") as stdin, (output or Path(os.devnull)).open("wb") as stdout:
        began = time.perf_counter()
        subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=REPOSITORY, check=True)
        return time.perf_counter() - began


def peak_memory(encoder: Encoder) -> float:
    """The most memory, in MB, that a side's processes take together."""
    with encoder.text.open("rb") as stdin:
        process = subprocess.Popen(
            encoder.command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(map(_pss_megabytes, _family(process.pid))))
            time.sleep(_SAMPLING_SECONDS)
    return peak


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [pid, *(one for task in tasks for child in task.split() for one in _family(int(child)))]


def _pss_megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


def measure_learning(folder: Path, corpora: Sequence[Path], vocab_size: int, rounds: int) -> list[Series]:
    """Seconds of each learner."""

    def timed(command: Sequence[str]) -> Callable[[], float]:
        return lambda: run_command(command)

    sides = {name: timed(command) for name, command in learners(folder, corpora, vocab_size).items()}
    return run_alternately(sides, rounds=rounds, unit="s")


def measure_encoding(sides: dict[str, Encoder], folder: Path, rounds: int) -> list[Series]:
    """MB/s of each encoder; all must write as many lines as they read."""

    def timed(name: str, encoder: Encoder) -> Callable[[], float]:
        def run() -> float:
            output = folder / "encoded"
            seconds = run_command(encoder.command, encoder.text, output)
            num_lines, num_written = (count_lines(path) for path in (encoder.text, output))
            if num_lines != num_written:
                raise SystemExit(f"{name} made {num_written:,} lines of {num_lines:,}")
            return encoder.text.stat().st_size / 1e6 / seconds

        return run

    return run_alternately({name: timed(name, side) for name, side in sides.items()}, rounds=rounds, unit="MB/s")


def count_lines(path: Path) -> int:
    r"""The ``\n`` in a file."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def print_ratios(series: Sequence[Series], *, is_time: bool) -> dict[str, float]:
    """How many times as fast as each other side seqkit's first one is."""
    ours, *others = series
    ratios = {
        other.name: ratio_of_medians(other, ours) if is_time else ratio_of_medians(ours, other) for other in others
    }
    print(f"{ours.name} is " + ", ".join(f"{show(ratio)} × as fast as {name}" for name, ratio in ratios.items()))
    return ratios


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bpe", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=None, help="folder with train.en and train.de (catalog:multi30k)")
    parser.add_argument("--vocab-size", type=int, default=8000, help="(%(default)s)")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of text to encode (%(default)s)")
    parser.add_argument(
        "--beginning-megabytes", type=float, default=5.0, help="of it for subword-nmt and for dropout (%(default)s)"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="probability (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs a side (%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    corpora = _corpora(options.data)
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)
        text, beginning = folder / "text", folder / "beginning"
        generate_text(text, corpora, options.megabytes)
        generate_text(beginning, corpora, min(options.beginning_megabytes, options.megabytes))
        learning = measure_learning(folder, corpora, options.vocab_size, options.rounds)
        plain = encoders(folder, text, beginning, dropout=0.0)
        encoding = measure_encoding(plain, folder, options.rounds)
        note("memory")
        memory = {name: peak_memory(side) for name, side in plain.items()}
        drawn = encoders(folder, beginning, beginning, dropout=options.dropout)
        dropping = measure_encoding(drawn, folder, options.rounds)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (text, beginning)}
    print_environment()
    print(f"\nlearning {options.vocab_size:,} pieces from {' and '.join(path.name for path in corpora)}")
    print_series(learning)
    ratios = {"learning": print_ratios(learning, is_time=True)}
    print(f"\nencoding {show(sizes['text'])} MB (subword-nmt: {show(sizes['beginning'])} MB)")
    print_series(encoding)
    ratios["encoding"] = print_ratios(encoding, is_time=False)
    print_table(["peak memory", "MB"], [[name, show(value)] for name, value in memory.items()])
    print(f"\nencoding {show(sizes['beginning'])} MB with dropout {options.dropout:g}")
    print_series(dropping)
    ratios["dropout"] = print_ratios(dropping, is_time=False)
    write_json(
        options.json,
        "bpe",
        settings={
            "vocab_size": options.vocab_size,
            "megabytes": sizes["text"],
            "beginning_megabytes": sizes["beginning"],
            "dropout": options.dropout,
            "rounds": options.rounds,
        },
        sides=[
            Series(name=f"{part}: {one.name}", unit=one.unit, values=one.values)
            for part, series in (("learning", learning), ("encoding", encoding), ("dropout", dropping))
            for one in series
        ],
        results={"times_as_fast": ratios, "peak_megabytes": memory},
    )


def _corpora(folder: Path | None) -> list[Path]:
    """The two files, from a folder or from where the catalog has them."""
    if folder is not None:
        return [(folder / name).resolve() for name in ("train.en", "train.de")]
    from seqkit.data.catalog import locate

    return [path for split in ("train.en", "train.de") for path in locate("multi30k", split)]


if __name__ == "__main__":
    main()
