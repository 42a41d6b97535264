"""``seqkit bpe encode`` and ``seqkit bpe decode``: text to pieces and back, line by line."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli import console
from seqkit.cli.command import Json, command
from seqkit.cli.filter_options import BatchSize, InputFile, OutputFile, Workers
from seqkit.cli.line_filter import ByteTransform, LineFault, Transform, on_text, run_byte_filter, run_filter
from seqkit.cli.model_options import RunsDir
from seqkit.cli.tokenizer_options import TokenizerPath, choose_tokenizer
from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.tokenizers.bpe import BpeTokenizer
    from seqkit.tokenizers.bpe_dropout import BpeDropout

_ENCODE_EXAMPLES = """\
seqkit bpe encode --tokenizer tokenizer.json < train.en > train.bpe.en
seqkit bpe encode train.en.gz --ids -o train.ids
seqkit bpe encode --dropout 0.1 --seed 1 < train.en     # BPE-dropout (Provilkov et al. 2020)
tail -f log | seqkit bpe encode --json | jq -c .output"""

_DECODE_EXAMPLES = """\
seqkit bpe decode --tokenizer tokenizer.json < hypotheses.bpe
seqkit bpe encode < text | seqkit bpe decode | cmp - text
seqkit bpe decode --ids < train.ids"""


def register(group: typer.Typer) -> None:
    """Add ``encode`` and ``decode``."""

    @command(group, "encode", examples=_ENCODE_EXAMPLES)
    def encode(
        source: InputFile = None,
        tokenizer: TokenizerPath = None,
        ids: Annotated[bool, typer.Option("--ids", help="Write token ids instead of pieces.")] = False,
        dropout: Annotated[
            float | None,
            typer.Option(
                "--dropout",
                min=0,
                max=1,
                help="Leave out each merge with this probability (BPE-dropout).",
                show_default=False,
            ),
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option(
                "--seed",
                min=0,
                help="Of --dropout: same seed, same pieces; each line has draws of its own.",
                show_default=False,
            ),
        ] = None,
        output: OutputFile = None,
        batch_size: BatchSize = None,
        workers: Workers = 1,
        runs_dir: RunsDir = None,
        json_output: Json = False,
    ) -> None:
        """Cut lines of text into subword pieces, with blanks between them.

        N lines in, N lines out; a blank line stays blank, and a last line without a line end gets none.
        """
        if seed is not None and not dropout:
            raise UsageError("--seed does nothing without --dropout above 0")
        if ids and json_output:
            raise UsageError("--json gives the ids beside the pieces; leave --ids out")
        bpe = choose_tokenizer(tokenizer, runs_dir)
        encode_as: Callable[..., ByteTransform] = partial(_encode, bpe)
        if dropout:
            from seqkit.tokenizers.bpe_dropout import BpeDropout

            chosen_seed = seed if seed is not None else secrets.randbelow(2**31)
            console.logger.log(console.VERBOSE, "seed %d", chosen_seed)
            encode_as = partial(_encode_with_dropout, BpeDropout(bpe, dropout), chosen_seed)
        if json_output:
            transform = on_text(_EncodeToJson(encode_as(ids=False), encode_as(ids=True)))
        else:
            transform = encode_as(ids=ids)
        run_byte_filter(transform, source=source, output=output, batch_size=batch_size, workers=workers)

    @command(group, "decode", examples=_DECODE_EXAMPLES)
    def decode(
        source: InputFile = None,
        tokenizer: TokenizerPath = None,
        ids: Annotated[bool, typer.Option("--ids", help="Read token ids instead of pieces.")] = False,
        output: OutputFile = None,
        batch_size: BatchSize = None,
        runs_dir: RunsDir = None,
        json_output: Json = False,
    ) -> None:
        """Join pieces into text again: exactly undoes encode.

        N lines in, N lines out, as for encode.
        """
        bpe = choose_tokenizer(tokenizer, runs_dir)
        transform: Transform = _Decode(bpe, ids=ids)
        if json_output:
            transform = _DecodeToJson(transform)
        run_filter(transform, source=source, output=output, batch_size=batch_size)


def _encode(tokenizer: BpeTokenizer, *, ids: bool) -> ByteTransform:
    """Lines to pieces or ids."""
    from seqkit.tokenizers.bpe_lines import LineEncoder

    encoder = LineEncoder(tokenizer, ids=ids)
    return lambda lines, _: encoder.encode(lines)


def _encode_with_dropout(dropout: BpeDropout, seed: int, *, ids: bool) -> ByteTransform:
    """Lines to pieces or ids that differ from draw to draw."""
    return on_text(_EncodeWithDropout(dropout, seed, ids=ids))


class _EncodeToJson:
    """Lines to objects with the line, its pieces and their ids."""

    def __init__(self, encode: ByteTransform, encode_to_ids: ByteTransform) -> None:
        self._encode = encode
        self._encode_to_ids = encode_to_ids

    def __call__(self, text: str, first_line: int) -> str:
        lines = _lines(text)
        written = _lines(self._encode(text.encode(), first_line).decode())
        written_ids = _lines(self._encode_to_ids(text.encode(), first_line).decode())
        answers = []
        for line, pieces, ids in zip(lines, written, written_ids, strict=True):
            # A blank line has no piece, though splitting gives it one.
            fields = {
                "input": line,
                "output": pieces.split(" ") if line else [],
                "score": None,
                "ids": list(map(int, ids.split())),
            }
            answers.append(json.dumps(fields, ensure_ascii=False) + "\n")
        return "".join(answers)


class _EncodeWithDropout:
    """Leaves merges out at random; each line has draws of its own."""

    def __init__(self, dropout: BpeDropout, seed: int, *, ids: bool) -> None:
        tokenizer = dropout.tokenizer
        self._dropout = dropout
        self._seed = seed
        self._written = [str(i) if ids else tokenizer.written(i) for i in range(tokenizer.vocab_size)]
        self._written[tokenizer.eos_id] = "\n"
        # Where word ends are marked, <unk> is written in as many ways as there are unseen characters.
        self._unk_id = tokenizer.unk_id if tokenizer.boundary == "end" and not ids else None

    def __call__(self, text: str, first_line: int) -> str:
        from numpy.random import PCG64, Generator

        # One number a line: so a line's draws depend on its number, and not on where blocks are cut.
        rng = Generator(PCG64(self._seed).advance(first_line - 1))
        whole_lines = text if text.endswith("\n") else text + "\n"
        ids = self._dropout.encode_array(whole_lines, rng).tolist()
        written = list(map(self._written.__getitem__, ids))
        if self._unk_id is not None and self._unk_id in ids:
            places = [place for place, token_id in enumerate(ids) if token_id == self._unk_id]
            for place, unseen in zip(places, _written_unseen(self._dropout.tokenizer, text), strict=True):
                written[place] = unseen
        answer = " ".join(written).replace(" \n", "\n").replace("\n ", "\n")
        return answer if text.endswith("\n") else answer[:-1]


class _Decode:
    """Pieces or ids to the lines they were cut from."""

    def __init__(self, tokenizer: BpeTokenizer, *, ids: bool) -> None:
        self._tokenizer = tokenizer
        self._ids = ids

    def __call__(self, text: str, _first_line: int) -> str:
        from seqkit.tokenizers.bpe_decoding import LineError

        try:
            return self._tokenizer.decode_lines_to_text(text, ids=self._ids)
        except LineError as error:
            other = "pieces are read without --ids" if self._ids else "ids are read with --ids"
            hint = f"was it written with this tokenizer? {other}"
            raise LineFault(error.line_index, error.message, hint=hint) from None


class _DecodeToJson:
    """Lines of pieces to objects with the line and its text."""

    def __init__(self, decode: Transform) -> None:
        self._decode = decode

    def __call__(self, text: str, first_line: int) -> str:
        pairs = zip(_lines(text), _lines(self._decode(text, first_line)), strict=True)
        objects = [{"input": pieces, "output": line, "score": None} for pieces, line in pairs]
        return "".join([json.dumps(fields, ensure_ascii=False) + "\n" for fields in objects])


def _written_unseen(tokenizer: BpeTokenizer, text: str) -> Iterator[str]:
    """How each character of a text that is outside the alphabet is written, where boundaries are word ends."""
    from seqkit.tokenizers.bpe_text import CONTINUED, UNK, normalize

    for word in normalize(text, tokenizer.normalization).replace("\n", " ").split(" "):
        stretches = tokenizer.speller.stretches(word)
        for number, stretch in enumerate(stretches, start=1):
            if stretch.kind == "unseen":
                written = stretch.text if tokenizer.unseen == "keep" else UNK
                yield written + (CONTINUED if number < len(stretches) else "")


def _lines(text: str) -> list[str]:
    r"""The lines without their ends.

    >>> _lines("a\n\nb"), _lines("a\n\n")
    (['a', '', 'b'], ['a', ''])
    """
    return text.removesuffix("\n").split("\n")
