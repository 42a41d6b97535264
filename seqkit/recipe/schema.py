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
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from seqkit.recipe.mixtures import check_list_to_mix, check_mixture, has_mappings
from seqkit.recipe.recurrent_schema import GruCell, LstmCell, RecurrentLayers, RnnCell
from seqkit.recipe.tokenizer_schema import BpeTokenizer, CharTokenizer, TokenizerConfig
from seqkit.recipe.training_schema import Training


class WeightedText(Config):
    """One corpus of a mixture."""

    source: DataSource
    """Its text: a name, path, glob, or a list of these, joined."""
    weight: PositiveFloat = 1.0
    """How much more of it comes than its size and `mix_temperature` say, against corpora of weight 1."""


class TextData(Config):
    """Where the text of a language model comes from."""

    train: DataSource | list[WeightedText]
    """Training text: `builtin:NAME`, `catalog:NAME/SPLIT`, a path, a glob, or a list of these, joined; `.gz` is read as
    it is. Or a list of mappings, each with `source` and `weight`: corpora to mix."""
    mix_temperature: PositiveFloat = 1.0
    """Of a mixture: a corpus of n tokens comes in proportion to its weight times n to the power of 1 / temperature.
    1: by size; more: small corpora more often than that; very large: by weight alone (Arivazhagan et al. 2019)."""
    valid: DataSource | None = None
    """Validation text. Without it, the last `valid_fraction` of the training text is held out."""
    test: DataSource | None = None
    """Test text; never read during training, only by `seqkit evaluate --split test`."""
    valid_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the training text's characters, from its end, held out for validation (0.1 without `valid`)."""

    workers: PositiveInt | None = None
    """Processes that encode a text of more than some 64 MiB; null: one a core this process may use. The result is the
    same with any number."""

    @model_validator(mode="before")
    @classmethod
    def _hold_out_a_tenth(cls, value: Any) -> Any:
        if not isinstance(value, dict) or has_mappings(value.get("train")):
            return value
        if value.get("valid") is None and value.get("valid_fraction") is None:
            return {**value, "valid_fraction": 0.1}
        return value

    @property
    def is_mixture(self) -> bool:
        """Whether several corpora are mixed."""
        return not isinstance(self.train, str) and any(isinstance(each, WeightedText) for each in self.train)

    @property
    def corpora(self) -> list[WeightedText]:
        """What is trained on: the corpora of a mixture, or one."""
        if isinstance(self.train, str):
            return [WeightedText(source=self.train)]
        mixed = [each for each in self.train if isinstance(each, WeightedText)]
        return mixed or [WeightedText(source=[each for each in self.train if isinstance(each, str)])]

    @model_validator(mode="before")
    @classmethod
    def _mixed_or_joined(cls, value: Any) -> Any:
        check_list_to_mix(value, "source")
        return value

    @model_validator(mode="after")
    def _a_mixture(self) -> TextData:
        check_mixture(self.is_mixture, self.mix_temperature)
        if self.is_mixture and self.valid is None:
            raise FaultAtKeyError(("valid",), "missing key: of a mixture nothing is held out, so name validation text")
        return self

    @model_validator(mode="after")
    def _one_validation_set(self) -> TextData:
        if self.valid is not None and self.valid_fraction is not None:
            raise ValueError("give valid or valid_fraction, not both")
        return self


class RecurrentModel(RecurrentLayers):
    """What every recurrent language model shares."""

    tie_embeddings: bool = False
    """Share the embedding matrix with the output layer (Press and Wolf 2017)."""
    output_bias: Literal["zero", "unigram"] = "zero"
    """Initial output bias: zero, or the log frequency of each token, which large vocabularies learn slowly."""
    initial_state: Literal["zero", "learned"] = "zero"
    """State before the first token: zeros, or a trained vector a layer."""


class RnnModel(RecurrentModel, RnnCell):
    """Vanilla (Elman 1990) recurrent network."""


class LstmModel(RecurrentModel, LstmCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000)."""


class GruModel(RecurrentModel, GruCell):
    """Gated recurrent unit (Cho et al. 2014)."""


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
    def _a_mixture_of_windows(self) -> LmRecipe:
        if not self.data.is_mixture:
            return self
        if self.train.bptt not in ("windows", "stride"):
            raise FaultAtKeyError(
                ("train", "bptt"),
                f"{self.train.bptt} carries state through one text; a mixture of corpora (data.train) takes windows or "
                "stride",
            )
        if isinstance(self.tokenizer, BpeTokenizer) and self.tokenizer.dropout:
            raise FaultAtKeyError(
                ("tokenizer", "dropout"), "is for one text; a mixture of corpora (data.train) is encoded once"
            )
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
        if train.bptt in ("truncated", "full") and train.slices not in (None, 1):
            raise FaultAtKeyError(
                ("train", "slices"), f"must be 1 with train.bptt {train.bptt}, which carries the state of all rows"
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
