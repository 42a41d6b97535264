"""From a recipe's optimizer section to a PyTorch optimizer, fused where the device has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqkit.models.attention import CrossAttention, SelfAttention
from seqkit.models.cells import GruResetBefore
from seqkit.recipe.training_schema import Adam, AdamW, Muon, Optimizer, RmsProp, Sgd
from seqkit.training import muon


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
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if isinstance(config, Muon):
        groups = _muon_groups(config, model, matrices, others)
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
            # PyTorch 2.13 has no fused one for weights that are divided among processes.
            fused = fused and all(type(parameter.data) is Tensor for parameter in parameters.values())
            return torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
            )
        case RmsProp():
            return torch.optim.RMSprop(groups, lr=config.lr, alpha=config.alpha, eps=config.eps)
        case Muon():
            return muon.Muon(
                groups,
                lr=config.lr,
                momentum=config.momentum,
                num_iterations=config.iterations,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                fused=fused,
            )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use ``learning_rate``, times the group's ``lr_factor`` if it has one, from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_factor", 1.0)


def _muon_groups(
    config: Muon, model: nn.Module, matrices: list[nn.Parameter], others: list[nn.Parameter]
) -> list[dict[str, Any]]:
    """The matrices inside the model, those at its ends (a row a token), and the vectors."""
    at_the_ends: set[int] = set()
    num_blocks: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            at_the_ends.add(id(module.weight))
        elif hasattr(module, "vocab_size") and isinstance(module.output, nn.Linear):
            at_the_ends.add(id(module.output.weight))
        elif isinstance(module, SelfAttention):
            num_blocks[id(module.query_key_value.weight)] = 3
        elif isinstance(module, CrossAttention):
            num_blocks[id(module.key_value.weight)] = 2
        elif isinstance(module, nn.LSTM | nn.GRU | GruResetBefore):
            gates = 4 if isinstance(module, nn.LSTM) else 3
            num_blocks |= {id(parameter): gates for parameter in module.parameters()}
    inside = [p for p in matrices if p.dim() == 2 and id(p) not in at_the_ends]
    chosen = {id(p) for p in inside}
    lr_factor = 1.0 if config.adam_lr is None else config.adam_lr / config.lr
    by_adamw = {"lr": config.lr * lr_factor, "lr_factor": lr_factor}
    return [
        *(
            {
                "params": [p for p in inside if num_blocks.get(id(p), 1) == number],
                "weight_decay": config.weight_decay,
                "orthogonalizes": True,
                "num_blocks": number,
            }
            for number in sorted({num_blocks.get(id(p), 1) for p in inside})
        ),
        {"params": [p for p in matrices if id(p) not in chosen], "weight_decay": config.weight_decay, **by_adamw},
        {"params": others, "weight_decay": 0.0, **by_adamw},
    ]


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    # A learned initial state is one vector a layer, kept as one tensor of several axes.
    return parameter.dim() >= 2 and name.rpartition(".")[2] != "initial"
