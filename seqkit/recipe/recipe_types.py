"""The table of tasks: what each one's recipes must look like."""

from __future__ import annotations

from seqkit.recipe.schema import LmRecipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe

Recipe = LmRecipe | Seq2SeqRecipe
"""Any recipe."""

RECIPE_TYPES: dict[str, type[LmRecipe] | type[Seq2SeqRecipe]] = {"lm": LmRecipe, "seq2seq": Seq2SeqRecipe}
"""Task name to the type that its recipes must have."""
