"""``seqkit bpe learn``: a tokenizer from text."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli import console
from seqkit.cli.command import Json, command
from seqkit.cli.completion import complete_recipe
from seqkit.cli.interruptible import run_interruptibly
from seqkit.cli.streams import open_output, write_result
from seqkit.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from seqkit.cli.corpus_input import Corpus
    from seqkit.recipe.tokenizer_schema import BpeTokenizer as BpeConfig
    from seqkit.tokenizers.bpe_learning import WordCounts

logger = logging.getLogger(__name__)

_EXAMPLES = """\
seqkit bpe learn train.en train.de -o tokenizer.json --vocab-size 8000
seqkit bpe learn 'corpus/*.gz' -o tokenizer.json --num-merges 32000 --min-frequency 10
zcat dump.gz | seqkit bpe learn -o tokenizer.json --vocab-size 16000 --character-coverage 0.9995
seqkit bpe learn catalog:multi30k/train.fr -o fr.json --recipe my.yaml      # its tokenizer section"""

_REPORT_SECONDS = 5.0
"""Between two lines that say how far the reading is, where there is no live display."""


class Boundary(StrEnum):
    """Which end of a word is marked."""

    start = "start"
    end = "end"


class Split(StrEnum):
    """What merges never cross."""

    punctuation = "punctuation"
    blanks = "blanks"


class Normalization(StrEnum):
    """Unicode normal form of the text."""

    none = "none"
    nfc = "nfc"
    nfkc = "nfkc"


class Unseen(StrEnum):
    """What becomes of a character outside the alphabet."""

    bytes = "bytes"
    unk = "unk"


def register(group: typer.Typer) -> None:
    """Add ``learn``."""

    @command(group, "learn", examples=_EXAMPLES)
    def learn(
        corpus: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="CORPUS",
                help="Files, globs, .gz, builtin:NAME, catalog:NAME/SPLIT, or - for stdin (default: stdin).",
                show_default=False,
            ),
        ] = None,
        output: Annotated[
            str | None, typer.Option("--output", "-o", metavar="FILE", help="Where the tokenizer goes; - is stdout.")
        ] = None,
        vocab_size: Annotated[
            int | None,
            typer.Option("--vocab-size", min=1, help="Pieces in all: special ones, bytes, characters, merges."),
        ] = None,
        num_merges: Annotated[
            int | None, typer.Option("--num-merges", min=0, help="Merges, instead of --vocab-size.")
        ] = None,
        min_frequency: Annotated[
            int | None, typer.Option("--min-frequency", min=1, help="Stop before merging a pair that is rarer (2).")
        ] = None,
        special_token: Annotated[
            list[str] | None,
            typer.Option("--special-token", help="A word that is always one piece, such as '<2de>'; repeatable."),
        ] = None,
        character_coverage: Annotated[
            float | None,
            typer.Option(
                "--character-coverage", help="Part of all character occurrences that the alphabet must cover (1.0)."
            ),
        ] = None,
        boundary: Annotated[
            Boundary | None, typer.Option("--boundary", help="Mark word starts by ▁, or ends, as subword-nmt (start).")
        ] = None,
        split: Annotated[
            Split | None,
            typer.Option("--split", help="Merges never cross punctuation and digits, or blanks alone (punctuation)."),
        ] = None,
        normalization: Annotated[
            Normalization | None, typer.Option("--normalization", help="Unicode form to bring text into first (none).")
        ] = None,
        unseen: Annotated[
            Unseen | None,
            typer.Option("--unseen", help="Spell characters outside the alphabet in bytes, or as <unk> (bytes)."),
        ] = None,
        recipe: Annotated[
            str | None,
            typer.Option(
                "--recipe", help="Take options from this recipe's section `tokenizer`.", autocompletion=complete_recipe
            ),
        ] = None,
        json_output: Json = False,
    ) -> None:
        """Learn subword pieces from text, and print the path of the tokenizer.

        Byte-pair encoding as in Sennrich et al. (2016), algorithm 1. All of CORPUS is one text: several languages
        share the pieces. Memory grows with the number of different words, not with the text. The result depends on
        nothing but the text and the options.
        """
        if output is None:
            raise UsageError("where should the tokenizer go? give --output FILE", hint="-o tokenizer.json")
        if output == "-" and json_output:
            raise UsageError("--json and -o - both want stdout; give -o a file")
        flags: dict[str, object] = {
            "vocab_size": vocab_size,
            "num_merges": num_merges,
            "min_frequency": min_frequency,
            "special_tokens": special_token or None,
            "character_coverage": character_coverage,
            "boundary": boundary and boundary.value,
            "split": split and split.value,
            "normalization": normalization and normalization.value,
            "unseen": unseen and unseen.value,
        }
        if recipe == "-" and (not corpus or "-" in corpus):
            raise UsageError("stdin cannot be both the recipe and the text")
        config = _config(recipe, flags)
        if output != "-" and not Path(output).parent.is_dir():
            raise UsageError(f"{output}: no such folder {Path(output).parent}")
        from seqkit.cli.corpus_input import open_corpora

        _learn(open_corpora(corpus or []), config, output, json_output=json_output)


