"""The schema of what every training has: optimizers, learning-rate schedules, budgets, evaluation and devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from seqkit.recipe.config import (
    Config,
    FaultAtKeyError,
    LocalPath,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)


class Sgd(Config):
    """Stochastic gradient descent."""

    type: Literal["sgd"]
    """Stochastic gradient descent."""
    lr: PositiveFloat = 1.0
    """Peak learning rate."""
    momentum: Probability = 0.0
    """Momentum."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty on matrices (not on biases or gains)."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(Config):
    """Adam (Kingma and Ba 2015)."""

    type: Literal["adam"]
    """Adam (Kingma and Ba 2015)."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate."""
    beta1: Probability = 0.9
    """Decay of the first moment."""
    beta2: Probability = 0.99
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"]  # type: ignore[assignment]
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay on matrices (not on biases or gains)."""


class RmsProp(Config):
    """RMSProp (Tieleman and Hinton 2012), as char-rnn used it."""

    type: Literal["rmsprop"]
    """RMSProp (Tieleman and Hinton 2012)."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate."""
    alpha: Probability = 0.95
    """Decay of the squared-gradient average."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


class Muon(Config):
    """Momentum made orthogonal for the matrices inside a model, AdamW for all else (Jordan et al. 2024)."""

    type: Literal["muon"]
    """Momentum made orthogonal for the matrices inside a model, AdamW for all else (Jordan et al. 2024)."""
    lr: PositiveFloat = 4e-3
    """Peak learning rate; updates are as large as AdamW's (Liu et al. 2025), but bear a larger one."""
    momentum: Probability = 0.95
    """Momentum of the matrices, in Nesterov's form."""
    iterations: PositiveInt = 5
    """Newton–Schulz iterations that make a momentum orthogonal."""
    adam_lr: PositiveFloat | None = None
    """Peak learning rate of embeddings, output layer, biases and gains; null: as `lr`."""
    beta1: Probability = 0.9
    """AdamW's decay of the first moment."""
    beta2: Probability = 0.99
    """AdamW's decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's addition to the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay on matrices (not on biases or gains)."""


Optimizer = Annotated[Sgd | Adam | AdamW | RmsProp | Muon, Field(discriminator="type")]


class Warmup(Config):
    """What every schedule shares."""

    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly to its peak."""


class Constant(Warmup):
    """The peak learning rate all the way."""

    type: Literal["constant"]
    """The peak learning rate all the way."""


class Linear(Warmup):
    """A straight line from the peak to `final_fraction` of it at the end of the budget."""

    type: Literal["linear"]
    """A straight line from the peak down, over the budget."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where the line ends, as a fraction of the peak."""


class Cosine(Warmup):
    """Half a cosine from the peak to `final_fraction` of it (Loshchilov and Hutter 2017)."""

    type: Literal["cosine"]
    """Half a cosine from the peak down, over the budget (Loshchilov and Hutter 2017)."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where the curve ends, as a fraction of the peak."""


class InverseSqrt(Warmup):
    """Peak · √(warmup / step) after warm-up (Vaswani et al. 2017)."""

    type: Literal["inverse_sqrt"]
    """Peak · √(warmup_steps / step) after warm-up (Vaswani et al. 2017)."""
    warmup_steps: PositiveInt = 4000
    """Steps over which the learning rate rises linearly to its peak."""


