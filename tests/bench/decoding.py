"""Translation speed: our engine and, where exports for it are given, CTranslate2, with the same weights and threads.

"whole file" translates all lines in one call, each engine in its own batches; "one by one" gives it a line, waits for
the answer, and gives it the next. Both are sentences per second from text to text, tokenization included, models
loaded before. The engines take turns. "first line" is the seconds from the start of a process to its translation of
one line. CTranslate2 knows the length penalty ``average`` only and stops each sentence by a rule of its own, so that
some translations differ; how many, and BLEU, is said where a reference is given.

    python -m tests.bench.decoding MODEL FILE --reference FILE --ctranslate2 EXPORT --ctranslate2 EXPORT
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seqkit.metrics.translation import Bleu, score_corpus
from seqkit.recipe.seq2seq_schema import TranslateOptions
from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq, load_seq2seq
from seqkit.tasks.side_by_side import SideBySide
from seqkit.tasks.torch_search import torch_translator
from seqkit.tasks.translation_ensemble import joined_model
from seqkit.tasks.translation_requests import SourceLimits
from seqkit.training.device import set_threads

from .sides import (
    SEQKIT,
    Series,
    add_json_option,
    print_environment,
    print_series,
    ratio_of_medians,
    run_alternately,
    show,
    write_json,
)

Engine = Callable[[Sequence[str]], list[str]]

_CTRANSLATE2_BATCH_TOKENS = 1024
"""Source tokens of its batches."""


def own_engine(loaded: LoadedSeq2Seq, options: TranslateOptions, threads: int) -> Engine:
    """Ours, as ``seqkit translate`` sets it up."""
    translator = torch_translator(
        joined_model([loaded], options.weights),
        loaded.src,
        loaded.tgt,
        options,
        limits=SourceLimits.of([loaded.recipe]),
        side_by_side=SideBySide(threads) if threads > 1 else None,
    )
    return lambda lines: [best.text for best in translator.best(lines)]


def ctranslate2_engine(export: Path, loaded: LoadedSeq2Seq, options: TranslateOptions, threads: int) -> Engine:
    """CTranslate2 with a model exported from the same weights, its token number i being ours.

    Many lines it translates as ours does, with a thread for each batch and several batches side by side; a single line
    with all threads.
    """
    ctranslate2: Any = importlib.import_module("ctranslate2")
    config = json.loads((export / "config.json").read_text(encoding="utf-8"))
    src_tokens, tgt_tokens = (_vocabulary(export, side) for side in ("source", "target"))
    id_of_token = {token: number for number, token in enumerate(tgt_tokens)}
    ends = [] if config["add_source_eos"] else [loaded.src.eos_id]
    engines = {
        is_single: ctranslate2.Translator(
            str(export),
            intra_threads=threads if is_single else 1,
            inter_threads=1 if is_single else threads,
        )
        for is_single in (False, True)
    }

    def translate(lines: Sequence[str]) -> list[str]:
        sentences = [[src_tokens[token] for token in [*loaded.src.tokenizer.encode(line), *ends]] for line in lines]
        longest = max(map(len, sentences))
        results = engines[len(lines) == 1].translate_batch(
            sentences,
            beam_size=options.beam,
            length_penalty=options.alpha,
            max_batch_size=_CTRANSLATE2_BATCH_TOKENS,
            batch_type="tokens",
            max_decoding_length=round(options.max_length_ratio * longest) + 10,
        )
        return [loaded.tgt.decode([id_of_token[token] for token in result.hypotheses[0]]) for result in results]

    return translate


def run(
    model: Path,
    lines: Sequence[str],
    *,
    references: Sequence[str] | None = None,
    exports: Sequence[Path] = (),
    threads: int | None = None,
    rounds: int = 5,
    num_single: int = 100,
) -> list[dict[str, Any]]:
    """Measure all engines.

    Args:
        model: A translation model's folder.
        lines: To translate, none blank.
        references: Their translations, for BLEU.
        exports: Folders of the model as CTranslate2 has it.
        threads: For each engine; ``None``: one a core.
        rounds: Measured runs of each engine and task.
        num_single: So many of the lines are translated one by one.

    Returns:
        For each engine and task its name and all runs, how many times the first engine's median its own is, and for
        whole files how many translations are our engine's, and BLEU.
    """
    return _rows(_measure(model, lines, references, exports, threads, rounds, num_single))


def first_line_seconds(model: Path, line: str, threads: int | None = None) -> float:
    """From the start of ``seqkit translate`` to its end, with one line to translate."""
    began = time.perf_counter()
    words = ["translate", "--model", str(model), "--text", line, *(["--threads", str(threads)] if threads else [])]
    subprocess.run([*SEQKIT, *words], check=True, capture_output=True)
    return time.perf_counter() - began


_Measured = list[tuple[Series, dict[str, Any]]]


def _measure(
    model: Path,
    lines: Sequence[str],
    references: Sequence[str] | None,
    exports: Sequence[Path],
    threads: int | None,
    rounds: int,
    num_single: int,
) -> _Measured:
    num_threads = set_threads(threads)
    loaded = load_seq2seq(model, torch.device("cpu"))
    options = loaded.recipe.translate
    engines = {"seqkit": own_engine(loaded, options, num_threads)}
    for export in exports:
        engines[f"ctranslate2 {export.name}"] = ctranslate2_engine(export, loaded, options, num_threads)
    translations: dict[str, list[str]] = {}

    def whole_file(name: str) -> float:
        began = time.perf_counter()
        translations[name] = engines[name](lines)
        return len(lines) / (time.perf_counter() - began)

    def one_by_one(name: str) -> float:
        began = time.perf_counter()
        for line in lines[:num_single]:
            engines[name]([line])
        return min(num_single, len(lines)) / (time.perf_counter() - began)

    tasks = {"whole file": whole_file, "one by one": one_by_one}
    sides = {f"{name}, {task}": partial(work, name) for task, work in tasks.items() for name in engines}
    series = run_alternately(sides, rounds=rounds, unit="sentences/s")
    facts: dict[str, dict[str, Any]] = {}
    for name, texts in translations.items():
        same = sum(text == own for text, own in zip(texts, translations["seqkit"], strict=True))
        facts[f"{name}, whole file"] = {"same_as_seqkit": same}
        if references is not None:
            facts[f"{name}, whole file"]["bleu"] = score_corpus(Bleu(), texts, [references]).value
    return [(one, facts.get(one.name, {})) for one in series]


def _rows(measured: _Measured) -> list[dict[str, Any]]:
    by_name = {series.name: series for series, _ in measured}
    return [
        {
            "side": series.name,
            **series.as_dict(),
            "seqkit_is_times": ratio_of_medians(by_name[f"seqkit, {series.name.rpartition(', ')[2]}"], series),
            **facts,
        }
        for series, facts in measured
    ]


def _vocabulary(export: Path, side: str) -> list[str]:
    """The tokens of one side, by number."""
    paths = [export / f"{kind}_vocabulary.json" for kind in (side, "shared")]
    tokens: list[str] = json.loads(next(path for path in paths if path.exists()).read_text(encoding="utf-8"))
    return tokens


def main() -> None:
    """Measure and print."""
    options = _read_options()
    lines = _read_lines(options.file)
    references = None if options.reference is None else _read_lines(options.reference)
    measured = _measure(
        options.model, lines, references, options.ctranslate2, options.threads, options.rounds, options.single
    )
    starts = run_alternately(
        {"first line": partial(first_line_seconds, options.model, lines[0], options.threads)},
        rounds=options.rounds,
        unit="s",
    )
    rows = _rows(measured)
    print_environment()
    print_series([*(series for series, _ in measured), *starts])
    for row in rows:
        if "same_as_seqkit" in row:
            bleu = f", BLEU {row['bleu']:.2f}" if "bleu" in row else ""
            print(f"{row['side']}: {row['same_as_seqkit']:,} of {len(lines):,} as seqkit's{bleu}")
        if not row["side"].startswith("seqkit"):
            print(f"seqkit is {show(row['seqkit_is_times'])} times {row['side']}")
    write_json(
        options.json,
        "decoding",
        settings={"model": options.model, "file": options.file, "lines": len(lines), "single": options.single},
        sides=[*(series for series, _ in measured), *starts],
        results={"rows": rows},
    )


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decoding", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a translation model")
    parser.add_argument("file", type=Path, metavar="FILE", help="lines to translate")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="their translations, for BLEU")
    parser.add_argument(
        "--ctranslate2",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="the same model exported for CTranslate2; repeatable, one for each type of weights",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measured runs (%(default)s)")
    parser.add_argument("--single", type=int, default=100, metavar="N", help="lines one by one (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="for each engine (one a core)")
    add_json_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
