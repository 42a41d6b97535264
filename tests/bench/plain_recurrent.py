"""A recurrent translation model around ``nn.LSTM`` as a researcher would write it.

A bidirectional ``nn.LSTM`` over packed sequences; a decoder of ``nn.LSTMCell`` in a loop over steps, because input
feeding (Luong et al. 2015, section 3.3) makes each step depend on what the one before attended to. The output layer
waits outside, for whoever knows which target tokens are real.

Legend: P pairs, S source length, T target length, E embedding width, D width, K width of the keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqkit.models.encoder_decoder import EncoderDecoder
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.recurrent_encoder import RecurrentEncoder
from seqkit.recipe.seq2seq_schema import LstmSeq2Seq, Seq2SeqRecipe
from seqkit.tasks.seq2seq import PreparedSeq2Seq

from .training_sides import Workload, initial_model


class PlainRecurrent(nn.Module):
    """One embedding for source, target and output; LSTM encoder and decoder of one layer; attention."""

    def __init__(self, vocab_size: int, config: LstmSeq2Seq) -> None:
        super().__init__()
        width, embedding_size = config.d_model, config.embedding_size
        self.score = config.attention
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.embedding_dropout = nn.Dropout(config.dropout_of_embedding)
        self.encoder = nn.LSTM(embedding_size, width // 2, batch_first=True, bidirectional=True)
        self.initial = nn.Linear(width, 2 * width)
        self.cell = nn.LSTMCell(2 * embedding_size, width)
        if self.score == "general":
            self.key = nn.Linear(width, width, bias=False)
        elif self.score == "additive":
            d_attention = config.d_attention or width
            self.key = nn.Linear(width, d_attention)
            self.query = nn.Linear(width, d_attention, bias=False)
            self.vector = nn.Parameter(torch.empty(d_attention))
        self.readout = nn.Linear(2 * width, embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(embedding_size, vocab_size)
        self.output.weight = self.embedding.weight

    def forward(self, src_PS: Tensor, src_mask_PS: Tensor | None, inputs_PT: Tensor) -> Tensor:
        """What the output layer reads after each of ``inputs_PT``, shape (P, T, E).

        Args:
            src_PS: Source ids.
            src_mask_PS: True at real tokens; ``None``: all are.
            inputs_PT: Target ids after the start token.
        """
        memory_PSD, last_PD = self._encode(src_PS, src_mask_PS)
        keys_PSK = memory_PSD if self.score == "dot" else self.key(memory_PSD)
        bias_PS = None
        if src_mask_PS is not None:
            bias_PS = torch.zeros(src_PS.shape, device=src_PS.device).masked_fill_(~src_mask_PS, -torch.inf)
        h_PD, c_PD = torch.tanh(self.initial(last_PD)).chunk(2, dim=1)
        x_PTE = self.embedding_dropout(self.embedding(inputs_PT))
        fed_PE = torch.zeros_like(x_PTE[:, 0])
        outputs = []
        for x_PE in x_PTE.unbind(dim=1):
            h_PD, c_PD = self.cell(torch.cat([x_PE, fed_PE], dim=1), (h_PD, c_PD))
            scores_PS = self._scores(h_PD, keys_PSK)
            weights_PS = torch.softmax(scores_PS if bias_PS is None else scores_PS + bias_PS, dim=1)
            context_PD = torch.bmm(weights_PS.unsqueeze(1), memory_PSD).squeeze(1)
            fed_PE = torch.tanh(self.readout(torch.cat([context_PD, h_PD], dim=1)))
            outputs.append(fed_PE)
        dropped_PTE: Tensor = self.dropout(torch.stack(outputs, dim=1))
        return dropped_PTE

    def _encode(self, src_PS: Tensor, src_mask_PS: Tensor | None) -> tuple[Tensor, Tensor]:
        """The memory, and the last states of both directions side by side."""
        x_PSE = self.embedding_dropout(self.embedding(src_PS))
        if src_mask_PS is None:
            memory_PSD, (last_2PD, _) = self.encoder(x_PSE)
        else:
            lengths_P = src_mask_PS.sum(dim=1).cpu()
            packed = pack_padded_sequence(x_PSE, lengths_P, batch_first=True, enforce_sorted=False)
            packed_memory, (last_2PD, _) = self.encoder(packed)
            memory_PSD, _ = pad_packed_sequence(packed_memory, batch_first=True, total_length=src_PS.size(1))
        return memory_PSD, torch.cat([last_2PD[0], last_2PD[1]], dim=1)

    def _scores(self, query_PD: Tensor, keys_PSK: Tensor) -> Tensor:
        """Shape (P, S)."""
        if self.score == "additive":
            sums_PSK = torch.tanh(self.query(query_PD).unsqueeze(1) + keys_PSK)
            additive_PS: Tensor = sums_PSK @ self.vector
            return additive_PS
        return torch.bmm(keys_PSK, query_PD.unsqueeze(2)).squeeze(2)


def plain_recurrent(work: Workload) -> PlainRecurrent:
    """The model with the weights that the seqkit side begins with."""
    recipe, prepared = work.recipe, work.prepared
    assert isinstance(recipe.model, LstmSeq2Seq) and isinstance(prepared, PreparedSeq2Seq)
    plain = PlainRecurrent(prepared.tgt.vocab_size, recipe.model)
    copy_weights(initial_model(work, EncoderDecoder), plain)
    return plain


def is_plain_recurrent(recipe: Seq2SeqRecipe) -> bool:
    """Whether ``PlainRecurrent`` is written for such a recipe."""
    model, train = recipe.model, recipe.train
    return (
        isinstance(model, LstmSeq2Seq)
        and (model.num_layers, model.decoder_layers) == (1, 1)
        and model.bidirectional
        and model.attention != "none"
        and model.feeding == "hidden"
        and model.bridge == "learned"
        and not model.variational_dropout
        and recipe.is_joint
        and model.share_embeddings is not False
        and model.tie_embeddings
        and train.r_drop is None
        and train.scheduled_sampling is None
    )


@torch.no_grad()
def copy_weights(source: EncoderDecoder, plain: PlainRecurrent) -> None:
    """Give ``plain`` the weights of ``source``, of which PyTorch's layers have other names."""
    encoder, decoder = source.encoder, source.decoder
    assert isinstance(encoder, RecurrentEncoder) and isinstance(decoder, RecurrentDecoder)
    assert decoder.source_attention is not None and decoder.initial is not None
    weights: dict[str, Tensor] = {"embedding.weight": encoder.embedding.weight}
    for stack, suffix in zip(encoder.layers[0], ("", "_reverse"), strict=True):  # type: ignore[call-overload]
        weights |= {f"encoder.{name}{suffix}": parameter for name, parameter in stack.layers[0].named_parameters()}
    for name, parameter in decoder.stack.layers[0].named_parameters():
        weights[f"cell.{name.removesuffix('_l0')}"] = parameter
    weights |= dict(decoder.source_attention.named_parameters())
    modules = {"initial": decoder.initial, "readout": decoder.readout, "output": decoder.output}
    for place, module in modules.items():
        weights |= {f"{place}.{name}": parameter for name, parameter in module.named_parameters()}
    plain.load_state_dict(weights)
