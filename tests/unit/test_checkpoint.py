"""Model folders: what goes in comes out, wherever the folder goes, and the links follow."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit.errors import CheckpointError, UsageError
from seqkit.runs.checkpoint import read_checkpoint, write_checkpoint
from seqkit.runs.find_model import find_model
from seqkit.runs.step_folders import list_steps, recover

torch.set_num_threads(1)


def write(
    run_dir: Path, step: int, *, best_step: int | None = None, train_state: Any = "state", value: float = 0
) -> Path:
    return write_checkpoint(
        run_dir,
        step,
        weights={"w": torch.full((3, 5), value or float(step)), "b": torch.zeros(5)},
        tokenizers={"tokenizer.json": '{"type": "char"}'},
        recipe="task: lm\n",
        facts={"task": "lm", "step": step},
        train_state=train_state,
        best_step=best_step,
    )


def finished_run(
    run_dir: Path, *, task: str = "lm", status: str = "completed", end: str = "2026-01-01T00:00:00Z"
) -> Path:
    run_dir.mkdir(parents=True)
    write(run_dir, 1)
    record = {"task": task, "status": status, "end": end, "sessions": [{}]}
    (run_dir / "run.json").write_text(json.dumps(record))
    return run_dir


def test_everything_comes_back_from_a_moved_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    folder = write_checkpoint(
        run_dir,
        1900,
        weights={"w": torch.arange(15.0).reshape(3, 5).t(), "half": torch.ones(7, dtype=torch.bfloat16)},
        tokenizers={"tokenizer.src.json": "{}", "tokenizer.tgt.json": '{"ü": 1}'.encode()},
        recipe="task: seq2seq  # ü\n",
        facts={"task": "seq2seq", "step": 1900, "scores": {"valid": 1.4, "test": float("nan")}},
        train_state={"optimizer": {0: torch.ones(3)}, "cursor": (1, 2)},
    )
    assert folder == run_dir / "checkpoints" / "step-00001900"
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    loaded = read_checkpoint(moved)
    assert loaded.path == moved
    assert torch.equal(loaded.weights["w"], torch.arange(15.0).reshape(3, 5).t())
    assert loaded.weights["half"].dtype == torch.bfloat16
    assert loaded.tokenizers == {"tokenizer.src.json": "{}", "tokenizer.tgt.json": '{"ü": 1}'}
    assert loaded.recipe == "task: seq2seq  # ü\n"
    assert loaded.facts == {"task": "seq2seq", "step": 1900, "scores": {"valid": 1.4, "test": None}}
    assert loaded.train_state["cursor"] == (1, 2)
    assert torch.equal(loaded.train_state["optimizer"][0], torch.ones(3))


def test_sha256sum_agrees(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == len(list(folder.iterdir())) - 1 == 5


def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    expected = tmp_path / "plain"
    expected.touch()
    folder = write(tmp_path, 1)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {stat.S_IMODE(expected.stat().st_mode)}


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 3)
            self.head = torch.nn.Linear(3, 11, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    folder = write_checkpoint(
        tmp_path, 1, weights=model.state_dict(), tokenizers={}, recipe="", facts={}, train_state=None
    )
    assert (folder / "model.safetensors").stat().st_size < 2 * 11 * 3 * 4 + 150
    weights = read_checkpoint(folder).weights
    assert weights.keys() == model.state_dict().keys()
    assert weights["head.weight"] is weights["embedding.weight"]
    Tied().load_state_dict(weights)


def test_the_train_state_may_be_left_out_or_unread(tmp_path: Path) -> None:
    folder = write(tmp_path, 1, train_state=None)
    assert not (folder / "train_state.safetensors").exists()
    assert read_checkpoint(folder).train_state is None
    folder = write(tmp_path, 2)
    assert read_checkpoint(folder, train_state=False).train_state is None
    (folder / "train_state.safetensors").unlink()
    assert read_checkpoint(folder, train_state=False).facts["step"] == 2
    with pytest.raises(CheckpointError, match=r"train_state\.safetensors: missing"):
        read_checkpoint(folder)


def test_links_are_relative_and_follow(tmp_path: Path) -> None:
    write(tmp_path, 10, best_step=10)
    write(tmp_path, 20, best_step=10)
    assert (tmp_path / "last").readlink() == Path("checkpoints/step-00000020")
    assert (tmp_path / "best").readlink() == Path("checkpoints/step-00000010")
    assert read_checkpoint(tmp_path).facts["step"] == 10
    assert read_checkpoint(tmp_path / "last").facts["step"] == 20
    (tmp_path / "best").unlink()
    assert read_checkpoint(tmp_path).facts["step"] == 20
    (tmp_path / "last").unlink()
    assert read_checkpoint(tmp_path).facts["step"] == 20


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 10, value=1)
    write(tmp_path, 10, value=2)
    assert read_checkpoint(tmp_path).weights["w"].unique().tolist() == [2.0]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_replacement_cut_short_is_undone(tmp_path: Path) -> None:
    folder = write(tmp_path, 10)
    folder.rename(folder.with_name(".old-step-00000010-ab12"))
    (folder.parent / ".tmp-step-00000010-cd34").mkdir()
    (folder.parent / ".gone-step-00000007-cd34").mkdir()
    (tmp_path / ".last-0a.tmp").symlink_to("nowhere")
    recover(tmp_path)
    assert list_steps(tmp_path) == [folder]
    assert [path.name for path in folder.parent.iterdir()] == ["step-00000010"]
    assert read_checkpoint(tmp_path).facts["step"] == 10
    assert not (tmp_path / ".last-0a.tmp").is_symlink()


def test_a_failed_write_leaves_nothing_and_moves_no_link(tmp_path: Path) -> None:
    write(tmp_path, 10)
    with pytest.raises(TypeError):
        write(tmp_path, 20, train_state={"bad": object()})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
    assert (tmp_path / "last").readlink().name == "step-00000010"


def test_a_run_folder_deleted_underneath_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone", 1)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.touch(), "a file, not the folder"),
        (lambda path: path.mkdir(), "SHA256SUMS: missing; this folder is no checkpoint"),
        (lambda path: (path / "checkpoints").mkdir(parents=True), "this run has no checkpoint yet"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "model"
    make(path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_a_list_of_sums_names_no_file_outside(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    (folder / "SHA256SUMS").write_text("0" * 64 + "  ../../../etc/passwd\n")
    with pytest.raises(CheckpointError, match="SHA256SUMS:1: damaged"):
        read_checkpoint(folder)


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path, 1))
    checkpoint.require_task("lm")
    with pytest.raises(UsageError, match="a model for the task lm, where one for seq2seq is needed"):
        checkpoint.require_task("seq2seq")


def test_the_model_is_the_flag_else_the_variable_else_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(UsageError, match="no model found") as caught:
        find_model("lm", None, runs)
    assert caught.value.exit_code == 2
    finished_run(runs / "a" / "1", end="2026-01-03T00:00:00Z")
    newest = finished_run(runs / "named", end="2026-01-04T00:00:00Z")
    finished_run(runs / "a" / "2", end="2026-01-05T00:00:00Z", status="failed")
    finished_run(runs / "a" / "3", end="2026-01-06T00:00:00Z", task="seq2seq")
    (runs / "a" / "4").mkdir()
    (runs / "a" / "4" / "run.json").write_text("{")
    found = find_model("lm", None, runs)
    assert (found.path, found.source) == (newest, "newest run")
    monkeypatch.setenv("SEQKIT_MODEL", str(runs / "a" / "2"))
    found = find_model("lm", None, runs)
    assert (found.path, found.source) == (runs / "a" / "2", "SEQKIT_MODEL")
    found = find_model("lm", runs / "a" / "3", runs)
    assert (found.path, found.source) == (runs / "a" / "3", "--model")
    with pytest.raises(UsageError, match=r"--model \S+nothing: no such folder"):
        find_model("lm", runs / "nothing", runs)
