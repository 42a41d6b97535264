"""Training overhead: tokens/s of seqkit's own training path beside a bare PyTorch loop that does the same arithmetic.

Both sides start from the same weights and see the same batches, learning rates, clipping and autocast, in one
process, one after the other. The seqkit side is all that ``seqkit train`` runs between two evaluations: session,
run folder, metrics, log file, display. The other is the loop a researcher would write. Before anything is timed,
their losses are compared step by step: a loop that did less work would not count.

Timed is what lies between the ends of the first and the last step, so neither set-up nor the evaluation at the
end of the budget. Dropout is switched off on both sides, because they would draw different masks.

Legend: B columns, T time, L length of a column, D width, V vocabulary.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.cli import console, signals
from seqkit.cli.progress import TrainingDisplay
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.recipe.loading import load_recipe, resolve_recipe_text
from seqkit.recipe.schema import LmRecipe, LstmModel
from seqkit.recipe.training_schema import AdamW
from seqkit.runs.folder import RunFolder
from seqkit.tasks.lm import PreparedLm, prepare_lm
from seqkit.training.device import describe_device, resolve_device, set_threads
from seqkit.training.events import Evaluated, Reported, Saved, Ticked
from seqkit.training.precision import Precision
from seqkit.training.schedules import learning_rate_factor
from seqkit.training.session import Session
from seqkit.training.setup import make_state

from .matmul import matmul_rates, reference_line
from .sides import (
    add_json_option,
    median_of_ratios,
    note,
    print_environment,
    print_series,
    ratio_of_medians,
    run_alternately,
    show,
    write_json,
)

_SEED = 1
_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""How far apart the losses of a step may be, in nats: the sides sum in another order, and each update passes the
difference on."""


class BareModel(nn.Module):
    """Embedding, LSTM, output layer."""

    def __init__(self, vocab_size: int, embedding_size: int, config: LstmModel) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.lstm = nn.LSTM(embedding_size, config.d_model, config.num_layers, batch_first=True)
        self.output = nn.Linear(config.d_model, vocab_size)
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, ids_BT: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of shape (B, T, V) and the last state."""
        y_BTD, state = self.lstm(self.embedding(ids_BT), state)
        return self.output(y_BTD), state


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What both sides train."""

    prepared: PreparedLm
    recipe: LmRecipe
    device: torch.device
    precision: Precision
    inputs_BL: Tensor
    targets_BL: Tensor

    @property
    def config(self) -> LstmModel:
        """The model section."""
        assert isinstance(self.recipe.model, LstmModel)
        return self.recipe.model


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """One run of one side."""

    tokens_per_second: float
    losses: list[float]
    """Of every step, nats per token."""


