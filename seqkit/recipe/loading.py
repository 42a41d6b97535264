"""A recipe from its name to its typed form, with every fault found in one pass.

The way of a recipe: name → bytes (:func:`find_recipe`) → plain values with positions (:mod:`.yaml12`) →
overrides (:mod:`.overrides`) → absolute paths (:mod:`.sources`) → the schema's type, chosen by ``task``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from seqkit.errors import CheckpointError, RecipeError, UsageError
from seqkit.recipe import yaml12
from seqkit.recipe.config import Config
from seqkit.recipe.explain import explain, in_words, unknown_task
from seqkit.recipe.faults import Fault, KeyPath, Origins
from seqkit.recipe.keys import item
from seqkit.recipe.library import find_shipped, shipped_recipes
from seqkit.recipe.overrides import apply_overrides, read_overrides
from seqkit.recipe.recipe_types import RECIPE_TYPES, Recipe
from seqkit.recipe.sources import expand_sources
from seqkit.recipe.suggest import did_you_mean

STDIN_SOURCE = "<stdin>"

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True, kw_only=True)
class RecipeText:
    """A recipe that was found and read, not yet understood.

    Args:
        name: A short name for folders and tables: the file's name without ``.yaml``; ``stdin``.
        source: What messages call it: the path as given, ``<stdin>``, ``recipes/NAME.yaml`` for a shipped one.
        path: The file, if it is one.
        text: Its bytes.
    """

    name: str
    source: str
    path: Path | None
    text: bytes


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A valid recipe, and where it came from.

    Args:
        recipe: Typed, defaults filled in, overrides applied, paths absolute.
        text: The file's bytes as given, without the overrides.
        name: A short name for folders and tables.
        source: What messages call the file.
        path: The file, if it is one.
        origins: Where each value was written.
    """

    recipe: Recipe
    text: bytes
    name: str
    source: str
    path: Path | None
    origins: Origins

    def locate(self, *path: str | int) -> str:
        """``file:line:col: key.path`` (or ``--set key.path``), to begin a message about that value with."""
        return self.origins.locate(path)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What reading a recipe came to: a recipe, or what is wrong with it.

    Args:
        recipe: The recipe; None if there are faults.
        faults: What is wrong, in the order of the file, overrides last.
        origins: Where each value was written.
    """

    recipe: Recipe | None
    faults: list[Fault]
    origins: Origins


def load_recipe(name: str, *, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Find, read and check a recipe.

    Args:
        name: A path, ``-`` for stdin, or the name of a shipped recipe; a path on disk wins.
        overrides: ``KEY=VALUE`` texts; later ones win.

    Raises:
        UsageError: There is no such recipe.
        RecipeError: It has faults; ``messages`` holds one line for each.
    """
    found = find_recipe(name)
    examination = examine(found, overrides=overrides)
    if examination.recipe is None:
        raise RecipeError([str(fault) for fault in examination.faults])
    return LoadedRecipe(
        recipe=examination.recipe,
        text=found.text,
        name=found.name,
        source=found.source,
        path=found.path,
        origins=examination.origins,
    )


def load_section(recipe_name: str, section: str, expected: type[ConfigT]) -> ConfigT:
    """One section of a recipe, such as ``sample``, as the defaults of the command of that name.

    The whole recipe must be valid. ``model_fields_set`` of the result tells the keys that the file gives.

    Args:
        recipe_name: As :func:`load_recipe` takes it.
        section: The section's key.
        expected: The type that the command reads.

    Raises:
        UsageError: There is no such recipe, or recipes of its task have no such section.
        RecipeError: It has faults.
    """
    loaded = load_recipe(recipe_name)
    value = getattr(loaded.recipe, section, None)
    if not isinstance(value, expected):
        raise UsageError(f"{loaded.source}: a recipe of task {loaded.recipe.task} has no such section `{section}`")
    return value


def find_recipe(name: str) -> RecipeText:
    """Find a recipe and read its bytes.

    Raises:
        UsageError: There is no such recipe; names the nearest one.
        OSError: It cannot be read.
    """
    if name == "-":
        text = sys.stdin.buffer.read(yaml12.MAX_BYTES + 1)
        return RecipeText(name="stdin", source=STDIN_SOURCE, path=None, text=text)
    path = Path(name)
    if path.exists() and not path.is_dir():
        with path.open("rb") as file:
            text = file.read(yaml12.MAX_BYTES + 1)
        # Runs go into a folder of this name: `...yaml` must not make it the one above, nor a hidden one.
        return RecipeText(name=path.stem.lstrip(".") or "recipe", source=name, path=path, text=text)
    shipped = find_shipped(name)
    if shipped is not None:
        short = shipped.name.rpartition("/")[2]
        return RecipeText(name=short, source=shipped.source, path=shipped.path, text=shipped.read())
    if path.is_dir():
        raise UsageError(f"{name} is a folder, not a recipe")
    raise no_such_recipe(name)


