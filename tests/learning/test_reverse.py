"""The shipped recipe ``reverse``: attention learns to read a word from its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import run_training

from seqkit.cli.translation_output import hard_alignment
from seqkit.data.pair_corpora import open_pairs
from seqkit.recipe.loading import load_recipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.tasks.seq2seq_predictor import load_seq2seq
from seqkit.tasks.torch_search import torch_translator

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_hard_alignments_of_reverse_form_the_anti_diagonal(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = ["train.device=cpu", "train.precision=fp32", "train.evaluate_every=1000", "train.sample_length=0"]
    recipe = load_recipe(str(RECIPES / "reverse.yaml"), overrides=settings).recipe
    assert isinstance(recipe, Seq2SeqRecipe)
    run_training(recipe, tmp_path / "run")
    loaded = load_seq2seq(tmp_path / "run", torch.device("cpu"))
    translator = torch_translator(loaded.model, loaded.src, loaded.tgt, recipe.translate, with_attention=True)
    words = [src for src, _ in open_pairs(recipe.data, "valid").lines()][:200]
    requests = translator.reader.read(words)
    num_right = num_letters = num_on_diagonal = 0
    for word, request, (best,) in zip(words, requests, translator.translate(requests), strict=True):
        if best.text == word[::-1]:
            num_right += 1
            num_letters += len(word)
            anti_diagonal = range(len(word) - 1, -1, -1)
            num_on_diagonal += sum(map(int.__eq__, hard_alignment(request, best), anti_diagonal))
    assert num_right > 0.98 * len(words)
    assert num_on_diagonal > 0.98 * num_letters
