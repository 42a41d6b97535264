"""A recurrent language model: embedding, recurrent stack, output layer.

Legend: B batch, T time, E embedding width, D hidden width, V vocabulary, N rows kept.
"""

from __future__ import annotations

from torch import Tensor, nn

from seqkit.models.dropout import SequenceDropout
from seqkit.models.recurrent import RecurrentStack, RecurrentState, reorder_state


class RecurrentLanguageModel(nn.Module):
    """Predicts the next token from all earlier ones (Mikolov et al. 2010).

    Args:
        vocab_size: V.
        stack: The recurrent layers; their input width is E, their output width D.
        embedding_size: E.
        dropout: Dropout before the output layer.
        embedding_dropout: Dropout on the embedding.
        is_variational: One dropout mask for all steps.
        ties_embeddings: The output layer shares the embedding's matrix; where E differs from D, a linear
            layer from D to E stands between (Press and Wolf 2017).
    """

    context_length: None = None
    """It reads any number of tokens, and carries what it read in its state."""

    def __init__(
        self,
        vocab_size: int,
        stack: RecurrentStack,
        *,
        embedding_size: int,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        is_variational: bool = False,
        ties_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.stack = stack
        self.embedding_dropout = SequenceDropout(embedding_dropout, is_variational=is_variational)
        self.dropout = SequenceDropout(dropout, is_variational=is_variational)
        needs_projection = ties_embeddings and embedding_size != stack.hidden_size
        self.projection = nn.Linear(stack.hidden_size, embedding_size) if needs_projection else nn.Identity()
        self.output = nn.Linear(embedding_size if ties_embeddings else stack.hidden_size, vocab_size)
        self.ties_embeddings = ties_embeddings
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise embedding and output in place (the stack initialises itself), then tie them if asked.

        =========  ==================================================
        embedding  normal, deviation 1; tied: 1/√E
        output     uniform in ±1/√(its input width), bias zero
        =========  ==================================================
        """
        width = self.embedding.embedding_dim
        nn.init.normal_(self.embedding.weight, std=width**-0.5 if self.ties_embeddings else 1.0)
        bound = self.output.in_features**-0.5
        nn.init.uniform_(self.output.weight, -bound, bound)
        nn.init.zeros_(self.output.bias)
        if self.ties_embeddings:
            self.output.weight = self.embedding.weight

    def initial_state(self, source: None, batch_size: int) -> RecurrentState:
        """The state before the first token; a language model has no ``source``."""
        return self.stack.initial_state(batch_size)

    def hidden(self, ids_BT: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        """What the output layer reads after each of ``ids_BT``, and the state after the last.

        Args:
            ids_BT: Token ids.
            state: The state before the first token; ``None`` begins anew.

        Returns:
            Shape (B, T, width of the output layer), and the new state.
        """
        if state is None:
            state = self.initial_state(None, ids_BT.size(0))
        x_BTE = self.embedding_dropout(self.embedding(ids_BT))
        y_BTD, state = self.stack(x_BTE, state)
        projected: Tensor = self.projection(self.dropout(y_BTD))
        return projected, state

    def forward(self, ids_BT: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        """Logits for the token after each of ``ids_BT``, and the state after the last.

        Args:
            ids_BT: Token ids.
            state: The state before the first token; ``None`` begins anew.

        Returns:
            Logits of shape (B, T, V) and the new state.
        """
        hidden_BTD, state = self.hidden(ids_BT, state)
        return self.output(hidden_BTD), state

    def step(self, state: RecurrentState, token_B: Tensor) -> tuple[Tensor, RecurrentState]:
        """One token a row: logits of shape (B, V) for the next, and the new state."""
        logits_B1V, state = self(token_B.unsqueeze(1), state)
        return logits_B1V[:, 0], state

    def reorder(self, state: RecurrentState, index_N: Tensor) -> RecurrentState:
        """The rows ``index_N`` of the state."""
        return reorder_state(state, index_N)
