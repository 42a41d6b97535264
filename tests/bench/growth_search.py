"""What a translation costs as source length and beam grow: seconds a sentence in one process, start-up left out.

Sources are cut from Multi30k's German side to just so many tokens, the end token counted, and every translation is
made just as long, so that the work depends on nothing that a model has learned.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import torch

from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq, load_seq2seq
from seqkit.tasks.torch_search import torch_translator
from seqkit.training.device import describe_device, set_up_cpu

from .growth_lines import add_model_options, model_to_time
from .line_chart import Panel, save_panels
from .sides import (
    SEQKIT_VERSION,
    Side,
    add_json_option,
    package_version,
    print_environment,
    print_series,
    print_table,
    run_alternately,
    show,
    write_json,
)
from .texts import multi30k

_LENGTHS = (8, 16, 32, 64, 128)
_BEAMS = (1, 2, 5, 10)


def sources(loaded: LoadedSeq2Seq, length: int, num_sentences: int) -> list[str]:
    """Lines that are just so many tokens long, the end token counted.

    Raises:
        SystemExit: There are not enough of them.
    """
    lines = chain.from_iterable(path.read_text(encoding="utf-8").splitlines() for path in multi30k("train.de"))
    num_tokens = length - 1
    found: list[str] = []
    ids: list[int] = []
    for line in lines:
        ids += loaded.src.tokenizer.encode(line)
        while len(ids) >= num_tokens:
            text = loaded.src.decode(ids[:num_tokens])
            del ids[:num_tokens]
            # Cut inside a word, its pieces may be others than those that it was cut from.
            if len(loaded.src.tokenizer.encode(text)) == num_tokens:
                found.append(text)
                if len(found) == num_sentences:
                    return found
    raise SystemExit(f"found {len(found)} sources of {length} tokens, not {num_sentences}")


def timed(loaded: LoadedSeq2Seq, *, length: int, beam: int, num_sentences: int) -> Callable[[], float]:
    """A run: seconds for each of some sentences of a length."""
    # Of a translation's tokens the end is the last, and min_length does not count it.
    changes = {"beam": beam, "min_length": length - 1, "max_length": length}
    options = loaded.recipe.translate.model_copy(update=changes)
    translator = torch_translator(loaded.model, loaded.src, loaded.tgt, options)
    lines = sources(loaded, length, num_sentences)

    def run() -> float:
        began = time.perf_counter()
        translations = translator.best(lines)
        seconds = time.perf_counter() - began
        lengths = {translation.num_tokens for translation in translations}
        if not lengths <= {length - 1, length}:
            raise SystemExit(f"translations of {sorted(lengths)} tokens, where {length} were asked for")
        return seconds / num_sentences

    return run


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth_search", description=__doc__.split("\n\n")[0])
    add_model_options(parser)
    parser.add_argument("--lengths", type=int, nargs="+", default=_LENGTHS, metavar="N", help="tokens (%(default)s)")
    parser.add_argument("--beams", type=int, nargs="+", default=_BEAMS, metavar="N", help="(%(default)s)")
    parser.add_argument("--sentences", type=int, default=64, help="translated side by side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--threads", type=int, help="for arithmetic (one a core)")
    add_json_option(parser)
    options = parser.parse_args()
    if min(options.lengths) < 2:
        parser.error("at least 2 tokens, of which the end is one")
    set_up_cpu(options.threads)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        loaded = load_seq2seq(model_to_time(options, Path(name)), device)
    cases = [(beam, length) for beam in options.beams for length in options.lengths]
    sides = {
        f"beam {beam}, {length} tokens": Side(
            run=timed(loaded, length=length, beam=beam, num_sentences=options.sentences),
            unit="s",
            version=f"{SEQKIT_VERSION}, {package_version('torch')}",
            settings=f"a sentence of {options.sentences} side by side, {describe_device(device)}",
        )
        for beam, length in cases
    }
    series = run_alternately(sides, rounds=options.rounds)
    medians = {case: 1000 * one.median for case, one in zip(cases, series, strict=True)}
    print_environment()
    print_series(series)
    print("\nms a sentence, by source length in tokens:")
    print_table(
        ["beam", *map(str, options.lengths)],
        [[str(beam), *(show(medians[beam, length]) for length in options.lengths)] for beam in options.beams],
    )
    plots = []
    if options.json is not None:
        plots = [options.json.with_suffix(".svg")]
        by_length = {
            f"beam {beam}": [(length, medians[beam, length]) for length in options.lengths] for beam in options.beams
        }
        by_beam = {
            f"{length} tokens": [(beam, medians[beam, length]) for beam in options.beams] for length in options.lengths
        }
        save_panels(
            plots[0],
            [
                Panel(x="source length in tokens", y="ms a sentence", curves=by_length, has_log_y=True),
                Panel(x="beam", y="ms a sentence", curves=by_beam, has_log_y=True),
            ],
        )
    write_json(
        options.json,
        "growth_search",
        settings={
            "lengths": options.lengths,
            "beams": options.beams,
            "sentences": options.sentences,
            "model": options.model,
            "minutes": options.minutes,
        },
        sides=series,
        results={"milliseconds": {name: one.median * 1000 for name, one in zip(sides, series, strict=True)}},
        plots=plots,
    )


if __name__ == "__main__":
    main()
