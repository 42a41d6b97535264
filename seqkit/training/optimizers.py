"""From a recipe's optimizer section to a PyTorch optimizer, fused where the device has it."""

from __future__ import annotations

import torch
from torch import nn

from seqkit.recipe.schema import Adam, AdamW, Optimizer, RmsProp, Sgd


def build_optimizer(config: Optimizer, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimizer; weight decay acts on matrices only, not on biases, gains or initial states.

    Args:
        config: The recipe's ``train.optimizer``.
        model: Its trainable parameters are optimised, each tied one once.
        device: Where they are.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    weight_decay = getattr(config, "weight_decay", 0.0)
    matrices = [p for name, p in parameters.items() if _is_matrix(name, p)]
    others = [p for name, p in parameters.items() if not _is_matrix(name, p)]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = device.type in {"cpu", "cuda"}
    match config:
        case AdamW():
            betas = (config.beta1, config.beta2)
            return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)
        case Adam():
            betas = (config.beta1, config.beta2)
            return torch.optim.Adam(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)
        case Sgd():
            return torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
            )
        case RmsProp():
            return torch.optim.RMSprop(groups, lr=config.lr, alpha=config.alpha, eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use ``learning_rate`` in every parameter group from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    # A learned initial state is one vector a layer, kept as one tensor of several axes.
    return parameter.dim() >= 2 and name.rpartition(".")[2] != "initial"
