"""Operations of the matrix products of a training step, counted from shapes.

A product of (rows × inner) by (inner × columns) takes 2 · rows · inner · columns operations. Each of the forward pass
has two in the backward pass, one for the gradient of either factor, with as many operations: forward and backward
take three times the forward pass. What is not a matrix product (softmax, normalisation, dropout, the optimizer) is
not counted: it is what a faster implementation could do without.

"Padded" counts a batch as it is laid out, "real" each sentence by its own length: the work that could not be saved.

Legend: P pairs, S source length, T target length, D width, H heads, K head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seqkit.data.pair_batching import PairBatch
from seqkit.recipe.schema import LstmModel
from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq

_FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class Product:
    """A matrix product, or several of the same shape at once."""

    rows: int
    inner: int
    columns: int
    num: int = 1

    @property
    def operations(self) -> int:
        """Multiplications and additions.

        >>> Product(2, 3, 5, num=7).operations
        420
        """
        return 2 * self.num * self.rows * self.inner * self.columns


@dataclass(frozen=True, kw_only=True)
class StepOperations:
    """Operations of some training steps, forward and backward."""

    padded: int
    real: int
    num_targets: int
    """Real target tokens of these steps."""

    def per_target(self) -> float:
        """Real operations for each target token."""
        return self.real / self.num_targets


def transformer_products(
    model: TransformerSeq2Seq, vocab_size: int, *, num_pairs: int, src_length: int, tgt_length: int, num_targets: int
) -> list[Product]:
    """The products of a forward pass through an encoder-decoder Transformer, in order.

    Args:
        model: The recipe's model section.
        vocab_size: V of the output layer.
        num_pairs: P.
        src_length: S, the end token counted.
        tgt_length: T, likewise.
        num_targets: Rows of the output layer: real target tokens.
    """
    width, heads = model.d_model, model.num_heads
    feed_forward = model.d_feed_forward or 4 * width
    gates = 2 if model.activation in ("geglu", "swiglu") else 1
    src, tgt = num_pairs * src_length, num_pairs * tgt_length

    def attention(num_queries: int, num_keys: int) -> list[Product]:
        scores = Product(num_queries, width // heads, num_keys, num=num_pairs * heads)
        return [scores, Product(num_queries, num_keys, width // heads, num=num_pairs * heads)]

    def self_attention(num_rows: int, length: int) -> list[Product]:
        projections = Product(num_rows, width, 3 * width), Product(num_rows, width, width)
        return [projections[0], *attention(length, length), projections[1]]

    def feed_forward_part(num_rows: int) -> list[Product]:
        return [Product(num_rows, width, gates * feed_forward), Product(num_rows, feed_forward, width)]

    memory_attention = [
        Product(tgt, width, width),
        Product(src, width, 2 * width),
        *attention(tgt_length, src_length),
        Product(tgt, width, width),
    ]
    return [
        *model.num_layers * [*self_attention(src, src_length), *feed_forward_part(src)],
        *(model.num_decoder_layers or model.num_layers)
        * [*self_attention(tgt, tgt_length), *memory_attention, *feed_forward_part(tgt)],
        Product(num_targets, width, vocab_size),
    ]


def batch_products(model: TransformerSeq2Seq, vocab_size: int, batch: PairBatch) -> list[Product]:
    """The products of a forward pass of a batch as it is laid out."""
    num_pairs, src_length = batch.src_PS.shape
    return transformer_products(
        model,
        vocab_size,
        num_pairs=num_pairs,
        src_length=src_length,
        tgt_length=batch.inputs_PT.shape[1],
        num_targets=int(batch.tgt_mask_PT.sum()),
    )


def transformer_operations(model: TransformerSeq2Seq, vocab_size: int, batches: Iterable[PairBatch]) -> StepOperations:
    """Operations of a training step on each of some batches."""
    padded = real = num_targets = 0
    for batch in batches:
        padded += _operations(batch_products(model, vocab_size, batch))
        lengths = zip(batch.src_mask_PS.sum(axis=1).tolist(), batch.tgt_mask_PT.sum(axis=1).tolist(), strict=True)
        for src, tgt in lengths:
            shape = {"num_pairs": 1, "src_length": src, "tgt_length": tgt, "num_targets": tgt}
            real += _operations(transformer_products(model, vocab_size, **shape))
        num_targets += int(batch.tgt_mask_PT.sum())
    return StepOperations(
        padded=_FORWARD_AND_BACKWARD * padded, real=_FORWARD_AND_BACKWARD * real, num_targets=num_targets
    )


def lstm_operations_per_token(model: LstmModel, vocab_size: int) -> int:
    """Operations of a training step of an LSTM language model for each token; it has no padding."""
    width = model.d_model
    inputs = [model.embedding_size, *[width] * (model.num_layers - 1)]
    layers = [Product(1, size + width, 4 * width) for size in inputs]
    return _FORWARD_AND_BACKWARD * _operations([*layers, Product(1, width, vocab_size)])


def _operations(products: Iterable[Product]) -> int:
    return sum(product.operations for product in products)
