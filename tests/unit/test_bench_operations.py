"""The count of a training step's operations, against PyTorch's own counter and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench.matmul import DTYPES, square_gflops, step_gflops
from bench.operations import (
    Product,
    batch_products,
    lstm_operations_per_token,
    transformer_operations,
    transformer_products,
)
from bench.pair_learners import PairLearner
from bench.plain_transformer import plain_transformer
from bench.training_sides import Workload
from tiny_pairs import pairs_recipe
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from seqkit.data.pair_batching import PairBatch
from seqkit.models.encoder_decoder import EncoderDecoder
from seqkit.recipe.schema import LstmModel
from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq
from seqkit.tasks.seq2seq import PreparedSeq2Seq, pair_loss, prepare_seq2seq


def prepared_with(folder: Path, **model: Any) -> PreparedSeq2Seq:
    train = {"max_steps": 2, "optimizer": {"type": "adamw"}}
    recipe = pairs_recipe(
        folder, model={"dropout": 0.0, **model}, train=train, tokenizer={"type": "char", "joint": True}
    )
    return prepare_seq2seq(recipe, folder / "cache", seed=1)


def padded_batch(prepared: PreparedSeq2Seq) -> PairBatch:
    """One with padding on both sides."""
    batches = [prepared.batches.batch(0, index) for index in range(prepared.batches.num_batches(0))]
    return next(batch for batch in batches if not batch.src_mask_PS.all() and not batch.tgt_mask_PT.all())


@pytest.mark.parametrize(
    "model",
    [
        {"num_layers": 2, "num_decoder_layers": 1},
        {"num_layers": 1, "num_decoder_layers": 3, "d_feed_forward": 5, "activation": "swiglu"},
        {"num_layers": 1, "d_model": 12, "num_heads": 3, "norm": "post", "tie_embeddings": False},
    ],
)
def test_the_padded_count_is_what_pytorch_counts(tmp_path: Path, model: dict[str, Any]) -> None:
    prepared = prepared_with(tmp_path, **model)
    batch = padded_batch(prepared)
    network = prepared.build_model()
    config = prepared.recipe.model
    assert isinstance(config, TransformerSeq2Seq)
    with FlopCounterMode(display=False) as counter:
        pair_loss(network, batch)[0].backward()
    found = transformer_operations(config, prepared.tgt.vocab_size, [batch])
    assert found.padded == counter.get_total_flops()
    assert found.real < found.padded


def test_the_plain_model_has_as_many_operations(tmp_path: Path) -> None:
    prepared = prepared_with(tmp_path, num_layers=2)
    work = Workload(prepared=prepared, recipe=prepared.recipe, device=torch.device("cpu"))
    learner = PairLearner(plain_transformer(work), work)
    config = prepared.recipe.model
    assert isinstance(config, TransformerSeq2Seq)
    # The fused kernel is one operation that the counter does not know on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        learner.loss(0)[0].backward()
    batch = prepared.batches.batch(0, 0)
    assert transformer_operations(config, prepared.tgt.vocab_size, [batch]).padded == counter.get_total_flops()


def test_the_real_count_is_that_of_each_pair_by_itself(tmp_path: Path) -> None:
    prepared = prepared_with(tmp_path)
    batch = padded_batch(prepared)
    config = prepared.recipe.model
    assert isinstance(config, TransformerSeq2Seq)
    alone = [
        transformer_operations(config, prepared.tgt.vocab_size, [batch.every(len(batch.src_PS), row)])
        for row in range(len(batch.src_PS))
    ]
    together = transformer_operations(config, prepared.tgt.vocab_size, [batch])
    assert all(one.real == one.padded for one in alone)
    assert together.real == sum(one.real for one in alone)
    assert together.num_targets == sum(one.num_targets for one in alone) == int(batch.tgt_mask_PT.sum())
    assert together.per_target() == together.real / together.num_targets


def test_the_products_of_a_layer_by_hand() -> None:
    model = TransformerSeq2Seq(type="transformer", num_layers=1, d_model=8, num_heads=2, d_feed_forward=20)
    encoder, decoder = (
        [
            Product(15, 8, 24),  # queries, keys, values of 3 sentences of 5
            Product(5, 4, 5, num=6),  # scores of 3 sentences and 2 heads
            Product(5, 5, 4, num=6),
            Product(15, 8, 8),
            Product(15, 8, 20),
            Product(15, 20, 8),
        ],
        [
            Product(21, 8, 24),
            Product(7, 4, 7, num=6),
            Product(7, 7, 4, num=6),
            Product(21, 8, 8),
            Product(21, 8, 8),  # queries of the memory
            Product(15, 8, 16),  # its keys and values
            Product(7, 4, 5, num=6),
            Product(7, 5, 4, num=6),
            Product(21, 8, 8),
            Product(21, 8, 20),
            Product(21, 20, 8),
        ],
    )
    found = transformer_products(model, 11, num_pairs=3, src_length=5, tgt_length=7, num_targets=17)
    assert found == [*encoder, *decoder, Product(17, 8, 11)]


def test_an_lstm_by_hand() -> None:
    model = LstmModel(type="lstm", d_model=4, num_layers=2, d_embedding=3)
    # (3 + 4)·16 + (4 + 4)·16 weights of the layers, 4·10 of the output; 2 operations each, 3 passes.
    assert lstm_operations_per_token(model, 10) == 6 * (112 + 128 + 40)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_machine_has_a_rate_at_any_shape(dtype: torch.dtype, tmp_path: Path) -> None:
    place = torch.device("cpu")
    prepared = prepared_with(tmp_path)
    config = prepared.recipe.model
    assert isinstance(config, TransformerSeq2Seq)
    products = batch_products(config, prepared.tgt.vocab_size, padded_batch(prepared))
    for rate in (
        step_gflops(products, dtype, seconds=0.001, device=place),
        square_gflops(dtype, size=16, seconds=0.001, device=place),
    ):
        assert 0 < rate < np.inf
    assert isinstance(prepared.build_model(), EncoderDecoder)
