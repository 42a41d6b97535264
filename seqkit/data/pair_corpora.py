"""The corpora of a translation recipe: its parallel texts, tokenizers fitted on the training part, both kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqkit.atomic import write_text_atomic
from seqkit.data.pairs import PairPolicy, PairStore, ParallelText, Side, prepare_pairs
from seqkit.data.readers import TextSource, open_source
from seqkit.data.store import ProgressCallback, cannot_write
from seqkit.errors import CheckpointError, MissingDataError
from seqkit.recipe.seq2seq_schema import PairData, Seq2SeqRecipe
from seqkit.recipe.tokenizer_schema import TokenizerConfig
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.registry import fit_tokenizer, load_tokenizer, made_before

Split = Literal["train", "valid", "test"]

logger = logging.getLogger(__name__)

_KEEP_ALL = PairPolicy(max_length=None, over_long="drop", empty="drop")
"""Of validation and test pairs only those with an empty side are left out of the loss."""


@dataclass(frozen=True, kw_only=True)
class PairCorpora:
    """What a translation model trains on and is measured on."""

    tokenizers: dict[Side, Tokenizer]
    """The same object for both sides where they share one."""
    train_text: ParallelText
    valid_text: ParallelText
    train: PairStore
    valid: PairStore


def prepare_pair_corpora(
    recipe: Seq2SeqRecipe, cache_dir: Path, *, on_progress: ProgressCallback | None = None
) -> PairCorpora:
    """Open the texts, fit the tokenizers on the training part, and encode both parts.

    Args:
        recipe: The resolved recipe.
        cache_dir: Folder of the cache; made if missing.
        on_progress: Told the bytes encoded.

    Raises:
        MissingDataError: A text does not exist.
        DataError: The sides have different numbers of lines; a text is not UTF-8 or empty; a pair is refused.
    """
    data = recipe.data
    train_text, valid_text = open_pairs(data, "train"), open_pairs(data, "valid")
    tokenizers = _fit(recipe, train_text, cache_dir)
    policy = PairPolicy(max_length=data.max_length, over_long=data.over_long, empty=data.empty)
    return PairCorpora(
        tokenizers=tokenizers,
        train_text=train_text,
        valid_text=valid_text,
        train=prepare_pairs(train_text, tokenizers, policy, cache_dir=cache_dir, on_progress=on_progress),
        valid=prepare_pairs(valid_text, tokenizers, _KEEP_ALL, cache_dir=cache_dir, on_progress=on_progress),
    )


def prepare_pair_split(
    text: ParallelText, tokenizers: dict[Side, Tokenizer], cache_dir: Path, on_progress: ProgressCallback | None = None
) -> PairStore:
    """Encode pairs to measure a model on: all but those with an empty side."""
    return prepare_pairs(text, tokenizers, _KEEP_ALL, cache_dir=cache_dir, on_progress=on_progress)


def open_pairs(data: PairData, split: Split) -> ParallelText:
    """The parallel text of one split.

    Raises:
        MissingDataError: A text does not exist, or the recipe names no test pairs.
    """
    source = getattr(data, split)
    if source is None:
        raise MissingDataError(f"the recipe names no {split} pairs (data.{split})")
    return ParallelText(src=open_source(source.src), tgt=open_source(source.tgt))


def _fit(recipe: Seq2SeqRecipe, text: ParallelText, cache_dir: Path) -> dict[Side, Tokenizer]:
    """A tokenizer for each side, or one for both."""
    if recipe.is_joint:
        both = _fitted(recipe.tokenizer, [text.src, text.tgt], cache_dir)
        return {"src": both, "tgt": both}
    return {
        "src": _fitted(recipe.tokenizer, [text.src], cache_dir),
        "tgt": _fitted(recipe.target_tokenizer or recipe.tokenizer, [text.tgt], cache_dir),
    }


def _fitted(config: TokenizerConfig, texts: list[TextSource], cache_dir: Path) -> Tokenizer:
    """The tokenizer fitted on some texts, kept in the cache for the next run; or the one that the recipe names."""
    made = made_before(config)
    if made is not None:
        return made
    digest = hashlib.sha256(config.model_dump_json().encode())
    for text in texts:
        digest.update(text.measure().sha256.encode())
    path = cache_dir / "tokenizers" / f"{digest.hexdigest()[:32]}.json"
    if path.exists():
        try:
            return load_tokenizer(path)
        except CheckpointError as error:
            logger.warning("fitting the tokenizer again: %s", error)
    fitted = fit_tokenizer(config, _joined(texts))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, fitted.to_json())
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    return fitted


def _joined(texts: list[TextSource]) -> Iterator[str]:
    """One text after the other, each ended by a line end."""
    for text in texts:
        last = ""
        for block in text.blocks():
            yield block
            last = block
        if not last.endswith("\n"):
            yield "\n"


def describe_left_out(store: PairStore, text: ParallelText) -> str | None:
    """What was left out of a store and why, in a few words; ``None`` if nothing was."""
    counts = store.counts
    reasons = [
        f"{counts.num_blank:,} blank" if counts.num_blank else "",
        f"{counts.num_empty:,} with an empty side" if counts.num_empty else "",
        f"{counts.num_over_long:,} over-long" if counts.num_over_long else "",
    ]
    told = ", ".join(reason for reason in reasons if reason)
    return f"{text.src.name}: left out {told} of {counts.num_lines:,} pairs" if told else None
