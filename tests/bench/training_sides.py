"""The two ways to train that benchmarks set side by side: ``seqkit train``, and the loop a researcher would write.

Both begin with the same weights and see the same batches, learning rates, clipping and autocast, in one process, one
after the other. Timed is what lies between the ends of the first and the last step, so neither set-up nor the
evaluation at the end of the budget. What the plain loop trains is a ``Learner``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seqkit.cli import console, signals
from seqkit.cli.progress import TrainingDisplay
from seqkit.recipe.loading import load_recipe, resolve_recipe_text
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.training_schema import AdamW
from seqkit.runs.folder import RunFolder
from seqkit.tasks.registry import prepare
from seqkit.training.device import describe_device, resolve_device
from seqkit.training.events import Evaluated, Reported, Saved, Ticked
from seqkit.training.loop import BatchSource
from seqkit.training.precision import Precision, PrecisionChoice, autocast
from seqkit.training.prepared import Prepared
from seqkit.training.schedules import learning_rate_factor
from seqkit.training.session import Session
from seqkit.training.setup import make_state

SEED = 1

M = TypeVar("M", bound=nn.Module)

_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""How far apart the losses of a step may be, in nats: the sides sum in another order, and each update passes the
difference on."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What all sides train."""

    prepared: Prepared
    recipe: Recipe
    device: torch.device

    def in_precision(self, precision: Precision) -> Workload:
        """The same in another precision."""
        train = self.recipe.train.model_copy(update={"precision": precision})
        return replace(self, recipe=self.recipe.model_copy(update={"train": train}))

    @property
    def precision(self) -> Precision:
        """What ``in_precision`` settled."""
        precision = self.recipe.train.precision
        assert precision != "auto"
        return precision

    @property
    def optimizer(self) -> AdamW:
        """The recipe's."""
        assert isinstance(self.recipe.train.optimizer, AdamW)
        return self.recipe.train.optimizer


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """One run of one side."""

    tokens_per_second: float
    losses: list[float]
    """Of every step, nats per token."""


class Learner(Protocol):
    """A model and its loss on one batch after the other, for the plain loop."""

    @property
    def model(self) -> nn.Module:
        """In training mode, on the device."""
        ...

    def loss(self, step: int) -> tuple[Tensor, int]:
        """The mean loss of the batch of a step, counted from 0, and its number of target tokens."""
        ...


def prepare_workload(name: str, *, num_steps: int, device: str, cache: Path, overrides: list[str]) -> Workload:
    """Read the recipe and its data.

    Args:
        name: Of the recipe, or the path of one.
        num_steps: Steps of each run; no evaluation and no checkpoint falls into them.
        device: Where to train.
        cache: Where token stores are kept.
        overrides: ``KEY=VALUE``, as of ``--set``.

    Raises:
        SystemExit: The plain loop is not written for such a recipe.
    """
    budget = [
        f"seed={SEED}",
        f"train.max_steps={num_steps}",
        "train.max_minutes=null",
        "train.max_epochs=null",
        f"train.evaluate_every={num_steps + 1}",
        f"train.checkpoint_every={num_steps + 1}",
    ]
    recipe = load_recipe(name, overrides=[*budget, *overrides]).recipe
    train = recipe.train
    is_written_for = (
        isinstance(train.optimizer, AdamW) and train.clip_value is None and train.ema is None and train.accumulate == 1
    )
    if not is_written_for:
        raise SystemExit(f"{name}: the plain loop knows AdamW, one batch a step, clipping by norm and no average only")
    return Workload(prepared=prepare(recipe, cache, seed=SEED), recipe=recipe, device=resolve_device(device))


def probe(work: Workload) -> PrecisionChoice:
    """What the probe of ``seqkit train`` chooses for this model, batch and machine."""
    auto = work.recipe.train.model_copy(update={"precision": "auto"})
    recipe = work.recipe.model_copy(update={"train": auto})
    _, choice = make_state(work.prepared, recipe, seed=SEED, device=work.device, checkpoint=None)
    assert choice is not None
    return choice


def initial_model(work: Workload, kind: type[M]) -> M:
    """seqkit's model with the weights that every run begins with, on the CPU."""
    torch.manual_seed(SEED)
    model = work.prepared.build_model()
    assert isinstance(model, kind)
    return model


def batches_in_order(source: BatchSource) -> Iterator[Any]:
    """The batches that ``seqkit train`` sees, epoch after epoch."""
    epoch = 0
    while True:
        for index in range(source.num_batches(epoch)):
            yield source.batch(epoch, index)
        epoch += 1


def run_plain(learner: Learner, work: Workload, num_steps: int) -> TimedRun:
    """The plain loop.

    Args:
        learner: What is trained; new.
        work: Says how. The learning rate is planned for its budget, however many steps are made.
        num_steps: Steps to make.
    """
    train, optimizer_config = work.recipe.train, work.optimizer
    assert train.max_steps is not None
    rates = [
        optimizer_config.lr * learning_rate_factor(train.schedule, step=step, progress=step / train.max_steps)
        for step in range(num_steps)
    ]
    parameters = list(learner.model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optimizer_config.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=optimizer_config.lr,
        betas=(optimizer_config.beta1, optimizer_config.beta2),
        eps=optimizer_config.eps,
        fused=True,
    )
    losses: list[Tensor] = []
    num_tokens = 0
    began = 0.0
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        with autocast(work.precision, work.device):
            loss, num_targets = learner.loss(step)
        loss.backward()
        if train.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if step == 0:
            _wait_for(work.device)
            began = time.perf_counter()
        else:
            num_tokens += num_targets
    _wait_for(work.device)
    seconds = time.perf_counter() - began
    return TimedRun(tokens_per_second=num_tokens / seconds, losses=torch.stack(losses).tolist())


def run_seqkit(work: Workload, num_steps: int, folder: Path, *, compile_backend: str | None = None) -> TimedRun:
    """What ``seqkit train`` runs without a terminal, up to the end of a step; stderr goes to a file.

    Args:
        work: What to train.
        num_steps: Steps to make.
        folder: For the run folders.
        compile_backend: Have ``torch.compile`` make the model faster, with this backend.
    """
    text = resolve_recipe_text(work.recipe)
    state, _ = make_state(work.prepared, work.recipe, seed=SEED, device=work.device, checkpoint=None)
    if compile_backend is not None:
        # In place: the weights keep their names. No two batches need have the same shape.
        state.model.compile(dynamic=True, backend=compile_backend)
    losses: list[float] = []
    num_tokens = 0
    began = ended = 0.0
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(stack.enter_context((folder / "stderr.txt").open("a"))))
        stack.callback(console.configure, console.options)
        console.configure(console.ConsoleOptions())
        run = stack.enter_context(RunFolder.create(folder / "runs", "bench"))
        run.start(
            recipe=text.encode(),
            resolved=text,
            recipe_name="bench",
            task=work.recipe.task,
            model=work.recipe.model.type,
            seed=SEED,
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
                    # Its loss is a number already, so a GPU has done the step.
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


def check_same_arithmetic(plain: TimedRun, seqkit: TimedRun, precision: Precision) -> float:
    """The largest difference of the two losses in a step; a loop that did less work would not count.

    Raises:
        SystemExit: It is more than rounding.
    """
    worst = max(abs(a - b) for a, b in zip(plain.losses, seqkit.losses, strict=True))
    if worst > _TOLERANCE[precision]:
        raise SystemExit(f"the sides do not do the same arithmetic: losses differ by {worst:.2g} nats in a step")
    return worst


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
