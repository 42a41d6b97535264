"""The schema of translation recipes: parallel data, encoder-decoder models, their training, `translate` options."""

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
from seqkit.recipe.mixtures import check_mixture
from seqkit.recipe.recurrent_schema import GruCell, LstmCell, RecurrentLayers, RnnCell
from seqkit.recipe.schema import ScoreOptions
from seqkit.recipe.tokenizer_schema import TokenizerConfig
from seqkit.recipe.training_schema import Training


class PairSource(Config):
    """A parallel text: line n of one side belongs to line n of the other."""

    src: DataSource
    """Source side: as `data.train` of a language model."""
    tgt: DataSource
    """Target side."""


class WeightedPairs(PairSource):
    """One parallel text of a mixture."""

    weight: PositiveFloat = 1.0
    """How much more of it comes than its size and `mix_temperature` say, against texts of weight 1."""


class PairData(Config):
    """Where sentence pairs come from."""

    train: PairSource | list[WeightedPairs]
    """Training pairs; or a list of parallel texts to mix, each with `src`, `tgt` and `weight`."""
    mix_temperature: PositiveFloat = 1.0
    """Of a mixture: a text of n pairs comes in proportion to its weight times n to the power of 1 / temperature.
    1: by size; more: small texts more often than that; very large: by weight alone (Arivazhagan et al. 2019)."""
    valid: PairSource
    """Validation pairs: they choose the best checkpoint."""
    test: PairSource | None = None
    """Test pairs; never read during training, only by `seqkit evaluate --split test`."""
    max_length: PositiveInt | None = 256
    """Most tokens of a side of a training pair; null: any number."""
    over_long: Literal["drop", "refuse"] = "drop"
    """What to do with longer training pairs: leave them out and say how many, or stop and name the line."""
    empty: Literal["drop", "refuse"] = "refuse"
    """What to do with training pairs of which one side is empty. Pairs of two empty lines are always left out."""
    workers: PositiveInt | None = None
    """Processes that encode a text of more than some 64 MiB a side; null: one a core this process may use. The result
    is the same with any number."""

    @property
    def is_mixture(self) -> bool:
        """Whether several parallel texts are mixed."""
        return isinstance(self.train, list)

    @property
    def corpora(self) -> list[WeightedPairs]:
        """What is trained on: the parallel texts of a mixture, or one."""
        if isinstance(self.train, list):
            return self.train
        return [WeightedPairs(src=self.train.src, tgt=self.train.tgt)]

    @model_validator(mode="after")
    def _a_mixture(self) -> PairData:
        if self.train == []:
            raise FaultAtKeyError(("train",), "lists no parallel text")
        check_mixture(self.is_mixture, self.mix_temperature)
        return self


