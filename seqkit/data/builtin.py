"""Text corpora that come with Python itself, so that a first model trains without a download.

What they hold depends on the Python version; a run records the SHA-256 of the text it read.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from seqkit.data.builtin_pairs import PAIRS, BuiltinPairs, pair_names, pair_text
from seqkit.errors import DataError, MissingDataError

PAIRS_LICENCE = "CC0-1.0"
"""Of the made-up parallel texts."""


@dataclass(frozen=True, kw_only=True)
class BuiltinText:
    """A text corpus named ``builtin:NAME``."""

    name: str
    description: str
    licence: str
    approximate_bytes: int
    """Size of the text in UTF-8, to one or two digits."""
    generate: Callable[[], Iterator[str]]
    """A new pass over the text, in pieces; the same text each time."""

    def blocks(self) -> Iterator[str]:
        """The text, in pieces cut anywhere."""
        return self.generate()


def _python_docs() -> Iterator[str]:
    """The language reference, by topic in code-point order of their names, a blank line between two."""
    from pydoc_data import topics

    separator = ""
    for name in sorted(topics.topics):
        yield separator + topics.topics[name]
        separator = "\n\n"


def _python_source() -> Iterator[str]:
    """The standard library's top-level modules, in code-point order of their names, one after the other.

    Only names that Python itself lists: distributions put generated modules beside them, which hold a machine's
    own paths.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    num_modules = 0
    for path in sorted(folder.glob("*.py"), key=lambda path: path.name):
        if path.stem not in sys.stdlib_module_names:
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            # A source file may declare another encoding; the corpus is UTF-8.
            continue
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path=path) from error
        num_modules += 1
        yield text
    if not num_modules:
        raise MissingDataError(
            f"builtin:python-source: this Python keeps no source files in {folder}", hint="try builtin:python-docs"
        )


def _hello() -> Iterator[str]:
    """The word of the character-model example: four different characters, two of them the same."""
    yield "hello"


_TEXTS = {
    text.name: text
    for text in (
        BuiltinText(
            name="python-docs",
            description="the Python language reference: English prose and code",
            licence="PSF-2.0",
            approximate_bytes=470_000,
            generate=_python_docs,
        ),
        BuiltinText(
            name="python-source",
            description="the Python standard library's top-level modules: Python code",
            licence="PSF-2.0",
            approximate_bytes=4_600_000,
            generate=_python_source,
        ),
        BuiltinText(
            name="hello",
            description='the text "hello", the smallest character-model example',
            licence="PSF-2.0",
            approximate_bytes=5,
            generate=_hello,
        ),
    )
}


def list_builtins() -> list[BuiltinText]:
    """Every built-in text corpus, in the order to show them."""
    return list(_TEXTS.values())


def builtin_text(name: str) -> BuiltinText:
    """The built-in text corpus called ``name`` (without ``builtin:``).

    Raises:
        MissingDataError: There is none of that name; the message names the nearest.
    """
    if name in _TEXTS:
        return _TEXTS[name]
    found = pair_text(name)
    if found is not None:
        return _side_of_pairs(name, *found)
    near = get_close_matches(name, [*_TEXTS, *pair_names()], n=1)
    guess = f"; did you mean builtin:{near[0]}?" if near else ""
    made_up = ", ".join(f"{pairs.name}/SPLIT.{'|'.join(pairs.sides)}" for pairs in PAIRS.values())
    raise MissingDataError(
        f"builtin:{name}: no such built-in corpus{guess}",
        hint=f"built in are {', '.join(_TEXTS)}; and in pairs, SPLIT train, valid or test: {made_up}",
    )


def _side_of_pairs(name: str, pairs: BuiltinPairs, split: str, side: str) -> BuiltinText:
    """One side of a made-up parallel text, as a text."""

    def generate() -> Iterator[str]:
        for line in pairs.lines(split, side):
            yield f"{line}\n"

    return BuiltinText(
        name=name,
        description=f"{pairs.description}: {side}",
        licence=PAIRS_LICENCE,
        approximate_bytes=0,
        generate=generate,
    )
