"""SIGINT, SIGTERM and kill -9 while training, rows N9 and N10: nothing is lost, and the exit code tells."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, Forked, ForkServer, InProcess, Tiny, wait_until

from seqkit.runs.checkpoint import read_checkpoint
from seqkit.runs.metrics_log import read_metrics

TIMED = {"time", "elapsed", "seconds", "tokens_per_second"}
STEPS = 90


def start(fork_server: ForkServer, tiny: Tiny, folder: Path, run: str, *words: object) -> Forked:
    """Train, saving after every step, in ``folder/run``."""
    settings = ["train.checkpoint_every=1", "train.evaluate_every=30", f"train.max_steps={STEPS}"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = ["train", tiny.recipe, *overrides, "--run-dir", run, "--resume", "--cache-dir", tiny.cache, *words]
    return fork_server.start(*command, folder=folder)


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = start(fork_server, tiny, folder, "run").wait()
    assert done.code == 0, done.err
    return folder / "run"


def assert_same_result(run: Path, reference: Path) -> None:
    """Weights bit for bit, and metrics but for the clock."""
    for link in ("last", "best"):
        for name in ("model.safetensors", "tokenizer.json"):
            assert (run / link / name).read_bytes() == (reference / link / name).read_bytes(), (link, name)
    assert metrics_of(run) == metrics_of(reference)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    rows = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def is_caught(process: Forked, number: signal.Signals) -> bool:
    """Whether a process has come to handle a signal itself."""
    status = Path(f"/proc/{process.pid}/status").read_text().split("\n")
    caught = next(line for line in status if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def cpu_s(process: Forked) -> float:
    """Seconds that a process has computed for."""
    after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_first_signal_saves_and_the_run_goes_on(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, uninterrupted: Path, number: signal.Signals, code: int
) -> None:
    process = start(fork_server, tiny, tmp_path, "run")
    process.wait_for("step 4 ")
    process.send(number)
    done = process.wait()
    assert (done.code, done.out) == (code, "")
    assert f"{number.name}: stopping after this step; once more to quit at once\n" in done.err
    run = tmp_path / "run"
    step = read_checkpoint(run / "last").facts["step"]
    assert 4 <= step < STEPS
    assert done.error_line == f"stopped by a signal; saved step {step:,}"
    assert done.err.split("\n")[-2].startswith("hint: seqkit train ") and done.err.endswith("--run-dir run --resume\n")
    record = record_of(run)
    assert (record["status"], record["exit_code"]) == ("interrupted", code) and record["end"] is not None
    again = start(fork_server, tiny, tmp_path, "run").wait()
    assert again.code == 0 and f"going on from step {step:,}" in again.err
    assert_same_result(run, uninterrupted)
    record = record_of(run)
    assert (record["status"], record["exit_code"]) == ("completed", 0)
    assert [session["status"] for session in record["sessions"]] == ["interrupted", "completed"]


def test_quiet_and_jsonl_tell_of_a_signal_too(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    process = start(fork_server, tiny, tmp_path, "quiet", "-q")
    first_checkpoint = tmp_path / "quiet" / "last"
    while not first_checkpoint.is_symlink():
        assert process.is_running()
        time.sleep(0.01)
    process.send(signal.SIGTERM)
    done = process.wait()
    assert done.code == 143 and len(done.err.splitlines()) == 3 and "saved step" in done.error_line
    process = start(fork_server, tiny, tmp_path, "jsonl", "--log-format", "jsonl")
    process.wait_for('"step": 4')
    process.send(signal.SIGINT)
    done = process.wait()
    records = done.records
    assert done.code == 130 and [record["event"] for record in records[-1:]] == ["error"]
    assert "stopping" in [record["event"] for record in records] and records[-1]["exit_code"] == 130


def test_a_second_signal_quits_at_once_and_leaves_the_older_checkpoint(
    tiny: Tiny, fork_server: ForkServer, seqkit: InProcess, tmp_path: Path
) -> None:
    # The evaluation at the end writes a sample that would take hours.
    words = ["train.checkpoint_every=5", "train.evaluate_every=1000", "train.sample_length=100000000"]
    words += ["train.max_steps=20", "train.log_every=1"]
    overrides = [word for setting in words for word in ("--set", setting)]
    command = ["train", tiny.recipe, *overrides, "--run-dir", "run", "--cache-dir", tiny.cache]
    process = fork_server.start(*command, folder=tmp_path)
    process.wait_for("step 20 ")
    # The evaluation is over in a moment, and would be left for the signal; only the sample goes on.
    before = cpu_s(process)
    wait_until(lambda: cpu_s(process) > before + 0.3, "the sample")
    process.send(signal.SIGINT)
    process.wait_for("once more to quit at once")
    time.sleep(0.05)
    assert process.is_running()
    began = time.monotonic()
    process.send(signal.SIGINT)
    assert process.wait().code == 130
    assert time.monotonic() - began < 5
    run = tmp_path / "run"
    assert read_checkpoint(run / "last").facts["step"] == 15
    assert record_of(run)["status"] == "running"
    assert "dead" in seqkit("runs", "show", run).out
    assert seqkit("evaluate", "--model", run, tiny.text).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_other_commands_stop_at_once(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = ["sample", "--model", tiny.run, "--length", 100_000_000, "-v"]
    process = fork_server.start(*words, folder=tmp_path)
    process.wait_for("seed ")
    process.send(number)
    done = process.wait()
    assert done.code == code and f"stopped by {number.name}" in done.err


def test_a_signal_before_the_first_step_leaves_a_run_to_resume(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    holder = start(fork_server, tiny, tmp_path, "holder", "--lock", lock, "--set", "train.max_steps=100000")
    holder.wait_for("step 2 ")
    waiting = start(fork_server, tiny, tmp_path, "waiting", "--lock", lock, "--lock-wait", 60, "-vv")
    wait_until(lambda: is_caught(waiting, signal.SIGTERM), "its handler of signals")
    waiting.send(signal.SIGTERM)
    done = waiting.wait()
    assert done.code == 143 and done.out == "" and not (tmp_path / "waiting").exists()
    holder.send(signal.SIGKILL)
    holder.wait()


def kill_and_resume(fork_server: ForkServer, tiny: Tiny, folder: Path, num_kills: int, seed: int) -> Done:
    """Kill a training at random moments, checking what it leaves each time; then let it end."""
    rng = random.Random(seed)
    run = folder / "run"
    for _ in range(num_kills):
        process = start(fork_server, tiny, folder, "run")
        if rng.random() < 0.75:
            process.wait_for("step ")
        time.sleep(rng.uniform(0, 0.1))
        process.send(signal.SIGKILL)
        assert process.wait().code in (-signal.SIGKILL, 0)
        for link in ("last", "best"):
            if (run / link).is_symlink():
                checkpoint = read_checkpoint(run / link)  # verifies every file's sum
                assert checkpoint.facts["step"] >= 1 and checkpoint.train_state is not None
    return start(fork_server, tiny, folder, "run").wait()


@pytest.mark.parametrize(
    ("num_kills", "seed"),
    [(3, 0), pytest.param(10, 1, marks=pytest.mark.slow), pytest.param(10, 2, marks=pytest.mark.slow)],
)
def test_kill_9_at_any_moment_changes_no_result(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, uninterrupted: Path, num_kills: int, seed: int
) -> None:
    done = kill_and_resume(fork_server, tiny, tmp_path, num_kills, seed)
    assert done.code == 0, done.err
    run = tmp_path / "run"
    assert done.out == "run\n"
    assert_same_result(run, uninterrupted)
    record = record_of(run)
    assert record["status"] == "completed" and record["sessions"][0]["status"] in ("dead", "completed")
    assert record["metrics"].keys() == record_of(uninterrupted)["metrics"].keys()
    left = [path.name for path in [*run.iterdir(), *(run / "checkpoints").iterdir()] if path.name.startswith(".")]
    assert left == [".lock"], "half-written files are cleaned up"


def test_a_kill_between_the_last_checkpoint_and_the_record_loses_nothing(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, uninterrupted: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run, symlinks=True)
    record = record_of(run)
    metrics = record.pop("metrics")
    record["sessions"][-1].update(status="running", exit_code=None, end=None)
    record.update(status="running", exit_code=None, end=None)
    (run / "run.json").write_text(json.dumps(record))
    done = start(fork_server, tiny, tmp_path, "run", "--json").wait()
    assert done.code == 0, done.err
    told = json.loads(done.out)["metrics"]
    assert {key: value for key, value in told.items() if key not in TIMED} == {
        key: value for key, value in metrics.items() if key not in TIMED
    }
    assert_same_result(run, uninterrupted)
