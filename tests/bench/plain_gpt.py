"""A small GPT and its training loop in plain PyTorch: the CPU setting that nanoGPT publishes for Tiny Shakespeare.

It stops to estimate its losses as nanoGPT does, which is part of its time. Left out: checkpoints, a log line each
step, and the step that nanoGPT makes after its last estimate. All of it is fp32 and not compiled.

Legend: B windows, T time, D width, H heads, K head width, X a wider inner width, V vocabulary, N tokens of a text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.decoding.model import SequenceModel
from seqkit.decoding.scoring import score_windows

from .equal_time import Outcome
from .sides import note, package_version


@dataclass(frozen=True, kw_only=True)
class PublishedSetting:
    """The published numbers."""

    num_layers: int = 4
    num_heads: int = 4
    d_model: int = 128
    context_length: int = 64
    batch_size: int = 12
    num_iterations: int = 2000
    """Warm-up is a twentieth of them, and estimates are made at each eighth and before the first."""
    num_estimate_batches: int = 20
    """Random batches of either split in an estimate."""
    peak_rate: float = 1e-3
    final_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    init_deviation: float = 0.02
    seed: int = 1337

    def learning_rate(self, iteration: int) -> float:
        """The rate of an iteration (0-based): up in a straight line, then down half a cosine.

        >>> setting = PublishedSetting()
        >>> [round(setting.learning_rate(iteration), 6) for iteration in (0, 49, 100, 1050, 2000)]
        [1e-05, 0.0005, 0.001, 0.00055, 0.0001]
        """
        num_warmups = self.num_iterations // 20
        if iteration < num_warmups:
            return self.peak_rate * (iteration + 1) / num_warmups
        progress = (iteration - num_warmups) / (self.num_iterations - num_warmups)
        return self.final_rate + (self.peak_rate - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))

    def is_estimate_due(self, num_done: int) -> bool:
        """Whether losses are estimated after so many iterations.

        >>> [number for number in range(2001) if PublishedSetting().is_estimate_due(number)]
        [0, 250, 500, 750, 1000, 1250, 1500, 1750, 2000]
        """
        return num_done % max(1, self.num_iterations // 8) == 0 or num_done == self.num_iterations


def renumber(*texts: npt.NDArray[np.integer]) -> tuple[list[Tensor], int]:
    """Ids from 0 on for the tokens that the texts have, in order, and how many there are.

    A tokenizer may keep ids for what it has not seen, such as bytes; nanoGPT counts the characters of the text alone.

    >>> renumber(np.array([7, 260, 7]), np.array([300, 7]))
    ([tensor([0, 1, 0]), tensor([2, 0])], 3)
    """
    kept = np.unique(np.concatenate(texts))
    return [torch.from_numpy(np.searchsorted(kept, ids_N)) for ids_N in texts], len(kept)


class Block(nn.Module):
    """Attention to what came before, then a feed-forward part; each adds to its input, normalised first."""

    def __init__(self, setting: PublishedSetting) -> None:
        super().__init__()
        width = setting.d_model
        self.num_heads = setting.num_heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.feed_forward_input = nn.Linear(width, 4 * width, bias=False)
        self.feed_forward_output = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (B, T, D), as the input."""
        merged_BTX = self.query_key_value(self.attention_norm(x_BTD))
        parts_BTHK = merged_BTX.unflatten(2, (3, self.num_heads, -1)).unbind(2)
        q_BHTK, k_BHTK, v_BHTK = (part_BTHK.transpose(1, 2) for part_BTHK in parts_BTHK)
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTD = x_BTD + self.attention_output(y_BHTK.transpose(1, 2).flatten(2))
        hidden_BTX = F.gelu(self.feed_forward_input(self.feed_forward_norm(x_BTD)))
        y_BTD: Tensor = x_BTD + self.feed_forward_output(hidden_BTX)
        return y_BTD


