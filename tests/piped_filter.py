"""Filters between two pipes whose other ends a test holds, so that it decides how fast bytes come and go."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from commandline import Forked, ForkServer

_SET_PIPE_SIZE = 1031
"""``F_SETPIPE_SZ`` of Linux, which Python 3.11 names only where it was built on a system that has it."""


class PipedFilters:
    """One filter, or several of which each reads what the one before it writes.

    Args:
        fork_server: Starts them.
        commands: The command line of each.
        folder: Where they run; their pipes are in it.
        pipe_bytes: What the pipe at the end holds; None: what the system gives.
    """

    def __init__(
        self,
        fork_server: ForkServer,
        commands: Sequence[Sequence[object]],
        folder: Path,
        *,
        pipe_bytes: int | None = None,
    ) -> None:
        pipes = [folder / f"pipe{number}" for number in range(len(commands) + 1)]
        for pipe in pipes:
            os.mkfifo(pipe)
        self.processes: list[Forked] = [
            fork_server.start(*words, folder=folder, stdin=pipes[number], stdout=pipes[number + 1])
            for number, words in enumerate(commands)
        ]
        self.num_fed = 0
        """Bytes that the first one's pipe has taken."""
        self._feed: int | None = os.open(pipes[0], os.O_WRONLY)
        self._answers: int | None = os.open(pipes[-1], os.O_RDONLY)
        if pipe_bytes is not None:
            fcntl.fcntl(self._answers, _SET_PIPE_SIZE, pipe_bytes)
        self._feeder: threading.Thread | None = None

    def feed(self, data: bytes) -> None:
        """Give bytes to the first one; waits while its pipe is full."""
        assert self._feed is not None
        left = memoryview(data)
        while left:
            num_bytes = os.write(self._feed, left)
            self.num_fed += num_bytes
            left = left[num_bytes:]

    def feed_from(self, blocks: Iterable[bytes]) -> None:
        """Give all of it in a thread, as fast as it is taken, and then no more."""

        def work() -> None:
            try:
                for block in blocks:
                    self.feed(block)
            except BrokenPipeError:
                # The test sees how the filter ended.
                pass
            self.end_input()

        self._feeder = threading.Thread(target=work, daemon=True)
        self._feeder.start()

    def end_input(self) -> None:
        """Tell the first one that nothing more comes."""
        assert self._feed is not None
        os.close(self._feed)
        self._feed = None

    def read(self, num_bytes: int = 1 << 16) -> bytes:
        """What has come out, at most so much; waits for it; empty at the end."""
        assert self._answers is not None
        return os.read(self._answers, num_bytes)

    def leave(self) -> None:
        """Read no more, as ``head`` does when it has enough."""
        assert self._answers is not None
        os.close(self._answers)
        self._answers = None

    def peak_kilobytes(self) -> int:
        """The most memory that each process has had, added up over all of them that live, workers too."""
        return sum(_peak(pid) for process in self.processes for pid in family(process.pid))

    def cpu_seconds(self) -> float:
        """Processor time that all that live have used."""
        ticks = 0
        for process in self.processes:
            for pid in family(process.pid):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Let go of the pipes, once the processes have ended."""
        if self._feeder is not None:
            self._feeder.join(10)
        if self._feed is not None:
            self.end_input()
        if self._answers is not None:
            self.leave()


def family(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    try:
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [pid, *(one for task in tasks for child in task.split() for one in family(int(child)))]


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().split("\n")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
