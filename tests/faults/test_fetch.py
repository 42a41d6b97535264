"""Fetching from a server that cuts, corrupts, stalls, redirects, forgets ranges and fails: never a wrong file."""

from __future__ import annotations

import errno
import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.request import Request

import pytest

import seqkit.data.fetch as fetch_module
from seqkit.data.catalog import CatalogFile, Relation
from seqkit.data.download import FetchError, Patience, _CheckedRedirects
from seqkit.data.fetch import FetchedFile, fetch_files, is_intact

CONTENT = b"".join(b"line %d of a small corpus\n" % number for number in range(9000))
HASTY = Patience(timeout=0.3, num_retries=2, backoff=0)

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next answer of its path; the last one repeats."""

    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.seen.append((self.path, self.headers.get("Range")))
            answers = self.server.answers[self.path]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        try:
            answer(self)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.lock = threading.Lock()
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted in self.seen]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.is_over.set()
        running.shutdown()
        thread.join()


def whole(body: bytes, *, knows_ranges: bool = True) -> Answer:
    """The file, or the rest of it when a range is asked for."""

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range")
        if wanted and knows_ranges:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            rest = body[first:]
            handler.start(206, Content_Length=len(rest), Content_Range=f"bytes {first}-{len(body) - 1}/{len(body)}")
            handler.wfile.write(rest)
            return
        handler.start(200, Content_Length=len(body))
        handler.wfile.write(body)

    return answer


def closes_after(body: bytes, num_bytes: int) -> Answer:
    """Promises everything, sends the first bytes, and hangs up."""

    def answer(handler: Handler) -> None:
        handler.start(200, Content_Length=len(body))
        handler.wfile.write(body[:num_bytes])

    return answer


def stalls_after(body: bytes, num_bytes: int) -> Answer:
    """Sends the first bytes, then nothing more, keeping the connection."""

    def answer(handler: Handler) -> None:
        if num_bytes >= 0:
            handler.start(200, Content_Length=len(body))
            handler.wfile.write(body[:num_bytes])
            handler.wfile.flush()
        handler.server.is_over.wait(20)

    return answer


def status(code: int) -> Answer:
    return lambda handler: handler.start(code, Content_Length=0)


def redirect(target: str, code: int = 302) -> Answer:
    return lambda handler: handler.start(code, Location=target, Content_Length=0)


def pin(
    server: Server,
    *answers: Answer,
    served: bytes = CONTENT,
    made: bytes | None = None,
    relation: Relation = "identical",
    split: str = "train",
    has_sum: bool = True,
) -> CatalogFile:
    """A row of a catalog whose URL is on the test server, which gives these answers."""
    server.answers[f"/{split}"] = list(answers)
    made = served if made is None else made
    return CatalogFile(
        dataset="toy",
        split=split,
        file=f"{split}.txt",
        relation=relation,
        url=f"{server.url}/{split}",
        url_bytes=len(served),
        url_sha256=hashlib.sha256(served).hexdigest() if has_sum else None,
        num_bytes=len(made),
        sha256=hashlib.sha256(made).hexdigest(),
    )


def visible(folder: Path) -> list[str]:
    """What is to be seen in the data set's folder; locks and parts are hidden."""
    return sorted(path.name for path in (folder / "toy").iterdir() if not path.name.startswith("."))


def part_of(folder: Path, content: bytes) -> Path:
    part = folder / "toy" / ".train.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def refused(file: CatalogFile, folder: Path, patience: Patience = HASTY) -> FetchError:
    """Fetch, expect one clear line, and see that no file appeared."""
    with pytest.raises(FetchError) as caught:
        fetch_files([file], folder, patience=patience)
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message
    assert visible(folder) == []
    return caught.value


def fetched(file: CatalogFile, folder: Path, content: bytes = CONTENT) -> FetchedFile:
    """Fetch, and see that the file is there and nothing else is."""
    (result,) = fetch_files([file], folder, patience=HASTY)
    assert result.path == folder / "toy" / file.file
    assert result.path.read_bytes() == content
    assert visible(folder) == [file.file]
    assert not list((folder / "toy").glob(".*"))
    return result


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    file = pin(server, whole(CONTENT))
    told: list[int] = []
    (first,) = fetch_files([file], tmp_path, on_progress=lambda _file, num_bytes: told.append(num_bytes))
    assert first.status == "fetched"
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    assert fetched(file, tmp_path).status == "present"
    assert len(server.seen) == 1


def test_a_packed_copy_counts_as_present(server: Server, tmp_path: Path) -> None:
    file = pin(server, whole(CONTENT))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "train.txt.gz").write_bytes(gzip.compress(CONTENT))
    (result,) = fetch_files([file], tmp_path, patience=HASTY)
    assert (result.status, result.path.name) == ("present", "train.txt.gz")
    assert server.seen == []


