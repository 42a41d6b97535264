"""``seqkit data ls|fetch|path`` as a shell user, a pipeline and a cron job see them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, InProcess

from seqkit.data import catalog

CONTENTS = {"train": b"a train text\n" * 500, "valid": b"a valid text\n" * 30}

WITHOUT_TORCH = """
import sys
from seqkit.cli.app import run

for words in {words}:
    run(["data", *words])
    assert {{"torch", "rich.progress", "ssl"}}.isdisjoint(sys.modules), words
"""
WITH_TOY_CATALOG = """
import json, sys
from seqkit.cli.app import run
from seqkit.data import catalog

base = sys.argv[1]
rows = [catalog.CatalogFile(dataset="toy", relation="identical", url=f"{base}/{row['split']}", **row)
        for row in json.loads(sys.argv[2])]
toy = catalog.Dataset(name="toy", title="Toy", task="lm", licence="CC0", citation="none", files=tuple(rows))
catalog.list_datasets = lambda: [toy]
sys.exit(run(sys.argv[3:]))
"""
"""The same catalog as of the fixture ``toy``, in a process of its own."""


Data = Callable[..., Done]
Toy = Callable[..., None]

HANGS, IS_OVER = threading.Event(), threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = CONTENTS.get(self.path[1:])
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if HANGS.is_set():
            self.wfile.write((content or b"")[:1000])
            self.wfile.flush()
            IS_OVER.wait(20)
            return
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        HANGS.clear()
        IS_OVER.clear()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        IS_OVER.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a process of its own whose cache is empty and where no other data is named."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SEQKIT_") and not name.lower().endswith("_proxy")
    }
    return kept | {"SEQKIT_CACHE_DIR": str(tmp_path / "cache"), "LC_ALL": "C"}


@pytest.fixture
def data(seqkit: InProcess, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Runs ``seqkit data`` in this process with an empty cache and no other data."""
    for name in list(os.environ):
        if name == "SEQKIT_DATA_DIR" or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return lambda *words: seqkit("data", *words)


