"""One pinned file over HTTP: resumed after a break, checked before anybody uses it.

What has arrived waits in a part file, so a later attempt, or a later run, asks for the rest only. The part file is
done when it has the pinned size and SHA-256. Only ``http`` and ``https`` are spoken, also behind a redirect, and a
redirect never leads from ``https`` back to ``http``.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import IO, Any, NoReturn, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import OpenerDirector, Request

import seqkit
from seqkit.errors import SeqkitError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 16
MAX_REDIRECTS = 5

_SCHEMES = ("http", "https")
_MOST_QUOTED = 200
_STATUS_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class FetchError(SeqkitError):
    """A file could not be brought here whole and unchanged."""


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """What a URL must serve."""

    url: str
    num_bytes: int
    sha256: str | None
    """None where no sum is known: then only the size is checked here."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When to give up on a server."""

    timeout: float = 30.0
    """Seconds without a byte before the connection counts as stalled."""
    num_retries: int = 3
    """Further attempts after a failure that may pass."""
    backoff: float = 1.0
    """Seconds before the first retry; doubled for each further one."""


class _PassingError(Exception):
    """A failure that may be gone at the next attempt; its text says what happened."""


class _NoConnectionError(_PassingError):
    """The server could not be reached at all."""


def make_opener() -> OpenerDirector:
    """An opener for HTTP and HTTPS alone, through the proxies that the environment names.

    ``urllib.request.build_opener`` would open ``file:``, ``ftp:`` and ``data:`` too.
    """
    opener = OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def download(
    source: PinnedFile,
    part: Path,
    *,
    patience: Patience,
    opener: OpenerDirector,
    on_bytes: Callable[[int], None],
) -> None:
    """Bring ``part`` to exactly what ``source`` pins, going on from what is there.

    Args:
        source: The URL, and the size and SHA-256 of what it serves.
        part: The file to write; its folder must exist. It stays for the next attempt if the connection breaks, and
            is removed if its content is wrong.
        patience: When to give up.
        opener: From :func:`make_opener`.
        on_bytes: Told how many bytes are there, as they come.

    Raises:
        FetchError: The server refuses, stalls, sends too little or the wrong bytes, or the disk does not take them.
    """
    num_failures = 0
    has_restarted = False
    while True:
        start = _usable_bytes(part, source)
        try:
            # An empty file is asked for too: something must make the part file.
            if start < source.num_bytes or not start:
                _receive(source, part, start, patience=patience, opener=opener, on_bytes=on_bytes)
        except _PassingError as error:
            num_failures += 1
            if num_failures > patience.num_retries:
                _give_up(source, part, error, num_failures)
            pause = patience.backoff * 2 ** (num_failures - 1)
            logger.info(
                "%s: %s; trying again in %g s",
                source.url,
                error,
                pause,
                extra={
                    "event": "fetch_retry",
                    "fields": {"url": source.url, "reason": str(error), "pause_s": pause},
                },
            )
            time.sleep(pause)
            continue
        found = _sha256_of(part)
        if source.sha256 in (None, found):
            on_bytes(source.num_bytes)
            return
        with storing_at(part):
            part.unlink()
        if not start or has_restarted:
            raise FetchError(
                f"{source.url}: corrupted: expected SHA-256 {source.sha256}, found {found}",
                hint="the file was changed on its way or at its source; nothing was kept",
            )
        # Bytes from an earlier attempt may be the bad ones: once more, from the start.
        has_restarted = True
        logger.info("%s: the part that was here is damaged; starting over", source.url)


