"""Attention of steps to a memory: its two layouts and the module that both are of.

Legend: B sources, W hypotheses of each, N = B·W, S source positions, D width, H heads, K head width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seqkit.models.attention import CrossAttention, padding_bias
from seqkit.models.memory_steps import (
    AbsorbedStepMemory,
    ManyStepMemory,
    MemoryAttentionSteps,
    ProjectedStepMemory,
    StepMemory,
)
from seqkit.models.shared_memory import Moves

D, M, H, K, W = 6, 5, 2, 3, 4


def random_attention() -> CrossAttention:
    attention = CrossAttention(D, M, H).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, generator=generator)
    return attention


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def laid_out(attention: CrossAttention, memory_BSM: Tensor, bias_B11S: Tensor | None) -> StepMemory:
    steps = MemoryAttentionSteps(attention)
    return steps.lay_out(steps.project(memory_BSM), bias_B11S)


# A source of as many positions as a head is wide is still absorbed; one more, or another source, and it is not.
@pytest.mark.parametrize(
    ("num_sources", "num_positions", "layout"),
    [
        (1, 2, AbsorbedStepMemory),
        (1, K, AbsorbedStepMemory),
        (1, K + 1, ProjectedStepMemory),
        (7, 2, ProjectedStepMemory),
        (8, 2, ManyStepMemory),
        (8, 17, ManyStepMemory),
    ],
)
@pytest.mark.parametrize("has_padding", [False, True])
@torch.no_grad()
def test_a_step_finds_what_the_module_finds(
    num_sources: int, num_positions: int, layout: type[StepMemory], has_padding: bool
) -> None:
    attention, memory_BSM = random_attention(), random(num_sources, num_positions, M, seed=2)
    x_ND, bias_B11S = random(num_sources * W, D, seed=3), None
    if has_padding:
        mask_BS = torch.ones(num_sources, num_positions, dtype=torch.bool)
        mask_BS[0, -1] = False
        bias_B11S = padding_bias(mask_BS).double()
    memory = laid_out(attention, memory_BSM, bias_B11S)
    assert type(memory) is layout and memory.num_sources == num_sources
    y_ND, look = memory.attend(x_ND)
    weights: list[Tensor] = []
    expected_N1D = attention(x_ND.unsqueeze(1), attention.project_memory(memory_BSM), bias_B11S, weights)
    torch.testing.assert_close(y_ND, expected_N1D.squeeze(1))
    weights_NS = memory.weights(look)
    torch.testing.assert_close(weights_NS, weights[0].mean(dim=1).flatten(0, 1))
    assert bool((weights_NS[0, -1] == 0).item()) == has_padding


@pytest.mark.parametrize("num_sources", [1, 3, 9])
@torch.no_grad()
def test_sources_that_are_kept_are_found_as_before(num_sources: int) -> None:
    attention, memory_BSM = random_attention(), random(num_sources, 2, M, seed=4)
    mask_BS = torch.ones(num_sources, 2, dtype=torch.bool)
    mask_BS[-1, 1] = False
    memory = laid_out(attention, memory_BSM, padding_bias(mask_BS).double())
    x_ND, last = random(num_sources, D, seed=5), num_sources - 1
    y_ND, look = memory.attend(x_ND)
    kept = memory.select(Moves.of(torch.tensor([last, 0])))
    kept_y_ND, kept_look = kept.attend(x_ND[[last, 0]])
    torch.testing.assert_close(kept_y_ND, y_ND[[last, 0]])
    torch.testing.assert_close(kept.weights(kept_look), memory.weights(look)[[last, 0]])


@torch.no_grad()
def test_half_precision_is_not_rounded_once_more() -> None:
    attention = random_attention().bfloat16()
    assert isinstance(laid_out(attention, torch.ones(1, 2, M).bfloat16(), None), ProjectedStepMemory)
