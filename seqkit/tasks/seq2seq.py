"""Task ``seq2seq``: write one sequence for another, as in translation.

Legend: P pairs, S source length, T target length, D width, N real target tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqkit.data.ahead import MadeAhead
from seqkit.data.chunks import ProgressCallback
from seqkit.data.mixing import MixedItems
from seqkit.data.pair_batching import BucketBatches, PairBatch, Sentences, pair_batch, twice
from seqkit.data.pair_corpora import PairCorpora, describe_left_out, prepare_pair_corpora
from seqkit.data.pair_epochs import RedrawnPairs, redrawn_ahead
from seqkit.data.pairs import PairStore, SentenceStore, Side
from seqkit.errors import DataError
from seqkit.metrics.translation import Bleu, TranslationMetric, score_corpus
from seqkit.models.build import build_seq2seq
from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens
from seqkit.models.linear_cross_entropy import linear_cross_entropy
from seqkit.models.r_drop import r_drop_cross_entropy
from seqkit.recipe import tokenizer_schema
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe, TransformerSeq2Seq
from seqkit.recipe.tokenizer_schema import TokenizerConfig
from seqkit.tasks.torch_search import torch_translator
from seqkit.tasks.translation_requests import SourceLimits
from seqkit.tasks.translator import Translator
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_dropout import BpeDropout
from seqkit.tokenizers.sentences import SentenceVocabulary
from seqkit.training.device import model_device
from seqkit.training.loop import LossSum

_TOKENS_SCORED_AT_ONCE = 4096
_ROOM_IN_VALIDATION = 1.5
"""How much longer than usual a translation in validation may get: a model that has learned little repeats itself to
the end, and would cost more time than training does. Ten tokens come on top, for very short sources."""


@dataclass(frozen=True)
class PreparedSeq2Seq:
    """A translation recipe with its tokenizers fitted and its pairs encoded."""

    recipe: Seq2SeqRecipe
    corpora: PairCorpora
    batches: BucketBatches
    seed: int

    @property
    def src(self) -> SentenceVocabulary:
        """The source side's ids."""
        return SentenceVocabulary(self.corpora.tokenizers["src"])

    @property
    def tgt(self) -> SentenceVocabulary:
        """The target side's ids."""
        return SentenceVocabulary(self.corpora.tokenizers["tgt"])

    @property
    def tokenizer_files(self) -> Mapping[str, str]:
        """One tokenizer, or one a side."""
        tokenizers = self.corpora.tokenizers
        if self.recipe.is_joint:
            return {"tokenizer.json": tokenizers["tgt"].to_json()}
        return {f"tokenizer.{side}.json": tokenizer.to_json() for side, tokenizer in tokenizers.items()}

    @property
    def unit(self) -> str:
        """The noun of a target token."""
        return self.tgt.tokenizer.unit

    @property
    def carries_state(self) -> bool:
        """Each pair is its own beginning."""
        return False

    def describe_data(self) -> str:
        """Corpus names and sizes, and what was left out."""
        train, valid, mixture = self.corpora.train, self.corpora.valid, self.corpora.mixture
        text = f"{self.corpora.train_texts[0].name if mixture is None else mixture.describe()}, "
        text += f"{len(train):,} train / {len(valid):,} validation pairs, "
        text += f"{train.counts.num_tokens['tgt']:,} target {self.unit}s"
        stores = [*self.corpora.train_stores, valid]
        texts = [*self.corpora.train_texts, self.corpora.valid_text]
        left_out = map(describe_left_out, stores, texts)
        return "; ".join([text, *filter(None, left_out)])

    def facts(self) -> dict[str, Any]:
        """Vocabulary sizes, and for each part its hashes and counts."""
        return {
            "task": "seq2seq",
            "model_type": self.recipe.model.type,
            "src_vocab_size": self.src.vocab_size,
            "tgt_vocab_size": self.tgt.vocab_size,
            "data": {"train": self._train_facts(), "valid": _store_facts(self.corpora.valid)},
            "validation": self._validation_facts(),
        }

    def _train_facts(self) -> dict[str, Any]:
        """Hashes and counts; of a mixture also the share of each text."""
        facts, mixture = _store_facts(self.corpora.train), self.corpora.mixture
        if mixture is None:
            return facts
        named = [
            {"name": name, "share": share, "repeats": repeats, **_store_facts(store)}
            for name, share, repeats, store in zip(
                mixture.names, mixture.shares, mixture.repeats(), self.corpora.train_stores, strict=True
            )
        ]
        return {**facts, "corpora": named}

    def build_model(self) -> EncoderDecoder:
        """A fresh model."""
        return build_seq2seq(self.recipe.model, self.src.vocab_size, self.tgt.vocab_size, is_joint=self.recipe.is_joint)

    def loss(self, model: nn.Module, batch: PairBatch, carry: Any, spent: float) -> LossSum:
        """Cross-entropy of each target token and the end token, smoothed as the recipe says, over real tokens.

        With R-Drop, what is reported is still that alone, unsmoothed.
        """
        assert isinstance(model, EncoderDecoder)
        train = self.recipe.train
        own = train.scheduled_sampling
        loss, nats, num_tokens = pair_loss(
            model,
            batch,
            label_smoothing=train.label_smoothing,
            r_drop=train.r_drop,
            own_probability=0.0 if own is None else own.probability * spent,
            draws_own=own is not None and own.own_token == "drawn",
        )
        return LossSum(loss, num_tokens, reported=nats)

    def evaluate(self, model: nn.Module, on_part: Callable[[], None]) -> dict[str, float]:
        """Loss over the whole validation set, and the scores of translations of its first pairs."""
        assert isinstance(model, EncoderDecoder)
        scores = pair_scores(model, self.corpora.valid, self.src, self.tgt, on_part)
        num_translated = self.recipe.train.validate_translations
        if num_translated == 0:
            return scores
        pairs = list(islice(self.corpora.valid_text.lines(), num_translated))
        translations = self._translator(model).best([src for src, _ in pairs], on_part)
        hypotheses, references = [best.text for best in translations], [tgt for _, tgt in pairs]
        return {**scores, "bleu": score_corpus(Bleu(), hypotheses, [references]).value}

    def show_sample(self, model: nn.Module, *, length: int, number: int) -> str:
        """A validation sentence, its translation and the reference: one after the other, from evaluation to evaluation.

        A pair with an empty side shows nothing, and is passed over.
        """
        assert isinstance(model, EncoderDecoder)
        store = self.corpora.valid
        wanted = int(store.line_numbers[number % len(store)])
        src, tgt = next(islice(self.corpora.valid_text.lines(), wanted, None))
        (best,) = self._translator(model, most_tokens=length).best([src])
        return f"{src} → {best.text} (reference: {tgt})"

    def _translator(self, model: EncoderDecoder, *, most_tokens: int | None = None) -> Translator:
        """The translations of validation: by its own beam, and no longer than they need be."""
        train, options, counts = self.recipe.train, self.recipe.translate, self.corpora.train.counts.num_tokens
        usual = _ROOM_IN_VALIDATION * counts["tgt"] / counts["src"]
        changes: dict[str, Any] = {"max_length_ratio": min(options.max_length_ratio, usual)}
        if train.validate_beam is not None:
            changes["beam"] = train.validate_beam
        if most_tokens is not None:
            changes["max_length"] = min(most_tokens, options.max_length or most_tokens)
        device, limits = model_device(model), SourceLimits.of([self.recipe])
        return torch_translator(model, self.src, self.tgt, options.model_copy(update=changes), device, limits=limits)

    def _validation_facts(self) -> dict[str, Any]:
        """How translations are made and scored in validation, so that its BLEU is not taken for another."""
        train = self.recipe.train
        num_lines = self.corpora.valid.counts.num_lines
        wanted = train.validate_translations
        num_translated = num_lines if wanted is None else min(wanted, num_lines)
        if num_translated == 0:
            return {"num_translated": 0}
        beam = train.validate_beam if train.validate_beam is not None else self.recipe.translate.beam
        signature = TranslationMetric(Bleu(), [[""]]).signature()
        return {"num_translated": num_translated, "beam": beam, "bleu_signature": signature}


