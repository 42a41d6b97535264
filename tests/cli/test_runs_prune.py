"""``seqkit runs prune``: which runs it takes, that it takes them whole, and what it never touches."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from seqkit.cli import app, console
from seqkit.cli.runs_prune import RemovableStatus
from seqkit.runs import pruning
from seqkit.runs.folder import RunFolder
from seqkit.runs.listing import list_runs
from seqkit.runs.lock import run_lock
from seqkit.runs.record import RECORD_NAME


def make_run(path: Path, recipe: str, status: str, days_ago: float) -> Path:
    """A run with a checkpoint of 1,000 bytes that began and ended some days ago."""
    with RunFolder.claim(path, resume=False) as run:
        run.start(
            recipe=b"task: lm\n",
            resolved="task: lm\nseed: 7\n",
            recipe_name=recipe,
            task="lm",
            model="lstm 1×8",
            seed=7,
            device="cpu",
            command=["seqkit", "train", "tiny.yaml"],
        )
        folder = run.checkpoint(10)
        folder.mkdir()
        (folder / "model.json").write_bytes(b" " * 1000)
        run.move_link("last", 10)
        if status != "dead":
            run.finish(status, 0)  # type: ignore[arg-type]
    record = json.loads((path / RECORD_NAME).read_text())
    time = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    for entry in (record, *record["sessions"]):
        entry["start"] = time
        if entry.get("end"):
            entry["end"] = time
    (path / RECORD_NAME).write_text(json.dumps(record))
    return path


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Two recipes: a with runs of 1, 2, 3 and 40 days ago, of which the second failed; b with a dead one."""
    runs = tmp_path / "runs"
    make_run(runs / "a" / "day1", "a", "completed", 1)
    make_run(runs / "a" / "day2", "a", "failed", 2)
    make_run(runs / "a" / "day3", "a", "completed", 3)
    make_run(runs / "a" / "day40", "a", "interrupted", 40)
    make_run(runs / "b" / "day9", "b", "dead", 9)
    return runs


def test_every_status_that_may_go_can_be_named() -> None:
    assert tuple(RemovableStatus) == pruning.REMOVABLE


def seqkit(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = app.run([str(word) for word in words])
    captured = capsys.readouterr()
    console.configure(console.ConsoleOptions())
    return code, captured.out, captured.err


def names(runs: Path) -> list[str]:
    return sorted(summary.path.name for summary in list_runs(runs))


ALL = ["day1", "day2", "day3", "day40", "day9"]


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (["--keep", 2], ["day3", "day40"]),
        (["--keep", 0], ["day1", "day2", "day3", "day40", "day9"]),
        (["--older-than", 5], ["day40", "day9"]),
        (["--older-than", 2.5, "--keep", 1], ["day3", "day40"]),
        (["--status", "failed", "--status", "dead"], ["day2", "day9"]),
        (["--status", "failed", "--older-than", 30], []),
    ],
)
def test_conditions_are_met_together(
    capsys: pytest.CaptureFixture[str], runs_dir: Path, words: list[object], taken: list[str]
) -> None:
    code, out, err = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, *words)
    assert code == 0 and sorted(Path(line).name for line in out.split()) == taken
    assert "--force removes them" in err and names(runs_dir) == ALL, "without --force nothing goes"
    code, out, err = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, *words, "--force")
    assert code == 0 and sorted(Path(line).name for line in out.split()) == taken
    assert names(runs_dir) == sorted(set(ALL) - set(taken))
    left = {path.name for path in runs_dir.rglob("*") if path.is_dir() and path.parent.parent == runs_dir}
    assert left == set(ALL) - set(taken), "nothing of a removed run stays"
    assert seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, *words, "--force", "-q") == (0, "", "")


