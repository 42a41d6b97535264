"""The recipe of a translation model, read before its weights: it says what is to read those."""

from __future__ import annotations

from pathlib import Path

from seqkit.recipe.loading import recipe_from_resolved
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.runs.model_facts import RECIPE_NAME, read_recipe_text


def read_seq2seq_recipe(path: Path) -> Seq2SeqRecipe:
    """The resolved recipe of a run, checkpoint or export folder; needs no torch.

    Raises:
        CheckpointError: The folder is damaged or incomplete.
        UsageError: It is a model of another task.
    """
    recipe = recipe_from_resolved(read_recipe_text(path, "seq2seq"), source=f"{path}/{RECIPE_NAME}")
    assert isinstance(recipe, Seq2SeqRecipe)
    return recipe
