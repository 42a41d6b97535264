"""Recurrent layers against their equations: the same outputs, states and gradients with the same weights."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from reference_cells import NUM_GATES, Weights, run_stack
from torch import Tensor, nn

from seqkit.models.build import build_language_model, cell_name, set_unigram_bias
from seqkit.models.recurrent import CellName, RecurrentStack, detach_state
from seqkit.recipe.schema import GruModel, LstmModel, RecurrentLm, RnnModel

CELLS: tuple[CellName, ...] = get_args(CellName)
B, T, E, D = 4, 7, 3, 5


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def random_stack(cell: CellName, *, num_layers: int, is_residual: bool, learns_initial_state: bool) -> RecurrentStack:
    """A stack in float64 whose every parameter, biases and initial state included, is random."""
    stack = RecurrentStack(
        cell, E, D, num_layers=num_layers, is_residual=is_residual, learns_initial_state=learns_initial_state
    ).double()
    generator = torch.Generator().manual_seed(20141)
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.6, generator=generator)
    return stack


def copied_weights(stack: RecurrentStack) -> list[Weights]:
    """Each layer's weights as new leaves."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [Weights(*(leaf(layer.get_parameter(name)) for name in names)) for layer in stack.layers]


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def random_tensor(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("learns_initial_state", [False, True], ids=["given", "learned"])
@pytest.mark.parametrize(("num_layers", "is_residual"), [(1, False), (2, False), (2, True), (3, True)])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_states_and_gradients_are_those_of_the_equations(
    cell: CellName, num_layers: int, is_residual: bool, learns_initial_state: bool
) -> None:
    stack = random_stack(
        cell, num_layers=num_layers, is_residual=is_residual, learns_initial_state=learns_initial_state
    )
    weights = copied_weights(stack)
    assert weights[0].W.shape == (NUM_GATES[cell] * D, E) and weights[-1].U.shape == (NUM_GATES[cell] * D, D)
    x_BTE, reference_x_BTE = (leaf(random_tensor(B, T, E, seed=1)) for _ in range(2))
    num_states = 2 if cell == "lstm" else 1
    if stack.initial is not None:
        begin = stack.initial_state(B)
        initial: Tensor = stack.initial
        reference_initial = leaf(initial)
        reference_begin = [
            tuple(reference_initial[layer, part].repeat(B, 1) for part in range(num_states))
            for layer in range(num_layers)
        ]
    else:
        initial = leaf(random_tensor(num_layers, num_states, B, D, seed=2))
        begin = tuple(tuple(initial[layer, part] for part in range(num_states)) for layer in range(num_layers))
        reference_initial = leaf(initial)
        reference_begin = [tuple(reference_initial[layer]) for layer in range(num_layers)]

    y_BTD, end = stack(x_BTE, begin)
    reference_y_BTD, reference_end = run_stack(cell, weights, reference_x_BTE, reference_begin, is_residual=is_residual)

    assert y_BTD.shape == (B, T, D)
    torch.testing.assert_close(y_BTD, reference_y_BTD)
    assert [len(layer) for layer in end] == [num_states] * num_layers
    torch.testing.assert_close(end, reference_end)

    # Both the outputs and the last states take part in the loss, with different weights everywhere.
    weight_BTD, weight_BD = random_tensor(B, T, D, seed=3), random_tensor(B, D, seed=4)
    for outputs, states in ((y_BTD, end), (reference_y_BTD, reference_end)):
        loss = (outputs * weight_BTD).sum() + sum(
            (index + 1) * (tensor * weight_BD).sum() for index, layer in enumerate(states) for tensor in layer
        )
        loss.backward()
    torch.testing.assert_close(x_BTE.grad, reference_x_BTE.grad)
    torch.testing.assert_close(initial.grad, reference_initial.grad)
    for layer_weights, copied in zip(stack.layers, weights, strict=True):
        for name, tensor in zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), copied, strict=True):
            gradient = layer_weights.get_parameter(name).grad
            assert gradient is not None and gradient.abs().max() > 0
            torch.testing.assert_close(gradient, tensor.grad)


def test_an_lstm_step_worked_by_hand() -> None:
    # One unit, all matrices zero, c = 2, biases i 0, f ln 3, g atanh 0.5, o 0: the gates are 1/2, 3/4, 1/2, 1/2.
    stack = RecurrentStack("lstm", 1, 1).double()
    for parameter in stack.parameters():
        nn.init.zeros_(parameter)
    biases = torch.tensor([0.0, math.log(3), math.atanh(0.5), 0.0], dtype=torch.float64)
    stack.layers[0].get_parameter("bias_ih_l0").data.copy_(biases)
    h_BD, c_BD = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64)
    y_BTD, ((h_BD, c_BD),) = stack(torch.ones(1, 1, 1, dtype=torch.float64), ((h_BD, c_BD),))
    assert c_BD.item() == pytest.approx(0.75 * 2 + 0.5 * 0.5)
    assert h_BD.item() == y_BTD.item() == pytest.approx(0.5 * math.tanh(1.75))


