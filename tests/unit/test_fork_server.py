"""The tests' own fork server: what it started ends with a test, and with the tests however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import commandline
import pytest
from commandline import ForkServer, wait_until

_TESTS_THAT_HANG = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from commandline import ForkServer

server = ForkServer()
folder = Path(sys.argv[2])
process = server.start("bpe", "learn", folder=folder, stdin=folder / "fifo")
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe that nobody writes to: who opens it waits for ever."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_what_a_test_left_running_is_killed(fork_server: ForkServer, fifo: Path, tmp_path: Path) -> None:
    left = [fork_server.start("bpe", "learn", folder=tmp_path, stdin=fifo) for _ in range(3)]
    assert all(process.is_running() for process in left)
    fork_server.kill_all()
    assert [process.wait_for_code() for process in left] == [-signal.SIGKILL] * 3
    assert fork_server.start("--version", folder=tmp_path).wait().code == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process when its parent ends")
def test_killed_tests_leave_nobody_behind(fifo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TESTS_THAT_HANG, str(Path(commandline.__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        tests.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of what the killed tests had started")
