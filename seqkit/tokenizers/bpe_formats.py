r"""Byte-pair encoding in the files of other programs: subword-nmt, and the ``tokenizers`` library of Hugging Face.

Every function is from text to tokenizer or back. What the other side has no word for is refused by name; nothing is
left out in silence. Pieces and ids are then the other program's own for any line whose words stand one blank apart
and which spells out no mark, special token or byte piece. What differs beyond that is told with each function.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_text import (
    BUILT_IN_PIECES,
    BYTE_PIECES,
    CONTINUED,
    UNK,
    WORD_END,
    WORD_START,
    Boundary,
    Normalization,
    Split,
)

Pair = tuple[str, str]

_SUBWORD_NMT_VERSION = "#version: 0.2"
_NORMALIZATION_OF_NAME: dict[str, Normalization] = {"NFC": "nfc", "NFKC": "nfkc"}
_RUNS = (
    rf"{WORD_START}?[\p{{L}}\p{{M}}]+|{WORD_START}?\p{{N}}+"
    rf"|{WORD_START}?[^\p{{L}}\p{{M}}\p{{N}}{WORD_START}]+|{WORD_START}"
)
"""The runs of ``bpe_text.runs``, the first of a word with its mark, as the library writes patterns."""


def from_subword_nmt(codes: str, vocabulary: str | None = None) -> BpeTokenizer:
    """The tokenizer that ``subword-nmt apply-bpe`` is, given the same codes.

    It writes the pieces of ``apply-bpe`` (without ``--vocabulary``), but keeps all blanks of a run.

    Args:
        codes: What ``subword-nmt learn-bpe`` wrote, version 0.2: the merges, first to last.
        vocabulary: What ``subword-nmt get-vocab`` wrote: pieces and their counts. Pieces have their ids in this
            order, after the special ones. Without it characters, then what merges make.

    Raises:
        ValueError: The files are something else; names the line.
    """
    merges = list(dict.fromkeys(_read_codes(codes)))
    listed = list(_read_vocabulary(vocabulary)) if vocabulary is not None else []
    named = [piece for piece in listed if piece.removesuffix(WORD_END) not in BUILT_IN_PIECES]
    parts = {part for pair in merges for part in pair}
    plain = sorted(part for part in parts if len(part) == 1)
    final = sorted(part for part in parts if len(part) == 1 + len(WORD_END) and part.endswith(WORD_END))
    others = [piece for left, right in merges for piece in (left, right, left + right)]
    pieces = dict.fromkeys([*BUILT_IN_PIECES, *named, *plain, WORD_END, *final, *others])
    return BpeTokenizer(list(pieces), merges, boundary="end", split="blanks", unseen="keep")


def to_subword_nmt(tokenizer: BpeTokenizer, counts: Mapping[int, int] | None = None) -> tuple[str, str]:
    """A tokenizer as codes and vocabulary for ``subword-nmt apply-bpe``.

    Args:
        tokenizer: Words marked at the end, merged across punctuation, unseen characters not in bytes.
        counts: How often each token id occurs in some text, which ``--vocabulary-threshold`` looks at; without it,
            every piece counts as seen once.

    Returns:
        The text of the codes and that of the vocabulary.

    Raises:
        ValueError: The tokenizer has a setting that subword-nmt has not.
    """
    _refuse_settings(
        "subword-nmt",
        {
            "boundary start": tokenizer.boundary == "start",
            "split punctuation": tokenizer.split == "punctuation",
            f"normalization {tokenizer.normalization}": tokenizer.normalization != "none",
            "unseen bytes": tokenizer.unseen == "bytes",
            "special tokens": bool(tokenizer.special_tokens),
        },
    )
    codes = [_SUBWORD_NMT_VERSION, *(f"{left} {right}" for left, right in tokenizer.merges)]
    lines = [
        f"{tokenizer.written(i)} {1 if counts is None else counts.get(i, 0)}"
        for i, piece in enumerate(tokenizer.pieces)
        if piece not in (*BUILT_IN_PIECES, WORD_END)
    ]
    return "\n".join(codes) + "\n", "".join(line + "\n" for line in lines)


def to_tokenizers_json(tokenizer: BpeTokenizer) -> str:
    """A tokenizer as the ``tokenizer.json`` of the ``tokenizers`` library.

    The ids are the same. The library takes a ``▁`` in the text for a blank, finds special tokens within words too,
    and drops the blanks beside them; where words are marked at the end it drops empty words.

    Raises:
        ValueError: The tokenizer has a setting that the library has not.
    """
    is_marked_at_end = tokenizer.boundary == "end"
    _refuse_settings(
        "a tokenizer.json",
        {
            "boundary end with unseen bytes": is_marked_at_end and tokenizer.unseen == "bytes",
            "boundary end with split punctuation": is_marked_at_end and tokenizer.split == "punctuation",
        },
    )
    normalizers: list[dict[str, Any]] = [
        {"type": name} for name, form in _NORMALIZATION_OF_NAME.items() if form == tokenizer.normalization
    ]
    pre_tokenizer: dict[str, Any]
    decoders: list[dict[str, Any]]
    if is_marked_at_end:
        pre_tokenizer = {"type": "CharDelimiterSplit", "delimiter": " "}
        decoders = [{"type": "BPEDecoder", "suffix": WORD_END}]
    else:
        normalizers += [
            {"type": "Prepend", "prepend": WORD_START},
            {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START},
        ]
        if tokenizer.split == "blanks":
            pre_tokenizer = _metaspace("never")
        else:
            pre_tokenizer = {"type": "Split", "pattern": {"Regex": _RUNS}, "behavior": "Isolated", "invert": False}
        decoders = [
            {"type": "Replace", "pattern": {"String": WORD_START}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(tokenizer.id_of_piece[token], token) for token in tokenizer.special_tokens],
        "normalizer": _sequence("normalizers", normalizers),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": _sequence("decoders", decoders),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNK,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": WORD_END if is_marked_at_end else None,
            "fuse_unk": False,
            "byte_fallback": tokenizer.unseen == "bytes",
            "ignore_merges": False,
            "vocab": tokenizer.id_of_piece,
            "merges": tokenizer.merges,
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def from_tokenizers_json(text: str) -> BpeTokenizer:
    """A tokenizer from the ``tokenizer.json`` of the ``tokenizers`` library.

    Taken are models of type BPE whose words are marked by ``▁`` at the start (Metaspace, as SentencePiece models
    have) or by ``</w>`` at the end (split at blanks). Ids stay; the unknown token is called ``<unk>``, and special
    pieces that are missing follow after the last id. Other added tokens become special tokens, which are found as
    whole words only. A blank at the beginning of a line, and a ``▁`` in the text, stay what they are, where the
    library changes them. What a post-processor adds is not part of a text's ids.

    Raises:
        ValueError: It is no such file, or has a setting that is not supported.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError("no model in it: this is no tokenizer.json of the tokenizers library")
    # Old files leave the type out.
    if model.get("type", "BPE") != "BPE":
        raise _unsupported(f"model.type {model['type']}")
    normalization, has_normalizer_mark = _read_normalizer(content.get("normalizer"))
    pieces = _read_pieces(model, content.get("added_tokens") or [])
    boundary, split = _read_pre_tokenizer(content.get("pre_tokenizer"), model, pieces, has_normalizer_mark)
    uses_bytes = bool(model.get("byte_fallback"))
    _check_model(model, pieces, boundary, uses_bytes=uses_bytes)
    if content.get("truncation"):
        raise _unsupported("truncation")
    unk = model.get("unk_token")
    if isinstance(unk, str) and unk != UNK and unk in pieces and UNK not in pieces:
        pieces[pieces.index(unk)] = UNK
    added = [token["content"] for token in content.get("added_tokens") or []]
    special_tokens = [token for token in added if token not in (*BUILT_IN_PIECES, unk)]
    pieces += [piece for piece in BUILT_IN_PIECES if piece not in pieces]
    if boundary == "end" and WORD_END not in pieces:
        pieces.append(WORD_END)
    return BpeTokenizer(
        pieces,
        _read_merges(model.get("merges")),
        special_tokens=special_tokens,
        boundary=boundary,
        split=split,
        normalization=normalization,
        unseen="bytes" if uses_bytes else "unk",
    )


