"""What every benchmark shares: named sides, alternating runs, medians, ratios, the table and the JSON file.

Imports no torch, so that a parent that only starts processes stays small and starts fast.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import seqkit
from seqkit.runs.record import git_commit

REPOSITORY = Path(__file__).resolve().parents[2]

SEQKIT_VERSION = f"seqkit {seqkit.__version__}"

LESS_IS_BETTER = ("s", "MB", "nats/character", "perplexity")
"""Units of which a side wants little; of all others it wants much."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of those that are compared."""

    run: Callable[[], float]
    """Makes one run; returns what it measured."""
    unit: str
    version: str
    """Of what runs: ``seqkit 0.9.0``, ``torch 2.13.0``."""
    settings: str
    """What else it depends on, in words."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One side's runs."""

    name: str
    unit: str
    values: tuple[float, ...]
    """In the order they were made; at least one."""
    version: str
    """As of ``Side``."""
    settings: str
    """As of ``Side``."""

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Distance of the extremes, as a fraction of the median."""
        return (max(self.values) - min(self.values)) / self.median

    def as_dict(self) -> dict[str, Any]:
        """Every run and their summary, for JSON."""
        return {
            "version": self.version,
            "settings": self.settings,
            "unit": self.unit,
            "values": self.values,
            "median": self.median,
            "spread": self.spread,
        }


def run_alternately(sides: Mapping[str, Side], *, rounds: int, num_warmups: int = 1) -> list[Series]:
    """Run every side once a round, in the order given (A B A B …), so that noise in time meets all of them alike.

    Args:
        sides: By name.
        rounds: Measured runs a side.
        num_warmups: Rounds before, which do not count.

    Returns:
        One series a side, in the order given.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 - num_warmups, rounds + 1):
        for name, side in sides.items():
            value = side.run()
            note(f"{f'round {number}/{rounds}' if number > 0 else 'warm-up'}  {name}  {show(value)} {side.unit}")
            if number > 0:
                values[name].append(value)
    return [
        Series(name=name, unit=side.unit, values=tuple(values[name]), version=side.version, settings=side.settings)
        for name, side in sides.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as good one side is as another: as fast, or as small."""

    side: str
    other: str
    by_medians: float
    """Of their medians."""
    by_rounds: float | None
    """The median over rounds: a slow drift of the machine, which meets both, drops out. ``None`` where the sides did
    not run in the same rounds."""
    at_least: float | None
    """What it should be; ``None``: nothing was said."""

    @property
    def reaches_aim(self) -> bool | None:
        """Whether it is what it should be."""
        return None if self.at_least is None else self.by_medians >= self.at_least

    def __str__(self) -> str:
        text = f"{self.side} ÷ {self.other}: {self.by_medians:.3f} × by medians"
        if self.by_rounds is not None:
            text += f", {self.by_rounds:.3f} median over rounds"
        if self.at_least is not None:
            text += f" (aim: {self.at_least:g}, {'reached' if self.reaches_aim else 'MISSED'})"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "reaches_aim": self.reaches_aim}


def compare(side: Series, other: Series, *, at_least: float | None = None) -> Ratio:
    """How many times as good ``side`` is as ``other``; of units of which little is good, the inverse counts.

    Args:
        side: The one.
        other: The other, measured in the same unit.
        at_least: What the ratio should be.

    Raises:
        ValueError: Their units differ.
    """
    if side.unit != other.unit:
        raise ValueError(f"{side.name} is measured in {side.unit}, {other.name} in {other.unit}: no ratio")
    better, worse = (other, side) if side.unit in LESS_IS_BETTER else (side, other)
    by_rounds = None
    if len(side.values) == len(other.values):
        by_rounds = statistics.median(a / b for a, b in zip(better.values, worse.values, strict=True))
    return Ratio(
        side=side.name,
        other=other.name,
        by_medians=better.median / worse.median,
        by_rounds=by_rounds,
        at_least=at_least,
    )


def print_series(sides: Sequence[Series]) -> None:
    """A table of sides: median, lowest, highest, spread; then what each of them is."""
    rows = [
        [
            side.name,
            side.unit,
            *(show(value) for value in (side.median, min(side.values), max(side.values))),
            f"{100 * side.spread:.1f} %",
            str(len(side.values)),
        ]
        for side in sides
    ]
    print_table(["side", "unit", "median", "lowest", "highest", "spread", "runs"], rows)
    names: dict[str, list[str]] = {}
    for side in sides:
        names.setdefault(", ".join(filter(None, [side.version, side.settings])), []).append(side.name)
    for description, alike in names.items():
        print(f"{'; '.join(alike)}: {description}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side, the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())


def show(value: float) -> str:
    """A number to four digits or so.

    >>> show(31250.4), show(2.3456), show(0.01234)
    ('31,250', '2.35', '0.0123')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def note(message: str) -> None:
    """Say on stderr how the benchmark gets on."""
    print(message, file=sys.stderr, flush=True)


def environment() -> dict[str, Any]:
    """Versions, processor and threads: what a number depends on."""
    torch: Any = sys.modules.get("torch")
    return {
        "seqkit": seqkit.__version__,
        "commit": git_commit(REPOSITORY),
        "torch": version("torch"),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads() if torch is not None else len(os.sched_getaffinity(0)),
    }


def print_environment() -> None:
    """``environment`` on one line."""
    print(" · ".join(f"{key} {value}" for key, value in environment().items()))


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json FILE``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")


def write_json(
    path: Path | None,
    benchmark: str,
    *,
    settings: Mapping[str, Any],
    sides: Sequence[Series] = (),
    ratios: Sequence[Ratio] = (),
    results: Mapping[str, Any],
    plots: Sequence[Path] = (),
) -> None:
    """Write everything a reader needs to judge or repeat the numbers; nothing without a path.

    Args:
        path: The file.
        benchmark: Its name.
        settings: What it was run with.
        sides: All runs.
        ratios: Of sides to one another.
        results: Single measurements.
        plots: Pictures of them, in the same folder.
    """
    facts = {
        "benchmark": benchmark,
        "environment": environment(),
        "settings": dict(settings),
        "sides": {side.name: side.as_dict() for side in sides},
        "ratios": [ratio.as_dict() for ratio in ratios],
        "results": dict(results),
        "plots": [plot.name for plot in plots],
    }
    _write(path, facts)


def write_skipped(path: Path | None, benchmark: str, reason: str) -> None:
    """Say, and write in place of numbers, why a benchmark cannot run on this machine."""
    note(f"{benchmark}: skipped: {reason}")
    _write(path, {"benchmark": benchmark, "environment": environment(), "skipped": reason})


def package_version(name: str) -> str:
    """A package and its version: ``torch 2.13.0``."""
    return f"{name} {version(name)}"


def _write(path: Path | None, facts: Mapping[str, Any]) -> None:
    if path is None:
        return
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
