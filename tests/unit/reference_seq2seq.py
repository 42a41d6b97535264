"""Recurrent encoder and decoder equation by equation: one sentence, one step, one position at a time.

Nothing here is fast or clever, and there is no batch and no padding: it is what ``seqkit.models`` is compared with.
Parameters come by the names that the modules have. Legend: S source time, T target time, E embedding width, D hidden
width, M width of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from reference_cells import STEPS, State, Weights
from torch import Tensor

Parameters = dict[str, Tensor]


def layer_weights(parameters: Parameters, prefix: str) -> Weights:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return Weights(*(parameters[f"{prefix}.{name}"] for name in names))


def one_step(cell: str, x_E: Tensor, state: State, weights: Weights) -> State:
    """A step of a single row; state tensors of shape (D,)."""
    new = STEPS[cell](x_E.unsqueeze(0), tuple(tensor.unsqueeze(0) for tensor in state), weights)
    return tuple(tensor.squeeze(0) for tensor in new)


def zero_state(cell: str, weights: Weights) -> State:
    zeros_D = weights.U.new_zeros(weights.U.shape[1])
    return (zeros_D, zeros_D) if cell == "lstm" else (zeros_D,)


def encode(
    parameters: Parameters,
    ids: Sequence[int],
    *,
    cell: str,
    num_layers: int,
    directions: Sequence[bool],
    residual: bool,
) -> tuple[list[Tensor], list[State]]:
    """The memory, a vector of shape (M,) a position, and the last state of each layer."""
    xs = [parameters["embedding.weight"][token] for token in ids]
    last_states: list[State] = []
    for layer in range(num_layers):
        read_by_direction, last_by_direction = [], []
        for direction, is_backward in enumerate(directions):
            weights = layer_weights(parameters, f"layers.{layer}.{direction}.layers.0")
            state = zero_state(cell, weights)
            read = {}
            order = range(len(ids) - 1, -1, -1) if is_backward else range(len(ids))
            for place in order:
                state = one_step(cell, xs[place], state, weights)
                read[place] = state[0]
            read_by_direction.append(read)
            last_by_direction.append(state)
        ys = [torch.cat([read[place] for read in read_by_direction]) for place in range(len(ids))]
        xs = [y + x for y, x in zip(ys, xs, strict=True)] if residual and layer else ys
        last_states.append(tuple(torch.cat(parts) for parts in zip(*last_by_direction, strict=True)))
    return xs, last_states


def score(parameters: Parameters, kind: str, h_D: Tensor, m_M: Tensor) -> Tensor:
    match kind:
        case "dot":
            return (h_D * m_M).sum()
        case "general":
            return h_D @ parameters["source_attention.key.weight"] @ m_M
        case "additive":
            asked = parameters["source_attention.query.weight"] @ h_D
            there = parameters["source_attention.key.weight"] @ m_M + parameters["source_attention.key.bias"]
            return parameters["source_attention.vector"] @ torch.tanh(asked + there)
    raise AssertionError(kind)


def attend(parameters: Parameters, kind: str, h_D: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The context, shape (M,), and the weights, shape (S,)."""
    exponentials = [torch.exp(score(parameters, kind, h_D, m_M)) for m_M in memory]
    total = sum(exponentials)
    weights = [value / total for value in exponentials]
    context = sum(weight * m_M for weight, m_M in zip(weights, memory, strict=True))
    assert isinstance(context, Tensor)
    return context, torch.stack(weights)


def begin(
    parameters: Parameters, bridge: str, cell: str, num_layers: int, memory: Sequence[Tensor], encoder: list[State]
) -> list[State]:
    """The state of each layer before the first token."""
    weights = [layer_weights(parameters, f"stack.layers.{layer}") for layer in range(num_layers)]
    match bridge:
        case "zero":
            return [zero_state(cell, layer) for layer in weights]
        case "copy":
            return list(encoder)
        case "learned":
            summary_M = encoder[-1][0]
            numbers = torch.tanh(parameters["initial.weight"] @ summary_M + parameters["initial.bias"])
            width, parts = weights[0].U.shape[1], 2 if cell == "lstm" else 1
            vectors = [numbers[first : first + width] for first in range(0, len(numbers), width)]
            return [tuple(vectors[layer * parts : (layer + 1) * parts]) for layer in range(num_layers)]
    raise AssertionError(bridge)


def decode(
    parameters: Parameters,
    ids: Sequence[int],
    memory: Sequence[Tensor],
    encoder: list[State],
    *,
    cell: str,
    num_layers: int,
    attention: str,
    feeding: str,
    bridge: str,
    residual: bool,
) -> tuple[Tensor, Tensor | None, list[State]]:
    """What the output layer reads, shape (T, R), the attention weights, shape (T, S), and the last states."""
    states = begin(parameters, bridge, cell, num_layers, memory, encoder)
    summary_M = encoder[-1][0]
    fed = None
    if feeding == "hidden":
        fed = torch.zeros_like(parameters["readout.bias"])
    read, looked = [], []
    for token in ids:
        context = summary_M if attention == "none" and feeding == "context" else None
        if attention != "none" and feeding == "context":
            context, weights = attend(parameters, attention, states[-1][0], memory)
            looked.append(weights)
        if feeding == "context":
            fed = context
        x = parameters["embedding.weight"][token]
        if fed is not None:
            x = torch.cat([x, fed])
        for layer in range(num_layers):
            states[layer] = one_step(cell, x, states[layer], layer_weights(parameters, f"stack.layers.{layer}"))
            x = states[layer][0] + x if residual and layer else states[layer][0]
        if attention != "none" and feeding != "context":
            context, weights = attend(parameters, attention, x, memory)
            looked.append(weights)
        if context is not None:
            x = torch.tanh(parameters["readout.weight"] @ torch.cat([context, x]) + parameters["readout.bias"])
        elif "readout.weight" in parameters:
            x = parameters["readout.weight"] @ x + parameters["readout.bias"]
        if feeding == "hidden":
            fed = x
        read.append(x)
    return torch.stack(read), torch.stack(looked) if looked else None, states
