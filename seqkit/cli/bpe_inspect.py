"""``seqkit bpe inspect``: what a tokenizer holds, what it makes of a text, and how it merges a word."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqkit.cli.command import Json, command
from seqkit.cli.model_options import RunsDir
from seqkit.cli.streams import stdin_is_piped, write_result
from seqkit.cli.tokenizer_options import TokenizerPath, choose_tokenizer
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from seqkit.tokenizers.bpe import BpeTokenizer

_EXAMPLES = """\
seqkit bpe inspect --tokenizer tokenizer.json --merges 20
seqkit bpe inspect --word low --word lowest             # step by step
seqkit bpe inspect valid.en valid.de --top 20
seqkit bpe inspect --json < valid.en | jq .text.tokens_per_word
seqkit bpe inspect --vocabulary | cut -f 2"""


def register(group: typer.Typer) -> None:
    """Add ``inspect``."""

    @command(group, "inspect", examples=_EXAMPLES)
    def inspect(
        texts: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="TEXT",
                help="Texts to measure: files, globs, .gz, builtin:NAME, catalog:NAME/SPLIT, or - for stdin.",
                show_default=False,
            ),
        ] = None,
        tokenizer: TokenizerPath = None,
        word: Annotated[
            list[str] | None, typer.Option("--word", help="Show how this word is merged, step by step; repeatable.")
        ] = None,
        vocabulary: Annotated[
            bool, typer.Option("--vocabulary", help="List all pieces: id TAB piece, one a line.")
        ] = False,
        merges: Annotated[int, typer.Option("--merges", min=0, help="Show the first merges, this many.")] = 10,
        top: Annotated[int, typer.Option("--top", min=0, help="Longest and rarest pieces of a text, this many.")] = 10,
        runs_dir: RunsDir = None,
        json_output: Json = False,
    ) -> None:
        """Show a tokenizer, how it fits a text, or how it merges a word.

        A text comes from files or stdin. Coverage is the part of its characters that are in the alphabet, so that
        they need neither bytes nor <unk>.
        """
        if sum(map(bool, (word, vocabulary, texts))) > 1:
            raise UsageError("give texts, --word or --vocabulary, one of them")
        for text in word or []:
            if not text or " " in text or "\n" in text:
                raise UsageError(f"--word {text!r}: a word has no blanks and is not empty")
        bpe = choose_tokenizer(tokenizer, runs_dir)
        if word:
            _write_traces(bpe, word, as_json=json_output)
        elif vocabulary:
            _write_vocabulary(bpe, as_json=json_output)
        else:
            measured = None
            if texts or stdin_is_piped():
                measured = measure(bpe, texts or [])
            _write_report(bpe, measured, merges, top, as_json=json_output)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a tokenizer made of a text."""

    num_lines: int
    num_words: int
    """Between blanks, empty ones not counted."""
    num_chars: int
    """Blanks and line ends not counted."""
    num_covered: int
    """Of those, in the alphabet."""
    counts: Counter[int]
    """How often each token occurred; line ends not counted."""


def measure(tokenizer: BpeTokenizer, names: list[str]) -> Measured:
    """Encode texts in memory that does not grow with them."""
    import numpy as np

    from seqkit.cli.corpus_input import open_corpora
    from seqkit.tokenizers.base import whole_tokens

    num_lines = num_words = 0
    characters: Counter[str] = Counter()
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for corpus in open_corpora(names):
        text = ""
        for text in whole_tokens(corpus.blocks(), tokenizer.last_boundary):
            num_lines += text.count("\n")
            num_words += sum(map(bool, text.replace("\n", " ").split(" ")))
            characters.update(text)
            counts += np.bincount(tokenizer.encode_array(text), minlength=tokenizer.vocab_size)
        num_lines += text != "" and not text.endswith("\n")
    del characters["\n"], characters[" "]
    counts[tokenizer.eos_id] = 0
    alphabet = _alphabet(tokenizer)
    return Measured(
        num_lines=num_lines,
        num_words=num_words,
        num_chars=characters.total(),
        num_covered=sum(count for character, count in characters.items() if character in alphabet),
        counts=Counter({token_id: int(counts[token_id]) for token_id in np.flatnonzero(counts).tolist()}),
    )


def _alphabet(tokenizer: BpeTokenizer) -> frozenset[str]:
    """The characters that have a piece, wherever in a word."""
    return tokenizer.speller.characters | tokenizer.speller.final_characters


