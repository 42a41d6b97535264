"""One of several processes dies, hangs or fails: the others end soon, one line says what happened, nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import PATIENCE_S, REAL, Forked, ForkServer, Tiny, clean_environment, wait_until
from free_ports import reserve_port
from two_processes import child_of, is_alive, kill, meeting_at, metrics_of, record_of, start_pair

from seqkit.runs.checkpoint import read_checkpoint
from seqkit.training.processes import loopback_interface

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

SETTINGS = ["train.max_steps=100000", "train.checkpoint_every=1", "train.evaluate_every=30"]


def words(tiny: Tiny, run: str, *more: object) -> list[object]:
    """A training that goes on until something ends it, and saves after each step."""
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", tiny.recipe, *overrides, "--run-dir", run, "--resume", "--cache-dir", tiny.cache, *more]


def assert_goes_on(fork_server: ForkServer, tiny: Tiny, folder: Path, *devices: object) -> None:
    """The run in ``folder`` continues, and stops when asked to."""
    step = read_checkpoint(folder / "run" / "last").facts["step"]
    process = fork_server.start(*words(tiny, "run", *devices), folder=folder)
    process.wait_for(f"going on from step {step:,}")
    process.wait_for("train ")
    process.send(signal.SIGTERM)
    assert process.wait().code == 143


@needs_proc
def test_a_killed_follower_ends_the_run_with_one_line(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    process = fork_server.start(*words(tiny, "run", "--devices", 2), folder=tmp_path)
    process.wait_for("step 4 ")
    began = time.monotonic()
    kill(child_of(process))
    done = process.wait()
    assert time.monotonic() - began < 15
    assert done.code == 1 and done.out == ""
    told = "process 1 of 2 was killed by SIGKILL; the last checkpoint is run/checkpoints/step-"
    assert done.error_line.startswith(told)
    assert done.err.split("\n")[-2].endswith("--run-dir run --resume --devices 2")
    assert record_of(tmp_path / "run")["status"] == "failed"
    assert_goes_on(fork_server, tiny, tmp_path)


@needs_proc
@pytest.mark.slow
def test_a_killed_leader_takes_its_follower_along(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    process = fork_server.start(*words(tiny, "run", "--devices", 2), folder=tmp_path)
    process.wait_for("step 4 ")
    follower = child_of(process)
    process.send(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    wait_until(lambda: not is_alive(follower), "the end of the follower")
    assert_goes_on(fork_server, tiny, tmp_path, "--devices", 2)


def test_a_process_that_does_not_answer_is_given_up(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    pair = start_pair(fork_server, *words(tiny, "run", "--peer-timeout", 5), folder=tmp_path)
    pair.leader.wait_for("step 4 ")
    pair.follower.send(signal.SIGSTOP)
    done = pair.leader.wait()
    assert done.code == 1
    assert done.error_line.startswith("lost contact with another process (")
    assert "; the last checkpoint is run/checkpoints/step-" in done.error_line
    pair.follower.send(signal.SIGKILL)
    assert_goes_on(fork_server, tiny, tmp_path)


def test_a_follower_says_through_the_leader_what_is_wrong_with_it(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, where a cache should be")
    port = reserve_port()
    leader, follower = (
        start_one(fork_server, tiny, tmp_path, port, rank, "--cache-dir", cache)
        for rank, cache in enumerate([tiny.cache, blocked])
    )
    done, other = leader.wait(), follower.wait()
    assert (done.code, other.code) == (1, 1)
    assert done.error_line.startswith("process 1 of 2: ") and str(blocked) in done.error_line
    assert not (tmp_path / "run").exists(), "a run that never began leaves nothing"


def start_one(
    fork_server: ForkServer, tiny: Tiny, folder: Path, port: int, rank: int, *more: object, run: str = "run"
) -> Forked:
    """One of two processes that need not be alike."""
    return fork_server.start(*words(tiny, run, *more), folder=folder, env={**meeting_at(port), "RANK": str(rank)})


@needs_proc
@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    overrides = [word for setting in [*SETTINGS, "train.max_steps=60"] for word in ("--set", setting)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *REAL[1:], "train", str(tiny.recipe)]
    command += [*overrides, "--run-dir", "run", "--resume", "--cache-dir", str(tiny.cache)]
    environment = {**clean_environment(), "GLOO_SOCKET_IFNAME": loopback_interface(), "OMP_NUM_THREADS": "1"}
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        torchrun = subprocess.Popen(command, cwd=tmp_path, stdout=stdout, stderr=stderr, env=environment)
    try:
        wait_until(lambda: "step 4 " in err.read_text() or torchrun.poll() is not None, "the fourth step")
        workers = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        kill(int(workers[-1]))
        # It asks its workers to stop and starts others, for which torch takes its time.
        torchrun.wait(3 * PATIENCE_S)
    finally:
        torchrun.kill()
        torchrun.wait()
    assert torchrun.returncode == 0, err.read_text()
    assert "going on from step " in err.read_text() and out.read_text() == "run\n"
    record = record_of(tmp_path / "run")
    assert record["status"] == "completed" and len(record["sessions"]) == 2
    steps = [row["step"] for row in metrics_of(tmp_path / "run") if row["split"] == "train"]
    assert steps == list(range(2, 61, 2))
