"""An encoder and a decoder joined: the model of a translation task.

Legend: B sources, S source time, T target time, D width, V target vocabulary, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from seqkit.errors import UsageError
from seqkit.models.attention import padding_bias
from seqkit.models.fixed_layers import Layout, RowLogits
from seqkit.models.int8_layers import check_int8
from seqkit.models.memory import Memory
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder


@dataclass(frozen=True)
class SourceTokens:
    """A batch of source sentences."""

    ids_BS: Tensor
    mask_BS: Tensor
    """True at real tokens, the end token included."""


class AttendingDecoder(Protocol):
    """A decoder that sees its source as a memory only."""

    output: nn.Linear
    vocab_size: int

    def attended_hidden(self, ids_BT: Tensor, memory: Memory, *, memory_weights: list[Tensor] | None = None) -> Tensor:
        """What the output layer reads after each of ``ids_BT``: shape (B, T, D).

        ``memory_weights`` takes each layer's weights over the memory, shape (B, H, T, S), if given and there are any.
        """
        ...

    def initial_state(self, memory: Memory | None, batch_size: int) -> Any:
        """The state before the first token."""
        ...

    def step(self, state: Any, token_N: Tensor) -> tuple[Tensor, Any]:
        """One token a row: logits of shape (N, V), and the new state."""
        ...

    def reorder(self, state: Any, index_N: Tensor) -> Any:
        """The rows ``index_N`` of the state."""
        ...

    def attention(self, state: Any) -> Tensor | None:
        """Weights of the last step over the memory, shape (N, S)."""
        ...


class TransformerEncoder(nn.Module):
    """Reads a whole sentence, each token attending to all others.

    Args:
        vocab_size: Source vocabulary.
        stack: The layers, without a memory.
    """

    def __init__(self, vocab_size: int, stack: TransformerStack) -> None:
        super().__init__()
        self.stack = stack
        self.embedding = nn.Embedding(vocab_size, stack.d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise in place: embedding normal with deviation 1/√D (multiplied by √D when read), then the stack."""
        nn.init.normal_(self.embedding.weight, std=self.stack.d_model**-0.5)
        self.stack.reset_parameters()

    def forward(self, ids_BS: Tensor, mask_BS: Tensor, self_weights: list[Tensor] | None = None) -> Memory:
        """Encode a batch.

        Args:
            ids_BS: Source tokens.
            mask_BS: True at real ones.
            self_weights: Takes each layer's attention weights, shape (B, H, S, S), if given.
        """
        embedded_BSD = self.embedding(ids_BS) * self.stack.d_model**0.5
        values_BSD = self.stack(embedded_BSD, bias=padding_bias(mask_BS), self_weights=self_weights)
        real_BS1 = mask_BS.unsqueeze(-1).to(values_BSD.dtype)
        return Memory(values_BSD, mask_BS, (values_BSD * real_BS1).sum(dim=1) / real_BS1.sum(dim=1))


class EncoderDecoder(nn.Module):
    """Encodes a source, then predicts the target token by token.

    Args:
        encoder: ``encoder(ids_BS, mask_BS)`` gives a memory.
        decoder: Attends to the memory.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def target(self) -> AttendingDecoder:
        """The decoder, by what it can do."""
        decoder: AttendingDecoder = self.decoder  # type: ignore[assignment]
        return decoder

    def encode(self, source: SourceTokens) -> Memory:
        """The memory of a batch of sentences."""
        memory: Memory = self.encoder(source.ids_BS, source.mask_BS)
        return memory

    def forward(
        self, source: SourceTokens, ids_BT: Tensor, *, own_probability: float = 0.0, draws_own: bool = False
    ) -> Tensor:
        """What the output layer reads after each of ``ids_BT``, the start token first: shape (B, T, D).

        Args:
            source: A sentence for each row.
            ids_BT: Target tokens.
            own_probability: Scheduled sampling, of a recurrent decoder: the chance of each token but the first that
                the decoder reads what it predicted there itself instead; from the global random state.
            draws_own: That token is drawn from its distribution, instead of the most probable one.
        """
        memory = self.encode(source)
        if own_probability == 0:
            return self.target.attended_hidden(ids_BT, memory)
        assert isinstance(self.decoder, RecurrentDecoder), "recipes refuse it for others"
        return self.decoder.attended_hidden(ids_BT, memory, feed_own_probability=own_probability, samples_own=draws_own)

    def fix_weights(self, layout: Layout | None = None) -> None:
        """Prepare for many steps, once, where that helps; the decoder's weights must not change any more.

        Args:
            layout: Of what steps compute with. The encoder keeps fp32.

        Raises:
            UsageError: The decoder, or this machine, cannot have them.
        """
        layout = layout or Layout()
        if isinstance(self.decoder, TransformerDecoder):
            if layout.numbers == "int8":
                check_int8(self.decoder.output.weight.device)
            self.decoder.fix_weights(layout)
        elif layout.numbers != "float32":
            raise UsageError(
                f"{layout.numbers} is for Transformers; this model's decoder is recurrent",
                hint="leave --engine-type out",
            )

    def initial_state(self, source: SourceTokens, batch_size: int) -> Any:
        """Encode; the decoder's state before the first token, one row a sentence."""
        return self.target.initial_state(self.encode(source), batch_size)

    def step(self, state: Any, token_N: Tensor) -> tuple[Tensor, Any]:
        """One token a row: logits of shape (N, V) for the next, and the new state."""
        return self.target.step(state, token_N)

    def pending_step(self, state: Any, token_N: Tensor) -> tuple[Tensor | RowLogits, Any]:
        """``step``, but for logits that need not be written out, where the decoder has any."""
        if isinstance(self.decoder, TransformerDecoder):
            return self.decoder.pending_step(state, token_N)
        return self.step(state, token_N)

    def reorder(self, state: Any, index_N: Tensor) -> Any:
        """The rows ``index_N`` of the state."""
        return self.target.reorder(state, index_N)

    def attention(self, state: Any) -> Tensor | None:
        """Weights of the last step over the source, shape (N, S); ``None`` if the model has none."""
        return self.target.attention(state)
