"""Slices of a batch side by side: the batch's own gradients, and draws that do not depend on how threads take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqkit.data.batching import LmBatch
from seqkit.data.pair_batching import PairBatch, pair_batch
from seqkit.data.pairs import SentenceStore
from seqkit.errors import RecipeError
from seqkit.models.build import build_language_model, build_seq2seq
from seqkit.models.dropout import SequenceDropout
from seqkit.models.linear_cross_entropy import linear_cross_entropy
from seqkit.recipe.loading import load_recipe
from seqkit.recipe.schema import TransformerLm
from seqkit.recipe.seq2seq_schema import LstmSeq2Seq, TransformerSeq2Seq
from seqkit.tasks.seq2seq import pair_loss
from seqkit.training.loop import LossSum, Objective, backward_batch
from seqkit.training.slices import SliceThreads

CPU = torch.device("cpu")
LENGTHS = [(3, 5), (7, 2), (1, 1), (4, 4), (2, 6), (5, 3), (6, 6)]


@pytest.fixture(autouse=True)
def _keep_the_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pairs() -> PairBatch:
    rng = random.Random(5)
    src = SentenceStore.of([[rng.randrange(2, 11) for _ in range(length)] for length, _ in LENGTHS])
    tgt = SentenceStore.of([[rng.randrange(2, 13) for _ in range(length)] for _, length in LENGTHS])
    return pair_batch((src, tgt), np.arange(len(LENGTHS)), bos_id=0, eos_ids=(1, 1))


def translation_model(dropout: float) -> nn.Module:
    torch.manual_seed(3)
    config = TransformerSeq2Seq(type="transformer", num_layers=1, d_model=8, num_heads=2, dropout=dropout)
    return build_seq2seq(config, 11, 13, is_joint=False)


def translation_loss(model: nn.Module, batch: PairBatch, carry: Any, spent: float) -> LossSum:
    loss, nats, num_tokens = pair_loss(model, batch, label_smoothing=0.1)  # type: ignore[arg-type]
    return LossSum(loss, num_tokens, reported=nats)


def gradients(
    model: nn.Module, batch: Any, objective: Objective, num_slices: int, **options: Any
) -> tuple[dict[str, Tensor], LossSum]:
    model.zero_grad()
    slices = SliceThreads(num_slices) if num_slices > 1 else None
    loss = backward_batch(
        model, batch, None, objective, spent=0.5, precision="fp32", device=CPU, slices=slices, **options
    )
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, loss


@pytest.mark.parametrize("num_slices", [1, 2])
def test_gradients_lie_in_memory_as_their_weights_do(num_slices: int) -> None:
    # PyTorch's fused optimizers read both in the order of memory. A loop over steps leaves a transposed gradient.
    torch.manual_seed(3)
    config = LstmSeq2Seq(type="lstm", d_model=6, attention="general", dropout=0.0)
    model = build_seq2seq(config, 11, 13, is_joint=False)
    found, _ = gradients(model, pairs(), translation_loss, num_slices)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=1.0, fused=True).step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
        torch.testing.assert_close(parameter.detach(), before[name] - found[name])


def test_every_leaves_no_row_and_no_token_out() -> None:
    batch = pairs()
    for step in (2, 3):
        parts = [batch.every(step, first) for first in range(step)]
        assert sum(part.num_rows for part in parts) == batch.num_rows
        for first, part in enumerate(parts):
            for row, number in enumerate(range(first, batch.num_rows, step)):
                for whole, cut, mask in (
                    (batch.src_PS, part.src_PS, part.src_mask_PS),
                    (batch.inputs_PT, part.inputs_PT, part.tgt_mask_PT),
                    (batch.targets_PT, part.targets_PT, part.tgt_mask_PT),
                ):
                    length = int(mask[row].sum())
                    assert cut[row, :length].tolist() == whole[number, :length].tolist()
            assert part.src_mask_PS.sum() == batch.src_mask_PS[first::step].sum()
            assert part.tgt_mask_PT.sum() == batch.tgt_mask_PT[first::step].sum()
            assert part.src_mask_PS.any(axis=0).all() and part.tgt_mask_PT.any(axis=0).all(), "no idle column"


@pytest.mark.parametrize("num_slices", [2, 3])
@pytest.mark.parametrize("divisor", [0, 7])
def test_slices_give_the_gradients_of_the_batch(num_slices: int, divisor: int) -> None:
    model = translation_model(dropout=0.0)
    expected, whole = gradients(model, pairs(), translation_loss, 1, divisor=divisor, num_parts=2)
    found, loss = gradients(model, pairs(), translation_loss, num_slices, divisor=divisor, num_parts=2)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert loss.num_tokens == whole.num_tokens
    assert loss.reported is not None and whole.reported is not None
    torch.testing.assert_close(loss.nats, whole.nats)
    torch.testing.assert_close(loss.reported, whole.reported)
    assert not loss.nats.requires_grad


def test_slices_add_to_the_gradients_that_are_there() -> None:
    model = translation_model(dropout=0.0)
    once, _ = gradients(model, pairs(), translation_loss, 2)
    backward_batch(
        model, pairs(), None, translation_loss, spent=0.5, precision="fp32", device=CPU, slices=SliceThreads(2)
    )
    twice = {name: p.grad / 2 for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(twice, once)


def test_windows_of_a_language_model_are_sliced_too() -> None:
    config = TransformerLm(type="transformer", num_layers=1, d_model=8, num_heads=2, context_length=5)
    torch.manual_seed(3)
    model = build_language_model(config, 7)
    ids = np.random.default_rng(4).integers(0, 7, size=(5, 6))
    batch = LmBatch(inputs_BT=ids[:, :-1], targets_BT=ids[:, 1:], starts_fresh=True)

    def loss(model: Any, batch: LmBatch, carry: Any, spent: float) -> LossSum:
        hidden_BTD, _ = model.hidden(torch.from_numpy(batch.inputs_BT))
        targets_N = torch.from_numpy(batch.targets_BT).flatten()
        nats, _ = linear_cross_entropy(hidden_BTD.flatten(0, 1), model.output.weight, model.output.bias, targets_N)
        return LossSum(nats, len(targets_N))

    expected, _ = gradients(model, batch, loss, 1)
    found, found_loss = gradients(model, batch, loss, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert found_loss.num_tokens == 25 and found_loss.reported is None


def test_dropout_does_not_depend_on_how_threads_take_turns() -> None:
    model = translation_model(dropout=0.4)
    results = []
    for waits in ([0.0, 0.05], [0.05, 0.0]):
        delay = iter(waits)

        def loss(
            model: nn.Module, batch: PairBatch, carry: Any, spent: float, delay: Iterator[float] = delay
        ) -> LossSum:
            time.sleep(next(delay))
            return translation_loss(model, batch, carry, spent)

        torch.manual_seed(11)
        results.append(gradients(model, pairs(), loss, 2)[0])
        after = torch.get_rng_state()
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name
    torch.manual_seed(11)
    torch.randint(2**63 - 1, (2,))
    assert torch.equal(torch.get_rng_state(), after), "nothing but the slices' seeds comes from the global state"
    torch.manual_seed(12)
    other, _ = gradients(model, pairs(), translation_loss, 2)
    assert not torch.equal(other["decoder.embedding.weight"], results[0]["decoder.embedding.weight"])


@pytest.mark.parametrize("is_variational", [False, True])
def test_slices_drop_different_components(is_variational: bool) -> None:
    dropout = SequenceDropout(0.5, is_variational=is_variational)
    weight = nn.Parameter(torch.ones(1))
    seen: dict[int, Tensor] = {}

    def loss(number: int) -> tuple[Tensor, int]:
        y_BTD = dropout(torch.ones(2, 3, 64))
        seen[number] = y_BTD
        return weight.sum(), number

    def first() -> tuple[Tensor, int]:
        return loss(0)

    def second() -> tuple[Tensor, int]:
        return loss(1)

    assert SliceThreads(2).add_gradients([weight], [first, second], lambda _: 0.5) == [0, 1]
    assert weight.grad is not None and weight.grad.item() == 1.0
    assert not torch.equal(seen[0], seen[1])
    assert 0.2 < float((seen[0] == 0).float().mean()) < 0.8


def test_the_other_threads_of_the_process_keep_their_number() -> None:
    torch.set_num_threads(2)
    model = translation_model(dropout=0.0)
    gradients(model, pairs(), translation_loss, 2)
    assert torch.get_num_threads() == 2


def test_an_error_in_a_slice_is_raised() -> None:
    def loss(model: nn.Module, batch: PairBatch, carry: Any, spent: float) -> LossSum:
        raise ValueError("of a slice")

    with pytest.raises(ValueError, match="of a slice"):
        gradients(translation_model(dropout=0.0), pairs(), loss, 2)


@pytest.mark.parametrize(
    ("key", "what"), [("train.bptt=truncated", "carries the state"), ("train.precision=fp16", "gradients are scaled")]
)
def test_what_cannot_be_sliced_is_refused(key: str, what: str) -> None:
    bptt = [] if "bptt" in key else ["train.bptt=windows"]
    with pytest.raises(RecipeError, match=what):
        load_recipe("lstm_charlm", overrides=["train.slices=2", key, *bptt])
