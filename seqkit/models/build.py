"""From a recipe's model section to a model: the one table of public model names."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.models.recurrent import CellName, RecurrentStack
from seqkit.recipe.schema import GruModel, LmModel, LstmModel, RnnModel


def build_language_model(config: LmModel, vocab_size: int) -> RecurrentLanguageModel:
    """Build and initialise a language model from the global random state.

    Args:
        config: The recipe's ``model`` section.
        vocab_size: V, from the tokenizer.
    """
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


def cell_name(config: LmModel) -> CellName:
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
def set_unigram_bias(model: RecurrentLanguageModel, counts_V: npt.NDArray[np.int64]) -> None:
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