class PlainGpt(nn.Module):
    """Embedding and learned positions, blocks, a last norm, output layer with the embedding's weights."""

    def __init__(self, vocab_size: int, setting: PublishedSetting) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, setting.d_model)
        self.positions = nn.Embedding(setting.context_length, setting.d_model)
        self.blocks = nn.Sequential(*(Block(setting) for _ in range(setting.num_layers)))
        self.norm = nn.LayerNorm(setting.d_model, bias=False)
        self.output = nn.Linear(setting.d_model, vocab_size, bias=False)
        self.output.weight = self.embedding.weight
        self._init_weights(setting)

    def _init_weights(self, setting: PublishedSetting) -> None:
        """Draw the matrices: normal, narrower for the ends of branches, of which there are two a layer (GPT-2)."""
        generator = torch.Generator().manual_seed(setting.seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            ends_branch = name.endswith(("attention_output.weight", "feed_forward_output.weight"))
            shrink = math.sqrt(2 * setting.num_layers) if ends_branch else 1.0
            nn.init.normal_(parameter, std=setting.init_deviation / shrink, generator=generator)

    def forward(self, ids_BT: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Logits of shape (B, T, V), and no state: the form that scoring calls."""
        positions_TD = self.positions.weight[: ids_BT.shape[1]]
        x_BTD = self.blocks(self.embedding(ids_BT) + positions_TD)
        return self.output(self.norm(x_BTD)), None


def optimizer_of(model: PlainGpt, setting: PublishedSetting) -> torch.optim.AdamW:
    """AdamW as PyTorch has it by default; matrices decay, gains do not."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.dim() >= 2],
            "weight_decay": setting.weight_decay,
        },
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=setting.peak_rate, betas=setting.betas)


def train_plain(
    train_ids_N: Tensor, valid_ids_N: Tensor, vocab_size: int, setting: PublishedSetting
) -> tuple[PlainGpt, Outcome]:
    """All iterations, however long they take.

    Args:
        train_ids_N: The training text.
        valid_ids_N: The validation text.
        vocab_size: V.
        setting: Sizes and rates.

    Returns:
        The model with its last weights, and what it took; ``validations`` are its estimates, the training loss's too.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    model = PlainGpt(vocab_size, setting).train()
    optimizer = optimizer_of(model, setting)
    outcome = Outcome(
        version=package_version("torch"),
        settings=f"AdamW, fp32, {setting.num_iterations:,} iterations, as nanoGPT's CPU setting",
    )
    began = time.monotonic()

    def take_estimates() -> None:
        """Measure both losses, and the time that it takes."""
        started = time.monotonic()
        losses = [estimate(model, ids_N, setting, generator) for ids_N in (train_ids_N, valid_ids_N)]
        now = time.monotonic()
        outcome.valid_seconds += now - started
        outcome.validations.append({"elapsed": now - began, "loss": losses[1], "train_loss": losses[0]})
        note(
            f"plain loop: {now - began:.0f} s, step {outcome.steps:,}, estimates {losses[0]:.4f}, {losses[1]:.4f} nats"
        )

    take_estimates()
    for iteration in range(setting.num_iterations):
        for group in optimizer.param_groups:
            group["lr"] = setting.learning_rate(iteration)
        inputs_BT, targets_BT = random_windows(train_ids_N, setting, generator)
        loss = _loss(model, inputs_BT, targets_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), setting.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        outcome.steps += 1
        outcome.num_tokens += targets_BT.numel()
        if setting.is_estimate_due(outcome.steps):
            take_estimates()
    outcome.seconds = time.monotonic() - began
    return model, outcome


@torch.no_grad()
def estimate(model: PlainGpt, ids_N: Tensor, setting: PublishedSetting, generator: torch.Generator) -> float:
    """Nats per token over a few random batches."""
    batches = (random_windows(ids_N, setting, generator) for _ in range(setting.num_estimate_batches))
    return _mean(float(_loss(model, inputs_BT, targets_BT)) for inputs_BT, targets_BT in batches)


def random_windows(ids_N: Tensor, setting: PublishedSetting, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows from random places, and the token after each of theirs; both of shape (B, T)."""
    length = setting.context_length
    begin_B = torch.randint(len(ids_N) - length, (setting.batch_size,), generator=generator)
    windows_BT = ids_N[begin_B[:, None] + torch.arange(length + 1)]
    return windows_BT[:, :-1], windows_BT[:, 1:]


def score_plain(model: PlainGpt, ids_N: Tensor, vocab_size: int, *, overlaps: bool) -> float:
    """Nats per token of a whole text in windows as wide as the model's context; they may overlap by half."""
    total = score_windows(
        # Scoring calls a model and no more; the plain one has no other of its methods.
        cast(SequenceModel, model.eval()),
        ids_N.numpy(),
        window=model.positions.num_embeddings,
        device=torch.device("cpu"),
        vocab_size=vocab_size,
        overlaps=overlaps,
    )
    return total.nats / total.num_tokens


def _loss(model: PlainGpt, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    logits_BTV, _ = model(inputs_BT)
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
