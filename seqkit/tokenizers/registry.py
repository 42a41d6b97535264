"""The table of tokenizers: fit one by its config, save it, load it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqkit.atomic import write_text_atomic
from seqkit.errors import CheckpointError, MissingDataError, UsageError
from seqkit.tokenizers.base import FORMAT_KEY, FORMAT_VERSION, Tokenizer
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_learning import fit_bpe
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.char import CharTokenizer, fit_char
from seqkit.tokenizers.word import WordTokenizer, fit_word

if TYPE_CHECKING:
    from seqkit.recipe import tokenizer_schema


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How one type of tokenizer is made."""

    fit: Callable[[Any, Iterable[str]], Tokenizer]
    """From its config and the blocks of a training text."""
    load: Callable[[Mapping[str, object]], Tokenizer]
    """From its saved fields; raises ValueError if they are wrong."""
    line_based: bool
    unit: str


def _fit_byte(_config: tokenizer_schema.ByteTokenizer, _blocks: Iterable[str]) -> ByteTokenizer:
    """The byte tokenizer, which has nothing to learn; the text is not read."""
    return ByteTokenizer()


def _kind(tokenizer: Any, fit: Callable[[Any, Iterable[str]], Tokenizer]) -> _Kind:
    """How a class of tokenizers is made."""
    return _Kind(fit=fit, load=tokenizer.from_fields, line_based=tokenizer.line_based, unit=tokenizer.unit)


_KINDS: dict[str, _Kind] = {
    "char": _kind(CharTokenizer, fit_char),
    "byte": _kind(ByteTokenizer, _fit_byte),
    "word": _kind(WordTokenizer, fit_word),
    "bpe": _kind(BpeTokenizer, fit_bpe),
}
"""A tokenizer's name in recipes and files, and how it is made."""


def is_line_based(config: tokenizer_schema.TokenizerConfig) -> bool:
    """Whether the tokenizer that ``config`` describes should meet a text divided only at line ends."""
    return _KINDS[config.type].line_based


def unit_of(type_: str) -> str | None:
    """What a token of a type of tokenizer is, as ``Tokenizer.unit``; None if there is no such type.

    >>> unit_of("bpe"), unit_of("syllable")
    ('piece', None)
    """
    kind = _KINDS.get(type_)
    return None if kind is None else kind.unit


def made_before(config: tokenizer_schema.TokenizerConfig) -> Tokenizer | None:
    """The tokenizer in the file that ``config`` names; None where it names none and one is to be fitted.

    Raises:
        MissingDataError: There is no such file.
        UsageError: It is damaged, or holds something else.
    """
    if config.type != "bpe" or config.path is None:
        return None
    path = Path(config.path)
    if not path.exists():
        hint = "tokenizer.path names what seqkit bpe learn has made; tokenizer.vocab_size learns one in the run"
        raise MissingDataError("no such tokenizer file", path=path, hint=hint)
    try:
        tokenizer = load_tokenizer(path)
    except CheckpointError as error:
        raise UsageError(
            error.message,
            hint="tokenizer.path takes what seqkit bpe learn has made; seqkit bpe convert turns others' into that",
        ) from error
    if not isinstance(tokenizer, BpeTokenizer):
        raise UsageError(f"{path}: a tokenizer of type {tokenizer.type}, where tokenizer.path takes one of type bpe")
    return tokenizer


def fit_tokenizer(config: tokenizer_schema.TokenizerConfig, blocks: Iterable[str]) -> Tokenizer:
    """Make the tokenizer that ``config`` describes.

    Args:
        config: The ``tokenizer`` section of a recipe; see ``made_before`` for one that names a file.
        blocks: The training text, in pieces cut anywhere; read at most once.

    Returns:
        The tokenizer.

    Raises:
        DataError: The text does not suit it; see ``fit_char``, ``fit_word`` and ``fit_bpe``.
        UsageError: ``vocab_size`` is too small for the text; see ``fit_bpe``.
        MissingDataError: As ``made_before``, which may raise UsageError too.
    """
    made = made_before(config)
    if made is not None:
        return made
    return _KINDS[config.type].fit(config, blocks)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer to one JSON file, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_text_atomic(path, tokenizer.to_json())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer back; nothing in the file is executed.

    Raises:
        CheckpointError: The file is missing, unreadable, damaged, of a newer seqkit or no tokenizer at all.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the tokenizer: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: damaged tokenizer: not UTF-8") from error
    try:
        return tokenizer_from_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged tokenizer: {error}") from error


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer whose ``to_json`` is ``text``.

    Raises:
        ValueError: ``text`` is no saved tokenizer; the message is one line.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(fields, dict) or FORMAT_KEY not in fields:
        raise ValueError(f"no {FORMAT_KEY} in it")
    version = fields.pop(FORMAT_KEY)
    # JSON's true and 1.0 equal 1 in Python.
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(f"format {version!r}, but this seqkit reads format {FORMAT_VERSION}"[:200])
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"type {kind!r} is none of {', '.join(_KINDS)}"[:200])
    return _KINDS[kind].load(fields)
