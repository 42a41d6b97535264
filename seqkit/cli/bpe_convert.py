"""``seqkit bpe convert``: tokenizers from and for subword-nmt and the tokenizers library."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli.command import command
from seqkit.cli.streams import open_input, open_output, write_result
from seqkit.cli.tokenizer_options import format_of, read_bpe, tokenizer_file
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from seqkit.tokenizers.bpe import BpeTokenizer

logger = logging.getLogger(__name__)

_EXAMPLES = """\
seqkit bpe convert codes.bpe -o tokenizer.json                        # from subword-nmt learn-bpe
seqkit bpe convert codes.bpe --vocabulary vocab.en -o tokenizer.json
seqkit bpe convert llama/tokenizer.json -o tokenizer.json
seqkit bpe convert tokenizer.json --to huggingface -o hf/tokenizer.json
seqkit bpe convert tokenizer.json --to subword-nmt -o codes.bpe --write-vocabulary vocab.txt"""


class Format(StrEnum):
    """Whose file it is."""

    seqkit = "seqkit"
    subword_nmt = "subword-nmt"
    huggingface = "huggingface"


def register(group: typer.Typer) -> None:
    """Add ``convert``."""

    @command(group, "convert", examples=_EXAMPLES)
    def convert(
        source: Annotated[
            Path, typer.Argument(metavar="IN", help="A tokenizer.json, codes of subword-nmt, or a model folder.")
        ],
        output: Annotated[
            str | None, typer.Option("--output", "-o", metavar="FILE", help="Where the new one goes; - is stdout.")
        ] = None,
        from_format: Annotated[
            Format | None, typer.Option("--from", help="Whose file IN is (told by its content).")
        ] = None,
        to_format: Annotated[
            Format | None, typer.Option("--to", help="Whose file to write (seqkit, if IN is of another).")
        ] = None,
        vocabulary: Annotated[
            str | None,
            typer.Option(
                "--vocabulary", metavar="FILE", help="IN's vocabulary (subword-nmt get-vocab): it gives the ids."
            ),
        ] = None,
        write_vocabulary: Annotated[
            str | None, typer.Option("--write-vocabulary", metavar="FILE", help="With --to subword-nmt: write it here.")
        ] = None,
        count_in: Annotated[
            list[str] | None,
            typer.Option("--count-in", metavar="TEXT", help="Counts for --write-vocabulary (1 each); repeatable."),
        ] = None,
    ) -> None:
        """Convert from and for subword-nmt and Hugging Face tokenizers.

        The same pieces are written and, but for subword-nmt, the same ids. What the other side cannot do is refused.
        """
        if output is None:
            raise UsageError("where should the new tokenizer go? give --output FILE", hint="-o tokenizer.json")
        file = tokenizer_file(source)
        given = from_format or _told_format(file)
        wanted = to_format or (Format.seqkit if given is not Format.seqkit else None)
        if wanted is None:
            raise UsageError(f"{file} is seqkit's own: say what to make of it", hint="--to huggingface or subword-nmt")
        if wanted is given:
            raise UsageError(f"{file} is of {given.value} already")
        _refuse_flags_without_effect(
            {
                "--vocabulary is for codes of subword-nmt": vocabulary is not None and given is not Format.subword_nmt,
                "--write-vocabulary needs --to subword-nmt": write_vocabulary is not None
                and wanted is not Format.subword_nmt,
                "--count-in needs --write-vocabulary": bool(count_in) and write_vocabulary is None,
            }
        )
        tokenizer = _read(file, given, vocabulary)
        counts = _count(tokenizer, count_in) if count_in else None
        text, vocabulary_text = _text_of(tokenizer, wanted, file, counts)
        for name, content in ((write_vocabulary, vocabulary_text), (output, text)):
            if name is not None:
                with open_output(name) as stream:
                    stream.write(content)
        logger.info(
            "converted %s pieces and %s merges from %s to %s",
            f"{tokenizer.vocab_size:,}",
            f"{len(tokenizer.merges):,}",
            given.value,
            wanted.value,
        )
        for name in (write_vocabulary, output):
            if name is not None and output != "-":
                write_result(name)


def _told_format(file: Path) -> Format:
    """Whose file it is.

    Raises:
        UsageError: It does not show.
    """
    told = format_of(file)
    if told is None:
        raise UsageError(
            f"{file}: neither a tokenizer.json nor codes of subword-nmt, by its content",
            hint="if it is, say which with --from",
        )
    return Format(told)


def _refuse_flags_without_effect(flags: Mapping[str, bool]) -> None:
    for message, is_given in flags.items():
        if is_given:
            raise UsageError(message)


def _read(file: Path, given: Format, vocabulary: str | None) -> BpeTokenizer:
    """The tokenizer in a file.

    Raises:
        DataError: The file is something else, or has what seqkit has not.
        CheckpointError: A damaged tokenizer of seqkit.
    """
    from seqkit.tokenizers.bpe_formats import from_subword_nmt, from_tokenizers_json

    if given is Format.seqkit:
        return read_bpe(file)
    text = _read_text(str(file))
    vocabulary_text = None if vocabulary is None else _read_text(vocabulary)
    try:
        return from_tokenizers_json(text) if given is Format.huggingface else from_subword_nmt(text, vocabulary_text)
    except ValueError as error:
        raise DataError(str(error), path=file) from error


def _read_text(name: str) -> str:
    from seqkit.data.readers import read_utf8

    with open_input(name) as (stream, shown_name):
        return read_utf8(stream, shown_name)


def _count(tokenizer: BpeTokenizer, names: list[str]) -> dict[int, int]:
    """How often each piece occurs in texts."""
    from seqkit.cli.bpe_inspect import measure

    return dict(measure(tokenizer, names).counts)


def _text_of(tokenizer: BpeTokenizer, wanted: Format, file: Path, counts: Mapping[int, int] | None) -> tuple[str, str]:
    """The new file's text, and that of its vocabulary.

    Raises:
        UsageError: The other program has no word for a setting of the tokenizer.
    """
    from seqkit.tokenizers.bpe_formats import to_subword_nmt, to_tokenizers_json

    try:
        match wanted:
            case Format.seqkit:
                return tokenizer.to_json(), ""
            case Format.huggingface:
                return to_tokenizers_json(tokenizer), ""
            case Format.subword_nmt:
                return to_subword_nmt(tokenizer, counts)
    except ValueError as error:
        hint = None
        if wanted is Format.subword_nmt:
            hint = "seqkit bpe learn --boundary end --split blanks --unseen unk makes one that can be"
        raise UsageError(f"{file}: {error}", hint=hint) from error
