"""Token stores: the right ids, built once, whatever else happens to the cache."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seqkit.data import corpora, readers, store
from seqkit.data.corpora import prepare_split, prepare_text_corpora
from seqkit.data.readers import open_source
from seqkit.data.store import TokenStore, prepare_store
from seqkit.errors import DataError
from seqkit.recipe import schema, tokenizer_schema
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.char import CharTokenizer
from seqkit.tokenizers.word import WordTokenizer

TEXT = "the cat\nsat on é mat\nthe end\n"
CHAR = tokenizer_schema.CharTokenizer(type="char")
WORD = tokenizer_schema.WordTokenizer(type="word")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def text_data(train: Path | str, **keys: object) -> schema.TextData:
    return schema.TextData.model_validate({"train": str(train), **keys})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def byte_store(path: Path, cache: Path) -> TokenStore:
    return prepare_store(open_source(str(path)), ByteTokenizer(), cache_dir=cache)


def test_a_store_holds_the_text(text_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 5)
    source = open_source(str(text_file))
    done: list[int] = []
    built = prepare_store(source, WordTokenizer(["the", "cat"]), cache_dir=cache, on_progress=done.append)
    assert built.ids.tolist() == [2, 3, 1, 0, 0, 0, 0, 1, 2, 0, 1]
    assert (built.num_tokens, built.num_unknown) == (11, 5)
    assert (built.num_chars, built.num_bytes) == (len(TEXT), len(TEXT.encode()))
    assert built.sha256 == source.measure().sha256
    assert built.path.parent == cache / "stores"
    assert done == sorted(done) and done[-1] == len(TEXT.encode()) and len(done) > 2


def test_a_store_is_mapped_and_read_only(text_file: Path, cache: Path) -> None:
    built = byte_store(text_file, cache)
    assert isinstance(built.ids, np.memmap)
    assert built.ids.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        built.ids[0] = 1


def test_a_stretch_of_text(text_file: Path, cache: Path) -> None:
    source = open_source(str(text_file))
    built = prepare_store(source, ByteTokenizer(), cache_dir=cache, start=4, end=17)
    assert ByteTokenizer().decode(built.ids.tolist()) == TEXT[4:17]
    assert (built.num_chars, built.num_bytes) == (13, 14)


def test_a_store_is_built_once(text_file: Path, cache: Path) -> None:
    first = byte_store(text_file, cache)
    done: list[int] = []
    source = open_source(str(text_file))
    second = prepare_store(source, ByteTokenizer(), cache_dir=cache, on_progress=done.append)
    assert (second.path, done) == (first.path, [])


def test_text_range_and_tokenizer_make_the_key(text_file: Path, cache: Path, tmp_path: Path) -> None:
    source = open_source(str(text_file))
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text_file.read_bytes())
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("cat", "dog"))
    keys = [
        prepare_store(source, ByteTokenizer(), cache_dir=cache).path,
        prepare_store(source, ByteTokenizer(), cache_dir=cache, start=1).path,
        prepare_store(source, ByteTokenizer(), cache_dir=cache, end=9).path,
        prepare_store(source, CharTokenizer("ab"), cache_dir=cache).path,
        prepare_store(source, CharTokenizer("abc"), cache_dir=cache).path,
        byte_store(other, cache).path,
    ]
    assert len(set(keys)) == 6
    assert byte_store(copy, cache).path == keys[0]


@pytest.mark.parametrize(
    "damage", ["short", "long", "no ids", "no meta", "bad meta", "negative", "wrong dtype", "list"]
)
def test_a_damaged_store_is_built_again(damage: str, text_file: Path, cache: Path) -> None:
    path = byte_store(text_file, cache).path
    ids, meta = path / "ids.bin", path / "meta.json"
    good = json.loads(meta.read_bytes())
    if damage == "short":
        ids.write_bytes(ids.read_bytes()[:-1])
    elif damage == "long":
        ids.write_bytes(ids.read_bytes() + b"x")
    elif damage == "no ids":
        ids.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "bad meta":
        meta.write_text("{")
    elif damage == "negative":
        meta.write_text(json.dumps({**good, "num_tokens": -1}))
    elif damage == "wrong dtype":
        meta.write_text(json.dumps({**good, "dtype": "object"}))
    else:
        meta.write_text("[]")
    rebuilt = byte_store(text_file, cache)
    assert bytes(rebuilt.ids.tolist()) == ids.read_bytes() == TEXT.encode()
    assert json.loads(meta.read_bytes()) == good
    assert names(cache / "stores") == [path.name]


def test_many_builders_at_once_agree(text_file: Path, cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: byte_store(text_file, cache), range(8)))
    assert {bytes(built.ids.tolist()) for built in stores} == {TEXT.encode()}
    assert names(cache / "stores") == [stores[0].path.name]


def test_the_builder_that_comes_second_takes_the_first_ones_store(
    text_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    # Where there are locks, the second one waits.
    monkeypatch.setattr("fcntl.flock", no_locks)
    build = store._build
    first: list[TokenStore] = []

    def overtaken(*args: object) -> None:
        build(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(store, "_build", build)
        first.append(byte_store(text_file, cache))

    monkeypatch.setattr(store, "_build", overtaken)
    second = byte_store(text_file, cache)
    inode = first[0].path.stat().st_ino
    assert second.path.stat().st_ino == inode
    # The folder that nobody could hold is removed when it is a day old.
    assert names(cache / "stores") == [f".{second.path.name}.tmp", second.path.name]


def test_bad_text_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"fine\n" * 3)
    source = open_source(str(path))
    stats = source.measure()
    path.write_bytes(b"fine\n" * 2 + b"b\xe9d\n")
    with pytest.raises(DataError, match=r"bad\.txt:3: not UTF-8"):
        prepare_store(source, ByteTokenizer(), cache_dir=cache, stats=stats)
    path.write_bytes(b"fine\n")
    with pytest.raises(DataError, match="changed while it was being read"):
        prepare_store(source, ByteTokenizer(), cache_dir=cache, stats=stats)
    assert names(cache / "stores") == []


def test_a_full_disk_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_bytes(b"x" * 3_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(DataError, match="cannot write the cache: File too large") as caught:
            byte_store(path, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.hint is not None and "SEQKIT_CACHE_DIR" in caught.value.hint
    assert names(cache / "stores") == []


def test_a_cache_that_cannot_be_made(text_file: Path) -> None:
    with pytest.raises(DataError, match="cannot write the cache"):
        byte_store(text_file, text_file / "cache")
    with pytest.raises(DataError, match="cannot write the cache"):
        prepare_text_corpora(text_data(text_file), CHAR, text_file / "cache")


def test_what_a_killed_builder_left_is_removed_after_a_day(text_file: Path, cache: Path) -> None:
    for name, age in ((".old.1.tmp", 90_000), (".young.2.tmp", 60)):
        building = cache / "stores" / name
        building.mkdir(parents=True)
        (building / "ids.bin").write_bytes(b"half")
        then = (building.stat().st_mtime - age,) * 2
        os.utime(building / "ids.bin", then)
        os.utime(building, then)
    path = byte_store(text_file, cache).path
    assert names(cache / "stores") == [".young.2.tmp", path.name]


def test_a_text_without_tokens(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "blank.txt"
    path.write_text("  \t ")
    with pytest.raises(DataError, match=r"blank\.txt: holds no token"):
        prepare_store(open_source(str(path)), WordTokenizer(["a"]), cache_dir=cache)
    assert names(cache / "stores") == []


# corpora


def test_the_last_fraction_of_the_characters_is_held_out(text_file: Path, cache: Path) -> None:
    corpora = prepare_text_corpora(text_data(text_file, valid_fraction=0.3), CHAR, cache)
    split = int(len(TEXT) * 0.7)
    decode = corpora.tokenizer.decode
    assert decode(corpora.train.ids.tolist()) == TEXT[:split]
    assert decode(corpora.valid.ids.tolist()) == TEXT[split:]
    assert corpora.train_texts[0].stats == corpora.valid_text.stats == open_source(str(text_file)).measure()


def test_tiny_shakespeare_is_divided_as_nanogpt_divides_it(data_dir: Path, cache: Path) -> None:
    # nanoGPT, data/shakespeare_char/prepare.py: 65 characters, 1,003,854 and 111,540 tokens.
    corpora = prepare_text_corpora(text_data(data_dir / "tinyshakespeare" / "input.txt"), CHAR, cache)
    assert (corpora.train.num_tokens, corpora.valid.num_tokens) == (1_003_854, 111_540)
    assert corpora.tokenizer.vocab_size == 65 + 16


def test_the_tokenizer_sees_the_training_part_only(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abcabcabcX")
    corpora = prepare_text_corpora(text_data(path), CHAR, cache)
    assert isinstance(corpora.tokenizer, CharTokenizer)
    assert corpora.tokenizer.characters == "abc"
    assert corpora.valid.num_tokens == 2
    assert corpora.valid.num_chars == 1


@pytest.mark.parametrize(
    ("fraction", "train"),
    [
        (0.95, "the cat\n"),
        # int(29 · 0.724) = 20: in the middle of line 2; 21 begins line 3 already.
        (0.276, "the cat\nsat on é mat\n"),
        (1 - 21.5 / 29, "the cat\nsat on é mat\n"),
    ],
)
def test_words_are_divided_at_a_line(fraction: float, train: str, text_file: Path, cache: Path) -> None:
    data = text_data(text_file, valid_fraction=fraction)
    corpora = prepare_text_corpora(data, WORD, cache)
    assert corpora.train.num_chars == len(train)
    assert corpora.train.num_chars + corpora.valid.num_chars == len(TEXT)
    assert corpora.train.ids[-1] == 1


@pytest.mark.parametrize(
    ("fraction", "config", "missing"), [(0.01, CHAR, None), (0.1, WORD, "validation"), (0.99, CHAR, "training")]
)
def test_a_division_that_leaves_nothing(
    fraction: float, config: tokenizer_schema.TokenizerConfig, missing: str | None, text_file: Path, cache: Path
) -> None:
    data = text_data(text_file, valid_fraction=fraction)
    if missing is None:
        assert prepare_text_corpora(data, config, cache).valid.num_chars == 1
        return
    with pytest.raises(DataError, match=rf"text\.txt: valid_fraction {fraction} .* for {missing}"):
        prepare_text_corpora(data, config, cache)


def test_a_validation_text_of_its_own(text_file: Path, cache: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid.txt"
    valid.write_text("the bat")
    corpora = prepare_text_corpora(text_data(text_file, valid=str(valid)), WORD, cache)
    assert corpora.train.num_chars == len(TEXT)
    assert (corpora.valid.num_tokens, corpora.valid.num_unknown) == (2, 1)
    assert corpora.valid_text.stats.num_chars == 7


def test_a_fitted_tokenizer_is_used_as_it_is(text_file: Path, cache: Path) -> None:
    tokenizer = CharTokenizer("\n abc")
    corpora = prepare_text_corpora(text_data(text_file), tokenizer, cache)
    assert corpora.tokenizer is tokenizer
    assert not (cache / "tokenizers").exists()


def test_the_fitted_tokenizer_is_kept(text_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = text_data(text_file, valid_fraction=0.5)
    first = prepare_text_corpora(data, WORD, cache).tokenizer
    limited = tokenizer_schema.WordTokenizer(type="word", max_size=1)
    assert prepare_text_corpora(data, limited, cache).tokenizer.vocab_size == 3
    kept = sorted((cache / "tokenizers").iterdir())
    assert len(kept) == 2
    monkeypatch.setattr(corpora, "fit_tokenizer", lambda *_: pytest.fail("fitted again"))
    assert prepare_text_corpora(data, WORD, cache).tokenizer.to_json() == first.to_json()
    monkeypatch.undo()
    for path in kept:
        path.write_text("{")
    assert prepare_text_corpora(data, WORD, cache).tokenizer.to_json() == first.to_json()


def test_prepare_split(text_file: Path, cache: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.txt"
    test.write_text("a cat\n")
    data = text_data(text_file, valid_fraction=0.95, test=str(test))
    corpora = prepare_text_corpora(data, WORD, cache)
    tokenizer = corpora.tokenizer
    assert prepare_split(data, "train", tokenizer, cache).path == corpora.train.path
    assert prepare_split(data, "valid", tokenizer, cache).path == corpora.valid.path
    assert prepare_split(data, "test", tokenizer, cache).ids.tolist() == tokenizer.encode("a cat\n")
    with pytest.raises(DataError, match="no test text"):
        prepare_split(text_data(text_file), "test", tokenizer, cache)
    only_valid = text_data(tmp_path / "gone.txt", valid=str(test))
    assert prepare_split(only_valid, "valid", tokenizer, cache).num_tokens == 3


FLAT_MEMORY = """
    import resource, sys
    from pathlib import Path
    from seqkit.data.readers import open_source
    from seqkit.data.corpora import prepare_text_corpora
    from seqkit.recipe import schema, tokenizer_schema

    path, cache, kind = sys.argv[1:]
    types = {"char": tokenizer_schema.CharTokenizer, "word": tokenizer_schema.WordTokenizer}
    config = types[kind](type=kind)
    # The same work on a small text first, so that only what grows with the text is counted.
    small = Path(path + ".small")
    small.write_bytes(Path(path).open("rb").read(5_000_000))
    prepare_text_corpora(schema.TextData(train=str(small)), config, Path(cache))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    corpora = prepare_text_corpora(schema.TextData(train=path), config, Path(cache))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024, corpora.train.num_chars + corpora.valid.num_chars)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "word"])
def test_memory_does_not_grow_with_the_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    size = 200_000_000 if kind == "char" else 50_000_000
    # One line for characters; a few lines for words, which are divided at lines.
    piece = ("a long line of é and € " * 5_000 + ("" if kind == "char" else "\n")).encode()
    with path.open("wb") as file:
        for _ in range(size // len(piece)):
            file.write(piece)
    command = [sys.executable, "-c", textwrap.dedent(FLAT_MEMORY), str(path), str(tmp_path / "cache"), kind]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown_mib, num_chars = map(int, output.split())
    assert num_chars == size // len(piece) * len(piece.decode())
    assert grown_mib < 150
