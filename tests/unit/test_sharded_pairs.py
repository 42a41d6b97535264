"""Large parallel texts: cut at the same line on both sides, encoded by several processes, to the same pairs."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkit.data import pair_building, readers, store_building, store_folder
from seqkit.data.pair_chunks import PairChunk, cut_pairs
from seqkit.data.pair_store import prepare_pairs
from seqkit.data.pairs import SIDES, PairPolicy, PairStore, ParallelText, SentenceStore
from seqkit.data.readers import open_source
from seqkit.data.sharded_ids import ShardedIds
from seqkit.errors import DataError, InterruptedRunError, SeqkitError
from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers.base import Tokenizer, encode_lines
from seqkit.tokenizers.bpe_learning import fit_bpe
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.char import CharTokenizer
from seqkit.tokenizers.word import WordTokenizer

NUM_LINES = 120
# Blank pairs, empty sides, over-long ones, and sides of unlike size.
SRC = "".join("\n" if n % 11 == 0 else f"the cat {'sat ' * (n % 5)}€{n}\n" for n in range(NUM_LINES))
TGT = "".join("\n" if n % 22 == 0 else f"ἡ γάτα{' ΣΑΣ' * (n % 3)}\n" for n in range(NUM_LINES)).removesuffix("\n")
LINES = list(zip(SRC.split("\n"), TGT.split("\n"), strict=False))
DROP = PairPolicy(max_length=20, over_long="drop", empty="drop")
REFUSE = PairPolicy(max_length=None, over_long="refuse", empty="refuse")
TOKENIZERS: dict[str, Tokenizer] = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer("".join(sorted({*SRC, *TGT}))),
    "char without line ends": CharTokenizer("".join(sorted({*SRC, *TGT} - {"\n", "Σ"})), unseen="unk"),
    "word": WordTokenizer(["the", "cat", "sat", "σας", "<eos>"], lowercase=True),
    "bpe": fit_bpe(tokenizer_schema.BpeTokenizer(type="bpe", num_merges=30), [SRC + TGT]),
}
MAX_LENGTH = {"byte": 25, "char": 24, "char without line ends": 24, "word": 5, "bpe": 8}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 17)
    monkeypatch.setattr(readers, "MARK_BYTES", 150)
    monkeypatch.setattr(pair_building, "_CHARS_AT_ONCE", 60)
    # None of this need outlive a power failure.
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def text(tmp_path: Path) -> ParallelText:
    return text_of(tmp_path, SRC, TGT)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def text_of(folder: Path, src: str, tgt: str) -> ParallelText:
    for name, side in (("x.src", src), ("x.tgt", tgt)):
        (folder / name).write_bytes(side.encode())
    return ParallelText(src=open_source(str(folder / "x.src")), tgt=open_source(str(folder / "x.tgt")))


def build(
    text: ParallelText, cache: Path, kind: str = "byte", policy: PairPolicy | None = None, **options: Any
) -> PairStore:
    policy = policy or PairPolicy(max_length=MAX_LENGTH[kind], over_long="drop", empty="drop")
    tokenizer = TOKENIZERS[kind]
    return prepare_pairs(text, {"src": tokenizer, "tgt": tokenizer}, policy, cache_dir=cache, **options)


def rows(sentences: SentenceStore) -> list[list[int]]:
    return [sentences[number].tolist() for number in range(len(sentences))]


def content(cache: Path) -> dict[str, bytes]:
    (folder,) = (cache / "pairs").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pairs_are_those_of_the_lines_one_by_one(kind: str, text: ParallelText, cache: Path) -> None:
    store = build(text, cache, kind, num_workers=1)
    encode = TOKENIZERS[kind].encode
    encoded = [(encode(src), encode(tgt)) for src, tgt in LINES]
    kept = [n for n, (src, tgt) in enumerate(encoded) if src and tgt and max(len(src), len(tgt)) <= MAX_LENGTH[kind]]
    assert 20 < len(kept) < NUM_LINES - 20
    assert store.line_numbers.tolist() == kept
    assert rows(store.src) == [encoded[n][0] for n in kept]
    assert rows(store.tgt) == [encoded[n][1] for n in kept]
    counts, unk_id = store.counts, TOKENIZERS[kind].unk_id
    assert counts.num_lines == NUM_LINES and counts.num_pairs == len(kept)
    assert counts.num_blank == sum(not src and not tgt for src, tgt in encoded) > 0
    assert counts.num_empty == sum(bool(src) != bool(tgt) for src, tgt in encoded) > 0
    assert counts.num_over_long == NUM_LINES - len(kept) - counts.num_blank - counts.num_empty > 0
    for side, name in enumerate(SIDES):
        assert counts.num_tokens[name] == sum(len(encoded[n][side]) for n in kept)
        assert counts.num_chars[name] == sum(len(LINES[n][side]) for n in kept)
        assert counts.num_unknown[name] == sum(encoded[n][side].count(-1 if unk_id is None else unk_id) for n in kept)
    assert isinstance(store.src.ids, ShardedIds) and len(store.src.ids.shards) > 5


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_any_number_of_processes_writes_the_same_files(kind: str, text: ParallelText, tmp_path: Path) -> None:
    for num_workers in (1, 3):
        build(text, tmp_path / str(num_workers), kind, num_workers=num_workers)
    assert content(tmp_path / "1") == content(tmp_path / "3") and len(content(tmp_path / "1")) > 12


def test_a_text_of_one_chunk_has_one_file_a_side(
    text: ParallelText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded = build(text, tmp_path / "sharded")
    monkeypatch.setattr(readers, "MARK_BYTES", 1 << 20)
    whole = build(ParallelText(src=text.src, tgt=text.tgt), tmp_path / "whole")
    files = content(tmp_path / "whole")
    assert sorted(files) == ["lines.bin", "meta.json", "src.bin", "src.offsets.bin", "tgt.bin", "tgt.offsets.bin"]
    assert b"shards" not in files["meta.json"]
    assert rows(whole.src) == rows(sharded.src) and rows(whole.tgt) == rows(sharded.tgt)
    for name in ("lines.bin", "src.offsets.bin", "tgt.offsets.bin"):
        assert files[name] == content(tmp_path / "sharded")[name]
    assert whole.counts == sharded.counts


@pytest.mark.parametrize(
    ("src", "tgt"),
    [
        (SRC, TGT),
        (SRC, "a\n" * NUM_LINES),
        ("a\n" * NUM_LINES, SRC),
        ("a\n" + "b" * 900 + "\nc\n" * 200, "\n" * 400 + "d"),
        ("a", "b\n"),
    ],
)
def test_chunks_are_the_text_and_are_found_from_nearby(src: str, tgt: str, tmp_path: Path) -> None:
    text = text_of(tmp_path, src, tgt)
    chunks = cut_pairs(text.stats)
    assert [pair for chunk in chunks for pair in chunk.pairs(text)] == list(text.lines())
    assert [chunk.num_lines for chunk in chunks] == [len(list(chunk.pairs(text))) for chunk in chunks]
    for before, chunk in pairwise(chunks):
        assert all(mark.line < chunk.first_line for mark in chunk.marks.values())
        # Each cut has marks of its own, or the way to it would grow with the text.
        assert all(chunk.marks[side].position > before.marks[side].position for side in SIDES)


def test_compressed_files_are_cut_where_they_end(tmp_path: Path) -> None:
    src, tgt = SRC.encode(), TGT.encode()
    pieces = [src[:400], src[400:1500], src[1500:]]
    files = []
    for number, piece in enumerate(pieces):
        files.append(tmp_path / f"{number}.gz")
        files[-1].write_bytes(gzip.compress(piece))
    (tmp_path / "tgt").write_bytes(tgt)
    (tmp_path / "tgt.gz").write_bytes(gzip.compress(tgt))
    parts = open_source([str(file) for file in files])
    text = ParallelText(src=parts, tgt=open_source(str(tmp_path / "tgt")))
    chunks = cut_pairs(text.stats)
    assert len(chunks) == 3
    assert [pair for chunk in chunks for pair in chunk.pairs(text)] == LINES[:NUM_LINES]
    assert len(cut_pairs(ParallelText(src=parts, tgt=open_source(str(tmp_path / "tgt.gz"))).stats)) == 1


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_first_fault_is_told_whoever_finds_one_first(
    num_workers: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = [f"line {n}" for n in range(200)]
    for number in (83, 84, 150, 199):
        src[number] = ""
    text = text_of(tmp_path, "".join(f"{line}\n" for line in src), "a\n" * 200)
    encode, first_lines = pair_building._encode_chunk, [chunk.first_line for chunk in cut_pairs(text.stats)]
    first_at_fault = max(line for line in first_lines if line <= 83)
    other_has_failed = multiprocessing.get_context("fork").Event()

    def in_the_wrong_order(folder: Path, text: ParallelText, chunk: PairChunk, *rest: Any, **options: Any) -> Any:
        if chunk.first_line == first_at_fault and num_workers > 1:
            assert other_has_failed.wait(30)
        try:
            return encode(folder, text, chunk, *rest, **options)
        except DataError:
            other_has_failed.set()
            raise

    monkeypatch.setattr(pair_building, "_encode_chunk", in_the_wrong_order)
    with pytest.raises(DataError, match=r"x\.src and .*x\.tgt, line 84: one side is empty"):
        build(text, cache, policy=REFUSE, num_workers=num_workers)
    assert list((cache / "pairs").iterdir()) == []


def test_what_cannot_be_encoded_is_named_by_its_line(text: ParallelText, cache: Path) -> None:
    letters = CharTokenizer("".join(sorted({*SRC, *TGT} - {"7"})), unseen="error")
    with pytest.raises(DataError, match=r"x\.src:8: character '7' \(U\+0037\) is not in the vocabulary"):
        prepare_pairs(text, {"src": letters, "tgt": letters}, DROP, cache_dir=cache, num_workers=2)


def test_a_text_that_changes_meanwhile_is_refused(text: ParallelText, tmp_path: Path, cache: Path) -> None:
    assert text.stats["tgt"].num_lines == NUM_LINES
    (tmp_path / "x.tgt").write_bytes(TGT.encode()[:-2])
    with pytest.raises(DataError, match=r"x\.tgt: changed while it was being read"):
        build(text, cache)
    (tmp_path / "x.tgt").write_bytes(TGT[: TGT.index("\n", 900)].encode())
    with pytest.raises(DataError, match="changed while it was being read"):
        build(text, cache, num_workers=2)
    assert list((cache / "pairs").iterdir()) == []


@pytest.mark.parametrize("damage", ["short shard", "no shard", "offsets", "lines", "counts", "list", "type"])
def test_a_damaged_store_is_built_again(
    damage: str, text: ParallelText, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(text, cache)
    good = content(cache)
    (folder,) = (cache / "pairs").iterdir()
    meta = folder / "meta.json"
    match damage:
        case "short shard":
            (folder / "tgt.00002.0.bin").write_bytes(good["tgt.00002.0.bin"][:-1])
        case "no shard":
            (folder / "tgt.00002.0.bin").unlink()
        case "offsets" | "lines":
            name = "src.offsets.bin" if damage == "offsets" else "lines.bin"
            (folder / name).write_bytes(good[name][:-8])
        case "counts":
            meta.write_text(meta.read_text().replace('"shards": {"src": [[', '"shards": {"src": [[1], ['))
        case "list":
            meta.write_text("[]")
        case "type":
            meta.write_text(meta.read_text().replace("uint8", "float64"))
    build(text, cache)
    assert content(cache) == good
    assert ("it is damaged" in caplog.text) == (damage != "no shard")


def counted_chunks(monkeypatch: pytest.MonkeyPatch, *, stop_at: int | None = None) -> list[int]:
    """The chunks that are encoded from now on, by their numbers; a signal arrives when some are."""
    encode, begun = pair_building._encode_chunk, []

    def counting(*arguments: Any, **options: Any) -> Any:
        begun.append(arguments[-1])
        if len(begun) == stop_at:
            raise InterruptedRunError("stopped by SIGTERM", signal_number=signal.SIGTERM)
        return encode(*arguments, **options)

    monkeypatch.setattr(pair_building, "_encode_chunk", counting)
    return begun


def test_an_interrupted_build_goes_on(
    text: ParallelText, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    build(text, tmp_path / "other")
    with monkeypatch.context() as patched:
        begun = counted_chunks(patched, stop_at=4)
        with pytest.raises(InterruptedRunError):
            build(text, cache, num_workers=1)
    assert begun == [0, 1, 2, 3]
    (building,) = (cache / "pairs").iterdir()
    # A file that is not what its record says is not believed.
    (building / "chunk.00001.src").write_bytes(b"half")
    begun = counted_chunks(monkeypatch)
    build(text, cache, num_workers=1)
    assert begun[:2] == [1, 3] and begun == sorted(begun)
    assert content(cache) == content(tmp_path / "other")
    (alone, rest) = (vars(record)["fields"] for record in caplog.records if vars(record).get("event") == "encoded")
    assert alone["num_bytes"] == rest["num_bytes"] == len((SRC + TGT + "\n").encode())
    assert alone["num_bytes_before"] == 0 < rest["num_bytes_before"] < rest["num_bytes"] / 2


def test_who_is_killed_before_the_last_rename_encodes_nothing_again(
    text: ParallelText, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(text, tmp_path / "other")

    def killed(*_: object) -> None:
        raise InterruptedRunError("stopped by SIGTERM", signal_number=signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(store_folder, "remove_chunk_files", killed)
        with pytest.raises(InterruptedRunError):
            build(text, cache, num_workers=1)
    begun = counted_chunks(monkeypatch)
    build(text, cache, num_workers=1)
    assert begun == []
    assert content(cache) == content(tmp_path / "other")


KILLED = """
    import sys, time
    from pathlib import Path
    from seqkit.data import pair_building, readers
    from seqkit.data.pair_store import prepare_pairs
    from seqkit.data.pairs import PairPolicy, ParallelText
    from seqkit.data.readers import open_source
    from seqkit.tokenizers.byte import ByteTokenizer

    readers.BLOCK_BYTES, readers.MARK_BYTES = 17, 150
    encode = pair_building._encode_chunk

    def slow(*arguments, **options):
        if arguments[-1] >= 5:
            print(arguments[-1], flush=True, file=sys.stderr)
            time.sleep(600)
        return encode(*arguments, **options)

    pair_building._encode_chunk = slow
    text = ParallelText(src=open_source(sys.argv[1]), tgt=open_source(sys.argv[2]))
    policy = PairPolicy(max_length=25, over_long="drop", empty="drop")
    tokenizers = {"src": ByteTokenizer(), "tgt": ByteTokenizer()}
    prepare_pairs(text, tokenizers, policy, cache_dir=Path(sys.argv[3]), num_workers=2)
