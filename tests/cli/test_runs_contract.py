"""Runs and cron, rows N1 to N8 and C4 of the command-line contract. Signals and kills: tests/faults/test_signals.py."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from commandline import ForkServer, InProcess, Tiny, snapshot

import seqkit as package

TIMED = {"time", "elapsed", "seconds", "tokens_per_second"}


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]]


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMED}


def test_n1_the_last_line_is_the_run_folder(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    done = seqkit("train", tiny.recipe, "--run-dir", "mine")
    assert (done.code, done.out) == (0, "mine\n")
    told = json.loads(seqkit("train", tiny.recipe, "--run-dir", "other", "--json").out)
    assert told["run_dir"] == "other"
    assert {"step", "epoch", "num_tokens", "best_loss", "best_step", "valid_loss"} <= told["metrics"].keys()
    by_default = seqkit("train", tiny.recipe)
    assert re.fullmatch(re.escape(f"{tmp_path}/runs/tiny/") + r"\d{8}T\d{6}Z-[a-z0-9]{4}\n", by_default.out)


def test_n2_layout(tiny: Tiny) -> None:
    names = {path.name for path in tiny.run.iterdir()}
    assert names - {".lock"} == {
        "recipe.yaml",
        "resolved.yaml",
        "run.json",
        "metrics.jsonl",
        "log.txt",
        "checkpoints",
        "last",
        "best",
    }
    assert (tiny.run / "recipe.yaml").read_bytes() == tiny.recipe.read_bytes()
    assert (tiny.run / "last").readlink() == Path("checkpoints/step-00000012")
    assert (tiny.run / "best").resolve().parent == (tiny.run / "checkpoints").resolve()
    for checkpoint in (tiny.run / "checkpoints").iterdir():
        assert re.fullmatch(r"step-\d{8}", checkpoint.name)


def test_n2_the_resolved_recipe_gives_the_same_run(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("train", tiny.run / "resolved.yaml", "--run-dir", "again", "-q")
    assert done.code == 0
    assert Path("again/resolved.yaml").read_bytes() == (tiny.run / "resolved.yaml").read_bytes()
    assert Path("again/last/model.safetensors").read_bytes() == (tiny.run / "last/model.safetensors").read_bytes()


def test_n3_run_json(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    record = json.loads((tiny.run / "run.json").read_text())
    assert record["command"].startswith(f"seqkit train {tiny.recipe} --runs-dir")
    assert record["seed"] == 7 and record["device"] == "cpu, 1 thread"
    python = ".".join(map(str, sys.version_info[:3]))
    assert record["versions"] == {"seqkit": package.__version__, "python": python, "torch": metadata.version("torch")}
    assert "git_commit" in record and record["start"] <= record["end"]
    assert (record["status"], record["exit_code"]) == ("completed", 0)
    words = ["train", tiny.recipe, "--set", "train.max_steps=100000", "--run-dir", "run"]
    process = fork_server.start(*words, "--cache-dir", tiny.cache, folder=tmp_path)
    process.wait_for("step ")
    running = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (running["status"], running["exit_code"], running["end"]) == ("running", None, None)


def test_n3_the_seed_is_recorded_also_if_drawn(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    recipe = tmp_path / "unseeded.yaml"
    recipe.write_text(tiny.recipe.read_text().replace("seed: 7\n", ""))
    seeds = []
    for name in ("one", "two"):
        assert seqkit("train", recipe, "--run-dir", name).code == 0
        seeds.append(json.loads(Path(name, "run.json").read_text())["seed"])
        assert f"seed: {seeds[-1]}\n" in Path(name, "resolved.yaml").read_text()
    assert seeds[0] != seeds[1]
    assert seqkit("train", recipe, "--seed", seeds[0], "--run-dir", "three").code == 0
    assert [untimed(row) for row in rows_of(Path("three"))] == [untimed(row) for row in rows_of(Path("one"))]
    # A run without a seed of its own goes on with the one it drew.
    assert seqkit("train", recipe, "--run-dir", "two", "--resume").code == 0


def test_n4_metrics(tiny: Tiny) -> None:
    rows = rows_of(tiny.run)
    for row in rows:
        assert list(row)[:4] == ["time", "step", "epoch", "split"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["time"])
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if row["split"] == "valid"] == [4, 8, 12]
    assert all(row["loss"] > 0 for row in rows)


def test_n5_a_checkpoint_can_be_moved(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree((tiny.run / "best").resolve(), moved)
    (moved / "train_state.safetensors").unlink()  # of no use to a filter
    here = ["sample", "--seed", 1, "--prompt", "the", "--model"]
    assert seqkit(*here, moved).out == seqkit(*here, tiny.run).out == seqkit(*here, tiny.run / "best").out
    score = ["evaluate", tiny.text, "--model"]
    assert seqkit(*score, moved).out == seqkit(*score, tiny.run).out
    names = {path.name for path in moved.iterdir()}
    assert names == {"model.safetensors", "tokenizer.json", "recipe.yaml", "model.json", "SHA256SUMS"}
    facts = json.loads((moved / "model.json").read_text())
    assert facts["task"] == "lm" and {"seqkit", "python", "torch"} <= facts["versions"].keys()


def test_n6_the_same_seed_gives_the_same_weights(tiny: Tiny, seqkit: InProcess) -> None:
    for name, seed in (("a", 7), ("b", 8)):
        words = ["train", tiny.recipe, "--seed", seed, "--run-dir", name, "--set", "model.dropout=0.2"]
        assert seqkit(*words).code == 0
        shutil.move(name, name + "1")
        assert seqkit(*words).code == 0
    assert Path("a/last/model.safetensors").read_bytes() == Path("a1/last/model.safetensors").read_bytes()
    assert [untimed(row) for row in rows_of(Path("a"))] == [untimed(row) for row in rows_of(Path("a1"))]
    assert Path("a/last/model.safetensors").read_bytes() != Path("b/last/model.safetensors").read_bytes()


def test_n7_run_dir(tiny: Tiny, seqkit: InProcess) -> None:
    Path("empty").mkdir()
    for name in ("empty", "missing/with/parents"):
        assert seqkit("train", tiny.recipe, "--run-dir", name).code == 0
    before = snapshot(Path("empty"))
    done = seqkit("train", tiny.recipe, "--run-dir", "empty")
    assert done.code == 2 and done.error_line == "empty: this folder is not empty"
    assert "hint: --resume continues the run in it" in done.err
    assert seqkit("train", tiny.recipe, "--run-dir", "empty", "--dry-run").code == 2
    assert snapshot(Path("empty")) == before


def test_n8_resume_starts_then_is_complete_at_once(tiny: Tiny, seqkit: InProcess) -> None:
    words = ["train", tiny.recipe, "--run-dir", "run", "--resume"]
    first = seqkit(*words)
    assert (first.code, first.out) == (0, "run\n")
    before = snapshot(Path("run"))
    second = seqkit(*words)
    assert (second.code, second.out, second.err) == (0, "run\n", "run is complete; nothing to do\n")
    assert snapshot(Path("run")) == before
    assert seqkit(*words, "-q") == type(second)(0, "run\n", "")
    told = json.loads(seqkit(*words, "--json").out)
    assert told["metrics"]["step"] == 12 and told["metrics"]["valid_loss"] > 0


def test_n8_a_changed_recipe_lists_the_keys(tiny: Tiny, seqkit: InProcess) -> None:
    words = ["train", tiny.recipe, "--run-dir", "run", "--resume"]
    assert seqkit(*words).code == 0
    before = snapshot(Path("run"))
    done = seqkit(*words, "--set", "model.d_model=9", "--set", "train.max_steps=99", "--set", "seed=3")
    assert done.code == 2 and done.out == ""
    errors = re.findall(r"^seqkit: error: run: the recipe has changed since this run began: (.*)$", done.err, re.M)
    assert sorted(errors) == ["model.d_model: 8 -> 9", "seed: 7 -> 3", "train.max_steps: 12 -> 99"]
    assert done.err.split("\n")[-2].startswith("hint: change it back")
    assert snapshot(Path("run")) == before


def test_c4_flag_environment_recipe_default(
    tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = seqkit("train", tiny.recipe, "--set", "train.max_steps=1")
    assert Path(done.out.rstrip()).parent == tmp_path / "runs" / "tiny"
    assert (tmp_path / "cache" / "stores").is_dir()
    done = seqkit("train", tiny.recipe, "--set", "train.max_steps=1", "--runs-dir", "flag", "--cache-dir", "store")
    assert done.out.startswith("flag/tiny/") and Path("store/stores").is_dir()
    monkeypatch.delenv("SEQKIT_RUNS_DIR")
    assert seqkit("train", tiny.recipe, "--set", "train.max_steps=1").out.startswith("runs/tiny/")
    monkeypatch.setenv("SEQKIT_DEVICE", "nonsense")
    assert "'nonsense'" in seqkit("train", tiny.recipe).error_line
    assert "'nonsense'" in seqkit("sample", "--model", tiny.run).error_line
    assert seqkit("sample", "--model", tiny.run, "--device", "cpu").code == 0
    monkeypatch.setenv("SEQKIT_MODEL", str(tiny.run))
    monkeypatch.delenv("SEQKIT_DEVICE")
    assert f"model {tiny.run} (SEQKIT_MODEL)\n" in seqkit("sample").err


def test_c4_xdg(tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEQKIT_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert json.loads(seqkit("env", "--json").out)["cache_dir"] == str(tmp_path / "xdg" / "seqkit")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert json.loads(seqkit("env", "--json").out)["cache_dir"] == str(tmp_path / "home" / ".cache" / "seqkit")


def test_the_newest_finished_run_is_the_default_model(tiny: Tiny, seqkit: InProcess) -> None:
    first = seqkit("train", tiny.recipe, "--set", "train.max_steps=1").out.rstrip()
    second = seqkit("train", tiny.recipe, "--set", "train.max_steps=2").out.rstrip()
    assert f"model {second} (newest run)\n" in seqkit("sample").err
    record = Path(second, "run.json")
    record.write_text(record.read_text().replace('"completed"', '"interrupted"'))
    assert f"model {first} (newest run)\n" in seqkit("sample").err
