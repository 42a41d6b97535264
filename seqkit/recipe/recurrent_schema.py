"""What the recurrent models of every task share: the kinds of cells, and the keys of a stack of layers."""

from __future__ import annotations

from typing import Literal

from seqkit.recipe.config import Config, PositiveInt, Probability


class RnnCell(Config):
    """Vanilla recurrent network (Elman 1990)."""

    type: Literal["rnn"]
    """Vanilla recurrent network (Elman 1990)."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """What the cell applies to the weighted sum."""


class LstmCell(Config):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000)."""

    type: Literal["lstm"]
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate (Jozefowicz et al. 2015)."""


class GruCell(Config):
    """Gated recurrent unit (Cho et al. 2014)."""

    type: Literal["gru"]
    """Gated recurrent unit (Cho et al. 2014)."""
    reset_gate: Literal["after", "before"] = "after"
    """Reset gate applied after the recurrent product (as cuDNN has it; fast) or before it (Cho et al. 2014)."""


RecurrentCell = RnnCell | LstmCell | GruCell
"""Any of them."""


class RecurrentLayers(Config):
    """Layers of one kind, their embedding, dropout and initialisation."""

    num_layers: PositiveInt = 1
    """Recurrent layers, one above the other."""
    d_model: PositiveInt = 256
    """Width of the hidden state of each layer."""
    d_embedding: PositiveInt | None = None
    """Width of the token embedding; null: as wide as `d_model`. A small one makes character models faster."""
    dropout: Probability = 0.0
    """Dropout on the embedding, between layers and before the output (Zaremba et al. 2014)."""
    embedding_dropout: Probability | None = None
    """Dropout on the embedding alone; null: as `dropout`. Character models often do better without."""
    variational_dropout: bool = False
    """Use one dropout mask for all steps of a batch (Gal and Ghahramani 2016), not a new one each step."""
    residual: bool = False
    """Add each layer's input to its output, from the second layer on."""
    recurrent_init: Literal["orthogonal", "uniform"] = "orthogonal"
    """Initial recurrent matrices: orthogonal (Saxe et al. 2014), or uniform in ±1/√(their width)."""

    @property
    def embedding_size(self) -> int:
        """Width of the token embedding."""
        return self.d_embedding or self.d_model

    @property
    def dropout_of_embedding(self) -> float:
        """Dropout on the embedding."""
        return self.dropout if self.embedding_dropout is None else self.embedding_dropout
