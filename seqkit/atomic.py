"""Files and folders that appear whole or not at all: written to a temporary neighbour, then renamed.

Where the writer is killed, the neighbour stays, and goes when somebody writes to the same name again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from seqkit.leftovers import make_file_beside, make_folder_beside, remove_leftovers


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
    remove_leftovers(path)
    with _naming(path):
        handle, written = make_file_beside(path)
    # Its lock is to be held until it has its name; closing the file lets go of one descriptor only.
    held = os.dup(handle)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        written.chmod(_mode_for(path))
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


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
    remove_leftovers(path)
    with _naming(path):
        held, folder = make_folder_beside(path)
    try:
        yield folder
        if replace:
            publish_folder(folder, path)
        else:
            # Refused by the system where there is a full folder, also one that appeared while this was written.
            folder.rename(path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(held)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an error name the folder, or the name that was asked for; nobody knows the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent if not path.parent.is_dir() else path)) from error


def sync_folder(path: Path) -> None:
    """Force a folder's entries to disk, so that a rename inside it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(written: Path, path: Path) -> None:
    """Give a finished folder its name; a folder that has the name already is replaced and removed.

    Where the system can exchange two names in one step, whoever looks, and whoever looks after a kill, finds the old
    folder or the new one. Elsewhere there is a moment between two renames in which the name is free.

    Args:
        written: The new folder, beside ``path``, complete and synced.
        path: Its name.

    Raises:
        OSError: It cannot be renamed; the old folder is where it was.
    """
    if not path.exists():
        written.rename(path)
        sync_folder(path.parent)
        return
    if _exchange(written, path):
        replaced = written
    else:
        # A folder cannot be renamed onto a full one.
        replaced = path.with_name(f".old-{path.name}-{secrets.token_hex(4)}")
        path.rename(replaced)
        try:
            written.rename(path)
        except BaseException:
            replaced.rename(path)
            raise
    sync_folder(path.parent)
    _remove(replaced)


def _remove(replaced: Path) -> None:
    """Remove a folder that another process may be removing as well, which takes it for a dead writer's."""
    while replaced.exists():
        try:
            shutil.rmtree(replaced)
        except FileNotFoundError:
            continue


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(first: Path, second: Path) -> bool:
    """Swap what two names stand for, in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _mode_for(path: Path) -> int:
    """The permission bits for a new version of ``path``: the old file's, else 0666 less the umask."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
