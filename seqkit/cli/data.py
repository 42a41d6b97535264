"""``seqkit data``: which data sets there are, fetching one, and where it lies."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqkit.cli import console
from seqkit.cli.command import Json, command, show_examples
from seqkit.cli.streams import write_result
from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.data.catalog import CatalogFile, Dataset
    from seqkit.data.fetch import FetchedFile, OnProgress

logger = logging.getLogger(__name__)

_SPLITS_WIDTH = 44
"""Where the list of splits in ``data ls`` is cut short."""


def register(app: typer.Typer) -> None:
    """Add ``data`` and its subcommands to the command tree."""
    data = typer.Typer(
        name="data",
        help="List and fetch data sets: built-in ones and public ones.",
        rich_markup_mode=None,
        no_args_is_help=True,
        epilog=show_examples("seqkit data ls\nseqkit data fetch tinyshakespeare\nseqkit data path tinyshakespeare"),
    )
    app.add_typer(data)

    @command(
        data, "ls", examples="seqkit data ls\nseqkit data ls multi30k\nseqkit data ls --json | jq .datasets[].name"
    )
    def ls(
        names: Annotated[
            list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these alone, one line a split.")
        ] = None,
        json_output: Json = False,
    ) -> None:
        """List the data sets: task, size of the download, whether they are on this machine, licence, splits."""
        entries = [_describe(dataset) for dataset in _datasets_named(names)] if names else _describe_all()
        if json_output:
            write_result(json.dumps({"datasets": entries}, ensure_ascii=False))
        else:
            _write_table(_split_rows(entries) if names else _dataset_rows(entries))

    @command(data, "fetch", examples="seqkit data fetch multi30k\nseqkit data fetch wikitext-2 tinyshakespeare/input")
    def fetch(
        names: Annotated[list[str], typer.Argument(metavar="NAME[/SPLIT]...", help="Data sets of the catalog.")],
        cache_dir: Annotated[
            Path | None,
            typer.Option(
                "--cache-dir",
                help="Keep them under this folder (default SEQKIT_CACHE_DIR, else the user's cache).",
                show_default=False,
            ),
        ] = None,
        timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds without a byte to wait.")] = 30.0,
        force: Annotated[bool, typer.Option("--force", help="Fetch also what is there.")] = False,
        json_output: Json = False,
    ) -> None:
        """Download data sets once, verify them, and print the folder of each."""
        results = _fetch_all(names, cache_dir=cache_dir, timeout=timeout, is_forced=force)
        if json_output:
            write_result(json.dumps({"datasets": [_fetch_report(*result) for result in results]}, ensure_ascii=False))
            return
        for _, fetched in results:
            for folder in dict.fromkeys(entry.path.parent for entry in fetched):
                write_result(str(folder))

    @command(data, "path", examples="seqkit data path multi30k/train.de\nwc -l $(seqkit data path wikitext-2)")
    def path(
        name: Annotated[str, typer.Argument(metavar="NAME[/SPLIT]", help="A data set of the catalog.")],
        json_output: Json = False,
    ) -> None:
        """Print where a data set lies on this machine, one file a line."""
        from seqkit.data.catalog import require_local

        _, files = _parse_name(name)
        paths = {file.name: str(require_local(file)) for file in files}
        if json_output:
            write_result(json.dumps({"paths": paths}, ensure_ascii=False))
            return
        for found in paths.values():
            write_result(found)


def _parse_name(name: str) -> tuple[Dataset, list[CatalogFile]]:
    """The data set and the files that ``[catalog:]NAME[/SPLIT]`` means.

    Raises:
        UsageError: It names a built-in corpus.
        MissingDataError: There is no such data set or split.
    """
    from seqkit.data.catalog import find_dataset

    if name.startswith("builtin:"):
        raise UsageError(f"{name} is built in: it needs no file", hint=f"a recipe reads it as `train: {name}`")
    title, _, split = name.removeprefix("catalog:").partition("/")
    dataset = find_dataset(title)
    return dataset, [dataset.find_file(split)] if split else list(dataset.files)


def _datasets_named(names: list[str]) -> list[Dataset]:
    return [_parse_name(name)[0] for name in names]


def _describe_all() -> list[dict[str, Any]]:
    """What ``data ls`` tells of every data set: the built-in ones, then the catalog."""
    from seqkit.data.builtin import PAIRS_LICENCE, list_builtins
    from seqkit.data.builtin_pairs import PAIRS
    from seqkit.data.catalog import list_datasets

    texts = [_describe_builtin(text.name, text.description, "lm", text.licence, []) for text in list_builtins()]
    pairs = [
        _describe_builtin(one.name, one.description, "seq2seq", PAIRS_LICENCE, one.parts()) for one in PAIRS.values()
    ]
    return [*texts, *pairs, *map(_describe, list_datasets())]


def _describe_builtin(name: str, title: str, task: str, licence: str, splits: list[str]) -> dict[str, Any]:
    """What ``data ls`` tells of what is made on the spot: it is always there, and never a file."""
    return {
        "name": f"builtin:{name}",
        "title": title,
        "task": task,
        "licence": licence,
        "download_bytes": 0,
        "present": True,
        "splits": [{"name": split, "path": None} for split in splits],
    }


def _describe(dataset: Dataset) -> dict[str, Any]:
    """What ``data ls`` tells of a data set of the catalog."""
    from seqkit.data.catalog import find_local

    splits = []
    for file in dataset.files:
        found = find_local(file)
        splits.append(
            {
                "name": file.split,
                "bytes": file.num_bytes,
                "download_bytes": file.url_bytes,
                "url": file.url,
                "sha256": file.sha256,
                "path": None if found is None else str(found),
            }
        )
    return {
        "name": f"catalog:{dataset.name}",
        "title": dataset.title,
        "task": dataset.task,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "download_bytes": dataset.download_bytes,
        "present": all(split["path"] for split in splits),
        "splits": splits,
    }


def _dataset_rows(entries: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    from seqkit.data.catalog import format_bytes

    yield "NAME", "TASK", "DOWNLOAD", "HERE", "LICENCE", "SPLITS"
    for entry in entries:
        size = format_bytes(entry["download_bytes"]) if entry["download_bytes"] else "none"
        num_here = sum(split["path"] is not None for split in entry["splits"])
        here = "yes" if entry["present"] else "part" if num_here else "no"
        splits = _cut_short([split["name"] for split in entry["splits"]])
        yield entry["name"], entry["task"], size, here, entry["licence"], splits


def _split_rows(entries: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    from seqkit.data.catalog import format_bytes

    yield "NAME", "SIZE", "PATH"
    for entry in entries:
        for split in entry["splits"]:
            yield f"{entry['name']}/{split['name']}", format_bytes(split["bytes"]), split["path"] or "-"


def _cut_short(names: list[str]) -> str:
    """The names that fit, and how many there are if they do not.

    >>> _cut_short(["train", "test"])
    'train test'
    >>> _cut_short(["a_rather_long_name_of_a_split", "another_name_that_long"])
    'a_rather_long_name_of_a_split … (2)'
    """
    shown = " ".join(names)
    num_shown = len(names)
    while len(shown) > _SPLITS_WIDTH and num_shown > 1:
        num_shown -= 1
        shown = " ".join(names[:num_shown])
    return shown if num_shown == len(names) else f"{shown} … ({len(names)})"


def _write_table(rows: Iterator[tuple[str, ...]]) -> None:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        write_result("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _fetch_all(
    names: list[str], *, cache_dir: Path | None, timeout: float, is_forced: bool
) -> list[tuple[Dataset, list[FetchedFile]]]:
    """Fetch what the names mean, one data set after the other; all names are understood before the first byte."""
    from seqkit.data.download import Patience
    from seqkit.data.fetch import fetch_files
    from seqkit.runs import places

    folder = places.cache_dir(cache_dir) / "data"
    results = []
    for dataset, files in [_parse_name(name) for name in names]:
        fetched = _already_given(files) if cache_dir is None and not is_forced else None
        if fetched is None:
            with _progress_of(dataset, files) as on_progress:
                fetched = fetch_files(
                    files, folder, is_forced=is_forced, patience=Patience(timeout=timeout), on_progress=on_progress
                )
        _tell_outcome(dataset, fetched)
        results.append((dataset, fetched))
    if folder not in places.data_dirs():
        logger.warning("recipes will look elsewhere; for them, set SEQKIT_CACHE_DIR=%s", folder.parent)
    return results


def _already_given(files: list[CatalogFile]) -> list[FetchedFile] | None:
    """The files where ``SEQKIT_DATA_DIR`` has them all, intact: recipes look there first, so that is enough."""
    from seqkit.data.catalog import find_local
    from seqkit.data.fetch import FetchedFile, is_intact
    from seqkit.runs.places import data_dirs

    for folder in data_dirs()[:-1]:
        found = [(file, find_local(file, [folder])) for file in files]
        given = [FetchedFile(file=file, path=path, status="present") for file, path in found if path is not None]
        damaged = [entry for entry in given if not is_intact(entry.file, entry.path)]
        for entry in damaged:
            logger.warning("%s differs from the catalog, and recipes will read it before the cache", entry.path)
        if not damaged and len(given) == len(files):
            return given
    return None


def _tell_outcome(dataset: Dataset, fetched: list[FetchedFile]) -> None:
    from seqkit.data.catalog import format_bytes

    new = [entry.file for entry in fetched if entry.status == "fetched"]
    folder = fetched[0].path.parent
    num_bytes = sum(file.url_bytes for file in new)
    if new:
        files = "1 file" if len(new) == 1 else f"{len(new)} files"
        message = f"{dataset.name}: fetched and verified {files}, {format_bytes(num_bytes)} · {dataset.licence}"
    else:
        message = f"{dataset.name}: already in {folder}, verified"
    fields = {"dataset": dataset.name, "num_files": len(new), "bytes": num_bytes, "folder": str(folder)}
    logger.info(message, extra={"event": "fetched" if new else "present", "fields": fields})


def _fetch_report(dataset: Dataset, fetched: list[FetchedFile]) -> dict[str, Any]:
    return {
        "name": f"catalog:{dataset.name}",
        "folder": str(fetched[0].path.parent),
        "files": [
            {
                "split": entry.file.split,
                "path": str(entry.path),
                "status": entry.status,
                "sha256": entry.file.sha256,
            }
            for entry in fetched
        ],
    }


@contextmanager
def _progress_of(dataset: Dataset, files: list[CatalogFile]) -> Iterator[OnProgress]:
    """Show a download on stderr: a bar on a terminal, else a line for each file as it begins."""
    if console.shows_progress():
        with _bar(dataset, files) as on_progress:
            yield on_progress
        return
    begun: set[str] = set()

    def tell(file: CatalogFile, num_bytes: int) -> None:
        if file.name in begun:
            return
        begun.add(file.name)
        if num_bytes < file.url_bytes:
            already = f", {num_bytes} already here" if num_bytes else ""
            fields = {"file": file.name, "url": file.url, "bytes": file.url_bytes, "bytes_here": num_bytes}
            logger.info(
                "fetching %s (%d bytes%s)",
                file.name,
                file.url_bytes,
                already,
                extra={"event": "fetching", "fields": fields},
            )

    yield tell


@contextmanager
def _bar(dataset: Dataset, files: list[CatalogFile]) -> Iterator[OnProgress]:
    """One live line for the whole data set."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr, no_color=not console.may_color(sys.stderr)),
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )
    here = dict.fromkeys((file.name for file in files), 0)
    with bar:
        task = bar.add_task(dataset.name, total=sum(file.url_bytes for file in files))

        def show(file: CatalogFile, num_bytes: int) -> None:
            here[file.name] = num_bytes
            bar.update(task, completed=sum(here.values()))

        yield show
