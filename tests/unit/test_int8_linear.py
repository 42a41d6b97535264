"""Linear layers in 8 bits: what is lost is rounding, and no row depends on its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seqkit.models.int8_linear import Int8Linear

N, I, O = 7, 24, 5  # noqa: E741 - letters of shapes


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def linear() -> nn.Linear:
    layer = nn.Linear(I, O)
    with torch.no_grad():
        # Outputs of very different sizes, each of which keeps its own precision.
        layer.weight.copy_(random(O, I, seed=1) * torch.tensor([[1e-3], [1.0], [30.0], [1.0], [0.0]]))
        layer.bias.copy_(random(O, seed=2))
    return layer


@pytest.mark.parametrize("factor", [1.0, 0.125, torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])])
@torch.no_grad()
def test_the_error_is_that_of_rounding_both_sides(linear: nn.Linear, factor: float | Tensor) -> None:
    x_NI = random(N, I, seed=3) * torch.logspace(-3, 3, N).unsqueeze(1)
    error_NO = (Int8Linear(linear, factor)(x_NI) - linear(x_NI) * factor).abs()
    # Each of I products is off by half a step of either side at most, and the product of both half steps.
    x_largest_N1 = x_NI.abs().amax(dim=1, keepdim=True)
    largest_NO = x_largest_N1 * linear.weight.abs().amax(dim=1) * factor
    bound_NO = largest_NO * I * (1 / 127 + 1 / (4 * 127**2)) + 1e-5 * (1 + largest_NO)
    assert (error_NO <= bound_NO).all()
    # And it is rounded: not one number in seven rows comes out as it was.
    assert (error_NO[:, 1:4] > 0).all()


@torch.no_grad()
def test_whole_numbers_of_seven_bits_lose_nothing() -> None:
    linear = nn.Linear(3, 2)
    linear.weight.copy_(torch.tensor([[127.0, -3.0, 5.0], [-127.0, 64.0, 0.0]]))
    linear.bias.copy_(torch.tensor([0.5, -2.0]))
    x_NI = torch.tensor([[127.0, 1.0, -2.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(Int8Linear(linear)(x_NI), linear(x_NI))


@torch.no_grad()
def test_a_row_is_the_same_alone_and_beside_others(linear: nn.Linear) -> None:
    layer, x_NI = Int8Linear(linear), random(N, I, seed=4)
    x_NI[3] *= 1e4
    together_NO = layer(x_NI)
    for row in range(N):
        assert torch.equal(layer(x_NI[row : row + 1])[0], together_NO[row])