def _write_report(
    tokenizer: BpeTokenizer, measured: Measured | None, num_merges: int, top: int, *, as_json: bool
) -> None:
    """The tokenizer or, where there is a text, how it fits."""
    about = _describe(tokenizer, num_merges)
    fit = None if measured is None else _describe_fit(tokenizer, measured, top)
    if as_json:
        write_result(json.dumps({**about, "text": fit}, ensure_ascii=False))
    elif fit is None:
        _write_rows(_tokenizer_rows(tokenizer, about))
        _write_merges(tokenizer, about["merges"])
    else:
        _write_rows(_fit_rows(tokenizer, fit))
        _write_pieces("longest pieces", fit["longest"])
        _write_pieces("rarest pieces", fit["rarest"])


def _describe(tokenizer: BpeTokenizer, num_merges: int) -> dict[str, Any]:
    """What ``--json`` says of the tokenizer itself."""
    from seqkit.tokenizers.bpe_text import BUILT_IN_PIECES

    special_tokens = [*BUILT_IN_PIECES, *tokenizer.special_tokens]
    merged = {left + right for left, right in tokenizer.merges}
    return {
        "type": tokenizer.type,
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": special_tokens,
        "num_bytes": len(tokenizer.byte_ids),
        "num_symbols": tokenizer.vocab_size - len(special_tokens) - len(tokenizer.byte_ids) - len(merged),
        "num_characters": len(_alphabet(tokenizer)),
        "num_merged": len(merged),
        "num_merges": len(tokenizer.merges),
        "boundary": tokenizer.boundary,
        "split": tokenizer.split,
        "normalization": tokenizer.normalization,
        "unseen": tokenizer.unseen,
        "merges": [list(merge) for merge in tokenizer.merges[:num_merges]],
    }


def _describe_fit(tokenizer: BpeTokenizer, measured: Measured, top: int) -> dict[str, Any]:
    """What ``--json`` says of a text.

    Raises:
        DataError: The text has no word.
    """
    if not measured.num_words:
        raise DataError("the text has no word", hint="is it empty?")
    counts = measured.counts
    num_tokens = counts.total()
    num_unknown = counts[tokenizer.unk_id] if tokenizer.unk_id is not None else 0
    byte_ids = set(tokenizer.byte_ids)
    num_bytes = sum(count for token_id, count in counts.items() if token_id in byte_ids)
    spelled = [token_id for token_id in counts if token_id not in byte_ids and token_id != tokenizer.unk_id]
    longest = sorted(spelled, key=lambda token_id: (-len(tokenizer.pieces[token_id]), token_id))
    rarest = sorted(spelled, key=lambda token_id: (counts[token_id], -token_id))

    def listed(token_ids: Sequence[int]) -> list[dict[str, Any]]:
        return [{"piece": tokenizer.pieces[i], "id": i, "count": counts[i]} for i in token_ids[:top]]

    return {
        "num_lines": measured.num_lines,
        "num_words": measured.num_words,
        "num_chars": measured.num_chars,
        "num_tokens": num_tokens,
        "tokens_per_word": num_tokens / measured.num_words,
        "chars_per_token": measured.num_chars / num_tokens,
        "coverage": measured.num_covered / measured.num_chars,
        "num_bytes": num_bytes,
        "byte_rate": num_bytes / num_tokens,
        "num_unknown": num_unknown,
        "unknown_rate": num_unknown / num_tokens,
        "num_pieces_used": len(counts),
        "longest": listed(longest),
        "rarest": listed(rarest),
    }


_BOUNDARIES = {"start": "▁ begins a word", "end": "</w> ends a word; written, @@ says that it goes on"}
_SPLITS = {
    "punctuation": "merges stop between letters, numerals and the rest",
    "blanks": "merges stop at blanks alone",
}
_UNSEEN = {"bytes": "spelled in bytes", "unk": "become <unk>", "keep": "written as they are; as ids <unk>"}


