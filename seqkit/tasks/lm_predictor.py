"""A trained language model behind ``sample`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkit.data.store import TokenStore
from seqkit.decoding.sampling import SamplingRule, generate, row_generators
from seqkit.decoding.scoring import score_stream, score_windows
from seqkit.errors import CheckpointError
from seqkit.metrics.language_model import LanguageModelScore
from seqkit.models.build import build_language_model
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.recipe.loading import recipe_from_resolved
from seqkit.recipe.schema import LmRecipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.tasks.lm import store_score
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.registry import tokenizer_from_json
from seqkit.training.device import model_device


@dataclass(frozen=True)
class LoadedLm:
    """A language model read from a model folder, ready to use."""

    model: RecurrentLanguageModel
    tokenizer: Tokenizer
    recipe: LmRecipe
    path: Path
    facts: dict[str, Any]


def load_lm(path: Path, device: torch.device) -> LoadedLm:
    """Read a language model from a run folder or checkpoint folder; runs no code from it.

    Raises:
        CheckpointError: It is damaged or incomplete.
        UsageError: It is a model of another task.
    """
    checkpoint = read_checkpoint(path, train_state=False)
    checkpoint.require_task("lm")
    recipe = recipe_from_resolved(checkpoint.recipe, source=f"{checkpoint.path}/recipe.yaml")
    assert isinstance(recipe, LmRecipe)
    text = checkpoint.tokenizers.get("tokenizer.json")
    if text is None:
        raise CheckpointError(f"{checkpoint.path}: tokenizer.json is missing")
    tokenizer = tokenizer_from_json(text)
    model = build_language_model(recipe.model, tokenizer.vocab_size)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint.path}: its weights do not fit its recipe ({reason})") from None
    return LoadedLm(model.to(device).eval(), tokenizer, recipe, checkpoint.path, checkpoint.facts)


def evaluate_store(
    model: RecurrentLanguageModel,
    tokenizer: Tokenizer,
    store: TokenStore,
    *,
    window: int | None,
    reset_state: bool,
) -> LanguageModelScore:
    """Score a whole store: as one stream with the state carried, or in windows from an empty state.

    Args:
        model: The model.
        tokenizer: What the store was encoded with.
        store: At least two tokens.
        window: Tokens a window; ``None``: one stream.
        reset_state: Begin each window from an empty state.
    """
    device = model_device(model)
    if reset_state and window is not None:
        total = score_windows(model, store.ids, window=window, device=device, vocab_size=model.vocab_size)
    else:
        total = score_stream(model, store.ids, device=device, vocab_size=model.vocab_size, chunk=window)
    return store_score(total, store, tokenizer)


def draw_samples(
    model: RecurrentLanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    length: int,
    rule: SamplingRule,
    seed: int,
    num_samples: int,
    first_row: int = 0,
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield, for each new position, the tokens and log-probabilities of all samples of one prompt.

    An empty prompt begins after the start token (a line end).
    """
    device = model_device(model)
    prompt_ids = tokenizer.encode(prompt) or [tokenizer.start_id]
    generators = row_generators(seed, num_samples, device=device, first_row=first_row)
    for drawn in generate(model, prompt_ids, length=length, rule=rule, generators=generators, device=device):
        yield drawn.token_B.tolist(), drawn.log_prob_B.tolist()
