"""What a training is about to do, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from seqkit.cli import console

if TYPE_CHECKING:
    import torch

    from seqkit.cli.train_together import Lead
    from seqkit.recipe.recipe_types import Recipe
    from seqkit.runs.checkpoint import Checkpoint
    from seqkit.runs.folder import RunFolder
    from seqkit.training.precision import PrecisionChoice
    from seqkit.training.prepared import Prepared
    from seqkit.training.state import TrainState


def print_headline(
    recipe: Recipe,
    prepared: Prepared,
    state: TrainState,
    choice: PrecisionChoice | None,
    place: str,
    run: RunFolder,
) -> None:
    """Two lines that say what is about to be trained, on what, where."""
    from seqkit.models.build import count_parameters

    num_parameters = count_parameters(state.model)
    console.logger.info(
        "%s · %s, %s parameters · %s",
        recipe.task,
        describe_model(recipe),
        f"{num_parameters / 1e6:.1f} M" if num_parameters >= 1e6 else f"{num_parameters:,}",
        prepared.describe_data(),
    )
    console.logger.info(
        "%s, %s · budget %s · %s",
        place,
        describe_precision(state, choice),
        describe_budget(recipe),
        run.path,
        extra={"event": "start", "fields": {"run_dir": str(run.path), "num_parameters": num_parameters}},
    )


def print_going_on(checkpoint: Checkpoint, state: TrainState, size: int) -> None:
    """Say where the run goes on, and what another number of processes changes."""
    console.logger.info("going on from step %s", f"{state.progress.step:,}")
    before = checkpoint.facts.get("num_processes", 1)
    if isinstance(before, int) and before != size:
        console.logger.info(
            "%d process%s now, %d before: the batches stay the same, in the same order; dropout draws other numbers",
            size,
            "" if size == 1 else "es",
            before,
        )


def describe_place(recipe: Recipe, device: torch.device, lead: Lead | None) -> str:
    """The device, and how many processes share the work."""
    from seqkit.training.device import describe_device

    alone = describe_device(device)
    return alone if lead is None else f"{lead.size} processes ({recipe.train.parallel}), each on {alone}"


def describe_model(recipe: Recipe) -> str:
    """Kind and size: ``lstm 1×512``."""
    return f"{recipe.model.type} {recipe.model.num_layers}×{recipe.model.d_model}"


def describe_precision(state: TrainState, choice: PrecisionChoice | None) -> str:
    """The precision, and what the probe found if it ran."""
    if choice is None or choice.speedup == 0:
        return state.precision
    return f"{state.precision} (bf16 is {choice.speedup:.1f} × fp32 in a {choice.seconds:.0f} s probe)"


def describe_budget(recipe: Recipe) -> str:
    """The limits of the budget."""
    train = recipe.train
    limits = [
        f"{train.max_steps:,} steps" if train.max_steps is not None else "",
        f"{train.max_epochs:g} epochs" if train.max_epochs is not None else "",
        f"{train.max_minutes:g} min" if train.max_minutes is not None else "",
    ]
    return " or ".join(limit for limit in limits if limit)


def planned_steps(recipe: Recipe, num_batches: int) -> int | None:
    """Steps until the budget is spent, unless only the clock knows."""
    train = recipe.train
    limits = []
    if train.max_steps is not None:
        limits.append(train.max_steps)
    if train.max_epochs is not None:
        # A step ends with its epoch.
        whole, part = divmod(train.max_epochs, 1)
        limits.append(
            int(whole) * math.ceil(num_batches / train.accumulate) + math.ceil(part * num_batches / train.accumulate)
        )
    return min(limits) if limits and train.max_minutes is None else None
