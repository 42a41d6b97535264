"""What every benchmark shares: alternating runs, medians, the table, the JSON file, and fresh processes.

Imports no torch, so that a parent that only starts processes stays small and starts fast.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import seqkit

REPOSITORY = Path(__file__).resolve().parents[2]

SEQKIT = (sys.executable, "-m", "seqkit")
"""The command line of the code under test, whatever else is installed."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One side's runs."""

    name: str
    unit: str
    values: tuple[float, ...]
    """In the order they were made; at least one."""

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
        return {"unit": self.unit, "values": self.values, "median": self.median, "spread": self.spread}


def run_alternately(
    sides: Mapping[str, Callable[[], float]], *, rounds: int, unit: str, num_warmups: int = 1
) -> list[Series]:
    """Run every side once a round, in the order given (A B A B …), so that noise in time meets all of them alike.

    Args:
        sides: Name to a run that returns its own measurement.
        rounds: Measured runs a side.
        unit: Of the measurements.
        num_warmups: Rounds before, which do not count.

    Returns:
        One series a side, in the order given.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 - num_warmups, rounds + 1):
        for name, run in sides.items():
            value = run()
            note(f"{f'round {number}/{rounds}' if number > 0 else 'warm-up'}  {name}  {show(value)} {unit}")
            if number > 0:
                values[name].append(value)
    return [Series(name=name, unit=unit, values=tuple(runs)) for name, runs in values.items()]


def ratio_of_medians(side: Series, other: Series) -> float:
    """How many times ``other`` the side is, by their medians."""
    return side.median / other.median


def median_of_ratios(side: Series, other: Series) -> float:
    """The median over rounds of side ÷ other: a slow drift of the machine, which meets both, drops out.

    >>> a, b = (Series(name=n, unit="s", values=v) for n, v in (("a", (1.0, 2.0, 9.0)), ("b", (2.0, 4.0, 9.0))))
    >>> median_of_ratios(a, b), ratio_of_medians(a, b)
    (0.5, 0.5)
    """
    return statistics.median(a / b for a, b in zip(side.values, other.values, strict=True))


def print_series(sides: Sequence[Series]) -> None:
    """A table of sides: median, lowest, highest, spread."""
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
    results: Mapping[str, Any],
) -> None:
    """Write everything a reader needs to judge or repeat the numbers; nothing without a path.

    Args:
        path: The file.
        benchmark: Its name.
        settings: What it was run with.
        sides: All runs.
        results: Ratios and single measurements.
    """
    if path is None:
        return
    facts = {
        "benchmark": benchmark,
        "environment": environment(),
        "settings": dict(settings),
        "sides": {side.name: side.as_dict() for side in sides},
        "results": dict(results),
    }
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


_CALL = """\
import importlib, json, sys
module, function, *arguments = sys.argv[1:]
result = getattr(importlib.import_module(module), function)(*arguments)
print("\\n" + json.dumps(result))
"""


def call_in_new_process(module: str, function: str, *arguments: str) -> dict[str, Any]:
    """Call a function in a fresh interpreter and return the dictionary that it returned.

    Args:
        module: Its module's full name.
        function: Its name.
        *arguments: Texts to call it with.
    """
    command = [sys.executable, "-c", _CALL, module, function, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak_megabytes() -> float:
    """The most memory this process has held so far, in units of 10⁶ bytes; mapped file pages that it read count.

    Not ``ru_maxrss``, which a child inherits from the process that started it, across ``exec``.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("/proc/self/status has no VmHWM")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
