"""What happens around a training: its folder goes, the clock jumps, memory runs out, files of other models turn up."""

from __future__ import annotations

import datetime as real_datetime
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from commandline import ForkServer, InProcess, Tiny
from test_fuzz_files import assert_told, set_file
from tiny_pairs import TinyPairs

from seqkit.runs import timestamps

FILES = ["model.json", "model.safetensors", "recipe.yaml", "tokenizer.json", "train_state.safetensors"]


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_run_folder_that_goes_under_a_training(tiny: Tiny, fork_server: ForkServer, tmp_path: Path, how: str) -> None:
    words = ["train", tiny.recipe, "--run-dir", "runs/run", "--resume", "--cache-dir", tiny.cache]
    long = [*words, "--set", "train.max_steps=1000000", "--set", "train.checkpoint_every=20"]
    process = fork_server.start(*long, folder=tmp_path)
    process.wait_for("step 4 ")
    (tmp_path / "runs" / "run").rename(tmp_path / "elsewhere")
    if how == "deleted":
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    done = process.wait()
    assert (done.code, done.out) == (1, "") and "Traceback" not in done.err
    (line,) = [line for line in done.err.split("\n") if line.startswith("seqkit: error: ")]
    assert "runs/run/" in line and line.endswith("no such file or folder")
    again = fork_server.start(*words, folder=tmp_path).wait()
    assert again.code == 0, again.err
    weights = tmp_path / "runs" / "run" / "last" / "model.safetensors"
    assert weights.read_bytes() == (tiny.run / "last" / "model.safetensors").read_bytes()


class JumpingClock(real_datetime.datetime):
    """A wall clock that somebody sets forward and back all the time."""

    _jumps = itertools.cycle([0, 400, -400, 30])

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return super().now(tz) + real_datetime.timedelta(days=next(cls._jumps))


@pytest.mark.parametrize("budget", ["train.max_steps=12", "train.max_minutes=0.005"])
def test_a_clock_that_jumps(
    tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, budget: str
) -> None:
    jumps = itertools.cycle([0.0, 4e7, -4e7, 1e3])
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + next(jumps))
    monkeypatch.setattr(timestamps, "datetime", JumpingClock)
    key = budget.split("=", maxsplit=1)[0].split(".")[1]
    recipe = tiny.recipe if key == "max_steps" else tiny.recipe_with(tmp_path, max_steps="1000000")
    done = seqkit("train", recipe, "--set", budget, "--run-dir", "run")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    elapsed = [row["elapsed"] for row in rows]
    assert elapsed == sorted(elapsed) and 0 < elapsed[-1] < 60
    shown = json.loads(seqkit("runs", "show", "run", "--json").out)
    assert shown["status"] == "completed" and shown["summary"]["seconds"] >= 0
    if key == "max_steps":
        last = Path("run/last/model.safetensors").read_bytes()
        assert last == (tiny.run / "last" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_model(
    tiny: Tiny, tiny_pairs: TinyPairs, seqkit: InProcess, tmp_path: Path, name: str
) -> None:
    """With sums that fit, as somebody who puts a folder together by hand would have them."""
    run = Path(shutil.copytree(tiny.run, tmp_path / "run", symlinks=True))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    folder = (run / "last").resolve()
    other = (tiny_pairs.run / "last").resolve()
    source = other / name if (other / name).exists() else next(iter(sorted(other.glob("tokenizer*.json"))))
    set_file(folder, name, source.read_bytes())
    if name != "train_state.safetensors":
        for command in (("sample", "--length", 2), ("evaluate", tiny.text)):
            assert assert_told(seqkit, *command, "--model", folder) in (1, 2)
    code = assert_told(seqkit, "train", tiny.recipe, "--run-dir", run, "--resume", "--cache-dir", tiny.cache)
    # What a run was begun with stands in its own folder; the copy in a checkpoint is for those who only use the model.
    assert code in (1, 2) or name == "recipe.yaml"


def test_a_pipe_among_the_files_keeps_nobody_waiting(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    import os

    folder = Path(shutil.copytree((tiny.run / "last").resolve(), tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    done = seqkit("sample", "--model", folder)
    assert done.code == 1 and done.error_line == f"{folder}/model.safetensors: not a regular file"


def data_kib_of(pid: int) -> int:
    """What the limit counts that a forked process starts with."""
    lines = Path(f"/proc/{pid}/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def test_a_training_that_does_not_fit_in_memory_says_so(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    """Columns of a recurrent model stay together, so nothing can be halved."""
    sizes = ["--set", "model.d_model=1800", "--set", "train.sequence_length=100"]
    words = ["train", tiny.recipe, *sizes, "--run-dir", "run", "--cache-dir", tiny.cache, "-q"]
    # 80 MB of weights fit, their gradients and the optimizer's numbers do not.
    limit = (data_kib_of(fork_server.pid) + 200_000) * 1024
    done = fork_server.start(*words, folder=tmp_path, limits={"RLIMIT_DATA": limit}).wait()
    assert done.code == 1 and "out of memory" in done.error_line, done.err
