"""Translation time and memory as the number of lines grows: ``seqkit translate`` as a whole process, file to file.

The lines are those of Multi30k's German side in ever new order. One line alone tells what starting up takes; the time
for each further line should be the same at every size, and the peak memory (PSS, sampled while the process runs)
should not grow. Greedy search unless ``--beam`` says otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from .line_chart import Panel, save_panels
from .processes import SEQKIT, run_and_weigh, train_model
from .sides import (
    SEQKIT_VERSION,
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
from .texts import count_lines, multi30k, write_lines

MODEL_RECIPE = str(Path(__file__).with_name("transformer_multi30k.yaml"))
_SIZES = (1, 1_000, 10_000, 100_000)
_MILLION = 1_000_000
_SECONDS_BETWEEN_LOOKS = 0.2


def time_sizes(
    texts: dict[int, Path], command: Sequence[str], *, rounds: int, settings: str
) -> tuple[list[Series], list[Series]]:
    """Seconds and peak memory of translating each text, in order of their sizes.

    Args:
        texts: By number of lines.
        command: Reads stdin, writes stdout.
        rounds: Runs of each.
        settings: Of the command, in words.

    Raises:
        SystemExit: A translation has not as many lines as its text.
    """
    memory: dict[int, list[float]] = {size: [] for size in texts}

    def timed(size: int, text: Path) -> Callable[[], float]:
        def run() -> float:
            output = text.with_suffix(".out")
            seconds, peak = run_and_weigh(command, text, output, every=_SECONDS_BETWEEN_LOOKS)
            if (found := count_lines(output)) != size:
                raise SystemExit(f"seqkit translate made {found:,} lines of {size:,}")
            memory[size].append(peak)
            return seconds

        return run

    version = f"{SEQKIT_VERSION}, {package_version('torch')}"
    sides = {
        f"{size:,} lines": Side(run=timed(size, text), unit="s", version=version, settings=settings)
        for size, text in texts.items()
    }
    seconds = run_alternately(sides, rounds=rounds, num_warmups=0)
    peaks = [
        Series(name=f"{size:,} lines, peak memory", unit="MB", values=tuple(values), version=version, settings=settings)
        for size, values in memory.items()
    ]
    return seconds, peaks


def milliseconds_per_line(sizes: Sequence[int], seconds: Sequence[Series]) -> list[float]:
    """From each size to the next one, by the medians: what starting up takes drops out."""
    medians = [one.median for one in seconds]
    return [
        1000 * (later - earlier) / (more - fewer)
        for (fewer, more), (earlier, later) in zip(pairwise(sizes), pairwise(medians), strict=True)
    ]


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth_lines", description=__doc__.split("\n\n")[0])
    add_model_options(parser)
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", default=_SIZES, help="lines (%(default)s)")
    parser.add_argument("--million", action="store_true", help="1,000,000 lines too")
    parser.add_argument("--beam", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each size (%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    sizes = sorted({*options.sizes, *([_MILLION] if options.million else [])})
    if len(sizes) < 2 or sizes[0] < 1:
        parser.error("at least two sizes, of at least one line")
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)
        model = model_to_time(options, folder)
        texts = {size: folder / f"{size}.txt" for size in sizes}
        for size, text in texts.items():
            write_lines(text, multi30k("train.de"), size)
        command = [*SEQKIT, "translate", "--model", str(model), "--beam", str(options.beam), "-q"]
        settings = f"{Path(MODEL_RECIPE).name if options.model is None else options.model}, beam {options.beam}"
        seconds, memory = time_sizes(texts, command, rounds=options.rounds, settings=settings)
    per_line = milliseconds_per_line(sizes, seconds)
    flatness = compare(memory[-1], memory[0])
    print_environment()
    print_series([*seconds, *memory])
    print(flatness)
    steps = [f"{fewer:,} → {more:,} lines" for fewer, more in pairwise(sizes)]
    rows = [[step, show(value), show(1000 / value)] for step, value in zip(steps, per_line, strict=True)]
    print_table(["from size to size", "ms/line", "lines/s"], rows)
    plots = []
    if options.json is not None:
        plots = [options.json.with_suffix(".svg")]
        medians = [[(size, one.median) for size, one in zip(sizes, kind, strict=True)] for kind in (seconds, memory)]
        save_panels(
            plots[0],
            [
                Panel(x="lines", y="seconds", curves={"seconds": medians[0]}, has_log_y=True),
                Panel(x="lines", y="peak memory, MB", curves={"memory": medians[1]}),
            ],
        )
    write_json(
        options.json,
        "growth_lines",
        settings={"sizes": sizes, "beam": options.beam, "model": options.model, "minutes": options.minutes},
        sides=[*seconds, *memory],
        ratios=[flatness],
        results={"milliseconds_per_line": dict(zip(steps, per_line, strict=True))},
        plots=plots,
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add which model is to translate."""
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a translation model (one is trained)")
    parser.add_argument("--minutes", type=float, default=3.0, help="to train that one for (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of its recipe; repeatable")


def model_to_time(options: argparse.Namespace, folder: Path) -> Path:
    """The model that the options name, or one trained for the purpose in ``folder``."""
    if options.model is not None:
        return Path(options.model).resolve()
    note(f"training {Path(MODEL_RECIPE).name} for {options.minutes:g} min")
    return train_model(MODEL_RECIPE, folder, f"train.max_minutes={options.minutes}", *options.set)


if __name__ == "__main__":
    main()
