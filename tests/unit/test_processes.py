"""Several processes: which one this is, how rows are divided, who tells what, and what cannot be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import InProcess, Tiny

from seqkit.cli.train_together import check_rows
from seqkit.data.batching import ColumnBatches
from seqkit.errors import RecipeError, SeqkitError, UsageError
from seqkit.recipe.loading import load_recipe
from seqkit.training.distributed import team_device
from seqkit.training.meeting import Meeting, OtherProcessError, OverError
from seqkit.training.processes import Followers, Place, loopback_interface, place_from_environment


def place(rank: int, store: Path, size: int = 2) -> Place:
    return Place(rank=rank, size=size, local_rank=rank, local_size=size, machine=0, store=store)


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what torchrun sets."""

    def set_variables(**values: object) -> None:
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", **values}.items():
            monkeypatch.setenv(name, str(value))

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    return set_variables


def test_a_process_alone(torchrun: Callable[..., None]) -> None:
    assert place_from_environment() is None
    torchrun(RANK=0, WORLD_SIZE=1)
    assert place_from_environment() is None


def test_the_place_that_torchrun_tells(torchrun: Callable[..., None]) -> None:
    torchrun(RANK=9, WORLD_SIZE=16, LOCAL_RANK=1, LOCAL_WORLD_SIZE=8, GROUP_RANK=1, TORCHELASTIC_RESTART_COUNT=2)
    found = place_from_environment()
    assert found == Place(rank=9, size=16, local_rank=1, local_size=8, machine=1, attempt=2)
    assert found is not None and not found.is_leader


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"RANK": "one", "WORLD_SIZE": 2}, "RANK is 'one', not a number"),
        ({"RANK": 2, "WORLD_SIZE": 2}, "RANK 2 of WORLD_SIZE 2"),
        ({"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}, "LOCAL_RANK 0 of LOCAL_WORLD_SIZE 4"),
        ({"RANK": 1, "WORLD_SIZE": 2, "MASTER_PORT": "http"}, "MASTER_PORT is 'http', not a number"),
        ({"RANK": 1, "WORLD_SIZE": 2, "MASTER_PORT": 70000}, "MASTER_PORT 70000, which is no port"),
    ],
)
def test_places_that_cannot_be(torchrun: Callable[..., None], values: dict[str, object], what: str) -> None:
    torchrun(**values)
    with pytest.raises(UsageError, match=what):
        place_from_environment()


def test_devices_under_torchrun(torchrun: Callable[..., None], seqkit: InProcess, tiny: Tiny) -> None:
    torchrun(RANK=0, WORLD_SIZE=2)
    done = seqkit("train", tiny.recipe, "--devices", 2)
    assert (done.code, done.error_line) == (2, "--devices 2 under torchrun, which has started 2 processes")


def test_fewer_columns_than_processes(seqkit: InProcess, tiny: Tiny) -> None:
    # The recipe has four.
    done = seqkit("train", tiny.recipe, "--devices", 5, "--dry-run")
    assert done.code == 2
    assert done.error_line.startswith("batches of 4 sequences cannot be divided among 5 processes")
    done = seqkit("train", tiny.recipe, "--devices", 4, "--dry-run")
    assert done.code == 0 and "4 processes (ddp), each on cpu" in done.out


def test_columns_are_counted_only_where_state_is_carried() -> None:
    class Prepared:
        carries_state = False

    check_rows(Prepared(), 99)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mps", "cuda:1"])
