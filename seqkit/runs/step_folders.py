"""The folders ``checkpoints/step-NNNNNNNN`` of a run and the links to them; what is in one is not known here.

A folder appears under its name complete or not at all. Work in progress has names that start with a dot:

====================  ========================================  ===============================================
name                  what it is                                after a kill
====================  ========================================  ===============================================
``.tmp-step-…-xxxx``  a checkpoint being written                removed
``.old-step-…-xxxx``  one that a new one replaces               put back if the new one is not there, else removed
``.gone-step-…-xxxx`` one being deleted                         removed
====================  ========================================  ===============================================
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, TypeVar

from seqkit.atomic import publish_folder, sync_folder
from seqkit.errors import CheckpointError

CHECKPOINTS_NAME = "checkpoints"
"""The folder of step folders inside a run folder."""

ReadT = TypeVar("ReadT")
LinkName = Literal["last", "best"]
LINK_NAMES: tuple[LinkName, ...] = ("last", "best")
"""The links in a run folder, to its newest checkpoint and to the one with the best validation score."""

_STEP_NAME = re.compile(r"step-(\d{8,})")
_HIDDEN_NAME = re.compile(r"\.(tmp|old|gone)-(step-\d{8,})-[0-9a-f]+")
_HIDDEN_LINK = re.compile(r"\.(last|best)-[0-9a-f]+\.tmp")


def is_hidden_link(name: str) -> bool:
    """Whether this is the name of a link that was to become ``last`` or ``best``.

    >>> is_hidden_link(".best-0a1b.tmp"), is_hidden_link("best")
    (True, False)
    """
    return _HIDDEN_LINK.fullmatch(name) is not None


def step_name(step: int) -> str:
    """The folder name of a step.

    >>> step_name(1900)
    'step-00001900'
    """
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step that a folder name stands for, or None if it is no checkpoint's name."""
    found = _STEP_NAME.fullmatch(folder.name)
    return int(found[1]) if found else None


def list_steps(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = run_dir / CHECKPOINTS_NAME
    if not folder.is_dir():
        return []
    found = [(step, path) for path in folder.iterdir() if (step := step_of(path)) is not None and path.is_dir()]
    return [path for _, path in sorted(found)]


def linked_step(run_dir: Path, link: LinkName) -> Path | None:
    """The checkpoint that ``last`` or ``best`` points at; None if the link is missing or points nowhere."""
    try:
        target = run_dir / (run_dir / link).readlink()
    except OSError:
        return None
    return target if target.is_dir() else None


def move_link(run_dir: Path, link: LinkName, step: int) -> None:
    """Point ``last`` or ``best`` at a checkpoint that exists; whoever reads it sees the old target or the new.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    target = Path(CHECKPOINTS_NAME) / step_name(step)
    if not (run_dir / target).is_dir():
        raise CheckpointError(f"{run_dir / target}: no such checkpoint to call {link}")
    temporary = run_dir / f".{link}-{secrets.token_hex(4)}.tmp"
    temporary.symlink_to(target)
    try:
        temporary.replace(run_dir / link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(run_dir)


def hidden_folder(run_dir: Path, step: int) -> Path:
    """Make the folder in which a step's checkpoint is written before :func:`publish` gives it its name.

    Raises:
        OSError: The run folder is gone, read-only or on a full disk.
    """
    parent = run_dir / CHECKPOINTS_NAME
    parent.mkdir(exist_ok=True)
    folder = _hidden(parent / step_name(step), "tmp")
    folder.mkdir()
    return folder


def publish(written: Path, run_dir: Path, step: int) -> Path:
    """Give a folder from :func:`hidden_folder`, complete and synced, its name; an older one of that step goes.

    Returns:
        The step folder.
    """
    final = run_dir / CHECKPOINTS_NAME / step_name(step)
    publish_folder(written, final)
    return final


def remove_step(folder: Path) -> None:
    """Delete a checkpoint; at no moment does half of one stand under its name."""
    gone = _hidden(folder, "gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def recover(run_dir: Path) -> None:
    """Undo or finish what a killed process left half-done. Only for whoever holds the run's lock."""
    for path in run_dir.iterdir():
        if is_hidden_link(path.name):
            path.unlink()
    parent = run_dir / CHECKPOINTS_NAME
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir()):
        found = _HIDDEN_NAME.fullmatch(path.name)
        if found is None:
            continue
        final = parent / found[2]
        if found[1] == "old" and not final.exists():
            path.rename(final)
        else:
            shutil.rmtree(path)
    sync_folder(parent)


def prune(run_dir: Path, keep_last: int, *, also: Collection[int] = ()) -> list[Path]:
    """Delete all but the newest ``keep_last`` checkpoints and those that ``last`` and ``best`` point at.

    Args:
        run_dir: The run folder.
        keep_last: How many of the newest to keep.
        also: Steps to keep besides.

    Returns:
        What was deleted.
    """
    steps = list_steps(run_dir)
    kept = {path.name for path in steps[-keep_last:]} if keep_last > 0 else set()
    kept |= set(map(step_name, also))
    for link in LINK_NAMES:
        # Read as text: a link that points nowhere protects nothing and hides nothing.
        if (run_dir / link).is_symlink():
            kept.add((run_dir / link).readlink().name)
    deleted = [path for path in steps if path.name not in kept]
    for path in deleted:
        remove_step(path)
    return deleted


def resolve(path: Path) -> Path:
    """The checkpoint folder that a path stands for: itself, or that of a run (best, else last, else newest).

    Raises:
        CheckpointError: There is nothing of the kind.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder")
    if not path.is_dir():
        raise CheckpointError(f"{path}: a file, not the folder of a model or a run")
    if not (path / CHECKPOINTS_NAME).is_dir():
        return path
    found = linked_step(path, "best") or linked_step(path, "last") or next(reversed(list_steps(path)), None)
    if found is None:
        raise CheckpointError(f"{path}: this run has no checkpoint yet")
    return found


def read_resolved(path: Path, read: Callable[[Path], ReadT]) -> ReadT:
    """What ``read`` makes of the checkpoint folder that a path stands for; again where that has changed meanwhile.

    Raises:
        CheckpointError: There is nothing of the kind, or ``read`` raises it.
    """
    folder = resolve(path)
    while True:
        try:
            return read(folder)
        except CheckpointError:
            # A training run may have moved `best` and deleted the old one while we read.
            newer = resolve(path)
            if newer == folder:
                raise
            folder = newer


def _hidden(final: Path, why: Literal["tmp", "gone"]) -> Path:
    return final.with_name(f".{why}-{final.name}-{secrets.token_hex(4)}")
