"""Exports: a model in another engine's format, with the tokenizers, the recipe and facts that make it self-contained.

``model.bin``, ``config.json`` and ``*vocabulary.json`` are the engine's; ``tokenizer*.json``, ``recipe.yaml``,
``model.json`` (facts, what it was made from among them) and ``SHA256SUMS`` are as in a checkpoint. Reading one verifies
the sums, runs no code and needs no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkit.atomic import atomic_folder
from seqkit.errors import CheckpointError
from seqkit.runs import listed_files
from seqkit.runs.json_values import finite
from seqkit.runs.model_facts import FACTS_NAME, RECIPE_NAME, read_facts

WEIGHTS_NAME = "model.bin"
_TOKENIZER_NAME = re.compile(r"tokenizer[A-Za-z0-9._-]*\.json")


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export whose files all had the right sums."""

    path: Path
    tokenizers: dict[str, str]
    """File name (``tokenizer.json``) to content."""
    recipe: str
    """The resolved recipe of the model, YAML."""
    facts: dict[str, Any]
    """``model.json`` of the model, and under ``export`` what this is and what it was made from."""


def is_export(folder: Path) -> bool:
    """Whether a folder is an export, damaged or not; a checkpoint has other weights."""
    return (folder / WEIGHTS_NAME).is_file() and (folder / listed_files.SUMS_NAME).is_file()


def check_export_place(path: Path, *, replace: bool) -> None:
    """Check, without touching it, that an export may be written there.

    Raises:
        UsageError: Something is there that is not to be replaced, or there is no folder to put it in.
    """
    listed_files.check_place(path, what="an export", is_one=is_export, replace=replace)


def write_export(
    path: Path,
    write_weights: Callable[[Path], None],
    *,
    tokenizers: Mapping[str, str],
    recipe: str,
    facts: Mapping[str, Any],
    replace: bool,
) -> None:
    """Write an export; it appears complete or not at all.

    Args:
        path: The folder; its parent must exist.
        write_weights: Writes the engine's own files into an empty folder.
        tokenizers: File names to JSON text.
        recipe: The resolved recipe of the model.
        facts: What ``model.json`` is to say.
        replace: Whether another export there may be replaced.

    Raises:
        UsageError: As :func:`check_export_place`.
        OSError: The disk is full, another process was faster, ...; nothing is left behind.
    """
    check_export_place(path, replace=replace)
    with atomic_folder(path, replace=replace) as folder:
        write_weights(folder)
        texts = {
            **tokenizers,
            RECIPE_NAME: recipe,
            FACTS_NAME: json.dumps(finite(dict(facts)), ensure_ascii=False, allow_nan=False, indent=2) + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode("utf-8"))
        listed_files.list_files(folder, [item.name for item in folder.iterdir()])


def read_export(path: Path) -> Export:
    """Read and verify an export.

    Raises:
        CheckpointError: A file is missing or damaged; the message names it.
    """
    sums = listed_files.read_sums(path)
    listed_files.require_listed(path, sums, [WEIGHTS_NAME, RECIPE_NAME, FACTS_NAME])
    listed_files.verify(path, sums)
    facts = read_facts(path)
    if not isinstance(facts.get("export"), dict):
        raise CheckpointError(f"{path / FACTS_NAME}: does not say what this export is", hint=listed_files.HINT)
    tokenizers = {name: listed_files.read_text(path / name) for name in sums if _TOKENIZER_NAME.fullmatch(name)}
    return Export(path=path, tokenizers=tokenizers, recipe=listed_files.read_text(path / RECIPE_NAME), facts=facts)
