"""Exit codes: 0, 1, 2 and 75. Signals (130, 143) are in tests/faults/test_signals.py, 141 in test_streams.py."""

from __future__ import annotations

import errno
import json
import shutil
import signal
from pathlib import Path

import pytest
from commandline import ForkServer, InProcess, Tiny, snapshot

from seqkit.cli import env as env_command


def test_0_for_every_command_that_did_its_work(tiny: Tiny, seqkit: InProcess) -> None:
    for words in (
        ["train", tiny.recipe, "--dry-run"],
        ["sample", "--model", tiny.run],
        ["evaluate", "--model", tiny.run],
        ["recipe", "validate", tiny.recipe],
        ["recipe", "ls"],
        ["runs", "ls", "--runs-dir", tiny.runs],
        ["runs", "show", tiny.run],
        ["data", "ls"],
        ["env"],
        ["--version"],
    ):
        done = seqkit(*words)
        assert done.code == 0 and done.out, (words, done)


def test_1_for_data_that_cannot_be_used(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    done = seqkit("evaluate", "--model", tiny.run, "empty.txt")
    assert (done.code, done.error_line) == (1, "empty.txt: is empty")


def test_1_for_a_loss_that_runs_away(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    words = ["--set", "train.optimizer.lr=1e38", "--set", "train.optimizer.type=sgd", "--set", "train.log_every=1"]
    done = seqkit("train", tiny.recipe, *words, "--run-dir", "run")
    assert done.code == 1 and done.out == ""
    assert "at step" in done.error_line and "learning rate 1e+38" in done.error_line
    assert "no checkpoint was saved before it" in done.error_line
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", 1) and "at step" in record["error"]


def test_1_for_a_bug_with_a_plain_traceback(seqkit: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(env_command, "collect_facts", bug)
    done = seqkit("env")
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("seqkit: error: unexpected: ZeroDivisionError: a bug\nTraceback (most recent")
    record = seqkit("env", "--log-format", "jsonl").records[-1]
    assert record["level"] == "error" and "ZeroDivisionError: a bug" in record["traceback"]


def test_an_expected_error_shows_a_traceback_only_with_v(tiny: Tiny, seqkit: InProcess) -> None:
    words = ["evaluate", "--model", tiny.run, "nothing.txt"]
    assert "Traceback" not in seqkit(*words).err
    verbose = seqkit(*words, "-v")
    assert (
        verbose.code == 2 and "Traceback" in verbose.err and "seqkit: error: nothing.txt: no such file" in verbose.err
    )


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EFBIG, "limit"), (errno.EACCES, "permission denied")]
)
def test_1_for_what_the_system_refuses(
    seqkit: InProcess, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse() -> None:
        raise OSError(number, "refused", "some/file")

    monkeypatch.setattr(env_command, "collect_facts", refuse)
    done = seqkit("env")
    assert done.code == 1 and done.error_line.startswith("some/file: ") and words in done.error_line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--length", "0"], "'--length'"),
        (["sample", "--temperature", "-1"], "must be at least 0"),
        (["sample", "--top-p", "0"], "--top-p: must be above 0, found 0"),
        (["sample", "--top-p", "1.5"], "--top-p: must be at most 1, found 1.5"),
        (["sample", "--min-p", "0"], "--min-p: must be above 0"),
        (["sample", "--top-k", "x"], "must be a whole number"),
        (["sample", "--temperature", "nan"], "must be at least 0"),
        (["sample", "--prompt", "a", "--prompt-file", "b"], "not both"),
        (["sample", "--prompt-file", "nothing"], "nothing: no such file"),
        (["sample", "--device", "nonsense"], "'nonsense' is not one of auto, cpu, cuda"),
        (["sample", "--model", "nothing"], "--model nothing: no such folder"),
        (["sample", "extra"], "extra"),
        (["evaluate", "--split", "valid", "x"], "not both"),
        (["evaluate", "--split", "vaild"], "'--split'"),
        (["evaluate", "--reset-state"], "--reset-state needs --window"),
        (["evaluate", "nothing.txt"], "nothing.txt: no such file"),
        (["evaluate", "--split", "test"], "the recipe names no test text"),
        (["train", "RECIPE", "--resume"], "--resume needs --run-dir"),
        (["train", "RECIPE", "--set", "model.d_model"], "--set"),
        (["train", "RECIPE", "--seed", "-1"], "'--seed'"),
        (["train", "RECIPE", "--lock", "no/such/folder/lock"], "its folder does not exist"),
        (["train", "nothing.yaml"], "no recipe nothing.yaml"),
    ],
)
def test_2_for_a_wrong_request(tiny: Tiny, seqkit: InProcess, words: list[str], message: str) -> None:
    words = [str(tiny.recipe) if word == "RECIPE" else word for word in words]
    if words[0] in ("sample", "evaluate") and "--model" not in words:
        words += ["--model", str(tiny.run)]
    done = seqkit(*words)
    assert done.code == 2 and done.out == ""
    assert message in done.error_line
    assert not Path("runs").exists()


