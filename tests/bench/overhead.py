"""Training overhead: tokens/s of seqkit's own training path beside a bare PyTorch loop that does the same arithmetic.

The seqkit side is all that ``seqkit train`` runs between two evaluations: session, run folder, metrics, log file,
display. The other is the loop a researcher would write: for an LSTM language model around ``nn.LSTM``, for a
translation model around seqkit's own model and loss, so that nothing but the loop differs. Before anything is timed,
their losses are compared step by step: a loop that did less work would not count.

Dropout is switched off on both sides, because they would draw different masks, as are resets of the state that an
LSTM carries; and no batch is cut into slices, which is how ``seqkit train`` makes up for more than it costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from seqkit.cli import console
from seqkit.recipe.loading import load_recipe, resolve_recipe_text
from seqkit.recipe.schema import LmRecipe, LstmModel
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe, TransformerSeq2Seq
from seqkit.tasks.lm import PreparedLm
from seqkit.tasks.seq2seq import PreparedSeq2Seq
from seqkit.training.device import describe_device, set_up_cpu

from .matmul import matmul_rates, reference_line
from .operations import lstm_operations_per_token, transformer_operations
from .pair_learners import BlocksLearner
from .plain_lstm import LstmLearner, is_plain_lstm
from .sides import (
    SEQKIT_VERSION,
    Side,
    add_json_option,
    compare,
    note,
    package_version,
    print_environment,
    print_series,
    run_alternately,
    show,
    write_json,
)
from .training_sides import (
    Learner,
    TimedRun,
    Workload,
    batches_in_order,
    check_same_arithmetic,
    prepare_workload,
    probe,
    run_plain,
    run_seqkit,
)

_AIM = 0.95
_CHANGES = ("model.dropout=0.0", "train.label_smoothing=0", "train.slices=1")
_CHANGES_OF_LM = ("model.dropout=0.0", "train.reset_probability=0")
"""Without chance, and with the loss that seqkit reports, which is not the smoothed one, as the loss that is minimised.
A language model carries state, so that its batches have no slices."""


def make_learner(work: Workload) -> Learner:
    """What the bare loop trains, new.

    Raises:
        SystemExit: It is not written for such a recipe.
    """
    match work.recipe:
        case LmRecipe() if is_plain_lstm(work.recipe):
            return LstmLearner(work)
        case Seq2SeqRecipe():
            return BlocksLearner(work)
    raise SystemExit("the bare loop knows plain LSTM language models with carried state, and translation models")


def operations_per_token(work: Workload, num_steps: int) -> float | None:
    """Of the matrix products of these steps, for each real target token; ``None`` where nobody counts them."""
    recipe, prepared = work.recipe, work.prepared
    if isinstance(recipe, LmRecipe) and isinstance(recipe.model, LstmModel):
        assert isinstance(prepared, PreparedLm)
        return lstm_operations_per_token(recipe.model, prepared.corpora.tokenizer.vocab_size)
    if isinstance(recipe.model, TransformerSeq2Seq):
        assert isinstance(prepared, PreparedSeq2Seq)
        batches = islice(batches_in_order(prepared.batches), 1, num_steps)
        return transformer_operations(recipe.model, prepared.tgt.vocab_size, batches).per_target()
    return None


def main() -> None:
    """Compare, time and print."""
    options = _read_options()
    set_up_cpu(options.threads)
    console.configure(console.ConsoleOptions(quiet=True))
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)
        is_language_model = load_recipe(options.recipe).recipe.task == "lm"
        work = prepare_workload(
            options.recipe,
            num_steps=options.steps,
            device=options.device,
            cache=folder / "cache",
            overrides=[*(_CHANGES_OF_LM if is_language_model else _CHANGES), *options.set],
        )
        work = work.in_precision(probe(work).precision if options.precision == "auto" else options.precision)
        last: dict[str, TimedRun] = {}

        def timed(side: str, run: Callable[[], TimedRun]) -> Callable[[], float]:
            def measure() -> float:
                last[side] = run()
                return last[side].tokens_per_second

            return measure

        num_checked = min(options.check_steps, options.steps)
        bare = run_plain(make_learner(work), work, num_checked)
        worst = check_same_arithmetic(bare, run_seqkit(work, num_checked, folder), work.precision)
        note(f"same arithmetic: losses of {num_checked} steps agree to {worst:.1e} nats")
        unit, settings = f"{work.prepared.unit}s/s", f"{work.precision}, {describe_device(work.device)}"
        sides = run_alternately(
            {
                "seqkit": Side(
                    run=timed("seqkit", lambda: run_seqkit(work, options.steps, folder)),
                    unit=unit,
                    version=SEQKIT_VERSION,
                    settings=settings,
                ),
                "bare loop": Side(
                    run=timed("bare loop", lambda: run_plain(make_learner(work), work, options.steps)),
                    unit=unit,
                    version=package_version("torch"),
                    settings=settings,
                ),
            },
            rounds=options.rounds,
        )
        rates = matmul_rates(device=work.device)
        operations = operations_per_token(work, options.steps)
    ratio = compare(*sides, at_least=_AIM)
    losses = {name: run.losses[-1] for name, run in last.items()}
    print_environment()
    model = work.recipe.model
    print(
        f"{options.recipe}: {model.type}, {model.num_layers} layers, width {model.d_model}, {options.steps} steps a run"
    )
    print_series(sides)
    print(ratio)
    print(
        "losses: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()) + f" at step {options.steps}; "
        f"at most {worst:.1e} apart in the first {num_checked}"
    )
    print(reference_line(rates))
    achieved = {}
    if operations is not None:
        achieved = {side.name: side.median * operations / 1e9 for side in sides}
        print("in matrix products: " + ", ".join(f"{name} {show(rate)} GFLOP/s" for name, rate in achieved.items()))
    write_json(
        options.json,
        "overhead",
        settings={
            "recipe": resolve_recipe_text(work.recipe),
            "steps": options.steps,
            "precision": work.precision,
            "device": describe_device(work.device),
        },
        sides=[*sides, *rates],
        ratios=[ratio],
        results={
            "worst_loss_difference": worst,
            "num_steps_compared": num_checked,
            "last_losses": losses,
            "matmul_gflops_of_sides": achieved,
        },
    )


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--recipe", default="lstm_shakespeare", help="an LSTM language model, or a translation model (%(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; repeatable")
    parser.add_argument("--steps", type=int, default=300, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="runs a side (%(default)s)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="(%(default)s)")
    parser.add_argument("--check-steps", type=int, default=20, help="whose losses are compared (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, help="for arithmetic (one a core)")
    add_json_option(parser)
    options = parser.parse_args()
    if options.steps < 2 or options.rounds < 1:
        parser.error("at least 2 steps and 1 round")
    return options


if __name__ == "__main__":
    main()
