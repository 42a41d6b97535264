"""What each key of a recipe means: the docstring under its field in the schema's source.

pydantic can collect these itself, but does so whenever the schema is imported, which made every command that reads a
recipe slower to start; only the JSON Schema needs them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from types import ModuleType

from pydantic import BaseModel


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field name to docstring, of a config type and the types it inherits from; of two the nearer one counts."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= _docstrings(sys.modules[kind.__module__]).get(kind.__qualname__, {})
    return found


@functools.cache
def _docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class name to field name to docstring, read off a module's source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = dict(_fields(node))
    return found


def _fields(node: ast.ClassDef) -> list[tuple[str, str]]:
    """The annotated names of a class that a docstring follows."""
    fields = []
    for field, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            fields.append((field.target.id, inspect.cleandoc(after.value.value)))
    return fields
