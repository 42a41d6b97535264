"""``seqkit bpe``: learn, apply, undo, inspect and convert byte-pair encoding. Imports no torch."""

from __future__ import annotations

import typer

from seqkit.cli import bpe_convert, bpe_filters, bpe_inspect, bpe_learn
from seqkit.cli.command import show_examples

_EXAMPLES = """\
seqkit bpe learn train.en train.de -o tokenizer.json --vocab-size 8000
seqkit bpe encode < train.en > train.bpe.en          # with ./tokenizer.json
seqkit bpe encode < text | seqkit bpe decode | cmp - text
seqkit bpe inspect --word lowest"""


def register(app: typer.Typer) -> None:
    """Add ``bpe`` and its subcommands to the command tree."""
    group = typer.Typer(
        help="Byte-pair encoding (BPE): learn subword pieces, cut text into them, join them again.",
        rich_markup_mode=None,
        no_args_is_help=True,
        epilog=show_examples(_EXAMPLES),
    )
    app.add_typer(group, name="bpe")
    for module in (bpe_learn, bpe_filters, bpe_inspect, bpe_convert):
        module.register(group)