def run_bare(work: Workload, num_steps: int, num_planned: int) -> TimedRun:
    """The bare loop.

    Args:
        work: What to train.
        num_steps: Steps to make.
        num_planned: Steps that the learning rate is planned for.
    """
    train, length = work.recipe.train, work.recipe.train.sequence_length
    assert isinstance(train.optimizer, AdamW)
    rates = [
        train.optimizer.lr * learning_rate_factor(train.schedule, step=step, progress=step / num_planned)
        for step in range(num_steps)
    ]
    model = make_bare_model(work)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": train.optimizer.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=train.optimizer.lr,
        betas=(train.optimizer.beta1, train.optimizer.beta2),
        eps=train.optimizer.eps,
        fused=True,
    )
    num_batches = -(-work.inputs_BL.size(1) // length)
    losses: list[Tensor] = []
    state: tuple[Tensor, Tensor] | None = None
    num_tokens = 0
    began = 0.0
    for step in range(num_steps):
        index = step % num_batches
        if index == 0:
            state = None
        ids_BT = work.inputs_BL[:, index * length : (index + 1) * length]
        targets_BT = work.targets_BL[:, index * length : (index + 1) * length]
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        with torch.autocast(work.device.type, dtype=torch.bfloat16, enabled=work.precision == "bf16"):
            logits_BTV, state = model(ids_BT, state)
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        loss.backward()
        if train.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state = (state[0].detach(), state[1].detach())
        losses.append(loss.detach())
        if step == 0:
            _wait_for(work.device)
            began = time.perf_counter()
        else:
            num_tokens += targets_BT.numel()
    _wait_for(work.device)
    seconds = time.perf_counter() - began
    return TimedRun(tokens_per_second=num_tokens / seconds, losses=torch.stack(losses).tolist())


def run_seqkit(work: Workload, num_steps: int, folder: Path) -> TimedRun:
    """What ``seqkit train`` runs without a terminal, up to the end of step ``num_steps``; stderr goes to a file."""
    text = resolve_recipe_text(work.recipe)
    state, _ = make_state(work.prepared, work.recipe, seed=_SEED, device=work.device, checkpoint=None)
    losses: list[float] = []
    num_tokens = 0
    began = ended = 0.0
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(stack.enter_context((folder / "stderr.txt").open("a"))))
        console.configure(console.ConsoleOptions())
        stack.callback(console.configure, console.ConsoleOptions(quiet=True))
        run = stack.enter_context(RunFolder.create(folder / "runs", "overhead"))
        run.start(
            recipe=text.encode(),
            resolved=text,
            recipe_name="overhead",
            task=work.recipe.task,
            model=work.recipe.model.type,
            seed=_SEED,
            device=describe_device(work.device),
            command=["seqkit", "train"],
        )
        stack.enter_context(console.log_file(run.log_path))
        session = Session(work.prepared, work.recipe, text, state, run, stop=signals.received, how_to_resume="")
        stack.enter_context(signals.deferred())
        display = stack.enter_context(TrainingDisplay(work.prepared.unit))
        for event in session.events():
            match event:
                case Ticked():
                    ended = time.perf_counter()
                    losses.append(event.loss)
                    if event.step == 1:
                        began = ended
                    else:
                        num_tokens += event.num_tokens
                    if event.step == num_steps:
                        # What the session would do next is evaluate.
                        break
                    display.ticked(event)
                case Reported():
                    display.reported(event)
                case Evaluated() | Saved():
                    raise RuntimeError("an evaluation or a checkpoint fell into the timed steps")
    return TimedRun(tokens_per_second=num_tokens / (ended - began), losses=losses)


def make_bare_model(work: Workload) -> BareModel:
    """The bare model with the weights that the seqkit side begins with."""
    torch.manual_seed(_SEED)
    source = work.prepared.build_model()
    assert isinstance(source, RecurrentLanguageModel)
    bare = BareModel(source.vocab_size, source.embedding.embedding_dim, work.config)
    copy_weights(source, bare)
    return bare.to(work.device).train()


@torch.no_grad()
def copy_weights(source: RecurrentLanguageModel, bare: BareModel) -> None:
    """Give ``bare`` the weights of ``source``: ``nn.LSTM`` numbers in its names what seqkit keeps as single layers."""
    weights = {"embedding.weight": source.embedding.weight}
    for index, layer in enumerate(source.stack.layers):
        for name, parameter in layer.named_parameters():
            weights[f"lstm.{name.removesuffix('_l0')}_l{index}"] = parameter
    weights |= {f"output.{name}": parameter for name, parameter in source.output.named_parameters()}
    bare.load_state_dict(weights)


def prepare_workload(name: str, *, precision: str, num_steps: int, device: str, cache: Path) -> Workload:
    """Read the recipe and its data, and settle the precision once for both sides.

    Raises:
        SystemExit: The bare loop is not written for such a recipe.
    """
    overrides = [
        f"seed={_SEED}",
        "model.dropout=0.0",
        f"train.max_steps={num_steps}",
        "train.max_minutes=null",
        "train.max_epochs=null",
        f"train.evaluate_every={num_steps + 1}",
        f"train.checkpoint_every={num_steps + 1}",
        f"train.precision={precision}",
    ]
    recipe = load_recipe(name, overrides=overrides).recipe
    if not isinstance(recipe, LmRecipe):
        raise SystemExit(f"{name}: no language model")
    model, train = recipe.model, recipe.train
    is_written_for = (
        isinstance(model, LstmModel)
        and not model.residual
        and model.initial_state == "zero"
        and not (model.tie_embeddings and model.d_embedding not in (None, model.d_model))
        and isinstance(train.optimizer, AdamW)
        and train.bptt == "truncated"
        and train.clip_value is None
        and train.ema is None
    )
    if not is_written_for:
        raise SystemExit(f"{name}: the bare loop knows plain LSTMs, AdamW, carried state and clipping by norm only")
    place = resolve_device(device)
    prepared = prepare_lm(recipe, cache, seed=_SEED)
    if precision == "auto":
        chosen, _ = make_state(prepared, recipe, seed=_SEED, device=place, checkpoint=None)
        recipe = recipe.model_copy(update={"train": train.model_copy(update={"precision": chosen.precision})})
        prepared = prepare_lm(recipe, cache, seed=_SEED)
    chosen_precision = recipe.train.precision
    assert chosen_precision in ("fp32", "bf16")
    ids = torch.from_numpy(prepared.corpora.train.ids.astype("int64")).to(place)
    num_columns = recipe.train.num_columns
    length = (len(ids) - 1) // num_columns
    return Workload(
        prepared=prepared,
        recipe=recipe,
        device=place,
        precision=chosen_precision,
        inputs_BL=ids[: num_columns * length].view(num_columns, length),
        targets_BL=ids[1 : num_columns * length + 1].view(num_columns, length),
    )


