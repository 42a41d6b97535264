"""Locks: one holder, nothing changed by the loser, free the moment the holder dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seqkit.errors import LockedError, UsageError
from seqkit.runs.lock import file_lock, is_run_locked, run_lock

_HOLDER = """
import sys, time
from pathlib import Path
from seqkit.runs.lock import file_lock
with file_lock(Path(sys.argv[1]), 0):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process_holds(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_the_second_is_turned_away_and_a_kill_frees(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with another_process_holds(tmp_path / ".lock") as holder:
        before = sorted((item.name, item.stat().st_mtime_ns) for item in tmp_path.iterdir())
        assert is_run_locked(tmp_path)
        with pytest.raises(LockedError, match=r"another process is working .*\.lock") as caught, run_lock(tmp_path):
            pytest.fail("two holders")
        assert caught.value.exit_code == 75
        assert sorted((item.name, item.stat().st_mtime_ns) for item in tmp_path.iterdir()) == before
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not is_run_locked(tmp_path)
        with run_lock(tmp_path):
            assert is_run_locked(tmp_path)
    assert not is_run_locked(tmp_path)


def test_waiting_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "nightly.lock"
    with another_process_holds(path) as holder:
        threading.Timer(0.3, holder.kill).start()
        with file_lock(path, 20):
            assert holder.wait() == -signal.SIGKILL


def test_waiting_ends(tmp_path: Path) -> None:
    path = tmp_path / "nightly.lock"
    with another_process_holds(path):
        started = time.monotonic()
        with (
            pytest.raises(LockedError, match=r"another process holds this lock after 0\.2 s"),
            file_lock(path, 0.2),
        ):
            pytest.fail("two holders")
        assert 0.2 <= time.monotonic() - started < 5


def test_asking_makes_no_file(tmp_path: Path) -> None:
    assert not is_run_locked(tmp_path)
    assert not list(tmp_path.iterdir())


def test_asking_turns_no_start_away(tmp_path: Path) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_run_locked(tmp_path)
            time.sleep(0.002)

    with run_lock(tmp_path):
        pass
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(30):
            with run_lock(tmp_path):
                pass
    finally:
        stop.set()
        asking.join()


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        _ = 1 / 0
    assert not is_run_locked(tmp_path)


def test_a_place_where_no_lock_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "lock", tmp_path / "missing" / "lock"):
        with pytest.raises(UsageError, match="cannot lock"), file_lock(path, 0):
            pytest.fail("locked")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
