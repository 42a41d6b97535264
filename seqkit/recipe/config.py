"""What every section of a recipe is made of: the base of all configs, and the kinds of values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DataSource = str | list[str]
"""``builtin:NAME``, ``catalog:NAME[/SPLIT]``, a path or glob (``.gz`` is read as it is), or a list of these."""

LOCAL_PATH = object()
"""Marks text that is the path of one file."""

LocalPath = Annotated[str, LOCAL_PATH]
"""The path of one file."""


class Config(BaseModel):
    """Base of all configs: frozen, strict about types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FaultAtKeyError(ValueError):
    """What is wrong with a key, found where it is seen together with others.

    Args:
        path: The key, from where it was found; a message points there.
        message: What is wrong with it.
    """

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
