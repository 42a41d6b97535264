"""``seqkit train``: rows R1, R3, R4, R9 and R10 of the command-line contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commandline import InProcess, Tiny, snapshot

from seqkit.training.events import Event
from seqkit.training.session import Session


def test_r1_a_path_stdin_or_a_shipped_name(tiny: Tiny, seqkit: InProcess) -> None:
    assert seqkit("train", tiny.recipe, "--run-dir", "path").code == 0
    piped = seqkit("train", "-", "--run-dir", "piped", stdin=tiny.recipe.read_bytes())
    assert piped.code == 0
    assert Path("piped/recipe.yaml").read_bytes() == tiny.recipe.read_bytes()
    assert json.loads(Path("piped/run.json").read_text())["recipe"] == "stdin"
    shipped = json.loads(seqkit("train", "hello", "--dry-run", "--json").out)
    assert shipped["task"] == "lm" and "builtin:hello" in shipped["data"]
    # A file of that name wins.
    Path("hello").write_bytes(tiny.recipe.read_bytes())
    assert str(tiny.text) in json.loads(seqkit("train", "hello", "--dry-run", "--json").out)["data"]


def test_r1_the_task_picks_the_code(tiny: Tiny, seqkit: InProcess) -> None:
    recipe = tiny.recipe.read_bytes()
    done = seqkit("train", "-", stdin=recipe.replace(b"task: lm", b"task: ml"))
    assert (
        done.code == 2 and done.error_line.startswith("<stdin>:1:7: task: ") and "did you mean lm?" in done.error_line
    )
    done = seqkit("train", "-", stdin=recipe.replace(b"task: lm\n", b""))
    assert done.code == 2 and "task: missing key" in done.error_line


def test_r3_overrides(tiny: Tiny, seqkit: InProcess) -> None:
    words = ["train", tiny.recipe, "--dry-run", "--json", "--set", "model.d_model=4", "--set", "model.d_model=16"]
    assert json.loads(seqkit(*words, "--set", "model.num_layers=2").out)["model"] == "gru 2×16"
    done = seqkit(*words, "--set", "model.d_modl=4", "--set", "train.max_steps=many")
    assert done.code == 2
    assert done.err.split("\n")[:2] == [
        "seqkit: error: --set model.d_modl: unknown key; did you mean d_model?",
        'seqkit: error: --set train.max_steps: expected a whole number, found the text "many"',
    ]
    assert seqkit(*words, "--set", "sample.stop=['a=b']").code == 0, "split at the first = only"


def test_r4_the_environment_changes_no_hyperparameter(
    tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEQKIT_SEED", "SEQKIT_THREADS", "SEQKIT_D_MODEL", "SEQKIT_MAX_STEPS", "SEQKIT_LENGTH"):
        monkeypatch.setenv(name, "3")
    facts = json.loads(seqkit("train", tiny.recipe, "--dry-run", "--json").out)
    assert facts["model"] == "gru 1×8" and facts["num_steps"] == 12
    done = seqkit("train", tiny.recipe, "--seed", 5, "--set", "seed=6", "--run-dir", "run")
    assert done.code == 0 and json.loads(Path("run/run.json").read_text())["seed"] == 5


def test_r9_a_dry_run_tells_all_and_writes_nothing(
    tiny: Tiny, seqkit: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = snapshot(tmp_path)
    for words in ((), ("--run-dir", "made"), ("--lock", "a-lock"), ("--run-dir", "made", "--resume")):
        done = seqkit("train", tiny.recipe, "--dry-run", *words)
        assert done.code == 0 and done.err == ""
        told = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.out.rstrip("\n").split("\n")}
        assert told["num_parameters"].replace(",", "").isdigit() and told["num_steps"] == "12"
        assert told["run_dir"].startswith("made" if "made" in words else f"{tmp_path}/runs/tiny/")
        after = snapshot(tmp_path)
        after.pop("stdin", None)
        assert after == before
    as_object = json.loads(seqkit("train", tiny.recipe, "--dry-run", "--json").out)
    keys = {"task", "model", "num_parameters", "data", "num_steps", "budget", "device", "precision", "run_dir"}
    assert keys <= as_object.keys()
    assert f"{as_object['num_parameters']:,}" == told["num_parameters"]


@pytest.mark.parametrize(("epochs", "num_steps"), [("2", 4), ("1.5", 3), ("0.25", 1)])
def test_r9_a_dry_run_knows_the_steps_of_accumulated_batches(
    tiny: Tiny, seqkit: InProcess, epochs: str, num_steps: int
) -> None:
    changes = [f"train.max_epochs={epochs}", "train.max_steps=null", "train.evaluate_every=1"]
    batches = json.loads(seqkit("train", tiny.recipe, "--dry-run", "--json").out)["batches_per_epoch"]
    changes.append(f"train.accumulate={batches - 1}")
    words = [word for change in changes for word in ("--set", change)]
    assert json.loads(seqkit("train", tiny.recipe, "--dry-run", "--json", *words).out)["num_steps"] == num_steps
    done = seqkit("train", tiny.recipe, "--json", *words)
    assert done.code == 0 and json.loads(done.out)["metrics"]["step"] == num_steps


def test_r9_a_dry_run_finds_what_training_would(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    recipe = tiny.recipe_with(tmp_path, train="nothing.txt")
    assert seqkit("train", recipe, "--dry-run").code == 2
    assert seqkit("train", tiny.recipe, "--dry-run", "--set", "train.batch_size=4000").code == 1
    assert seqkit("train", tiny.recipe, "--dry-run", "--set", "data.test=nothing.txt").code == 2


def test_r10_relative_paths(tiny: Tiny, seqkit: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CORPUS", "corpora")
    (tmp_path / "corpora").mkdir()
    text = tiny.text.read_bytes()
    for place in (tmp_path / "here.txt", home / "there.txt", tmp_path / "corpora" / "set.txt"):
        place.write_bytes(text)
    weights = []
    for number, (given, absolute) in enumerate(
        [
            ("here.txt", tmp_path / "here.txt"),
            ("~/there.txt", home / "there.txt"),
            ("${CORPUS}/set.txt", tmp_path / "corpora" / "set.txt"),
        ]
    ):
        recipe = tiny.recipe_with(tmp_path, train=given)
        assert seqkit("train", recipe, "--run-dir", f"run{number}").code == 0
        assert f"  train: {absolute}\n" in Path(f"run{number}/resolved.yaml").read_text()
        weights.append(Path(f"run{number}/last/model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    monkeypatch.delenv("CORPUS")
    done = seqkit("train", recipe, "--run-dir", "unset")
    assert done.code == 2 and "CORPUS" in done.error_line and not Path("unset").exists()


def test_a_run_can_be_read_while_the_text_is_gone(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    text = tmp_path / "passing.txt"
    text.write_bytes(tiny.text.read_bytes())
    assert seqkit("train", tiny.recipe_with(tmp_path, train=str(text)), "--run-dir", "run").code == 0
    text.unlink()
    assert seqkit("sample", "--model", "run").code == 0
    assert seqkit("evaluate", "--model", "run", tiny.text).code == 0
    done = seqkit("evaluate", "--model", "run")
    assert done.code == 2 and done.error_line == f"{text}: no such file"


def test_denormal_numbers_count_as_zero_while_it_trains(
    tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Momentum that nothing feeds any more decays through them, and products with them are many times slower."""
    denormal, found = torch.tensor([1e-39, 1e-40]), []
    events = Session.events

    def watched(session: Session) -> Iterator[Event]:
        found.append((denormal * 1.0).tolist())
        yield from events(session)

    monkeypatch.setattr(Session, "events", watched)
    assert seqkit("train", tiny.recipe, "--run-dir", "run").code == 0
    assert found == [[0.0, 0.0]]
    assert all((denormal * 1.0).tolist()), "not beyond training"