class TransformerSeq2Seq(Config):
    """Transformer encoder and decoder (Vaswani et al. 2017)."""

    type: Literal["transformer"]
    """Transformer encoder and decoder (Vaswani et al. 2017)."""
    num_layers: PositiveInt = 3
    """Layers of the encoder, and of the decoder."""
    num_decoder_layers: PositiveInt | None = None
    """Layers of the decoder; null: as the encoder."""
    d_model: PositiveInt = 256
    """Width of embeddings and layers."""
    num_heads: PositiveInt = 4
    """Attention heads; they divide `d_model`."""
    d_feed_forward: PositiveInt | None = None
    """Width of the feed-forward parts; null: four times `d_model`."""
    dropout: Probability = 0.1
    """Dropout on embeddings, at the end of each branch and inside the feed-forward parts."""
    attention_dropout: Probability = 0.0
    """Dropout on attention weights."""
    activation: Literal["relu", "gelu", "geglu", "swiglu"] = "relu"
    """Of the feed-forward parts; the last two are gated (Shazeer 2020)."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation before each branch, which trains more easily, or after it (the 2017 paper)."""
    positions: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal"
    """How positions are told; `learned` knows `max_positions` of them and no more."""
    max_positions: PositiveInt = 512
    """Positions that `learned` has."""
    share_embeddings: bool | None = None
    """One embedding for source and target; null: where both have the same tokenizer."""
    tie_embeddings: bool = True
    """The output layer shares the target embedding (Press and Wolf 2017)."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerSeq2Seq:
        if self.d_model % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide d_model {self.d_model}")
        if self.d_model // self.num_heads % 2 and self.positions == "rotary":
            raise ValueError("rotary positions need an even d_model / num_heads")
        return self


class RecurrentSeq2Seq(RecurrentLayers):
    """What every recurrent encoder-decoder shares."""

    num_layers: PositiveInt = 1
    """Layers of the encoder, and of the decoder."""
    num_decoder_layers: PositiveInt | None = None
    """Layers of the decoder; null: as the encoder."""
    d_model: PositiveInt = 512
    """Width of each layer; of a bidirectional one, of both directions together."""
    bidirectional: bool = True
    """The encoder reads the source both ways, with half the width each (Bahdanau et al. 2015)."""
    reverse_source: bool = False
    """The encoder reads the source from its end (Sutskever et al. 2014); only without `bidirectional`."""
    attention: Literal["none", "dot", "general", "additive"] = "general"
    """How the decoder looks at the source: hᵀm or hᵀWm of a state and a position (Luong et al. 2015), vᵀtanh(Wh + Um)
    (Bahdanau et al. 2015), or not at all."""
    d_attention: PositiveInt | None = None
    """Width of the layer inside `additive` attention; null: `d_model`."""
    feeding: Literal["none", "hidden", "context"] | None = None
    """What the decoder reads beside each token. hidden: what it made of the last step's attention (input feeding,
    Luong et al. 2015); context: what its last state finds in the source (Bahdanau et al. 2015), or without attention
    the encoder's last state (Cho et al. 2014); none: nothing (Sutskever et al. 2014). null: hidden for `dot` and
    `general`, else context."""
    bridge: Literal["learned", "copy", "zero"] = "learned"
    """What the decoder starts from: a trained layer of the encoder's last state, a copy of the encoder's states layer
    by layer, or zeros."""
    dropout: Probability = 0.1
    share_embeddings: bool | None = None
    """One embedding for source and target; null: where both have the same tokenizer."""
    tie_embeddings: bool = False
    """The output layer shares the target embedding (Press and Wolf 2017)."""

    @model_validator(mode="before")
    @classmethod
    def _feed_by_attention(cls, value: Any) -> Any:
        """Fill in what depends on another key, so that a resolved recipe says it."""
        if not isinstance(value, dict) or value.get("feeding") is not None:
            return value
        attention = value.get("attention", cls.model_fields["attention"].default)
        return {**value, "feeding": "hidden" if attention in ("dot", "general") else "context"}

    @model_validator(mode="after")
    def _an_encoder_that_can_be(self) -> RecurrentSeq2Seq:
        if self.bidirectional and self.reverse_source:
            raise FaultAtKeyError(("reverse_source",), "is for an encoder that reads one way: set bidirectional: false")
        if self.bidirectional and self.d_model % 2:
            raise FaultAtKeyError(
                ("d_model",), f"must be even for the halves of a bidirectional encoder, found {self.d_model}"
            )
        return self

    @model_validator(mode="after")
    def _a_decoder_that_sees_its_source(self) -> RecurrentSeq2Seq:
        if self.attention == "none" and self.feeding == "hidden":
            raise FaultAtKeyError(("feeding",), "hidden returns what attention found, but attention is none")
        if self.attention == "none" and self.feeding == "none" and self.bridge == "zero":
            raise FaultAtKeyError(("bridge",), "zero, without attention and feeding, would show the decoder no source")
        if self.bridge == "copy" and self.decoder_layers != self.num_layers:
            raise FaultAtKeyError(
                ("bridge",),
                "copy needs as many layers in the encoder as in the decoder, found "
                f"{self.num_layers} and {self.decoder_layers}",
            )
        if self.d_attention is not None and self.attention != "additive":
            raise FaultAtKeyError(("d_attention",), f"is for additive attention, not for {self.attention}")
        return self

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_decoder_layers or self.num_layers


class RnnSeq2Seq(RecurrentSeq2Seq, RnnCell):
    """Vanilla recurrent encoder and decoder."""


class LstmSeq2Seq(RecurrentSeq2Seq, LstmCell):
    """LSTM encoder and decoder (Sutskever et al. 2014; Luong et al. 2015)."""


class GruSeq2Seq(RecurrentSeq2Seq, GruCell):
    """GRU encoder and decoder (Cho et al. 2014; Bahdanau et al. 2015)."""


Seq2SeqModel = Annotated[TransformerSeq2Seq | RnnSeq2Seq | LstmSeq2Seq | GruSeq2Seq, Field(discriminator="type")]


class ScheduledSampling(Config):
    """Let the decoder read some of its own predictions in training (Bengio et al. 2015)."""

    probability: Annotated[float, Field(gt=0, le=1)]
    """Chance of each target token to be replaced, at the end of the budget; it rises there from 0 in a line."""
    own_token: Literal["likeliest", "drawn"] = "likeliest"
    """What stands in for it: the most likely token, or one drawn from the model's distribution."""


