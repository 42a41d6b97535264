"""Everything that a training run must remember to go on exactly where it stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import torch
from pydantic import TypeAdapter
from torch import nn

from seqkit.training.averaging import WeightAverage
from seqkit.training.pieces import Pieces
from seqkit.training.precision import Precision
from seqkit.training.slices import SliceThreads

if TYPE_CHECKING:
    from seqkit.training.distributed import Team


@dataclass
class Progress:
    """The numbers of a run: where it is in its data and its budget, and how well it did."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Whole passes over the training data done."""
    batch_index: int = 0
    """The next batch of this epoch."""
    elapsed: float = 0.0
    """Seconds of wall-clock time since training began, evaluation included, over all sessions."""
    num_tokens: int = 0
    """Target tokens trained on."""
    window_nats: float = 0.0
    """Sum of the loss since the last report."""
    window_tokens: int = 0
    """Tokens since the last report."""
    num_skipped: int = 0
    """Steps whose fp16 gradients overflowed, so that no update was made."""
    owes_evaluation: bool = False
    """An evaluation is due after this step and not done yet: a signal came while it ran."""
    tenths_passed: int = 0
    """Whole tenths of the budget that the last step left behind."""
    evaluated_step: int = 0
    """The step of the last evaluation."""
    num_evaluations: int = 0
    """Evaluations made."""
    evaluation_seconds: float = 0.0
    """What they took together."""
    last_evaluation_seconds: float = 0.0
    """What the last one took."""
    scores: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation."""
    best_scores: dict[str, float] = field(default_factory=dict)
    """Of the best evaluation so far, by ``train.best_by``."""
    best_step: int | None = None
    """The step it was made at."""
    counted_score: float | None = None
    """The score, of the kind ``train.best_by``, of the last evaluation that early stopping counted as better."""
    num_without_improvement: int = 0
    """Evaluations since then."""
    steps_to_average: list[int] = field(default_factory=list)
    """Of the last checkpoints written at the recipe's own pace, those that ``average_last`` asks for."""
    averaged_steps: list[int] = field(default_factory=list)
    """Steps whose weights the last checkpoint is the mean of; empty while it is that of one step."""
    plateau_factor: float = 1.0
    """Product of the learning-rate cuts so far (plateau schedule)."""
    plateau_wait: int = 0
    """Evaluations without improvement since the last cut."""


@dataclass
class TrainState:
    """Model, optimizer, averages, random states, carried hidden state and progress of one run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: str
    """The precision in use; kept, so that a resumed run does not probe again."""
    average: WeightAverage | None = None
    scaler: torch.amp.GradScaler | None = None
    slices: SliceThreads | None = None
    """Threads that share the rows of a batch, where that pays."""
    pieces: Pieces = field(default_factory=Pieces)
    """Into how many pieces batches are cut, where they do not fit in memory whole."""
    carry: Any = None
    """Hidden state carried from batch to batch; ``None`` before the first."""
    progress: Progress = field(default_factory=Progress)

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and plain values; with it, n more steps give the same bits as without a stop."""
        device = next(self.model.parameters()).device
        tree: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision,
            "carry": self.carry,
            "progress": vars(self.progress).copy(),
            "torch_random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "average": self.average.state_dict() if self.average is not None else None,
            # With averaging, the saved model holds the averages; the weights being trained are kept here.
            "weights": dict(self.model.state_dict()) if self.average is not None else None,
        }
        return tree

    def load_state_dict(self, tree: dict[str, Any], team: Team | None = None) -> None:
        """Go on from a saved tree; the model already holds the checkpoint's weights.

        Args:
            tree: What ``state_dict`` gave, in whatever number of processes.
            team: The processes that go on with it together, if there are several.

        Raises:
            Exception: The tree is not one that ``state_dict`` gave for such a model; what kind of error, who knows.
        """
        device = next(self.model.parameters()).device
        optimizer, carry = tree["optimizer"], tree["carry"]
        if team is not None:
            optimizer, carry = team.optimizer_state(self.optimizer, optimizer), team.rows_of(carry)
        self.optimizer.load_state_dict(optimizer)
        if tree["precision"] not in get_args(Precision):
            raise ValueError(f"no such precision: {tree['precision']!r}")
        self.precision = tree["precision"]
        self.carry = _to_device(carry, device)
        self.progress = _read_progress(tree["progress"])
        if self.scaler is not None:
            self.scaler.load_state_dict(tree["scaler"])
        if self.average is not None:
            self.model.load_state_dict(tree["weights"])
            self.average.load_state_dict(tree["average"])
        torch.set_rng_state(tree["torch_random_state"])
        if tree["cuda_random_state"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(tree["cuda_random_state"], device)


def _read_progress(values: Any) -> Progress:
    """The numbers of a saved run, checked: what is wrong with them would show only much later.

    Raises:
        ValueError: One is of another type, or negative.
        TypeError: They are no mapping, or it has other keys.
    """
    progress = TypeAdapter(Progress).validate_python(vars(Progress(**values)))
    for name, value in vars(progress).items():
        if type(value) is int and value < 0:
            raise ValueError(f"{name} is {value}")
    return progress


def _to_device(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.to(device)
    if isinstance(tree, tuple | list):
        return type(tree)(_to_device(part, device) for part in tree)
    return tree
