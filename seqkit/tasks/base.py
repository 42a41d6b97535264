"""The table of tasks: from a recipe to its data, ready to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from seqkit.recipe.schema import LmRecipe, Recipe
from seqkit.training.prepared import Prepared

Progress = Callable[[int], None]
"""Told the bytes read so far while data is prepared."""


def prepare(recipe: Recipe, cache_dir: Path, *, seed: int, on_progress: Progress | None = None) -> Prepared:
    """Read, tokenize and store the data of a recipe, by its task.

    Args:
        recipe: The resolved recipe.
        cache_dir: Where token stores are kept.
        seed: Seeds the order of batches.
        on_progress: Told the bytes read so far.
    """
    match recipe:
        case LmRecipe():
            from seqkit.tasks.lm import prepare_lm

            return prepare_lm(recipe, cache_dir, seed=seed, on_progress=on_progress)


def model_device(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device