def prepare_seq2seq(
    recipe: Seq2SeqRecipe, cache_dir: Path, *, seed: int, on_progress: ProgressCallback | None = None
) -> PreparedSeq2Seq:
    """Fit the tokenizers, encode the pairs into stores, and lay out the batches.

    Raises:
        DataError: The texts cannot be used.
    """
    corpora = prepare_pair_corpora(recipe, cache_dir, on_progress=on_progress)
    tgt = SentenceVocabulary(corpora.tokenizers["tgt"])
    _check_positions(recipe, corpora)
    train, mixture = recipe.train, corpora.mixture
    redrawn = _redrawn(recipe, corpora, seed)
    batches = BucketBatches(
        redrawn.get if redrawn is not None else lambda _epoch: (corpora.train.src, corpora.train.tgt),
        prepare=redrawn.prepare if redrawn is not None else None,
        batch_tokens=train.batch_tokens,
        batch_size=train.batch_size,
        bos_id=tgt.bos_id,
        eos_ids=(SentenceVocabulary(corpora.tokenizers["src"]).eos_id, tgt.eos_id),
        seed=seed,
        choose=None if mixture is None else MixedItems(mixture.sizes, mixture.shares, seed).numbers,
    )
    return PreparedSeq2Seq(recipe, corpora, batches, seed)


