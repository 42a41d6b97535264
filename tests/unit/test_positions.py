"""Positions: the tables of the papers, their extension, and what rotary ones promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqkit.models.positions import LearnedPositions, RotaryPositions, SinusoidalPositions, sinusoidal_positions

B, H, T, K, D = 2, 3, 5, 6, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def test_the_sinusoidal_table_by_hand() -> None:
    # D = 4: frequencies 1 and 10000^(-2/4) = 0.01, sine and cosine in turn.
    expected = [[math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)] for p in range(3)]
    torch.testing.assert_close(sinusoidal_positions(3, 4), torch.tensor(expected))


def test_a_shift_is_a_rotation_of_the_sinusoids() -> None:
    # Section 3.5: for any offset, position p + offset is a linear function of position p.
    table_PD, offset = sinusoidal_positions(40, 8).double(), 7
    for i in range(4):
        angle = offset * 10_000 ** (-2 * i / 8)
        turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).double()
        pair = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(table_PD[:-offset, pair] @ turn.T, table_PD[offset:, pair], atol=1e-5, rtol=0)


@pytest.mark.parametrize("first", [0, 3, 250, 255, 256, 700])
def test_sinusoidal_positions_are_added_at_any_distance(first: int) -> None:
    x_BTD = random(B, T, D)
    added_BTD = SinusoidalPositions(D)(x_BTD, first) - x_BTD
    expected_TD = sinusoidal_positions(first + T, D)[first:].double()
    torch.testing.assert_close(added_BTD, expected_TD.expand(B, T, D))


def test_a_table_that_grew_gives_what_it_gave_before() -> None:
    module, x_BTD = SinusoidalPositions(D), random(B, T, D)
    before = module(x_BTD, 2)
    assert module(random(B, 300, D)).shape == (B, 300, D)
    assert torch.equal(module(x_BTD, 2), before)
    rotary, x_BHTK = RotaryPositions(K), random(B, H, T, K)
    before = rotary(x_BHTK, 2)
    assert rotary(random(B, H, 300, K)).shape == (B, H, 300, K)
    assert torch.equal(rotary(x_BHTK, 2), before)
    assert not module.state_dict() and not rotary.state_dict(), "tables are no weights"


def test_learned_positions_are_rows_of_a_table_and_end_with_it() -> None:
    module, x_BTD = LearnedPositions(D, 7).double(), random(B, T, D)
    torch.testing.assert_close(module(x_BTD) - x_BTD, module.table.weight[:T].expand(B, T, D))
    torch.testing.assert_close(module(x_BTD, 2) - x_BTD, module.table.weight[2:].expand(B, T, D))
    with pytest.raises(ValueError, match="8 positions, but the model has 7"):
        module(x_BTD, 3)
    module(x_BTD, 1).sum().backward()
    gradient_PD = module.table.weight.grad
    assert gradient_PD is not None
    assert gradient_PD[:, 0].tolist() == [0, B, B, B, B, B, 0]


def test_rotary_positions_turn_points_of_the_plane() -> None:
    x_BHTK = random(B, H, T, K)
    # The same with complex numbers: component f and f + K / 2 are u + iv, which is multiplied by exp(i p θ_f).
    points_BHTF = torch.complex(*x_BHTK.chunk(2, dim=-1))
    theta_F = torch.tensor([10_000 ** (-2 * f / K) for f in range(K // 2)], dtype=torch.float64)
    angle_TF = torch.arange(4, 4 + T)[:, None] * theta_F
    turned_BHTF = points_BHTF * torch.polar(torch.ones_like(angle_TF), angle_TF)
    expected_BHTK = torch.cat([turned_BHTF.real, turned_BHTF.imag], dim=-1)
    torch.testing.assert_close(RotaryPositions(K)(x_BHTK, 4), expected_BHTK, atol=1e-6, rtol=0)


def test_rotary_positions_leave_the_first_and_all_lengths_as_they_are() -> None:
    x_BHTK = random(B, H, T, K)
    turned_BHTK = RotaryPositions(K)(x_BHTK)
    assert torch.equal(turned_BHTK[:, :, 0], x_BHTK[:, :, 0])
    torch.testing.assert_close(turned_BHTK.norm(dim=-1), x_BHTK.norm(dim=-1), atol=1e-6, rtol=1e-6)
    assert (turned_BHTK[:, :, 1:] - x_BHTK[:, :, 1:]).abs().min() > 1e-6


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 400))
def test_rotary_products_depend_on_the_distance_only(i: int, j: int, shift: int) -> None:
    rotary = RotaryPositions(K)
    q_K, k_K = random(1, 1, 1, K, seed=1), random(1, 1, 1, K, seed=2)

    def product(i: int, j: int) -> float:
        return float((rotary(q_K, i) * rotary(k_K, j)).sum())

    # Angles are of fp32, as are those of the model: some hundred radians leave five digits.
    assert product(i, j) == pytest.approx(product(i + shift, j + shift), abs=1e-3)
    # It does depend on the distance: turned by one position more, this product is another.
    assert abs(product(i, j) - product(i + 1, j)) > 1e-3 or abs(product(i, j) - product(i + 2, j)) > 1e-3


def test_the_type_is_kept() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert RotaryPositions(K)(random(B, H, T, K).to(dtype)).dtype == dtype
