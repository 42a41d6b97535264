"""A run goes on with the texts that it began with, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_pairs import pairs_recipe
from tiny_runs import run_training, tiny_recipe

from seqkit.errors import InterruptedRunError, UsageError
from seqkit.recipe.recipe_types import Recipe

TEXT = "abcab abbc\n" * 12


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def stopped(recipe: Recipe, folder: Path) -> Path:
    with pytest.raises(InterruptedRunError):
        run_training(recipe, folder, stop_at=2)
    return folder


def refusal(recipe: Recipe, folder: Path) -> str:
    before = sorted((folder / "checkpoints").iterdir())
    with pytest.raises(UsageError) as caught:
        run_training(recipe, folder, resume=True)
    assert caught.value.exit_code == 2 and caught.value.hint is not None
    assert sorted((folder / "checkpoints").iterdir()) == before
    return caught.value.message


def test_a_changed_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    recipe = tiny_recipe(path, model={"type": "rnn"}, train={"max_steps": 4})
    run = stopped(recipe, tmp_path / "run")
    # The same characters, so that the tokenizer stays; train and valid are one text, named once.
    path.write_text(TEXT.replace("abcab", "bacab", 1))
    message = refusal(recipe, run)
    assert message.startswith(f"{run}: the text has changed since this run began: data.train (SHA-256 was ")
    assert "data.valid" not in message and message.count("\n") == 0
    path.write_text(TEXT)
    state, _ = run_training(recipe, run, resume=True)
    assert state.progress.step == 4


@pytest.mark.parametrize(("side", "expected"), [("src", "data.train.src (SHA-256"), ("tgt", "data.train.tgt (SHA-256")])
def test_a_changed_side_of_a_parallel_text_is_named(tmp_path: Path, side: str, expected: str) -> None:
    recipe = pairs_recipe(tmp_path, model={}, train={"max_steps": 4})
    run = stopped(recipe, tmp_path / "run")
    path = tmp_path / f"tiny.{side}"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    message = refusal(recipe, run)
    assert expected in message
    assert f"data.train.{'tgt' if side == 'src' else 'src'} " not in message


def test_another_validation_text_is_named(tmp_path: Path) -> None:
    path, other = tmp_path / "corpus.txt", tmp_path / "other.txt"
    path.write_text(TEXT)
    other.write_text("abc abc")
    recipe = tiny_recipe(path, model={"type": "rnn"}, train={"max_steps": 4})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"valid": str(other)})})
    run = stopped(recipe, tmp_path / "run")
    other.write_text("cba cba")
    assert "data.valid (SHA-256 was " in (message := refusal(recipe, run)) and "data.train" not in message
