"""Processes that torchrun's variables make one training, where one does not come, comes twice, or goes at a bad moment.

Whatever can be decided is decided within seconds and told in one line, and no wait is deaf to a signal.
"""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest
from commandline import Done, Forked, ForkServer, Tiny, wait_until
from free_ports import reserve_port
from tripwire import Trip
from two_processes import is_alive, meeting_at

SOON_S = 30.0
"""Seconds in which all is to be over on a machine that is busy with other things."""


def start(
    fork_server: ForkServer,
    tiny: Tiny,
    folder: Path,
    port: int,
    rank: int,
    *more: object,
    trip: Trip | None = None,
) -> Forked:
    """One of two processes of a short training."""
    words = ["train", tiny.recipe, "--run-dir", "run", "--cache-dir", tiny.cache, *more]
    return fork_server.start(*words, folder=folder, env={**meeting_at(port), "RANK": str(rank)}, trip=trip)


def end_of(process: Forked) -> Done:
    """What a process came to, which must be soon."""
    began = time.monotonic()
    done = process.wait()
    assert time.monotonic() - began < SOON_S
    return done


def test_a_leader_that_never_comes(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    port = reserve_port()
    follower = start(fork_server, tiny, tmp_path, port, 1, "--peer-timeout", 5)
    done = end_of(follower)
    assert done.code == 1
    assert done.error_line == f"process 0 does not answer at 127.0.0.1:{port} (connection refused; waited 5 s)"


def test_a_follower_that_never_comes(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    done = end_of(start(fork_server, tiny, tmp_path, reserve_port(), 0, "--peer-timeout", 5))
    assert (done.code, done.error_line) == (1, "process 1 of 2 has not come; waited 5 s")
    assert not (tmp_path / "run").exists()


def test_a_signal_ends_the_wait_for_a_follower(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    port = reserve_port()
    leader = start(fork_server, tiny, tmp_path, port, 0)

    def is_waiting() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(is_waiting, "the leader to listen")
    leader.send(signal.SIGTERM)
    done = end_of(leader)
    assert (done.code, done.error_line) == (143, "stopped by SIGTERM")


def test_a_signal_ends_the_wait_for_a_leader(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        follower = start(fork_server, tiny, tmp_path, other.getsockname()[1], 1)
        # To see who listens there; then for good, though nobody answers.
        callers = [other.accept()[0] for _ in range(2)]
        follower.send(signal.SIGTERM)
        done = end_of(follower)
        for caller in callers:
            caller.close()
    assert (done.code, done.error_line) == (143, "stopped by SIGTERM")


def test_a_port_that_another_program_listens_on(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = end_of(start(fork_server, tiny, tmp_path, port, 0))
    assert done.code == 1
    assert done.error_line == f"port {port} is in use (MASTER_PORT): another program, or another training, has it"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        pytest.param(b"", marks=pytest.mark.slow),
        pytest.param(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 9, marks=pytest.mark.slow),
    ],
    ids=["mute", "hangs-up", "http"],
)
def test_a_port_where_something_else_answers(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, answer: bytes | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start(fork_server, tiny, tmp_path, port, 1, "--peer-timeout", 5)
        callers = []
        other.settimeout(0.05)

        def is_over() -> bool:
            try:
                caller, _ = other.accept()
            except TimeoutError:
                return not process.is_running()
            if answer is None:
                callers.append(caller)
            else:
                caller.sendall(answer)
                caller.close()
            return not process.is_running()

        wait_until(is_over, "the end of the follower")
        for caller in callers:
            caller.close()
    done = process.wait()
    told = f"what answers at 127.0.0.1:{port} is not process 0 of a training ("
    assert done.code == 1 and done.error_line.startswith(told), done.err


def test_two_trainings_that_were_given_one_port(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    port = reserve_port()
    long = ("--set", "train.max_steps=1000000")
    leader = start(fork_server, tiny, tmp_path, port, 0, *long)
    # Its own follower and that of the other training, whichever comes first: the other one has to go.
    followers = [start(fork_server, tiny, tmp_path, port, 1, *long) for _ in range(2)]
    wait_until(lambda: not all(one.is_running() for one in followers), "the end of one follower")
    followers.sort(key=Forked.is_running)
    done = followers[0].wait()
    assert (done.code, done.error_line) == (1, "another process has come as process 1 of 2 already")
    leader.wait_for("step 2 ")
    leader.send(signal.SIGTERM)
    assert end_of(leader).code == 143
    done = end_of(followers[1])
    assert (done.code, done.err) == (143, "")


MOMENTS = [
    "seqkit.training.meeting.Meeting.tell",
    "seqkit.tasks.registry.prepare",
    "seqkit.cli.train_together._team",
    "torch.distributed.init_process_group",
    "seqkit.training.distributed.Team.share_tree",
    "seqkit.training.setup.make_state",
    "seqkit.training.distributed.Team.agree_to_step",
    "seqkit.training.distributed.Team.add_up",
    "seqkit.training.distributed.Team.close",
    "torch.distributed.destroy_process_group",
]
"""What both processes call on their way, in order."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_other_one_is_killed(tiny: Tiny, fork_server: ForkServer, tmp_path: Path, rank: int, moment: str) -> None:
    port = reserve_port()
    trip = Trip((moment,), 1, [int(signal.SIGKILL)])
    # Who waits for the word of one that is gone, without a connection to it, can tell by its silence only.
    processes = [
        start(fork_server, tiny, tmp_path, port, one, "--peer-timeout", 10, trip=trip if one == rank else None)
        for one in range(2)
    ]
    assert end_of(processes[rank]).code == -signal.SIGKILL
    done = end_of(processes[1 - rank])
    if done.code == 0:
        # The last to say has been said: nothing is missing.
        assert moment.endswith(("Team.close", "destroy_process_group"))
    else:
        assert done.code == 1 and done.error_line, done.err
    assert not is_alive(processes[1 - rank].pid)
