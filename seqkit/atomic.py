"""Files and folders that appear whole or not at all: written to a temporary neighbour, then renamed."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces ``path`` when the block ends well; else ``path`` is untouched.

    An existing file keeps its permission bits, and a symbolic link its place: the file behind it is replaced.

    Args:
        path: The file to write. Its folder must exist.
        durable: Force the bytes to disk before the rename, so that a power cut leaves the old file or the new.

    Raises:
        OSError: The folder is missing or read-only, or the disk is full; nothing is left behind.
    """
    path = path.resolve()
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        # Of the folder, or of the name that was asked for; nobody knows the temporary one.
        raise OSError(error.errno, error.strerror, str(path.parent if not path.parent.is_dir() else path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).chmod(_mode_for(path))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str) -> None:
    r"""Replace ``path`` by ``text`` in UTF-8, with ``\n`` line ends whatever the platform."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def atomic_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends well; else ``path`` is untouched.

    Args:
        path: The folder. Its parent must exist.
        replace: Whether what is in it may be replaced.

    Raises:
        OSError: The parent is missing or read-only, the disk is full, or there is something that is not to be
            replaced; nothing is left behind.
    """
    path = path.resolve()
    mark = secrets.token_hex(4)
    folder, replaced = path.with_name(f".{path.name}.{mark}.tmp"), path.with_name(f".{path.name}.{mark}.old")
    folder.mkdir()
    try:
        yield folder
        # A folder cannot be renamed onto a full one, not even onto one that appeared while this was written.
        is_there = replace and path.exists()
        if is_there:
            path.rename(replaced)
        try:
            folder.rename(path)
        except BaseException:
            if is_there:
                replaced.rename(path)
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(path.parent)
    if is_there:
        shutil.rmtree(replaced)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to disk, so that a rename inside it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mode_for(path: Path) -> int:
    """The permission bits for a new version of ``path``: the old file's, else 0666 less the umask."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
