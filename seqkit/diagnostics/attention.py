"""Attention maps: the weights that an encoder-decoder model puts on what it reads.

Legend: B pairs, S source positions, T target positions, Q queries, P keys, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens, TransformerEncoder
from seqkit.models.transformer_decoder import TransformerDecoder

AttentionKind = Literal["source", "encoder", "decoder"]
"""The decoder's attention to the source, or self-attention inside one of the two."""
Choice = int | Literal["all", "mean"]
"""One layer or head by its number from 1 on, each by itself, or the mean of all."""


@dataclass(frozen=True)
class AttentionMap:
    """Weights of one layer and head, or of a mean."""

    layer: int | Literal["mean"]
    """From 1 on."""
    head: int | Literal["mean"]
    """From 1 on."""
    weights_QP: Tensor
    """Float32 on the CPU; each row sums to 1."""


@torch.inference_mode()
def attention_weights(
    model: EncoderDecoder, source: SourceTokens, ids_BT: Tensor, mask_BT: Tensor, kind: AttentionKind
) -> list[Tensor]:
    """The weights of all layers and heads when a model reads given pairs.

    Args:
        model: In evaluation mode. A recurrent one has one layer of attention with one head, or none.
        source: The sources; padding stands at the end.
        ids_BT: What the decoder reads: the start token, then the target.
        mask_BT: True at real ones, which stand before all padding.
        kind: Which attention. ``source``: T queries and S keys; query t is made of the tokens up to t and serves to
            predict the next. ``encoder``: S of each. ``decoder``: T of each.

    Returns:
        For each pair the weights of its real positions, float32 on the CPU, shape (L, H, Q, P); L is 0 where the
        model has no such attention.
    """
    layers: list[Tensor] = []
    num_queries_B = num_keys_B = source.mask_BS.sum(dim=1).tolist()
    if kind == "encoder":
        if isinstance(model.encoder, TransformerEncoder):
            model.encoder(source.ids_BS, source.mask_BS, self_weights=layers)
    else:
        num_queries_B = mask_BT.sum(dim=1).tolist()
        memory = model.encode(source)
        if kind == "source":
            model.target.attended_hidden(ids_BT, memory, memory_weights=layers)
        elif isinstance(model.decoder, TransformerDecoder):
            num_keys_B = num_queries_B
            model.decoder.attended_hidden(ids_BT, memory, self_weights=layers)
    if not layers:
        return [torch.zeros(0, 0, queries, keys) for queries, keys in zip(num_queries_B, num_keys_B, strict=True)]
    weights_BLHQP = torch.stack(layers, dim=1).float().cpu()
    return [
        weights_BLHQP[row, :, :, :queries, :keys]
        for row, (queries, keys) in enumerate(zip(num_queries_B, num_keys_B, strict=True))
    ]


def chosen_maps(weights_LHQP: Tensor, layer: Choice, head: Choice) -> list[list[AttentionMap]]:
    """Some of a model's maps.

    Args:
        weights_LHQP: Of one pair.
        layer: Which layers.
        head: Which heads.

    Returns:
        A list a layer, with a map a head.
    """
    layers = _chosen(weights_LHQP, layer)
    return [
        [AttentionMap(layer_name, head_name, weights_QP) for head_name, weights_QP in _chosen(weights_HQP, head)]
        for layer_name, weights_HQP in layers
    ]


def _chosen(weights: Tensor, choice: Choice) -> Sequence[tuple[int | Literal["mean"], Tensor]]:
    """Of the first axis what is chosen, with its name."""
    match choice:
        case "mean":
            return [("mean", weights.mean(dim=0))]
        case "all":
            return list(enumerate(weights.unbind(), start=1))
        case int():
            return [(choice, weights[choice - 1])]
