"""Recurrent encoder, attention and decoder against their equations: values and gradients with the same weights."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from reference_seq2seq import Parameters, decode, encode
from torch import Tensor, nn

from seqkit.models.memory import Memory
from seqkit.models.recurrent import CellName
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.recurrent_encoder import RecurrentEncoder

CELLS: tuple[CellName, ...] = get_args(CellName)
V_SRC, V, E, D = 9, 7, 3, 8
LENGTHS = (5, 2, 5, 1)
T = 6


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def randomise(module: nn.Module, seed: int) -> None:
    """Make every parameter random, biases included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6, generator=generator)


def copied(module: nn.Module) -> Parameters:
    """The parameters as new leaves, by name."""
    return {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}


def random_tensor(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def source_batch() -> tuple[Tensor, Tensor]:
    """Rows of unequal length in no order, padded with random tokens that must not matter, one column too wide."""
    width = max(LENGTHS) + 1
    ids_BS = torch.randint(V_SRC, (len(LENGTHS), width), generator=torch.Generator().manual_seed(3))
    return ids_BS, torch.arange(width) < torch.tensor(LENGTHS).unsqueeze(1)


def assert_same_gradients(module: nn.Module, reference: Parameters) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, reference[name].grad)


@pytest.mark.parametrize("direction", ["forwards", "backwards", "both"])
@pytest.mark.parametrize("keeps_states", [False, True], ids=["", "states"])
@pytest.mark.parametrize(("num_layers", "residual"), [(1, False), (2, False), (3, True)])
@pytest.mark.parametrize("cell", CELLS)
def test_the_encoder_is_that_of_the_equations(
    cell: CellName, num_layers: int, residual: bool, direction: str, keeps_states: bool
) -> None:
    encoder = RecurrentEncoder(
        V_SRC,
        D,
        cell=cell,
        embedding_size=E,
        num_layers=num_layers,
        is_residual=residual,
        is_bidirectional=direction == "both",
        reverses_source=direction == "backwards",
        keeps_states=keeps_states,
    ).double()
    randomise(encoder, seed=1)
    reference = copied(encoder)
    directions = {"forwards": (False,), "backwards": (True,), "both": (False, True)}[direction]
    ids_BS, mask_BS = source_batch()
    memory = encoder(ids_BS, mask_BS)
    assert memory.values_BSM.shape == (len(LENGTHS), ids_BS.size(1), D)
    assert not memory.values_BSM[~mask_BS].any()
    assert (memory.states is not None) == keeps_states
    losses: list[Tensor] = [torch.zeros(()), torch.zeros(())]
    for row, length in enumerate(LENGTHS):
        values, states = encode(
            reference,
            ids_BS[row, :length].tolist(),
            cell=cell,
            num_layers=num_layers,
            directions=directions,
            residual=residual,
        )
        values_SM = torch.stack(values)
        torch.testing.assert_close(memory.values_BSM[row, :length], values_SM)
        torch.testing.assert_close(memory.summary_BM[row], states[-1][0])
        row_states: list[tuple[Tensor, ...]]
        if memory.states is None:
            row_states, states = [(memory.summary_BM[row],)], [states[-1][:1]]
        else:
            row_states = [tuple(tensor[row] for tensor in layer) for layer in memory.states]
        torch.testing.assert_close(row_states, states)
        weight_SM, weight_M = random_tensor(length, D, seed=row), random_tensor(D, seed=row + 10)
        sides = [(memory.values_BSM[row, :length], row_states), (values_SM, states)]
        for number, (outputs, last) in enumerate(sides):
            loss = (outputs * weight_SM).sum()
            for index, layer in enumerate(last):
                loss = loss + sum((index + 1) * (weight_M * part).sum() for part in layer)
            losses[number] = losses[number] + loss
    for loss in losses:
        loss.backward()
    assert_same_gradients(encoder, reference)


_DECODERS: list[tuple[str, str, dict[str, Any]]] = [
    ("none", "none", {"bridge": "copy"}),
    ("none", "none", {"ties_embeddings": True}),
    ("none", "context", {"bridge": "zero", "num_layers": 2}),
    ("dot", "none", {"bridge": "copy", "num_layers": 2}),
    ("dot", "hidden", {"num_layers": 2, "is_residual": True}),
    ("dot", "context", {"bridge": "zero"}),
    ("general", "none", {"num_layers": 2, "is_residual": True}),
    ("general", "hidden", {"bridge": "copy", "ties_embeddings": True}),
    ("general", "context", {"num_layers": 2}),
    ("additive", "none", {"bridge": "zero", "ties_embeddings": True}),
    ("additive", "hidden", {"d_attention": 5}),
    ("additive", "context", {"num_layers": 3, "is_residual": True, "bridge": "copy"}),
]
DECODERS = [{"attention": attention, "feeding": feeding, **more} for attention, feeding, more in _DECODERS]


