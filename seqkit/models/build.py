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
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.recurrent_encoder import RecurrentEncoder
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder
from seqkit.recipe.recurrent_schema import GruCell, LstmCell, RecurrentCell, RnnCell
from seqkit.recipe.schema import LmModel, RecurrentLm, TransformerLm
from seqkit.recipe.seq2seq_schema import GruSeq2Seq, LstmSeq2Seq, RnnSeq2Seq, Seq2SeqModel, TransformerSeq2Seq

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
    stack = RecurrentStack(
        cell_name(config),
        config.embedding_size,
        config.d_model,
        num_layers=config.num_layers,
        dropout=config.dropout,
        is_variational=config.variational_dropout,
        is_residual=config.residual,
        learns_initial_state=config.initial_state == "learned",
    )
    stack.reset_parameters(recurrent_init=config.recurrent_init, forget_bias=_forget_bias(config))
    return RecurrentLanguageModel(
        vocab_size,
        stack,
        embedding_size=config.embedding_size,
        dropout=config.dropout,
        embedding_dropout=config.dropout_of_embedding,
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
    shares = is_joint if config.share_embeddings is None else config.share_embeddings
    if not isinstance(config, TransformerSeq2Seq):
        return _recurrent_seq2seq(config, src_vocab_size, tgt_vocab_size, shares_embeddings=shares)
    encoder = TransformerEncoder(src_vocab_size, _stack(config, config.num_layers, max_positions=config.max_positions))
    num_decoder_layers = config.num_decoder_layers or config.num_layers
    decoder = TransformerDecoder(
        tgt_vocab_size,
        _stack(config, num_decoder_layers, max_positions=config.max_positions, d_memory=config.d_model),
        embedding=encoder.embedding if shares else None,
        ties_embeddings=config.tie_embeddings,
    )
    return EncoderDecoder(encoder, decoder)


def _recurrent_seq2seq(
    config: RnnSeq2Seq | LstmSeq2Seq | GruSeq2Seq, src_vocab_size: int, tgt_vocab_size: int, *, shares_embeddings: bool
) -> EncoderDecoder:
    assert config.feeding is not None, "the recipe fills it in"
    encoder = RecurrentEncoder(
        src_vocab_size,
        config.d_model,
        cell=cell_name(config),
        embedding_size=config.embedding_size,
        num_layers=config.num_layers,
        is_bidirectional=config.bidirectional,
        reverses_source=config.reverse_source,
        dropout=config.dropout,
        embedding_dropout=config.dropout_of_embedding,
        is_variational=config.variational_dropout,
        is_residual=config.residual,
        keeps_states=config.bridge == "copy",
    )
    decoder = RecurrentDecoder(
        tgt_vocab_size,
        config.d_model,
        cell=cell_name(config),
        embedding_size=config.embedding_size,
        num_layers=config.decoder_layers,
        attention=config.attention,
        d_attention=config.d_attention,
        feeding=config.feeding,
        bridge=config.bridge,
        dropout=config.dropout,
        embedding_dropout=config.dropout_of_embedding,
        is_variational=config.variational_dropout,
        is_residual=config.residual,
        embedding=encoder.embedding if shares_embeddings else None,
        ties_embeddings=config.tie_embeddings,
    )
    # The decoder's last: a shared embedding starts as its table says.
    for module in (encoder, decoder):
        module.reset_parameters(recurrent_init=config.recurrent_init, forget_bias=_forget_bias(config))
    return EncoderDecoder(encoder, decoder)


def _stack(
    config: TransformerLm | TransformerSeq2Seq, num_layers: int, *, max_positions: int, d_memory: int | None = None
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


def cell_name(config: RecurrentCell) -> CellName:
    """The recurrent unit that a model section asks for."""
    match config:
        case LstmCell():
            return "lstm"
        case GruCell(reset_gate="before"):
            return "gru_reset_before"
        case GruCell():
            return "gru"
        case RnnCell(nonlinearity="relu"):
            return "rnn_relu"
        case RnnCell():
            return "rnn_tanh"


def _forget_bias(config: RecurrentCell) -> float:
    """The initial bias of the LSTM's forget gate; of no meaning for the other cells."""
    return config.forget_bias if isinstance(config, LstmCell) else 0.0


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