def no_such_recipe(name: str, *, only_shipped: bool = False) -> UsageError:
    """The error for a recipe that is nowhere, with the nearest that is somewhere.

    Args:
        name: What was asked for.
        only_shipped: Suggest no files.
    """
    names = [recipe.name for recipe in shipped_recipes()]
    near = None
    folder = Path(name).parent
    if not only_shipped and folder.is_dir():
        files = [str(folder / file.name) for file in folder.iterdir() if file.suffix in (".yaml", ".yml")]
        near = did_you_mean(str(Path(name)), files)
    if near is None:
        bare = Path(name).stem if name.endswith((".yaml", ".yml")) else name.rpartition("/")[2]
        near = did_you_mean(bare, names)
    suggested = f"; did you mean {near}?" if near else ""
    return UsageError(f"no recipe {name}{suggested}", hint="seqkit recipe ls")


def examine(found: RecipeText, *, overrides: Sequence[str] = ()) -> Examination:
    """Check a recipe and its overrides; collects every fault instead of raising at the first.

    Args:
        found: The recipe's text.
        overrides: ``KEY=VALUE`` texts; later ones win.

    Returns:
        The recipe, or its faults; a text that is no YAML has one, and its overrides' own.
    """
    pairs, override_faults = read_overrides(overrides)
    try:
        document = yaml12.parse(found.text, found.source)
    except yaml12.YamlError as error:
        origins = Origins(source=found.source, places={})
        return Examination(recipe=None, faults=[error.fault, *override_faults], origins=origins)
    origins = Origins(source=found.source, places=document.places)
    faults = [*document.faults, *override_faults]
    data = document.data
    recipe: Recipe | None = None
    if data is None and not document.faults:
        faults.insert(0, origins.fault((), "the recipe is empty"))
    elif not isinstance(data, dict):
        faults.insert(0, origins.fault((), f"expected keys and values, found {in_words(data)}"))
    else:
        task = next((value for path, value in reversed(pairs) if path == ("task",)), data.get("task"))
        root = RECIPE_TYPES.get(task) if isinstance(task, str) else None
        faults += apply_overrides(data, pairs, root, origins)
        if root is None:
            if not any(fault.path == ("task",) for fault in faults):
                faults.append(unknown_task(data, list(RECIPE_TYPES), origins))
        else:
            # A value that could not be read is null in `data`; that is told once.
            unread = {fault.path for fault in faults if _value_at(data, fault.path) is None}
            data, source_faults = expand_sources(root, data, origins)
            faults += source_faults
            try:
                recipe = root.model_validate(data)
            except ValidationError as error:
                faults += [fault for fault in explain(error, root, data, origins) if fault.path not in unread]
    faults = sorted(dict.fromkeys(faults), key=_reading_order)
    return Examination(recipe=None if faults else recipe, faults=faults, origins=origins)


def resolve_recipe_text(recipe: Recipe) -> str:
    """The full recipe as YAML, every default written out; loading it gives an equal recipe."""
    return yaml12.dump(_type_first(recipe.model_dump(mode="json")))


def recipe_from_resolved(text: bytes | str, *, source: str = "recipe.yaml") -> Recipe:
    """The recipe that :func:`resolve_recipe_text` wrote into a model folder; its paths are left as they are.

    Args:
        text: The file's content.
        source: What to call the file in messages.

    Raises:
        CheckpointError: It is not a resolved recipe of this version of seqkit.
    """
    try:
        document = yaml12.parse(text, source)
    except yaml12.YamlError as error:
        raise CheckpointError(f"the model's recipe is damaged: {error.fault}") from None
    data = document.data
    origins = Origins(source=source, places=document.places)
    faults = list(document.faults)
    task = data.get("task") if isinstance(data, dict) else None
    root = RECIPE_TYPES.get(task) if isinstance(task, str) else None
    if root is None and not faults:
        faults = [unknown_task(data, list(RECIPE_TYPES), origins)]
    if root is not None and not faults:
        try:
            return root.model_validate(data)
        except ValidationError as error:
            faults = explain(error, root, data, origins)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    raise CheckpointError(
        f"the model's recipe cannot be read: {faults[0]}{more}", hint="was it written by another version of seqkit?"
    )


def differing_keys(old: Recipe, new: Recipe) -> list[str]:
    """The keys at which two recipes differ, as ``train.optimizer.lr: 0.001 -> 0.002``."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    keys = dict.fromkeys([*before, *after])
    return [
        f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys and their values as a flow of YAML on one line."""
    if not isinstance(value, dict):
        return {prefix: _on_one_line(value)}
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def _on_one_line(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_on_one_line, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_on_one_line(inner)}" for key, inner in value.items()) + "}"
    return yaml12.dump(value).removesuffix("...\n").removesuffix("\n")


def _type_first(value: Any) -> Any:
    """Mappings with ``type`` as their first key, where they have one; a subclass's fields come last otherwise."""
    if isinstance(value, list):
        return [_type_first(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    ordered = {"type": value["type"], **value} if "type" in value else value
    return {key: _type_first(inner) for key, inner in ordered.items()}


def _value_at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = item(data, key)
    return data


def _reading_order(fault: Fault) -> tuple[bool, KeyPath | tuple[int, int]]:
    return fault.position is None, fault.position or (0, 0)
