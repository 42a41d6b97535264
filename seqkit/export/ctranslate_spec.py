"""A Transformer as CTranslate2 describes one: its layers, weights and vocabulary, ready to be written.

CTranslate2 computes what ours computes, laid out in another way:

==================  =================================================================================================
queries, keys, ...  one matrix, ours too; of attention to the source the keys and values only
gated feed-forward  two matrices, in ours one above the other: what passes the non-linearity, what it is multiplied by
embedding           multiplied by √D when it is read, as ours
positions           a table, also of sinusoidal ones: the package's own begin at 1 and put all sines before all cosines
rotary positions    component f of the first half and of the second half belong together, as in ours
==================  =================================================================================================

Legend: P positions, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqkit.export.ctranslate_package import import_ctranslate2
from seqkit.models.attention import CrossAttention, SelfAttention
from seqkit.models.encoder_decoder import EncoderDecoder, TransformerEncoder
from seqkit.models.positions import LearnedPositions, sinusoidal_positions
from seqkit.models.transformer import FeedForward, TransformerLayer, TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder

Spec = Any
"""A specification of the package, which has no types."""


def translation_spec(
    model: EncoderDecoder,
    *,
    src_tokens: Sequence[str],
    tgt_tokens: Sequence[str],
    bos_id: int,
    eos_id: int,
    unk_id: int,
    num_positions: int,
) -> Spec:
    """A translation model for ``ctranslate2.Translator``; its source is to be given with its end token.

    Args:
        model: A Transformer.
        src_tokens: A name for each id of the source side, no two alike.
        tgt_tokens: The same for the target side.
        bos_id: The target side's start token.
        eos_id: Its end token.
        unk_id: What the package takes for tokens that it does not know; there are none.
        num_positions: Positions to write down, where any number can be computed.
    """
    specs = import_ctranslate2().specs
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, TransformerEncoder) and isinstance(decoder, TransformerDecoder)
    spec = specs.TransformerSpec(
        specs.TransformerEncoderSpec(**_stack_arguments(encoder.stack)),
        # Where the decoder looked: the mean of all heads of its last layer, as our own decoder tells it.
        specs.TransformerDecoderSpec(**_stack_arguments(decoder.stack), alignment_heads=_num_heads(decoder.stack)),
    )
    spec.config.layer_norm_epsilon = _norm_epsilon(decoder.stack)
    spec.config.bos_token = spec.config.decoder_start_token = tgt_tokens[bos_id]
    spec.config.eos_token = tgt_tokens[eos_id]
    spec.config.unk_token = tgt_tokens[unk_id]
    _set_embedding(spec.encoder.embeddings[0], encoder.embedding)
    _set_stack(spec.encoder, encoder.stack, num_positions)
    _set_decoder(spec.decoder, decoder, num_positions)
    spec.register_source_vocabulary(list(src_tokens))
    spec.register_target_vocabulary(list(tgt_tokens))
    return spec


def language_model_spec(
    model: TransformerDecoder, *, tokens: Sequence[str], start_id: int, unk_id: int, num_positions: int
) -> Spec:
    """A language model for ``ctranslate2.Generator``.

    Args:
        model: A Transformer without a memory.
        tokens: A name for each id, no two alike.
        start_id: What a text conventionally follows, where nothing stands before it; what ends one as well.
        unk_id: What the package takes for tokens that it does not know; there are none.
        num_positions: Positions to write down, where any number can be computed.
    """
    specs = import_ctranslate2().specs
    decoder_spec = specs.transformer_spec.TransformerDecoderSpec(
        **_stack_arguments(model.stack), with_encoder_attention=False
    )
    spec = specs.TransformerDecoderModelSpec(decoder_spec)
    spec.config.layer_norm_epsilon = _norm_epsilon(model.stack)
    spec.config.bos_token = spec.config.eos_token = tokens[start_id]
    spec.config.unk_token = tokens[unk_id]
    _set_decoder(spec.decoder, model, num_positions)
    spec.register_vocabulary(list(tokens))
    return spec


def _layers(stack: TransformerStack) -> list[TransformerLayer]:
    layers = list(stack.layers)
    assert all(isinstance(layer, TransformerLayer) for layer in layers)
    return layers  # type: ignore[return-value]


def _num_heads(stack: TransformerStack) -> int:
    return _layers(stack)[0].self_attention.num_heads


def _norm_epsilon(stack: TransformerStack) -> float:
    return _layers(stack)[0].self_attention_norm.eps


def _stack_arguments(stack: TransformerStack) -> dict[str, Any]:
    """How the package is to build a stack."""
    activations = import_ctranslate2().specs.Activation
    first = _layers(stack)[0]
    feed_forward = first.feed_forward
    is_rotary = first.self_attention.rotary is not None
    return {
        "num_layers": len(stack.layers),
        "num_heads": first.self_attention.num_heads,
        "pre_norm": first.norm_first,
        "activation": {
            "relu": activations.RELU,
            "gelu": activations.GELU,
            "geglu": activations.GELU,
            "swiglu": activations.SWISH,
        }[feed_forward.activation],
        "ffn_glu": feed_forward.is_gated,
        # 0: of all components of a head.
        "rotary_dim": 0 if is_rotary else None,
        "rotary_interleave": False,
    }


def _set_decoder(spec: Spec, decoder: TransformerDecoder, num_positions: int) -> None:
    _set_embedding(spec.embeddings, decoder.embedding)
    _set_stack(spec, decoder.stack, num_positions)
    _set_linear(spec.projection, decoder.output)


def _set_stack(spec: Spec, stack: TransformerStack, num_positions: int) -> None:
    if stack.positions is None:
        # An encoder's specification has a table whatever its positions; rotary ones have none.
        if hasattr(spec, "position_encodings"):
            del spec.position_encodings
    elif isinstance(stack.positions, LearnedPositions):
        # One more, which nothing that counts ever sees: scoring a translation of the longest length steps onto it.
        table_PD = stack.positions.table.weight
        spec.position_encodings.encodings = _array(torch.cat([table_PD, table_PD[-1:]]))
    else:
        spec.position_encodings.encodings = _array(sinusoidal_positions(num_positions + 1, stack.d_model))
    if isinstance(stack.norm, nn.LayerNorm):
        _set_norm(spec.layer_norm, stack.norm)
    for layer_spec, layer in zip(spec.layer, _layers(stack), strict=True):
        _set_self_attention(layer_spec.self_attention, layer.self_attention)
        _set_norm(layer_spec.self_attention.layer_norm, layer.self_attention_norm)
        if layer.memory_attention is not None:
            _set_cross_attention(layer_spec.attention, layer.memory_attention)
            _set_norm(layer_spec.attention.layer_norm, layer.memory_attention_norm)
        _set_feed_forward(layer_spec.ffn, layer.feed_forward)
        _set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)


def _set_self_attention(spec: Spec, attention: SelfAttention) -> None:
    _set_linear(spec.linear[0], attention.query_key_value)
    _set_linear(spec.linear[1], attention.output)


def _set_cross_attention(spec: Spec, attention: CrossAttention) -> None:
    _set_linear(spec.linear[0], attention.query)
    _set_linear(spec.linear[1], attention.key_value)
    _set_linear(spec.linear[2], attention.output)


def _set_feed_forward(spec: Spec, feed_forward: FeedForward) -> None:
    num_parts = 2 if feed_forward.is_gated else 1
    weights, biases = feed_forward.input.weight.chunk(num_parts), feed_forward.input.bias.chunk(num_parts)
    spec.linear_0.weight, spec.linear_0.bias = _array(weights[0]), _array(biases[0])
    if feed_forward.is_gated:
        spec.linear_0_noact.weight, spec.linear_0_noact.bias = _array(weights[1]), _array(biases[1])
    _set_linear(spec.linear_1, feed_forward.output)


def _set_linear(spec: Spec, linear: nn.Linear) -> None:
    spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _set_norm(spec: Spec, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _set_embedding(spec: Spec, embedding: nn.Embedding) -> None:
    spec.weight = _array(embedding.weight)


def _array(tensor: Tensor) -> Any:
    """A copy in float32 of its own, since the package quantizes in place and ties what is equal by itself."""
    return tensor.detach().cpu().float().numpy().copy()
