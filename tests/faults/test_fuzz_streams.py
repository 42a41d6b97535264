"""Raw bytes into everything that reads a stream or a text: answers or one clear error, whatever they are."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import InProcess, Tiny
from conftest import Tally
from mutations import mutate_bytes, mutated_json_bytes, random_bytes
from test_fuzz_files import assert_told, fuzzed
from tiny_pairs import TinyPairs

from seqkit.data.download import FetchError, Patience, PinnedFile, download, make_opener


@pytest.mark.parametrize("num_examples", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_filters(
    tiny: Tiny, tiny_pairs: TinyPairs, bpe_examples: Path, seqkit: InProcess, tally: Tally, num_examples: int
) -> None:
    bpe = ("--tokenizer", bpe_examples / "bpe.json")
    filters = [
        ("bpe", "encode", *bpe),
        ("bpe", "encode", *bpe, "--ids"),
        ("bpe", "encode", *bpe, "--json"),
        ("bpe", "decode", *bpe),
        ("bpe", "decode", *bpe, "--ids"),
        ("bpe", "decode", "--tokenizer", bpe_examples / "low.json", "--json"),
        ("translate", "--model", tiny_pairs.run, "--beam", 2, "--max-length", 5),
        ("translate", "--model", tiny_pairs.run, "--json", "--beam", 1, "--max-length", 3),
        ("evaluate", "--model", tiny.run, "--per-line"),
        ("evaluate", "--model", tiny.run, "--per-line", "--json"),
        ("sample", "--model", tiny.run, "--prompt-file", "-", "--length", 2),
    ]

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        content = random_bytes(rng)
        words = rng.choice(filters)
        done = seqkit(*words, stdin=content)
        assert done.code in (0, 1, 2) and "Traceback" not in done.err and "error: unexpected: " not in done.err, (
            done.err
        )
        if done.code == 0 and words[0] != "sample":
            # As many lines out as in; --json ends a last line that had no end.
            extra = int(bool(content) and not content.endswith(b"\n") and "--json" in words)
            ends = done.out.count("\n")
            assert ends - content.count(b"\n") in (extra, int(words[0] in ("evaluate", "translate"))), (words, content)

    check()
    tally("byte streams into filters fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_files_beside_a_translation(
    tiny_pairs: TinyPairs, tmp_path: Path, seqkit: InProcess, tally: Tally, num_examples: int
) -> None:
    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        (tmp_path / "beside").write_bytes(
            mutate_bytes(b"A B\nC\tD\n\nAB CD\n", rng) if rng.random() < 0.7 else random_bytes(rng)
        )
        (tmp_path / "src").write_bytes(b"a b\nc d\n\nab cd\n")
        option = rng.choice(["--prefix", "--constraint"])
        words = ("translate", "--model", tiny_pairs.run, "src", option, "beside", "--max-length", 8, "--beam", 2)
        assert_told(seqkit, *words)

    check()
    tally("prefix and constraint files fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_texts_and_scores(
    tiny: Tiny, bpe_examples: Path, tmp_path: Path, seqkit: InProcess, tally: Tally, num_examples: int
) -> None:
    text = tiny.text.read_bytes()[:600]

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        content = random_bytes(rng) if rng.random() < 0.5 else mutate_bytes(text, rng)
        name = "text"
        if rng.random() < 0.3:
            content, name = mutate_bytes(gzip.compress(content), rng), "text.gz"
        (tmp_path / name).write_bytes(content)
        (tmp_path / "other").write_bytes(random_bytes(rng))
        match rng.randrange(5):
            case 0:
                words: tuple[object, ...] = ("bpe", "learn", name, "--num-merges", 5, "-o", "made.json")
            case 1:
                words = ("score", name, "other")
            case 2:
                words = ("evaluate", "--model", tiny.run, name)
            case 3:
                words = ("bpe", "inspect", "--tokenizer", bpe_examples / "bpe.json", name)
            case _:
                words = ("train", tiny.recipe, "--set", f"data.train={name}", "--set", "train.max_steps=1", "-q")
        assert_told(seqkit, *words)

    check()
    tally("corpora fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_others_merges(bpe_examples: Path, tmp_path: Path, seqkit: InProcess, tally: Tally, num_examples: int) -> None:
    as_subword_nmt = ("--boundary", "end", "--split", "blanks", "--unseen", "unk", "--num-merges", 9)
    assert seqkit("bpe", "learn", bpe_examples / "dictionary", *as_subword_nmt, "-o", "own.json").code == 0
    for source, wanted, name in (
        (bpe_examples / "bpe.json", "huggingface", "hf.json"),
        ("own.json", "subword-nmt", "codes"),
    ):
        assert seqkit("bpe", "convert", source, "--to", wanted, "-o", name).code == 0
    files = {name: (tmp_path / name).read_bytes() for name in ("hf.json", "codes")}

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        name = rng.choice(list(files))
        damage = mutated_json_bytes if name.endswith(".json") else mutate_bytes
        (tmp_path / "in").write_bytes(damage(files[name], rng))
        told = rng.choice([(), ("--from", "huggingface"), ("--from", "subword-nmt")])
        if (
            assert_told(seqkit, "bpe", "convert", "in", *told, "-o", "made.json") == 0
            and (tmp_path / "made.json").exists()
        ):
            assert_told(seqkit, "bpe", "encode", "--tokenizer", "made.json", stdin="low ☃ lower\n".encode())
            (tmp_path / "made.json").unlink()

    check()
    tally("merges of other programs fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_records_of_runs(tiny: Tiny, tmp_path: Path, seqkit: InProcess, tally: Tally, num_examples: int) -> None:
    run = tmp_path / "runs" / "tiny" / "run"
    shutil.copytree(tiny.run, run, symlinks=True)
    files = {name: (run / name).read_bytes() for name in ("run.json", "metrics.jsonl")}
    commands = [
        ("runs", "ls"),
        ("runs", "ls", "--json"),
        ("runs", "show", run),
        ("runs", "show", run, "--json"),
        ("runs", "prune", "--keep", 1),
        ("plot", "curves", run, "-o", "-"),
        ("train", tiny.recipe, "--run-dir", run, "--resume", "-q"),
        ("average", run, "-o", "averaged", "--force"),
    ]

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        for name, content in files.items():
            (run / name).write_bytes(content)
        name = rng.choice(list(files))
        if name == "run.json":
            (run / name).write_bytes(mutated_json_bytes(files[name], rng))
        else:
            lines = files[name].splitlines(keepends=True)
            number = rng.randrange(len(lines))
            lines[number] = mutated_json_bytes(lines[number], rng) + b"\n"
            (run / name).write_bytes(b"".join(lines))
        assert_told(seqkit, *rng.choice(commands))

    check()
    tally("records of runs fuzzed", num_examples)


@contextlib.contextmanager
def serving(answers: list[bytes]) -> Iterator[str]:
    """A server that sends raw bytes to whoever connects, one of ``answers`` each time, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(1 << 16)
                        connection.sendall(answers[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("num_examples", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, num_examples: int) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    body = b"twelve bytes"
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Type: text/plain\r\n\r\n" + body
    moved = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    part = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-11/12\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n" + body
    sha256 = hashlib.sha256(body).hexdigest()
    answers = [good]
    with serving(answers) as url:

        @fuzzed(num_examples)
        def check(seed: int) -> None:
            rng = random.Random(seed)
            answers[0] = mutate_bytes(rng.choice([good, moved, part]), rng)
            place = tmp_path / "part"
            place.unlink(missing_ok=True)
            try:
                download(
                    PinnedFile(url=url, num_bytes=12, sha256=sha256),
                    place,
                    patience=Patience(timeout=5, num_retries=0, backoff=0),
                    opener=make_opener(),
                    on_bytes=lambda num_bytes: None,
                )
            except FetchError as error:
                assert "\n" not in error.message
            else:
                assert place.read_bytes() == body

        check()
    tally("downloads fuzzed", num_examples)


def test_what_is_drawn_is_not_all_good() -> None:
    """A fuzzer that changes nothing finds nothing."""
    rng = random.Random(0)
    content = json.dumps({"a": [1, 2, {"b": "c"}]}).encode()
    assert sum(mutate_bytes(content, rng) != content for _ in range(100)) > 85
    assert sum(mutated_json_bytes(content, rng) != content for _ in range(100)) > 85
