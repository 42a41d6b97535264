"""The typed schema of a recipe: every key, its default, its range and what it means.

Defaults live here and nowhere else. Every config is frozen, keyword-only and refuses unknown keys. The
docstring under a field is its description in ``seqkit recipe schema``. This module imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from seqkit.recipe.config import (
    Config,
    DataSource,
    FaultAtKeyError,
    LocalPath,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from seqkit.recipe.tokenizer_schema import CharTokenizer, TokenizerConfig


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


RecurrentLm = RnnModel | LstmModel | GruModel


class TransformerLm(Config):
    """Causal Transformer, a GPT (Vaswani et al. 2017; Radford et al. 2018)."""

    type: Literal["transformer"]
    """Causal Transformer, a GPT (Vaswani et al. 2017; Radford et al. 2018)."""
    num_layers: PositiveInt = 4
    """Layers, one above the other."""
    d_model: PositiveInt = 256
    """Width of the embedding and of the layers."""
    num_heads: PositiveInt = 4
    """Attention heads; they divide `d_model`."""
    d_feed_forward: PositiveInt | None = None
    """Width of the feed-forward parts; null: four times `d_model`."""
    dropout: Probability = 0.0
    """Dropout on the embedding, at the end of each branch and inside the feed-forward parts."""
    attention_dropout: Probability = 0.0
    """Dropout on attention weights."""
    activation: Literal["relu", "gelu", "geglu", "swiglu"] = "gelu"
    """Of the feed-forward parts; the last two are gated (Shazeer 2020)."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation before each branch, which trains more easily, or after it (the 2017 paper)."""
    positions: Literal["learned", "sinusoidal", "rotary"] = "rotary"
    """How positions are told: a trained vector each, sines added to the embedding, or queries and keys turned
    (Su et al. 2021)."""
    context_length: PositiveInt | None = None
    """Most tokens that the model looks back over; null: `train.sequence_length`."""
    tie_embeddings: bool = False
    """Share the embedding matrix with the output layer (Press and Wolf 2017)."""
    output_bias: Literal["zero", "unigram"] = "zero"
    """Initial output bias: zero, or the log frequency of each token, which large vocabularies learn slowly."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerLm:
        if self.d_model % self.num_heads:
            raise FaultAtKeyError(("num_heads",), f"{self.num_heads} heads do not divide d_model {self.d_model}")
        if self.positions == "rotary" and self.d_model // self.num_heads % 2:
            width = self.d_model // self.num_heads
            raise FaultAtKeyError(("positions",), f"rotary needs an even d_model / num_heads, found {width}")
        return self


LmModel = Annotated[RecurrentLm | TransformerLm, Field(discriminator="type")]


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
    """Steps of back-propagation through time; of a Transformer, tokens that it learns from at once."""
    bptt: Literal["truncated", "full", "windows", "stride"] | None = None
    """truncated: contiguous columns, state carried, gradient cut every `sequence_length`; full: gradient through
    the whole column, one update an epoch; windows: random windows from an empty state; stride: windows one after the
    other that cover the text once an epoch, from a new place and in a new order each time. null: truncated for
    recurrent models, windows for a Transformer, which carries no state."""
    reset_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    """Chance, for each column of each batch, that its carried state is reset, so that the model learns to begin;
    null: 0.01 for recurrent models. A Transformer has none."""

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

    @model_validator(mode="after")
    def _something_to_accumulate(self) -> LmTraining:
        if self.bptt == "full" and self.accumulate > 1:
            raise FaultAtKeyError(("accumulate",), "has no effect with bptt full, which makes one batch an epoch")
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
    """Score in windows of this many tokens; null: one stream, or of a Transformer its context."""
    reset_state: bool = False
    """Begin each window from an empty state, instead of carrying it on or, of a Transformer, letting windows
    overlap by half."""


class ScoreOptions(Config):
    """Defaults of `seqkit score`; a flag wins over them. The keys that change a number are sacreBLEU's."""

    metric: Annotated[list[Literal["bleu", "chrf", "chrf++", "ter"]], Field(min_length=1)] = ["bleu"]
    """What to score with: `bleu`, `chrf`, `chrf++` (chrF with word order 2), `ter`."""
    tokenize: Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"] = "13a"
    """BLEU: how words are split."""
    lowercase: bool = False
    """BLEU: lower-case both sides first."""
    smooth_method: Literal["exp", "floor", "add-k", "none"] = "exp"
    """BLEU: what stands in for an n-gram precision of zero (Chen and Cherry 2014)."""
    smooth_value: PositiveFloat | None = None
    """BLEU: the value of `floor` (0.1) or `add-k` (1)."""
    chrf_char_order: PositiveInt = 6
    """chrF: longest character n-gram."""
    chrf_word_order: NonNegativeInt = 0
    """chrF: longest word n-gram; 2 is chrF++."""
    chrf_beta: PositiveInt = 2
    """chrF: how much more recall counts than precision."""
    chrf_lowercase: bool = False
    """chrF: lower-case both sides first."""
    chrf_whitespace: bool = False
    """chrF: count blanks as characters."""
    chrf_eps_smoothing: bool = False
    """chrF: smooth as chrF++.py, NLTK and Moses do, instead of leaving empty orders out."""
    ter_normalized: bool = False
    """TER: split punctuation from words first."""
    ter_no_punct: bool = False
    """TER: drop punctuation first."""
    ter_asian_support: bool = False
    """TER: let `ter_normalized` and `ter_no_punct` treat Chinese and Japanese characters too."""
    ter_case_sensitive: bool = False
    """TER: keep case; otherwise both sides are lower-cased."""
    bootstrap: bool = False
    """Paired bootstrap resampling against the first system; for one system, an interval."""
    approximate_randomization: bool = False
    """Paired approximate randomization against the first system."""
    samples: PositiveInt | None = None
    """How many resamples (1000) or randomization trials (10000)."""
    seed: NonNegativeInt = 12345
    """Seed of either test."""
    length_bounds: list[NonNegativeInt] = [10, 20, 30]
    """The longest length of each bucket of `--by-length`; one more bucket holds what is longer."""
    length_unit: Literal["words", "characters"] = "words"
    """What lengths are counted in; words are separated by blanks."""
    width: NonNegativeInt = 1
    """Decimals of printed scores."""

    @model_validator(mode="after")
    def _consistent(self) -> ScoreOptions:
        if self.smooth_value is not None and self.smooth_method not in ("floor", "add-k"):
            raise ValueError(f"smooth_value is for smooth_method floor and add-k, not {self.smooth_method}")
        if self.bootstrap and self.approximate_randomization:
            raise ValueError("choose bootstrap or approximate_randomization, not both")
        if self.length_bounds != sorted(set(self.length_bounds)):
            raise ValueError(f"length_bounds must rise, found {', '.join(map(str, self.length_bounds))}")
        return self


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

    @model_validator(mode="before")
    @classmethod
    def _settle_by_model(cls, value: Any) -> Any:
        """Fill in what depends on another section, so that a resolved recipe says it."""
        if not isinstance(value, dict):
            return value
        model, train = value.get("model"), value.get("train")
        if not (isinstance(model, dict) and isinstance(train, dict)):
            return value
        if model.get("type") != "transformer":
            return {**value, "train": _with_defaults(train, bptt="truncated", reset_probability=0.01)}
        length = train.get("sequence_length", LmTraining.model_fields["sequence_length"].default)
        if type(length) is int and length > 0:  # else it is a fault of its own key alone
            model = _with_defaults(model, context_length=length)
        return {**value, "model": model, "train": _with_defaults(train, bptt="windows")}

    @model_validator(mode="after")
    def _one_text(self) -> LmRecipe:
        if self.tokenizer.joint is not None:
            raise ValueError("tokenizer.joint is for translation: a language model has one text")
        return self

    @model_validator(mode="after")
    def _no_state_to_carry(self) -> LmRecipe:
        train = self.train
        if isinstance(self.model, TransformerLm):
            if train.bptt in ("truncated", "full"):
                raise FaultAtKeyError(
                    ("train", "bptt"), f"{train.bptt} is for recurrent models; a transformer takes windows or stride"
                )
            if train.reset_probability is not None:
                raise FaultAtKeyError(
                    ("train", "reset_probability"), "is for recurrent models; a transformer carries no state"
                )
        return self

    @model_validator(mode="after")
    def _within_the_context(self) -> LmRecipe:
        context_length = self.model.context_length if isinstance(self.model, TransformerLm) else None
        if context_length is None:
            return self
        if self.train.sequence_length > context_length:
            found = self.train.sequence_length
            raise FaultAtKeyError(
                ("train", "sequence_length"), f"must be at most model.context_length, {context_length}; found {found}"
            )
        if self.evaluate.window is not None and self.evaluate.window > context_length:
            found = self.evaluate.window
            raise FaultAtKeyError(
                ("evaluate", "window"), f"must be at most model.context_length, {context_length}; found {found}"
            )
        return self


def _with_defaults(section: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """The section with keys that are missing or null filled in."""
    return {**section, **{key: default for key, default in defaults.items() if section.get(key) is None}}
