"""What ``seqkit score`` reads: references, systems and sources, aligned line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqkit.cli.streams import open_input
from seqkit.errors import DataError, UsageError

_STDIN = "<stdin>"
_TOKENIZED_LINES = 100
"""So many lines that end in a full stop set apart are no accident; sacreBLEU warns from here on too."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A file or stream in lines."""

    name: str
    """As the user gave it; ``<stdin>``."""
    lines: list[str]
    """Without trailing white space, which no metric counts but chrF with blanks; sacreBLEU's program drops it too."""

    @property
    def looks_tokenized(self) -> bool:
        """Whether many lines end in a full stop set apart, as tokenized text has them and detokenized text has not."""
        return sum(line.endswith(" .") for line in self.lines) >= _TOKENIZED_LINES


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Everything there is to score, all of one length."""

    references: list[Text]
    systems: list[Text]
    source: Text | None

    @property
    def num_sentences(self) -> int:
        """Lines of each."""
        return len(self.references[0].lines)

    @property
    def system_names(self) -> list[str]:
        """Short names for tables: files without folder and extension, where these differ."""
        short = [_stem(system.name) for system in self.systems]
        return short if len(set(short)) == len(short) else [system.name for system in self.systems]


def read_texts(references: Sequence[str], systems: Sequence[str], source: str | None) -> Texts:
    """Read all texts and check that they belong together.

    Args:
        references: Files, ``.gz`` or not, pipes, ``catalog:NAME/SPLIT``, ``builtin:NAME``, or ``-`` for stdin.
        systems: The same; stdin if there are none.
        source: The same.

    Raises:
        UsageError: stdin is asked for twice, or is a terminal or closed.
        MissingDataError: A file does not exist.
        DataError: A line is not UTF-8, there are no lines, or the numbers of lines differ.
    """
    from_stdin: list[str | None] = [None]
    wanted = [*references, *(systems or from_stdin), *([source] if source is not None else [])]
    if sum(name in (None, "-") for name in wanted) > 1:
        dashes = sum(name == "-" for name in wanted)
        reason = "`-` twice" if dashes > 1 else "`-` is given, and without a HYP the system is read from stdin too"
        raise UsageError(f"{reason}: stdin can be read only once", hint="name a file for all but one")
    texts = Texts(
        references=[_read(name) for name in references],
        systems=[_read(name) for name in systems or from_stdin],
        source=None if source is None else _read(source),
    )
    first = texts.references[0]
    for other in [*texts.references[1:], *texts.systems, *([texts.source] if texts.source else [])]:
        if len(other.lines) != len(first.lines):
            raise DataError(
                f"{other.name} has {_lines(other)} but {first.name} has {_lines(first)}",
                hint="line N of each belongs to line N of the others; blank lines count, and only \\n ends a line",
            )
    if not first.lines:
        raise DataError("is empty: there is nothing to score", path=first.name)
    return texts


def _read(name: str | None) -> Text:
    return Text(name=_STDIN if name in (None, "-") else str(name), lines=[line.rstrip() for line in _raw_lines(name)])


def _raw_lines(name: str | None) -> Iterator[str]:
    from seqkit.data.readers import iter_lines, lines_of, open_source

    if (
        name is not None
        and (name.startswith(("catalog:", "builtin:")) or name.endswith(".gz"))
        and not _is_stream(name)
    ):
        yield from lines_of(open_source(name).blocks())
        return
    with open_input(name) as (stream, shown_name):
        yield from iter_lines(stream, shown_name)


def _is_stream(name: str) -> bool:
    """Whether a path is there but no regular file: a pipe, which ``open_source`` refuses."""
    return Path(name).exists() and not Path(name).is_file()


def _lines(text: Text) -> str:
    return "1 line" if len(text.lines) == 1 else f"{len(text.lines)} lines"


def _stem(name: str) -> str:
    r"""A file's name without folder and extension.

    >>> _stem("out/lstm.beam5.hyp"), _stem("lstm.hyp.gz"), _stem("<stdin>")
    ('lstm.beam5', 'lstm', '<stdin>')
    """
    return Path(name.removesuffix(".gz")).stem or name
