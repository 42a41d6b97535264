"""From a recipe's model section to a model: the one table of public model names."""

from __future__ import annotations

from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seqkit.models.encoder_decoder import EncoderDecoder, TransformerEncoder
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.models.recurrent import CellName, RecurrentStack
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder
from seqkit.recipe.schema import GruModel, LmModel, LstmModel, RecurrentLm, RnnModel, TransformerLm
from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq as Seq2SeqModel

LanguageModel = RecurrentLanguageModel | TransformerDecoder


@overload
def build_language_model(config: RecurrentLm, vocab_size: int) -> RecurrentLanguageModel: ...
@overload
def build_language_model(config: TransformerLm, vocab_size: int) -> TransformerDecoder: ...
def build_language_model(config: LmModel, vocab_size: int) -> LanguageModel:
    """Build and initialise a language model from the global random state.

    Args:
        config: The recipe's ``model`` section, its ``context_length`` settled by the recipe.
        vocab_size: V, from the tokenizer.
    """
    if isinstance(config, TransformerLm):
        return _transformer_language_model(config, vocab_size)
    embedding_size = config.d_embedding or config.d_model
    stack = RecurrentStack(
        cell_name(config),
        embedding_size,
        config.d_model,
        num_layers=config.num_layers,
        dropout=config.dropout,
        is_variational=config.variational_dropout,
        is_residual=config.residual,
        learns_initial_state=config.initial_state == "learned",
    )
    stack.reset_parameters(
        recurrent_init=config.recurrent_init,
        forget_bias=config.forget_bias if isinstance(config, LstmModel) else 0.0,
    )
    return RecurrentLanguageModel(
        vocab_size,
        stack,
        embedding_size=embedding_size,
        dropout=config.dropout,
        embedding_dropout=config.dropout if config.embedding_dropout is None else config.embedding_dropout,
        is_variational=config.variational_dropout,
        ties_embeddings=config.tie_embeddings,
    )


def _transformer_language_model(config: TransformerLm, vocab_size: int) -> TransformerDecoder:
    assert config.context_length is not None, "the recipe fills it in"
    stack = _stack(config, config.num_layers, max_positions=config.context_length)
    return TransformerDecoder(
        vocab_size, stack, ties_embeddings=config.tie_embeddings, context_length=config.context_length
    )


def build_seq2seq(config: Seq2SeqModel, src_vocab_size: int, tgt_vocab_size: int, *, is_joint: bool) -> EncoderDecoder:
    """Build and initialise an encoder-decoder model from the global random state.

    Args:
        config: The recipe's ``model`` section.
        src_vocab_size: Ids of the source side.
        tgt_vocab_size: Ids of the target side.
        is_joint: Whether both sides have the same tokenizer.
    """
    encoder = TransformerEncoder(src_vocab_size, _stack(config, config.num_layers, max_positions=config.max_positions))
    num_decoder_layers = config.num_decoder_layers or config.num_layers
    shares = is_joint if config.share_embeddings is None else config.share_embeddings
    decoder = TransformerDecoder(
        tgt_vocab_size,
        _stack(config, num_decoder_layers, max_positions=config.max_positions, d_memory=config.d_model),
        embedding=encoder.embedding if shares else None,
        ties_embeddings=config.tie_embeddings,
    )
    return EncoderDecoder(encoder, decoder)


def _stack(
    config: TransformerLm | Seq2SeqModel, num_layers: int, *, max_positions: int, d_memory: int | None = None
) -> TransformerStack:
    return TransformerStack(
        num_layers,
        config.d_model,
        config.num_heads,
        config.d_feed_forward or 4 * config.d_model,
        d_memory=d_memory,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation=config.activation,
        norm=config.norm,
        positions=config.positions,
        max_positions=max_positions,
    )


def cell_name(config: RecurrentLm) -> CellName:
    """The recurrent unit that a model section asks for."""
    match config:
        case LstmModel():
            return "lstm"
        case GruModel(reset_gate="before"):
            return "gru_reset_before"
        case GruModel():
            return "gru"
        case RnnModel(nonlinearity="relu"):
            return "rnn_relu"
        case RnnModel():
            return "rnn_tanh"


@torch.no_grad()
def set_unigram_bias(model: LanguageModel, counts_V: npt.NDArray[np.int64]) -> None:
    """Start the output bias at the logarithm of how often each token occurs, so that training need not learn that.

    Adam moves each bias by about its learning rate a step, and the rare words of a large vocabulary lie eight nats
    and more below the frequent ones. The bias is centred; tokens that do not occur count as half an occurrence.

    Args:
        model: Changed in place.
        counts_V: How often each token occurs in the training text.
    """
    log_counts_V = np.log(np.maximum(counts_V, 0.5))
    model.output.bias.copy_(torch.from_numpy(log_counts_V - log_counts_V.mean()))


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers, each tied one counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
