"""Public data sets that seqkit knows by name: what they are, where they come from, where they lie on this machine.

The tables ``catalog_sets.tsv`` (one row a data set) and ``catalog.tsv`` (one row a file: a URL at a pinned commit,
its size and SHA-256, and the same of the file made from it) ship with the package. Nothing here touches the
network; :mod:`seqkit.data.fetch` does.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast, get_args

from seqkit.errors import MissingDataError
from seqkit.runs.places import data_dirs

Relation = Literal["identical", "gunzip", "sst2", "trec"]
"""How a file comes from what its URL serves: the same bytes, unpacked, or rewritten as TSV with a header line."""


@dataclass(frozen=True, kw_only=True)
class CatalogFile:
    """One file of a data set, and the pinned URL that it is made from."""

    dataset: str
    split: str
    """What a user writes after the slash: ``train``, ``val.de``."""
    file: str
    """Its name in the data set's folder; a copy packed with gzip has ``.gz`` after it."""
    relation: Relation
    url: str
    url_bytes: int
    url_sha256: str | None
    """Of what the URL serves; None where only the file made from it has a known sum."""
    num_bytes: int
    """Of the file itself, unpacked."""
    sha256: str

    @property
    def name(self) -> str:
        """As in a recipe: ``catalog:multi30k/train.de``."""
        return f"catalog:{self.dataset}/{self.split}"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set of the catalog."""

    name: str
    title: str
    task: str
    licence: str
    citation: str
    files: tuple[CatalogFile, ...]

    @property
    def download_bytes(self) -> int:
        """What fetching the whole set brings over the network."""
        return sum(file.url_bytes for file in self.files)

    def find_file(self, split: str) -> CatalogFile:
        """The file called ``split``, or whose file name that is.

        Raises:
            MissingDataError: There is none; the message names the nearest.
        """
        for file in self.files:
            if split in (file.split, file.file, f"{file.file}.gz"):
                return file
        splits = [file.split for file in self.files]
        guess = _nearest(split, splits, prefix=f"catalog:{self.name}/")
        raise MissingDataError(
            f"catalog:{self.name}/{split}: {self.name} has no such split{guess}",
            hint=f"its splits are {', '.join(splits)}",
        )


def list_datasets() -> list[Dataset]:
    """Every data set of the catalog, in the order to show them."""
    return list(_load_catalog().values())


def find_dataset(name: str) -> Dataset:
    """The data set called ``name`` (without ``catalog:``).

    Raises:
        MissingDataError: There is none of that name; the message names the nearest.
    """
    known = {dataset.name: dataset for dataset in list_datasets()}
    if name in known:
        return known[name]
    raise MissingDataError(
        f"catalog:{name}: no such data set{_nearest(name, list(known), prefix='catalog:')}",
        hint="seqkit data ls names them all",
    )


def locate(name: str, split: str | None) -> list[Path]:
    """The local files of a named data set: ``catalog:NAME/SPLIT``, or ``catalog:NAME`` for a set of one file.

    Args:
        name: The data set, without ``catalog:``.
        split: Which of its files; may be None where it has only one.

    Returns:
        The file, plain or packed with gzip, in the first folder that has it.

    Raises:
        MissingDataError: It is not on this machine, or there is no such data set or split, or the set has several
            files and none was named: joining them would mix training with test text.
    """
    dataset = find_dataset(name)
    if split is not None:
        return [require_local(dataset.find_file(split))]
    if len(dataset.files) > 1:
        first = dataset.files[0]
        raise MissingDataError(
            f"catalog:{name} has {len(dataset.files)} splits: name one, as in {first.name}",
            hint=f"its splits are {', '.join(file.split for file in dataset.files)}",
        )
    return [require_local(dataset.files[0])]


def require_local(file: CatalogFile) -> Path:
    """Where ``file`` lies on this machine.

    Raises:
        MissingDataError: Nowhere; the hint says how to fetch it.
    """
    path = find_local(file)
    if path is not None:
        return path
    dataset = find_dataset(file.dataset)
    shown = file.name if len(dataset.files) > 1 else f"catalog:{dataset.name}"
    raise MissingDataError(
        f"{shown} is not on this machine",
        hint=f"seqkit data fetch {dataset.name} ({format_bytes(dataset.download_bytes)}), or set SEQKIT_DATA_DIR",
    )


def find_local(file: CatalogFile, folders: list[Path] | None = None) -> Path | None:
    """Where ``file`` lies, plain or packed with gzip, or None.

    Args:
        file: A file of the catalog.
        folders: Where to look, each laid out as ``NAME/FILE``; by default ``SEQKIT_DATA_DIR``, then the cache.
    """
    for folder in data_dirs() if folders is None else folders:
        for name in (file.file, f"{file.file}.gz"):
            path = folder / file.dataset / name
            if path.is_file():
                return path
    return None


def format_bytes(num_bytes: int) -> str:
    """A size for people, in powers of ten.

    >>> format_bytes(17), format_bytes(28_881), format_bytes(1_950_000)
    ('17 B', '29 kB', '1.9 MB')
    """
    if num_bytes < 1000:
        return f"{num_bytes} B"
    if num_bytes < 1_000_000:
        return f"{num_bytes / 1000:.0f} kB"
    return f"{num_bytes / 1_000_000:.1f} MB"


@functools.cache
def _load_catalog() -> dict[str, Dataset]:
    files: dict[str, list[CatalogFile]] = {}
    for row in _read_table("catalog.tsv"):
        if row["relation"] not in get_args(Relation):
            raise ValueError(f"catalog.tsv: {row['dataset']}/{row['split']}: unknown relation {row['relation']}")
        files.setdefault(row["dataset"], []).append(
            CatalogFile(
                dataset=row["dataset"],
                split=row["split"],
                file=row["file"],
                relation=cast(Relation, row["relation"]),
                url=row["url"],
                url_bytes=int(row["url_bytes"]),
                url_sha256=None if row["url_sha256"] == "-" else row["url_sha256"],
                num_bytes=int(row["bytes"]),
                sha256=row["sha256"],
            )
        )
    return {
        row["dataset"]: Dataset(
            name=row["dataset"],
            title=row["title"],
            task=row["task"],
            licence=row["licence"],
            citation=row["citation"],
            files=tuple(files[row["dataset"]]),
        )
        for row in _read_table("catalog_sets.tsv")
    }


def _read_table(name: str) -> Iterator[dict[str, str]]:
    """The rows of a TSV file of this package: a header line, no quoting."""
    text = importlib.resources.files("seqkit.data").joinpath(name).read_text(encoding="utf-8")
    header, *lines = text.removesuffix("\n").split("\n")
    for line in lines:
        yield dict(zip(header.split("\t"), line.split("\t"), strict=True))


def _nearest(name: str, known: list[str], *, prefix: str) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
