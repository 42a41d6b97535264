"""What TAB offers for recipes and ``--set``; imports no torch, prints nothing, never fails."""

from __future__ import annotations

from pathlib import Path


def complete_recipe(incomplete: str) -> list[str]:
    """Names of shipped recipes, and folders and YAML files on disk, that begin with ``incomplete``."""
    return [*complete_shipped_recipe(incomplete), *_files(incomplete)]


def complete_shipped_recipe(incomplete: str) -> list[str]:
    """Names of shipped recipes that begin with ``incomplete``."""
    from seqkit.recipe.library import shipped_recipes

    try:
        return [recipe.name for recipe in shipped_recipes() if recipe.name.startswith(incomplete)]
    except OSError:
        return []


def complete_override_key(incomplete: str) -> list[str]:
    """Keys for ``--set``, each with its ``=``; after the ``=``, the words that may stand there."""
    from seqkit.recipe.keys import Slot, all_keys, choices
    from seqkit.recipe.recipe_types import RECIPE_TYPES

    slots: dict[str, list[Slot]] = {}
    for root in RECIPE_TYPES.values():
        for name, slot in all_keys(root).items():
            slots.setdefault(name, []).append(slot)
    key, equals, value = incomplete.partition("=")
    if equals:
        # The same key may take other words in recipes of another task.
        words = dict.fromkeys(word for slot in slots.get(key, []) for word in choices(slot))
        return [f"{key}={word}" for word in words if word.startswith(value)]
    leaves = [name for name, found in slots.items() if not any(slot.models for slot in found)]
    return [f"{name}=" for name in leaves if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """Tasks that recipes may name."""
    from seqkit.recipe.recipe_types import RECIPE_TYPES

    return [task for task in RECIPE_TYPES if task.startswith(incomplete)]


def _files(incomplete: str) -> list[str]:
    folder, _, stem = incomplete.rpartition("/")
    if folder or incomplete.startswith("/"):
        folder += "/"
    found: list[str] = []
    try:
        for entry in sorted(Path(folder or ".").expanduser().iterdir()):
            hidden = entry.name.startswith(".") and not stem.startswith(".")
            if not entry.name.startswith(stem) or hidden:
                continue
            if entry.is_dir():
                found.append(f"{folder}{entry.name}/")
            elif entry.suffix in (".yaml", ".yml"):
                found.append(folder + entry.name)
    except (OSError, RuntimeError):
        return found
    return found
