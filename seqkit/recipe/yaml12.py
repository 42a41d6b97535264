"""YAML 1.2 core schema, read and written with PyYAML, which on its own speaks YAML 1.1.

Read as YAML 1.2: ``1e-4`` is a number, ``no`` and ``12:30:00`` are text, ``0o17`` is 15. Left out on purpose:
tags other than the core ones, keys that are not text, merge keys, several documents. A key given twice is a
fault. Every value keeps the line and column it was read from.

PyYAML's scanner and parser do the work; its resolver and constructor are replaced. Its pure-Python side is used
even where the C library is there: the positions in its messages are better, and recipes are small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from seqkit.errors import RecipeError
from seqkit.recipe.faults import Fault, KeyPath, Place, Position

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What a document holds."""

MAX_BYTES = 1 << 20
"""A longer text is no recipe."""
MAX_DEPTH = 64
"""Lists and mappings inside each other."""
MAX_VALUES = 100_000
"""Values in all after aliases are followed; a few lines of nested aliases could ask for billions."""

_TAG = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _integer(text: str) -> int:
    if text.startswith(("0o", "0x")):
        return int(text[2:], 8 if text[1] == "o" else 16)
    return int(text)


def _infinity_or_nan(text: str) -> float:
    return float(text.replace(".", ""))


_CORE: list[tuple[str, re.Pattern[str], str, Callable[[str], Plain]]] = [
    # tag, what it looks like, what it begins with, how to read it; YAML 1.2.2, section 10.3.2
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), "~nN", lambda text: None),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), "tTfF", lambda text: text[0] in "tT"),
    ("int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), "-+0123456789", _integer),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), "-+.0123456789", float),
    ("float", re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"), "-+.", _infinity_or_nan),
]


class YamlError(RecipeError):
    """A text that cannot be read as YAML at all, so that nothing more can be said of it.

    Args:
        fault: What is wrong, and where.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__([str(fault)])
        self.fault = fault


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document's values, where they stand, and what is wrong with them short of the syntax.

    Args:
        data: Plain Python values.
        places: Where every key and value begins, by key path.
        faults: Duplicate keys, custom tags and the like, in reading order; ``data`` leaves those values out.
    """

    data: Plain
    places: dict[KeyPath, Place]
    faults: list[Fault]


def parse(text: bytes | str, source: str = "<text>") -> Document:
    """Read one document with positions; faults beyond the syntax are collected, not raised.

    Args:
        text: The document, UTF-8. An empty one is null.
        source: What to call it in messages.

    Raises:
        YamlError: Not YAML, not UTF-8, too deep or too long; one line, ``source:line:col: ...``.
    """
    loader = _Loader(_decode(text, source), source)
    try:
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise _syntax_error(error, source) from None
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF", which the scanner lets through
        raise _error(source, _position(loader.get_mark()), f"not YAML: {error}") from None
    if root is None:
        return Document(data=None, places={}, faults=[])
    reading = _Reading(source)
    data = reading.convert(root, (), _position(root.start_mark))
    return Document(data=data, places=reading.places, faults=reading.faults)


def load(text: bytes | str, source: str = "<text>") -> Plain:
    """Read one document as plain values.

    Args:
        text: The document, UTF-8.
        source: What to call it in messages.

    Raises:
        RecipeError: Any fault at all, one line each.

    >>> load("{lr: 1e-4, lang: no, at: 12:30}")
    {'lr': 0.0001, 'lang': 'no', 'at': '12:30'}
    """
    document = parse(text, source)
    if document.faults:
        raise RecipeError([str(fault) for fault in document.faults])
    return document.data


def dump(data: Plain) -> str:
    """Write plain values in block style, keys in their order, so that ``load(dump(data)) == data``.

    Text that YAML 1.1 or 1.2 would read as something else is quoted, floats keep every digit.

    >>> print(dump({"lr": 1e-4, "lang": "no", "stop": ["0o7"]}), end="")
    lr: 0.0001
    lang: 'no'
    stop:
      - '0o7'
    """
    text: str = yaml.dump(
        data, Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True, width=1 << 30
    )
    return text


class _CoreResolver(BaseResolver):
    """Tells by its look what a plain scalar is."""


class _Loader(Reader, Scanner, Parser, Composer, _CoreResolver):
    """Text to nodes, with a bound on the depth."""

    def __init__(self, text: str, source: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._source = source
        self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _error(self._source, _position(mark), f"more than {MAX_DEPTH} levels inside each other")
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would misread; indents lists; never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: _Dumper, text: str) -> ScalarNode:
    # Line ends inside plain or single-quoted text fold into blanks when read back.
    style = '"' if "\n" in text or "\r" in text or _UNPRINTABLE.search(text) else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first, _ in _CORE:
    # PyYAML looks resolvers up by the first character; the empty text is null and has none.
    _begins = [*_first, ""] if _name == "null" else [*_first]
    _CoreResolver.add_implicit_resolver(_TAG + _name, _pattern, _begins)
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, _begins)


