"""Large texts: cut into chunks that several processes encode, to the same ids; what was done outlives its builder."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkit.data import build_folder, readers, store_building
from seqkit.data.readers import Mark, TextFile, open_source
from seqkit.data.sharded_ids import ShardedIds
from seqkit.data.store import TokenStore, prepare_store
from seqkit.data.store_building import ChunkRecord
from seqkit.data.stretches import Stretch
from seqkit.errors import DataError, InterruptedRunError, SeqkitError
from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.bpe_learning import fit_bpe
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.char import CharTokenizer
from seqkit.tokenizers.word import WordTokenizer

TEXT = "".join(f"the cat {'sat ' * (n % 5)}on é mat €{n}\n{chr(10) * (n % 3)}" for n in range(40)) + "no line end"
TOKENIZERS: dict[str, Tokenizer] = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer(" acehnost"),
    "word": WordTokenizer(["the", "cat", "sat"]),
    "bpe": fit_bpe(tokenizer_schema.BpeTokenizer(type="bpe", num_merges=30), [TEXT]),
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 17)
    monkeypatch.setattr(readers, "MARK_BYTES", 100)
    # None of this need outlive a power failure.
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(built: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in built.path.iterdir()}


def build(path: Path, cache: Path, tokenizer: Tokenizer = TOKENIZERS["byte"], **options: Any) -> TokenStore:
    return prepare_store(open_source(str(path)), tokenizer, cache_dir=cache, **options)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("stretch", [(0, None), (1, None), (0, len(TEXT) - 1), (333, 777), (770, 779)])
def test_ids_are_those_of_the_whole_text(kind: str, stretch: tuple[int, int | None], path: Path, cache: Path) -> None:
    tokenizer, (start, end) = TOKENIZERS[kind], stretch
    built = build(path, cache, tokenizer, start=start, end=end, num_workers=1)
    expected = tokenizer.encode(TEXT[start:end])
    assert built.ids.tolist() == expected
    assert (built.num_tokens, built.num_chars) == (len(expected), len(TEXT[start:end]))
    assert built.num_bytes == len(TEXT[start:end].encode())
    assert built.num_unknown == sum(token == tokenizer.unk_id for token in expected)
    if stretch == (0, None):
        assert isinstance(built.ids, ShardedIds) and len(built.ids.shards) > 5


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_any_number_of_processes_writes_the_same_files(kind: str, path: Path, tmp_path: Path) -> None:
    alone = build(path, tmp_path / "1", TOKENIZERS[kind], num_workers=1)
    together = build(path, tmp_path / "3", TOKENIZERS[kind], num_workers=3)
    assert content(alone) == content(together) and len(content(alone)) > 6
    assert names(tmp_path / "3" / "stores") == [together.path.name]
    assert alone.ids.tolist() == together.ids.tolist()


def test_progress_reaches_the_end_of_the_text(path: Path, tmp_path: Path) -> None:
    for num_workers in (1, 2):
        done: list[int] = []
        build(path, tmp_path / str(num_workers), num_workers=num_workers, on_progress=done.append)
        assert done == sorted(done) and done[-1] == len(TEXT.encode()) and len(done) > 5


def test_a_long_word_leaves_empty_chunks(tmp_path: Path, cache: Path) -> None:
    text = "a b " * 30 + "x" * 700 + " c" * 90
    path = tmp_path / "long.txt"
    path.write_text(text)
    tokenizer = WordTokenizer(["a", "b", "c"])
    built = build(path, cache, tokenizer, num_workers=2)
    assert built.ids.tolist() == tokenizer.encode(text)
    lines = "a b\n" + "x" * 900
    path.write_text(lines)
    assert build(path, cache, TOKENIZERS["bpe"], num_workers=2).ids.tolist() == TOKENIZERS["bpe"].encode(lines)


def test_a_compressed_file_is_read_from_its_beginning_only(tmp_path: Path, cache: Path) -> None:
    # Words are cut in two where one file ends and the next begins, as cat joins them.
    pieces = [TEXT[:7], TEXT[7:400], TEXT[400:900], TEXT[900:901], TEXT[901:]]
    files = []
    for number, piece in enumerate(pieces):
        files.append(tmp_path / f"{number}.txt{'.gz' if number in (1, 4) else ''}")
        files[-1].write_bytes(gzip.compress(piece.encode()) if number in (1, 4) else piece.encode())
    source = open_source([str(file) for file in files])
    marks = source.measure().marks
    assert {mark.part for mark in marks if mark.offset} == {2}
    for mark in marks:
        assert "".join(source.blocks(mark.position, after=mark)) == TEXT[mark.position :]
    tokenizer = WordTokenizer(["the", "cat", "sat"])
    built = prepare_store(source, tokenizer, cache_dir=cache, num_workers=3)
    assert built.ids.tolist() == tokenizer.encode(TEXT)
    assert isinstance(built.ids, ShardedIds)


def test_marks_do_not_make_the_key(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MARK_BYTES", 1 << 20)
    one = build(path, cache)
    assert isinstance(one.ids, np.memmap) and names(one.path) == ["ids.bin", "meta.json"]
    assert b"shards" not in (one.path / "meta.json").read_bytes()
    monkeypatch.setattr(readers, "MARK_BYTES", 100)
    # A store that an older seqkit built of a large text stays in use.
    assert build(path, cache).path == one.path and names(one.path) == ["ids.bin", "meta.json"]


def test_no_file_grows_without_bound(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_building, "SHARD_BYTES", 40)
    built = build(path, cache)
    sizes = [file.stat().st_size for file in built.path.glob("ids.*.bin")]
    assert max(sizes) < 40 + 17 + 4 and len(sizes) > 20
    assert built.ids.tolist() == list(TEXT.encode())


@pytest.mark.parametrize("damage", ["short", "missing", "counts", "list", "empty"])
def test_a_damaged_shard_is_noticed(damage: str, path: Path, cache: Path) -> None:
    built = build(path, cache)
    good = content(built)
    shard, meta = built.path / "ids.00002.0.bin", built.path / "meta.json"
    if damage == "short":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "missing":
        shard.unlink()
    else:
        counts = {"counts": "[[1, 2]]", "list": "[7]", "empty": "[[0]]"}[damage]
        text = meta.read_text()
        meta.write_text(text[: text.index('"shards"')] + f'"shards": {counts}}}')
    assert content(build(path, cache)) == good
    assert names(cache / "stores") == [built.path.name]


def counted_chunks(monkeypatch: pytest.MonkeyPatch, *, stop_at: int | None = None) -> list[int]:
    """The chunks that are encoded from now on; a signal arrives when some are."""
    encode, begun = store_building._encode_chunk, []

    def counting(folder: Path, stretch: Stretch, tokenizer: Tokenizer, number: int, **options: Any) -> ChunkRecord:
        begun.append(number)
        if len(begun) == stop_at:
            raise InterruptedRunError("stopped by SIGTERM", signal_number=signal.SIGTERM)
        return encode(folder, stretch, tokenizer, number, **options)

    monkeypatch.setattr(store_building, "_encode_chunk", counting)
    return begun


def test_an_interrupted_build_goes_on(path: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(build(path, tmp_path / "other"))
    with monkeypatch.context() as patched:
        begun = counted_chunks(patched, stop_at=4)
        with pytest.raises(InterruptedRunError):
            build(path, cache, num_workers=1)
    assert begun == [0, 1, 2, 3]
    assert len(names(cache / "stores")) == 1
    with monkeypatch.context() as patched:
        begun = counted_chunks(patched)
        built = build(path, cache, num_workers=1)
    assert begun[0] == 3 and len(begun) > 4
    assert content(built) == expected
    assert names(cache / "stores") == [built.path.name]


def test_an_interrupted_build_of_one_chunk_leaves_nothing(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted_chunks(monkeypatch, stop_at=1)
    with pytest.raises(InterruptedRunError):
        build(path, cache, num_workers=1)
    assert names(cache / "stores") == []


def test_a_damaged_chunk_is_encoded_again(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        counted_chunks(patched, stop_at=5)
        with pytest.raises(InterruptedRunError):
            build(path, cache, num_workers=1)
    (building,) = (cache / "stores").iterdir()
    (building / "chunk.00001.json").write_text("{")
    (building / "ids.00002.0.bin").write_bytes(b"half")
    begun = counted_chunks(monkeypatch)
    assert build(path, cache, num_workers=1).ids.tolist() == list(TEXT.encode())
    assert begun[:3] == [1, 2, 4]


KILLED = """
    import os, sys, time
    from pathlib import Path
    from seqkit.data import readers, store_building
    from seqkit.data.readers import open_source
    from seqkit.data.store import prepare_store
    from seqkit.tokenizers.byte import ByteTokenizer

    readers.BLOCK_BYTES, readers.MARK_BYTES = 17, 100
    encode = store_building._encode_chunk

    def slow(folder, stretch, tokenizer, number, **options):
        if number >= 5:
            print(number, flush=True, file=sys.stderr)
            time.sleep(600)
        return encode(folder, stretch, tokenizer, number, **options)

    store_building._encode_chunk = slow
    prepare_store(open_source(sys.argv[1]), ByteTokenizer(), cache_dir=Path(sys.argv[2]), num_workers=2)
