"""The recipes that come with seqkit: package data in an installed copy, ``recipes/`` in a checkout."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import seqkit

_SUFFIXES = (".yaml", ".yml")
MODELINE = "# yaml-language-server:"
"""How the line begins that tells an editor the schema."""


@dataclass(frozen=True, kw_only=True)
class ShippedRecipe:
    """One recipe that comes with seqkit.

    Args:
        name: What a user types: the path under ``recipes/`` without ``.yaml``.
        file: Where its text is.
    """

    name: str
    file: Traversable

    @property
    def source(self) -> str:
        """What messages call it: ``recipes/lstm_charlm.yaml``."""
        return f"recipes/{self.name}{Path(self.file.name).suffix}"

    @property
    def path(self) -> Path | None:
        """The file on disk, unless seqkit runs from an archive."""
        return self.file if isinstance(self.file, Path) else None

    def read(self) -> bytes:
        """The recipe as it is, byte for byte."""
        return self.file.read_bytes()

    @property
    def description(self) -> str:
        """What its first comment line says."""
        return describe(self.read())


def shipped_recipes() -> list[ShippedRecipe]:
    """Every shipped recipe, nested folders included, by name."""
    folder = _folder()
    found = _find(folder, "") if folder.is_dir() else iter(())
    return sorted(found, key=lambda recipe: recipe.name)


def find_shipped(name: str) -> ShippedRecipe | None:
    """The shipped recipe called ``name``: ``lstm_charlm``, ``lstm_charlm.yaml``, ``recipes/lstm_charlm.yaml``.

    A recipe in a nested folder answers to its bare name too, if no other has it.
    """
    name = name.removeprefix("./").removeprefix("recipes/")
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    recipes = shipped_recipes()
    same_name = [recipe for recipe in recipes if recipe.name == name]
    same_stem = [recipe for recipe in recipes if recipe.name.rpartition("/")[2] == name]
    if same_name:
        return same_name[0]
    return same_stem[0] if len(same_stem) == 1 else None


def describe(text: bytes) -> str:
    r"""A recipe's first comment line, the one for editors aside; empty if it opens with none.

    >>> describe(b"# yaml-language-server: $schema=s.json\n# An LSTM.\ntask: lm\n")
    'An LSTM.'
    """
    for line in text.decode("utf-8", errors="replace").split("\n"):
        if not line.startswith("#"):
            break
        comment = line.lstrip("#").strip()
        if comment and not line.startswith(MODELINE):
            return comment
    return ""


def _folder() -> Traversable:
    installed = importlib.resources.files(seqkit) / "_recipes"
    return installed if installed.is_dir() else Path(seqkit.__file__).resolve().parent.parent / "recipes"


def _find(folder: Traversable, prefix: str) -> Iterator[ShippedRecipe]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _find(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIXES) and not entry.name.startswith("."):
            yield ShippedRecipe(name=prefix + Path(entry.name).stem, file=entry)