@pytest.mark.parametrize("options", DECODERS, ids=lambda options: "-".join(str(value) for value in options.values()))
@pytest.mark.parametrize("cell", CELLS)
def test_the_decoder_is_that_of_the_equations(cell: CellName, options: dict[str, Any]) -> None:
    num_layers = options.get("num_layers", 1)
    bridge = options.get("bridge", "learned")
    # As wide as the decoder only where it must be.
    d_memory = D if options["attention"] == "dot" or bridge == "copy" else 6
    decoder = RecurrentDecoder(V, D, cell=cell, d_memory=d_memory, embedding_size=E, **options).double()
    randomise(decoder, seed=2)
    reference = copied(decoder)
    _, mask_BS = source_batch()
    values_BSM = random_tensor(*mask_BS.shape, d_memory, seed=4).requires_grad_()
    states = random_tensor(num_layers, decoder.stack.num_states, len(LENGTHS), d_memory, seed=5).requires_grad_()
    reference_values, reference_states = (tensor.detach().clone().requires_grad_() for tensor in (values_BSM, states))
    memory = Memory(values_BSM, mask_BS, states[-1, 0], tuple(tuple(layer) for layer in states))
    ids_BT = torch.randint(V, (len(LENGTHS), T), generator=torch.Generator().manual_seed(6))

    taken: list[Tensor] = []
    hidden_BTR = decoder.attended_hidden(ids_BT, memory, memory_weights=taken)

    losses: list[Tensor] = [torch.zeros(()), torch.zeros(())]
    for row, length in enumerate(LENGTHS):
        hidden_TR, weights_TS, _ = decode(
            reference,
            ids_BT[row].tolist(),
            list(reference_values[row, :length]),
            [tuple(part[row] for part in layer) for layer in reference_states],
            cell=cell,
            num_layers=num_layers,
            attention=options["attention"],
            feeding=options["feeding"],
            bridge=bridge,
            residual=options.get("is_residual", False),
        )
        torch.testing.assert_close(hidden_BTR[row], hidden_TR)
        weight_TR = random_tensor(*hidden_TR.shape, seed=20 + row)
        losses[0] = losses[0] + (hidden_BTR[row] * weight_TR).sum()
        losses[1] = losses[1] + (hidden_TR * weight_TR).sum()
        if weights_TS is None:
            assert not taken
            continue
        (weights_B1TS,) = taken
        torch.testing.assert_close(weights_B1TS[row, 0, :, :length], weights_TS)
        weight_TS = random_tensor(T, length, seed=30 + row)
        losses[0] = losses[0] + (weights_B1TS[row, 0, :, :length] * weight_TS).sum()
        losses[1] = losses[1] + (weights_TS * weight_TS).sum()
    for loss in losses:
        loss.backward()
    # The output layer took no part, but where its matrix is the embedding.
    for parameter in decoder.output.parameters():
        if parameter.grad is None:
            parameter.grad = torch.ones_like(parameter)
    for name in ("output.weight", "output.bias"):
        if name in reference:
            reference[name].grad = torch.ones_like(reference[name])
    assert_same_gradients(decoder, reference)
    for tensor, other in ((values_BSM, reference_values), (states, reference_states)):
        if other.grad is not None:
            assert tensor.grad is not None
            torch.testing.assert_close(tensor.grad, other.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feeding": "hidden"}, "hidden feeding returns what attention found"),
        ({"bridge": "zero"}, "sees nothing of its source"),
        ({"attention": "dot", "d_memory": 3}, "dot attention needs a memory as wide as the decoder, found 3 and 8"),
        ({"embedding": nn.Embedding(V, E), "embedding_size": 5}, "embedding_size is 5, but the given embedding has 3"),
    ],
)
def test_decoders_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentDecoder(V, D, cell="gru", **options)


def test_encoders_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="need an even width, found 5"):
        RecurrentEncoder(V, 5, cell="gru", is_bidirectional=True)
    with pytest.raises(ValueError, match="reverses_source is for one direction"):
        RecurrentEncoder(V, D, cell="gru", is_bidirectional=True, reverses_source=True)