class _Reading:
    """Nodes to plain values; keeps places and faults, and counts."""

    def __init__(self, source: str) -> None:
        self.places: dict[KeyPath, Place] = {}
        self.faults: list[Fault] = []
        self._source = source
        self._num_values = 0
        self._open: set[int] = set()

    def convert(self, node: Node, path: KeyPath, key: Position) -> Plain:
        """The value of ``node``; recursion is bounded by ``MAX_DEPTH`` and by refusing an alias to itself."""
        position = _position(node.start_mark)
        self.places[path] = Place(key, position)
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _error(self._source, position, f"more than {MAX_VALUES:,} values once aliases are followed")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            raise _error(self._source, key, "an alias in here stands for all of this")
        if len(path) > MAX_DEPTH:
            raise _error(self._source, key, f"more than {MAX_DEPTH} levels once aliases are followed")
        expected = "map" if isinstance(node, MappingNode) else "seq"
        if node.tag != _TAG + expected:
            self._fault(position, path, _tag_message(node))
        self._open.add(id(node))
        value: Plain
        if isinstance(node, MappingNode):
            value = self._mapping(node, path)
        else:
            assert isinstance(node, SequenceNode)
            value = [
                self.convert(item, (*path, index), _position(item.start_mark)) for index, item in enumerate(node.value)
            ]
        self._open.discard(id(node))
        return value

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Plain]:
        mapping: dict[str, Plain] = {}
        first: dict[str, Position] = {}
        for key_node, value_node in node.value:
            position = _position(key_node.start_mark)
            key = self._scalar(key_node, path) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                what = f"`{_quote(key_node.value)[1:-1]}`" if isinstance(key_node, ScalarNode) else "a list or mapping"
                self._fault(position, path, f"a key must be text, found {what}; put it in quotes")
            elif key in mapping:
                line, column = first[key]
                self._fault(position, (*path, key), f"duplicate key; first given at {line}:{column}")
            else:
                first[key] = position
                mapping[key] = self.convert(value_node, (*path, key), position)
        return mapping

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Plain:
        position = _position(node.start_mark)
        text: str = node.value
        if node.tag == f"{_TAG}str":
            try:
                return _join_surrogates(text)
            except UnicodeError:
                self._fault(position, path, "half a surrogate pair is no character")
                return None
        known = [(pattern, read) for name, pattern, _, read in _CORE if node.tag == _TAG + name]
        for pattern, read in known:
            # `!!float 1` is the one tag that reads another's looks.
            if pattern.match(text):
                try:
                    return read(text)
                except ValueError:
                    self._fault(position, path, f"a number of {len(text)} digits is too long")
                    return None
        self._fault(position, path, _tag_message(node))
        return None

    def _fault(self, position: Position, path: KeyPath, message: str) -> None:
        self.faults.append(Fault(message=message, path=path, source=self._source, position=position))


def _tag_message(node: Node) -> str:
    tag = node.tag
    short = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag if tag.startswith("!") else f"!<{tag}>"
    return f"tag {_quote(short)[1:-1]} is not allowed here; recipes hold plain values only"


def _join_surrogates(text: str) -> str:
    r"""Make one character of an escaped pair, as in JSON's ``"\ud83d\ude00"``; a lone half is an error."""
    if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _decode(text: bytes | str, source: str) -> str:
    """The characters of ``text``, less a byte-order mark; refuses what YAML 1.2 does not print."""
    if len(text) > MAX_BYTES:
        raise _error(source, Position(1, 1), f"longer than {MAX_BYTES:,} bytes; this is no recipe")
    if isinstance(text, bytes):
        raw = text
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8")
            message = f"not UTF-8: byte 0x{raw[error.start]:02x}"
            raise _error(source, _end_of(before), message) from None
    text = text.removeprefix("\ufeff")
    found = _UNPRINTABLE.search(text)
    if found:
        code = ord(found.group())
        escape = f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
        message = f'unprintable character U+{code:04X}; write it as "{escape}", in double quotes'
        raise _error(source, _end_of(text[: found.start()]), message)
    return text


def _end_of(text: str) -> Position:
    r"""The position just after ``text``; lines end as in YAML 1.2: ``\n``, ``\r\n`` or ``\r``."""
    lines = re.split(r"\r\n|\n|\r", text)
    return Position(len(lines), len(lines[-1]) + 1)


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _error(source: str, position: Position, message: str) -> YamlError:
    return YamlError(Fault(message=message, source=source, position=position))


_PLAINER = {
    "mapping values are not allowed here": "unexpected `: `; quote text that holds one, or check the indentation",
    "could not find expected ':'": "expected `key: value`, found no `:`",
    "expected <block end>, but found '<block mapping start>'": "this line is indented further than its neighbours",
    "expected <block end>, but found '<scalar>'": "text after the value; check quotes and indentation",
    "expected <block end>, but found '-'": "a list item where a key was expected; check the indentation",
    "but found another document": "a second document (`---`); a recipe is one",
}


def _syntax_error(error: yaml.YAMLError, source: str) -> YamlError:
    """PyYAML's message, which fills several lines, as one."""
    assert isinstance(error, yaml.MarkedYAMLError)
    problem = error.problem or "not YAML"
    mark = error.problem_mark or error.context_mark
    position = Position(1, 1) if mark is None else _position(mark)
    if "'\\t'" in problem:
        message = "a tab; YAML is indented and spaced with blanks"
    elif problem in _PLAINER:
        message = _PLAINER[problem]
    else:
        problem = problem.replace("'<stream end>'", "the end of the text").replace("the node content", "a value")
        message = f"not YAML: {problem}"
        if error.context and error.context_mark and error.context_mark is not mark:
            begun = _position(error.context_mark)
            message += f" {error.context.replace('while ', 'when ')} from {begun.line}:{begun.column}"
    return _error(source, position, _quote(message)[1:-1].replace('\\"', '"'))


def _quote(text: str) -> str:
    """Text in double quotes on one line."""
    return json.dumps(text, ensure_ascii=False)
