"""The corpora of a recipe: its text divided into parts, its tokenizer fitted on the training part, both kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from seqkit.data.chunks import ProgressCallback
from seqkit.data.mixing import Mixture, mix
from seqkit.data.readers import TextSource, open_source
from seqkit.data.sharded_ids import TokenIds, joined, token_counts
from seqkit.data.store import TokenStore, prepare_stretch, stretches_key
from seqkit.data.store_folder import cannot_write
from seqkit.data.stretches import Stretch
from seqkit.errors import CheckpointError, DataError, MissingDataError
from seqkit.recipe import schema, tokenizer_schema
from seqkit.recipe.config import Config
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.registry import fit_tokenizer, is_line_based, load_tokenizer, made_before, save_tokenizer

Split = Literal["train", "valid", "test"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LmCorpora:
    """What a language model trains on and is measured on."""

    tokenizer: Tokenizer
    train_texts: tuple[Stretch, ...]
    """What ``train_stores`` were encoded from."""
    train_stores: tuple[TokenStore, ...]
    """One, or one for each corpus of a mixture."""
    mixture: Mixture | None
    """Sizes and shares of the corpora; None: there is one."""
    valid_text: Stretch
    valid: TokenStore

    @property
    def train(self) -> TokenStore:
        """The one store, where there is no mixture."""
        (store,) = self.train_stores
        return store

    @cached_property
    def train_ids(self) -> TokenIds:
        """The ids of all training text; the corpora of a mixture one after the other."""
        return self.train_stores[0].ids if self.mixture is None else joined([store.ids for store in self.train_stores])

    def train_counts(self, vocab_size: int) -> npt.NDArray[np.int64]:
        """How often each token comes in an epoch, shape (vocab_size,)."""
        counts = [token_counts(store.ids, vocab_size) for store in self.train_stores]
        if self.mixture is None:
            return counts[0]
        parts = [once * times for once, times in zip(counts, self.mixture.repeats(), strict=True)]
        total: npt.NDArray[np.int64] = np.rint(np.sum(parts, axis=0)).astype(np.int64)
        return total


def prepare_text_corpora(
    data: schema.TextData,
    tokenizer: tokenizer_schema.TokenizerConfig | Tokenizer,
    cache_dir: Path,
    *,
    on_progress: ProgressCallback | None = None,
) -> LmCorpora:
    """Read, divide and encode the training and validation text of a language model.

    A tokenizer is fitted on all corpora of a mixture as they are, one after the other.

    Args:
        data: Where the text is. Of ``valid_fraction`` f, the last of the N characters are held out, from
            character int(N · (1 - f)) on; for a tokenizer of lines from the first line that begins there or later.
        tokenizer: A config, to fit on the training part unless it names a file; or a fitted tokenizer (resume).
        cache_dir: Folder of the cache; made if missing.
        on_progress: Told the bytes encoded, of each training text and then of the validation text, from 0 each.

    Returns:
        The tokenizer and the stores.

    Raises:
        MissingDataError: A text does not exist, or the file of a tokenizer.
        UsageError: ``tokenizer.path`` names no tokenizer, or ``tokenizer.vocab_size`` is too small.
        DataError: A text is empty, not UTF-8, too short to divide or not encodable, or the cache cannot be
            written.
    """
    trains, valid = _divide(data, _line_based(tokenizer))
    fitted = _fitted(tokenizer, trains, cache_dir)
    stores = [
        prepare_stretch(train, fitted, cache_dir, num_workers=data.workers, on_progress=on_progress) for train in trains
    ]
    mixture = None
    if data.is_mixture:
        mixture = mix(
            [train.source.name for train in trains],
            [store.num_tokens for store in stores],
            [corpus.weight for corpus in data.corpora],
            data.mix_temperature,
        )
    return LmCorpora(
        tokenizer=fitted,
        train_texts=tuple(trains),
        train_stores=tuple(stores),
        mixture=mixture,
        valid_text=valid,
        valid=prepare_stretch(valid, fitted, cache_dir, num_workers=data.workers, on_progress=on_progress),
    )


def prepare_split(
    data: schema.TextData,
    split: Split,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    on_progress: ProgressCallback | None = None,
) -> TokenStore:
    """Encode one split of a recipe's data, as ``seqkit evaluate`` needs it; the others are not encoded.

    Args:
        data: Where the text is, divided as ``prepare_text_corpora`` does.
        split: Which part.
        tokenizer: The model's tokenizer.
        cache_dir: Folder of the cache; made if missing.
        on_progress: Told the bytes encoded.

    Returns:
        The store.

    Raises:
        MissingDataError: The text does not exist, or the recipe names no test text.
        DataError: As ``prepare_text_corpora``; or a mixture's training text is asked for, which is not one.
    """
    stretch = _stretch_of(data, split, tokenizer.line_based)
    return prepare_stretch(stretch, tokenizer, cache_dir, num_workers=data.workers, on_progress=on_progress)


def split_blocks(data: schema.TextData, split: Split, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of one split of a recipe's data, divided as :func:`prepare_split` does.

    Raises:
        MissingDataError: The text does not exist.
        DataError: The recipe names no test text, or the text cannot be read.
    """
    yield from _stretch_of(data, split, tokenizer.line_based).blocks()


