"""What a model folder says of its model without its weights: the facts in ``model.json``, and the recipe.

Needs no torch, so that options can be checked before anything heavy is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqkit.errors import CheckpointError, UsageError
from seqkit.runs import listed_files, step_folders

RECIPE_NAME = "recipe.yaml"
FACTS_NAME = "model.json"


def read_facts(folder: Path) -> dict[str, Any]:
    """``model.json`` of a model folder, not verified.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = folder / FACTS_NAME
    try:
        facts = json.loads(listed_files.read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error})", hint=listed_files.HINT) from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object", hint=listed_files.HINT)
    return facts


def require_task(path: Path, facts: Mapping[str, Any], task: str) -> None:
    """Check that a model is for ``task``.

    Raises:
        UsageError: It is for another one.
    """
    found = facts.get("task")
    if found != task:
        raise UsageError(
            f"{path}: a model for the task {found}, where one for {task} is needed",
            hint="give another one with --model; `seqkit runs ls` shows what each run trained",
        )


def read_recipe_text(path: Path, task: str) -> str:
    """The resolved recipe of a run, checkpoint or export folder, verified.

    Args:
        path: The folder.
        task: What the model must be for.

    Raises:
        CheckpointError: The recipe or the facts are missing or damaged.
        UsageError: The model is for another task.
    """

    def read(folder: Path) -> str:
        sums = listed_files.read_sums(folder)
        names = [RECIPE_NAME, FACTS_NAME]
        listed_files.require_listed(folder, sums, names)
        listed_files.verify(folder, {name: sums[name] for name in names})
        require_task(folder, read_facts(folder), task)
        return listed_files.read_text(folder / RECIPE_NAME)

    return step_folders.read_resolved(path, read)