class Plateau(Warmup):
    """Cut the learning rate when validation stops improving."""

    type: Literal["plateau"]
    """Cut the learning rate when validation stops improving, by `best_by`."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """What a cut multiplies the learning rate by."""
    patience: NonNegativeInt = 0
    """Evaluations without improvement that are let pass before a cut."""


Schedule = Annotated[Constant | Linear | Cosine | InverseSqrt | Plateau, Field(discriminator="type")]


class EarlyStopping(Config):
    """When to stop before the budget is spent."""

    patience: PositiveInt
    """Stop after this many evaluations in a row without improvement."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Least improvement that counts, in nats or, with `best_by: bleu`, points of BLEU. It is measured from the last
    evaluation that counted, so that many small gains add up to one that does."""


class Training(Config):
    """How long and how to train."""

    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps."""
    max_epochs: PositiveFloat | None = None
    """Stop after this many passes over the training data; may be a fraction."""
    max_minutes: PositiveFloat | None = None
    """Stop after this many minutes of wall-clock time, validation included but for the last one, which comes after;
    set-up is not counted."""
    init_from: LocalPath | None = None
    """Start from the weights of this run or checkpoint folder, of the same model and tokenizer; everything else, such
    as optimizer and schedule, starts anew. null: from random weights."""
    optimizer: Optimizer = Field(default_factory=lambda: AdamW(type="adamw"))
    """What turns gradients into updates."""
    schedule: Schedule = Field(default_factory=lambda: Constant(type="constant"))
    """The learning rate over time, fitted to the budget."""
    accumulate: PositiveInt = 1
    """Batches whose gradients make one optimizer step, as one batch as large as all of them would: each token counts
    the same. A step ends with its epoch, so the last one of an epoch may have fewer."""
    clip_norm: PositiveFloat | None = None
    """Scale gradients down to this global norm (Pascanu et al. 2013)."""
    clip_value: PositiveFloat | None = None
    """Clip every gradient component to ± this value."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of matrix products; auto: bf16 where a start-up probe shows that it pays, else fp32."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; null: at every evaluation, and at each tenth of the budget without
    `evaluate_every`. One is always saved at the end."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations on the validation set; null: at each tenth of the budget, but for those that would
    bring evaluations above a tenth of the time gone by, where the budget is time."""
    best_by: Literal["loss"] = "loss"
    """Validation score that decides which checkpoint is best, early stopping and the plateau schedule."""
    log_every: PositiveInt = 50
    """Steps between reports of the training loss."""
    keep_last: PositiveInt = 2
    """Checkpoints to keep, newest first; the best one is always kept too."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated and saved."""
    average_last: Annotated[int, Field(ge=2)] | None = None
    """At the end, average the weights of this many of the last checkpoints (written at the recipe's own pace, and kept
    until then), and score that model too. It replaces the last checkpoint if it scores better than that, by
    `best_by`, and is the best one if it scores better than all."""
    early_stopping: EarlyStopping | None = None
    """Stop when validation no longer improves, by `best_by`."""
    sample_length: NonNegativeInt = 80
    """Tokens of a sample shown at each evaluation; 0 shows none."""
    slices: PositiveInt | None = None
    """Slices of each batch that a CPU trains on side by side, a thread each, where no state is carried from batch to
    batch; null: as many as `threads`; 1: all threads share each operation. It changes what dropout draws."""
    threads: PositiveInt | None = None
    """CPU threads for arithmetic; null: one a core this process may use."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes (`--devices`, `torchrun`) share the work; one process takes no notice. ddp: each has the
    whole model; fsdp: weights, gradients and optimizer states are divided among them, for models too large for one.
    Batches are divided either way: their size is that of all processes together. With fsdp, precision auto is bf16 on
    a GPU that has it, else fp32, without a probe."""

    @model_validator(mode="after")
    def _a_budget(self) -> Training:
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise ValueError("set a budget: max_steps, max_epochs or max_minutes")
        if self.precision == "fp16" and self.slices not in (None, 1):
            raise FaultAtKeyError(("slices",), "must be 1 with precision fp16, whose gradients are scaled as one")
        return self

    @model_validator(mode="after")
    def _can_be_divided(self) -> Training:
        needs_whole = {
            "optimizer muon, which needs whole matrices": isinstance(self.optimizer, Muon),
            "precision fp16; use bf16": self.precision == "fp16",
            "ema": self.ema is not None,
            "average_last; `seqkit average` does it afterwards": self.average_last is not None,
            "slices above 1": self.slices not in (None, 1),
        }
        found = [what for what, is_so in needs_whole.items() if is_so]
        if self.parallel == "fsdp" and found:
            raise FaultAtKeyError(("parallel",), f"fsdp does not go with {found[0]}")
        return self
