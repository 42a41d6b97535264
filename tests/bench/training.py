"""Training speed of translation models: ``seqkit train``, a loop around PyTorch's own layers, the machine's limit.

Two recipes beside this file have plain sides: ``transformer_multi30k.yaml`` (3 + 3 layers, width 256, 4 heads,
feed-forward 1,024, a joint vocabulary of 8,000), of which the other side is ``torch.nn.Transformer``; and
``lstm_multi30k.yaml``, with attention and input feeding, of which the other side is ``nn.LSTM``. Both are trained with
AdamW on batches of 4,096 tokens. All sides see the same batches of like length. Before anything is timed, their losses
without dropout and smoothing, from the same weights, are compared step by step.

1. seqkit: all that ``seqkit train`` runs between two evaluations, in fp32 and in bf16; which of them its probe
   chooses is said.
2. The plain loop, in fp32 and in bf16; ``nn.Transformer`` in bf16 also with attention as plain matrix products, which
   can be faster than PyTorch's fused kernel at the length of sentences. The fastest in bf16 is the one to beat.
3. For a Transformer, the matrix products of a step alone, at the model's own sizes, and large square ones. What a side
   reaches of that rate is its target tokens/s times the operations for each, those on padding left out.

On a GPU nothing is trained in fp32, and with ``--compile`` each side also runs through ``torch.compile``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from seqkit.cli import console
from seqkit.recipe.loading import resolve_recipe_text
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe, TransformerSeq2Seq
from seqkit.tasks.seq2seq import PreparedSeq2Seq
from seqkit.training.device import describe_device, set_up_cpu
from seqkit.training.precision import Precision

from .matmul import square_sides, step_sides
from .operations import StepOperations, batch_products, transformer_operations
from .pair_learners import PairLearner
from .plain_recurrent import PlainRecurrent, is_plain_recurrent, plain_recurrent
from .plain_transformer import PlainTransformer, is_plain_transformer, plain_transformer
from .sides import (
    SEQKIT_VERSION,
    Ratio,
    Series,
    Side,
    add_json_option,
    compare,
    note,
    package_version,
    print_environment,
    print_series,
    run_alternately,
    write_json,
    write_skipped,
)
from .training_sides import (
    TimedRun,
    Workload,
    batches_in_order,
    check_same_arithmetic,
    prepare_workload,
    probe,
    run_plain,
    run_seqkit,
)

_RECIPE = str(Path(__file__).with_name("transformer_multi30k.yaml"))
_CHANGES = ["train.batch_tokens=4096", "train.optimizer={type: adamw, lr: 1e-3}"]
_WITHOUT_CHANCE = ["model.dropout=0", "train.label_smoothing=0"]
_UNIT = "target tokens/s"
_PART_OF_RATE = 0.5
"""Of the rate of its own products that seqkit is to reach on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The plain side of a recipe."""

    name: str
    """What it is built from."""
    build: Callable[[Workload], PlainTransformer | PlainRecurrent]
    """A model with the weights that the seqkit side begins with."""
    times_as_fast: float
    """As which seqkit is to be, on a CPU."""


def plain_side(recipe: Recipe) -> Plain:
    """The plain side that is written for a recipe.

    Raises:
        SystemExit: There is none.
    """
    if isinstance(recipe, Seq2SeqRecipe) and is_plain_transformer(recipe):
        return Plain(name="nn.Transformer", build=plain_transformer, times_as_fast=1.8)
    if isinstance(recipe, Seq2SeqRecipe) and is_plain_recurrent(recipe):
        return Plain(name="nn.LSTM", build=plain_recurrent, times_as_fast=1.3)
    raise SystemExit(
        "no plain side is written for this recipe: tied, pre-norm Transformers and LSTMs of one layer with attention "
        "and input feeding have one"
    )


def run_plain_side(
    plain: Plain,
    work: Workload,
    num_steps: int,
    *,
    has_plain_attention: bool = False,
    compile_backend: str | None = None,
) -> TimedRun:
    """The plain loop.

    Args:
        plain: What it trains.
        work: On what, and how.
        num_steps: Steps to make.
        has_plain_attention: ``nn.Transformer``'s attention as matrix products instead of PyTorch's fused kernel.
        compile_backend: Have ``torch.compile`` make the model faster, with this backend.
    """
    learner = PairLearner(plain.build(work), work)
    if compile_backend is not None:
        learner.model.compile(dynamic=True, backend=compile_backend)
    kernels: AbstractContextManager[object] = sdpa_kernel(SDPBackend.MATH) if has_plain_attention else nullcontext()
    with kernels:
        return run_plain(learner, work, num_steps)


def training_sides(
    plain: Plain, work: Workload, num_steps: int, folder: Path, *, compile_backend: str | None
) -> dict[str, Side]:
    """All sides that train."""
    where = describe_device(work.device)

    def side(version: str, settings: str, run: Callable[[], TimedRun]) -> Side:
        def measure() -> float:
            return run().tokens_per_second

        return Side(run=measure, unit=_UNIT, version=version, settings=f"{settings}, {where}")

    torch_version = package_version("torch")
    precisions: tuple[Precision, ...] = ("bf16",) if work.device.type == "cuda" else ("fp32", "bf16")
    backends = (None, compile_backend) if compile_backend else (None,)
    sides: dict[str, Side] = {}
    for precision in precisions:
        for backend in backends:
            there = work.in_precision(precision)
            name = precision if backend is None else f"{precision}, compiled"
            how = precision if backend is None else f"{precision}, compiled by {backend}"
            sides[f"seqkit {name}"] = side(
                SEQKIT_VERSION,
                f"{how}, {slices_in_words(work)}",
                partial(run_seqkit, there, num_steps, folder, compile_backend=backend),
            )
            sides[f"{plain.name} {name}"] = side(
                torch_version,
                f"{how}, fused AdamW",
                partial(run_plain_side, plain, there, num_steps, compile_backend=backend),
            )
    if work.device.type == "cpu" and plain.name == "nn.Transformer":
        sides[f"{plain.name} bf16, plain attention"] = side(
            torch_version,
            "bf16, fused AdamW, attention as matrix products",
            partial(run_plain_side, plain, work.in_precision("bf16"), num_steps, has_plain_attention=True),
        )
    return sides


def slices_in_words(work: Workload) -> str:
    """How ``seqkit train`` shares a batch among threads."""
    num_slices = (work.recipe.train.slices or torch.get_num_threads()) if work.device.type == "cpu" else 1
    return f"AdamW, batches in {num_slices} slices" if num_slices > 1 else "AdamW"


def compare_all(series: dict[str, Series], plain: Plain, chosen: Precision, *, is_on_cpu: bool) -> list[Ratio]:
    """Of seqkit, in the precision its probe chose, to each plain side; the fastest one in bf16 is the one to beat."""
    ours = series.get(f"seqkit {chosen}") or series["seqkit bf16"]
    others = {name: one for name, one in series.items() if name.startswith(plain.name)}
    best = max((name for name in others if "bf16" in name), key=lambda name: others[name].median)
    aim = plain.times_as_fast if is_on_cpu else None
    ratios = [compare(ours, one, at_least=aim if name == best else None) for name, one in others.items()]
    compiled = series.get("seqkit bf16, compiled")
    if compiled is not None:
        ratios += [compare(compiled, one) for one in others.values()]
    return ratios


@dataclass(frozen=True, kw_only=True)
class MatrixWork:
    """The matrix products of a Transformer's steps."""

    operations: StepOperations
    sides: dict[str, Side]
    """The machine alone: the products of a step of middling size, and large square ones."""


