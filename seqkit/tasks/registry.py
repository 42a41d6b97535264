"""The table of tasks: from a recipe to its data, ready to train on."""

from __future__ import annotations

from pathlib import Path

from seqkit.data.chunks import ProgressCallback
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.schema import LmRecipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.training.prepared import Prepared


def prepare(recipe: Recipe, cache_dir: Path, *, seed: int, on_progress: ProgressCallback | None = None) -> Prepared:
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
        case Seq2SeqRecipe():
            from seqkit.tasks.seq2seq import prepare_seq2seq

            return prepare_seq2seq(recipe, cache_dir, seed=seed, on_progress=on_progress)
