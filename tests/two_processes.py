"""Trainings in two processes, forked as ``torchrun`` would start them, without the seconds that torch takes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline import Done, Forked, ForkServer
from free_ports import reserve_port

from seqkit.runs.metrics_log import read_metrics
from seqkit.training.processes import loopback_interface

TIMED = {"time", "elapsed", "seconds", "tokens_per_second"}


@dataclass(frozen=True)
class Pair:
    """Two processes of one training."""

    leader: Forked
    follower: Forked

    def wait(self) -> tuple[Done, Done]:
        """What both came to."""
        leader = self.leader.wait()
        # A follower that goes on has its reason in what became of its leader.
        return leader, self.follower.wait(told=f"; its leader: {leader}")


def start_pair(fork_server: ForkServer, *words: object, folder: Path, env: dict[str, str] | None = None) -> Pair:
    """Start a training in two processes.

    Args:
        fork_server: Forks them.
        *words: The command line.
        folder: Where they run.
        env: More of their environment.
    """
    shared = {**meeting_at(reserve_port()), **(env or {})}
    leader, follower = (
        fork_server.start(*words, folder=folder, env={**shared, "RANK": str(rank)}) for rank in range(2)
    )
    return Pair(leader, follower)


def meeting_at(port: int) -> dict[str, str]:
    """The environment of two processes that meet at a port of this machine, but for their ``RANK``."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return {**place, "GLOO_SOCKET_IFNAME": loopback_interface()}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """A run's reports, without what the clock tells."""
    return [
        {key: value for key, value in row.items() if key not in TIMED} for row in read_metrics(run / "metrics.jsonl")
    ]


def record_of(run: Path) -> dict[str, Any]:
    """A run's record."""
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def child_of(process: Forked) -> int:
    """The one child of a process; Linux only."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def is_alive(pid: int) -> bool:
    """Whether a process runs: it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(pid: int) -> None:
    """As ``kill -9``."""
    os.kill(pid, signal.SIGKILL)
