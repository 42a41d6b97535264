"""Fully sharded data parallelism (Rajbhandari et al. 2020; PyTorch's FSDP2): each process keeps a part of everything.

Weights, gradients and optimizer states are divided among the processes; a layer's weights are gathered when it runs.
A checkpoint is the same as any other: the parts are gathered, one tensor at a time, in the leader's memory. It then
loads in any number of processes and in every command, moves as one folder, and holds no pickle, as PyTorch's own
format of sharded checkpoints would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from seqkit.models.attention import CrossAttention
from seqkit.models.transformer import TransformerLayer


def shard(step: nn.Module, device: torch.device, size: int) -> None:
    """Divide a model's weights among all processes, in place, and bring them to the device.

    Args:
        step: Holds the model and is what is called: the weights of no layer of a Transformer are gathered while it
            runs.
        device: Where each process trains.
        size: The number of processes.
    """
    mesh = init_device_mesh(device.type, (size,))
    for module in step.modules():
        if isinstance(module, CrossAttention):
            # Called for the memory before its layer is.
            fully_shard(module.key_value, mesh=mesh)
    for module in step.modules():
        if isinstance(module, TransformerLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(step, mesh=mesh)


def gathered(tree: Any, *, keeps: bool) -> Any:
    """A tree in which each sharded tensor is whole and on the CPU; all processes must call it, with equal trees.

    Args:
        tree: Dicts, lists, tuples, tensors and other values.
        keeps: Whether this process wants the result; others get None for each tensor that was sharded.
    """
    if isinstance(tree, dict):
        return {key: gathered(value, keeps=keeps) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value, keeps=keeps) for value in tree)
    if isinstance(tree, DTensor):
        whole: Tensor = tree.full_tensor().detach()
        return whole.cpu() if keeps else None
    return tree


def gathered_weights(model: nn.Module, *, keeps: bool) -> dict[str, Any]:
    """As :func:`gathered` for a model's ``state_dict``; tied weights are one tensor under several names."""
    parameters = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    seen: dict[int, Any] = {}
    weights = {}
    for name, tensor in model.state_dict().items():
        key = parameters.get(name, id(tensor))
        if key not in seen:
            seen[key] = gathered(tensor, keeps=keeps)
        weights[name] = seen[key]
    return weights


def sharded_like(optimizer: torch.optim.Optimizer, tree: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state with whole tensors, divided among the processes as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in tree["param_groups"] for number in group["params"]]
    of_number = dict(zip(numbers, parameters, strict=True))

    def divide(number: int, value: Any) -> Any:
        parameter = of_number[number]
        if not (isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape):
            return value
        mesh: DeviceMesh = parameter.device_mesh
        return distribute_tensor(value.to(parameter.device), mesh, parameter.placements)

    state = {
        number: {key: divide(number, value) for key, value in values.items()}
        for number, values in tree["state"].items()
    }
    return {**tree, "state": state}


class WholeModel:
    """A model of the usual kind on one device, which takes on the weights of the sharded one when it is needed.

    It validates, writes samples and is saved; a model that fits no device would be of no use to other commands
    either.

    Args:
        build: Makes the model on the CPU; draws from the global random state.
        device: Where it is put.
    """

    def __init__(self, build: Callable[[], nn.Module], device: torch.device) -> None:
        self._build = build
        self._device = device
        self._model: nn.Module | None = None

    def holding(self, weights: dict[str, Tensor]) -> nn.Module:
        """The model with these weights, in training mode."""
        if self._model is None:
            # What training draws must not depend on whether it was validated.
            with torch.random.fork_rng(devices=[]):
                self._model = self._build().to(self._device)
        self._model.load_state_dict(weights)
        return self._model
