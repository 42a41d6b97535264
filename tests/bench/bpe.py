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
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .processes import SEQKIT, run_and_weigh, run_command
from .sides import (
    SEQKIT_VERSION,
    Ratio,
    Series,
    Side,
    add_json_option,
    compare,
    note,
    package_version,
    print_environment,
    print_series,
    print_table,
    run_alternately,
    show,
    write_json,
)
from .texts import count_lines, multi30k, write_megabytes

_SEED = 1
_PEERS = (sys.executable, "-m", "tests.bench.bpe_peers")
_PACKAGES = {"subword-nmt": "subword-nmt", "SentencePiece": "sentencepiece", "tokenizers": "tokenizers"}
"""The name that each other side begins with, and its package."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One side of the encoding."""

    command: tuple[str, ...]
    """Reads stdin, writes stdout."""
    text: Path
    """What it is given."""


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


def measure_learning(folder: Path, corpora: Sequence[Path], vocab_size: int, rounds: int) -> list[Series]:
    """Seconds of each learner."""

    def timed(command: Sequence[str]) -> Callable[[], float]:
        return lambda: run_command(command)

    sides = {
        name: Side(run=timed(command), unit="s", version=_version(name), settings=f"{vocab_size:,} pieces")
        for name, command in learners(folder, corpora, vocab_size).items()
    }
    return run_alternately(sides, rounds=rounds)


def _version(side: str) -> str:
    return next(
        (package_version(package) for name, package in _PACKAGES.items() if side.startswith(name)), SEQKIT_VERSION
    )


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

    return run_alternately(
        {
            name: Side(
                run=timed(name, side),
                unit="MB/s",
                version=_version(name),
                settings=f"{show(side.text.stat().st_size / 1e6)} MB, a whole process",
            )
            for name, side in sides.items()
        },
        rounds=rounds,
    )


def print_part(title: str, series: Sequence[Series]) -> list[Ratio]:
    """Print one part of the benchmark; how many times as fast as each other side seqkit's first one is."""
    print(f"\n{title}")
    print_series(series)
    ratios = [compare(series[0], other) for other in series[1:]]
    for ratio in ratios:
        print(ratio)
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
    splits = ("train.en", "train.de")
    corpora = multi30k(*splits) if options.data is None else [(options.data / name).resolve() for name in splits]
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)
        text, beginning = folder / "text", folder / "beginning"
        write_megabytes(text, corpora, options.megabytes)
        write_megabytes(beginning, corpora, min(options.beginning_megabytes, options.megabytes))
        learning = measure_learning(folder, corpora, options.vocab_size, options.rounds)
        plain = encoders(folder, text, beginning, dropout=0.0)
        encoding = measure_encoding(plain, folder, options.rounds)
        note("memory")
        memory = {name: run_and_weigh(side.command, side.text)[1] for name, side in plain.items()}
        drawn = encoders(folder, beginning, beginning, dropout=options.dropout)
        dropping = measure_encoding(drawn, folder, options.rounds)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (text, beginning)}
    parts = {"learning": learning, "encoding": encoding, "dropout": dropping}
    names = [path.name for path in corpora]
    print_environment()
    ratios = {"learning": print_part(f"learning {options.vocab_size:,} pieces from {' and '.join(names)}", learning)}
    title = f"encoding {show(sizes['text'])} MB (subword-nmt: {show(sizes['beginning'])} MB)"
    ratios["encoding"] = print_part(title, encoding)
    print_table(["peak memory", "MB"], [[name, show(value)] for name, value in memory.items()])
    title = f"encoding {show(sizes['beginning'])} MB with dropout {options.dropout:g}"
    ratios["dropout"] = print_part(title, dropping)
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
        sides=[replace(one, name=f"{part}: {one.name}") for part, series in parts.items() for one in series],
        ratios=[
            replace(ratio, side=f"{part}: {ratio.side}", other=f"{part}: {ratio.other}")
            for part, found in ratios.items()
            for ratio in found
        ],
        results={"peak_megabytes": memory},
    )


if __name__ == "__main__":
    main()