def _read_codes(codes: str) -> Iterator[Pair]:
    """The merges in a file of subword-nmt."""
    first, *lines = codes.removesuffix("\n").split("\n")
    if first.rstrip("\r ") != _SUBWORD_NMT_VERSION:
        raise ValueError(f"line 1: expected {_SUBWORD_NMT_VERSION!r}, found {first!r}"[:200])
    for number, line in enumerate(lines, start=2):
        pair = line.rstrip("\r ").split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"line {number}: expected two pieces with a blank between, found {line!r}"[:200])
        yield pair[0], pair[1]


def _read_vocabulary(vocabulary: str) -> Iterator[str]:
    """The pieces in a vocabulary of subword-nmt, in our spelling."""
    for number, line in enumerate(vocabulary.removesuffix("\n").split("\n"), start=1):
        piece, _, count = line.rstrip("\r ").rpartition(" ")
        if not piece or " " in piece or not count.isdecimal():
            raise ValueError(f"vocabulary line {number}: expected a piece and its count, found {line!r}"[:200])
        yield piece.removesuffix(CONTINUED) if piece.endswith(CONTINUED) else piece + WORD_END


def _read_normalizer(normalizer: Any) -> tuple[Normalization, bool]:
    """The normalization form, and whether the normalizer also makes blanks marks and puts one before the text."""
    form: Normalization = "none"
    steps = [str(step.get("type")) for step in _steps(normalizer, "normalizers")]
    if steps and steps[0] in _NORMALIZATION_OF_NAME:
        form = _NORMALIZATION_OF_NAME[steps.pop(0)]
    marks = [
        {"type": "Prepend", "prepend": WORD_START},
        {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START},
    ]
    if steps and _steps(normalizer, "normalizers")[-2:] == marks and len(steps) == len(marks):
        return form, True
    if steps:
        raise _unsupported(f"normalizer {' and '.join(steps)}")
    return form, False