@contextmanager
def storing_at(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write inside the block into a :class:`FetchError` naming ``path``."""
    try:
        yield
    except OSError as error:
        hint = None
        if error.errno in (ENOSPC, EDQUOT):
            hint = "make room and run the command again: it goes on where it stopped"
        elif error.errno in (EROFS, EACCES, EPERM):
            hint = "name a folder you may write to with --cache-dir or SEQKIT_CACHE_DIR"
        reason = (error.strerror or str(error)).lower()
        raise FetchError(f"cannot write {error.filename or path}: {reason}", hint=hint) from error


def _usable_bytes(part: Path, source: PinnedFile) -> int:
    """How much of the file is there; a part file longer than the file is thrown away."""
    with storing_at(part):
        num_bytes = part.stat().st_size if part.exists() else 0
        if num_bytes > source.num_bytes:
            part.unlink()
            return 0
    return num_bytes


def _receive(
    source: PinnedFile,
    part: Path,
    start: int,
    *,
    patience: Patience,
    opener: OpenerDirector,
    on_bytes: Callable[[int], None],
) -> None:
    """Append what is missing after the first ``start`` bytes, or all of it if the server ignores the range."""
    headers = {"User-Agent": f"seqkit/{seqkit.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if urlsplit(source.url).scheme not in _SCHEMES:
        raise FetchError(f"{source.url}: only http and https are fetched")
    request = Request(source.url, headers=headers)
    with _open(request, part, patience=patience, opener=opener) as response:
        num_bytes = _agreed_start(response, source, part, start)
        on_bytes(num_bytes)
        with storing_at(part), part.open("ab" if num_bytes else "wb") as file:
            while block := _read(response, patience):
                num_bytes += len(block)
                if num_bytes > source.num_bytes:
                    break
                file.write(block)
                on_bytes(num_bytes)
    if num_bytes > source.num_bytes:
        part.unlink(missing_ok=True)
        raise FetchError(f"{source.url}: the server sends more than the expected {source.num_bytes} bytes")
    if num_bytes < source.num_bytes:
        raise _PassingError(f"truncated: {num_bytes} of {source.num_bytes} bytes arrived")


def _open(request: Request, part: Path, *, patience: Patience, opener: OpenerDirector) -> http.client.HTTPResponse:
    """Send the request, and sort what goes wrong into passing and lasting failures."""
    url, host = request.full_url, urlsplit(request.full_url).hostname
    try:
        return cast(http.client.HTTPResponse, opener.open(request, timeout=patience.timeout))
    except HTTPError as error:
        with error:
            if error.code == 416:
                part.unlink(missing_ok=True)
                raise _PassingError("the server cannot go on from the part that was here") from error
            if 300 <= error.code < 400 and "Location" in error.headers:
                raise FetchError(f"{url}: redirected in a loop, or more than {MAX_REDIRECTS} times") from error
            status = f"HTTP status {error.code} ({_words_of(error.reason)})"
            if error.code in _STATUS_TRY_AGAIN:
                raise _PassingError(status) from error
            raise FetchError(f"{url}: {status}") from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _PassingError(f"stalled: no answer for {patience.timeout:g} s") from error
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise FetchError(f"{url}: the server's certificate is not trusted: {error.reason.reason}") from error
        raise _NoConnectionError(f"no connection to {host}: {_words_of(error.reason)}") from error
    except TimeoutError as error:
        raise _PassingError(f"stalled: no answer for {patience.timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"the connection broke: {_words_of(error)}") from error


def _agreed_start(response: http.client.HTTPResponse, source: PinnedFile, part: Path, start: int) -> int:
    """The position that the response begins at: ``start``, or 0 where the server ignored the range.

    A length that cannot be right (a login page, say, in place of the file) is refused before a byte is written.
    """
    if response.status not in (200, 206):
        raise FetchError(
            f"{source.url}: HTTP status {response.status} ({_words_of(response.reason)}) where a file should be"
        )
    if response.status == 206:
        given = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given.strip())
        if match is None or int(match[1]) != start or match[2] not in ("*", str(source.num_bytes)):
            part.unlink(missing_ok=True)
            raise _PassingError(f"the server sent the wrong range ({given or 'unnamed'})")
        return start
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != source.num_bytes:
        raise FetchError(
            f"{source.url}: the server offers {length} bytes, but {source.num_bytes} are expected",
            hint="the file has changed at its source, or something on the network answers in its place",
        )
    return 0


def _read(response: http.client.HTTPResponse, patience: Patience) -> bytes:
    """What has arrived, at most a block; empty at the end."""
    try:
        return response.read1(BLOCK_BYTES)
    except TimeoutError as error:
        raise _PassingError(f"stalled: no data for {patience.timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"the connection broke: {_words_of(error)}") from error


def _give_up(source: PinnedFile, part: Path, reason: _PassingError, num_attempts: int) -> NoReturn:
    start = _usable_bytes(part, source)
    hint = None
    if start:
        hint = f"run the command again: it goes on after the first {start} bytes"
    elif isinstance(reason, _NoConnectionError):
        hint = "is this machine online? A copy from another machine can be named with SEQKIT_DATA_DIR"
    times = "once" if num_attempts == 1 else f"{num_attempts} times"
    raise FetchError(f"{source.url}: {reason} (tried {times})", hint=hint) from reason


def _words_of(error: BaseException | str) -> str:
    """What an exception says, without its number, on one line: it may quote what a server sent."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:_MOST_QUOTED] or type(error).__name__


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to http and https alone, and never from https to http."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage) -> Any:
        """Check where a redirect leads before following it."""
        location = headers.get("Location") or headers.get("URI") or ""
        fault = _redirect_fault(req.full_url, location)
        if fault is not None:
            fp.close()
            raise FetchError(f"{req.full_url}: redirected to {location}: {fault}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _redirect_fault(url: str, location: str) -> str | None:
    """Why a redirect from ``url`` is not followed; None if it is.

    >>> _redirect_fault("https://example.org/a", "/b")
    >>> _redirect_fault("https://example.org/a", "http://example.org/b")
    'that would give up encryption'
    """
    try:
        scheme = urlsplit(urljoin(url, location)).scheme
    except ValueError:
        return "that is no URL"
    if scheme not in _SCHEMES:
        return "only http and https are fetched"
    if urlsplit(url).scheme == "https" and scheme == "http":
        return "that would give up encryption"
    return None