def test_a_changed_file_is_fetched_again_and_force_always_does(server: Server, tmp_path: Path) -> None:
    file = pin(server, whole(CONTENT))
    path = fetched(file, tmp_path).path
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetched(file, tmp_path).status == "fetched"
    (forced,) = fetch_files([file], tmp_path, is_forced=True, patience=HASTY)
    assert forced.status == "fetched"
    assert len(server.seen) == 3


@pytest.mark.parametrize("num_bytes", [1, 70_000, len(CONTENT) - 1])
def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, num_bytes: int) -> None:
    fetched(pin(server, closes_after(CONTENT, num_bytes), whole(CONTENT)), tmp_path)
    assert server.ranges == [None, f"bytes={num_bytes}-"]


def test_a_later_run_resumes_where_the_last_one_stopped(server: Server, tmp_path: Path) -> None:
    file = pin(server, closes_after(CONTENT, 5000), status(503))
    error = refused(file, tmp_path)
    assert "HTTP status 503" in error.message
    assert error.hint == "run the command again: it goes on after the first 5000 bytes"
    server.answers["/train"] = [whole(CONTENT)]
    fetched(file, tmp_path)
    assert server.ranges[-1] == "bytes=5000-"


def test_a_server_that_ignores_the_range_restarts_cleanly(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path, CONTENT[:5000])
    fetched(pin(server, whole(CONTENT, knows_ranges=False)), tmp_path)
    assert server.ranges == ["bytes=5000-"]


def test_a_server_that_answers_with_another_range_is_not_believed(server: Server, tmp_path: Path) -> None:
    def wrong(handler: Handler) -> None:
        handler.start(206, Content_Length=10, Content_Range=f"bytes 7-16/{len(CONTENT)}")
        handler.wfile.write(CONTENT[7:17])

    part_of(tmp_path, CONTENT[:5000])
    fetched(pin(server, wrong, whole(CONTENT)), tmp_path)
    assert server.ranges == ["bytes=5000-", None]


def test_a_refused_range_starts_over(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path, CONTENT[:5000])
    fetched(pin(server, status(416), whole(CONTENT)), tmp_path)
    assert server.ranges == ["bytes=5000-", None]


@pytest.mark.parametrize("has_sum", [True, False])
def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path, has_sum: bool) -> None:
    part_of(tmp_path, CONTENT + b"x")
    fetched(pin(server, whole(CONTENT), has_sum=has_sum), tmp_path)
    assert server.ranges == [None]


@pytest.mark.parametrize("num_bytes", [5000, len(CONTENT)])
def test_a_damaged_part_is_found_out_and_fetched_anew(server: Server, tmp_path: Path, num_bytes: int) -> None:
    part_of(tmp_path, b"?" * num_bytes)
    fetched(pin(server, whole(CONTENT)), tmp_path)
    assert server.ranges[-1] is None


def test_a_whole_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path, CONTENT)
    fetched(pin(server, whole(CONTENT)), tmp_path)
    assert server.seen == []


def test_a_corrupted_file_never_appears(server: Server, tmp_path: Path) -> None:
    bad = b"X" + CONTENT[1:]
    file = pin(server, whole(bad), served=CONTENT)
    message = refused(file, tmp_path).message
    expected, found = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(bad).hexdigest()
    assert message == f"{file.url}: corrupted: expected SHA-256 {expected}, found {found}"
    assert not list((tmp_path / "toy").iterdir())
    assert len(server.seen) == 1


def test_a_damaged_part_and_a_corrupting_server_end(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path, b"?" * 5000)
    assert "corrupted" in refused(pin(server, whole(b"X" + CONTENT[1:])), tmp_path).message
    assert server.ranges == ["bytes=5000-", None]


def test_a_good_file_survives_a_failed_forced_fetch(server: Server, tmp_path: Path) -> None:
    file = pin(server, whole(CONTENT), status(404))
    path = fetched(file, tmp_path).path
    with pytest.raises(FetchError, match="HTTP status 404"):
        fetch_files([file], tmp_path, is_forced=True, patience=HASTY)
    assert path.read_bytes() == CONTENT


def test_a_server_that_always_truncates_is_given_up(server: Server, tmp_path: Path) -> None:
    file = pin(server, closes_after(CONTENT, 1000))
    message = refused(file, tmp_path).message
    assert message == f"{file.url}: truncated: 1000 of {len(CONTENT)} bytes arrived (tried 3 times)"


def test_another_length_is_refused_before_a_byte_is_kept(server: Server, tmp_path: Path) -> None:
    part = part_of(tmp_path, CONTENT[:5000])
    message = refused(pin(server, whole(b"<html>log in</html>", knows_ranges=False)), tmp_path).message
    assert f"the server offers 19 bytes, but {len(CONTENT)} are expected" in message
    assert part.read_bytes() == CONTENT[:5000]