def _read_pre_tokenizer(
    pre_tokenizer: Any, model: Mapping[str, Any], pieces: Sequence[str], has_normalizer_mark: bool
) -> tuple[Boundary, Split]:
    """Where words are marked and where merges stop."""
    steps = _steps(pre_tokenizer, "pretokenizers")
    names = [str(step.get("type")) for step in steps]
    what = f"pre_tokenizer {' and '.join(names) or 'null'}"
    step = steps[0] if len(steps) == 1 else {}
    if model.get("end_of_word_suffix"):
        if model["end_of_word_suffix"] != WORD_END:
            raise _unsupported(f"model.end_of_word_suffix {model['end_of_word_suffix']}")
        is_at_blanks = step.get("type") == "WhitespaceSplit" or step == {"type": "CharDelimiterSplit", "delimiter": " "}
        if not is_at_blanks or has_normalizer_mark:
            raise _unsupported(f"{what} with end_of_word_suffix")
        return "end", "blanks"
    if has_normalizer_mark:
        if step == {"type": "Split", "pattern": {"Regex": _RUNS}, "behavior": "Isolated", "invert": False}:
            return "start", "punctuation"
        # Without any cut merges could join words; they cannot where no piece has a mark inside.
        if step == _metaspace("never") or (not steps and not any(WORD_START in piece[1:] for piece in pieces)):
            return "start", "blanks"
    elif step.get("type") == "Metaspace":
        if step.get("replacement") != WORD_START:
            raise _unsupported(f"{what} with replacement {step.get('replacement')}")
        # Before version 0.15 of the library there was add_prefix_space instead of prepend_scheme.
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        if scheme == "never" or not step.get("split", True):
            raise _unsupported(f"{what} with prepend_scheme {scheme} and split {step.get('split', True)}")
        return "start", "blanks"
    raise _unsupported(what)


