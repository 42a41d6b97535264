"""Folders that list their files with SHA-256 sums in ``SHA256SUMS``, which ``sha256sum -c`` can check too."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from seqkit.atomic import sync_folder
from seqkit.errors import CheckpointError, UsageError

SUMS_NAME = "SHA256SUMS"
HINT = "copy the folder again, or use another checkpoint"

_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


def list_files(folder: Path, names: Iterable[str]) -> None:
    """Write the list of files that are complete, and force them and it to disk."""
    names = sorted(names)
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in names)
    (folder / SUMS_NAME).write_text(sums, encoding="utf-8", newline="\n")
    for name in (*names, SUMS_NAME):
        handle = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)


def read_sums(folder: Path) -> dict[str, str]:
    """File names to SHA-256 digests, as the list has them.

    Raises:
        CheckpointError: There is no list, or it is damaged.
    """
    path = folder / SUMS_NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; this folder is no checkpoint, or a damaged one", hint=HINT)
    sums: dict[str, str] = {}
    *lines, rest = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        found = _SUM_LINE.fullmatch(line)
        if found is None:
            raise CheckpointError(f"{path}:{number}: damaged: not a checksum and a file name", hint=HINT)
        sums[found[2]] = found[1]
    if rest:
        raise CheckpointError(f"{path}:{len(lines) + 1}: damaged: the line has no end", hint=HINT)
    return sums


def require_listed(folder: Path, sums: Mapping[str, str], names: Iterable[str]) -> None:
    """Check that a list names files: one cut off after a whole line must not pass for a shorter one.

    Raises:
        CheckpointError: One is not listed.
    """
    unlisted = sorted(set(names) - sums.keys())
    if unlisted:
        raise CheckpointError(f"{folder / SUMS_NAME}: damaged: {unlisted[0]} is not listed", hint=HINT)


def verify(folder: Path, sums: Mapping[str, str]) -> None:
    """Check files against their sums.

    Raises:
        CheckpointError: One is missing, cannot be read or is damaged.
    """
    for name, expected in sums.items():
        try:
            if not stat.S_ISREG((folder / name).stat().st_mode):
                # A pipe would keep us waiting for ever, a device might have no end.
                raise CheckpointError(f"{folder / name}: not a regular file", hint=HINT)
            found = _sha256(folder / name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder / name}: missing from this checkpoint", hint=HINT) from error
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror})", hint=HINT) from error
        if found != expected:
            raise CheckpointError(f"{folder / name}: damaged: its SHA-256 is not the one in {SUMS_NAME}", hint=HINT)


def read_text(path: Path) -> str:
    """A file of UTF-8.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})", hint=HINT) from error


def check_place(path: Path, *, what: str, is_one: Callable[[Path], bool], replace: bool) -> None:
    """Check, without touching it, that such a folder may be written there.

    Args:
        path: The folder.
        what: What is to be written: ``a model``.
        is_one: Whether a folder holds such a thing already.
        replace: Whether it may be replaced then.

    Raises:
        UsageError: Something is there that is not to be replaced, or there is no folder to put it in.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: a file, where {what} folder should be", hint="name another folder")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder", hint="make it first, or name another one")
    if path.is_dir() and any(path.iterdir()):
        if not is_one(path):
            name = what.rsplit(maxsplit=1)[-1]
            raise UsageError(f"{path}: this folder is not empty and holds no {name}", hint="name another folder")
        if not replace:
            raise UsageError(f"{path}: {what} is there already", hint="--force replaces it; else name another folder")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