def _tokenizer_rows(tokenizer: BpeTokenizer, about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "type", about["type"]
    yield "pieces", f"{about['vocab_size']:,}"
    yield "  special", f"{len(about['special_tokens'])}: {' '.join(about['special_tokens'])}"
    if about["num_bytes"]:
        yield "  bytes", f"{about['num_bytes']}"
    yield "  characters", f"{about['num_symbols']:,}"
    yield "  merged", f"{about['num_merged']:,}"
    yield "alphabet", f"{about['num_characters']:,} characters"
    yield "merges", f"{about['num_merges']:,}"
    yield "boundary", f"{tokenizer.boundary}: {_BOUNDARIES[tokenizer.boundary]}"
    yield "split", f"{tokenizer.split}: {_SPLITS[tokenizer.split]}"
    yield "normalization", tokenizer.normalization
    yield "unseen", f"{tokenizer.unseen}: characters outside the alphabet are {_UNSEEN[tokenizer.unseen]}"


def _fit_rows(tokenizer: BpeTokenizer, fit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "lines", f"{fit['num_lines']:,}"
    yield "words", f"{fit['num_words']:,} ({fit['num_chars']:,} characters without blanks)"
    yield "tokens", f"{fit['num_tokens']:,}"
    yield "tokens/word", f"{fit['tokens_per_word']:.3f}"
    yield "chars/token", f"{fit['chars_per_token']:.3f}"
    yield "coverage", f"{100 * fit['coverage']:.4f} % of the characters are in the alphabet"
    if tokenizer.byte_ids:
        yield "bytes", f"{fit['num_bytes']:,} tokens ({100 * fit['byte_rate']:.4f} %) spell the others"
    if tokenizer.unk_id is not None:
        yield "unknown", f"{fit['num_unknown']:,} tokens ({100 * fit['unknown_rate']:.4f} %)"
    used = fit["num_pieces_used"]
    yield "pieces used", f"{used:,} of {tokenizer.vocab_size:,} ({100 * used / tokenizer.vocab_size:.1f} %)"


def _write_rows(rows: Iterator[tuple[str, str]]) -> None:
    table = list(rows)
    width = max(len(name) for name, _ in table)
    for name, value in table:
        write_result(f"{name:<{width}}  {value}")


def _write_merges(tokenizer: BpeTokenizer, merges: list[list[str]]) -> None:
    """The first merges, one a line."""
    if merges:
        write_result(f"first {len(merges):,} of {len(tokenizer.merges):,} merges")
    number_width = len(str(len(merges)))
    pairs = [f"{_shown(left)} {_shown(right)}" for left, right in merges]
    width = max(map(len, pairs), default=0)
    for number, (pair, (left, right)) in enumerate(zip(pairs, merges, strict=True), start=1):
        write_result(f"  {number:>{number_width}}  {pair:<{width}}  {_shown(left + right)}")


def _write_pieces(title: str, pieces: list[dict[str, Any]]) -> None:
    if not pieces:
        return
    write_result(title)
    width = max(len(f"{one['count']:,}") for one in pieces)
    for one in pieces:
        write_result(f"  {one['count']:>{width},} ×  {_shown(one['piece'])}")


def _write_vocabulary(tokenizer: BpeTokenizer, *, as_json: bool) -> None:
    """All pieces in the order of their ids."""
    if as_json:
        write_result(json.dumps({"type": tokenizer.type, "pieces": tokenizer.pieces}, ensure_ascii=False))
        return
    for token_id, piece in enumerate(tokenizer.pieces):
        write_result(f"{token_id}\t{piece}")


def _write_traces(tokenizer: BpeTokenizer, words: Sequence[str], *, as_json: bool) -> None:
    """How each word is merged: its symbols, then a line for each merge that applies."""
    traces = [(word, tokenizer.trace(word)) for word in words]
    if as_json:
        objects = [
            {
                "word": word,
                "pieces": steps[-1].symbols,
                "steps": [
                    {
                        "symbols": step.symbols,
                        "merge": step.merge,
                        "rank": None if step.rank is None else step.rank + 1,
                    }
                    for step in steps
                ],
            }
            for word, steps in traces
        ]
        write_result(json.dumps({"words": objects}, ensure_ascii=False))
        return
    for word, steps in traces:
        write_result(_shown(word))
        rows = [" ".join(map(_shown, step.symbols)) for step in steps]
        width = max(map(len, rows))
        for row, step in zip(rows, steps, strict=True):
            if step.merge is None or step.rank is None:
                write_result(f"  {row}")
                continue
            pair = " + ".join(map(_shown, step.merge))
            write_result(f"  {row:<{width}}  {pair}, merge {step.rank + 1:,}")


def _shown(text: str) -> str:
    """Text of a piece or word with what a terminal would obey or not show escaped."""
    from seqkit.tokenizers.base import printable

    return printable(text)