def matrix_work(work: Workload, num_steps: int, *, seconds: float) -> MatrixWork | None:
    """Count the timed steps' operations; ``None`` of models whose operations nobody counts."""
    model, prepared = work.recipe.model, work.prepared
    if not isinstance(model, TransformerSeq2Seq) or not isinstance(prepared, PreparedSeq2Seq):
        return None
    vocab_size = prepared.tgt.vocab_size
    batches = list(islice(batches_in_order(prepared.batches), 1, num_steps))
    middle = sorted(batches, key=lambda batch: batch.targets_PT.size)[len(batches) // 2]
    products = batch_products(model, vocab_size, middle)
    return MatrixWork(
        operations=transformer_operations(model, vocab_size, batches),
        sides={
            **step_sides(products, seconds=seconds, device=work.device),
            **square_sides(seconds=seconds, device=work.device),
        },
    )


def compare_with_machine(
    series: dict[str, Series], operations: StepOperations, chosen: Precision, *, is_on_cpu: bool
) -> tuple[list[Series], list[Ratio]]:
    """What each side that trains reaches in matrix products, and which part of the machine's rates that is.

    Each is set beside the rates in its own precision; on a CPU seqkit in the chosen one has an aim, of the rate in
    bf16.
    """
    reached: list[Series] = []
    ratios: list[Ratio] = []
    for name, one in series.items():
        if one.unit != _UNIT:
            continue
        gflops = tuple(value * operations.per_target() / 1e9 for value in one.values)
        mine = replace(one, name=f"{name}, in products", unit="GFLOP/s", values=gflops)
        reached.append(mine)
        precision = "bf16" if "bf16" in name else "fp32"
        has_aim = is_on_cpu and name == f"seqkit {chosen}"
        if has_aim and precision != "bf16":
            ratios.append(compare(mine, series["its products bf16"], at_least=_PART_OF_RATE))
        aim = _PART_OF_RATE if has_aim and precision == "bf16" else None
        ratios.append(compare(mine, series[f"its products {precision}"], at_least=aim))
        ratios.append(compare(mine, series[f"matmul {precision}"]))
    return reached, ratios


def main() -> None:
    """Check, time and print."""
    options = _read_options()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        write_skipped(options.json, "training", "PyTorch sees no CUDA device on this machine")
        return
    set_up_cpu(options.threads)
    console.configure(console.ConsoleOptions(quiet=True))
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)

        def prepared(*changes: str) -> Workload:
            overrides = [*_CHANGES, *options.set, *changes]
            cache = folder / "cache"
            return prepare_workload(
                options.recipe, num_steps=options.steps, device=options.device, cache=cache, overrides=overrides
            )

        work = prepared()
        plain = plain_side(work.recipe)
        exact = prepared(*_WITHOUT_CHANCE).in_precision("fp32")
        worst = check_same_arithmetic(
            run_plain_side(plain, exact, options.check_steps), run_seqkit(exact, options.check_steps, folder), "fp32"
        )
        note(f"same arithmetic: losses of {options.check_steps} steps agree to {worst:.1e} nats")
        choice = probe(work)
        matrices = matrix_work(work, options.steps, seconds=options.matmul_seconds)
        sides = {
            **training_sides(plain, work, options.steps, folder, compile_backend=options.compile),
            **(matrices.sides if matrices is not None else {}),
        }
        series = {one.name: one for one in run_alternately(sides, rounds=options.rounds)}
    is_on_cpu = device.type == "cpu"
    ratios = compare_all(series, plain, choice.precision, is_on_cpu=is_on_cpu)
    results: dict[str, Any] = {
        "probe": {"precision": choice.precision, "speedup": choice.speedup},
        "worst_loss_difference": worst,
        "num_steps_compared": options.check_steps,
    }
    reached: list[Series] = []
    if matrices is not None:
        operations = matrices.operations
        reached, of_machine = compare_with_machine(series, operations, choice.precision, is_on_cpu=is_on_cpu)
        ratios += of_machine
        results["operations_per_target_token"] = operations.per_target()
        results["operations_padded_per_real"] = operations.padded / operations.real
    print_environment()
    print(f"{options.recipe}, {options.steps} steps a run, on {describe_device(device)}")
    print(f"the probe of seqkit train chooses {choice.precision}: bf16 is {choice.speedup:.2f} × as fast as fp32 to it")
    print(f"losses without dropout are at most {worst:.1e} nats apart in the first {options.check_steps} steps")
    print_series([*series.values(), *reached])
    if matrices is not None:
        padding = 100 * (results["operations_padded_per_real"] - 1)
        print(
            f"a target token takes {operations.per_target() / 1e6:,.1f} million operations in matrix products, forward "
            f"and backward; padding adds {padding:.1f} %, which does not count"
        )
    for ratio in ratios:
        print(ratio)
    write_json(
        options.json,
        "training",
        settings={
            "recipe": resolve_recipe_text(work.recipe),
            "steps": options.steps,
            "rounds": options.rounds,
            "device": describe_device(device),
            "compile": options.compile,
        },
        sides=[*series.values(), *reached],
        ratios=ratios,
        results=results,
    )


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training", description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipe", default=_RECIPE, help="a translation model that has a plain side (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs a side (%(default)s)")
    parser.add_argument("--check-steps", type=int, default=3, help="whose losses are compared (%(default)s)")
    parser.add_argument("--matmul-seconds", type=float, default=2.0, help="of each run of products (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; repeatable")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--compile", metavar="BACKEND", help="compile too: inductor, or eager to try it on a CPU")
    parser.add_argument("--threads", type=int, help="for arithmetic (one a core)")
    add_json_option(parser)
    options = parser.parse_args()
    if options.steps < 2 or options.rounds < 1 or not 1 <= options.check_steps <= options.steps:
        parser.error("at least 2 steps, 1 round, and no more steps to compare than steps")
    return options


if __name__ == "__main__":
    main()