def test_2_for_a_gpu_that_is_not_there(tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for words in (["sample", "--model", tiny.run], ["train", tiny.recipe]):
        done = seqkit(*words, "--device", "cuda")
        assert done.code == 2 and done.error_line == "device 'cuda' is not on this machine (0 CUDA devices)"
    assert not Path("runs").exists()


def test_2_without_any_model(seqkit: InProcess) -> None:
    done = seqkit("sample")
    assert done.code == 2 and done.error_line.startswith("no model found") and "hint: train one" in done.err


def test_75_for_a_run_folder_in_use(tiny: Tiny, seqkit: InProcess, fork_server: ForkServer, tmp_path: Path) -> None:
    words = ["train", tiny.recipe, "--run-dir", tmp_path / "run"]
    first = fork_server.start(
        *words, "--set", "train.max_steps=100000", "--set", "train.evaluate_every=100000", folder=tmp_path
    )
    first.wait_for("step ")
    before = {
        name: entry for name, entry in snapshot(tmp_path / "run").items() if name not in ("metrics.jsonl", "log.txt")
    }
    second = seqkit(*words, "--resume")
    assert second.code == 75 and second.out == ""
    assert second.error_line.startswith(f"{tmp_path / 'run'}: another process is working in this run folder")
    after = {
        name: entry for name, entry in snapshot(tmp_path / "run").items() if name not in ("metrics.jsonl", "log.txt")
    }
    assert after == before and first.is_running()
    first.send(signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    shutil.rmtree(tmp_path / "run")
    assert seqkit(*words).code == 0


def test_75_for_a_lock_that_is_held_and_0_once_it_is_free(
    tiny: Tiny, seqkit: InProcess, fork_server: ForkServer, tmp_path: Path
) -> None:
    lock = tmp_path / "nightly.lock"
    long = ["train", tiny.recipe, "--set", "train.max_steps=100000", "--set", "train.evaluate_every=100000"]
    holder = fork_server.start(*long, "--run-dir", "one", "--lock", lock, folder=tmp_path)
    holder.wait_for("step ")
    short = ["train", tiny.recipe, "--set", "train.max_steps=2", "--run-dir", tmp_path / "two", "--lock", lock]
    for wait, said in (((), "another process holds this lock"), (("--lock-wait", 0.2), "after 0.2 s")):
        done = seqkit(*short, *wait)
        assert done.code == 75 and done.error_line.startswith(f"{lock}: ") and said in done.error_line
        assert not (tmp_path / "two").exists()
    waiting = fork_server.start(*short, "--lock-wait", 60, folder=tmp_path)
    assert waiting.is_running()
    holder.send(signal.SIGKILL)  # a kernel lock: free the moment its process dies
    assert waiting.wait().code == 0
    assert holder.wait().code == -signal.SIGKILL