def _read_pieces(model: Mapping[str, Any], added_tokens: Any) -> list[str]:
    """The pieces in the order of their ids."""
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(token_id) is int for token_id in vocab.values()):
        raise ValueError("model.vocab is not a table of pieces and ids")
    id_of_piece: dict[str, int] = dict(vocab)
    if not isinstance(added_tokens, list):
        raise ValueError("added_tokens is not a list")
    for token in added_tokens:
        if not isinstance(token, dict) or type(token.get("id")) is not int or not isinstance(token.get("content"), str):
            raise ValueError("added_tokens holds something without id and content")
        id_of_piece[token["content"]] = token["id"]
    pieces = sorted(id_of_piece, key=id_of_piece.__getitem__)
    if sorted(id_of_piece.values()) != list(range(len(pieces))):
        raise ValueError(f"the ids of model.vocab and added_tokens are not 0 to {len(pieces) - 1:,}, each once")
    return pieces


def _check_model(model: Mapping[str, Any], pieces: Sequence[str], boundary: Boundary, *, uses_bytes: bool) -> None:
    """Refuse what spells words in another way."""
    if model.get("dropout"):
        raise _unsupported("model.dropout")
    if model.get("continuing_subword_prefix"):
        raise _unsupported("model.continuing_subword_prefix")
    if model.get("ignore_merges"):
        raise _unsupported("model.ignore_merges")
    if uses_bytes:
        if boundary == "end":
            raise _unsupported("model.byte_fallback with end_of_word_suffix")
        if not set(BYTE_PIECES) <= set(pieces):
            raise _unsupported("model.byte_fallback without a piece for every byte")
    elif model.get("unk_token") is None:
        raise _unsupported("a model without unk_token and byte_fallback, which drops unseen characters,")
    elif model["unk_token"] not in pieces:
        raise ValueError(f"model.unk_token {model['unk_token']!r} has no id"[:200])
    elif model.get("fuse_unk"):
        raise _unsupported("model.fuse_unk")


def _read_merges(merges: Any) -> list[Pair]:
    """The merges, which older versions of the library write as texts."""
    if not isinstance(merges, list):
        raise ValueError("model.merges is not a list")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"model.merges holds {pair!r}, which is no pair"[:200])
    return [(left, right) for left, right in pairs]


def _steps(component: Any, key: str) -> list[dict[str, Any]]:
    """A component of the library as a list of plain steps."""
    if component is None:
        return []
    if not isinstance(component, dict):
        raise ValueError(f"one of the {key} is no object")
    if component.get("type") != "Sequence":
        return [component]
    inner = component.get(key)
    if not isinstance(inner, list):
        raise ValueError(f"a Sequence has no {key}")
    return [step for part in inner for step in _steps(part, key)]


def _sequence(key: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Steps as one component of the library."""
    if len(steps) > 1:
        return {"type": "Sequence", key: steps}
    return steps[0] if steps else None


def _metaspace(prepend_scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": prepend_scheme, "split": True}


def _added_token(token_id: int, content: str) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": True,
        "rstrip": True,
        "normalized": False,
        "special": True,
    }


def _refuse_settings(kind: str, settings: Mapping[str, bool]) -> None:
    """Raise ValueError if one of ``settings`` holds, naming all that do."""
    names = [name for name, holds in settings.items() if holds]
    if names:
        raise ValueError(f"cannot be written for {kind}, which knows no {', no '.join(names)}")


def _unsupported(what: str) -> ValueError:
    return ValueError(f"{what} is not supported"[:200])
