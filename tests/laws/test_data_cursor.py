"""The data cursor is exact: whoever makes batches ahead, and wherever a run was stopped, the same batches follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import assert_same_runs, stop_and_resume
from tiny_pairs import pairs_recipe, write_tiny_pairs
from tiny_runs import run_training, tiny_recipe

from seqkit.data import batching, pair_batching, readers, shuffling
from seqkit.recipe.recipe_types import Recipe

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


def pair_recipe(folder: Path, *, dropout: float) -> Recipe:
    write_tiny_pairs(folder)
    text = {"src": str(folder / "tiny.src"), "tgt": str(folder / "tiny.tgt")}
    return pairs_recipe(
        folder,
        model={"dropout": 0.3},
        train=TRAIN,
        data={"train": [text, {**text, "weight": 0.5}], "valid": text, "mix_temperature": 3.0},
        tokenizer={"type": "bpe", "num_merges": 9, "dropout": dropout},
    )


@pytest.mark.parametrize(
    "kind", ["sharded columns", "sharded stride", "mixed windows", "mixed stride", "mixed pairs", "mixed redrawn pairs"]
)
def test_a_resumed_run_meets_the_same_batches(kind: str, tmp_path: Path) -> None:
    recipes: dict[str, Recipe] = {
        "sharded columns": lm_recipe(tmp_path, "truncated", mixed=False),
        "sharded stride": lm_recipe(tmp_path, "stride", mixed=False),
        "mixed windows": lm_recipe(tmp_path, "windows", mixed=True),
        "mixed stride": lm_recipe(tmp_path, "stride", mixed=True),
        "mixed pairs": pair_recipe(tmp_path, dropout=0.0),
        "mixed redrawn pairs": pair_recipe(tmp_path, dropout=0.4),
    }
    whole, _ = run_training(recipes[kind], tmp_path / "whole")
    assert whole.progress.epoch >= 1
    stop_and_resume(recipes[kind], tmp_path / "parts", 1, 7, 8, 13)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_the_number_of_processes_changes_no_bit(tmp_path: Path) -> None:
    recipe = lm_recipe(tmp_path, "truncated", mixed=False)
    folders = []
    for number, workers in enumerate([1, 3]):
        folders.append(tmp_path / str(number) / "run")
        folders[-1].parent.mkdir()
        data = recipe.data.model_copy(update={"workers": workers})
        run_training(recipe.model_copy(update={"data": data}), folders[-1])
    weights = [(folder / "last" / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


def test_pairs_made_ahead_by_a_thread_are_those_made_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pair_recipe(tmp_path, dropout=0.4)
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
