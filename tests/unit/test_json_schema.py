"""The JSON Schema of recipes: dialect, descriptions, defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import seqkit
from seqkit.recipe.json_schema import DIALECT, SCHEMA_FILE, recipe_schema, recipe_schema_text
from seqkit.recipe.recipe_types import RECIPE_TYPES


def properties_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from schema.get("properties", {}).items()
    for definition in schema["$defs"].values():
        yield from definition.get("properties", {}).items()


@pytest.mark.parametrize("task", RECIPE_TYPES)
def test_every_key_has_a_description(task: str) -> None:
    schema = recipe_schema([task])
    assert schema["$schema"] == DIALECT == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["task"]["const"] == task
    assert not schema["additionalProperties"]
    assert [name for name, body in properties_of(schema) if not body.get("description")] == []


def test_defaults_are_written_out_also_those_that_are_made() -> None:
    schema = recipe_schema(["lm"])
    assert schema["required"] == ["task", "data", "model", "train"]
    default = {"type": "char", "joint": None, "unseen": "bytes", "min_frequency": 1}
    assert schema["properties"]["tokenizer"]["default"] == default
    training = schema["$defs"]["LmTraining"]["properties"]
    assert training["log_every"]["default"] == 50
    assert training["optimizer"]["default"]["type"] == "adamw"
    for definition in schema["$defs"].values():
        for name, body in definition.get("properties", {}).items():
            assert name in definition.get("required", []) or "default" in body


def test_every_reference_leads_somewhere() -> None:
    schema = recipe_schema()
    references = set(_references(schema))
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_the_shipped_schema_file_is_current() -> None:
    path = Path(seqkit.__file__).parents[1] / "recipes" / SCHEMA_FILE
    assert json.loads(recipe_schema_text()) == recipe_schema()
    if path.exists():
        assert path.read_text(encoding="utf-8") == recipe_schema_text(), f"seqkit recipe schema > {path}"
