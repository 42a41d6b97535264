"""From a recipe, and a checkpoint if there is one, to a model that is ready to be trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from seqkit.errors import CheckpointError, UsageError
from seqkit.recipe.recipe_types import Recipe
from seqkit.runs.checkpoint import Checkpoint, read_checkpoint
from seqkit.training.averaging import WeightAverage
from seqkit.training.loop import backward_batch, make_scaler, pieces_of
from seqkit.training.optimizers import build_optimizer
from seqkit.training.pieces import Pieces
from seqkit.training.precision import Precision, PrecisionChoice, probe_precision, require_precision
from seqkit.training.prepared import Prepared
from seqkit.training.slices import SliceThreads
from seqkit.training.state import TrainState


def make_state(
    prepared: Prepared, recipe: Recipe, *, seed: int, device: torch.device, checkpoint: Checkpoint | None
) -> tuple[TrainState, PrecisionChoice | None]:
    """Build model and optimizer, or take them up from a checkpoint, and settle the precision.

    Args:
        prepared: The task with its data.
        recipe: The resolved recipe.
        seed: Seeds the global random state before the model is built.
        device: Where to train.
        checkpoint: Where to go on from; ``None`` starts anew.

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
    model = model.to(device)
    optimizer = build_optimizer(config.optimizer, model, device)
    slices = _slices(prepared, recipe, device)
    pieces = _pieces(prepared, recipe)
    choice = None
    if checkpoint is not None:
        if checkpoint.train_state is None:
            raise CheckpointError(f"{checkpoint.path}: has no train state, so training cannot go on from it")
        _load_weights(model, checkpoint)
        if not isinstance(checkpoint.train_state, dict):
            raise CheckpointError(f"{checkpoint.path}: its train state is none of a run")
        precision = str(checkpoint.train_state.get("precision"))
    elif config.precision == "auto":
        choice = probe_precision(model, _probe_step(model, prepared, device, slices, pieces), device)
        precision = choice.precision
    else:
        precision = config.precision
        if precision != "fp32":
            require_precision(model, _probe_step(model, prepared, device, slices, pieces), precision, device)
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
            state.load_state_dict(checkpoint.train_state)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"{checkpoint.path}: its train state does not fit the recipe ({reason})") from None
        progress = state.progress
        if progress.batch_index and progress.batch_index >= prepared.batches.num_batches(progress.epoch):
            raise CheckpointError(
                f"{checkpoint.path}: its train state does not fit the data (batch {progress.batch_index:,} of epoch "
                f"{progress.epoch:,})"
            )
    return state, choice


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
    _probe_step(state.model, prepared, device, state.slices, state.pieces)(precision)


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


def _pieces(prepared: Prepared, recipe: Recipe) -> Pieces:
    setting = "train.batch_size" if recipe.train.batch_size is not None else "train.batch_tokens"
    return Pieces(may_cut=not prepared.carries_state, setting=setting)


def _probe_step(
    model: nn.Module, prepared: Prepared, device: torch.device, slices: SliceThreads | None, pieces: Pieces
) -> Callable[[Precision], None]:
    batch = prepared.batches.batch(0, 0)
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