def test_devices_that_cannot_work_together(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        team_device(torch.device(name), rank=0, size=2)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"2 processes on this machine, but it has 1 CUDA device$"):
        team_device(torch.device("cuda"), rank=0, size=2)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("train.optimizer={type: muon}", "optimizer muon"),
        ("train.precision=fp16", "fp16"),
        ("train.ema=0.9", "ema"),
        ("train.average_last=3", "seqkit average"),
        ("train.slices=2", "slices"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(setting: str, what: str) -> None:
    overrides = ["train.optimizer={type: adamw}", setting]
    load_recipe("gpt_charlm", overrides=overrides)
    load_recipe("gpt_charlm", overrides=[overrides[0], "train.parallel=fsdp"])
    with pytest.raises(RecipeError, match=f"train.parallel: fsdp does not go with .*{what}"):
        load_recipe("gpt_charlm", overrides=[*overrides, "train.parallel=fsdp"])


@pytest.mark.parametrize("size", [2, 3])
def test_the_rows_of_all_processes_are_the_batch(size: int) -> None:
    batch = ColumnBatches(np.arange(50, dtype=np.uint8), num_columns=7, sequence_length=3, reset_probability=0.5).batch(
        0, 1
    )
    parts = [batch.every(size, rank) for rank in range(size)]
    assert sum(part.num_tokens for part in parts) == batch.num_tokens == 21
    rows = sorted(tuple(row) for part in parts for row in part.inputs_BT.tolist())
    assert rows == sorted(map(tuple, batch.inputs_BT.tolist()))


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start a function; what is returned waits for its result, or raises what it raised."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(30)
        assert not thread.is_alive()
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    return result


def test_what_one_tells_another_hears(tmp_path: Path) -> None:
    one, two = (Meeting(place(rank, tmp_path / "store"), timeout_s=30) for rank in (0, 1))
    heard = in_thread(lambda: two.hear("start"))
    time.sleep(0.1)
    one.tell("start", {"recipe": "task: lm\n"})
    assert heard() == {"recipe": "task: lm\n"}
    assert two.hear("start") == {"recipe": "task: lm\n"}


def test_who_waits_is_told_that_the_leader_is_done(tmp_path: Path) -> None:
    one, two = (Meeting(place(rank, tmp_path / "store"), timeout_s=30) for rank in (0, 1))
    heard = in_thread(lambda: two.hear("start"))
    one.end(75)
    with pytest.raises(OverError) as caught:
        heard()
    assert caught.value.exit_code == 75
    one.raise_if_over()


def test_the_first_failure_is_what_all_hear_of(tmp_path: Path) -> None:
    one, two, three = (Meeting(place(rank, tmp_path / "store", 3), timeout_s=30) for rank in range(3))
    two.fail(UsageError("no such text", hint="write one"))
    three.fail(SeqkitError("process 1 has gone"))
    with pytest.raises(OtherProcessError, match=r"^process 1 of 3: no such text$") as caught:
        one.hear("data 1")
    assert (caught.value.exit_code, caught.value.hint) == (2, "write one")


def test_an_error_of_our_own_is_not_blamed_on_another(tmp_path: Path) -> None:
    one, two = (Meeting(place(rank, tmp_path / "store"), timeout_s=30) for rank in (0, 1))
    one.explain(RuntimeError("shape '[3]' is invalid for input of size 4"))
    with pytest.raises(OtherProcessError, match=r"^lost contact with another process \(.*Connection closed by peer"):
        one.explain(RuntimeError("[gloo/pair.cc:1] Connection closed by peer"), patience_s=0.2)
    two.fail(SeqkitError("out of memory"))
    with pytest.raises(OtherProcessError, match=r"^process 1 of 2: out of memory$"):
        one.explain(RuntimeError("[gloo/pair.cc:1] Connection closed by peer"))


def test_followers_are_watched_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # The leader sets it for itself too.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", loopback_interface())
    followers = Followers(3, ["--version"])
    told: list[str] = []
    try:
        where = followers.start()
        assert (where.rank, where.size, where.is_leader) == (0, 3, True)
        followers.watch(told.append, grace_s=0.0, every_s=0.05)
        deadline = time.monotonic() + 60
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        followers.end(patience_s=5.0)
    assert told[0] in {f"process {rank} of 3 ended with exit code 0" for rank in (1, 2)}
    assert where.store is not None and not where.store.parent.exists()
