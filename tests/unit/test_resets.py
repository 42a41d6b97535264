"""Resets of single columns: drawn from (seed, epoch, index) alone, and a reset row is as good as a new text."""

from __future__ import annotations

import numpy as np
import torch

from seqkit.data.batching import ColumnBatches
from seqkit.models.build import build_language_model
from seqkit.models.recurrent import reset_rows
from seqkit.recipe.schema import LstmModel

IDS = np.arange(5001, dtype=np.uint16) % 7


def _columns(**options: float) -> ColumnBatches:
    return ColumnBatches(IDS, num_columns=5, sequence_length=10, reset_probability=0.3, seed=3, **options)  # type: ignore[arg-type]


def test_resets_are_a_function_of_seed_epoch_and_index() -> None:
    one, two = _columns(), _columns()
    drawn = [(epoch, index, one.batch(epoch, index).resets_B) for epoch in range(2) for index in range(1, 20)]
    for epoch, index, resets_B in reversed(drawn):
        again_B = two.batch(epoch, index).resets_B
        assert (resets_B is None) == (again_B is None)
        if resets_B is not None and again_B is not None:
            assert resets_B.tolist() == again_B.tolist()
    kinds = {None if r is None else tuple(r.tolist()) for _, _, r in drawn}
    assert len(kinds) > 5, "resets differ from batch to batch"


def test_the_share_of_resets_is_the_probability() -> None:
    batches = _columns()
    count = 0
    for index in range(1, batches.num_batches(0)):
        resets_B = batches.batch(0, index).resets_B
        count += 0 if resets_B is None else int(resets_B.sum())
    share = count / (5 * (batches.num_batches(0) - 1))
    assert 0.25 < share < 0.35


def test_no_resets_at_the_start_of_an_epoch_or_without_a_probability() -> None:
    assert _columns().batch(1, 0).resets_B is None
    never = ColumnBatches(IDS, num_columns=5, sequence_length=10)
    assert all(never.batch(0, index).resets_B is None for index in range(never.num_batches(0)))


def test_a_reset_row_goes_on_as_a_new_text_and_the_others_as_before() -> None:
    torch.manual_seed(0)
    config = LstmModel(type="lstm", d_model=6, num_layers=2, initial_state="learned")
    model = build_language_model(config, vocab_size=7)
    assert model.stack.initial is not None
    torch.nn.init.normal_(model.stack.initial)
    before_BT, after_BT = torch.randint(7, (3, 4)), torch.randint(7, (3, 5))
    _, carry = model(before_BT)
    resets_B = torch.tensor([False, True, False])
    mixed = reset_rows(carry, model.initial_state(None, 3), resets_B)
    logits_BTV, _ = model(after_BT, mixed)
    carried_BTV, _ = model(after_BT, carry)
    fresh_BTV, _ = model(after_BT, None)
    torch.testing.assert_close(logits_BTV[[0, 2]], carried_BTV[[0, 2]])
    torch.testing.assert_close(logits_BTV[1], fresh_BTV[1])
    assert not torch.allclose(carried_BTV[1], fresh_BTV[1])
    (gradient,) = torch.autograd.grad(logits_BTV[1].sum(), [model.stack.initial])
    assert gradient.abs().sum() > 0, "a learned initial state is trained by resets"
