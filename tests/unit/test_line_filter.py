"""The line contract, without a program around it: blocks, line ends, bad lines, worker processes."""

from __future__ import annotations

import gzip
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkit.cli import line_filter
from seqkit.cli.line_filter import LineFault, LineInput, open_lines, run_filter
from seqkit.errors import DataError, SeqkitError

ODD_LINES = ["", "a\u2028b\u2029c\x85d", "\x00", "tab\tcr\r", "e\u0301 \U0001f469\u200d\U0001f469", "שלום", "\ufeff"]


def upper(text: str, _first_line: int) -> str:
    return text.upper()


def numbered(text: str, first_line: int) -> str:
    """Each line with its number, so that a line that moves or a count that slips is seen."""
    lines = text.split("\n")
    last = lines.pop()
    shown = [f"{number}:{line}\n" for number, line in enumerate(lines, start=first_line)]
    return "".join(shown) + (f"{first_line + len(lines)}:{last}" if last else "")


def expected(data: bytes) -> bytes:
    return numbered(data.decode(), 1).encode()


def filtered(
    folder: Path,
    data: bytes,
    transform: line_filter.Transform = numbered,
    *,
    batch_size: int | None = None,
    workers: int = 1,
) -> bytes:
    (folder / "in").write_bytes(data)
    out = folder / "out"
    run_filter(transform, source=str(folder / "in"), output=str(out), batch_size=batch_size, workers=workers)
    return out.read_bytes()


def from_pieces(pieces: list[bytes], max_lines: int | None = None) -> LineInput:
    """An input that arrives in just these pieces."""
    left = [*pieces, b""]
    return LineInput(lambda _: left.pop(0), descriptor=None, name="pieces", max_lines=max_lines)


@given(st.binary(max_size=40).map(lambda data: data.replace(b"\x01", b"\n")), st.integers(1, 7), st.data())
def test_blocks_are_whole_lines_however_they_arrive(data: bytes, max_lines: int, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    blocks = list(from_pieces([piece for piece in pieces if piece], max_lines))
    assert b"".join(block.data for block in blocks) == data
    assert all(block.data.endswith(b"\n") for block in blocks[:-1])
    assert all(0 < len(block.data.removesuffix(b"\n").split(b"\n")) <= max_lines for block in blocks)
    line = 1
    for block in blocks:
        assert block.first_line == line
        line += block.data.count(b"\n")


@pytest.mark.parametrize("end", ["\n", "", "\n\n"])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_last_line_end_is_kept_as_it_was_given(tmp_path: Path, end: str, batch_size: int | None) -> None:
    data = ("\n".join(ODD_LINES) + end).encode()
    assert filtered(tmp_path, data, batch_size=batch_size) == expected(data)


def test_no_input_gives_no_output(tmp_path: Path) -> None:
    assert filtered(tmp_path, b"") == b""
    assert filtered(tmp_path, b"\n\n") == b"1:\n2:\n"


@pytest.mark.parametrize("block_bytes", [1, 2, 7, 64])
def test_the_size_of_a_block_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(line_filter, "BLOCK_BYTES", block_bytes)
    data = ("\n".join([*ODD_LINES, "x" * 100, *ODD_LINES]) + "\n").encode()
    assert filtered(tmp_path, data) == expected(data)


def test_a_long_line_is_one_line(tmp_path: Path) -> None:
    data = b"short\n" + "né ".encode() * 3_000_000 + b"\nshort"
    began = time.process_time()
    assert filtered(tmp_path, data, upper) == data.decode().upper().encode()
    assert time.process_time() - began < 10


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_filter, "MAX_LINE_BYTES", 1 << 22)
    with pytest.raises(DataError, match=r"in:2: more than 4,194,304 bytes without a line end"):
        filtered(tmp_path, b"a line\n" + bytes(1 << 23))


@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_bad_bytes_name_the_line_after_all_before_it(tmp_path: Path, batch_size: int | None, workers: int) -> None:
    source, sink = tmp_path / "in", tmp_path / "pipe"
    good = b"".join(b"line %d\n" % number for number in range(1, 3_001))
    source.write_bytes(good + b"caf\xe9\nmore\n")
    os.mkfifo(sink)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(sink.read_bytes()))
    reader.start()
    with pytest.raises(DataError) as caught:
        run_filter(upper, source=str(source), output=str(sink), batch_size=batch_size, workers=workers)
    reader.join()
    assert caught.value.message == f"{source}:3001: not UTF-8: byte 0xe9: invalid continuation byte"
    assert caught.value.line == 3_001 and caught.value.hint is not None and "iconv" in caught.value.hint
    assert read == [good.upper()]


