"""One fault of a recipe: what is wrong, at which key, and where that key was written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

KeyPath = tuple[str | int, ...]
"""The way from the root to a value: ``("data", "train", 0)``."""

SET = "--set"
"""The source of what an override on the command line gave."""


class Position(NamedTuple):
    """A place in a text; both count from 1, columns in characters."""

    line: int
    column: int


class Place(NamedTuple):
    """Where a key and its value begin. An item of a list has no key: both are the item's."""

    key: Position
    value: Position


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong; ``str()`` gives its line.

    Args:
        message: What is wrong, what was found, what to do.
        path: The key; empty for the recipe as a whole.
        source: The file's name as given, ``<stdin>`` or ``--set``.
        position: Where in the file; None for an override.
    """

    message: str
    path: KeyPath = ()
    source: str
    position: Position | None = None

    def __str__(self) -> str:
        return f"{locate(self.source, self.position, self.path)}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Where each value of a recipe came from: a position in its file, or ``--set``.

    Args:
        source: The file's name as given, or ``<stdin>``.
        places: Where the file's keys and values begin.
        overridden: Keys that overrides gave or had to create.
    """

    source: str
    places: dict[KeyPath, Place]
    overridden: set[KeyPath] = field(default_factory=set)

    def is_overridden(self, path: KeyPath) -> bool:
        """Whether an override gave the value at ``path``, or one above it."""
        return any(path[:length] in self.overridden for length in range(1, len(path) + 1))

    def fault(self, path: KeyPath, message: str, *, at_key: bool = False) -> Fault:
        """A fault at ``path``, or at the nearest key above it that was written.

        Args:
            path: The key at fault.
            message: What is wrong with it.
            at_key: Point at the key, not at its value.
        """
        if self.is_overridden(path):
            return Fault(message=message, path=path, source=SET)
        return Fault(message=message, path=path, source=self.source, position=self._position(path, at_key=at_key))

    def locate(self, path: KeyPath) -> str:
        """``file:line:col: key.path`` for a message about the value at ``path``."""
        if self.is_overridden(path):
            return locate(SET, None, path)
        return locate(self.source, self._position(path, at_key=False), path)

    def _position(self, path: KeyPath, *, at_key: bool) -> Position:
        place = self.places.get(path)
        if place is not None:
            return place.key if at_key or not path else place.value
        while path:
            path = path[:-1]
            if path in self.places:
                return self.places[path].key
        return Position(1, 1)


def dotted(path: KeyPath) -> str:
    """The key as ``--set`` takes it: ``data.train.0``."""
    return ".".join(_on_one_line(str(key)) for key in path)


def _on_one_line(key: str) -> str:
    return key if key.isprintable() else json.dumps(key)


def locate(source: str, position: Position | None, path: KeyPath) -> str:
    """``r.yaml:7:3: model.num_layer``, or ``--set model.num_layer`` without a position."""
    if position is None:
        return f"{source} {dotted(path)}" if path else source
    where = f"{source}:{position.line}:{position.column}"
    return f"{where}: {dotted(path)}" if path else where
