"""The typed schema of a recipe: every key, its default, its range and what it means.

Defaults live here and nowhere else. Every config is frozen, keyword-only and refuses unknown keys. The
docstring under a field is its description in ``seqkit recipe schema``. This module imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DataSource = str | list[str]
"""``builtin:NAME``, ``catalog:NAME[/SPLIT]``, a path or glob (``.gz`` is read as it is), or a list of these."""


class Config(BaseModel):
    """Base of all configs: frozen, strict about types, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class TextData(Config):
    """Where the text of a language model comes from."""

    train: DataSource
    """Training text: `builtin:NAME`, `catalog:NAME/SPLIT`, a path, a glob, or a list; `.gz` is read as it is."""
    valid: DataSource | None = None
    """Validation text. Without it, the last `valid_fraction` of the training text is held out."""
    test: DataSource | None = None
    """Test text; never read during training, only by `seqkit evaluate --split test`."""
    valid_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the training text's characters, from its end, held out for validation (0.1 without `valid`)."""

    @model_validator(mode="before")
    @classmethod
    def _hold_out_a_tenth(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("valid") is None and value.get("valid_fraction") is None:
            return {**value, "valid_fraction": 0.1}
        return value

    @model_validator(mode="after")
    def _one_validation_set(self) -> TextData:
        if self.valid is not None and self.valid_fraction is not None:
            raise ValueError("give valid or valid_fraction, not both")
        return self


class CharTokenizer(Config):
    """One token a Unicode character."""

    type: Literal["char"]
    """One token a character."""
    unseen: Literal["bytes", "unk", "error"] = "bytes"
    """A character that training did not see: spelled as its UTF-8 bytes, one `<unk>`, or an error."""
    min_frequency: PositiveInt = 1
    """Characters seen fewer times than this in training count as unseen."""


class ByteTokenizer(Config):
    """One token a UTF-8 byte: 256 tokens, no training."""

    type: Literal["byte"]
    """One token a UTF-8 byte."""


class WordTokenizer(Config):
    """One token a blank-separated word, and one `<eos>` a line end."""

    type: Literal["word"]
    """One token a blank-separated word, one `<eos>` a line."""
    max_size: PositiveInt | None = None
    """Keep at most this many words, the most frequent first (ties in code-point order)."""
    min_frequency: PositiveInt = 1
    """Words seen fewer times than this in training become `<unk>`."""
    lowercase: bool = False
    """Lower-case the text first."""


TokenizerConfig = Annotated[CharTokenizer | ByteTokenizer | WordTokenizer, Field(discriminator="type")]


class RecurrentModel(Config):
    """What every recurrent language model shares."""

    num_layers: PositiveInt = 1
    """Recurrent layers, one above the other."""
    d_model: PositiveInt = 256
    """Width of the hidden state of each layer."""
    d_embedding: PositiveInt | None = None
    """Width of the token embedding; null: as wide as `d_model`. A small one makes character models faster."""
    dropout: Probability = 0.0
    """Dropout on the embedding, between layers and before the output (Zaremba et al. 2014)."""
    embedding_dropout: Probability | None = None
    """Dropout on the embedding alone; null: as `dropout`. Character models often do better without."""
    variational_dropout: bool = False
    """Use one dropout mask for all steps of a batch (Gal and Ghahramani 2016), not a new one each step."""
    tie_embeddings: bool = False
    """Share the embedding matrix with the output layer (Press and Wolf 2017)."""
    output_bias: Literal["zero", "unigram"] = "zero"
    """Initial output bias: zero, or the log frequency of each token, which large vocabularies learn slowly."""
    residual: bool = False
    """Add each layer's input to its output, from the second layer on."""
    initial_state: Literal["zero", "learned"] = "zero"
    """State before the first token: zeros, or a trained vector a layer."""
    recurrent_init: Literal["orthogonal", "uniform"] = "orthogonal"
    """Initial recurrent matrices: orthogonal (Saxe et al. 2014), or uniform in ±1/√d_model."""


class RnnModel(RecurrentModel):
    """Vanilla (Elman 1990) recurrent network."""

    type: Literal["rnn"]
    """Vanilla recurrent network (Elman 1990)."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """What the cell applies to the weighted sum."""


class LstmModel(RecurrentModel):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000)."""

    type: Literal["lstm"]
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate (Jozefowicz et al. 2015)."""


class GruModel(RecurrentModel):
    """Gated recurrent unit (Cho et al. 2014)."""

    type: Literal["gru"]
    """Gated recurrent unit (Cho et al. 2014)."""
    reset_gate: Literal["after", "before"] = "after"
    """Reset gate applied after the recurrent product (as cuDNN has it; fast) or before it (Cho et al. 2014)."""


LmModel = Annotated[RnnModel | LstmModel | GruModel, Field(discriminator="type")]


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


Optimizer = Annotated[Sgd | Adam | AdamW | RmsProp, Field(discriminator="type")]


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
    """Cut the learning rate when the validation loss stops falling."""

    type: Literal["plateau"]
    """Cut the learning rate when the validation loss stops falling."""
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
    """A fall in validation loss (nats) smaller than this is no improvement."""


class Training(Config):
    """How long and how to train."""

    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps."""
    max_epochs: PositiveFloat | None = None
    """Stop after this many passes over the training data; may be a fraction."""
    max_minutes: PositiveFloat | None = None
    """Stop after this many minutes of wall-clock time, validation included; set-up is not counted."""
    optimizer: Optimizer = Field(default_factory=lambda: AdamW(type="adamw"))
    """What turns gradients into updates."""
    schedule: Schedule = Field(default_factory=lambda: Constant(type="constant"))
    """The learning rate over time, fitted to the budget."""
    clip_norm: PositiveFloat | None = None
    """Scale gradients down to this global norm (Pascanu et al. 2013)."""
    clip_value: PositiveFloat | None = None
    """Clip every gradient component to ± this value."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of matrix products; auto: bf16 where a start-up probe shows that it pays, else fp32."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; null: at every evaluation. One is always saved at the end."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations on the validation set; null: ten over the budget."""
    log_every: PositiveInt = 50
    """Steps between reports of the training loss."""
    keep_last: PositiveInt = 2
    """Checkpoints to keep, newest first; the best one is always kept too."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated and saved."""
    early_stopping: EarlyStopping | None = None
    """Stop when the validation loss no longer falls."""
    sample_length: NonNegativeInt = 80
    """Tokens of a sample shown at each evaluation; 0 shows none."""
    threads: PositiveInt | None = None
    """CPU threads for arithmetic; null: one a core this process may use."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""

    @model_validator(mode="after")
    def _a_budget(self) -> Training:
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise ValueError("set a budget: max_steps, max_epochs or max_minutes")
        return self


class LmTraining(Training):
    """Training of a language model over a stream of text."""

    batch_size: PositiveInt | None = None
    """Sequences in a batch (32 without `batch_tokens`)."""
    batch_tokens: PositiveInt | None = None
    """Tokens in a batch, instead of `batch_size`: the batch holds batch_tokens // sequence_length sequences."""
    sequence_length: PositiveInt = 64
    """Steps of back-propagation through time."""
    bptt: Literal["truncated", "full", "windows"] = "truncated"
    """truncated: contiguous columns, state carried, gradient cut every `sequence_length`; full: gradient through
    the whole column, one update an epoch; windows: random windows from an empty state."""
    reset_probability: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Chance, for each column of each batch, that its carried state is reset, so that the model learns to begin."""

    @model_validator(mode="before")
    @classmethod
    def _a_batch_size(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("batch_size") is None and value.get("batch_tokens") is None:
            return {**value, "batch_size": 32}
        return value

    @model_validator(mode="after")
    def _one_batch_size(self) -> LmTraining:
        if self.batch_size is not None and self.batch_tokens is not None:
            raise ValueError("give batch_size or batch_tokens, not both")
        if self.batch_tokens is not None and self.batch_tokens < self.sequence_length:
            raise ValueError(f"batch_tokens {self.batch_tokens} is below sequence_length {self.sequence_length}")
        return self

    @property
    def num_columns(self) -> int:
        """Sequences in a batch."""
        if self.batch_size is not None:
            return self.batch_size
        assert self.batch_tokens is not None
        return self.batch_tokens // self.sequence_length


class SampleOptions(Config):
    """Defaults of `seqkit sample` for this model; a flag wins over them."""

    length: PositiveInt = 500
    """New tokens to draw for each sample."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the logits; 0 takes the most likely token every time."""
    top_k: PositiveInt | None = None
    """Draw among the k most likely tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw among the fewest tokens whose probabilities sum to p (Holtzman et al. 2020)."""
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw among tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""
    num_samples: PositiveInt = 1
    """Samples for each prompt."""
    stop: list[str] = []
    """Strings that end a sample; they are not printed."""
    seed: NonNegativeInt | None = None
    """Seed of the draws; null: a new one each time."""


class LmEvaluateOptions(Config):
    """Defaults of `seqkit evaluate` for this model; a flag wins over them."""

    window: PositiveInt | None = None
    """Score in windows of this many tokens."""
    reset_state: bool = False
    """Begin each window from an empty state instead of carrying it on."""


class LmRecipe(Config):
    """A language model: predict the next token."""

    task: Literal["lm"]
    """What the model does: `lm` predicts the next token."""
    seed: NonNegativeInt | None = None
    """Seed of every random choice; null: drawn at the start and recorded."""
    data: TextData
    """Where the text comes from."""
    tokenizer: TokenizerConfig = Field(default_factory=lambda: CharTokenizer(type="char"))
    """What a token is."""
    model: LmModel
    """The network."""
    train: LmTraining
    """How long and how to train."""
    sample: SampleOptions = Field(default_factory=SampleOptions)
    """Defaults of `seqkit sample`."""
    evaluate: LmEvaluateOptions = Field(default_factory=LmEvaluateOptions)
    """Defaults of `seqkit evaluate`."""


Recipe = LmRecipe
"""Any recipe; a union over tasks as more are added."""

RECIPE_TYPES: dict[str, type[LmRecipe]] = {"lm": LmRecipe}
"""Task name to the type that its recipes must have."""
