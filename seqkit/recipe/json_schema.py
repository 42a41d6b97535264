"""JSON Schema of recipes, for editors and other programs, from the config types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from seqkit.recipe.descriptions import field_descriptions
from seqkit.recipe.recipe_types import RECIPE_TYPES

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FILE = "recipe.schema.json"
"""The schema's file beside the shipped recipes, which their first lines name."""


class _Complete(GenerateJsonSchema):
    """Also writes the defaults that a factory makes, such as a whole optimizer, and what each key means."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        factory = schema.get("default_factory")
        if factory is None or schema.get("default_factory_takes_data"):
            return super().default_schema(schema)
        made: Any = factory()  # type: ignore[call-arg]
        return super().default_schema({**schema, "default": made})

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        for name, text in field_descriptions(schema["cls"]).items():
            described["properties"][name]["description"] = text
        return described


def recipe_schema(tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of recipes.

    Args:
        tasks: The tasks to describe; all without it.

    Returns:
        For one task its schema; for several a choice by the key ``task``.
    """
    types = [RECIPE_TYPES[task] for task in tasks or RECIPE_TYPES]
    by_type, shared = models_json_schema([(kind, "validation") for kind in types], schema_generator=_Complete)
    definitions: dict[str, Any] = dict(shared["$defs"])
    head = {"$schema": DIALECT, "title": "seqkit recipe"}
    if len(types) == 1:
        name = by_type[types[0], "validation"]["$ref"].rpartition("/")[2]
        body = definitions.pop(name)
        return {**head, **{key: value for key, value in body.items() if key != "title"}, "$defs": definitions}
    return {**head, "oneOf": [by_type[kind, "validation"] for kind in types], "$defs": definitions}


def recipe_schema_text(tasks: Sequence[str] | None = None) -> str:
    """The schema as indented JSON, one line end at the end."""
    return json.dumps(recipe_schema(tasks), indent=2, ensure_ascii=False) + "\n"