def test_a_source_without_tokens_and_a_decoder_without_memory_are_refused() -> None:
    encoder = RecurrentEncoder(V, D, cell="gru")
    with pytest.raises(ValueError, match="without a real token"):
        encoder(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match="needs a memory"):
        RecurrentDecoder(V, D, cell="gru").initial_state(None, 2)


@pytest.mark.parametrize(
    ("cell", "options", "found"),
    [
        ("gru", {}, r"\[\[8\]\]"),
        ("lstm", {"num_layers": 2}, r"\[\[8, 8\], \[8, 8\]\]"),
        ("lstm", {"is_bidirectional": True, "d_model": 6}, r"\[\[6, 6\]\]"),
        ("lstm", {"keeps_states": False}, r"\[\]"),
        (None, {}, r"\[\]"),
    ],
)
def test_states_that_cannot_be_copied(cell: CellName | None, options: dict[str, Any], found: str) -> None:
    decoder = RecurrentDecoder(V, D, cell="lstm", bridge="copy")
    ids_BS = torch.zeros(2, 3, dtype=torch.long)
    mask_BS = torch.ones_like(ids_BS, dtype=torch.bool)
    if cell is None:
        memory = Memory(torch.zeros(2, 3, D), mask_BS, torch.zeros(2, D))
    else:
        memory = RecurrentEncoder(V, **{"d_model": D, "cell": cell, "keeps_states": True, **options})(ids_BS, mask_BS)
    with pytest.raises(ValueError, match=rf"found {found}, needed \[\[8, 8\]\]"):
        decoder.initial_state(memory, 2)


@pytest.mark.parametrize("ties", [False, True], ids=["untied", "tied"])
def test_initialisation_is_as_the_table_says(ties: bool) -> None:
    torch.manual_seed(0)
    width, wide, many = 60, 50, 700
    decoder = RecurrentDecoder(
        many,
        width,
        cell="lstm",
        d_memory=70,
        embedding_size=wide,
        attention="additive",
        feeding="hidden",
        ties_embeddings=ties,
    )
    decoder.reset_parameters(recurrent_init="orthogonal", forget_bias=1.5)
    assert decoder.embedding.weight.std().item() == pytest.approx(wide**-0.5 if ties else 1.0, rel=0.02)
    assert (decoder.output.weight is decoder.embedding.weight) == ties
    read = wide if ties else width
    assert decoder.output.weight.shape == (many, read)
    if not ties:
        assert decoder.output.weight.abs().max().item() == pytest.approx(width**-0.5, rel=0.01)
    assert decoder.stack.layers[0].get_parameter("weight_ih_l0").shape == (4 * width, wide + read)
    assert (decoder.stack.layers[0].get_parameter("bias_ih_l0")[width : 2 * width] == 1.5).all()
    assert isinstance(decoder.readout, nn.Linear) and decoder.initial is not None
    for linear, sizes in ((decoder.readout, (read, 70 + width)), (decoder.initial, (2 * width, 70))):
        assert linear.weight.shape == sizes
        assert linear.weight.abs().max().item() == pytest.approx((6 / sum(sizes)) ** 0.5, rel=0.02)
    assert not any(linear.bias.any() for linear in (decoder.readout, decoder.initial, decoder.output))

    encoder = RecurrentEncoder(many, width, cell="lstm", embedding_size=wide, num_layers=2, is_bidirectional=True)
    encoder.reset_parameters(recurrent_init="orthogonal", forget_bias=0.5)
    assert encoder.embedding.weight.std().item() == pytest.approx(1.0, rel=0.02)
    for name, parameter in encoder.named_parameters():
        half = width // 2
        if "weight_hh" in name:
            for gate in parameter.detach().chunk(4):
                torch.testing.assert_close(gate @ gate.T, torch.eye(half), atol=1e-5, rtol=0)
        elif "bias_ih" in name:
            assert (parameter[half : 2 * half] == 0.5).all() and parameter.sum().item() == pytest.approx(half / 2)


def test_an_embedding_may_be_shared_with_the_encoder_and_the_output() -> None:
    encoder = RecurrentEncoder(V, D, cell="gru", embedding_size=E)
    decoder = RecurrentDecoder(V, D, cell="gru", embedding=encoder.embedding, ties_embeddings=True)
    assert decoder.output.weight is decoder.embedding.weight is encoder.embedding.weight
    assert decoder.stack.layers[0].get_parameter("weight_ih_l0").shape == (3 * D, E)
