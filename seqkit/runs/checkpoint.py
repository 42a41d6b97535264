"""Model folders: everything a filter needs, and what training needs to go on, in one place that can be moved.

``model.safetensors``, ``tokenizer*.json``, ``recipe.yaml`` (resolved), ``model.json`` (facts),
``train_state.safetensors`` (absent where training is not to be resumed) and ``SHA256SUMS``, which
``sha256sum -c`` can check too. Reading verifies the sums and runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqkit.atomic import publish_folder, sync_folder
from seqkit.errors import CheckpointError, UsageError
from seqkit.runs import step_folders
from seqkit.runs.json_values import finite
from seqkit.runs.tensor_file import read_tensors, storage_key, write_tensors
from seqkit.runs.tensor_tree import load_tree, save_tree

WEIGHTS_NAME = "model.safetensors"
RECIPE_NAME = "recipe.yaml"
FACTS_NAME = "model.json"
TRAIN_STATE_NAME = "train_state.safetensors"
SUMS_NAME = "SHA256SUMS"

_TOKENIZER_NAME = re.compile(r"tokenizer[A-Za-z0-9._-]*\.json")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")
_HINT = "copy the folder again, or use another checkpoint"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model folder whose files all had the right sums."""

    path: Path
    """The checkpoint folder itself, also where a run folder or a link was given."""
    weights: dict[str, Tensor]
    """Parameter and buffer names to tensors on the CPU; tied ones are one tensor under several names."""
    tokenizers: dict[str, str]
    """File name (``tokenizer.json``) to content."""
    recipe: str
    """The resolved recipe, YAML."""
    facts: dict[str, Any]
    """``model.json``: task, step, sizes, versions, scores, data hashes."""
    train_state: Any
    """What :func:`write_checkpoint` was given; None if it was given none or it was not asked for."""

    def require_task(self, task: str) -> None:
        """Check that the model is for ``task``.

        Raises:
            UsageError: It is for another one.
        """
        found = self.facts.get("task")
        if found != task:
            raise UsageError(
                f"{self.path}: a model for the task {found}, where one for {task} is needed",
                hint="give another one with --model; `seqkit runs ls` shows what each run trained",
            )


def write_checkpoint(
    run_dir: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    tokenizers: Mapping[str, str | bytes],
    recipe: str,
    facts: Mapping[str, Any],
    train_state: Any = None,
    best_step: int | None = None,
) -> Path:
    """Write ``checkpoints/step-NNNNNNNN`` of a run, then point ``last`` at it and ``best`` at the best one.

    The folder appears complete or not at all, and is on disk before a link names it. A checkpoint of the same
    step is replaced.

    Args:
        run_dir: The run folder; the caller holds its lock.
        step: Optimizer steps taken.
        weights: A model's ``state_dict()``, on any device.
        tokenizers: File names (``tokenizer.json``, ``tokenizer.src.json``) to JSON text.
        recipe: The resolved recipe.
        facts: What ``model.json`` is to say; anything that JSON can hold (NaN and infinity become null).
        train_state: A tree for :func:`seqkit.runs.tensor_tree.save_tree`; None: training cannot go on from here.
        best_step: The step, this one or an older one, with the best validation score; None leaves ``best`` alone.

    Returns:
        The checkpoint folder.

    Raises:
        OSError: The disk is full, the run folder is gone, ...; nothing is left behind and no link has moved.
    """
    folder = step_folders.hidden_folder(run_dir, step)
    try:
        _write_files(folder, weights, tokenizers, recipe, facts, train_state)
        final = step_folders.publish(folder, run_dir, step)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    step_folders.move_link(run_dir, "last", step)
    if best_step is not None:
        step_folders.move_link(run_dir, "best", best_step)
    return final


def check_model_place(path: Path, *, replace: bool) -> None:
    """Check, without touching it, that a model folder may be written there.

    Raises:
        UsageError: Something is there that is not to be replaced, or there is no folder to put it in.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: a file, where a model folder should be", hint="name another folder")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder", hint="make it first, or name another one")
    if path.is_dir() and any(path.iterdir()):
        if not (path / SUMS_NAME).is_file():
            raise UsageError(f"{path}: this folder is not empty and holds no model", hint="name another folder")
        if not replace:
            raise UsageError(f"{path}: a model is there already", hint="--force replaces it; else name another folder")


def write_model_folder(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    tokenizers: Mapping[str, str | bytes],
    recipe: str,
    facts: Mapping[str, Any],
    replace: bool,
) -> None:
    """Write a model folder outside a run, to be used but not trained on; it appears complete or not at all.

    Args:
        path: The folder; its parent must exist.
        weights: As for :func:`write_checkpoint`, like the following ones.
        tokenizers: File names to JSON text.
        recipe: The resolved recipe.
        facts: What ``model.json`` is to say.
        replace: Whether another model there may be replaced.

    Raises:
        UsageError: As :func:`check_model_place`.
        OSError: The disk is full, ...; nothing is left behind.
    """
    check_model_place(path, replace=replace)
    path = path.resolve()
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    folder.mkdir()
    try:
        _write_files(folder, weights, tokenizers, recipe, facts, None)
        publish_folder(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_files(
    folder: Path,
    weights: Mapping[str, Tensor],
    tokenizers: Mapping[str, str | bytes],
    recipe: str,
    facts: Mapping[str, Any],
    train_state: Any,
) -> None:
    """Fill an empty folder with a model's files and force them to disk."""
    for name in tokenizers:
        assert _TOKENIZER_NAME.fullmatch(name), f"not a tokenizer's file name: {name!r}"
    _write_weights(folder / WEIGHTS_NAME, weights)
    texts = {
        **tokenizers,
        RECIPE_NAME: recipe,
        FACTS_NAME: json.dumps(finite(dict(facts)), ensure_ascii=False, allow_nan=False, indent=2) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    names = [WEIGHTS_NAME, *texts]
    if train_state is not None:
        save_tree(folder / TRAIN_STATE_NAME, train_state)
        names.append(TRAIN_STATE_NAME)
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in sorted(names))
    (folder / SUMS_NAME).write_text(sums, encoding="utf-8", newline="\n")
    _sync_files(folder / name for name in [*names, SUMS_NAME])
    sync_folder(folder)


