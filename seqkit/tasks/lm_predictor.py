"""A trained language model behind ``sample`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkit.data.store import TokenStore
from seqkit.decoding.sampling import SamplingRule, generate, row_generators
from seqkit.decoding.scoring import ScoreSum, score_lines, score_stream, score_windows
from seqkit.errors import UsageError
from seqkit.metrics.language_model import LanguageModelScore
from seqkit.models.build import LanguageModel, build_language_model
from seqkit.recipe.schema import LmRecipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.tasks.lm import TOKENS_AT_ONCE, store_score
from seqkit.tasks.stored_model import build_to_fit, stored_recipe, stored_tokenizer
from seqkit.tokenizers.base import Tokenizer
from seqkit.training.device import model_device


@dataclass(frozen=True)
class LoadedLm:
    """A language model read from a model folder, ready to use."""

    model: LanguageModel
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
    recipe = stored_recipe(checkpoint, LmRecipe)
    tokenizer = stored_tokenizer(checkpoint, "tokenizer.json")
    model = build_to_fit(checkpoint, lambda: build_language_model(recipe.model, tokenizer.vocab_size))
    return LoadedLm(model.to(device).eval(), tokenizer, recipe, checkpoint.path, checkpoint.facts)


@dataclass(frozen=True, kw_only=True)
class TextProtocol:
    """How a whole text is scored; every token but the first, each once."""

    window: int | None
    """Tokens of a window, which begins from nothing; ``None``: one stream, the state carried."""
    stride: int | None
    """Tokens from the beginning of a window to that of the next; ``None`` for a stream."""
    words: str
    """The same in words."""
    chunk: int | None = None
    """Tokens of a stream that are read at once; ``None``: what fits in memory. Changes nothing beyond rounding."""


def text_protocol(model: LanguageModel, *, window: int | None = None, reset_state: bool = False) -> TextProtocol:
    """The protocol that options ask for, of what a model can.

    A recurrent model carries its state through the text, or begins each window from an empty one. A Transformer has
    nothing to carry: its windows overlap by half, or begin each from an empty context.

    Args:
        model: The model.
        window: Tokens of a window; ``None``: one stream, of a Transformer its whole context.
        reset_state: Begin each window from an empty state or context.

    Raises:
        UsageError: The window is wider than the context.
    """
    context_length = model.context_length
    if context_length is None:
        if window is None or not reset_state:
            return TextProtocol(window=None, stride=None, words="one stream, state carried", chunk=window)
        return TextProtocol(window=window, stride=window, words=f"windows of {window} from an empty state")
    if window is not None and window > context_length:
        raise UsageError(
            f"a window of {window} tokens is wider than the model's context of {context_length}",
            hint=f"--window {context_length}, or less",
        )
    window = window or context_length
    if reset_state:
        return TextProtocol(window=window, stride=window, words=f"windows of {window} from an empty context")
    words = f"overlapping windows of {window}, each token scored once after at least {window // 2}"
    return TextProtocol(window=window, stride=window - window // 2, words=words)


def evaluate_store(
    model: LanguageModel, tokenizer: Tokenizer, store: TokenStore, protocol: TextProtocol
) -> LanguageModelScore:
    """Score a whole store.

    Args:
        model: The model.
        tokenizer: What the store was encoded with.
        store: At least two tokens.
        protocol: From ``text_protocol``.
    """
    device = model_device(model)
    if protocol.window is None:
        total = score_stream(model, store.ids, device=device, vocab_size=model.vocab_size, chunk=protocol.chunk)
    else:
        total = score_windows(
            model,
            store.ids,
            window=protocol.window,
            device=device,
            vocab_size=model.vocab_size,
            overlaps=protocol.stride != protocol.window,
            tokens_at_once=TOKENS_AT_ONCE if model.context_length is not None else None,
        )
    return store_score(total, store, tokenizer)


def evaluate_lines(
    model: LanguageModel, tokenizer: Tokenizer, lines: list[list[int]], end_ids: list[int]
) -> list[ScoreSum]:
    """Score each line by itself, after the start token and with its end.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        lines: Token ids of each line, without its end.
        end_ids: The line end.
    """
    return score_lines(
        model,
        lines,
        start_id=tokenizer.start_id,
        end_ids=end_ids,
        device=model_device(model),
        vocab_size=model.vocab_size,
        window=model.context_length,
        tokens_at_once=TOKENS_AT_ONCE,
    )


def draw_samples(
    model: LanguageModel,
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

    An empty prompt begins after the start token (a line end). Of a prompt longer than the context, the end is read.
    """
    device = model_device(model)
    prompt_ids = tokenizer.encode(prompt) or [tokenizer.start_id]
    if model.context_length is not None:
        prompt_ids = prompt_ids[-model.context_length :]
    generators = row_generators(seed, num_samples, device=device, first_row=first_row)
    for drawn in generate(model, prompt_ids, length=length, rule=rule, generators=generators, device=device):
        yield drawn.token_B.tolist(), drawn.log_prob_B.tolist()
