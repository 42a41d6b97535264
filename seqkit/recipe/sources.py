"""Where a recipe's data is: ``~`` and ``${VAR}`` expanded, relative paths made absolute.

A recipe then means the same from any folder, and the resolved one says exactly what was read. Names of
corpora (``builtin:``, ``catalog:``) stay as they are, and so do globs.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from seqkit.recipe.faults import Fault, Origins
from seqkit.recipe.keys import walk
from seqkit.recipe.suggest import did_you_mean

SCHEMES = ("builtin", "catalog")
"""What may stand before the colon of a corpus name."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = re.compile(r"([A-Za-z]+):")


def expand_sources(root: type[BaseModel], data: Any, origins: Origins) -> tuple[Any, list[Fault]]:
    """Expand every data source of a recipe, and every path.

    Args:
        root: The recipe's type; its fields tell which keys name data or files.
        data: The recipe as plain values; not altered.
        origins: Where its values were written.

    Returns:
        The recipe with absolute paths, and a fault for each that cannot be expanded.
    """
    expanded = _copy(data)
    faults: list[Fault] = []
    for path, slot, value in walk(root, data):
        if not slot.is_data_source and not slot.is_path:
            continue
        expand = expand_path if slot.is_path else expand_source
        names = [((*path, index), name) for index, name in enumerate(value)] if isinstance(value, list) else []
        for place, name in names or [(path, value)]:
            if not isinstance(name, str):
                continue
            try:
                _put(expanded, place, expand(name))
            except ValueError as error:
                faults.append(origins.fault(place, str(error)))
    return expanded, faults


def expand_source(name: str) -> str:
    """One data source with its variables and home folder filled in, absolute if it is a path.

    Raises:
        ValueError: A variable is not set, or the name is empty or close to a corpus name; says what is wrong.
    """
    name = _VARIABLE.sub(_value_of, name)
    if not name:
        raise ValueError("expected a path or the name of a corpus, found empty text")
    scheme = _SCHEME.match(name)
    if scheme:
        if scheme.group(1) in SCHEMES:
            return name
        near = did_you_mean(scheme.group(1), SCHEMES)
        if near and not Path(name).exists():
            raise ValueError(f"no corpora are called {scheme.group(1)}:…; did you mean {near}:?")
    path = _without_tilde(name)
    if path.is_absolute():
        return str(path)
    here = str(Path.cwd())
    return str(Path(glob.escape(here) if glob.has_magic(name) else here) / path)


def expand_path(name: str) -> str:
    """The path of one file with its variables and home folder filled in, absolute.

    Raises:
        ValueError: A variable is not set, or the path is empty; says what is wrong.
    """
    name = _VARIABLE.sub(_value_of, name)
    if not name:
        raise ValueError("expected a path, found empty text")
    return str(Path.cwd() / _without_tilde(name))


def _value_of(variable: re.Match[str]) -> str:
    """The value of ``${VAR}``."""
    value = os.environ.get(variable.group(1))
    if value is None:
        raise ValueError(f"the environment variable {variable.group(1)} is not set")
    return value


def _without_tilde(name: str) -> Path:
    """A path with the home folder filled in."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"cannot expand ~: {error}") from None


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data


def _put(data: Any, path: tuple[str | int, ...], value: str) -> None:
    *parents, last = path
    for key in parents:
        data = data[key]
    data[last] = value