def test_a_line_that_the_transform_cannot_use(tmp_path: Path) -> None:
    def refuse_x(text: str, _first_line: int) -> str:
        for index, line in enumerate(text.split("\n")):
            if line == "x":
                raise LineFault(index, "an x", hint="no x, please")
        return text

    (tmp_path / "out").write_text("old")
    for batch_size in (None, 1, 2):
        with pytest.raises(DataError) as caught:
            filtered(tmp_path, b"a\n\nx\nb\xff\n", refuse_x, batch_size=batch_size)
        assert (caught.value.line, caught.value.hint) == (3, "no x, please")
        assert (tmp_path / "out").read_text() == "old"
    assert filtered(tmp_path, b"a\n\ny", refuse_x) == b"a\n\ny"


def test_another_number_of_lines_is_a_bug(tmp_path: Path) -> None:
    for wrong in (lambda text, _: text.replace("\n", "", 1), lambda text, _: text + "\n"):
        with pytest.raises(RuntimeError, match="line ends became"):
            filtered(tmp_path, b"a\nb\n", wrong)


def test_gzip_files_are_read_as_they_are(tmp_path: Path) -> None:
    data = "".join(f"né {number}\n" for number in range(50_000)).encode()
    packed = tmp_path / "text.gz"
    packed.write_bytes(gzip.compress(data, 1))
    for workers in (1, 2):
        run_filter(numbered, source=str(packed), output=str(tmp_path / "out"), workers=workers)
        assert (tmp_path / "out").read_bytes() == expected(data)
    packed.write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        run_filter(upper, source=str(packed), output=str(tmp_path / "out"))


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def feed() -> None:
        with fifo.open("wb", buffering=0) as pipe:
            for piece in (b"one\nt", b"wo\n", b"three"):
                time.sleep(0.05)
                pipe.write(piece)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open_lines(str(fifo)) as lines:
        assert lines.descriptor is not None
        os.set_blocking(lines.descriptor, False)
        assert [block.data for block in lines] == [b"one\n", b"two\n", b"three"]
    feeder.join()


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("batch_size", [None, 1, 100])
def test_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, batch_size: int | None
) -> None:
    monkeypatch.setattr(line_filter, "BLOCK_BYTES", 1000)
    data = "".join(f"{'né ' * (number * 37 % 101)}\n" for number in range(600)).encode() + b"last"
    assert filtered(tmp_path, data, batch_size=batch_size, workers=workers) == expected(data)
    assert filtered(tmp_path, b"one", workers=workers) == b"1:one"


def slow_at_first(text: str, first_line: int) -> str:
    if first_line < 100:
        time.sleep(0.1)
    return numbered(text, first_line)


def test_answers_come_in_order_even_if_the_first_takes_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_filter, "BLOCK_BYTES", 500)
    data = b"".join(b"line %d\n" % number for number in range(3000))
    assert filtered(tmp_path, data, slow_at_first, workers=3) == expected(data)


def die(text: str, first_line: int) -> str:
    if first_line > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return text


def fail(text: str, first_line: int) -> str:
    if first_line > 1:
        raise ZeroDivisionError("a bug")
    return text


def children() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


@pytest.mark.parametrize(
    ("transform", "error", "words"),
    [
        (die, SeqkitError, "a worker process ended by SIGKILL at the lines from"),
        (fail, RuntimeError, "ZeroDivisionError: a bug"),
    ],
)
def test_a_worker_that_dies_is_an_error_and_leaves_nobody_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transform: Callable[[str, int], str],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(line_filter, "BLOCK_BYTES", 100)
    before = children()
    with pytest.raises(error, match=words):
        filtered(tmp_path, b"some words\n" * 1000, transform, workers=2)
    assert not (tmp_path / "out").exists()
    assert children() == before


def test_as_many_processes_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_filter, "BLOCK_BYTES", 100)

    def with_process(text: str, _first_line: int) -> str:
        time.sleep(0.001)
        return text.replace("x", str(os.getpid()))

    def processes(data: bytes, workers: int) -> int:
        return len(set(filtered(tmp_path, data, with_process, workers=workers).split()))

    data = b"x\n" * 5_000
    assert processes(data, 1) == 1
    assert processes(b"x\n" * 10, 3) == 1, "one block is answered here"
    assert processes(data, 3) == 4, "this one and three more"


def giving(answer: bytes) -> Callable[[bytes, int], bytes]:
    """A transform that answers every block alike."""

    def transform(lines: bytes, first_line: int) -> bytes:
        return answer

    return transform


def test_an_empty_answer_to_a_last_line_without_an_end() -> None:
    block = line_filter.Block(b"a\nb\nc", 1)
    # The last line's answer is empty; the last line got an end, as JSON does.
    for answer in (b"A\nB\n", b"A\nB\nC", b"A\nB\nC\n"):
        assert line_filter.answer_block(block, giving(answer)).data == answer
    for answer in (b"A\nB", b"A\nB\n\nC", b"A\nB\nC\n\n"):
        with pytest.raises(RuntimeError, match="2 line ends became"):
            line_filter.answer_block(block, giving(answer))
