"""Bring a data set of the catalog to this machine: downloaded, unpacked, checked, then visible, and only then.

Layout: ``CACHE/data/NAME/FILE``. While it is under way a file's download lies beside its place as ``.FILE.part``,
and a lock file beside the folder keeps a second fetcher of the same set waiting.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, assert_never, cast
from urllib.request import OpenerDirector

from filelock import FileLock, Timeout

from seqkit.atomic import atomic_write
from seqkit.data.catalog import CatalogFile, find_local
from seqkit.data.download import BLOCK_BYTES, FetchError, Patience, PinnedFile, download, make_opener, storing_at

logger = logging.getLogger(__name__)

OnProgress = Callable[[CatalogFile, int], None]
"""Told, of a file, how many bytes of its download are there."""


@dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """A file that is on this machine now, verified."""

    file: CatalogFile
    path: Path
    status: Literal["fetched", "present"]


def fetch_files(
    files: Sequence[CatalogFile],
    folder: Path,
    *,
    is_forced: bool = False,
    patience: Patience | None = None,
    opener: OpenerDirector | None = None,
    on_progress: OnProgress = lambda _file, _num_bytes: None,
) -> list[FetchedFile]:
    """Fetch files of one data set into ``folder/NAME``, leaving alone those that are there and intact.

    Args:
        files: What to fetch; all of one data set, at least one.
        folder: The cache's data folder; made if it is missing.
        is_forced: Fetch also what is there.
        patience: When to give up on a server.
        opener: What opens a URL; by default :func:`seqkit.data.download.make_opener`.
        on_progress: Told of the bytes as they come.

    Returns:
        One entry a file, in the order given.

    Raises:
        FetchError: A file could not be fetched whole and unchanged, or not written. Those before it stay; of the
            file itself nothing is visible, but a part of its download may wait to be completed.
    """
    patience = patience or Patience()
    opener = opener or make_opener()
    target = folder / files[0].dataset
    with storing_at(target):
        target.mkdir(parents=True, exist_ok=True)
    with _alone_with(target):
        results = []
        for file in files:
            path = target / file.file
            found = find_local(file, [folder])
            if found is not None and not is_forced:
                if is_intact(file, found):
                    with storing_at(path):
                        # Of a run that was killed when the file was in its place already.
                        _part_of(path).unlink(missing_ok=True)
                    results.append(FetchedFile(file=file, path=found, status="present"))
                    on_progress(file, file.url_bytes)
                    continue
                logger.info("%s differs from the catalog; fetching it again", found)
            _fetch_file(file, path, patience=patience, opener=opener, on_progress=on_progress)
            results.append(FetchedFile(file=file, path=path, status="fetched"))
    return results


def is_intact(file: CatalogFile, path: Path) -> bool:
    """Whether ``path``, plain or packed with gzip, holds what the catalog says."""
    try:
        with path.open("rb") as stored:
            blocks = _gunzip(stored) if path.suffix == ".gz" else _blocks(stored)
            _check(file, blocks)
    except (_WrongContentError, OSError):
        return False
    return True


class _WrongContentError(Exception):
    """Bytes that are not the file of the catalog; its text says in what way."""


@contextmanager
def _alone_with(target: Path) -> Iterator[None]:
    """Hold the lock of a data set's folder, waiting for whoever has it."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with storing_at(target):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("another process is fetching %s; waiting for it", target.name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _part_of(path: Path) -> Path:
    """Where the download of a file waits to be completed."""
    return path.with_name(f".{path.name}.part")


def _fetch_file(
    file: CatalogFile, path: Path, *, patience: Patience, opener: OpenerDirector, on_progress: OnProgress
) -> None:
    """Download one file and put what is made from it at ``path``."""
    part = _part_of(path)
    download(
        PinnedFile(url=file.url, num_bytes=file.url_bytes, sha256=file.url_sha256),
        part,
        patience=patience,
        opener=opener,
        on_bytes=lambda num_bytes: on_progress(file, num_bytes),
    )
    try:
        with part.open("rb") as downloaded, storing_at(path), atomic_write(path) as made:
            _check(file, _made_from(file, downloaded), into=made)
    except _WrongContentError as error:
        part.unlink(missing_ok=True)
        raise FetchError(
            f"{file.url}: corrupted: {error}", hint="the file has changed at its source; nothing was kept"
        ) from error
    part.unlink(missing_ok=True)


def _check(file: CatalogFile, blocks: Iterator[bytes], *, into: IO[bytes] | None = None) -> None:
    """Run through the blocks, writing them where one says, and raise unless they are ``file``, byte for byte.

    Stops at the first byte too many, so that a small download cannot unpack into a full disk.
    """
    digest = hashlib.sha256()
    num_bytes = 0
    for block in blocks:
        num_bytes += len(block)
        if num_bytes > file.num_bytes:
            raise _WrongContentError(f"{file.file} should have {file.num_bytes} bytes, and has more")
        digest.update(block)
        if into is not None:
            into.write(block)
    if num_bytes != file.num_bytes:
        raise _WrongContentError(f"{file.file} should have {file.num_bytes} bytes, and has {num_bytes}")
    if digest.hexdigest() != file.sha256:
        raise _WrongContentError(f"{file.file}: expected SHA-256 {file.sha256}, found {digest.hexdigest()}")


def _made_from(file: CatalogFile, downloaded: IO[bytes]) -> Iterator[bytes]:
    """The bytes of ``file``, from those that its URL serves."""
    match file.relation:
        case "identical":
            return _blocks(downloaded)
        case "gunzip":
            return _gunzip(downloaded)
        case "sst2":
            return _convert_sst2(downloaded)
        case "trec":
            return _convert_trec(downloaded)
        case _:
            assert_never(file.relation)


def _blocks(stored: IO[bytes]) -> Iterator[bytes]:
    while block := stored.read(BLOCK_BYTES):
        yield block


def _gunzip(packed: IO[bytes]) -> Iterator[bytes]:
    """Unpack in blocks of bounded size, however much one packed block holds."""
    try:
        with gzip.open(packed) as file:
            yield from _blocks(cast(IO[bytes], file))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _WrongContentError(f"damaged gzip file: {error}") from error


def _convert_sst2(lines: IO[bytes]) -> Iterator[bytes]:
    r"""Turn a leading ``0 `` or ``1 `` into a label column.

    >>> import io
    >>> b"".join(_convert_sst2(io.BytesIO(b"1 a fine film\n")))
    b'label\ttext\npositive\ta fine film\n'
    """
    labels = {b"0": b"negative", b"1": b"positive"}
    yield b"label\ttext\n"
    for line in lines:
        label, _, text = line.partition(b" ")
        if label not in labels:
            raise _WrongContentError(f"a line without a label: {line[:40]!r}")
        yield labels[label] + b"\t" + text


def _convert_trec(lines: IO[bytes]) -> Iterator[bytes]:
    r"""Turn ``LABEL:fine text`` into three columns; 0xF0, the source's one byte beyond ASCII, becomes a blank.

    >>> import io
    >>> b"".join(_convert_trec(io.BytesIO(b"LOC:city What is Rome\xf0?\n")))
    b'label\tfine_label\ttext\nLOC\tLOC:city\tWhat is Rome ?\n'
    """
    yield b"label\tfine_label\ttext\n"
    for line in lines:
        fine_label, _, text = line.replace(b"\xf0", b" ").partition(b" ")
        yield fine_label.partition(b":")[0] + b"\t" + fine_label + b"\t" + text
