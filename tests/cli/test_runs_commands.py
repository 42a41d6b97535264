"""``seqkit runs ls|show``: what they print, on which stream, and that they need no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqkit.cli import app, console
from seqkit.runs.folder import RunFolder


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Three runs: a completed one with two checkpoints, a dead one, and a damaged one."""
    runs = tmp_path / "runs"
    with RunFolder.claim(runs / "tiny" / "done", resume=False) as run:
        _start(run, "lstm 1×8")
        with run.open_metrics() as log:
            for step, loss in ((10, 2.0), (20, 1.45), (30, 1.5)):
                log.report(step=step, epoch=step / 20, split="train", loss=loss - 0.1)
                log.report(step=step, epoch=step / 20, split="valid", loss=loss)
        for step in (20, 30):
            folder = run.path / "checkpoints" / f"step-{step:08d}"
            folder.mkdir()
            (folder / "model.json").write_bytes(b"{}")
        run.move_link("best", 20)
        run.move_link("last", 30)
        run.finish("completed", 0, {"best": {"step": 20, "loss": 1.45}})
    with RunFolder.claim(runs / "killed", resume=False) as run:
        _start(run, "gru 2×4")
        with run.open_metrics() as log:
            log.report(step=5, epoch=0.1, split="valid", loss=3.25)
    (runs / "tiny" / "damaged").mkdir()
    (runs / "tiny" / "damaged" / "run.json").write_text("{")
    return runs


def _start(run: RunFolder, model: str) -> None:
    run.start(
        recipe=b"task: lm\n",
        resolved="task: lm\nseed: 7\n",
        recipe_name="tiny",
        task="lm",
        model=model,
        seed=7,
        device="cpu",
        command=["seqkit", "train", "tiny.yaml"],
    )


def seqkit(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = app.run([str(word) for word in words])
    captured = capsys.readouterr()
    console.configure(console.ConsoleOptions())
    return code, captured.out, captured.err


def test_ls_is_a_table_with_the_newest_first(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = seqkit(capsys, "runs", "ls", "--runs-dir", runs_dir)
    assert (code, err) == (0, "")
    head, killed, done, damaged = out.splitlines()
    assert head.split()[:3] == ["RUN", "TASK", "MODEL"]
    assert str(runs_dir / "killed") in killed and killed.split()[-4:] == ["3.2500", "@", "5", "dead"]
    assert "lstm 1×8" in done and "1.4500 @ 20" in done and done.endswith("completed")
    assert damaged.endswith("unreadable")
    assert "\033" not in out


def test_ls_json_is_one_object(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = seqkit(capsys, "runs", "ls", "--runs-dir", runs_dir, "--json")
    assert code == 0 and out.count("\n") == 1
    runs: list[dict[str, Any]] = json.loads(out)["runs"]
    assert [run["status"] for run in runs] == ["dead", "completed", "unreadable"]
    assert runs[1]["best"] == {"step": 20, "loss": 1.45}
    assert runs[1]["step"] == 30 and runs[1]["task"] == "lm" and runs[1]["recipe"] == "tiny"
    assert runs[1]["seconds"] >= 0


def test_a_live_run_is_running(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder.claim(runs_dir / "killed", resume=True):
        _, out, _ = seqkit(capsys, "runs", "ls", "--runs-dir", runs_dir, "--json")
    assert json.loads(out)["runs"][0]["status"] == "running"


def test_the_environment_names_the_runs_folder(
    runs_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQKIT_RUNS_DIR", str(runs_dir))
    _, out, _ = seqkit(capsys, "runs", "ls", "--json")
    assert json.loads(out)["runs_dir"] == str(runs_dir)


def test_no_runs_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert seqkit(capsys, "runs", "ls") == (0, "", "no runs under runs\n")
    assert seqkit(capsys, "runs", "ls", "-q") == (0, "", "")
    code, out, err = seqkit(capsys, "runs", "ls", "--runs-dir", tmp_path / "nothing")
    assert (code, out) == (2, "") and "no such folder" in err


@pytest.mark.parametrize("name", ["tiny/done", "done", "path"])
def test_show_tells_all(runs_dir: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    run = runs_dir / "tiny" / "done"
    code, out, err = seqkit(capsys, "runs", "show", run if name == "path" else name, "--runs-dir", runs_dir)
    assert (code, err) == (0, "")
    for text in ("status      completed", "seed        7", "seqkit train tiny.yaml", "  seed: 7", "loss=1.5"):
        assert text in out
    assert f"{run / 'checkpoints' / 'step-00000020'}  0.0 MB  best\n" in out
    assert f"{run / 'checkpoints' / 'step-00000030'}  0.0 MB  last\n" in out


def test_show_json_is_one_object(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = seqkit(capsys, "runs", "show", runs_dir / "tiny" / "done", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["record"]["command"] == "seqkit train tiny.yaml"
    assert facts["recipe"] == "task: lm\nseed: 7\n"
    assert facts["last_metrics"]["valid"]["loss"] == 1.5
    assert [(entry["step"], entry["is_best"], entry["is_last"]) for entry in facts["checkpoints"]] == [
        (20, True, False),
        (30, False, True),
    ]


def test_show_suggests_the_nearest_run(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = seqkit(capsys, "runs", "show", "tiny/dine", "--runs-dir", runs_dir)
    assert (code, out) == (2, "")
    assert err.startswith("seqkit: error: tiny/dine: no such run") and "did you mean tiny/done?" in err
    code, _, err = seqkit(capsys, "runs", "show", runs_dir / "tiny" / "damaged")
    assert code == 1 and err.startswith("seqkit: error: ") and "run.json: damaged" in err


def test_a_real_process_needs_no_torch(runs_dir: Path) -> None:
    code = (
        "import sys; from seqkit.cli import app\n"
        "codes = [app.run(words) for words in (['runs', 'ls'], ['runs', 'show', 'done'], ['runs'])]\n"
        "print(codes, 'torch' in sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "SEQKIT_RUNS_DIR": str(runs_dir), "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    err = done.stderr.decode("utf-8")
    assert err.endswith("[0, 0, 2] False\n")
    assert "Usage: seqkit runs" in err and b"Usage" not in done.stdout
    assert "lstm 1×8" in done.stdout.decode("utf-8")
