"""Run folders: who may start, continue or skip one, what it holds, and that a failed start leaves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import seqkit
from seqkit.errors import CheckpointError, InterruptedRunError, LockedError, SeqkitError, UsageError
from seqkit.runs.folder import RunFolder, new_run_path
from seqkit.runs.record import git_commit, read_record
from seqkit.runs.step_folders import list_steps


def start(run: RunFolder, **changed: Any) -> None:
    facts: dict[str, Any] = {
        "recipe": b"task: lm  # \xfc\r\n",
        "resolved": "task: lm\n",
        "recipe_name": "tiny",
        "task": "lm",
        "model": "lstm 1×8",
        "seed": 7,
        "device": "cpu",
        "command": ["seqkit", "train", "a recipe.yaml"],
    }
    run.start(**{**facts, **changed})


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def fake_step(run_dir: Path, step: int) -> Path:
    path = run_dir / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "model.json").write_text("{}")
    return path


def test_a_new_run_has_its_files_and_its_name(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs", "tiny") as run:
        assert run.state == "new"
        assert run.path.parent == tmp_path / "runs" / "tiny"
        assert re.fullmatch(r"\d{8}T\d{6}Z-[a-z0-9]{4}", run.path.name)
        start(run)
        with run.open_metrics() as log:
            log.report(step=1, epoch=0, split="train", loss=2.0)
        assert read_record(run.path)["status"] == "running"
        run.finish("completed", 0, {"best": {"step": 1, "loss": 2.0}})
    assert names(run.path) == [".lock", "checkpoints", "metrics.jsonl", "recipe.yaml", "resolved.yaml", "run.json"]
    assert (run.path / "recipe.yaml").read_bytes() == b"task: lm  # \xfc\r\n"
    assert run.resolved_recipe() == "task: lm\n"
    record = read_record(run.path)
    assert record["command"] == "seqkit train 'a recipe.yaml'"
    assert record["seed"] == 7 and record["device"] == "cpu" and record["task"] == "lm"
    assert record["versions"]["seqkit"] == seqkit.__version__
    assert record["versions"].keys() == {"seqkit", "python", "torch"}
    assert record["status"] == "completed" and record["exit_code"] == 0
    assert record["start"] <= record["end"]
    assert record["best"] == {"step": 1, "loss": 2.0}


def test_the_git_commit_is_recorded_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "m", "--no-gpg-sign"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and re.fullmatch("[0-9a-f]{40}", commit)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_missing_or_empty_folder_starts(tmp_path: Path, resume: bool, exists: bool) -> None:
    path = tmp_path / "a" / "run"
    if exists:
        path.mkdir(parents=True)
    with RunFolder.claim(path, resume=resume) as run:
        assert run.state == "new"
        start(run)
    assert (path / "run.json").exists()


def test_a_run_continues_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.claim(path, resume=True) as run:
        start(run)
        run.finish("interrupted", 143)
    with pytest.raises(UsageError, match="not empty") as caught:
        RunFolder.claim(path, resume=False)
    assert "--resume" in str(caught.value.hint)
    with RunFolder.claim(path, resume=True) as run:
        assert run.state == "resumed"
        assert run.resolved_recipe() == "task: lm\n"
        start(run, recipe=b"other", resolved="other", command=["seqkit", "train", "--resume"])
        run.finish("completed", 0)
    record = read_record(path)
    assert [session["status"] for session in record["sessions"]] == ["interrupted", "completed"]
    assert record["command"] == "seqkit train --resume"
    assert record["start"] == record["sessions"][0]["start"]
    assert (path / "recipe.yaml").read_bytes() == b"task: lm  # \xfc\r\n"
    before = (path / "run.json").read_bytes()
    with RunFolder.claim(path, resume=True) as run:
        assert run.state == "complete"
    assert (path / "run.json").read_bytes() == before


def test_a_killed_session_is_recorded_as_dead(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "run", resume=True) as run:
        start(run)
        with run.open_metrics() as log:
            row = log.report(step=1, epoch=0, split="train")
    with RunFolder.claim(tmp_path / "run", resume=True) as run:
        assert run.state == "resumed"
        start(run)
    dead = read_record(run.path)["sessions"][0]
    assert dead["status"] == "dead" and dead["end"] == row["time"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not empty") as caught:
        RunFolder.claim(tmp_path, resume=resume)
    assert caught.value.exit_code == 2
    assert names(tmp_path) == ["thesis.tex"]


def test_a_start_that_was_killed_is_started_again(tmp_path: Path) -> None:
    for name in (".lock", "recipe.yaml", ".run.json.abc123.tmp"):
        (tmp_path / name).touch()
    with RunFolder.claim(tmp_path, resume=True) as run:
        assert run.state == "new"
        start(run)
    assert names(tmp_path) == [".lock", "checkpoints", "recipe.yaml", "resolved.yaml", "run.json"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[]", b"{}", b"\xff"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
            RunFolder.claim(tmp_path, resume=True)


def test_two_processes_cannot_have_one_run(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "run", resume=True) as run:
        start(run)
        before = [(item.name, item.stat().st_mtime_ns) for item in sorted(run.path.iterdir())]
        for resume in (False, True):
            with pytest.raises(LockedError):
                RunFolder.claim(run.path, resume=resume)
        assert [(item.name, item.stat().st_mtime_ns) for item in sorted(run.path.iterdir())] == before


def test_many_concurrent_starts_give_one_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from seqkit.runs.folder import RunFolder\n"
        "from seqkit.errors import LockedError\n"
        "try:\n"
        "    with RunFolder.claim(Path(sys.argv[1]), resume=True) as run:\n"
        "        run.start(recipe=b'', resolved='', recipe_name='r', task='lm', model='m', seed=1, device='cpu',"
        " command=['x']); print(run.state, flush=True); sys.stdin.read(); run.finish('completed', 0)\n"
        "except LockedError: print('locked')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a" / "run")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    # Whoever has the run keeps it until all have told what they got.
    outputs = sorted(process.stdout.readline().strip() for process in processes if process.stdout is not None)
    for process in processes:
        process.communicate()
    assert outputs == ["locked"] * 5 + ["new"]


def test_a_start_given_up_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SeqkitError, match="corpus"), RunFolder.create(tmp_path / "runs", "tiny"):
        raise SeqkitError("empty corpus")
    assert names(tmp_path) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(SeqkitError, match="corpus"), RunFolder.claim(tmp_path / "empty", resume=True):
        raise SeqkitError("empty corpus")
    assert names(tmp_path / "empty") == []


def test_a_start_that_fails_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, record: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqkit.runs.record.write_record", full)
    with pytest.raises(OSError, match="No space"), RunFolder.create(tmp_path / "runs", "tiny") as run:
        start(run)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SeqkitError("bad data"), "failed", 1),
        (InterruptedRunError("stopped", signal_number=15), "interrupted", 143),
        (ZeroDivisionError("a bug"), "failed", 1),
    ],
)
def test_an_error_is_recorded(tmp_path: Path, error: Exception, status: str, code: int) -> None:
    with pytest.raises(type(error)), RunFolder.create(tmp_path, "tiny") as run:
        start(run)
        raise error
    record = read_record(run.path)
    assert (record["status"], record["exit_code"], record["error"]) == (status, code, str(error))


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot make this run folder: Not a directory") as caught:
        RunFolder.claim(tmp_path / "file" / "a" / "run", resume=False)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="a file, where a run folder should be"):
        RunFolder.claim(tmp_path / "file", resume=True)
    with pytest.raises(UsageError, match="File name too long"):
        RunFolder.claim(tmp_path / "a" / ("x" * 300), resume=False)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_place_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="Permission denied"):
            RunFolder.create(tmp_path / "runs", "tiny")
    finally:
        tmp_path.chmod(0o700)


def test_pruning_keeps_the_newest_and_the_linked(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "run", resume=False) as run:
        start(run)
        assert run.latest_checkpoint() is None
        for step in (10, 20, 30, 40, 123456789):
            fake_step(run.path, step)
        run.move_link("best", 10)
        run.move_link("last", 30)
        (run.path / "checkpoints" / ".tmp-step-00000050-aa").mkdir()
        assert run.latest_checkpoint() == run.path / "checkpoints" / "step-123456789"
        deleted = run.prune(1)
        assert [path.name for path in deleted] == ["step-00000020", "step-00000040"]
        assert names(run.path / "checkpoints") == ["step-00000010", "step-00000030", "step-123456789"]
        run.prune(0)
        assert [path.name for path in list_steps(run.path)] == ["step-00000010", "step-00000030"]
        with pytest.raises(CheckpointError, match="no such checkpoint to call last"):
            run.move_link("last", 99)


def test_planning_a_run_makes_nothing(tmp_path: Path) -> None:
    path = new_run_path(tmp_path / "runs", "tiny")
    assert path.parent.parent == tmp_path / "runs"
    assert names(tmp_path) == []


def test_the_record_is_json_that_others_can_read(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "tiny") as run:
        start(run)
    assert json.loads((run.path / "run.json").read_text(encoding="utf-8"))["model"] == "lstm 1×8"