@pytest.fixture
def toy(base_url: str, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Puts a small catalog in the place of the real one; its split ``wrong`` gets a sum that its file does not have."""

    def put(wrong: str = "") -> None:
        files = tuple(
            catalog.CatalogFile(dataset="toy", relation="identical", url=f"{base_url}/{row['split']}", **row)
            for row in toy_rows(wrong)
        )
        only = catalog.Dataset(name="toy", title="Toy", task="lm", licence="CC0", citation="none", files=files)
        monkeypatch.setattr(catalog, "list_datasets", lambda: [only])

    put()
    return put


def toy_rows(wrong: str = "") -> list[dict[str, Any]]:
    rows = []
    for split, content in CONTENTS.items():
        digest = hashlib.sha256(content + (b"?" if split == wrong else b"")).hexdigest()
        size = len(content)
        row = {"split": split, "file": f"{split}.txt", "url_bytes": size, "num_bytes": size}
        rows.append(row | {"sha256": digest, "url_sha256": digest})
    return rows


def toy_arguments(base_url: str) -> list[str]:
    return [base_url, json.dumps(toy_rows())]


def test_nothing_heavy_is_loaded(env: dict[str, str]) -> None:
    words = [["ls"], ["ls", "--json"], ["path", "nothing"], ["path", "trec"], ["fetch", "-h"], []]
    code = WITHOUT_TORCH.format(words=words)
    subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)


def test_ls_lists_built_in_and_catalog_sets_without_torch(data: Data) -> None:
    result = data("ls")
    assert (result.code, result.err) == (0, "")
    header, *lines = result.out.splitlines()
    assert header.split() == ["NAME", "TASK", "DOWNLOAD", "HERE", "LICENCE", "SPLITS"]
    rows = {line.split()[0]: line for line in lines}
    assert rows["builtin:python-docs"].split()[1:4] == ["lm", "none", "yes"]
    assert rows["builtin:dates"].split()[1:6] == ["seq2seq", "none", "yes", "CC0-1.0", "train.written"]
    assert rows["catalog:multi30k"].split()[1:5] == ["seq2seq", "1.9", "MB", "no"]
    assert "CC BY-SA 3.0" in rows["catalog:wikitext-2"]
    assert rows["catalog:wikitext-2"].endswith("train valid test")


def test_ls_json_says_what_is_here(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    (folder / "trec").mkdir(parents=True)
    for name in ("train.tsv", "test.tsv"):
        (folder / "trec" / name).write_text("x\n")
    (folder / "sst2").mkdir()
    (folder / "sst2" / "dev.tsv.gz").write_bytes(gzip.compress(b"x\n"))
    monkeypatch.setenv("SEQKIT_DATA_DIR", str(folder))
    result = data("ls", "--json")
    datasets = {entry["name"]: entry for entry in json.loads(result.out)["datasets"]}
    assert datasets["builtin:python-docs"]["present"] is True
    assert datasets["catalog:trec"]["present"] is True
    assert datasets["catalog:sst2"]["present"] is False
    splits = {split["name"]: split["path"] for split in datasets["catalog:sst2"]["splits"]}
    assert splits == {"train": None, "dev": str(folder / "sst2" / "dev.tsv.gz"), "test": None}
    shown = data("ls", "catalog:sst2", "trec").out.splitlines()
    assert shown[1].split() == ["catalog:sst2/train", "787", "kB", "-"]
    assert len(shown) == 1 + 3 + 2


def test_path_prints_one_file_a_line(data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "data" / "trec"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("x\n")
    (folder / "test.tsv").write_text("x\n")
    both = data("path", "trec")
    assert both.out == f"{folder / 'train.tsv'}\n{folder / 'test.tsv'}\n"
    assert (both.code, both.err) == (0, "")
    assert data("path", "catalog:trec/test").out == f"{folder / 'test.tsv'}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["path", "multi30k/train.de"],
            "seqkit: error: catalog:multi30k/train.de is not on this machine\n"
            "hint: seqkit data fetch multi30k (1.9 MB), or set SEQKIT_DATA_DIR\n",
        ),
        (
            ["path", "wikitext2"],
            "seqkit: error: catalog:wikitext2: no such data set; did you mean catalog:wikitext-2?\n"
            "hint: seqkit data ls names them all\n",
        ),
        (
            ["fetch", "trec", "multi3k"],
            "seqkit: error: catalog:multi3k: no such data set; did you mean catalog:multi30k?\n"
            "hint: seqkit data ls names them all\n",
        ),
        (
            ["fetch", "builtin:python-docs"],
            "seqkit: error: builtin:python-docs is built in: it needs no file\n"
            "hint: a recipe reads it as `train: builtin:python-docs`\n",
        ),
    ],
)
def test_a_wrong_request_exits_2_and_touches_nothing(
    data: Data, tmp_path: Path, arguments: list[str], error: str
) -> None:
    result = data(*arguments)
    assert (result.code, result.out, result.err) == (2, "", error)
    assert not (tmp_path / "cache").exists()


def test_data_alone_prints_help_on_stderr(data: Data) -> None:
    result = data()
    assert (result.code, result.out) == (2, "")
    assert "fetch" in result.err
    asked = data("fetch", "-h")
    assert (asked.code, asked.err) == (0, "")
    assert "seqkit data fetch multi30k" in asked.out


def test_fetch_then_path_then_fetch_again(data: Data, toy: Toy, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "data" / "toy"
    first = data("fetch", "catalog:toy")
    assert (first.code, first.out) == (0, f"{folder}\n")
    assert first.err.splitlines() == [
        "fetching catalog:toy/train (6500 bytes)",
        "fetching catalog:toy/valid (390 bytes)",
        "toy: fetched and verified 2 files, 7 kB · CC0",
    ]
    assert (folder / "train.txt").read_bytes() == CONTENTS["train"]
    path = data("path", "toy/valid")
    assert path.out == f"{folder / 'valid.txt'}\n"
    again = data("fetch", "toy", "--json")
    assert again.err == f"toy: already in {folder}, verified\n"
    (dataset,) = json.loads(again.out)["datasets"]
    assert (dataset["name"], dataset["folder"]) == ("catalog:toy", str(folder))
    assert [file["status"] for file in dataset["files"]] == ["present", "present"]


def test_fetch_of_one_split_quietly_and_elsewhere(data: Data, toy: Toy, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    result = data("fetch", "toy/valid", "--cache-dir", str(elsewhere), "-q")
    assert (result.code, result.out) == (0, f"{elsewhere / 'data' / 'toy'}\n")
    assert result.err == (f"seqkit: warning: recipes will look elsewhere; for them, set SEQKIT_CACHE_DIR={elsewhere}\n")
    assert [path.name for path in (elsewhere / "data" / "toy").iterdir()] == ["valid.txt"]


def test_fetch_leaves_alone_what_the_data_folder_has(
    data: Data, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "given" / "toy"
    folder.mkdir(parents=True)
    (folder / "train.txt.gz").write_bytes(gzip.compress(CONTENTS["train"]))
    (folder / "valid.txt").write_bytes(CONTENTS["valid"])
    monkeypatch.setenv("SEQKIT_DATA_DIR", str(tmp_path / "given"))
    result = data("fetch", "toy")
    assert (result.out, result.err) == (f"{folder}\n", f"toy: already in {folder}, verified\n")
    assert not (tmp_path / "cache").exists()
    (folder / "valid.txt").write_bytes(b"something else\n")
    result = data("fetch", "toy", "-q")
    assert result.out == f"{tmp_path / 'cache' / 'data' / 'toy'}\n"
    assert result.err == (
        f"seqkit: warning: {folder / 'valid.txt'} differs from the catalog, and recipes will read it before the cache\n"
    )


def test_a_corrupted_download_is_one_line_and_exit_1(data: Data, toy: Toy, base_url: str, tmp_path: Path) -> None:
    toy("valid")
    result = data("fetch", "toy", "-q")
    assert (result.code, result.out) == (1, "")
    error, hint = result.err.splitlines()
    assert error.startswith(f"seqkit: error: {base_url}/valid: corrupted: expected SHA-256 ")
    assert hint.startswith("hint: ")
    assert [path.name for path in (tmp_path / "cache" / "data" / "toy").iterdir()] == ["train.txt"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fetch_keeps_its_part_and_goes_on(
    env: dict[str, str], data: Data, toy: Toy, tmp_path: Path, base_url: str, number: signal.Signals, code: int
) -> None:
    HANGS.set()
    part = tmp_path / "cache" / "data" / "toy" / ".train.txt.part"
    command = [sys.executable, "-c", WITH_TOY_CATALOG, *toy_arguments(base_url), "data", "fetch", "toy"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not part.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (code, b"")
    assert stderr.splitlines()[-1].startswith(b"seqkit: error: stopped by SIG")
    assert 0 <= part.stat().st_size <= 1000
    HANGS.clear()
    assert data("fetch", "toy").code == 0
    assert sorted(path.name for path in part.parent.iterdir()) == ["train.txt", "valid.txt"]


def test_log_lines_as_json(data: Data, toy: Toy) -> None:
    events = data("fetch", "toy", "--log-format", "jsonl").records
    assert [event["event"] for event in events] == ["fetching", "fetching", "fetched"]
    assert events[0]["bytes"] == len(CONTENTS["train"])
    assert events[2]["dataset"] == "toy"


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_gets_a_bar_and_stdout_only_the_folder(
    env: dict[str, str], tmp_path: Path, base_url: str, term: str
) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()
    with subprocess.Popen(
        [sys.executable, "-c", WITH_TOY_CATALOG, *toy_arguments(base_url), "data", "fetch", "toy"],
        env=env | {"TERM": term},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # Linux reports EIO when the other side is closed
            pass
        os.close(ours)
        stdout = process.communicate()[0].decode()
    assert process.returncode == 0
    assert stdout == f"{tmp_path / 'cache' / 'data' / 'toy'}\n"
    assert (b"\x1b[" in shown) == (term == "xterm")
    assert b"fetched and verified 2 files" in shown
