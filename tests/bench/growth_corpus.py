"""Training speed as the corpus grows: tokens/s of ``seqkit train`` once it runs, and the peak memory of the process.

Two small models: an LSTM on the characters of one text, and a Transformer on the characters of sentence pairs, those
of Multi30k in ever new order. Each run is a process of its own with an empty cache, its speed that of its last
report, so that reading the corpus and laying out the first epoch are not in it; the whole time is told apart. Memory
counts mapped file pages, which the system may take back at any time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from .line_chart import Panel, save_panels
from .sides import (
    SEQKIT_VERSION,
    Series,
    Side,
    add_json_option,
    compare,
    package_version,
    print_environment,
    print_series,
    print_table,
    run_alternately,
    show,
    write_json,
)
from .store import generate_text, lm_recipe, train_in_new_process
from .texts import multi30k, write_lines

_MEGABYTES = (1.0, 10.0, 100.0)
_PAIRS = (10_000, 100_000, 1_000_000)
_LOG_EVERY = 50
_VALID_MB = 0.1
_NUM_VALID = 20

_PAIR_RECIPE = """\
task: seq2seq
seed: 1
data:
  train: {{src: {src}, tgt: {tgt}}}
  valid: {{src: {valid_src}, tgt: {valid_tgt}}}
tokenizer: {{type: char}}
model: {{type: transformer, num_layers: 1, d_model: 64, num_heads: 2}}
train:
  max_steps: {steps}
  batch_tokens: 2048
  precision: fp32
  validate_translations: 0
  sample_length: 0
  threads: {threads}
"""

_UNITS = {"text": "MB of text", "pairs": "sentence pairs"}


def text_recipe(megabytes: float, folder: Path, *, steps: int, threads: int | None) -> str:
    """The recipe of a text of a size, which is written to ``folder``."""
    text, valid = folder / f"{megabytes:g}.txt", folder / "valid.txt"
    generate_text(text, megabytes, is_ascii=False)
    generate_text(valid, _VALID_MB, is_ascii=False)
    return lm_recipe(text, valid, steps=steps, threads=threads)


def pair_recipe(num_pairs: int, folder: Path, *, steps: int, threads: int | None) -> str:
    """The recipe of so many sentence pairs, which are written to ``folder``."""
    paths = {}
    for side, language in (("src", "de"), ("tgt", "en")):
        for name, size in ((side, num_pairs), (f"valid_{side}", _NUM_VALID)):
            path = folder / f"{size}.{language}"
            # Both sides have as many lines, and so the same new orders: line n still belongs to line n.
            write_lines(path, multi30k(f"train.{language}"), size)
            paths[name] = json.dumps(str(path))
    return _PAIR_RECIPE.format(**paths, steps=steps, threads=threads or "null")


def _label(kind: str, size: float) -> str:
    # Ten digits: a million stays a million.
    return f"{size:,.10g} {_UNITS[kind]}"


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth_corpus", description=__doc__.split("\n\n")[0])
    parser.add_argument("--mb", type=float, nargs="+", default=_MEGABYTES, metavar="N", help="of text (%(default)s)")
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=_PAIRS, metavar="N", help="sentence pairs (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=3 * _LOG_EVERY, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each size (%(default)s)")
    parser.add_argument("--threads", type=int, help="for arithmetic (one a core)")
    parser.add_argument("--dir", type=Path, help="where to keep the texts meanwhile; needs about four times their size")
    add_json_option(parser)
    options = parser.parse_args()
    if options.steps <= _LOG_EVERY:
        parser.error(f"more than {_LOG_EVERY} steps: the first {_LOG_EVERY} are those of the report that is left out")
    sizes = {"text": sorted(options.mb), "pairs": sorted(options.pairs)}
    measured: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-", dir=options.dir) as name:
        work = Path(name)

        def timed(label: str, recipe: str) -> Callable[[], float]:
            found: dict[str, list[float]] = {"MB": [], "s": []}
            measured[label] = found

            def run() -> float:
                result = train_in_new_process(recipe, work)
                found["MB"].append(result["peak_mb"])
                found["s"].append(result["seconds"])
                return float(result["tokens_per_second"])

            return run

        how = {"steps": options.steps, "threads": options.threads}
        cases: list[tuple[str, float, str]] = [
            *(("text", size, text_recipe(size, work, **how)) for size in sizes["text"]),
            *(("pairs", size, pair_recipe(size, work, **how)) for size in sizes["pairs"]),
        ]
        sides = {
            _label(kind, size): Side(
                run=timed(_label(kind, size), recipe),
                unit="characters/s",
                version=f"{SEQKIT_VERSION}, {package_version('torch')}",
                settings=f"{kind}, {options.steps} steps",
            )
            for kind, size, recipe in cases
        }
        series = run_alternately(sides, rounds=options.rounds, num_warmups=0)
    more = [
        Series(name=f"{one.name}, {what}", unit=unit, values=tuple(values), version=one.version, settings=one.settings)
        for one in series
        for unit, what in (("MB", "peak memory"), ("s", "whole training"))
        for values in [measured[one.name][unit]]
    ]
    by_case = {(kind, size): one for (kind, size, _), one in zip(cases, series, strict=True)}
    medians = {case: one.median for case, one in by_case.items()}
    flatness = [compare(by_case[kind, of_kind[-1]], by_case[kind, of_kind[0]]) for kind, of_kind in sizes.items()]
    print_environment()
    print_series([*series, *more])
    for ratio in flatness:
        print(ratio)
    rows = [
        [
            _UNITS[kind],
            f"{size:,.10g}",
            show(medians[kind, size]),
            show(medians[kind, size] / medians[kind, sizes[kind][0]]),
        ]
        for kind, size in medians
    ]
    print()
    print_table(["corpus", "size", "characters/s", "of the smallest's"], rows)
    plots = []
    if options.json is not None:
        plots = [options.json.with_suffix(".svg")]
        panels = [
            Panel(
                x=_UNITS[kind],
                y="characters/s in training",
                curves={kind: [(size, medians[kind, size]) for size in sizes[kind]]},
            )
            for kind in sizes
        ]
        save_panels(plots[0], panels)
    write_json(
        options.json,
        "growth_corpus",
        settings={**sizes, "steps": options.steps, "threads": options.threads},
        sides=[*series, *more],
        ratios=flatness,
        results={},
        plots=plots,
    )


if __name__ == "__main__":
    main()