@pytest.mark.parametrize("form", ["gru", "gru_reset_before"])
def test_a_gru_step_worked_by_hand(form: CellName) -> None:
    # One unit, h = 1, r = z = 1/2; U_n = 2 and c_n = 1. Reset after: n = tanh(r (2 h + 1)) = tanh(1.5);
    # reset before: n = tanh(2 (r h) + 1) = tanh(2).
    stack = RecurrentStack(form, 1, 1).double()
    for parameter in stack.parameters():
        nn.init.zeros_(parameter)
    stack.layers[0].get_parameter("weight_hh_l0").data[2] = 2.0
    stack.layers[0].get_parameter("bias_hh_l0").data[2] = 1.0
    _, ((h_BD,),) = stack(torch.ones(1, 1, 1, dtype=torch.float64), ((torch.ones(1, 1, dtype=torch.float64),),))
    n = math.tanh(1.5) if form == "gru" else math.tanh(2.0)
    assert h_BD.item() == pytest.approx(0.5 * n + 0.5)


def test_a_state_begins_as_zeros_or_as_what_was_learned() -> None:
    for cell in CELLS:
        stack = random_stack(cell, num_layers=2, is_residual=False, learns_initial_state=False)
        assert all(not tensor.any() and tensor.shape == (3, D) for layer in stack.initial_state(3) for tensor in layer)
    stack = random_stack("lstm", num_layers=2, is_residual=False, learns_initial_state=True)
    assert stack.initial is not None
    for layer, vectors in zip(stack.initial_state(3), stack.initial, strict=True):
        for tensor, vector_D in zip(layer, vectors, strict=True):
            assert torch.equal(tensor, vector_D.repeat(3, 1))


def test_detached_states_keep_their_numbers_and_lose_their_history() -> None:
    stack = random_stack("lstm", num_layers=2, is_residual=False, learns_initial_state=True)
    _, state = stack(random_tensor(B, T, E, seed=5), stack.initial_state(B))
    assert all(tensor.requires_grad for layer in state for tensor in layer)
    detached = detach_state(state)
    assert not any(tensor.requires_grad for layer in detached for tensor in layer)
    torch.testing.assert_close(detached, state, rtol=0, atol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_initialisation_is_as_the_table_says(cell: CellName) -> None:
    torch.manual_seed(7)
    stack = RecurrentStack(cell, E, D, num_layers=2)
    stack.reset_parameters(recurrent_init="orthogonal", forget_bias=1.5)
    for layer in stack.layers:
        W, U = layer.get_parameter("weight_ih_l0"), layer.get_parameter("weight_hh_l0")
        assert 0 < W.abs().max() <= D**-0.5
        for gate in U.detach().chunk(NUM_GATES[cell]):
            torch.testing.assert_close(gate @ gate.T, torch.eye(D), atol=1e-5, rtol=0)
        expected = torch.zeros(NUM_GATES[cell] * D)
        if cell == "lstm":
            expected[D : 2 * D] = 1.5
        assert torch.equal(layer.get_parameter("bias_ih_l0").detach(), expected)
        assert not layer.get_parameter("bias_hh_l0").any()
    stack.reset_parameters(recurrent_init="uniform")
    for layer in stack.layers:
        uniform = layer.get_parameter("weight_hh_l0").detach()
        assert uniform.abs().max() <= D**-0.5
        assert not torch.allclose(uniform[:D] @ uniform[:D].T, torch.eye(D), atol=1e-2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RnnModel(type="rnn"), "rnn_tanh"),
        (RnnModel(type="rnn", nonlinearity="relu"), "rnn_relu"),
        (LstmModel(type="lstm"), "lstm"),
        (GruModel(type="gru"), "gru"),
        (GruModel(type="gru", reset_gate="before"), "gru_reset_before"),
    ],
)
def test_a_recipe_gets_the_cell_it_names(config: RecurrentLm, expected: str) -> None:
    assert cell_name(config) == expected
    assert build_language_model(config.model_copy(update={"d_model": D}), 3).stack.cell == expected


def test_tied_embeddings_are_one_matrix() -> None:
    # V = 11, E = 3, D = 5: tied, a projection of 5·3 + 3 stands before the shared 11·3 matrix and 11 biases.
    stack_size = sum(p.numel() for p in RecurrentStack("gru", E, D).parameters())
    config = GruModel(type="gru", d_model=D, d_embedding=E)
    tied = build_language_model(config.model_copy(update={"tie_embeddings": True}), 11)
    assert tied.output.weight is tied.embedding.weight
    assert sum(p.numel() for p in tied.parameters()) == stack_size + 11 * E + (D * E + E) + 11
    untied = build_language_model(config, 11)
    assert untied.output.weight.shape == (11, D)
    assert sum(p.numel() for p in untied.parameters()) == stack_size + 11 * E + 11 * D + 11


def test_a_unigram_bias_gives_the_frequencies_before_any_training() -> None:
    model = build_language_model(GruModel(type="gru", d_model=D), 4)
    set_unigram_bias(model, np.array([6, 3, 1, 0]))
    torch.nn.init.zeros_(model.output.weight)
    logits_11V, _ = model(torch.tensor([[2]]))
    torch.testing.assert_close(logits_11V[0, 0].softmax(-1), torch.tensor([6, 3, 1, 0.5]) / 10.5)