def test_a_recipe_folder_goes_with_its_last_run(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    assert seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--status", "dead", "--force")[0] == 0
    assert sorted(path.name for path in runs_dir.iterdir()) == ["a"]


def test_json(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    words = ("runs", "prune", "--runs-dir", runs_dir, "--older-than", 30, "--json")
    found = json.loads(seqkit(capsys, *words)[1])
    (run,) = found["runs"]
    assert run["run_dir"] == str(runs_dir / "a" / "day40") and run["status"] == "interrupted"
    assert found["removed"] is False and found["bytes"] == run["bytes"] > 1000
    assert json.loads(seqkit(capsys, *words, "--force")[1]) == {**found, "removed": True}


def test_without_a_condition_nothing_is_done(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    code, out, err = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--force")
    assert (code, out) == (2, "") and "--keep, --older-than or --status" in err
    assert names(runs_dir) == ALL
    code, _, err = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir / "nowhere", "--keep", 1)
    assert code == 2 and "no such folder" in err


def test_a_run_at_work_stays(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    with run_lock(runs_dir / "b" / "day9"):
        code, out, _ = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--keep", 0, "--force")
    assert code == 0 and "day9" not in out and names(runs_dir) == ["day9"]


def test_a_run_that_starts_meanwhile_stays(
    capsys: pytest.CaptureFixture[str], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs_dir / "b" / "day9"
    summaries = list_runs(runs_dir)
    monkeypatch.setattr("seqkit.cli.runs_prune.list_runs", lambda folder: summaries)
    with run_lock(run):
        code, out, err = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--status", "dead", "--force")
    assert code == 0 and out == "" and f"{run}: left alone" in err and (run / RECORD_NAME).is_file()


def test_what_is_not_ours_stays(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    (runs_dir / "a" / "day1" / "notes.txt").write_text("mine")
    (runs_dir / "a" / "day2" / RECORD_NAME).write_text("{")  # cannot be read
    code, out, err = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--keep", 0, "--force")
    assert code == 0 and "day1: left alone, since notes.txt" in err
    assert names(runs_dir) == ["day1", "day2"] and "day1" not in out and "day2" not in out


def test_links_out_of_a_run_are_not_followed(
    capsys: pytest.CaptureFixture[str], runs_dir: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "text").write_text("kept")
    (runs_dir / "b" / "day9" / "checkpoints" / "elsewhere").symlink_to(mine)
    assert seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--status", "dead", "--force")[0] == 0
    assert (mine / "text").read_text() == "kept" and "day9" not in names(runs_dir)


def test_a_removal_cut_off_is_finished(
    capsys: pytest.CaptureFixture[str], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("seqkit.runs.pruning.shutil.rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pruning.remove_run(runs_dir / "a" / "day3", runs_dir)
    assert (runs_dir / "a" / ".pruned-day3").is_dir()
    assert names(runs_dir) == ["day1", "day2", "day40", "day9"], "half a run is no run"
    assert seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--older-than", 99, "--force")[0] == 0
    assert not (runs_dir / "a" / ".pruned-day3").exists()


def test_starts_that_were_killed_go_too(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    old = time.time() - 7200
    names = {
        "20261120T101500Z-dead": ([".lock", "recipe.yaml", ".run.json.seqkit-0a1b2c3d.tmp"], old),
        "20261120T101500Z-new0": ([".lock"], time.time()),
        "20261120T101500Z-busy": ([".lock"], old),
        "20261120T101500Z-mine": ([".lock", "notes.txt"], old),
        "named": ([".lock"], old),
    }
    for name, (files, changed) in names.items():
        for file in files:
            (runs_dir / "c" / name).mkdir(parents=True, exist_ok=True)
            (runs_dir / "c" / name / file).touch()
            os.utime(runs_dir / "c" / name / file, (changed, changed))
    lone = runs_dir / "d" / "20261120T101500Z-lone"
    lone.mkdir(parents=True)
    (lone / ".lock").touch()
    os.utime(lone / ".lock", (old, old))
    words = ("runs", "prune", "--runs-dir", runs_dir, "--older-than", 99)
    with run_lock(runs_dir / "c" / "20261120T101500Z-busy"):
        os.utime(runs_dir / "c" / "20261120T101500Z-busy" / ".lock", (old, old))
        assert seqkit(capsys, *words)[0] == 0
        assert len(list((runs_dir / "c").iterdir())) == 5 and lone.exists(), "without --force nothing goes"
        code, out, err = seqkit(capsys, *words, "--force")
    assert (code, out) == (0, "") and "removed 2 folders of trainings that were killed" in err
    left = sorted(item.name for item in (runs_dir / "c").iterdir())
    assert left == ["20261120T101500Z-busy", "20261120T101500Z-mine", "20261120T101500Z-new0", "named"]
    assert not lone.parent.exists()


def test_a_link_that_was_being_moved_is_seqkits_own(capsys: pytest.CaptureFixture[str], runs_dir: Path) -> None:
    run = runs_dir / "b" / "day9"
    (run / ".best-0a1b.tmp").symlink_to("checkpoints/step-00000010")
    (run / ".run.json.seqkit-0a1b2c3d.tmp").touch()
    code, out, _ = seqkit(capsys, "runs", "prune", "--runs-dir", runs_dir, "--status", "dead", "--force")
    assert (code, out) == (0, f"{run}\n") and not run.exists()
