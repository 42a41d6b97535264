"""8-bit products: how far they are from exact ones, and that a row does not depend on the rows beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seqkit.errors import UsageError
from seqkit.models import int8_layers
from seqkit.models.int8_layers import Int8Linear, check_int8

WIDTHS = [(32, 48), (64, 7), (256, 1000)]


pytestmark = pytest.mark.usefixtures("int8_machine")


def make_layer(num_inputs: int, num_outputs: int) -> nn.Linear:
    torch.manual_seed(3)
    linear = nn.Linear(num_inputs, num_outputs)
    nn.init.normal_(linear.bias)
    return linear


@pytest.mark.parametrize(("num_inputs", "num_outputs"), WIDTHS)
@torch.inference_mode()
def test_no_product_is_further_off_than_two_roundings_can_be(num_inputs: int, num_outputs: int) -> None:
    linear = make_layer(num_inputs, num_outputs)
    x_NI = torch.randn(21, num_inputs) * torch.logspace(-6, 6, 21).unsqueeze(1)
    y_NO, exact_NO = Int8Linear(linear)(x_NI).double(), linear.double()(x_NI.double())
    # Each factor is off by half a step at most.
    x_step_N1 = x_NI.double().abs().amax(dim=1, keepdim=True) / 127
    weight_OI = linear.weight.double()
    weight_step_O = weight_OI.abs().amax(dim=1) / 127
    by_inputs_NO = x_step_N1 / 2 * weight_OI.abs().sum(dim=1)
    by_weights_NO = (x_NI.double().abs().sum(dim=1, keepdim=True) + num_inputs * x_step_N1 / 2) * weight_step_O / 2
    assert ((y_NO - exact_NO).abs() <= (by_inputs_NO + by_weights_NO) * 1.001 + 1e-6).all()
    error_N = (y_NO - exact_NO).norm(dim=1) / (exact_NO - linear.bias.double()).norm(dim=1)
    assert error_N[10:].max() < 0.03, "in all, errors cancel"


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    layer = Int8Linear(make_layer(64, 100))
    x_NI = torch.randn(37, 64)
    x_NI[5] *= 1000
    y_NO = layer(x_NI)
    for row in range(37):
        assert torch.equal(layer(x_NI[row : row + 1])[0], y_NO[row])
    order_N = torch.randperm(37)
    assert torch.equal(layer(x_NI[order_N]), y_NO[order_N])


@torch.inference_mode()
def test_rows_and_outputs_of_zeros() -> None:
    linear = make_layer(16, 8)
    linear.weight[3] = 0.0
    y_NO = Int8Linear(linear)(torch.cat([torch.zeros(1, 16), torch.ones(2, 16)]))
    assert torch.equal(y_NO[0], linear.bias) and bool((y_NO[:, 3] == linear.bias[3]).all())


@torch.inference_mode()
def test_what_is_not_finite_shows() -> None:
    layer = Int8Linear(make_layer(16, 8))
    x_NI = torch.ones(3, 16)
    x_NI[1, 4] = torch.nan
    y_NO = layer(x_NI)
    assert bool(y_NO[1].isnan().all()) and bool(y_NO[[0, 2]].isfinite().all())


def test_machines_whose_sums_are_cut_off_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = int8_layers.multiply
    monkeypatch.setattr(int8_layers, "multiply", lambda *operands: exact(*operands).clamp(max=1000.0))
    with pytest.raises(UsageError, match="no exact products of 8-bit integers"):
        check_int8(torch.device("cpu"))


def test_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match="int8 is for the CPU, not cuda"):
        check_int8(torch.device("cuda"))
