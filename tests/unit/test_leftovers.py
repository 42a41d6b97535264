"""Temporary neighbours of what is written: a dead writer's are removed, a living one's never."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seqkit import leftovers
from seqkit.atomic import atomic_folder, atomic_write

BYSTANDERS = [
    ".out.abc123.tmp",
    ".out.seqkit-0123abcd.bak",
    ".other.seqkit-0123abcd.tmp",
    "out.seqkit-0123abcd.tmp",
    ".out",
]
"""Names of others beside a file ``out``, among them what a program that follows the same habit leaves."""


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def write(path: Path, content: bytes = b"new") -> None:
    with atomic_write(path) as file:
        file.write(content)


def make(path: Path, content: str = "new") -> None:
    with atomic_folder(path) as folder:
        (folder / "file").write_text(content)


class Writer:
    """Another process, amid writing."""

    def __init__(self, start: Callable[[], Any]) -> None:
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                with start() as made:
                    if isinstance(made, Path):
                        (made / "file").write_text("half")
                    os.write(told, b"x")
                    signal.pause()
            finally:
                os._exit(1)
        os.close(told)
        assert os.read(ready, 1) == b"x"
        os.close(ready)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def writer() -> Iterator[Callable[[Callable[[], Any]], Writer]]:
    """Starts other processes, and sees to their end."""
    started: list[Writer] = []

    def start(what: Callable[[], Any]) -> Writer:
        started.append(Writer(what))
        return started[-1]

    yield start
    for one in started:
        try:
            one.kill()
        except (ProcessLookupError, ChildProcessError):
            continue


@pytest.mark.parametrize(("begin", "again"), [(atomic_write, write), (atomic_folder, make)], ids=["file", "folder"])
def test_what_a_killed_writer_leaves_goes_with_the_next(
    tmp_path: Path,
    writer: Callable[[Callable[[], Any]], Writer],
    begin: Callable[[Path], Any],
    again: Callable[[Path], None],
) -> None:
    for name in BYSTANDERS:
        (tmp_path / name).write_text("of somebody else")
    path = tmp_path / "out"
    dead, alive = writer(lambda: begin(path)), writer(lambda: begin(path))
    assert len(names(tmp_path)) == len(BYSTANDERS) + 2
    dead.kill()
    again(path)
    (left,) = set(names(tmp_path)) - {*BYSTANDERS, "out"}
    assert left.startswith(".out.seqkit-") and left.endswith(".tmp")
    alive.kill()
    again(path)
    assert names(tmp_path) == sorted([*BYSTANDERS, "out"])


def test_a_scratch_folder_is_private_and_goes_with_its_block_or_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[[Callable[[], Any]], Writer]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive = (writer(lambda: leftovers.scratch_folder("try")) for _ in range(2))
    other = writer(lambda: leftovers.scratch_folder("other"))
    before = names(tmp_path)
    assert len(before) == 3 and all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700 for name in before)
    dead.kill()
    other.kill()
    with leftovers.scratch_folder("try") as mine:
        (mine / "file").touch()
        left = names(tmp_path)
        assert len(left) == 3 and sum(".seqkit-other." in name for name in left) == 1
    alive.kill()
    assert len(names(tmp_path)) == 2 and not mine.exists()


def test_a_link_in_their_place_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    target = tmp_path / "folder"
    target.mkdir()
    for number, source in enumerate([precious, precious / "file"]):
        (target / f".out.seqkit-0123abc{number}.tmp").symlink_to(source)
    write(target / "out")
    assert (precious / "file").read_text() == "kept"


@pytest.mark.parametrize("write_it", [write, make])
def test_without_locks_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_it: Callable[[Path], None]
) -> None:
    left = tmp_path / ".out.seqkit-0123abcd.tmp"
    left.write_text("perhaps at work")

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        write_it(tmp_path / "out")
    assert names(tmp_path) == sorted([left.name, "out"])
    write_it(tmp_path / "out2")
    assert left.exists()
    write_it(tmp_path / "out")
    assert not left.exists()


@pytest.mark.parametrize("make_one", [leftovers.make_file_beside, leftovers.make_folder_beside])
def test_taken_for_a_leftover_before_it_was_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_one: Callable[[Path], tuple[int, Path]]
) -> None:
    real = fcntl.flock
    path = tmp_path / "out"
    num_locks = 0

    def late(handle: int, operation: int) -> None:
        nonlocal num_locks
        num_locks += 1
        if num_locks == 1:
            leftovers.remove_leftovers(path)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    handle, made = make_one(path)
    os.close(handle)
    # Removed by the second call, inside the first; then another was made and locked.
    assert num_locks == 3 and names(tmp_path) == [made.name]


def test_many_writers_of_one_name_never_disturb_each_other(tmp_path: Path) -> None:
    faults: list[BaseException] = []
    make(tmp_path / "folder", "0")

    def repeat(number: int) -> None:
        try:
            for _ in range(60):
                write(tmp_path / "file", b"%d" % number * 100)
                make(tmp_path / "folder", str(number))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(set((tmp_path / "file").read_bytes())) == 1 and (tmp_path / "folder" / "file").read_text() in "0123"
    assert names(tmp_path) == ["file", "folder"]
