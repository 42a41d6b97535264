"""Temporary neighbours of a file or folder, locked while they are written: what a killed writer left can be told.

The kernel lets go of the lock the moment a writer dies, however that comes. Whoever writes next to the same name
removes what nobody holds. Where the file system has no locks, nothing is removed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".seqkit-"
_SUFFIX = ".tmp"


def make_file_beside(path: Path) -> tuple[int, Path]:
    """Make and lock an empty file, hidden, in the folder of ``path``, readable by its owner alone.

    Returns:
        A descriptor, which holds the lock until it and its duplicates are closed, and the file's path.

    Raises:
        OSError: The folder is missing or read-only.
    """
    while True:
        made = _new_name(path)
        handle = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _hold(handle, made):
            return handle, made
        os.close(handle)


def make_folder_beside(path: Path, *, mode: int = 0o777) -> tuple[int, Path]:
    """As :func:`make_file_beside`, a folder; the umask takes from its permission bits."""
    while True:
        made = _new_name(path)
        made.mkdir(mode)
        try:
            handle = os.open(made, os.O_RDONLY)
        except FileNotFoundError:
            continue
        if _hold(handle, made):
            return handle, made
        os.close(handle)


def make_scratch_folder(purpose: str) -> tuple[int, Path]:
    """Make and lock a private folder where the system has its temporary files; those of dead processes go.

    Args:
        purpose: Becomes part of its name, such as ``dry-run``.

    Returns:
        A descriptor that holds the lock, and the folder.
    """
    place = Path(tempfile.gettempdir()) / f"seqkit-{purpose}"
    remove_leftovers(place)
    return make_folder_beside(place, mode=0o700)


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder from :func:`make_scratch_folder` for the time of a block."""
    held, folder = make_scratch_folder(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def remove_leftovers(path: Path) -> None:
    """Remove what writers of ``path`` that are dead left beside it; what cannot be removed stays."""
    start = f".{path.name}{_MARK}"
    try:
        found = [item for item in path.parent.iterdir() if item.name.startswith(start) and item.suffix == _SUFFIX]
    except OSError:
        return
    for left in found:
        _remove_if_dead(left)


def _new_name(path: Path) -> Path:
    return path.with_name(f".{path.name}{_MARK}{secrets.token_hex(4)}{_SUFFIX}")


def _hold(handle: int, made: Path) -> bool:
    """Lock what was just made; False if somebody took it for a leftover in the moment before."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # No locks here: nobody removes it either.
        return True
    return _is_at(handle, made)


def _remove_if_dead(left: Path) -> None:
    try:
        is_folder = left.is_dir()
        # A lock on a network's file asks for the right to write it.
        mode = os.O_RDONLY if is_folder else os.O_RDWR
        handle = os.open(left, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its writer may have given it its name, and another be at work under this one.
        if not _is_at(handle, left):
            return
        if is_folder:
            shutil.rmtree(left)
        else:
            left.unlink()
    except OSError:
        # Its writer is alive, or it is another user's, or there are no locks.
        return
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
