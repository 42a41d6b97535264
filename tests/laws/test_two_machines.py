"""A training on two machines, as far as the network goes, is a training in one process; one that is cut off ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import REAL, ForkServer, Tiny, clean_environment, wait_until
from network_namespaces import ADDRESSES, INTERFACE, TwoMachines
from test_many_processes import assert_equal_to_rounding, pairs_recipe
from two_processes import record_of

REPOSITORY = Path(__file__).parents[2]
TRAINING_S = 240
"""What two real processes may take, which import torch on a machine that is busy with other things."""


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    """Two of them, with a cable between."""
    with TwoMachines() as both:
        yield both


class Pair:
    """A process on each of two machines that share no cache."""

    def __init__(self, machines: TwoMachines, folder: Path, *words: object) -> None:
        place = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        place |= {"LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"}
        python_path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.errors = [folder / f"err{rank}" for rank in range(2)]
        self.processes = []
        for rank, err in enumerate(self.errors):
            own = {"RANK": str(rank), "GROUP_RANK": str(rank), "PYTHONPATH": python_path}
            with err.open("wb") as stderr:
                self.processes.append(
                    subprocess.Popen(
                        [*machines.enter(rank), *REAL, *map(str, words), "--cache-dir", f"cache{rank}"],
                        cwd=folder,
                        env={**clean_environment(), **place, **own},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
                )

    def wait(self) -> list[int]:
        """The exit codes of both."""
        return [process.wait(TRAINING_S) for process in self.processes]

    def told(self, rank: int) -> str:
        """What one of them has said."""
        return self.errors[rank].read_text()

    def kill(self) -> None:
        """See to it that none is left."""
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_machines_train_as_one_process(
    machines: TwoMachines, fork_server: ForkServer, tmp_path: Path, parallel: str
) -> None:
    recipe = pairs_recipe(tmp_path, settings=f"parallel: {parallel}")
    alone = fork_server.start("train", recipe, "--run-dir", "one", "--cache-dir", "cache", folder=tmp_path)
    pair = Pair(machines, tmp_path, "train", recipe, "--run-dir", "two")
    try:
        assert pair.wait() == [0, 0], pair.told(0) + pair.told(1)
    finally:
        pair.kill()
    assert alone.wait().code == 0
    # PyTorch may remark that addresses have no names here.
    assert "seqkit:" not in pair.told(1)
    assert f"2 processes ({parallel}), each on cpu" in record_of(tmp_path / "two")["device"]
    assert_equal_to_rounding(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_both_end_when_the_cable_is_pulled(machines: TwoMachines, tiny: Tiny, tmp_path: Path) -> None:
    words = ["train", tiny.recipe, "--set", "train.max_steps=1000000", "--run-dir", "run", "--peer-timeout", 5]
    pair = Pair(machines, tmp_path, *words)
    try:
        wait_until(lambda: "step 4 " in pair.told(0) or pair.processes[0].poll() is not None, "the fourth step")
        machines.cut()
        assert pair.wait() == [1, 1], pair.told(0) + pair.told(1)
    finally:
        pair.kill()
    for rank in range(2):
        errors = [line for line in pair.told(rank).split("\n") if line.startswith("seqkit: error: ")]
        assert len(errors) == 1, pair.told(rank)
    assert record_of(tmp_path / "run")["status"] == "failed"