def test_an_endless_answer_is_cut_off(server: Server, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.start(200)
        while not handler.server.is_over.is_set():
            handler.wfile.write(CONTENT)

    assert "more than the expected" in refused(pin(server, endless), tmp_path).message
    assert not list((tmp_path / "toy").iterdir())


@pytest.mark.parametrize(("num_bytes", "words"), [(1000, "no data for 0.3 s"), (-1, "no answer for 0.3 s")])
def test_a_stalled_server_is_given_up(server: Server, tmp_path: Path, num_bytes: int, words: str) -> None:
    file = pin(server, stalls_after(CONTENT, num_bytes))
    begun = time.monotonic()
    message = refused(file, tmp_path, Patience(timeout=0.3, num_retries=0)).message
    assert message == f"{file.url}: stalled: {words} (tried once)"
    assert time.monotonic() - begun < 10


def test_a_stall_is_resumed(server: Server, tmp_path: Path) -> None:
    fetched(pin(server, stalls_after(CONTENT, 1000), whole(CONTENT)), tmp_path)
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(server: Server, tmp_path: Path, code: int) -> None:
    assert f"/train: HTTP status {code} (" in refused(pin(server, status(code)), tmp_path).message
    assert len(server.seen) == 1


def test_an_empty_success_is_refused(server: Server, tmp_path: Path) -> None:
    assert "HTTP status 204 (No Content) where a file should be" in refused(pin(server, status(204)), tmp_path).message


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path, code: int) -> None:
    fetched(pin(server, status(code), status(code), whole(CONTENT)), tmp_path)
    assert len(server.seen) == 3


def test_retries_wait_longer_each_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    refused(pin(server, status(500)), tmp_path, Patience(num_retries=3, backoff=1.5))
    assert pauses == [1.5, 3.0, 6.0]


def test_no_connection_is_said_so(server: Server, tmp_path: Path) -> None:
    file = pin(server, status(200))
    server.server_close()
    error = refused(file, tmp_path)
    assert "no connection to 127.0.0.1: connection refused (tried 3 times)" in error.message
    assert error.hint is not None
    assert "SEQKIT_DATA_DIR" in error.hint


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_keep_the_range(server: Server, tmp_path: Path, code: int) -> None:
    part_of(tmp_path, CONTENT[:5000])
    server.answers["/moved"] = [whole(CONTENT)]
    fetched(pin(server, redirect("/moved", code)), tmp_path)
    assert server.seen == [("/train", "bytes=5000-"), ("/moved", "bytes=5000-")]


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://127.0.0.1/"]
)
def test_a_redirect_leaves_http_never(server: Server, tmp_path: Path, target: str) -> None:
    message = refused(pin(server, redirect(target)), tmp_path).message
    assert message == f"{server.url}/train: redirected to {target}: only http and https are fetched"


def test_a_redirect_that_is_no_url_is_refused(server: Server, tmp_path: Path) -> None:
    assert "that is no URL" in refused(pin(server, redirect("http://[half")), tmp_path).message


def test_a_redirect_without_a_target_is_a_status(server: Server, tmp_path: Path) -> None:
    assert "HTTP status 302" in refused(pin(server, status(302)), tmp_path).message


def test_a_redirect_loop_ends(server: Server, tmp_path: Path) -> None:
    server.answers["/other"] = [redirect("/train")]
    assert "redirected in a loop" in refused(pin(server, redirect("/other")), tmp_path).message
    assert len(server.seen) < 5


def test_a_long_chain_of_redirects_ends(server: Server, tmp_path: Path) -> None:
    for number in range(20):
        server.answers[f"/hop{number}"] = [redirect(f"/hop{number + 1}")]
    assert "more than 5 times" in refused(pin(server, redirect("/hop0")), tmp_path).message
    assert len(server.seen) <= 6


def test_a_redirect_never_gives_up_encryption() -> None:
    with pytest.raises(FetchError, match="that would give up encryption"):
        _CheckedRedirects().http_error_302(
            Request("https://example.org/a"), BytesIO(), 302, "Found", location_header("http://example.org/a")
        )


def location_header(target: str) -> Any:
    headers = Message()
    headers["Location"] = target
    return headers


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_other_schemes_are_refused(server: Server, tmp_path: Path, url: str) -> None:
    file = pin(server, whole(CONTENT))
    object.__setattr__(file, "url", url)
    assert refused(file, tmp_path).message == f"{url}: only http and https are fetched"


