"""From a recipe, and a checkpoint if there is one, to a model that is ready to be trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from seqkit.errors import CheckpointError, UsageError
from seqkit.recipe.recipe_types import Recipe
from seqkit.runs.checkpoint import Checkpoint, read_checkpoint
from seqkit.training.averaging import WeightAverage
from seqkit.training.loop import backward_batch, make_scaler, pieces_of
from seqkit.training.optimizers import build_optimizer
from seqkit.training.pieces import Pieces
from seqkit.training.precision import (
    Precision,
    PrecisionChoice,
    probe_precision,
    require_precision,
    sharded_precision,
)
from seqkit.training.prepared import Prepared
from seqkit.training.slices import SliceThreads
from seqkit.training.state import TrainState

if TYPE_CHECKING:
    from seqkit.training.distributed import Team


def make_state(
    prepared: Prepared,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None,
    team: Team | None = None,
) -> tuple[TrainState, PrecisionChoice | None]:
    """Build model and optimizer, or take them up from a checkpoint, and settle the precision.

    Args:
        prepared: The task with its data.
        recipe: The resolved recipe.
        seed: Seeds the global random state before the model is built.
        device: Where to train.
        checkpoint: Where to go on from; ``None`` starts anew.
        team: The processes that train together, if there are several; all call this with equal arguments.

    Returns:
        The state, and what the precision probe found if it ran.

    Raises:
        CheckpointError: The checkpoint does not fit the recipe's model.
        UsageError: The weights to start from do not; or the precision asked for does not work here.
    """
    config = recipe.train
    torch.manual_seed(seed)
    model = prepared.build_model()
    if checkpoint is None and config.init_from is not None:
        start_from(model, prepared, Path(config.init_from))
    if checkpoint is not None:
        if checkpoint.train_state is None:
            raise CheckpointError(f"{checkpoint.path}: has no train state, so training cannot go on from it")
        if not isinstance(checkpoint.train_state, dict):
            raise CheckpointError(f"{checkpoint.path}: its train state is none of a run")
        _load_weights(model, checkpoint)
    if team is not None and team.shards:
        team.shard(model, prepared)
    else:
        model = model.to(device)
    optimizer = build_optimizer(config.optimizer, model, device)
    slices = None if team is not None and team.shards else _slices(prepared, recipe, device)
    pieces = _pieces(prepared, recipe, team)
    precision, choice = _settle_precision(model, prepared, recipe, device, checkpoint, slices, pieces, team)
    if team is not None and not team.shards:
        # A learned initial state has no gradient where the state is carried on.
        team.replicate(model, prepared.loss, sums_by_hand=slices is not None or prepared.carries_state)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        precision=precision,
        average=WeightAverage(model, config.ema) if config.ema is not None else None,
        scaler=make_scaler(precision, device),
        slices=slices,
        pieces=pieces,
    )
    if checkpoint is not None:
        try:
            state.load_state_dict(checkpoint.train_state, team)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            if team is not None and isinstance(error, RuntimeError):
                team.meeting.explain(error)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"{checkpoint.path}: its train state does not fit the recipe ({reason})") from None
        progress = state.progress
        if progress.batch_index and progress.batch_index >= prepared.batches.num_batches(progress.epoch):
            raise CheckpointError(
                f"{checkpoint.path}: its train state does not fit the data (batch {progress.batch_index:,} of epoch "
                f"{progress.epoch:,})"
            )
    return state, choice


def _settle_precision(
    model: nn.Module,
    prepared: Prepared,
    recipe: Recipe,
    device: torch.device,
    checkpoint: Checkpoint | None,
    slices: SliceThreads | None,
    pieces: Pieces,
    team: Team | None,
) -> tuple[str, PrecisionChoice | None]:
    """The precision that the recipe asks for, or the run began with, or that a probe shows to pay."""
    asked = recipe.train.precision
    if checkpoint is not None:
        return str(checkpoint.train_state.get("precision")), None
    if team is not None and team.shards:
        # No process has a whole model to probe with.
        return (asked if asked != "auto" else sharded_precision(device)), None
    run_step = _probe_step(model, prepared, device, slices, pieces, team)
    if asked == "auto":
        if team is not None and not team.is_leader:
            told: str = team.meeting.hear("precision")
            return told, None
        choice = probe_precision(model, run_step, device)
        if team is not None:
            team.meeting.tell("precision", choice.precision)
        return choice.precision, choice
    if asked != "fp32":
        require_precision(model, run_step, asked, device)
    return asked, None


def start_from(model: nn.Module, prepared: Prepared, folder: Path) -> None:
    """Give a fresh model the weights of a trained one.

    Args:
        model: The model.
        prepared: Its task; says what its tokens are.
        folder: A run or checkpoint folder; of a run its best checkpoint.

    Raises:
        UsageError: There is no such folder, or the model in it is not of the same task, tokenizer and shapes.
        CheckpointError: It is damaged.
    """
    what = f"cannot start from {folder}"
    if not folder.is_dir():
        raise UsageError(f"{what}: no such folder", hint="train.init_from names the folder of a run or a checkpoint")
    given = read_checkpoint(folder, train_state=False)
    task = prepared.facts()["task"]
    if given.facts.get("task") != task:
        raise UsageError(f"{what}: a model for the task {given.facts.get('task')}, where one for {task} is needed")
    if dict(prepared.tokenizer_files) != given.tokenizers:
        raise UsageError(
            f"{what}: its tokenizer is another one, so its weights stand for other tokens",
            hint="a bpe tokenizer can be taken over: name its file in tokenizer.path",
        )
    own = model.state_dict()
    for name in dict.fromkeys([*own, *given.weights]):
        here, there = (tuple(weights[name].shape) if name in weights else "missing" for weights in (own, given.weights))
        if here != there:
            raise UsageError(f"{what}: the weight {name} is {there} there, {here} in the recipe's model")
    model.load_state_dict(given.weights)


def try_step(state: TrainState, prepared: Prepared) -> None:
    """Run forward and backward on the first batch and throw the result away: does it fit, does it run?"""
    precision: Precision = state.precision  # type: ignore[assignment]
    device = next(state.model.parameters()).device
    _probe_step(state.model, prepared, device, state.slices, state.pieces, None)(precision)


def _load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint.path}: its weights do not fit the recipe's model ({reason})") from None


def _slices(prepared: Prepared, recipe: Recipe, device: torch.device) -> SliceThreads | None:
    """Threads that share the rows of each batch, where there is more than one and nothing forbids it."""
    if device.type != "cpu" or prepared.carries_state or recipe.train.precision == "fp16":
        return None
    num_slices = recipe.train.slices or torch.get_num_threads()
    return SliceThreads(num_slices) if num_slices > 1 else None


def _pieces(prepared: Prepared, recipe: Recipe, team: Team | None) -> Pieces:
    setting = "train.batch_size" if recipe.train.batch_size is not None else "train.batch_tokens"
    if prepared.carries_state:
        return Pieces(together="which carry state", setting=f"{setting} or train.sequence_length")
    # One alone cannot take a step in pieces: all processes add up their gradients in each.
    return Pieces(together=None if team is None else "which several processes share", setting=setting)


def _probe_step(
    model: nn.Module,
    prepared: Prepared,
    device: torch.device,
    slices: SliceThreads | None,
    pieces: Pieces,
    team: Team | None,
) -> Callable[[Precision], None]:
    batch = prepared.batches.batch(0, 0)
    if team is not None and batch.num_rows >= team.size:
        batch = batch.every(team.size, team.rank)
    clear = partial(model.zero_grad, set_to_none=True)

    def run_step(precision: Precision) -> None:
        model.train()

        # As at the end, where a step takes the most: scheduled sampling grows with what is spent.
        def work(num_pieces: int) -> None:
            for piece in pieces_of(batch, num_pieces):
                backward_batch(
                    model, piece, None, prepared.loss, spent=1.0, precision=precision, device=device, slices=slices
                )

        pieces.run(work, num_rows=lambda: batch.num_rows, clear=clear)
        clear()

    return run_step
