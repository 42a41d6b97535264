"""The data cursor is exact: whoever makes batches ahead, and wherever a run was stopped, the same batches follow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import assert_same_runs, assert_same_tree, metrics, stop_and_resume
from tiny_pairs import pairs_recipe, write_tiny_pairs
from tiny_runs import run_training, tiny_recipe

from seqkit.data import batching, pair_batching, readers, shuffling
from seqkit.errors import InterruptedRunError
from seqkit.recipe.recipe_types import Recipe
from seqkit.runs.checkpoint import read_checkpoint

NUM_STEPS = 18
TRAIN: dict[str, Any] = {
    "max_steps": NUM_STEPS,
    "evaluate_every": 3,
    "log_every": 4,
    "optimizer": {"type": "adamw", "lr": 0.02},
}


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of several shards, orders that are computed, no waiting for the disk."""
    torch.set_num_threads(1)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(readers, "BLOCK_BYTES", 8)
    monkeypatch.setattr(readers, "MARK_BYTES", 40)
    monkeypatch.setattr(batching, "_HELD_IN_MEMORY", 4)
    monkeypatch.setattr(shuffling, "_HELD_IN_MEMORY", 4)


def write_text(path: Path, size: int, seed: int) -> str:
    letters = torch.randint(7, (size,), generator=torch.Generator().manual_seed(seed)).tolist()
    path.write_text("".join("abcdefg"[letter] for letter in letters))
    return str(path)


def lm_recipe(folder: Path, bptt: str, *, mixed: bool) -> Recipe:
    first, second = write_text(folder / "a.txt", 90, 1), write_text(folder / "b.txt", 61, 2)
    train: Any = [{"source": first, "weight": 2}, {"source": second}] if mixed else [first, second]
    return tiny_recipe(
        first,
        model={"type": "lstm", "dropout": 0.3},
        train={**TRAIN, "bptt": bptt},
        data={"train": train, "valid": first, "workers": 2, **({"mix_temperature": 2.0} if mixed else {})},
    )


def pair_recipe(folder: Path, *, mixed: bool, dropout: float) -> Recipe:
    write_tiny_pairs(folder)
    text = {"src": str(folder / "tiny.src"), "tgt": str(folder / "tiny.tgt")}
    data: dict[str, Any] = {"train": text, "valid": text, "workers": 2}
    if mixed:
        data |= {"train": [text, {**text, "weight": 0.5}], "mix_temperature": 3.0}
    return pairs_recipe(
        folder,
        model={"dropout": 0.3},
        train=TRAIN,
        data=data,
        tokenizer={"type": "bpe", "num_merges": 9, "dropout": dropout},
    )


def make_recipe(kind: str, folder: Path) -> Recipe:
    match kind:
        case "sharded columns":
            return lm_recipe(folder, "truncated", mixed=False)
        case "sharded stride":
            return lm_recipe(folder, "stride", mixed=False)
        case "mixed windows":
            return lm_recipe(folder, "windows", mixed=True)
        case "mixed stride":
            return lm_recipe(folder, "stride", mixed=True)
    return pair_recipe(folder, mixed="mixed" in kind, dropout=0.4 if "redrawn" in kind else 0.0)


KINDS = ["sharded columns", "sharded stride", "mixed windows", "mixed stride"]
KINDS += ["sharded pairs", "mixed pairs", "sharded redrawn pairs", "mixed redrawn pairs"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_meets_the_same_batches(kind: str, tmp_path: Path) -> None:
    recipe = make_recipe(kind, tmp_path)
    whole, _ = run_training(recipe, tmp_path / "whole")
    assert whole.progress.epoch >= 1
    stores = "pairs" if "pairs" in kind else "stores"
    assert list((tmp_path / "cache" / stores).glob("*/*.00001.0.bin"))
    stop_and_resume(recipe, tmp_path / "parts", 1, 7, 8, 13)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def with_workers(recipe: Recipe, num_workers: int) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": num_workers})})


@pytest.mark.parametrize("kind", ["sharded columns", "mixed stride", "sharded pairs", "mixed pairs"])
def test_a_run_goes_on_where_nothing_is_cached_with_any_number_of_processes(kind: str, tmp_path: Path) -> None:
    recipe = make_recipe(kind, tmp_path)
    run_training(recipe, tmp_path / "whole")
    run_dir = tmp_path / "elsewhere" / "run"
    run_dir.parent.mkdir()
    with pytest.raises(InterruptedRunError):
        run_training(with_workers(recipe, 1), run_dir, stop_at=7)
    shutil.rmtree(run_dir.parent / "cache")
    run_training(with_workers(recipe, 3), run_dir, resume=True)
    # Not the recipes, which differ in that number.
    for link in ("last", "best"):
        one, other = read_checkpoint(run_dir / link), read_checkpoint(tmp_path / "whole" / link)
        assert_same_tree(one.weights, other.weights, f"{link} weights")
        assert_same_tree(one.train_state, other.train_state, f"{link} state")
    assert metrics(run_dir) == metrics(tmp_path / "whole")


def test_pairs_made_ahead_by_a_thread_are_those_made_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pair_recipe(tmp_path, mixed=True, dropout=0.4)
    run_training(recipe, tmp_path / "ahead")
    calls: list[int] = []
    plain = pair_batching.BucketBatches.batch

    def never_ahead(self: pair_batching.BucketBatches, epoch: int, index: int) -> pair_batching.PairBatch:
        calls.append(epoch)
        self._prepare = None
        return plain(self, epoch, index)

    monkeypatch.setattr(pair_batching.BucketBatches, "batch", never_ahead)
    run_training(recipe, tmp_path / "asked")
    assert max(calls) >= 1
    assert_same_runs(tmp_path / "asked", tmp_path / "ahead")