def test_gunzip(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    for has_sum in (True, False):
        file = pin(server, whole(packed), served=packed, made=CONTENT, relation="gunzip", has_sum=has_sum)
        fetched(file, tmp_path / str(has_sum))


def test_conversions(server: Server, tmp_path: Path) -> None:
    served, made = b"1 fine , really\n0 no\n", b"label\ttext\npositive\tfine , really\nnegative\tno\n"
    fetched(pin(server, whole(served), served=served, made=made, relation="sst2"), tmp_path / "a", made)
    served = b"DESC:manner How ?\nENTY:other sister\xf0city\n"
    made = b"label\tfine_label\ttext\nDESC\tDESC:manner\tHow ?\nENTY\tENTY:other\tsister city\n"
    fetched(pin(server, whole(served), served=served, made=made, relation="trec"), tmp_path / "b", made)


def test_a_bomb_unpacks_no_further_than_the_known_size(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(bytes(30_000_000))
    unpacked = 0
    blocks_of = fetch_module._blocks

    def counted(stored: IO[bytes]) -> Iterator[bytes]:
        nonlocal unpacked
        for block in blocks_of(stored):
            unpacked += len(block)
            yield block

    monkeypatch.setattr(fetch_module, "_blocks", counted)
    file = pin(server, whole(bomb), served=bomb, made=CONTENT, relation="gunzip", has_sum=False)
    assert f"train.txt should have {len(CONTENT)} bytes, and has more" in refused(file, tmp_path).message
    assert unpacked < 2 * len(CONTENT)
    assert not list((tmp_path / "toy").iterdir())


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (gzip.compress(CONTENT)[:-9], "damaged gzip file"),
        (b"not packed at all", "damaged gzip file"),
        (gzip.compress(CONTENT[:-1]), f"has {len(CONTENT) - 1}"),
        (gzip.compress(b"?" + CONTENT[1:]), "expected SHA-256"),
    ],
    ids=["cut", "plain", "short", "changed"],
)
def test_wrong_contents_are_found_where_only_they_have_a_sum(
    server: Server, tmp_path: Path, served: bytes, words: str
) -> None:
    file = pin(server, whole(served), served=served, made=CONTENT, relation="gunzip", has_sum=False)
    message = refused(file, tmp_path).message
    assert message.startswith(f"{file.url}: corrupted: ")
    assert words in message
    # A kept part would fail for ever after.
    assert not list((tmp_path / "toy").iterdir())


@dataclass
class FullDisk:
    """A file that takes some bytes and no more."""

    file: IO[bytes]
    room: int
    written: int = field(default=0)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()

    def write(self, block: bytes) -> int:
        if self.written + len(block) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written += len(block)
        return self.file.write(block)


def test_a_full_disk_is_named_and_the_part_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_open = Path.open

    def open_(self: Path, mode: str = "r", **kwargs: Any) -> Any:
        file = plain_open(self, mode, **kwargs)
        return FullDisk(file, room=70_000) if self.suffix == ".part" and mode != "rb" else file

    monkeypatch.setattr(Path, "open", open_)
    error = refused(pin(server, whole(CONTENT)), tmp_path)
    part = tmp_path / "toy" / ".train.txt.part"
    assert error.message == f"cannot write {part}: no space left on device"
    assert error.hint == "make room and run the command again: it goes on where it stopped"
    assert part.read_bytes() == CONTENT[: part.stat().st_size]


def test_a_read_only_cache_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(self: Path, *_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    file = pin(server, whole(CONTENT))
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(FetchError) as caught:
        fetch_files([file], tmp_path / "cache", patience=HASTY)
    assert caught.value.message == f"cannot write {tmp_path / 'cache' / 'toy'}: read-only file system"
    assert caught.value.hint is not None
    assert "--cache-dir" in caught.value.hint
    assert server.seen == []


def test_a_cache_that_is_a_file_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(FetchError, match=r"cannot write .*cache.*: not a directory"):
        fetch_files([pin(server, whole(CONTENT))], tmp_path / "cache", patience=HASTY)


def test_two_fetchers_of_one_set_download_once(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.2)
        whole(CONTENT)(handler)

    file = pin(server, slow)
    results: list[FetchedFile] = []
    threads = [
        threading.Thread(target=lambda: results.extend(fetch_files([file], tmp_path, patience=Patience())))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.status for result in results) == ["fetched", "present", "present"]
    assert len(server.seen) == 1
    assert is_intact(file, results[0].path)


def test_files_before_a_failure_stay(server: Server, tmp_path: Path) -> None:
    good, bad = pin(server, whole(CONTENT), split="train"), pin(server, status(404), split="valid")
    with pytest.raises(FetchError, match="/valid: HTTP status 404"):
        fetch_files([good, bad], tmp_path, patience=HASTY)
    assert visible(tmp_path) == ["train.txt"]