def _redrawn(recipe: Seq2SeqRecipe, corpora: PairCorpora, seed: int) -> MadeAhead[Sentences] | None:
    """The training pairs with BPE-dropout, where the recipe asks for it."""
    configs: dict[Side, TokenizerConfig] = {
        "src": recipe.tokenizer,
        "tgt": recipe.target_tokenizer or recipe.tokenizer,
    }
    dropouts: dict[Side, BpeDropout] = {}
    for side, config in configs.items():
        tokenizer = corpora.tokenizers[side]
        if isinstance(config, tokenizer_schema.BpeTokenizer) and config.dropout:
            assert isinstance(tokenizer, BpeTokenizer)
            dropouts[side] = BpeDropout(tokenizer, config.dropout)
    if not dropouts:
        return None
    texts = [
        RedrawnPairs(text=text, store=store, dropouts=dropouts, seed=seed, number=number)
        for number, (text, store) in enumerate(zip(corpora.train_texts, corpora.train_stores, strict=True))
    ]
    return redrawn_ahead(texts, num_epochs=recipe.train.max_epochs)


def pair_loss(
    model: EncoderDecoder,
    batch: PairBatch,
    *,
    label_smoothing: float = 0.0,
    r_drop: float | None = None,
    own_probability: float = 0.0,
    draws_own: bool = False,
) -> tuple[Tensor, Tensor, int]:
    """Loss of one batch over its real target tokens, the end token included.

    Args:
        model: The model, in training mode where dropout is wanted.
        batch: The pairs.
        label_smoothing: Part of each target's probability that is spread over the vocabulary.
        r_drop: α of R-Drop, for which the batch goes through encoder and decoder twice, side by side.
        own_probability: Scheduled sampling: the chance of each target token that a recurrent decoder reads its own
            prediction instead. What it should predict stays the same.
        draws_own: That prediction is drawn, instead of the most probable token.

    Returns:
        The sum to minimise, the negative log-likelihood in nats, and the number of tokens N.
    """
    device = model_device(model)
    target_N = torch.from_numpy(batch.targets_PT[batch.tgt_mask_PT]).to(device, non_blocking=True)
    if r_drop is not None:
        batch = twice(batch)
    source = source_tokens(batch, device)
    inputs_PT = torch.from_numpy(batch.inputs_PT).to(device, non_blocking=True)
    hidden_PTD = model(source, inputs_PT, own_probability=own_probability, draws_own=draws_own)
    is_real_PT = torch.from_numpy(batch.tgt_mask_PT).to(device, non_blocking=True)
    hidden_ND = hidden_PTD[is_real_PT]
    output = model.target.output
    if r_drop is not None:
        loss, nats = r_drop_cross_entropy(
            hidden_ND.unflatten(0, (2, -1)),
            output.weight,
            output.bias,
            target_N,
            alpha=r_drop,
            label_smoothing=label_smoothing,
        )
        return loss, nats, len(target_N)
    loss, nats = linear_cross_entropy(hidden_ND, output.weight, output.bias, target_N, label_smoothing=label_smoothing)
    return loss, nats, len(target_N)


