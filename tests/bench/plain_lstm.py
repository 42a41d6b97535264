"""An LSTM language model as a researcher would write it, for the plain loop: embedding, ``nn.LSTM``, output layer.

Legend: B columns, T time, L length of a column, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.recipe.schema import LmRecipe, LstmModel
from seqkit.tasks.lm import PreparedLm

from .training_sides import Workload, initial_model


class PlainLstm(nn.Module):
    """Embedding, LSTM, output layer."""

    def __init__(self, vocab_size: int, config: LstmModel) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.embedding_size)
        self.lstm = nn.LSTM(config.embedding_size, config.d_model, config.num_layers, batch_first=True)
        self.output = nn.Linear(config.d_model, vocab_size)
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, ids_BT: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of shape (B, T, V) and the last state."""
        y_BTD, state = self.lstm(self.embedding(ids_BT), state)
        return self.output(y_BTD), state


class LstmLearner:
    """The model on contiguous columns of text, its state carried from batch to batch.

    Args:
        work: A language model whose recipe ``is_plain_lstm``.
    """

    def __init__(self, work: Workload) -> None:
        prepared, recipe = work.prepared, work.recipe
        assert isinstance(prepared, PreparedLm) and isinstance(recipe, LmRecipe)
        assert isinstance(recipe.model, LstmModel)
        source = initial_model(work, RecurrentLanguageModel)
        plain = PlainLstm(source.vocab_size, recipe.model)
        copy_weights(source, plain)
        self.model = plain.to(work.device).train()
        ids = torch.from_numpy(prepared.corpora.train.ids.astype("int64")).to(work.device)
        num_columns = recipe.train.num_columns
        length = (len(ids) - 1) // num_columns
        self._inputs_BL = ids[: num_columns * length].view(num_columns, length)
        self._targets_BL = ids[1 : num_columns * length + 1].view(num_columns, length)
        self._length = recipe.train.sequence_length
        self._num_batches = -(-length // self._length)
        self._state: tuple[Tensor, Tensor] | None = None

    def loss(self, step: int) -> tuple[Tensor, int]:
        """As of ``Learner``."""
        index = step % self._num_batches
        if index == 0:
            self._state = None
        ids_BT, targets_BT = (
            ids_BL[:, index * self._length : (index + 1) * self._length]
            for ids_BL in (self._inputs_BL, self._targets_BL)
        )
        logits_BTV, state = self.model(ids_BT, self._state)
        self._state = (state[0].detach(), state[1].detach())
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten()), targets_BT.numel()


def is_plain_lstm(recipe: LmRecipe) -> bool:
    """Whether ``LstmLearner`` is written for such a recipe."""
    model, train = recipe.model, recipe.train
    return (
        isinstance(model, LstmModel)
        and not model.residual
        and model.dropout == 0
        and not model.dropout_of_embedding
        and model.initial_state == "zero"
        and not (model.tie_embeddings and model.d_embedding not in (None, model.d_model))
        and train.bptt == "truncated"
        and not train.reset_probability
    )


@torch.no_grad()
def copy_weights(source: RecurrentLanguageModel, plain: PlainLstm) -> None:
    """Give ``plain`` the weights of ``source``: ``nn.LSTM`` numbers in its names what seqkit keeps as single layers."""
    weights = {"embedding.weight": source.embedding.weight}
    for index, layer in enumerate(source.stack.layers):
        for name, parameter in layer.named_parameters():
            weights[f"lstm.{name.removesuffix('_l0')}_l{index}"] = parameter
    weights |= {f"output.{name}": parameter for name, parameter in source.output.named_parameters()}
    plain.load_state_dict(weights)