class Seq2SeqTraining(Training):
    """Training of an encoder-decoder model."""

    batch_tokens: PositiveInt | None = None
    """Most tokens of a batch, padding counted, on its longer side (4,096 without `batch_size`)."""
    batch_size: PositiveInt | None = None
    """Pairs in a batch, instead of `batch_tokens`."""
    label_smoothing: Probability = 0.0
    """Part of each target's probability that is spread over the vocabulary (Szegedy et al. 2016)."""
    scheduled_sampling: ScheduledSampling | None = None
    """Let a recurrent decoder read some of its own predictions (Bengio et al. 2015); null: only the targets."""
    r_drop: PositiveFloat | None = None
    """Weight α of R-Drop (Liang et al. 2021): each batch goes through the model twice, and the two predictions, which
    dropout makes differ, are drawn together. Twice the work of a step; the paper takes 5 for translation."""
    validate_translations: NonNegativeInt | None = None
    """Validation pairs that each evaluation translates and scores with BLEU; 0: none; null: all. Translations are cut
    at one and a half times the usual length of a target for their source, plus ten tokens."""
    validate_beam: PositiveInt | None = 1
    """Beam of these translations: 1 is greedy, which ranks checkpoints nearly as well at a small part of the cost;
    null: as `translate.beam`. Their BLEU is below that of a wider beam."""
    best_by: Literal["loss", "bleu"] = "loss"  # type: ignore[assignment]
    """Validation score that decides which checkpoint is best, early stopping and the plateau schedule; `bleu` is that
    of the translations that validation makes."""

    @model_validator(mode="before")
    @classmethod
    def _a_batch_size(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("batch_size") is None and value.get("batch_tokens") is None:
            return {**value, "batch_tokens": 4096}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Seq2SeqTraining:
        if self.batch_size is not None and self.batch_tokens is not None:
            raise ValueError("give batch_size or batch_tokens, not both")
        if self.best_by == "bleu" and self.validate_translations == 0:
            raise FaultAtKeyError(("best_by",), "bleu needs translations, but validate_translations is 0")
        return self


EngineType = Literal["float32", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16"]
"""Numbers that an engine computes with: ours the first two. Of two names, the second stands where the first cannot."""


class TranslateOptions(Config):
    """Defaults of `seqkit translate` for this model; a flag wins over them."""

    engine: Literal["torch", "ctranslate2"] = "torch"
    """What searches: seqkit's own decoder, or CTranslate2, which runs Transformers (`pip install
    'seqkit[ctranslate2]'`)."""
    engine_type: EngineType | None = None
    """Numbers to compute in: `float32` or `int8`, in which the decoder of a Transformer translates many lines faster on
    a CPU; `ctranslate2` has others too. null: float32, or with `ctranslate2` those of an export."""
    beam: PositiveInt = 5
    """Hypotheses kept at each step; 1 is greedy search."""
    length_penalty: Literal["none", "average", "wu"] = "wu"
    """What a hypothesis's log-probability is divided by: nothing, its length, or Wu et al. 2016's penalty."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Exponent of the length penalty; 0 is none."""
    coverage_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Strength β of the coverage penalty of Wu et al. 2016."""
    patience: PositiveFloat | None = None
    """A sentence's search ends once this many times `beam` hypotheses have ended (Kasai et al. 2022), 1 being what most
    programs do; null: when nothing better can come, which takes about a quarter more steps."""
    min_length: NonNegativeInt = 0
    """Fewest tokens of a translation."""
    max_length: PositiveInt | None = None
    """Most tokens of a translation, its end counted; null: by `max_length_ratio`."""
    max_length_ratio: PositiveFloat = 2.0
    """Most tokens of a translation for each source token, plus ten; more where a prefix or constraints need more."""
    no_repeat_ngram: NonNegativeInt = 0
    """Never repeat an n-gram of this many tokens; 0: free to."""
    batch_tokens: PositiveInt = 4096
    """Source tokens, padding counted, translated side by side."""
    deterministic: bool = False
    """Translate each line by itself: to the last bit the same, whatever stands beside it."""
    long: Literal["translate", "split", "refuse"] = "translate"
    """A line longer than all that training saw: translated whole where the model's positions reach, up to 16 times
    the longest training sentence, and else in parts; always in parts; or refused. Each such line is named in a
    warning."""
    sample: bool = False
    """Draw a translation of each line at random instead of searching for the best."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Of `sample`: divides the logits; 0 takes the most likely token every time."""
    top_k: PositiveInt | None = None
    """Of `sample`: draw among the k most likely tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of `sample`: draw among the fewest tokens whose probabilities sum to p (Holtzman et al. 2020)."""
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of `sample`: draw among tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""
    seed: NonNegativeInt | None = None
    """Of `sample`: seed of the draws; null: a new one each time."""

    @model_validator(mode="after")
    def _shortest_fits(self) -> TranslateOptions:
        if self.max_length is not None and self.min_length >= self.max_length:
            raise ValueError(
                f"min_length {self.min_length} needs a max_length above it, since that counts the end; "
                f"found {self.max_length}"
            )
        return self


class Seq2SeqEvaluateOptions(Config):
    """Defaults of `seqkit evaluate` for this model; a flag wins over them."""

    beam: NonNegativeInt = 5
    """Beam of the translations that BLEU and chrF score; 0: translate nothing."""


class Seq2SeqRecipe(Config):
    """An encoder-decoder model: translate one sequence into another."""

    task: Literal["seq2seq"]
    """What the model does: `seq2seq` writes one sequence for another."""
    seed: NonNegativeInt | None = None
    """Seed of every random choice; null: drawn at the start and recorded."""
    data: PairData
    """Where the sentence pairs come from."""
    tokenizer: TokenizerConfig
    """What a token is; `joint` says whether both sides share one vocabulary."""
    target_tokenizer: TokenizerConfig | None = None
    """What a token of the target side is, where that differs; null: as `tokenizer`."""
    model: Seq2SeqModel
    """The network."""
    train: Seq2SeqTraining
    """How long and how to train."""
    translate: TranslateOptions = Field(default_factory=TranslateOptions)
    """Defaults of `seqkit translate`."""
    score: ScoreOptions = Field(default_factory=ScoreOptions)
    """Defaults of `seqkit score`."""
    evaluate: Seq2SeqEvaluateOptions = Field(default_factory=Seq2SeqEvaluateOptions)
    """Defaults of `seqkit evaluate`."""

    @model_validator(mode="after")
    def _one_vocabulary_or_two(self) -> Seq2SeqRecipe:
        if self.target_tokenizer is not None:
            if self.tokenizer.joint or self.target_tokenizer.joint:
                raise ValueError("tokenizer.joint shares one tokenizer, but target_tokenizer names another")
            if self.model.share_embeddings:
                raise ValueError("model.share_embeddings needs one tokenizer for both sides")
        elif not self.is_joint and self.model.share_embeddings:
            raise ValueError("model.share_embeddings needs tokenizer.joint: true")
        return self

    @model_validator(mode="after")
    def _own_tokens_one_by_one(self) -> Seq2SeqRecipe:
        if self.train.scheduled_sampling is not None and isinstance(self.model, TransformerSeq2Seq):
            raise FaultAtKeyError(
                ("train", "scheduled_sampling"), "is for recurrent models; a transformer reads all targets at once"
            )
        return self

    @model_validator(mode="after")
    def _dropout_to_draw_together(self) -> Seq2SeqRecipe:
        rates = [getattr(self.model, key, 0.0) for key in ("dropout", "attention_dropout")]
        if self.train.r_drop is not None and not any(rates):
            raise FaultAtKeyError(
                ("train", "r_drop"), "draws together what dropout makes differ, but the model has none"
            )
        return self

    @property
    def is_joint(self) -> bool:
        """Whether both sides have the same tokenizer."""
        if self.target_tokenizer is not None:
            return False
        joint = self.tokenizer.joint
        return self.tokenizer.type in ("bpe", "byte") if joint is None else joint