"""


def test_a_killed_build_goes_on(
    text: ParallelText, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(text, tmp_path / "other")
    words = [str(tmp_path / "x.src"), str(tmp_path / "x.tgt"), str(cache)]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as builder:
        assert builder.stderr is not None
        # Both workers are at a chunk that never ends.
        for _ in range(2):
            builder.stderr.readline()
        workers = Path(f"/proc/{builder.pid}/task/{builder.pid}/children").read_text().split()
        assert len(workers) == 2
        for process in (builder.pid, *map(int, workers)):
            os.kill(process, signal.SIGKILL)
        assert builder.stderr.read() == ""
    begun = counted_chunks(monkeypatch)
    build(text, cache, num_workers=1)
    assert begun[0] == 5
    assert content(cache) == content(tmp_path / "other")


def test_a_lost_worker_is_named(text: ParallelText, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pair_building, "_encode_chunk", dying)
    with pytest.raises(SeqkitError, match=r"x\.src → .*x\.tgt: a worker process ended by SIGKILL"):
        build(text, cache, num_workers=2)


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(readers, "MARK_BYTES", 1 << 19)
    monkeypatch.setattr(pair_building, "_CHARS_AT_ONCE", 1 << 15)
    peaks = []
    for megabytes in (1, 4):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        num_lines = megabytes * 1_000_000 // 100
        text = text_of(folder, ("a" * 99 + "\n") * num_lines, ("b" * 99 + "\n") * num_lines)
        tracemalloc.start()
        policy = PairPolicy(max_length=None, over_long="refuse", empty="refuse")
        store = build(text, folder / "cache", policy=policy, num_workers=1)
        assert len(store) == num_lines and store.src.ids[-1] == ord("a")
        assert isinstance(store.src.offsets, np.memmap) and isinstance(store.line_numbers, np.memmap)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Both sides of the larger text are 8 MB.
    assert peaks[1] < 1.1 * peaks[0] < 3e6


HARD_LINES = ["", " ", "a  b ", "\t", "</s>", "<eos> <unk>", "ΟΔΟΣ", "ΣΑΣ Σ", "a\rb\u2028c", "", "▁ <0x0A>", "é€😀"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_lines_together_are_lines_one_by_one(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    for lines in (HARD_LINES, [""], ["a"], HARD_LINES[::-1]):
        ids, lengths = encode_lines(tokenizer, lines)
        alone = [tokenizer.encode(line) for line in lines]
        assert lengths.tolist() == list(map(len, alone))
        assert ids.tolist() == [token for row in alone for token in row]
        assert ids.dtype == tokenizer.dtype


def test_shards_do_not_grow_without_bound(
    text: ParallelText, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build(text, tmp_path / "other")
    monkeypatch.setattr(store_building, "SHARD_BYTES", 40)
    store = build(text, cache)
    assert any(name.endswith(".1.bin") for name in content(cache))
    assert rows(store.src) == rows(expected.src) and rows(store.tgt) == rows(expected.tgt)
