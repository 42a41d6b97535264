"""The processes that train one model together: which one this is, and starting, watching and ending the others.

``torchrun`` starts all of them. ``--devices N`` starts one, the leader, and that one starts the others on the same
machine here. What each tells the others is in :mod:`seqkit.training.meeting`; this module imports no torch, which
takes the leader's followers seconds that run beside its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqkit.errors import UsageError
from seqkit.leftovers import make_scratch_folder

_VARIABLE = "SEQKIT_FOLLOWER"
"""How a leader tells a process that it starts which one it is: a JSON object."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_ORPHANED = 1
"""What a follower exits with whose leader is gone; nobody is left to read it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of the processes this one is."""

    rank: int
    """0 is the leader: it alone decides, writes and speaks."""
    size: int
    """How many there are, at least 2."""
    local_rank: int
    """The number of this one on its machine."""
    local_size: int
    """How many its machine has."""
    machine: int
    """The number of its machine."""
    attempt: int = 0
    """How often ``torchrun`` has started them anew."""
    store: Path | None = None
    """The file in which the processes of ``--devices`` meet; None: they meet as ``torchrun`` has arranged."""

    @property
    def is_leader(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0


def place_from_environment() -> Place | None:
    """Which of several processes this one was started as; None if it is alone.

    A follower of ``--devices`` ends from here on as soon as its leader is gone, however that ended.

    Raises:
        UsageError: The variables that ``torchrun`` sets are not numbers that make sense.
    """
    told = os.environ.pop(_VARIABLE, None)
    if told is not None:
        facts = json.loads(told)
        _end_with_leader(int(facts["lifeline"]))
        rank, size = int(facts["rank"]), int(facts["size"])
        return Place(rank=rank, size=size, local_rank=rank, local_size=size, machine=0, store=Path(facts["store"]))
    if any(name not in os.environ for name in _TORCHRUN):
        return None
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    local_size = _number("LOCAL_WORLD_SIZE", size)
    local_rank = _number("LOCAL_RANK", rank % max(1, local_size))
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        found = f"RANK {rank} of WORLD_SIZE {size}, LOCAL_RANK {local_rank} of LOCAL_WORLD_SIZE {local_size}"
        raise UsageError(f"the environment says {found}, which cannot be", hint="start the processes with torchrun")
    if size == 1:
        return None
    port = _number("MASTER_PORT", 0)
    if not 0 < port < 1 << 16:
        raise UsageError(f"the environment says MASTER_PORT {port}, which is no port", hint="1 to 65535")
    machine = _number("GROUP_RANK", rank // local_size)
    attempt = _number("TORCHELASTIC_RESTART_COUNT", 0)
    return Place(rank=rank, size=size, local_rank=local_rank, local_size=local_size, machine=machine, attempt=attempt)


class Followers:
    """Processes on this machine that the leader starts, watches and ends.

    Args:
        size: How many processes there are, the leader counted.
        words: The words of the command line that makes a process a follower.
    """

    def __init__(self, size: int, words: Sequence[str]) -> None:
        self.size = size
        self._words = words
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lifeline: int | None = None
        self._folder: Path | None = None
        self._held: int | None = None
        self._is_over = threading.Event()

    def start(self) -> Place:
        """Start them all; returns the leader's own place among them."""
        self._held, self._folder = make_scratch_folder("devices")
        store = self._folder / "meeting"
        # A pipe that nothing is ever written to: when this process ends, however, its readers see the end of file.
        theirs, self._lifeline = os.pipe()
        environment = dict(os.environ)
        # One machine: nothing may listen on its network.
        environment.setdefault("GLOO_SOCKET_IFNAME", loopback_interface())
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback_interface())
        try:
            for rank in range(1, self.size):
                facts = {"rank": rank, "size": self.size, "store": str(store), "lifeline": theirs}
                self._processes[rank] = subprocess.Popen(
                    [sys.executable, "-m", "seqkit", *self._words],
                    env={**environment, _VARIABLE: json.dumps(facts)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs],
                    # A Ctrl-C in the terminal is for the leader alone, which stops all of them after the step.
                    start_new_session=True,
                )
        finally:
            os.close(theirs)
        return Place(rank=0, size=self.size, local_rank=0, local_size=self.size, machine=0, store=store)

    def failure(self) -> str | None:
        """Which process has ended before its time, and how, in words; None if all are there."""
        for rank, process in self._processes.items():
            code = process.poll()
            if code is not None:
                how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} of {self.size} {how}"
        return None

    def watch(self, on_failure: Callable[[str], None], *, grace_s: float, every_s: float = 0.2) -> None:
        """Have a thread call ``on_failure`` if a process ends and this one does not notice by itself.

        Collectives over the CPU's network fail at once when a peer is gone; those of a GPU may wait for minutes in a
        place that no signal reaches.

        Args:
            on_failure: Told what happened, in the other thread.
            grace_s: Seconds that the main thread has to call :meth:`end` first.
            every_s: Seconds between two looks.
        """

        def look() -> None:
            while not self._is_over.wait(every_s):
                found = self.failure()
                if found is not None and not self._is_over.wait(grace_s):
                    on_failure(found)
                    return

        threading.Thread(target=look, name="watch-followers", daemon=True).start()

    def expect_end(self) -> None:
        """From now on an ended process is no failure."""
        self._is_over.set()

    def end(self, *, patience_s: float) -> None:
        """See to it that none is left.

        Args:
            patience_s: Seconds that they have to end by themselves.
        """
        self.expect_end()
        _wait_for(self._processes.values(), patience_s)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
            _wait_for(self._processes.values(), 2.0)
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._held is not None:
            os.close(self._held)
            self._held = None


def loopback_interface() -> str:
    """The network interface over which a machine talks to itself only."""
    return "lo0" if sys.platform == "darwin" else "lo"


def _wait_for(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return


def _end_with_leader(lifeline: int) -> None:
    """End this process when the leader's end of a pipe is closed, even while the main thread waits for a peer."""

    def wait() -> None:
        os.read(lifeline, 1)
        os._exit(_ORPHANED)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"the environment variable {name} is {text!r}, not a number", hint="start the processes with torchrun"
        ) from None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
