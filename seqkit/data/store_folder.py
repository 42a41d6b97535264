"""Folders of the cache that are built once: opened if they are there, else built by one process while others wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from seqkit.atomic import sync_folder
from seqkit.data.build_folder import build_folder, move_into_place, remove_abandoned, remove_folder
from seqkit.data.chunks import has_records, remove_chunk_files
from seqkit.errors import DataError

StoreT = TypeVar("StoreT")
StoreT_co = TypeVar("StoreT_co", covariant=True)


class OpenStore(Protocol[StoreT_co]):
    """Maps the store in a folder."""

    def __call__(self, path: Path, *, warns: bool) -> StoreT_co | None:
        """The store; None if there is none or it is damaged, which is said if ``warns``."""
        ...


def open_or_build(path: Path, open_store: OpenStore[StoreT], build: Callable[[Path], None]) -> StoreT:
    """The store at ``path``, built if there is none.

    It is built in a folder beside its place and then renamed, so a reader never meets half of one. Of several
    processes that want the same one, the first builds and the others wait. If it is killed or interrupted, the next
    one goes on from the chunks that were done; what nobody goes on with is removed after a day.

    Args:
        path: The store's folder; the one it is in is made if missing.
        open_store: Opens it.
        build: Writes it into a folder, with ``chunks.do_chunks``. Raises DataError if the text is at fault, and OSError
            only if the folder is.

    Raises:
        DataError: What ``build`` raised; or the cache cannot be written (nothing is left behind).
        SeqkitError: A process that worked at it died.
    """
    store = open_store(path, warns=True)
    if store is not None:
        return store
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        with build_folder(path) as building:
            return _build_or_open(building, path, open_store, build)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _build_or_open(building: Path, path: Path, open_store: OpenStore[StoreT], build: Callable[[Path], None]) -> StoreT:
    """Build the store, unless another process did while this one waited for the folder."""
    keeps_chunks = False
    try:
        store = open_store(path, warns=False)
        if store is not None:
            return store
        # Who was killed a moment ago may have been done but for the rename.
        if open_store(building, warns=False) is None:
            build(building)
        remove_chunk_files(building)
        return _move_into_place(building, path, open_store)
    except (DataError, OSError):
        raise
    except BaseException:
        # A signal, or a process that died: the next build goes on from here.
        keeps_chunks = has_records(building)
        raise
    finally:
        if not keeps_chunks:
            remove_folder(building)


def _move_into_place(building: Path, path: Path, open_store: OpenStore[StoreT]) -> StoreT:
    """Rename a finished folder to ``path``, unless another process was first; open what is there."""
    while True:
        try:
            move_into_place(building, path)
            sync_folder(path.parent)
        except OSError:
            if not path.exists():
                raise
        store = open_store(path, warns=True)
        if store is not None:
            return store
        remove_folder(path)


def cannot_write(path: Path, error: OSError) -> DataError:
    """The error for a cache that takes no more."""
    return DataError(
        f"cannot write the cache: {error.strerror or error}",
        path=path,
        hint="free some space, or name another folder with SEQKIT_CACHE_DIR",
    )
