"""A translation model built from ``torch.nn.Transformer``, with no handicap.

It has seqkit's tied embeddings, its sizes, and its dropout, which PyTorch's layers would also put on the attention
weights: there it is switched off, as it is in the recipe. Padding is masked only where a batch has any, and among
targets, where it stands behind all that is real, causality hides it; so that attention to a whole batch takes
PyTorch's fast path. The output layer waits outside, for whoever knows which target tokens are real.

Legend: P pairs, S source length, T target length, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqkit.models.encoder_decoder import EncoderDecoder, TransformerEncoder
from seqkit.models.positions import sinusoidal_positions
from seqkit.models.transformer import TransformerLayer
from seqkit.models.transformer_decoder import TransformerDecoder
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe, TransformerSeq2Seq
from seqkit.tasks.seq2seq import PreparedSeq2Seq

from .training_sides import Workload, initial_model

_MAX_POSITIONS = 1024


class PlainTransformer(nn.Module):
    """One embedding for source, target and output; sinusoidal positions; ``nn.Transformer``."""

    table_PD: Tensor

    def __init__(self, vocab_size: int, config: TransformerSeq2Seq) -> None:
        super().__init__()
        width = config.d_model
        feed_forward = config.d_feed_forward or 4 * width
        encoder_layer = nn.TransformerEncoderLayer(
            width, config.num_heads, feed_forward, config.dropout, config.activation, batch_first=True, norm_first=True
        )
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            width,
            config.num_heads,
            num_decoder_layers=config.num_decoder_layers or config.num_layers,
            dim_feedforward=feed_forward,
            dropout=config.dropout,
            activation=config.activation,
            # PyTorch would build the same, and warn that nested tensors, which are for inference, do not go with it.
            custom_encoder=nn.TransformerEncoder(
                encoder_layer, config.num_layers, nn.LayerNorm(width), enable_nested_tensor=False
            ),
            batch_first=True,
            norm_first=True,
        )
        self.output = nn.Linear(width, vocab_size)
        self.output.weight = self.embedding.weight
        self.register_buffer("table_PD", sinusoidal_positions(_MAX_POSITIONS, width), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = config.attention_dropout

    def forward(self, src_PS: Tensor, src_mask_PS: Tensor | None, inputs_PT: Tensor) -> Tensor:
        """What the output layer reads after each of ``inputs_PT``, shape (P, T, D).

        Args:
            src_PS: Source ids.
            src_mask_PS: True at real tokens; ``None``: all are.
            inputs_PT: Target ids after the start token.
        """
        hides_PS = None if src_mask_PS is None else ~src_mask_PS
        causal_TT = nn.Transformer.generate_square_subsequent_mask(inputs_PT.size(1), device=inputs_PT.device)
        hidden_PTD: Tensor = self.transformer(
            self._embed(src_PS),
            self._embed(inputs_PT),
            tgt_mask=causal_TT,
            tgt_is_causal=True,
            src_key_padding_mask=hides_PS,
            memory_key_padding_mask=hides_PS,
        )
        return hidden_PTD

    def _embed(self, ids_PT: Tensor) -> Tensor:
        embedded_PTD = self.embedding(ids_PT) * self.embedding.embedding_dim**0.5
        dropped: Tensor = self.dropout(embedded_PTD + self.table_PD[: ids_PT.size(1)])
        return dropped


def plain_transformer(work: Workload) -> PlainTransformer:
    """The model with the weights that the seqkit side begins with."""
    recipe, prepared = work.recipe, work.prepared
    assert isinstance(recipe.model, TransformerSeq2Seq) and isinstance(prepared, PreparedSeq2Seq)
    plain = PlainTransformer(prepared.tgt.vocab_size, recipe.model)
    copy_weights(initial_model(work, EncoderDecoder), plain)
    return plain


def is_plain_transformer(recipe: Seq2SeqRecipe) -> bool:
    """Whether ``PlainTransformer`` is written for such a recipe."""
    model, train = recipe.model, recipe.train
    return (
        isinstance(model, TransformerSeq2Seq)
        and model.norm == "pre"
        and model.positions == "sinusoidal"
        and model.activation in ("relu", "gelu")
        and recipe.is_joint
        and model.share_embeddings is not False
        and model.tie_embeddings
        and train.r_drop is None
    )


@torch.no_grad()
def copy_weights(source: EncoderDecoder, plain: PlainTransformer) -> None:
    """Give ``plain`` the weights of ``source``, of which PyTorch's layers have other names."""
    encoder, decoder = source.encoder, source.decoder
    assert isinstance(encoder, TransformerEncoder) and isinstance(decoder, TransformerDecoder)
    weights: dict[str, Tensor] = {"embedding.weight": encoder.embedding.weight}
    weights |= {f"output.{name}": parameter for name, parameter in decoder.output.named_parameters()}
    for side, stack in (("encoder", encoder.stack), ("decoder", decoder.stack)):
        weights |= {f"transformer.{side}.norm.{name}": p for name, p in stack.norm.named_parameters()}
        for index, layer in enumerate(stack.layers):
            assert isinstance(layer, TransformerLayer)
            prefix = f"transformer.{side}.layers.{index}."
            weights |= {prefix + name: tensor for name, tensor in _layer_weights(layer).items()}
    plain.load_state_dict(weights)


def _layer_weights(layer: TransformerLayer) -> dict[str, Tensor]:
    """A layer's weights by the names of ``nn.TransformerEncoderLayer`` or ``nn.TransformerDecoderLayer``."""
    modules: dict[str, nn.Module] = {
        "self_attn.out_proj": layer.self_attention.output,
        "norm1": layer.self_attention_norm,
        "linear1": layer.feed_forward.input,
        "linear2": layer.feed_forward.output,
    }
    weights: dict[str, Tensor] = {}
    for name, parameter in layer.self_attention.query_key_value.named_parameters():
        weights[f"self_attn.in_proj_{name}"] = parameter
    memory_attention = layer.memory_attention
    if memory_attention is None:
        modules["norm2"] = layer.feed_forward_norm
    else:
        modules |= {"multihead_attn.out_proj": memory_attention.output, "norm2": layer.memory_attention_norm}
        modules["norm3"] = layer.feed_forward_norm
        for name, query in memory_attention.query.named_parameters():
            key_value = memory_attention.key_value.get_parameter(name)
            weights[f"multihead_attn.in_proj_{name}"] = torch.cat([query, key_value])
    for place, module in modules.items():
        weights |= {f"{place}.{name}": parameter for name, parameter in module.named_parameters()}
    return weights
