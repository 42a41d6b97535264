"""Task ``lm``: predict the next token of a stream of text.

Legend: B columns or windows, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqkit.data.batching import BatchOrder, ColumnBatches, FullBatches, LmBatch, StrideBatches, WindowBatches
from seqkit.data.chunks import ProgressCallback
from seqkit.data.corpora import LmCorpora, prepare_text_corpora
from seqkit.data.epochs import ReencodedBatches, ReencodedText
from seqkit.data.mixed_batches import MixedStrideBatches, MixedWindowBatches
from seqkit.data.mixing import Mixture
from seqkit.data.sharded_ids import TokenIds
from seqkit.data.store import TokenStore
from seqkit.decoding.sampling import SamplingRule, generate, row_generators
from seqkit.decoding.scoring import ScoreSum, score_stream, score_windows
from seqkit.errors import DataError
from seqkit.metrics.language_model import LanguageModelScore, language_model_score
from seqkit.models.build import LanguageModel, build_language_model, set_unigram_bias
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.models.linear_cross_entropy import linear_cross_entropy
from seqkit.models.recurrent import detach_state, reset_rows
from seqkit.models.transformer_decoder import TransformerDecoder
from seqkit.recipe import tokenizer_schema
from seqkit.recipe.schema import LmRecipe, LmTraining
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_dropout import BpeDropout
from seqkit.training.device import model_device
from seqkit.training.loop import LossSum

_VALIDATION_COLUMNS = 32
_VALIDATION_BURN_IN = 128
"""Validation during training runs in columns, each warmed up by this many tokens: many times faster than one
stream, and within 0.002 nats of it for the shipped recipes. ``seqkit evaluate`` runs one stream."""

TOKENS_AT_ONCE = 4096
"""Tokens that a Transformer scores at once: enough for matrix products at full rate, and memory stays small."""


@dataclass(frozen=True)
class PreparedLm:
    """A language-model recipe with its tokenizer fitted and its text encoded."""

    recipe: LmRecipe
    corpora: LmCorpora
    batches: BatchOrder
    seed: int

    @property
    def tokenizer_files(self) -> Mapping[str, str]:
        """The one tokenizer."""
        return {"tokenizer.json": self.corpora.tokenizer.to_json()}

    @property
    def unit(self) -> str:
        """The noun of a token."""
        return self.corpora.tokenizer.unit

    @property
    def carries_state(self) -> bool:
        """Windows begin empty; columns go on."""
        return self.recipe.train.bptt in ("truncated", "full")

    def describe_data(self) -> str:
        """Corpus name and sizes of both parts."""
        corpora, source = self.corpora, self.recipe.data.train
        if corpora.mixture is not None:
            name = corpora.mixture.describe()
        else:
            name = source if isinstance(source, str) else f"{len(source)} sources"
        num_train = sum(store.num_tokens for store in corpora.train_stores)
        text = f"{name}, {num_train:,} train / {corpora.valid.num_tokens:,} validation {self.unit}s"
        if corpora.tokenizer.unk_id is not None:
            text += f", unknown {_percent(*corpora.train_stores)} / {_percent(corpora.valid)}"
        dropout = _tokenizer_dropout(self.recipe)
        if dropout:
            text += f", BPE-dropout {dropout:g}"
        return text

    def facts(self) -> dict[str, Any]:
        """Vocabulary size, and for each part its hash and counts."""
        return {
            "task": "lm",
            "model_type": self.recipe.model.type,
            "vocab_size": self.corpora.tokenizer.vocab_size,
            "data": {"train": self._train_facts(), "valid": _store_facts(self.corpora.valid)},
        }

    def _train_facts(self) -> dict[str, Any]:
        """Of one text its hash and counts; of a mixture their sums, every hash, and each corpus by itself."""
        facts = [_store_facts(store) for store in self.corpora.train_stores]
        mixture = self.corpora.mixture
        if mixture is None:
            return facts[0]
        sums = {key: sum(each[key] for each in facts) for key in facts[0] if key != "sha256"}
        hashes = {str(number): each["sha256"] for number, each in enumerate(facts)}
        named = [
            {"name": name, "share": share, "repeats": repeats, **each}
            for name, share, repeats, each in zip(mixture.names, mixture.shares, mixture.repeats(), facts, strict=True)
        ]
        return {"sha256": hashes, **sums, "corpora": named}

    def build_model(self) -> LanguageModel:
        """A fresh model."""
        model = build_language_model(self.recipe.model, self.corpora.tokenizer.vocab_size)
        if self.recipe.model.output_bias == "unigram":
            set_unigram_bias(model, self.corpora.train_counts(model.vocab_size))
        return model

    def loss(self, model: nn.Module, batch: LmBatch, carry: Any, spent: float) -> LossSum:
        """Cross-entropy of the next token, summed over the batch."""
        device = model_device(model)
        inputs_BT = torch.from_numpy(batch.inputs_BT).to(device, non_blocking=True)
        targets_BT = torch.from_numpy(batch.targets_BT).to(device, non_blocking=True)
        carried = None
        if isinstance(model, TransformerDecoder):
            hidden_BTD, _ = model.hidden(inputs_BT)
        else:
            assert isinstance(model, RecurrentLanguageModel)
            if carry is not None and batch.resets_B is not None:
                resets_B = torch.from_numpy(batch.resets_B).to(device, non_blocking=True)
                carry = reset_rows(carry, model.initial_state(None, len(batch.resets_B)), resets_B)
            hidden_BTD, state = model.hidden(inputs_BT, carry)
            carried = detach_state(state)
        output = model.output
        nats, _ = linear_cross_entropy(hidden_BTD.flatten(0, 1), output.weight, output.bias, targets_BT.flatten())
        return LossSum(nats, targets_BT.numel(), carry=carried)

    def evaluate(self, model: nn.Module, on_part: Callable[[], None]) -> dict[str, float]:
        """Scores on the whole validation set: state carried, in warmed-up columns.

        A Transformer reads windows from an empty context, as in training: ``seqkit evaluate --reset-state`` does the
        same, and without that flag it gives every token half a context at least, which takes twice as long.
        """
        assert isinstance(model, LanguageModel)
        store, device = self.corpora.valid, model_device(model)
        if model.context_length is not None:
            total = score_windows(
                model,
                store.ids,
                window=model.context_length,
                device=device,
                vocab_size=model.vocab_size,
                tokens_at_once=TOKENS_AT_ONCE,
                on_part=on_part,
            )
        else:
            total = score_stream(
                model,
                store.ids,
                device=device,
                vocab_size=model.vocab_size,
                num_columns=_VALIDATION_COLUMNS,
                burn_in=_VALIDATION_BURN_IN,
                on_part=on_part,
            )
        score = store_score(total, store, self.corpora.tokenizer)
        return {key: value for key, value in score.as_dict().items() if not key.startswith("num_")}

    def show_sample(self, model: nn.Module, *, length: int, number: int) -> str:
        """A sample at temperature 0.8 from the start token; the same draws every time."""
        assert isinstance(model, LanguageModel)
        tokenizer = self.corpora.tokenizer
        device = model_device(model)
        drawn = generate(
            model,
            [tokenizer.start_id],
            length=length,
            rule=SamplingRule(temperature=0.8),
            generators=row_generators(self.seed, 1, device=device),
            device=device,
        )
        return tokenizer.decode([int(tokens.token_B[0]) for tokens in drawn])


def prepare_lm(
    recipe: LmRecipe, cache_dir: Path, *, seed: int, on_progress: ProgressCallback | None = None
) -> PreparedLm:
    """Fit the tokenizer, encode the text into token stores, and lay out the batches.

    Raises:
        DataError: The text cannot be used, or is shorter than one batch.
    """
    corpora = prepare_text_corpora(recipe.data, recipe.tokenizer, cache_dir, on_progress=on_progress)
    if corpora.valid.num_tokens < 2:
        raise DataError(
            "the validation text has 1 token, which leaves nothing to predict; at least 2 are needed",
            path="data.valid",
            hint="raise data.valid_fraction, or name a longer validation text in data.valid",
        )
    lay_out = partial(_lay_out, train=recipe.train, seed=seed)
    # With dropout too: a text that is too short is found before training.
    batches = (
        lay_out(corpora.train_ids)
        if corpora.mixture is None
        else _lay_out_mixture(corpora.train_ids, corpora.mixture, recipe.train, seed)
    )
    dropout = _tokenizer_dropout(recipe)
    if dropout:
        assert isinstance(corpora.tokenizer, BpeTokenizer)
        text = ReencodedText(
            stretch=corpora.train_texts[0],
            dropout=BpeDropout(corpora.tokenizer, dropout),
            seed=seed,
            cache_dir=cache_dir,
        )
        batches = ReencodedBatches(text, lay_out, num_epochs=recipe.train.max_epochs)
    return PreparedLm(recipe, corpora, batches, seed)


def _lay_out(ids: TokenIds, *, train: LmTraining, seed: int) -> BatchOrder:
    """The batches of a text."""
    name = "data.train"
    match train.bptt:
        case "truncated":
            return ColumnBatches(
                ids,
                train.num_columns,
                train.sequence_length,
                reset_probability=train.reset_probability or 0.0,
                seed=seed,
                name=name,
            )
        case "full":
            return FullBatches(ids, train.num_columns, name=name)
        case "windows":
            return WindowBatches(ids, train.num_columns, train.sequence_length, seed=seed, name=name)
        case "stride":
            return StrideBatches(ids, train.num_columns, train.sequence_length, seed=seed, name=name)
        case None:
            raise AssertionError("the recipe fills in bptt")


def _lay_out_mixture(ids: TokenIds, mixture: Mixture, train: LmTraining, seed: int) -> BatchOrder:
    """The batches of a mixture of texts."""
    kind = MixedStrideBatches if train.bptt == "stride" else MixedWindowBatches
    return kind(ids, mixture, train.num_columns, train.sequence_length, seed)


def _tokenizer_dropout(recipe: LmRecipe) -> float:
    """The probability of BPE-dropout; 0 for other tokenizers."""
    return recipe.tokenizer.dropout if isinstance(recipe.tokenizer, tokenizer_schema.BpeTokenizer) else 0.0


def store_score(total: ScoreSum, store: TokenStore, tokenizer: Tokenizer) -> LanguageModelScore:
    """Scores of a whole store, of which every token but the first was scored."""
    # Part of a character, where the first one is spelled in several tokens; then the whole text counts.
    first = tokenizer.decode([int(store.ids[0])]).replace("\ufffd", "")
    return language_model_score(
        total.nats,
        num_tokens=total.num_tokens,
        num_chars=store.num_chars - len(first),
        num_bytes=store.num_bytes - len(first.encode("utf-8", "surrogatepass")),
    )


def _store_facts(store: TokenStore) -> dict[str, Any]:
    return {
        "sha256": store.sha256,
        "num_tokens": store.num_tokens,
        "num_chars": store.num_chars,
        "num_bytes": store.num_bytes,
        "num_unknown": store.num_unknown,
    }


def _percent(*stores: TokenStore) -> str:
    return f"{100 * sum(store.num_unknown for store in stores) / sum(store.num_tokens for store in stores):.2f} %"
