"""Whole training runs of tiny language models, put together as ``seqkit train`` does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seqkit.recipe.loading import resolve_recipe_text
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.schema import LmRecipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.runs.folder import RunFolder
from seqkit.tasks.registry import prepare
from seqkit.training.events import Event, Ticked
from seqkit.training.resuming import check_same_inputs
from seqkit.training.session import Session
from seqkit.training.setup import make_state
from seqkit.training.state import TrainState

SIGTERM = 15


class PowerCut(Exception):  # noqa: N818 - it stands for no error of ours
    """The process was gone from one moment to the next."""


def tiny_recipe(source: Path | str, *, model: dict[str, Any], train: dict[str, Any], **sections: Any) -> LmRecipe:
    """A recipe that trains and validates on the same text, in fp32 on the CPU.

    Args:
        source: A file or ``builtin:NAME``.
        model: Its ``model`` section; width 5 unless it says otherwise.
        train: Its ``train`` section; no samples, batches of 3 sequences of 7 unless it says otherwise.
        **sections: More of the recipe.
    """
    defaults = {"batch_size": 3, "sequence_length": 7, "precision": "fp32", "device": "cpu", "sample_length": 0}
    return LmRecipe.model_validate(
        {
            "task": "lm",
            "seed": 11,
            "data": {"train": str(source), "valid": str(source)},
            "tokenizer": {"type": "char", "unseen": "error"},
            "model": {"d_model": 5, **model},
            "train": {**defaults, **train},
            **sections,
        }
    )


def run_training(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    cut_at: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[TrainState, list[Event]]:
    """Train in ``folder``, everything made anew, as one call of ``seqkit train`` would.

    Args:
        recipe: The recipe.
        folder: The run folder; token stores are kept beside it.
        resume: Go on with what is in the folder.
        stop_at: A signal arrives during this step.
        cut_at: The process vanishes after this step.
        clock: Seconds.

    Raises:
        InterruptedRunError: ``stop_at`` was reached.
        PowerCut: ``cut_at`` was reached.
    """
    with RunFolder.claim(folder, resume=resume) as run:
        assert recipe.seed is not None
        prepared = prepare(recipe, folder.parent / "cache", seed=recipe.seed)
        latest = run.latest_checkpoint() if run.state == "resumed" else None
        checkpoint = read_checkpoint(latest) if latest is not None else None
        if checkpoint is not None:
            check_same_inputs(prepared, checkpoint, run.path)
        state, _ = make_state(prepared, recipe, seed=recipe.seed, device=torch.device("cpu"), checkpoint=checkpoint)
        text = resolve_recipe_text(recipe)
        run.start(
            recipe=text.encode(),
            resolved=text,
            recipe_name="tiny",
            task="lm",
            model=recipe.model.type,
            seed=recipe.seed,
            device="cpu",
            command=["seqkit", "train"],
        )

        def signal_received() -> int | None:
            return SIGTERM if stop_at is not None and state.progress.step >= stop_at else None

        session = Session(prepared, recipe, text, state, run, stop=signal_received, how_to_resume="again", clock=clock)
        events = []
        for event in session.events():
            events.append(event)
            if isinstance(event, Ticked) and event.step == cut_at:
                raise PowerCut
        run.finish("completed", 0, {"metrics": session.final_metrics})
    return state, events
