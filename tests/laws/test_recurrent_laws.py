"""Laws of every recurrent language model: one step at a time, in chunks, in any batch, it computes the same."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from seqkit.models.build import build_language_model
from seqkit.models.dropout import SequenceDropout
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.models.recurrent import detach_state, reset_rows
from seqkit.recipe.schema import RecurrentLm

CELLS: dict[str, dict[str, Any]] = {
    "rnn_tanh": {"type": "rnn"},
    "rnn_relu": {"type": "rnn", "nonlinearity": "relu"},
    "lstm": {"type": "lstm"},
    "gru": {"type": "gru"},
    "gru_before": {"type": "gru", "reset_gate": "before"},
}
DEPTHS: dict[str, dict[str, Any]] = {
    "1": {"num_layers": 1},
    "2": {"num_layers": 2},
    "2res": {"num_layers": 2, "residual": True},
}
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "untied": {},
    "narrow": {"d_embedding": 3},
    "tied": {"tie_embeddings": True},
    "tied-narrow": {"tie_embeddings": True, "d_embedding": 3},
}
STARTS: dict[str, dict[str, Any]] = {"zero": {}, "learned": {"initial_state": "learned"}}
VARIANTS = [
    pytest.param({**CELLS[cell], **DEPTHS[depth], **EMBEDDINGS[tie], **start}, id=f"{cell}-{depth}-{tie}-{name}")
    for number, (cell, depth, tie) in enumerate(product(CELLS, DEPTHS, EMBEDDINGS))
    # Both ways to start for every cell, depth and embedding, but not for every combination of the three.
    for name, start in [list(STARTS.items())[(number + number // 4) % 2]]
]
B, T, V, D = 3, 7, 11, 5
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def build(variant: dict[str, Any], **changed: Any) -> RecurrentLanguageModel:
    """A model in which every parameter, biases and initial state included, is random."""
    config: RecurrentLm = TypeAdapter(RecurrentLm).validate_python({"d_model": D, **variant, **changed})
    model = build_language_model(config, V)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def exact(variant: dict[str, Any]) -> RecurrentLanguageModel:
    """The same in float64, for comparisons without rounding to speak of."""
    return build(variant).double().eval()


def random_ids(*shape: int) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(8))


@every_variant
@torch.no_grad()
def test_a_sequence_at_once_equals_step_by_step(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    logits_BTV, end = model(ids_BT)
    assert logits_BTV.shape == (B, T, V)
    state = model.initial_state(None, B)
    for t in range(T):
        logits_BV, state = model.step(state, ids_BT[:, t])
        torch.testing.assert_close(logits_BV, logits_BTV[:, t])
    torch.testing.assert_close(state, end)


@every_variant
@torch.no_grad()
def test_a_token_changes_no_earlier_logit_and_all_that_follow(variant: dict[str, Any]) -> None:
    model, ids_BT, place = exact(variant), random_ids(9, T), 4
    changed_BT = ids_BT.clone()
    changed_BT[:, place] = (ids_BT[:, place] + 1) % V
    logits_BTV, _ = model(ids_BT)
    changed_BTV, _ = model(changed_BT)
    assert torch.equal(changed_BTV[:, :place], logits_BTV[:, :place])
    # In some row at least: the units of a ReLU network may all be off.
    assert (changed_BTV[:, place:] - logits_BTV[:, place:]).abs().amax(dim=(0, 2)).min() > 1e-9


@every_variant
@torch.no_grad()
def test_chunks_with_the_state_carried_equal_the_whole(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    logits_BTV, end = model(ids_BT)
    state, parts = None, []
    for first, last in pairwise((0, 1, 4, T)):
        part_BTV, state = model(ids_BT[:, first:last], state)
        parts.append(part_BTV)
    torch.testing.assert_close(torch.cat(parts, dim=1), logits_BTV)
    torch.testing.assert_close(state, end)


@every_variant
@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    logits_BTV, end = model(ids_BT)
    for row in range(B):
        alone_1TV, alone = model(ids_BT[row : row + 1])
        torch.testing.assert_close(alone_1TV[0], logits_BTV[row])
        torch.testing.assert_close(alone, model.reorder(end, torch.tensor([row])))


@every_variant
@torch.no_grad()
def test_reordered_states_go_on_as_the_rows_they_came_from(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    _, state = model(ids_BT)
    index_N, token_N = torch.tensor([2, 0, 0, 1]), torch.tensor([1, 4, 9, 6])
    moved = model.reorder(state, index_N)
    logits_NV, moved = model.step(moved, token_N)
    assert logits_NV.shape == (4, V)
    for n, row in enumerate(index_N.tolist()):
        alone = tuple(tuple(tensor[row : row + 1] for tensor in layer) for layer in state)
        logits_1V, alone = model.step(alone, token_N[n : n + 1])
        torch.testing.assert_close(logits_1V[0], logits_NV[n])
        torch.testing.assert_close(alone, model.reorder(moved, torch.tensor([n])))


@every_variant
def test_reset_rows_begin_anew_and_the_others_go_on(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    _, state = model(ids_BT)
    mixed = reset_rows(detach_state(state), model.initial_state(None, B), torch.tensor([False, True, False]))
    logits_BTV, _ = model(ids_BT, mixed)
    torch.testing.assert_close(logits_BTV[[0, 2]], model(ids_BT, state)[0][[0, 2]])
    torch.testing.assert_close(logits_BTV[1], model(ids_BT)[0][1])
    logits_BTV.sum().backward()
    if model.stack.initial is not None:
        gradient = model.stack.initial.grad
        assert gradient is not None and gradient.any(), "a learned state is trained by the rows that begin with it"


@every_variant
def test_fp32_and_bf16_run_forward_and_back(variant: dict[str, Any]) -> None:
    model, ids_BT = build(variant), random_ids(B, T)
    logits_BTV, end = model(ids_BT)
    assert logits_BTV.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_BTV, low_end = model(ids_BT)
        step_BV, _ = model.step(low_end, ids_BT[:, 0])
        (low_BTV.float().logsumexp(-1).sum() + step_BV.float().logsumexp(-1).sum()).backward()
    assert low_BTV.dtype == torch.bfloat16
    # bf16 has 8 bits: after two layers and seven steps logits of some units differ by a few hundredths.
    scale = logits_BTV.abs().max().item()
    torch.testing.assert_close(low_BTV.float(), logits_BTV, atol=0.05 * max(1.0, scale), rtol=0.05)
    for layer, low_layer in zip(end, low_end, strict=True):
        for tensor, low in zip(layer, low_layer, strict=True):
            torch.testing.assert_close(low.float(), tensor, atol=0.05 * max(1.0, scale), rtol=0.05)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("is_variational", [False, True], ids=["plain", "variational"])
def test_dropout_masks(is_variational: bool) -> None:
    torch.manual_seed(9)
    dropout = SequenceDropout(0.4, is_variational=is_variational)
    dropped_BTD = dropout(torch.ones(7, 300, 5))
    kept = dropped_BTD != 0
    # On a CPU the probability is a multiple of 1 / 65,536, and the scale the exact inverse of what is kept.
    scale = 65536 / (65536 - round(0.4 * 65536))
    torch.testing.assert_close(dropped_BTD[kept], torch.full((int(kept.sum()),), scale))
    is_one_mask = bool((kept == kept[:, :1]).all())
    assert is_one_mask == is_variational
    assert not (kept == kept[:1]).all(), "rows have masks of their own"
    assert not (kept == kept[:, :, :1]).all(), "so have components"
    num_draws = 7 * 5 if is_variational else 7 * 300 * 5
    # Five standard deviations of a mean of Bernoulli draws.
    assert abs(kept.double().mean().item() - 0.6) < 5 * (0.24 / num_draws) ** 0.5


@pytest.mark.parametrize("is_variational", [False, True], ids=["plain", "variational"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "gru_before"])
def test_dropout_stands_on_the_embedding_between_layers_and_before_the_output(cell: str, is_variational: bool) -> None:
    torch.manual_seed(10)
    model = build(CELLS[cell], num_layers=2, dropout=0.5, variational_dropout=is_variational).train()
    masks: list[Tensor] = []

    def note_mask(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert (inputs[0] != 0).all()
        masks.append(output != 0)

    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.register_forward_hook(note_mask)
    model(random_ids(B, 13))
    assert len(masks) == 3
    for mask_BTD in masks:
        assert 0 < mask_BTD.double().mean() < 1
        assert bool((mask_BTD == mask_BTD[:, :1]).all()) == is_variational
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])


@pytest.mark.parametrize("is_variational", [False, True], ids=["plain", "variational"])
@pytest.mark.parametrize("cell", list(CELLS))
@torch.no_grad()
def test_dropout_is_off_outside_training(cell: str, is_variational: bool) -> None:
    torch.manual_seed(11)
    ids_BT = random_ids(B, T)
    model = build(CELLS[cell], num_layers=2, dropout=0.5, variational_dropout=is_variational)
    without = build(CELLS[cell], num_layers=2)
    random_state = torch.get_rng_state()
    assert torch.equal(model.eval()(ids_BT)[0], without(ids_BT)[0])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not torch.equal(model.train()(ids_BT)[0], model(ids_BT)[0])


def test_dropout_on_a_cpu_drops_the_right_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropout = SequenceDropout(0.3)
    ones_BTD = torch.ones(50, 40, 101, requires_grad=True)
    dropped_BTD = dropout(ones_BTD)
    share = (dropped_BTD == 0).float().mean().item()
    assert abs(share - 0.3) < 0.005  # 202,000 draws: a standard deviation of 0.001
    kept = dropped_BTD[dropped_BTD != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7), rtol=1e-4, atol=0)
    # Four components share a draw: neighbours must be independent all the same.
    zero_N = (dropped_BTD == 0).flatten().float()
    for distance in (1, 2, 3, 4):
        both = (zero_N[:-distance] * zero_N[distance:]).mean().item()
        assert abs(both - 0.09) < 0.005
    (gradient_BTD,) = torch.autograd.grad(dropped_BTD.sum(), [ones_BTD])
    torch.testing.assert_close(gradient_BTD, dropped_BTD)
