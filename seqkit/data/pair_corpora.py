"""The corpora of a translation recipe: its parallel texts, tokenizers fitted on the training part, both kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from seqkit.atomic import write_text_atomic
from seqkit.data.chunks import ProgressCallback
from seqkit.data.mixing import Mixture, mix
from seqkit.data.pair_store import prepare_pairs
from seqkit.data.pairs import SIDES, PairPolicy, PairStore, ParallelText, Side, join_stores
from seqkit.data.readers import TextSource, open_source
from seqkit.data.store_folder import cannot_write
from seqkit.errors import CheckpointError, DataError, MissingDataError
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
    train_texts: tuple[ParallelText, ...]
    """One, or those of a mixture."""
    train_stores: tuple[PairStore, ...]
    """What each was encoded to."""
    mixture: Mixture | None
    """Sizes and shares of the texts; None: there is one."""
    valid_text: ParallelText
    valid: PairStore

    @cached_property
    def train(self) -> PairStore:
        """All training pairs; those of the texts of a mixture one after the other."""
        return self.train_stores[0] if self.mixture is None else join_stores(self.train_stores)


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
    train_texts = [ParallelText(src=open_source(each.src), tgt=open_source(each.tgt)) for each in data.corpora]
    valid_text = open_pairs(data, "valid")
    tokenizers = _fit(recipe, train_texts, cache_dir)
    policy = PairPolicy(max_length=data.max_length, over_long=data.over_long, empty=data.empty)
    stores = [
        prepare_pairs(text, tokenizers, policy, cache_dir=cache_dir, num_workers=data.workers, on_progress=on_progress)
        for text in train_texts
    ]
    mixture = None
    if data.is_mixture:
        mixture = mix(
            [text.name for text in train_texts],
            list(map(len, stores)),
            [corpus.weight for corpus in data.corpora],
            data.mix_temperature,
        )
    return PairCorpora(
        tokenizers=tokenizers,
        train_texts=tuple(train_texts),
        train_stores=tuple(stores),
        mixture=mixture,
        valid_text=valid_text,
        valid=prepare_pair_split(valid_text, tokenizers, cache_dir, num_workers=data.workers, on_progress=on_progress),
    )


def prepare_pair_split(
    text: ParallelText,
    tokenizers: dict[Side, Tokenizer],
    cache_dir: Path,
    *,
    num_workers: int | None,
    on_progress: ProgressCallback | None = None,
) -> PairStore:
    """Encode pairs to measure a model on: all but those with an empty side."""
    return prepare_pairs(
        text, tokenizers, _KEEP_ALL, cache_dir=cache_dir, num_workers=num_workers, on_progress=on_progress
    )


def open_pairs(data: PairData, split: Split) -> ParallelText:
    """The parallel text of one split.

    Raises:
        MissingDataError: A text does not exist, or the recipe names no test pairs.
        DataError: The training pairs of a mixture are asked for, which are not one text.
    """
    source = getattr(data, split)
    if source is None:
        raise MissingDataError(f"the recipe names no {split} pairs (data.{split})")
    if isinstance(source, list):
        raise DataError(
            "the training pairs are a mixture of texts, which have no score together",
            path="data.train",
            hint="name one of them instead of --split train",
        )
    return ParallelText(src=open_source(source.src), tgt=open_source(source.tgt))


def _fit(recipe: Seq2SeqRecipe, texts: list[ParallelText], cache_dir: Path) -> dict[Side, Tokenizer]:
    """A tokenizer for each side, or one for both; fitted on all texts of a mixture as they are."""
    if recipe.is_joint:
        both = _fitted(recipe.tokenizer, [(text, side) for text in texts for side in SIDES], cache_dir)
        return {"src": both, "tgt": both}
    return {
        "src": _fitted(recipe.tokenizer, [(text, "src") for text in texts], cache_dir),
        "tgt": _fitted(recipe.target_tokenizer or recipe.tokenizer, [(text, "tgt") for text in texts], cache_dir),
    }


def _fitted(config: TokenizerConfig, texts: list[tuple[ParallelText, Side]], cache_dir: Path) -> Tokenizer:
    """The tokenizer fitted on some texts, kept in the cache for the next run; or the one that the recipe names."""
    made = made_before(config)
    if made is not None:
        return made
    digest = hashlib.sha256(config.model_dump_json().encode())
    for text, side in texts:
        digest.update(text.stats[side].sha256.encode())
    path = cache_dir / "tokenizers" / f"{digest.hexdigest()[:32]}.json"
    if path.exists():
        try:
            return load_tokenizer(path)
        except CheckpointError as error:
            logger.warning("fitting the tokenizer again: %s", error)
    fitted = fit_tokenizer(config, _joined([text.side(side) for text, side in texts]))
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
