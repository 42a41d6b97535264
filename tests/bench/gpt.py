"""Tiny Shakespeare, characters, equal time: nanoGPT's CPU setting, then ``gpt_shakespeare`` and ``lstm_shakespeare``.

The first side, ``plain``, is a plain loop (``plain_gpt.py``). The time T that its training and estimates take, set-up
left out, is the budget of the recipes, which are trained and scored by the command line; what they validate before
their last step is inside it. All read the same text: its first 90 % to train on, its last 10 % to be scored on.

"windows" are all windows of 256 characters of the validation text, one after the other, each read from an empty
context. The plain model has positions for 64 and cannot read more at once, so that its windows are of 64. "carried"
is the best that each kind can: a Transformer's windows overlap by half, so that a character is predicted after half a
window or more, and an LSTM carries its state through the whole text. "own" is the last loss that a side measured
itself: the plain loop in 20 random batches, a recipe in its validation. Of the plain loop the last weights are scored,
of a recipe those of its best validation.

Run it on an idle machine: other work slows the plain loop's small operations, which all threads share, far more than
the recipes, so that T and with it the difference would come out too large. ``--iterations`` and ``--minutes`` make a
quick try.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from seqkit.data.corpora import LmCorpora
from seqkit.recipe.loading import load_recipe
from seqkit.recipe.schema import LmRecipe
from seqkit.tasks.lm import prepare_lm
from seqkit.training.device import set_up_cpu

from .equal_time import Outcome, evaluate_run, outcome_series, spending_cells, spending_header, train_recipe
from .matmul import matmul_rates, reference_line
from .plain_gpt import PublishedSetting, renumber, score_plain, train_plain
from .sides import add_json_option, note, print_environment, print_table, write_json

_RECIPES = {"gpt": "gpt_shakespeare", "lstm": "lstm_shakespeare"}
_SIDES = ("plain", *_RECIPES)
_WINDOW = 256
_PROTOCOLS = {"windows": "--reset-state", "carried": "--carry-state"}
_AIM = 0.25
"""Nats per character that ``gpt_shakespeare`` is to be below the plain loop."""


def run_plain(corpora: LmCorpora, setting: PublishedSetting) -> Outcome:
    """Train and score the plain loop."""
    (train_ids_N, valid_ids_N), vocab_size = renumber(corpora.train.ids[:], corpora.valid.ids[:])
    model, outcome = train_plain(train_ids_N, valid_ids_N, vocab_size, setting)
    outcome.settings += f", {vocab_size} characters"
    for name in _PROTOCOLS:
        outcome.scores[name] = score_plain(model, valid_ids_N, vocab_size, overlaps=name == "carried")
    return outcome


def run_recipe(
    side: str, work: Path, cache: Path, *, minutes: float, overrides: list[str], threads: int | None
) -> Outcome:
    """Train and score a recipe, by the command line."""
    run_dir = work / side
    outcome = train_recipe(_RECIPES[side], run_dir, cache, minutes=minutes, overrides=overrides, threads=threads)
    for name, flag in _PROTOCOLS.items():
        scores = evaluate_run(run_dir, cache, "--window", str(_WINDOW), flag, threads=threads)
        note(f"{side}, {name}: {scores['protocol']}")
        # By the character, whatever an override of the tokenizer made a token.
        outcome.scores[name] = scores["bits_per_char"] * math.log(2)
    return outcome


def main() -> None:
    """Train all, score all, print."""
    options = _read_options()
    set_up_cpu(options.threads)
    setting = PublishedSetting(num_iterations=options.iterations)
    outcomes: dict[str, Outcome] = {}
    minutes = options.minutes
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        work, cache = Path(name), Path(name) / "cache"
        recipe = load_recipe(_RECIPES["gpt"]).recipe
        assert isinstance(recipe, LmRecipe)
        corpora = prepare_lm(recipe, cache, seed=0).corpora
        rates = matmul_rates()
        for side in options.order:
            if side == "plain":
                note(f"plain: {setting.num_iterations:,} iterations")
                outcomes[side] = run_plain(corpora, setting)
                if minutes is None:
                    minutes = outcomes[side].seconds / 60
                continue
            note(f"{side}: {minutes:.3f} min")
            outcomes[side] = run_recipe(
                side,
                work,
                cache,
                minutes=minutes,
                overrides=options.set if side == "gpt" else [],
                threads=options.threads,
            )
    print_environment()
    _print_outcomes(outcomes, minutes_given=options.minutes)
    gains = {side: gains_over(outcomes["gpt"], other) for side, other in outcomes.items()} if "gpt" in outcomes else {}
    gains.pop("gpt", None)
    _print_gains(gains)
    print(reference_line(rates))
    write_json(
        options.json,
        "gpt",
        settings={
            "minutes": minutes,
            "minutes_given": options.minutes,
            "iterations": options.iterations,
            "order": options.order,
            "overrides": options.set,
        },
        sides=[
            *outcome_series(outcomes, dict.fromkeys(_PROTOCOLS, "nats/character"), rate_unit="characters/s"),
            *rates,
        ],
        results={**{side: outcome.as_dict() for side, outcome in outcomes.items()}, "gpt_below": gains},
    )


def gains_over(gpt: Outcome, other: Outcome) -> dict[str, float]:
    """Nats per character that ``gpt_shakespeare`` is below another side, by protocol; and its windows below "own"."""
    gains = {name: other.scores[name] - gpt.scores[name] for name in _PROTOCOLS}
    return {**gains, "own": other.validations[-1]["loss"] - gpt.scores["windows"]}


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpt", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, metavar="M", help="for each recipe, instead of the plain loop's time")
    parser.add_argument("--iterations", type=int, default=2000, metavar="N", help="of the plain loop (%(default)s)")
    parser.add_argument(
        "--order",
        type=_sides,
        default=list(_SIDES),
        metavar="SIDE,SIDE,...",
        help=f"which sides, one after the other ({','.join(_SIDES)})",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of gpt_shakespeare; repeatable"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="for arithmetic, on all sides (one a core)")
    add_json_option(parser)
    options = parser.parse_args()
    if options.minutes is None and options.order[0] != "plain":
        parser.error("the plain loop's time is the budget: begin --order with plain, or give --minutes")
    return options


def _sides(text: str) -> list[str]:
    sides = text.split(",")
    if not set(sides) <= set(_SIDES) or len(set(sides)) < len(sides):
        raise argparse.ArgumentTypeError(f"{text!r}: expected some of {', '.join(_SIDES)}, each once")
    return sides


def _print_outcomes(outcomes: dict[str, Outcome], *, minutes_given: float | None) -> None:
    print("Tiny Shakespeare, nats per character over the whole validation set")
    for side, outcome in outcomes.items():
        print(f"{side}: {outcome.settings}")
    if "plain" in outcomes:
        context = PublishedSetting.context_length
        print(f"plain reads windows of {context}, not of {_WINDOW}: it has no more positions")
        print(f"T, the time of the plain loop: {outcomes['plain'].seconds:.1f} s")
    if minutes_given is not None:
        print(f"NOT at equal time: --minutes gave the recipes {60 * minutes_given:.1f} s")
    rows = [
        [
            side,
            *(f"{outcome.scores[name]:.4f}" for name in _PROTOCOLS),
            f"{outcome.validations[-1]['loss']:.4f}",
            *spending_cells(outcome),
        ]
        for side, outcome in outcomes.items()
    ]
    print_table(["side", *_PROTOCOLS, "own", *spending_header("characters")], rows)


def _print_gains(gains: dict[str, dict[str, float]]) -> None:
    for side, by_name in gains.items():
        numbers = f"{by_name['windows']:+.4f} in windows, {by_name['carried']:+.4f} carried"
        if side == "plain":
            aim = f"aimed at {_AIM} in windows, of {PublishedSetting.context_length} there and {_WINDOW} here"
            numbers += f", {by_name['own']:+.4f} from its own estimate ({aim})"
        print(f"nats/character that gpt is below {side}: {numbers}")


if __name__ == "__main__":
    main()
