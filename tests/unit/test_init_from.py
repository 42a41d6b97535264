"""Training that starts from the weights of a trained model, and from nothing else of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import InProcess, Tiny
from tiny_runs import run_training, tiny_recipe

from seqkit.errors import UsageError
from seqkit.recipe.schema import LmRecipe
from seqkit.runs.checkpoint import read_checkpoint

TEXT = "abcab abbc\nbca abc\n" * 9


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def recipe_of(folder: Path, model: dict[str, Any] | None = None, **train: Any) -> LmRecipe:
    path = folder / "corpus.txt"
    if not path.exists():
        path.write_text(TEXT)
    defaults = {"max_steps": 3, "optimizer": {"type": "sgd", "lr": 1e-12}}
    return tiny_recipe(path, model={"type": "gru", **(model or {})}, train={**defaults, **train})


def test_the_weights_are_taken_and_nothing_else(tmp_path: Path) -> None:
    first: dict[str, Any] = {"max_steps": 9, "optimizer": {"type": "adamw", "lr": 0.05}, "ema": 0.5}
    run_training(recipe_of(tmp_path, **first), tmp_path / "first")
    given = read_checkpoint(tmp_path / "first")
    # At so low a rate, what comes out is what went in.
    state, _ = run_training(recipe_of(tmp_path, init_from=str(tmp_path / "first")), tmp_path / "second")
    for name, weight in state.model.state_dict().items():
        torch.testing.assert_close(weight, given.weights[name], rtol=1e-6, atol=1e-9)
    assert state.progress.step == 3 and state.progress.epoch == 0 and state.average is None
    fresh, _ = run_training(recipe_of(tmp_path), tmp_path / "fresh")
    assert not torch.allclose(fresh.model.state_dict()["output.weight"], given.weights["output.weight"], atol=1e-3)


def test_a_resumed_run_does_not_start_again(tmp_path: Path) -> None:
    run_training(recipe_of(tmp_path, max_steps=5), tmp_path / "first")
    train: dict[str, Any] = {
        "init_from": str(tmp_path / "first"),
        "max_steps": 6,
        "optimizer": {"type": "adamw", "lr": 0.02},
    }
    recipe = recipe_of(tmp_path, **train)
    whole, _ = run_training(recipe, tmp_path / "whole")
    with pytest.raises(Exception, match="stopped by a signal"):
        run_training(recipe, tmp_path / "parts", stop_at=3)
    # Then not even the folder is needed any more.
    shutil.rmtree(tmp_path / "first")
    parts, _ = run_training(recipe, tmp_path / "parts", resume=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, parts.model.state_dict()[name]), name


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    first = tmp_path / "first"
    run_training(recipe_of(tmp_path), first)
    cases = [
        (recipe_of(tmp_path, init_from=str(tmp_path / "no")), f"cannot start from {tmp_path}/no: no such folder"),
        (
            recipe_of(tmp_path, {"d_embedding": 6}, init_from=str(first)),
            f"cannot start from {first}: the weight embedding.weight is (5, 5) there, (5, 6) in the recipe's model",
        ),
        (
            recipe_of(tmp_path, {"num_layers": 2}, init_from=str(first)),
            "is missing there, (15, 5) in the recipe's model",
        ),
    ]
    for number, (recipe, message) in enumerate(cases):
        with pytest.raises(UsageError) as caught:
            run_training(recipe, tmp_path / f"run{number}")
        assert message in caught.value.message
        assert not (tmp_path / f"run{number}").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "corpus.txt").write_text(TEXT.replace("c", "d"))
    with pytest.raises(UsageError, match="its tokenizer is another one"):
        run_training(recipe_of(other, init_from=str(first)), tmp_path / "run")


def test_the_flag_is_the_key(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    shutil.copytree(tiny.run, tmp_path / "a model: 1")
    done = seqkit("train", tiny.recipe, "--init-from", "a model: 1", "--run-dir", "run", "--set", "train.max_steps=1")
    assert done.code == 0, done.err
    resolved = (tmp_path / "run" / "resolved.yaml").read_text()
    assert f"init_from: '{tmp_path}/a model: 1'\n" in resolved or f'init_from: "{tmp_path}/a model: 1"\n' in resolved
    # One step from there is better than one step from nowhere.
    plain = seqkit("train", tiny.recipe, "--run-dir", "plain", "--set", "train.max_steps=1", "--json")
    loss = json.loads((tmp_path / "run" / "run.json").read_text())["best"]["loss"]
    assert loss < json.loads(plain.out)["metrics"]["best_loss"] - 0.01
    missing = seqkit("train", tiny.recipe, "--init-from", "nothing", "--dry-run")
    assert missing.code == 2 and f"cannot start from {tmp_path}/nothing: no such folder" in missing.error_line
