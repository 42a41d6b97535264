"""Texts as large as a benchmark wants: the lines of some files in ever new order, the same every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path

import numpy as np

_SEED = 1


def multi30k(*splits: str) -> list[Path]:
    """Files of Multi30k (``train.de``), from where the catalog has them."""
    from seqkit.data.catalog import locate

    return [path for split in splits for path in locate("multi30k", split)]


def shuffled_lines(files: Sequence[Path]) -> Iterator[list[bytes]]:
    """All lines of the files together in a new order, again and again."""
    lines = np.array([line for file in files for line in BytesIO(file.read_bytes())], dtype=object)
    generator = np.random.Generator(np.random.PCG64(_SEED))
    while True:
        yield lines[generator.permutation(len(lines))].tolist()


def write_megabytes(path: Path, files: Sequence[Path], megabytes: float) -> None:
    """Write so much text (10⁶ bytes each), to a line."""
    room = int(megabytes * 1e6)
    orders = shuffled_lines(files)
    with path.open("wb") as file:
        while room > 0:
            block = b"".join(next(orders))
            if len(block) > room:
                block = block[: block.rfind(b"\n", 0, room) + 1]
                room = 0
            room -= file.write(block)


def write_lines(path: Path, files: Sequence[Path], num_lines: int) -> None:
    """Write so many lines."""
    with path.open("wb") as file:
        file.writelines(islice(chain.from_iterable(shuffled_lines(files)), num_lines))


def count_lines(path: Path) -> int:
    r"""The ``\n`` in a file."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
