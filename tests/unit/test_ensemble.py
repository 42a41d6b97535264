"""Ensembles worked by hand."""

from __future__ import annotations

import pytest
import torch
from fake_models import MemoryModel, random_table
from fake_translator import FakeTranslator

from seqkit.decoding.ensemble import Ensemble
from seqkit.errors import UsageError


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def test_probabilities_are_averaged_not_their_logarithms() -> None:
    first = MemoryModel(torch.tensor([[0.5, 0.25, 0.25]] * 3).log() + 7)
    second = MemoryModel(torch.tensor([[0.1, 0.1, 0.8]] * 3).log() - 7)
    ensemble = Ensemble([first, second])
    logits, _ = ensemble.step(ensemble.initial_state(None, 2), torch.tensor([0, 1]))
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.3, 0.175, 0.525]] * 2))


def test_one_model_keeps_its_logits() -> None:
    table = random_table(5, seed=1)
    ensemble = Ensemble([MemoryModel(table)])
    logits, _ = ensemble.step(ensemble.initial_state(None, 2), torch.tensor([3, 1]))
    assert torch.equal(logits, table[[3, 1]])


def test_states_move_together() -> None:
    models = [MemoryModel(random_table(5, seed=1), memory=2), MemoryModel(random_table(5, seed=2), memory=3)]
    ensemble = Ensemble(models)
    _, state = ensemble.step(ensemble.initial_state(None, 3), torch.tensor([3, 1, 4]))
    logits, _ = ensemble.step(ensemble.reorder(state, torch.tensor([2, 0])), torch.tensor([1, 1]))
    alone = Ensemble(models)
    for row, token in enumerate([4, 3]):
        _, state = alone.step(alone.initial_state(None, 1), torch.tensor([token]))
        torch.testing.assert_close(alone.step(state, torch.tensor([1]))[0][0], logits[row])


def test_unequal_vocabularies_are_refused() -> None:
    ensemble = Ensemble([MemoryModel(random_table(5, seed=1)), MemoryModel(random_table(4, seed=1))])
    with pytest.raises(UsageError, match="one target vocabulary; theirs have 5, 4 tokens"):
        ensemble.step(ensemble.initial_state(None, 1), torch.tensor([0]))


def test_attention_is_averaged_where_all_have_it() -> None:
    first, second = FakeTranslator(6, seed=1), FakeTranslator(6, seed=2)
    ensemble = Ensemble([first, second])
    _, state = ensemble.step(ensemble.initial_state([[3, 4, 5]], 1), torch.tensor([1]))
    weights = ensemble.attention(state)
    assert weights is not None
    torch.testing.assert_close(weights, (state[0].attention_NS + state[1].attention_NS) / 2)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, dtype=torch.float64))
    mixed = Ensemble([MemoryModel(random_table(6, seed=1)), MemoryModel(random_table(6, seed=1))])
    assert mixed.attention(mixed.initial_state(None, 1)) is None
