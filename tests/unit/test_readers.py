"""Readers: exact text whatever the cuts between blocks, and one clear line for whatever cannot be read."""

from __future__ import annotations

import doctest
import gzip
import hashlib
import io
import os
import stat
from pathlib import Path

import pytest

from seqkit.data import readers
from seqkit.data.readers import TextSource, iter_lines, lines_of, open_source
from seqkit.errors import DataError, MissingDataError

TEXT = "one\r\ntwo\u2028é€😀\x85\n\n\ufefflast"


@pytest.fixture(params=[1, 2, 3, 5, 1 << 20])
def any_block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", request.param)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def read(source: TextSource) -> str:
    return "".join(source.blocks())


def test_examples_in_docstrings() -> None:
    failed, attempted = doctest.testmod(readers)
    assert attempted and not failed


@pytest.mark.usefixtures("any_block_size")
def test_text_comes_out_as_it_went_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeff" + TEXT)
    assert read(open_source(str(path))) == "\ufeff" + TEXT


@pytest.mark.usefixtures("any_block_size")
def test_every_slice(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1", TEXT[:7]), write(tmp_path / "2", TEXT[7:])
    source = open_source([str(one), str(two)])
    for start in range(len(TEXT) + 2):
        assert "".join(source.blocks(start)) == TEXT[start:]
        for end in range(len(TEXT) + 2):
            assert "".join(source.blocks(start, end)) == TEXT[start:end]


@pytest.mark.usefixtures("any_block_size")
def test_measure(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXT)
    stats = open_source(str(path)).measure()
    assert (stats.num_chars, stats.num_bytes) == (len(TEXT), path.stat().st_size)
    assert stats.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("any_block_size")
def test_gzip_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT[:5].encode()) + gzip.compress(TEXT[5:].encode()))
    assert read(open_source(str(path))) == TEXT


def test_blocks_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x" * 2_500_000)
    assert [len(block) for block in open_source(str(path)).blocks()] == [1 << 20, 1 << 20, 402_848]


def test_a_list_joins_as_cat_does(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / name, text)) for name, text in (("b", "no newline"), ("a", ""), ("c", " here\n"))]
    source = open_source([*paths, "builtin:hello"])
    assert read(source) == "no newline here\nhello"
    assert source.name == ", ".join([*paths, "builtin:hello"])


def test_glob_is_sorted_and_skips_folders_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "c.txt").mkdir()
    for name, text in (("b.txt", "2"), ("a.txt", "1"), ("B.txt", "0"), (".h.txt", "hidden"), ("d.md", "other")):
        write(tmp_path / name, text)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep" / "er" / "e.txt", "3")
    assert read(open_source(f"{tmp_path}/*.txt")) == "012"
    assert read(open_source(f"{tmp_path}/**/*.txt")) == "0123"


def test_a_file_of_that_name_wins_over_a_glob(tmp_path: Path) -> None:
    write(tmp_path / "a1.txt", "glob")
    assert read(open_source(f"{tmp_path}/a[12].txt")) == "glob"
    write(tmp_path / "a[12].txt", "literal")
    assert read(open_source(f"{tmp_path}/a[12].txt")) == "literal"


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.txt", "at home")
    assert read(open_source("~/a.txt")) == "at home"
    assert read(open_source("~/*.txt")) == "at home"


def test_catalog(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQKIT_DATA_DIR", str(data_dir))
    assert open_source("catalog:tinyshakespeare").measure().num_chars == 1_115_394


@pytest.mark.parametrize("name", ["none.txt", "none*.txt", "folder/none", "a.txt/b", "with\0zero", "~nobody-at-all/a"])
def test_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "a")
    with pytest.raises(MissingDataError) as caught:
        open_source(name)
    assert caught.value.exit_code == 2
    assert name in str(caught.value)


def test_an_empty_list() -> None:
    with pytest.raises(MissingDataError, match="list of files is empty"):
        open_source([])


@pytest.mark.parametrize(
    ("name", "guess"), [("builtn:hello", "builtin:hello"), ("catalogue:x/train", "catalog:x/train")]
)
def test_a_misspelt_scheme_gets_a_guess(name: str, guess: str) -> None:
    with pytest.raises(MissingDataError) as caught:
        open_source(name)
    assert caught.value.hint == f"did you mean {guess}?"


def test_an_unknown_builtin() -> None:
    with pytest.raises(MissingDataError, match="did you mean builtin:hello"):
        open_source("builtin:helo")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder") as caught:
        open_source(str(tmp_path))
    assert caught.value.exit_code == 1
    assert caught.value.hint is not None and "*.txt" in caught.value.hint


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        open_source(str(tmp_path / "pipe"))


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    with pytest.raises(DataError, match="Permission denied"):
        open_source(str(path))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_empty_files(tmp_path: Path) -> None:
    empty = str(write(tmp_path / "a.txt", ""))
    with pytest.raises(DataError, match=r"a\.txt: is empty"):
        open_source([empty, empty])
    packed = tmp_path / "b.gz"
    packed.write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match=r"b\.gz: is empty"):
        open_source(str(packed)).measure()


@pytest.mark.usefixtures("any_block_size")
@pytest.mark.parametrize(
    ("raw", "line", "byte"),
    [
        (b"\xff", 1, "0xff"),
        (b"ok\nok\nb\xe9d\nok\n", 3, "0xe9"),
        ("é\n€".encode()[:-1], 2, "0xe2"),
        (b"a\xc3", 1, "0xc3"),
        (b"a\r\x0c\nb\n\n\xed\xa0\x80", 4, "0xed"),
        (b"\xc0\x80\n", 1, "0xc0"),
    ],
)
def test_bytes_that_are_no_utf8(raw: bytes, line: int, byte: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        open_source(str(path)).measure()
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}: not UTF-8: byte {byte}")
    with pytest.raises(DataError) as caught:
        list(iter_lines(io.BytesIO(raw), "<stdin>"))
    assert str(caught.value).startswith(f"<stdin>:{line}: not UTF-8: byte {byte}")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "cut header"])
def test_damaged_gzip(damage: str, tmp_path: Path) -> None:
    good = gzip.compress(b"some text, long enough " * 50)
    raw = {
        "cut": good[:-9],
        "flipped": good[:40] + bytes([good[40] ^ 0xFF]) + good[41:],
        "no gzip": b"plain text",
        "cut header": good[:7],
    }[damage]
    path = tmp_path / "a.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError, match="damaged gzip file"):
        open_source(str(path)).measure()


def test_a_file_that_vanishes_after_it_was_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a")
    source = open_source(str(path))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source.measure()


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n\nb", ["a", "", "b"]),
        ("a\u2028b\x85c\rd\r\n\x0ce\n".encode(), ["a\u2028b\x85c\rd\r", "\x0ce"]),
    ],
)
def test_lines_end_at_newlines_only(raw: bytes, lines: list[str]) -> None:
    assert list(iter_lines(io.BytesIO(raw), "<stdin>")) == lines
    text = raw.decode()
    for size in (1, 2, 100):
        assert list(lines_of(text[i : i + size] for i in range(0, len(text), size))) == lines


def test_a_line_is_there_before_the_next_is_read() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as sender:
        lines = iter_lines(stream, "<stdin>")
        sender.write(b"first\nsec")
        assert next(lines) == "first"
        sender.write(b"ond\n")
        assert next(lines) == "second"
