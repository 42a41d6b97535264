"""A batch that does not fit in memory is worked on in pieces: the same gradients, or one line that says what to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pairs import pairs_recipe
from tiny_runs import run_training, tiny_recipe
from torch import nn

from seqkit.errors import OutOfMemoryError
from seqkit.recipe.recipe_types import Recipe
from seqkit.tasks.lm import PreparedLm
from seqkit.tasks.seq2seq import PreparedSeq2Seq
from seqkit.training.pieces import Pieces
from seqkit.training.state import TrainState

torch.set_num_threads(1)

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


class Scarce:
    """A memory that batches of more than so many rows do not fit into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, most_rows: int, error: Exception) -> None:
        self.num_failures = 0
        loss = kind.loss  # type: ignore[attr-defined]

        def scarce_loss(prepared: Any, model: nn.Module, batch: Any, carry: Any, spent: float) -> Any:
            result = loss(prepared, model, batch, carry, spent)
            if batch.num_rows > most_rows:
                self.num_failures += 1
                raise error
            return result

        monkeypatch.setattr(kind, "loss", scarce_loss)


def weights_of(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def pairs(folder: Path, **train: Any) -> Recipe:
    # Not Adam, which makes large steps of the rounding in gradients that are nearly zero.
    sgd = {"type": "sgd", "lr": 0.3}
    train = {"max_steps": 9, "evaluate_every": 9, "optimizer": sgd, **train}
    return pairs_recipe(folder, model={"dropout": 0.0}, train=train)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU), MemoryError()])
@pytest.mark.parametrize("train", [{}, {"accumulate": 2}, {"clip_norm": 0.1}], ids=str)
def test_pieces_make_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, train: dict[str, Any]
) -> None:
    whole, _ = run_training(pairs(tmp_path, **train), tmp_path / "whole")
    scarce = Scarce(monkeypatch, PreparedSeq2Seq, 3, error)
    cut, _ = run_training(pairs(tmp_path, **train), tmp_path / "cut")
    # 7 rows whole, then pieces of 4 and 3, then of at most 2: asked for once each.
    assert cut.pieces.number == 4 and scarce.num_failures == 2
    assert (cut.progress.step, cut.progress.num_tokens) == (whole.progress.step, whole.progress.num_tokens)
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(cut.model.state_dict()[name], tensor, rtol=2e-4, atol=2e-6)


def test_a_warning_says_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Scarce(monkeypatch, PreparedSeq2Seq, 5, RuntimeError(CPU))
    monkeypatch.setattr(logging.getLogger("seqkit"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="seqkit")
    run_training(pairs(tmp_path), tmp_path / "run")
    # A set: where the command line ran in this process before, a record may be noted on two ways.
    (message,) = {record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()}
    assert "batch of 7 rows" in message and "2 pieces" in message and "dropout" in message
    assert "train.batch_size" in message


def test_one_row_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scarce = Scarce(monkeypatch, PreparedSeq2Seq, 0, RuntimeError(CPU))
    with pytest.raises(OutOfMemoryError) as caught:
        run_training(pairs(tmp_path), tmp_path / "run")
    assert "even with one row of a batch at a time" in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint and caught.value.exit_code == 1 and scarce.num_failures == 4


def test_rows_that_carry_state_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text"
    text.write_text("the cat sat on the mat\n" * 20)
    recipe = tiny_recipe(text, model={"type": "gru"}, train={"max_steps": 5})
    Scarce(monkeypatch, PreparedLm, 1, RuntimeError(CPU))
    with pytest.raises(OutOfMemoryError) as caught:
        run_training(recipe, tmp_path / "run")
    assert "carry state" in caught.value.message
    assert caught.value.hint == "lower train.batch_size or train.sequence_length"


def test_windows_of_a_language_model_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text"
    text.write_text("the cat sat on the mat\n" * 20)
    model = {"type": "transformer", "num_layers": 1, "d_model": 8, "num_heads": 2, "dropout": 0.0}
    recipe = tiny_recipe(text, model=model, train={"max_steps": 5, "optimizer": {"type": "sgd", "lr": 0.3}})
    whole, _ = run_training(recipe, tmp_path / "whole")
    Scarce(monkeypatch, PreparedLm, 1, torch.OutOfMemoryError("CUDA out of memory."))
    cut, _ = run_training(recipe, tmp_path / "cut")
    assert cut.pieces.number == 3
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(cut.model.state_dict()[name], tensor, rtol=2e-4, atol=2e-6)


def test_other_errors_pass() -> None:
    def work(num_pieces: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Pieces().run(work, num_rows=lambda: 8, clear=lambda: None)