def _config(recipe: str | None, flags: dict[str, object]) -> BpeConfig:
    """What to learn: the flags, else the recipe's section, else the defaults."""
    from seqkit.cli.model_options import merge_options
    from seqkit.recipe.tokenizer_schema import BpeTokenizer as BpeConfig

    base = BpeConfig.model_construct(type="bpe")
    if recipe is not None:
        from seqkit.recipe.loading import load_recipe

        loaded = load_recipe(recipe)
        section = getattr(loaded.recipe, "tokenizer", None)
        if not isinstance(section, BpeConfig):
            found = f"is of type {section.type}, not bpe" if section is not None else "is missing"
            raise UsageError(f"{loaded.source}: its tokenizer {found}: there is nothing to learn it by")
        if section.path is not None:
            raise UsageError(f"{loaded.source}: tokenizer.path takes a tokenizer that is there: nothing to learn")
        base = section
    sizes = ("vocab_size", "num_merges")
    if all(flags[size] is not None for size in sizes):
        raise UsageError("give --vocab-size or --num-merges, not both")
    if any(flags[size] is not None for size in sizes):
        base = base.model_copy(update=dict.fromkeys(sizes))
    elif recipe is None:
        raise UsageError("how much to learn? give --vocab-size or --num-merges", hint="--vocab-size 8000 is common")
    return merge_options(base, None, "tokenizer", flags, command="bpe learn")


def _learn(corpora: Sequence[Corpus], config: BpeConfig, output: str, *, json_output: bool) -> None:
    """Count, learn, write, tell."""
    from seqkit.tokenizers.bpe_learning import WordCounts, learn_bpe

    began = time.monotonic()
    counts = WordCounts()
    with _shown_progress(corpora) as progress:
        for corpus in corpora:
            for text in corpus.whole_words():
                counts.add(text)
                progress.has_read(text, counts)
        progress.begins_to_merge(counts)
        tokenizer = run_interruptibly(lambda: learn_bpe(counts, config), before_exit=progress.stop)
    with open_output(output) as file:
        file.write(tokenizer.to_json())
    facts = {
        "num_words": counts.total() - counts[""],
        "num_distinct_words": len(counts) - ("" in counts),
        "num_characters": len(tokenizer.speller.characters | tokenizer.speller.final_characters),
        "num_merges": len(tokenizer.merges),
        "vocab_size": tokenizer.vocab_size,
        "seconds": time.monotonic() - began,
    }
    logger.info(
        "learned %s merges in %.1f s: %s pieces with an alphabet of %s, from %s words, %s of them different",
        f"{facts['num_merges']:,}",
        facts["seconds"],
        f"{facts['vocab_size']:,}",
        f"{facts['num_characters']:,}",
        f"{facts['num_words']:,}",
        f"{facts['num_distinct_words']:,}",
        extra={"event": "learned", "fields": facts},
    )
    if json_output:
        write_result(json.dumps({"path": output, **facts}, ensure_ascii=False))
    elif output != "-":
        write_result(output)


class _LoggedProgress:
    """A line now and then; silent for a short text."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._last = time.monotonic()

    def has_read(self, text: str, counts: WordCounts) -> None:
        """Take note of a piece of text that was read."""
        self._num_bytes += len(text.encode("utf-8"))
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            logger.info("read %s", self._describe(counts), extra={"event": "reading"})

    def begins_to_merge(self, counts: WordCounts) -> None:
        """Say that the text is read."""
        logger.log(console.VERBOSE, "read %s", self._describe(counts), extra={"event": "merging"})

    def stop(self) -> None:
        """Leave the terminal as it was."""

    def _describe(self, counts: WordCounts) -> str:
        return f"{self._num_bytes / 1e6:,.1f} MB, {len(counts) - ('' in counts):,} different words"


class _LiveProgress(_LoggedProgress):
    """A live line in a terminal.

    Args:
        bar: What draws it.
        num_bytes: Of the whole text; None: unknown.
    """

    def __init__(self, bar: Progress, num_bytes: int | None) -> None:
        super().__init__()
        self._bar = bar
        self._task = bar.add_task("reading", total=num_bytes)

    def has_read(self, text: str, counts: WordCounts) -> None:
        """Take note of a piece of text that was read."""
        self._num_bytes += len(text.encode("utf-8"))
        self._bar.update(self._task, completed=self._num_bytes, description=self._describe(counts))

    def begins_to_merge(self, counts: WordCounts) -> None:
        """Say that the text is read."""
        # The library does not tell how far it is.
        self._bar.update(self._task, total=None, description=f"merging  {self._describe(counts)}")

    def stop(self) -> None:
        """Take the line off the terminal."""
        self._bar.stop()
        console.configure(console.options)


@contextmanager
def _shown_progress(corpora: Sequence[Corpus]) -> Iterator[_LoggedProgress]:
    """Show on stderr how far the reading is: a live line in a terminal, else now and then a line."""
    if not console.shows_progress():
        yield _LoggedProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        BarColumn(bar_width=26),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr, no_color=not console.may_color(sys.stderr), highlight=False),
        redirect_stdout=False,
        redirect_stderr=True,
        transient=True,
    )
    sizes = [corpus.num_bytes for corpus in corpora]
    progress = _LiveProgress(bar, sum(size for size in sizes if size is not None) if None not in sizes else None)
    bar.start()
    # Log lines must go through the display's stand-in for stderr, or they would tear the bar.
    console.configure(console.options)
    try:
        yield progress
    finally:
        progress.stop()