"""


def test_a_killed_build_goes_on_and_leaves_no_process(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(cache)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as builder:
        assert builder.stderr is not None
        # Both workers are at a chunk that never ends.
        for _ in range(2):
            builder.stderr.readline()
        workers = children_of(builder.pid)
        assert len(workers) == 2
        builder.kill()
        builder.wait()
        # They sleep; the lock is theirs too, and nobody may write beside them.
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert builder.stderr.read() == ""
    begun = counted_chunks(monkeypatch)
    built = build(path, cache, num_workers=1)
    assert begun[0] == 5
    assert built.ids.tolist() == list(TEXT.encode())
    assert names(cache / "stores") == [built.path.name]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_lost_worker_is_named_and_its_build_goes_on(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = store_building._encode_chunk

    def dying(folder: Path, stretch: Stretch, tokenizer: Tokenizer, number: int, **options: Any) -> ChunkRecord:
        if number == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(folder, stretch, tokenizer, number, **options)

    with monkeypatch.context() as patched:
        patched.setattr(store_building, "_encode_chunk", dying)
        with pytest.raises(SeqkitError, match=r"text\.txt: a worker process ended by SIGKILL") as caught:
            build(path, cache, num_workers=2)
    assert caught.value.hint is not None and "data.workers" in caught.value.hint
    begun = counted_chunks(monkeypatch)
    source = open_source(str(path))
    assert build(path, cache, num_workers=1).ids.tolist() == list(TEXT.encode())
    # When chunk 6 was begun, the other worker was at one of those before it, and the rest of them were done.
    num_chunks = Stretch(source=source, stats=source.measure(), start=0, end=len(TEXT)).num_chunks
    assert 6 in begun and len(begun) <= num_chunks - 5


@pytest.mark.parametrize("num_workers", [1, 2])
def test_bad_text_and_a_full_disk_leave_nothing(
    num_workers: int, path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(path))
    stats = source.measure()
    with pytest.raises(DataError, match="is not in the vocabulary"):
        tokenizer = CharTokenizer("abc", unseen="error")
        prepare_store(source, tokenizer, cache_dir=cache, stats=stats, num_workers=num_workers)
    good = path.read_bytes()
    path.write_bytes(good[:700] + b"\xff" + good[701:])
    with pytest.raises(DataError, match=r"text\.txt: not UTF-8: byte 0xff"):
        prepare_store(source, ByteTokenizer(), cache_dir=cache, stats=stats, num_workers=num_workers)
    path.write_bytes(good[:-60])
    with pytest.raises(DataError, match="changed while it was being read"):
        prepare_store(source, ByteTokenizer(), cache_dir=cache, stats=stats, num_workers=num_workers)
    path.write_bytes(good)

    def full(*_: object, **__: object) -> ChunkRecord:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_building, "_encode_chunk", full)
    with pytest.raises(DataError, match="cannot write the cache: No space left on device"):
        prepare_store(source, ByteTokenizer(), cache_dir=cache, stats=stats, num_workers=num_workers)
    assert names(cache / "stores") == []


def test_an_error_in_a_worker_that_nobody_expects_is_shown(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> ChunkRecord:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(store_building, "_encode_chunk", broken)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        build(path, cache, num_workers=2)


def test_who_comes_second_waits_and_encodes_nothing(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    may_go_on, is_waiting = threading.Event(), threading.Event()
    encode, begun = store_building._encode_chunk, []
    lock = build_folder._lock

    def held(folder: Path, stretch: Stretch, tokenizer: Tokenizer, number: int, **options: Any) -> ChunkRecord:
        begun.append(number)
        assert may_go_on.wait(30)
        return encode(folder, stretch, tokenizer, number, **options)

    def telling(handle: int, path: Path) -> bool:
        if begun:
            is_waiting.set()
        return lock(handle, path)

    monkeypatch.setattr(store_building, "_encode_chunk", held)
    monkeypatch.setattr(build_folder, "_lock", telling)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(build, path, cache, num_workers=1)
        while not begun:
            may_go_on.wait(0.001)
        second = pool.submit(build, path, cache, num_workers=1)
        assert is_waiting.wait(30)
        may_go_on.set()
        assert first.result().ids.tolist() == second.result().ids.tolist() == list(TEXT.encode())
    assert len(begun) == len(set(begun))
    assert names(cache / "stores") == [first.result().path.name]


def test_many_at_once(path: Path, cache: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        built = list(pool.map(lambda _: build(path, cache, num_workers=1), range(6)))
    assert {tuple(each.ids.tolist()) for each in built} == {tuple(TEXT.encode())}
    assert names(cache / "stores") == [built[0].path.name]


def test_without_locks_each_builds_for_itself(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    built = build(path, cache, num_workers=2)
    assert built.ids.tolist() == list(TEXT.encode())
    # The folder that nobody could hold is removed when it is a day old.
    assert names(cache / "stores") == sorted([f".{built.path.name}.tmp", built.path.name])


def test_what_is_being_built_is_not_abandoned(tmp_path: Path) -> None:
    place = tmp_path / "thing"
    for name in ("thing", "other"):
        with build_folder.build_folder(tmp_path / name):
            pass
    long_ago = (1.0, 1.0)

    def is_old() -> Iterator[Path]:
        for folder in tmp_path.glob(".*.tmp"):
            for file in (*folder.iterdir(), folder):
                os.utime(file, long_ago)
            yield folder

    with build_folder.build_folder(place) as building:
        assert len(list(is_old())) == 2
        build_folder.remove_abandoned(tmp_path)
        assert names(tmp_path) == [building.name]


def test_a_mark_in_the_middle_of_a_file(path: Path) -> None:
    source = open_source(str(path))
    marks = source.measure().marks
    assert marks[0] == Mark(position=0, part=0, offset=0, line=0) and len(marks) > 5
    for mark in marks:
        assert len(TEXT[: mark.position].encode()) == mark.offset
    assert "".join(TextFile(path).blocks(marks[3].offset)) == TEXT[marks[3].position :]
    assert (
        "".join(source.blocks(marks[3].position + 2, marks[4].position, after=marks[3]))
        == (TEXT[marks[3].position + 2 : marks[4].position])
    )


def test_stores_that_an_older_seqkit_built_are_found(path: Path, cache: Path) -> None:
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    parts = [1, sys.byteorder, digest, 3, 9, ByteTokenizer().to_json()]
    assert build(path, cache, start=3, end=9).path.name == hashlib.sha256(json.dumps(parts).encode()).hexdigest()
