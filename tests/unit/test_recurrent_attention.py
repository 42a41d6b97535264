"""Scores of recurrent attention, and the products whose gradients wait for the end of a loop."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from seqkit.models import recurrent_attention
from seqkit.models.loop_sum import LoopSum
from seqkit.models.recurrent_attention import AttentionLoop, AttentionScore, RecurrentAttention, additive_scores

SCORES: tuple[AttentionScore, ...] = get_args(AttentionScore)
B, W, S, D, M, K = 3, 2, 5, 4, 6, 7
T = 4


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def random_leaf(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("score", SCORES)
def test_weights_worked_by_hand(score: AttentionScore) -> None:
    # h = (2, 0); the memory's vectors are (ln 3 / 2, 9) and (0, 5): with W the identity, scores ln 3 and 0, so
    # weights 3/4 and 1/4. Additive with U = 0, v = (2, 0): scores 2 tanh 2 at both, weights 1/2.
    attention = RecurrentAttention(score, 2, 2).double()
    identity = torch.eye(2, dtype=torch.float64)
    match score:
        case "general":
            attention.key.weight.data.copy_(identity)
        case "additive":
            attention.query.weight.data.copy_(identity)
            attention.key.weight.data.zero_()
            attention.vector.data.copy_(torch.tensor([2.0, 0.0]))
    values_BSM = torch.tensor([[[math.log(3) / 2, 9.0], [0.0, 5.0]]], dtype=torch.float64)
    query_BTD = torch.tensor([[[2.0, 0.0]]], dtype=torch.float64)
    context_BTM, weights_BTS = attention(query_BTD, attention.project_memory(values_BSM), values_BSM, None)
    share = 0.5 if score == "additive" else 0.75
    torch.testing.assert_close(weights_BTS[0, 0], torch.tensor([share, 1 - share], dtype=torch.float64))
    expected = torch.tensor([share * math.log(3) / 2, 9 * share + 5 * (1 - share)], dtype=torch.float64)
    torch.testing.assert_close(context_BTM[0, 0], expected)


@pytest.mark.parametrize("numbers_kept", [2**26, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("score", SCORES)
def test_a_loop_gives_what_all_queries_at_once_give(
    score: AttentionScore, numbers_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_attention, "_NUMBERS_KEPT", numbers_kept)
    d_memory = D if score == "dot" else M
    attention = RecurrentAttention(score, D, d_memory, d_attention=K).double()
    values_BSM, query_NTD = random_leaf(B, S, d_memory, seed=1), random_leaf(B * W, T, D, seed=2)
    bias_B1S = torch.zeros(B, 1, S, dtype=torch.float64)
    bias_B1S[1, 0, 3:] = -torch.inf
    weight_C, weight_W = random_leaf(B * W, T, d_memory, seed=3), random_leaf(B * W, T, S, seed=4)
    leaves = [values_BSM, query_NTD, *attention.parameters()]

    keys_BSK = attention.project_memory(values_BSM)
    context, weights = attention(query_NTD.reshape(B, W * T, D), keys_BSK, values_BSM, bias_B1S)
    context, weights = context.view(B * W, T, -1), weights.view(B * W, T, -1)
    gradients = torch.autograd.grad((context * weight_C).sum() + (weights * weight_W).sum(), leaves)

    keys_BSK = attention.project_memory(values_BSM)
    loop = AttentionLoop(attention, keys_BSK, values_BSM, bias_B1S, num_steps=T, num_rows=B * W)
    steps = [loop(query_ND) for query_ND in query_NTD.unbind(1)]
    loop_context, loop_weights = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
    torch.testing.assert_close(loop_context, context)
    torch.testing.assert_close(loop_weights, weights)
    assert not loop_weights.view(B, W, T, S)[1, :, :, 3:].any()
    loop_loss = (loop_context * weight_C).sum() + (loop_weights * weight_W).sum()
    torch.testing.assert_close(torch.autograd.grad(loop_loss, leaves), gradients)


# All at once; some rows; one row; some queries of one row, with one left over.
@pytest.mark.parametrize("numbers", [2**17, 2 * T * S * K, 1, 3 * S * K])
def test_additive_scores_and_their_gradients_in_chunks(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_attention, "_NUMBERS_PER_CHUNK", numbers)
    query_BTK, keys_BSK, vector_K = random_leaf(B, T, K, seed=1), random_leaf(B, S, K, seed=2), random_leaf(K, seed=3)
    expected_BTS = (query_BTK.unsqueeze(2) + keys_BSK.unsqueeze(1)).tanh() @ vector_K
    scores_BTS = additive_scores(query_BTK, keys_BSK, vector_K)
    torch.testing.assert_close(scores_BTS, expected_BTS)
    weight_BTS = random_leaf(B, T, S, seed=4)
    leaves = [query_BTK, keys_BSK, vector_K]
    gradients = torch.autograd.grad((scores_BTS * weight_BTS).sum(), leaves)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected_BTS * weight_BTS).sum(), leaves))


@pytest.mark.parametrize("is_per_row", [False, True], ids=["weights", "one-matrix-a-row"])
def test_deferred_gradients_are_those_of_autograd(is_per_row: bool) -> None:
    lead = (B, W) if is_per_row else (B,)
    additive = random_leaf(T, *lead, D, seed=1)
    rights = [random_leaf(*((B,) if is_per_row else ()), width, D, seed=width) for width in (D, K)]
    other = random_leaf(*lead, K, seed=2)
    leaves = [additive, other, *rights]

    def run(is_deferred: bool) -> Tensor:
        loop = LoopSum(additive, rights) if is_deferred else None
        h = torch.zeros(*lead, D, dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for step in range(T):
            x = other * h.sum()
            total_sum = loop(h, x) if loop else additive[step] + h @ rights[0] + x @ rights[1]
            h = torch.tanh(total_sum)
            total = total + (step + 1) * h.square().sum() + h.sum()
        return total

    expected, found = run(is_deferred=False), run(is_deferred=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))


def test_a_loop_that_stops_early_or_has_constant_weights() -> None:
    additive, right = random_leaf(T, B, D, seed=1), random_leaf(D, D, seed=2)
    loop = LoopSum(additive, [right])
    y = loop(loop(torch.ones(B, D, dtype=torch.float64)))
    (grad,) = torch.autograd.grad(y.sum(), [right])
    expected = additive[1] + (additive[0] + torch.ones(B, D, dtype=torch.float64) @ right) @ right
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), [right])[0])
    constant = LoopSum(additive, [right.detach()])
    (grad_additive,) = torch.autograd.grad(constant(torch.ones(B, D, dtype=torch.float64)).sum(), [additive])
    assert grad_additive[0].eq(1).all() and not grad_additive[1:].any()


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    with torch.no_grad():
        loop = LoopSum(torch.zeros(T, B, D), [torch.ones(K, D)])
        loop(torch.ones(B, K))
    assert loop._inputs == [[]]


def test_products_run_in_the_autocast_type_and_gradients_come_back_in_the_weights_own() -> None:
    additive, right = torch.zeros(T, B, D, requires_grad=True), torch.randn(K, D, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = LoopSum(additive, [right])(torch.ones(B, K))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert right.grad is not None and right.grad.dtype == torch.float32
    assert (right.grad == B).all()