def source_tokens(batch: PairBatch, device: torch.device) -> SourceTokens:
    """The source side of a batch, on the device."""
    return SourceTokens(
        torch.from_numpy(batch.src_PS).to(device, non_blocking=True),
        torch.from_numpy(batch.src_mask_PS).to(device, non_blocking=True),
    )


@torch.inference_mode()
def pair_scores(
    model: EncoderDecoder,
    store: PairStore,
    src: SentenceVocabulary,
    tgt: SentenceVocabulary,
    on_part: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Loss in nats per target token and perplexity over a whole store, teacher-forced."""
    total, num_tokens = 0.0, 0
    for chosen in by_length(store):
        if on_part is not None:
            on_part()
        batch = pair_batch(
            (store.src, store.tgt), np.asarray(chosen), bos_id=tgt.bos_id, eos_ids=(src.eos_id, tgt.eos_id)
        )
        _, nats, count = pair_loss(model, batch)
        total += float(nats)
        num_tokens += count
    loss = total / num_tokens
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "num_tokens": num_tokens}


@torch.inference_mode()
def score_pairs(
    model: EncoderDecoder,
    pairs: Sequence[tuple[list[int], list[int]]],
    src: SentenceVocabulary,
    tgt: SentenceVocabulary,
) -> list[tuple[float, int]]:
    """Forced scores of single pairs.

    Args:
        model: The model.
        pairs: Source and target ids of each, without start and end.
        src: The source side's ids.
        tgt: The target side's ids.

    Returns:
        For each pair the natural log-probability of its target and end token, and how many tokens that is.
    """
    device = model_device(model)
    results: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda number: max(map(len, pairs[number])))
    for chosen in _under_budget(order, [max(map(len, pair)) + 1 for pair in pairs]):
        sides = [SentenceStore.of([pairs[number][side] for number in chosen]) for side in (0, 1)]
        everything = np.arange(len(chosen))
        batch = pair_batch((sides[0], sides[1]), everything, bos_id=tgt.bos_id, eos_ids=(src.eos_id, tgt.eos_id))
        hidden_PTD = model(source_tokens(batch, device), torch.from_numpy(batch.inputs_PT).to(device))
        logits_PTV = model.target.output(hidden_PTD).float()
        targets_PT = torch.from_numpy(batch.targets_PT).to(device)
        log_prob_PT = logits_PTV.log_softmax(-1).gather(2, targets_PT.unsqueeze(-1)).squeeze(-1).double()
        is_real_PT = torch.from_numpy(batch.tgt_mask_PT).to(device)
        sums = (log_prob_PT * is_real_PT).sum(dim=1).tolist()
        for number, total in zip(chosen, sums, strict=True):
            results[number] = (total, len(pairs[number][1]) + 1)
    return results


def _under_budget(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    """Pairs in order of their length, by number, in batches of at most ``_TOKENS_SCORED_AT_ONCE`` with padding."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * lengths[number] > _TOKENS_SCORED_AT_ONCE:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def by_length(store: PairStore) -> Iterator[list[int]]:
    """Pairs of a store in batches of like length, by number."""
    longer_P = np.maximum(store.src.lengths(), store.tgt.lengths()) + 1
    yield from _under_budget(np.argsort(longer_P, kind="stable").tolist(), longer_P.tolist())


def _check_positions(recipe: Seq2SeqRecipe, corpora: PairCorpora) -> None:
    """Check before training that learned positions reach as far as the data."""
    model = recipe.model
    if not isinstance(model, TransformerSeq2Seq) or model.positions != "learned":
        return
    longest = 1 + max(
        int(side.lengths().max()) for store in (corpora.train, corpora.valid) for side in (store.src, store.tgt)
    )
    if longest > model.max_positions:
        raise DataError(
            f"a sentence has {longest:,} tokens with its end, but model.max_positions is {model.max_positions:,}",
            hint="raise model.max_positions, lower data.max_length, or use other positions",
        )


def _store_facts(store: PairStore) -> dict[str, Any]:
    return {"sha256": store.sha256, **vars(store.counts)}
