"""The folder in which something for the cache is built: one builder at a time, and a killed one's work is kept.

It stands beside the place of what is built, under a name that follows from it, so that the next builder finds it. Its
kernel lock is free the moment its builder dies. Who finds it held waits, for what is built is what it wants too.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "lock"
_ABANDONED_AFTER_SECONDS = 24 * 3600
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

logger = logging.getLogger(__name__)


@contextmanager
def build_folder(path: Path) -> Iterator[Path]:
    """Hold the folder in which ``path`` is built; made if missing. What becomes of it is up to the caller.

    Where the file system has no locks it is a new one, which nobody else finds.

    Args:
        path: Where the finished folder will stand.

    Raises:
        OSError: It cannot be made.
    """
    building = path.with_name(f".{path.name}.tmp")
    while True:
        try:
            building.mkdir()
        except FileExistsError:
            # No look whether it is a folder: whoever had it may be moving it away at this moment.
            if building.is_file():
                raise
        try:
            handle = os.open(building / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # Whoever had it has just moved it to its place, or taken it away.
            continue
        try:
            if not _lock(handle, path):
                building = neighbour(path)
                building.mkdir()
            elif not _is_at(handle, building / _LOCK):
                continue
            yield building
            return
        finally:
            os.close(handle)


def move_into_place(building: Path, path: Path) -> None:
    """Rename a finished folder, which is still held.

    Raises:
        OSError: There is one at ``path``, or it cannot be renamed.
    """
    building.rename(path)
    # Not before, when another builder would take the folder for a new one.
    (path / _LOCK).unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Take a folder away under another name first, so that nobody opens half of it."""
    grave = neighbour(path)
    try:
        path.rename(grave)
    except FileNotFoundError:
        # Another process took it away.
        return
    shutil.rmtree(grave, ignore_errors=True)


def neighbour(path: Path) -> Path:
    """A new name beside ``path``. Not from ``tempfile``, whose folders no other user of a shared cache can read."""
    return path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex}.tmp")


def remove_abandoned(folder: Path) -> None:
    """Remove what killed builders left half-built in ``folder``: nothing was written to it for a day."""
    oldest = time.time() - _ABANDONED_AFTER_SECONDS
    for building in folder.glob(".*.tmp"):
        try:
            # Its builder may take the folder away at any moment, also between these two lines.
            files = [building, *building.glob("*")]
            if max(file.stat().st_mtime for file in files) < oldest and not _is_held(building):
                remove_folder(building)
        except OSError:
            # Its builder is done with it, or it is another user's.
            continue


def _is_held(building: Path) -> bool:
    try:
        handle = os.open(building / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(handle)
    return False


def _lock(handle: int, path: Path) -> bool:
    """Wait for the lock; returns False where there are none."""
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process, which builds %s", path, extra={"event": "waiting"})
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether the file that was locked is still the one at its place."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
