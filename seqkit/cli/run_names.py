"""The runs that a command line names, with labels that tell them apart and what they logged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkit.cli.runs import find_run
from seqkit.errors import SeqkitError, UsageError
from seqkit.runs.folder import RESOLVED_NAME
from seqkit.runs.metrics_log import read_metrics
from seqkit.runs.places import runs_dir as chosen_runs_dir
from seqkit.runs.record import METRICS_NAME, read_record

_GIVEN_BY_SEQKIT = re.compile(r"\d{8}T\d{6}Z-(\w+)")
"""The name of a run folder that nobody named: the time and a few random letters."""


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """A run and its reports."""

    path: Path
    label: str
    rows: list[dict[str, Any]]
    """The reports, oldest first; a half-written last one is not among them."""
    unit: str | None
    """What a token is, for "nats per …"; None if the run's recipe does not tell."""


def open_run_logs(names: Sequence[str], labels: Sequence[str] | None, runs_dir: Path | None) -> list[RunLog]:
    """Find runs and read what they logged.

    Args:
        names: Run folders, or their names under the runs folder.
        labels: What to call them; None: names that tell them apart.
        runs_dir: What ``--runs-dir`` says.

    Raises:
        UsageError: There is no such run, one is named twice, or the labels are not one a run.
        DataError: A log is damaged.
    """
    paths = [_log_folder(name, runs_dir) for name in names]
    places = [path.resolve() for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(f"{names[number]}: this run is named twice")
    if labels is not None and len(labels) != len(names):
        raise UsageError(f"--label is given {len(labels)} times for {len(names)} runs; give one for each, in order")
    return [
        RunLog(path=path, label=_printable(label), rows=read_metrics(path / METRICS_NAME), unit=_unit(path))
        for path, label in zip(paths, labels or run_labels(paths), strict=True)
    ]


def run_labels(paths: Sequence[Path]) -> list[str]:
    """Short labels, no two alike.

    A folder that somebody named goes by its name, one that seqkit named by its recipe; where that leaves two alike,
    more is said of those.

    >>> run_labels([Path("runs/a"), Path("runs/gru/20261120T101500Z-k3x7")])
    ['a', 'gru']
    >>> run_labels([Path("runs/gru/20261120T101500Z-k3x7"), Path("runs/gru/20261121T101500Z-p0aa")])
    ['gru k3x7', 'gru p0aa']
    >>> run_labels([Path("one/a"), Path("two/a"), Path("b")])
    ['one/a', 'two/a', 'b']
    """
    ways: list[Callable[[Path], str]] = [
        _short,
        _with_id,
        lambda path: "/".join(path.absolute().parts[-2:]),
        str,
        lambda path: str(path.absolute()),
    ]
    labels = [ways[0](path) for path in paths]
    for way in ways[1:]:
        counts = Counter(labels)
        labels = [label if counts[label] == 1 else way(path) for label, path in zip(labels, paths, strict=True)]
    return labels


def _short(path: Path) -> str:
    """The folder's name; of one that seqkit named, the recipe's."""
    if not _GIVEN_BY_SEQKIT.fullmatch(path.name):
        return path.name or path.absolute().name
    try:
        return str(read_record(path).get("recipe") or path.absolute().parent.name)
    except SeqkitError:
        return path.absolute().parent.name


def _with_id(path: Path) -> str:
    found = _GIVEN_BY_SEQKIT.fullmatch(path.name)
    return f"{_short(path)} {found[1]}" if found else _short(path)


def _log_folder(name: str, runs_dir: Path | None) -> Path:
    """The run folder; one with a log and nothing else, such as a copy of the log, will do."""
    path = Path(name)
    return path if (path / METRICS_NAME).is_file() else find_run(name, chosen_runs_dir(runs_dir))


def _unit(run_dir: Path) -> str | None:
    """What a target token of a run is."""
    from seqkit.recipe import yaml12
    from seqkit.tokenizers.registry import unit_of

    try:
        recipe = yaml12.load((run_dir / RESOLVED_NAME).read_bytes())
    except (OSError, yaml12.YamlError):
        return None
    if not isinstance(recipe, dict):
        return None
    tokenizer = recipe.get("target_tokenizer") or recipe.get("tokenizer")
    return unit_of(str(tokenizer.get("type"))) if isinstance(tokenizer, dict) else None


def _printable(text: str) -> str:
    """A label that neither moves a terminal's cursor nor breaks a line."""
    from seqkit.tokenizers.base import printable

    return printable(text)
