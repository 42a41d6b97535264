"""One process at a time: kernel locks on an open file, free the moment their process dies. No PID files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from seqkit.errors import LockedError, SeqkitError, UsageError

LOCK_NAME = ".lock"
"""The lock file inside a run folder; it stays there, and only its lock counts."""

_GRACE_S = 0.15
"""How long a run's lock is retried: :func:`is_run_locked` holds it briefly, which must turn no start away."""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run folder, which must exist; nothing else in it is touched.

    Raises:
        LockedError: Another process has it.
        UsageError: The folder does not let itself be locked.
    """
    with _locked(
        run_dir / LOCK_NAME,
        wait_s=_GRACE_S,
        message=f"{run_dir}: another process is working in this run folder (lock file {run_dir / LOCK_NAME})",
        hint="try again when it has ended",
    ):
        yield


@contextmanager
def file_lock(path: Path, wait_s: float) -> Iterator[None]:
    """Hold ``path`` as a lock shared by any processes that agree on its name; made if missing, never removed.

    Args:
        path: The lock file.
        wait_s: How many seconds to wait for it.

    Raises:
        LockedError: Another process still has it after ``wait_s`` seconds.
        UsageError: There can be no lock file at that place.
    """
    waited = f" after {wait_s:g} s" if wait_s > 0 else ""
    hint = "try again later, or wait for it with --lock-wait SECONDS"
    with _locked(path, wait_s=wait_s, message=f"{path}: another process holds this lock{waited}", hint=hint):
        yield


def is_run_locked(run_dir: Path) -> bool:
    """Whether some process works in a run folder now. Changes nothing; another user's lock counts as held."""
    path = run_dir / LOCK_NAME
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def _locked(path: Path, *, wait_s: float, message: str, hint: str) -> Iterator[None]:
    if not path.parent.is_dir():  # the library would make it
        raise UsageError(f"{path}: cannot lock this file: its folder does not exist")
    # Not thread-local: whichever thread closes a run folder must let go of its lock.
    lock = FileLock(path, timeout=wait_s, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(message, hint=hint) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot lock this file: {error.strerror or error}") from error
    try:
        if isinstance(lock, SoftFileLock):
            # The library's stand-in where the kernel has no locks: it would outlive a killed process.
            raise SeqkitError(f"{path}: this file system has no file locks", hint="use a folder on a local disk")
        yield
    finally:
        lock.release()