def read_checkpoint(path: Path, *, train_state: bool = True) -> Checkpoint:
    """Read and verify a model folder.

    Args:
        path: A checkpoint folder, moved or not, or a run folder: its best checkpoint, else its last.
        train_state: Read the train state as well. Without it, that file is neither read nor verified and may be
            missing: it is twice as large as the model, and filters have no use for it.

    Raises:
        CheckpointError: A file is missing, damaged or of another kind; the message names it.
    """
    folder = step_folders.resolve(path)
    while True:
        try:
            return _read(folder, train_state=train_state)
        except CheckpointError:
            # A training run may have moved `best` and deleted the old one while we read.
            newer = step_folders.resolve(path)
            if newer == folder:
                raise
            folder = newer


def read_task(path: Path) -> str:
    """The task of a model folder, from its facts alone; ``read_checkpoint`` verifies the rest.

    Raises:
        CheckpointError: There are no facts, or they do not say.
    """
    folder = step_folders.resolve(path)
    task = read_facts(folder).get("task")
    if not isinstance(task, str):
        raise CheckpointError(f"{folder / FACTS_NAME}: does not name the model's task", hint=_HINT)
    return task


def read_facts(folder: Path) -> dict[str, Any]:
    """``model.json`` of a checkpoint folder, not verified.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    return _read_facts(folder / FACTS_NAME)


def _read(folder: Path, *, train_state: bool) -> Checkpoint:
    sums = _read_sums(folder)
    if not train_state:
        sums.pop(TRAIN_STATE_NAME, None)
    for name, expected in sums.items():
        try:
            if not stat.S_ISREG((folder / name).stat().st_mode):
                # A pipe would keep us waiting for ever, a device might have no end.
                raise CheckpointError(f"{folder / name}: not a regular file", hint=_HINT)
            found = _sha256(folder / name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder / name}: missing from this checkpoint", hint=_HINT) from error
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror})", hint=_HINT) from error
        if found != expected:
            raise CheckpointError(f"{folder / name}: damaged: its SHA-256 is not the one in {SUMS_NAME}", hint=_HINT)
    return Checkpoint(
        path=folder,
        weights=_read_weights(folder / WEIGHTS_NAME),
        tokenizers={name: _read_text(folder / name) for name in sums if _TOKENIZER_NAME.fullmatch(name)},
        recipe=_read_text(folder / RECIPE_NAME),
        facts=_read_facts(folder / FACTS_NAME),
        train_state=load_tree(folder / TRAIN_STATE_NAME) if TRAIN_STATE_NAME in sums else None,
    )


def _read_sums(folder: Path) -> dict[str, str]:
    """File names to SHA-256 digests; every file of the checkpoint must be there."""
    path = folder / SUMS_NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; this folder is no checkpoint, or a damaged one", hint=_HINT)
    sums: dict[str, str] = {}
    *lines, rest = _read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        found = _SUM_LINE.fullmatch(line)
        if found is None:
            raise CheckpointError(f"{path}:{number}: damaged: not a checksum and a file name", hint=_HINT)
        sums[found[2]] = found[1]
    if rest:
        raise CheckpointError(f"{path}:{len(lines) + 1}: damaged: the line has no end", hint=_HINT)
    # A list cut off after a whole line must not pass for a shorter checkpoint.
    present = {item.name for item in folder.iterdir() if _is_ours(item.name)}
    unlisted = sorted((present | {WEIGHTS_NAME, RECIPE_NAME, FACTS_NAME}) - sums.keys())
    if unlisted:
        raise CheckpointError(f"{path}: damaged: {unlisted[0]} is not listed", hint=_HINT)
    return sums


def _is_ours(name: str) -> bool:
    return name in (WEIGHTS_NAME, RECIPE_NAME, FACTS_NAME, TRAIN_STATE_NAME) or bool(_TOKENIZER_NAME.fullmatch(name))


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Store each tensor once; the note says which names are aliases (tied weights) of which."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[Any, str] = {}
    for name, tensor in weights.items():
        key = storage_key(tensor)
        if key is not None and key in owners:
            aliases[name] = owners[key]
            continue
        kept[name] = tensor
        if key is not None:
            owners[key] = name
    write_tensors(path, kept, json.dumps({"format": "weights 1", "aliases": aliases}))


def _read_weights(path: Path) -> dict[str, Tensor]:
    weights, note = read_tensors(path)
    try:
        content = json.loads(note)
        if content["format"] != "weights 1":
            raise ValueError(f"format {content['format']!r}")
        for name, owner in content["aliases"].items():
            weights[name] = weights[owner]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: holds no model weights ({error})", hint=_HINT) from error
    return weights


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error})", hint=_HINT) from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object", hint=_HINT)
    return facts


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})", hint=_HINT) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_files(paths: Iterable[Path]) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
