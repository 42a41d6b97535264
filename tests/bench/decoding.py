"""Translation speed: our engine and CTranslate2, with the same weights and threads.

"whole file" translates all lines in one call, each engine in its own batches; "one by one" gives it a line, waits for
the answer, and gives it the next. Both are sentences per second from text to text, tokenization included, models
loaded before. The engines take turns. CTranslate2 alone knows the length penalty "average" only and stops each
sentence by a rule of its own, so that some translations differ; how many, and BLEU, is said. "same search" is
CTranslate2 called directly with the settings with which our engine of that name calls it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkit.errors import UsageError
from seqkit.metrics.translation import Bleu, score_corpus
from seqkit.tasks.seq2seq_predictor import load_seq2seq
from seqkit.training.device import set_up_cpu

from . import decoding_engines
from .decoding_engines import Model, Translate
from .growth_lines import add_model_options, model_to_time
from .sides import (
    SEQKIT_VERSION,
    Ratio,
    Series,
    Side,
    add_json_option,
    compare,
    package_version,
    print_environment,
    print_series,
    print_table,
    run_alternately,
    write_json,
)
from .texts import multi30k

_FILE = "test_2016_flickr"
_NUM_TRIED = 10

OWN = "seqkit"
OWN_INT8 = "seqkit --engine-type int8"
OWN_SOON = "seqkit --engine-type int8 --patience 1.4"
"""On the validation set it is as good as the search that ends with a proof."""
OWN_SOONEST = "seqkit --engine-type int8 --patience 1"
"""It stops where CTranslate2 does by its own settings."""
BY_ENGINE = "seqkit --engine ctranslate2"
SAME_SEARCH = "ctranslate2 float32, same search"
FLOAT32 = "ctranslate2 float32"
INT8 = "ctranslate2 int8"
WHOLE = "whole file"
SINGLE = "one by one"

AIMS = (
    (OWN_SOON, FLOAT32, WHOLE, 1.3),
    (OWN_SOON, INT8, WHOLE, 1.0),
    (OWN_SOONEST, FLOAT32, WHOLE, None),
    (OWN_SOONEST, INT8, WHOLE, None),
    (OWN_INT8, FLOAT32, WHOLE, None),
    (OWN_INT8, OWN, WHOLE, None),
    (OWN, FLOAT32, WHOLE, None),
    (OWN, FLOAT32, SINGLE, 0.6),
    (BY_ENGINE, SAME_SEARCH, WHOLE, 0.95),
    (BY_ENGINE, SAME_SEARCH, SINGLE, None),
)
"""An engine, another one, how they translate, and how many times as fast the first should be."""


@dataclass(frozen=True)
class Text:
    """What is translated."""

    lines: Sequence[str]
    """None blank."""
    references: Sequence[str]
    num_single: int
    """So many of the lines are translated one by one."""


def load_engines(model: Model, folder: Path, lines: Sequence[str]) -> dict[str, Translate]:
    """All engines by name; ours in 8 bits only where the machine has exact products of such numbers.

    Args:
        model: What they translate with.
        folder: For exports.
        lines: To try settings with.
    """
    float32, int8 = model.export(folder, "float32"), model.export(folder, "int8")
    own_int8 = {}
    with suppress(UsageError):
        own_int8[OWN_INT8] = decoding_engines.own(model, "int8")
        own_int8[OWN_SOON] = decoding_engines.own(model, "int8", patience=1.4)
        own_int8[OWN_SOONEST] = decoding_engines.own(model, "int8", patience=1.0)
    return {
        OWN: decoding_engines.own(model),
        **own_int8,
        BY_ENGINE: decoding_engines.own_with_ctranslate2(model, float32),
        SAME_SEARCH: decoding_engines.same_search(model, float32),
        FLOAT32: decoding_engines.ctranslate2_alone(model, float32, lines),
        INT8: decoding_engines.ctranslate2_alone(model, int8, lines),
    }


def measure(
    engines: Mapping[str, Translate], text: Text, *, rounds: int, settings: str
) -> tuple[dict[str, Series], dict[str, list[str]]]:
    """Let engines take turns.

    Args:
        engines: By name.
        text: To translate.
        rounds: Measured runs of each engine and task.
        settings: Of all of them, in words.

    Returns:
        The runs, by engine and task, "seqkit, whole file"; and what each engine made of the whole file.
    """
    translations: dict[str, list[str]] = {}

    def whole_file(name: str) -> int:
        translations[name] = engines[name](text.lines)
        return len(text.lines)

    def one_by_one(name: str) -> int:
        lines = text.lines[: text.num_single]
        for line in lines:
            engines[name]([line])
        return len(lines)

    def timed(work: Callable[[str], int], name: str) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            num_sentences = work(name)
            return num_sentences / (time.perf_counter() - began)

        return run

    sides = {
        f"{name}, {task}": Side(run=timed(work, name), unit="sentences/s", version=_version(name), settings=settings)
        for task, work in ((WHOLE, whole_file), (SINGLE, one_by_one))
        for name in engines
    }
    series = run_alternately(sides, rounds=rounds)
    return {one.name: one for one in series}, translations


def compare_all(series: Mapping[str, Series]) -> list[Ratio]:
    """The ratios of ``AIMS``, of engines that were measured."""
    return [
        compare(series[f"{engine}, {task}"], series[f"{other}, {task}"], at_least=at_least)
        for engine, other, task, at_least in AIMS
        if f"{engine}, {task}" in series
    ]


def describe_translations(translations: Mapping[str, Sequence[str]], references: Sequence[str]) -> dict[str, Any]:
    """For each engine BLEU, and how many of its translations are those of ours."""
    return {
        name: {
            "bleu": score_corpus(Bleu(), texts, [references]).value,
            "same_as_seqkit": sum(text == ours for text, ours in zip(texts, translations[OWN], strict=True)),
        }
        for name, texts in translations.items()
    }


def main() -> None:
    """Measure and print."""
    options = _read_options()
    lines, references = (_read_lines(path) for path in (options.file, options.reference))
    if len(lines) != len(references) or not all(lines):
        raise SystemExit(f"{options.file} needs a reference for each line, and no blank line")
    text = Text(lines[: options.lines], references[: options.lines], options.single)
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)
        threads = set_up_cpu(options.threads)
        loaded = load_seq2seq(model_to_time(options, folder), torch.device("cpu"))
        model = Model(loaded, loaded.recipe.translate, threads)
        settings = f"{options.file.name}, beam {model.options.beam}, {threads} threads"
        series, translations = measure(
            load_engines(model, folder, text.lines[:_NUM_TRIED]), text, rounds=options.rounds, settings=settings
        )
    ratios = compare_all(series)
    facts = describe_translations(translations, text.references)
    print_environment()
    print_series(list(series.values()))
    print()
    print_table(
        [WHOLE, "BLEU", "as seqkit's"],
        [
            [name, f"{fact['bleu']:.2f}", f"{fact['same_as_seqkit']:,} of {len(text.lines):,}"]
            for name, fact in facts.items()
        ],
    )
    for ratio in ratios:
        print(ratio)
    write_json(
        options.json,
        "decoding",
        settings={
            "model": options.model,
            "minutes": options.minutes,
            "file": options.file.name,
            "lines": len(text.lines),
            "single": options.single,
            "threads": threads,
        },
        sides=list(series.values()),
        ratios=ratios,
        results={"translations": facts},
    )


def _version(engine: str) -> str:
    is_own = engine in (OWN, OWN_INT8, OWN_SOON, OWN_SOONEST)
    packages = [SEQKIT_VERSION] if is_own or engine == BY_ENGINE else []
    return ", ".join([*packages, package_version("torch" if is_own else "ctranslate2")])


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decoding", description=__doc__.split("\n\n")[0])
    add_model_options(parser)
    parser.add_argument("--file", type=Path, metavar="FILE", help=f"lines to translate (Multi30k's {_FILE}.de)")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="their translations, with --file")
    parser.add_argument("--lines", type=int, metavar="N", help="only the first ones")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measured runs (%(default)s)")
    parser.add_argument("--single", type=int, default=100, metavar="N", help="lines one by one (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="for each engine (one a core)")
    add_json_option(parser)
    options = parser.parse_args()
    if (options.file is None) != (options.reference is None):
        parser.error("--file and --reference belong together")
    if options.file is None:
        options.file, options.reference = multi30k(f"{_FILE}.de", f"{_FILE}.en")
    return options


if __name__ == "__main__":
    main()