def check_same_arithmetic(bare: TimedRun, seqkit: TimedRun, precision: Precision, num_steps: int) -> float:
    """The largest difference of the two losses over the first ``num_steps`` steps.

    Raises:
        SystemExit: It is more than rounding.
    """
    pairs = list(zip(bare.losses, seqkit.losses, strict=True))[:num_steps]
    worst = max(abs(a - b) for a, b in pairs)
    if worst > _TOLERANCE[precision]:
        raise SystemExit(f"the sides do not do the same arithmetic: losses differ by {worst:.2g} nats in a step")
    return worst


def flop_per_token(work: Workload) -> int:
    """Operations of the matrix products for one token, forward and backward: 6 for each weight that multiplies."""
    config = work.config
    width = config.d_model
    embedding_size = config.d_embedding or width
    recurrent = sum(
        4 * width * ((embedding_size if layer == 0 else width) + width) for layer in range(config.num_layers)
    )
    return 6 * (recurrent + width * work.prepared.corpora.tokenizer.vocab_size)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Compare, time and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipe", default="lstm_shakespeare", help="an LSTM language model (%(default)s)")
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
    set_threads(options.threads)
    console.configure(console.ConsoleOptions(quiet=True))
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        folder = Path(name)
        work = prepare_workload(
            options.recipe,
            precision=options.precision,
            num_steps=options.steps,
            device=options.device,
            cache=folder / "cache",
        )
        last: dict[str, TimedRun] = {}

        def timed(side: str, run: Callable[[], TimedRun]) -> Callable[[], float]:
            def measure() -> float:
                last[side] = run()
                return last[side].tokens_per_second

            return measure

        num_checked = min(options.check_steps, options.steps)
        bare = run_bare(work, num_checked, options.steps)
        worst = check_same_arithmetic(bare, run_seqkit(work, num_checked, folder), work.precision, num_checked)
        note(f"same arithmetic: losses of {num_checked} steps agree to {worst:.1e} nats")
        sides = run_alternately(
            {
                "seqkit": timed("seqkit", lambda: run_seqkit(work, options.steps, folder)),
                "bare loop": timed("bare loop", lambda: run_bare(work, options.steps, options.steps)),
            },
            rounds=options.rounds,
            unit=f"{work.prepared.unit}s/s",
        )
        rates = matmul_rates(device=work.device)
    seqkit_side, bare_side = sides
    ratio, pair_ratio = ratio_of_medians(seqkit_side, bare_side), median_of_ratios(seqkit_side, bare_side)
    achieved = {side.name: side.median * flop_per_token(work) / 1e9 for side in sides}
    losses = {name: run.losses[-1] for name, run in last.items()}
    print_environment()
    train = work.recipe.train
    print(
        f"{options.recipe}: {work.config.num_layers}×{work.config.d_model} LSTM, {train.num_columns} columns of "
        f"{train.sequence_length}, {options.steps} steps, {work.precision}, {describe_device(work.device)}"
    )
    print_series(sides)
    print(f"seqkit / bare loop: {ratio:.3f} by medians, {pair_ratio:.3f} median over rounds")
    print(
        "losses: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()) + f" at step {options.steps}; "
        f"at most {worst:.1e} apart in the first {num_checked}"
    )
    print(reference_line(rates))
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
        results={
            "ratio_of_medians": ratio,
            "median_of_ratios": pair_ratio,
            "worst_loss_difference": worst,
            "num_steps_compared": num_checked,
            "last_losses": losses,
            "matmul_gflops_of_sides": achieved,
        },
    )


if __name__ == "__main__":
    main()