def _stretch_of(data: schema.TextData, split: Split, line_based: bool) -> Stretch:
    if split == "test":
        if data.test is None:
            raise MissingDataError("the recipe names no test text (data.test)")
        stretch = _whole(open_source(data.test))
    elif split == "valid" and data.valid is not None:
        stretch = _whole(open_source(data.valid))
    elif data.is_mixture:
        raise DataError(
            "the training text is a mixture of corpora, which have no score together",
            path="data.train",
            hint="name one of them as DATA instead of --split train",
        )
    else:
        trains, valid = _divide(data, line_based)
        stretch = trains[0] if split == "train" else valid
    return stretch


def _divide(data: schema.TextData, line_based: bool) -> tuple[list[Stretch], Stretch]:
    """The training stretches, several of a mixture, and the validation stretch."""
    sources = [open_source(corpus.source) for corpus in data.corpora]
    if data.valid is not None:
        valid_source = open_source(data.valid)
        return [_whole(source) for source in sources], _whole(valid_source)
    (source,) = sources
    assert data.valid_fraction is not None
    stats = source.measure()
    split = int(stats.num_chars * (1 - data.valid_fraction))
    if line_based:
        split = _line_start(source, split, stats.num_chars)
    if not 0 < split < stats.num_chars:
        unit = "line" if line_based else "character"
        raise DataError(
            f"valid_fraction {data.valid_fraction:g} of its {stats.num_chars:,} characters leaves no {unit} "
            f"for {'validation' if split else 'training'}",
            path=source.name,
            hint="change data.valid_fraction, or name a validation text in data.valid",
        )
    return (
        [Stretch(source=source, stats=stats, start=0, end=split)],
        Stretch(source=source, stats=stats, start=split, end=stats.num_chars),
    )


def _whole(source: TextSource) -> Stretch:
    """All of a text."""
    stats = source.measure()
    return Stretch(source=source, stats=stats, start=0, end=stats.num_chars)


def _line_start(source: TextSource, position: int, num_chars: int) -> int:
    """The first character at or after ``position`` that begins a line; ``num_chars`` if none does."""
    if position == 0:
        return 0
    # From the character before, which may be the line end that makes position a line's beginning.
    before = position - 1
    for block in source.blocks(before):
        newline = block.find("\n")
        if newline >= 0:
            return before + newline + 1
        before += len(block)
    return num_chars


def _line_based(tokenizer: tokenizer_schema.TokenizerConfig | Tokenizer) -> bool:
    """Whether the text is to be divided at line ends."""
    return is_line_based(tokenizer) if isinstance(tokenizer, Config) else tokenizer.line_based


def _fitted(
    tokenizer: tokenizer_schema.TokenizerConfig | Tokenizer, trains: list[Stretch], cache_dir: Path
) -> Tokenizer:
    """The tokenizer itself, or the one fitted on ``trains``, kept in the cache for the next run."""
    if not isinstance(tokenizer, Config):
        return tokenizer
    made = made_before(tokenizer)
    if made is not None:
        return made
    # Dropout is not learned.
    key = stretches_key(trains, tokenizer.model_dump_json(exclude={"dropout"}))
    path = cache_dir / "tokenizers" / f"{key}.json"
    if path.exists():
        try:
            return load_tokenizer(path)
        except CheckpointError as error:
            logger.warning("fitting the tokenizer again: %s", error)
    fitted = fit_tokenizer(tokenizer, chain.from_iterable(train.blocks() for train in trains))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tokenizer(fitted, path)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    return fitted
