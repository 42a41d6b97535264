"""Attention weights of whole models: they sum to one over real positions, and are those that the decoder used."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from seqkit.diagnostics.attention import AttentionKind, attention_weights, chosen_maps
from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens, TransformerEncoder
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.recurrent_encoder import RecurrentEncoder
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder

V_SRC, V, D, LAYERS, HEADS = 9, 7, 8, 3, 2
SOURCE_LENGTHS, TARGET_LENGTHS = (5, 2, 3), (2, 6, 4)
KINDS: tuple[AttentionKind, ...] = get_args(AttentionKind)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def ids(num_ids: int, rows: int, width: int) -> Tensor:
    return torch.randint(num_ids, (rows, width), generator=torch.Generator().manual_seed(4))


def mask(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


SOURCE = SourceTokens(ids(V_SRC, 3, 5), mask(SOURCE_LENGTHS))
READ, READ_MASK = ids(V, 3, 6), mask(TARGET_LENGTHS)


def with_random_weights(model: EncoderDecoder) -> EncoderDecoder:
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.double().eval()


def transformer() -> EncoderDecoder:
    encoder = TransformerEncoder(V_SRC, TransformerStack(LAYERS, D, HEADS, 16))
    decoder = TransformerDecoder(V, TransformerStack(LAYERS, D, HEADS, 16, d_memory=D))
    return with_random_weights(EncoderDecoder(encoder, decoder))


def recurrent(**decoder: Any) -> EncoderDecoder:
    encoder = RecurrentEncoder(V_SRC, D, cell="gru", is_bidirectional=True)
    return with_random_weights(EncoderDecoder(encoder, RecurrentDecoder(V, D, cell="gru", **decoder)))


ATTENTIVE = [{"attention": "dot"}, {"attention": "general", "feeding": "hidden"},
             {"attention": "additive", "feeding": "context"}]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_transformer_weights_sum_to_one_over_real_positions(kind: AttentionKind) -> None:
    pairs = attention_weights(transformer(), SOURCE, READ, READ_MASK, kind)
    queries = SOURCE_LENGTHS if kind == "encoder" else TARGET_LENGTHS
    keys = TARGET_LENGTHS if kind == "decoder" else SOURCE_LENGTHS
    assert [tuple(pair.shape) for pair in pairs] == [(LAYERS, HEADS, q, k) for q, k in zip(queries, keys, strict=True)]
    for pair in pairs:
        assert pair.dtype == torch.float32
        torch.testing.assert_close(pair.sum(dim=-1), torch.ones(pair.shape[:-1]))
        assert (pair >= 0).all()
        if kind == "decoder":
            assert not pair.triu(1).any(), "no token attends to a later one"


@pytest.mark.parametrize("options", ATTENTIVE, ids=lambda options: options["attention"])
def test_recurrent_weights_sum_to_one_over_real_positions(options: dict[str, Any]) -> None:
    pairs = attention_weights(recurrent(**options), SOURCE, READ, READ_MASK, "source")
    for pair, queries, keys in zip(pairs, TARGET_LENGTHS, SOURCE_LENGTHS, strict=True):
        assert tuple(pair.shape) == (1, 1, queries, keys)
        torch.testing.assert_close(pair.sum(dim=-1), torch.ones(1, 1, queries))


@pytest.mark.parametrize("model", [transformer(), *(recurrent(**options) for options in ATTENTIVE)])
def test_they_are_the_weights_of_a_search(model: EncoderDecoder) -> None:
    # Row t is where the model looks when it has read the tokens up to t.
    pairs = attention_weights(model, SOURCE, READ, READ_MASK, "source")
    state = model.initial_state(SOURCE, 3)
    for t, token_N in enumerate(READ.unbind(1)):
        _, state = model.step(state, token_N)
        attention_NS = model.attention(state)
        assert attention_NS is not None
        for row, pair in enumerate(pairs):
            if t < pair.size(2):
                last = pair[-1].mean(dim=0)[t]
                torch.testing.assert_close(last, attention_NS[row, : len(last)].float())


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_nothing(kind: AttentionKind) -> None:
    model = transformer()
    together = attention_weights(model, SOURCE, READ, READ_MASK, kind)
    for row, (src, tgt) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        alone = SourceTokens(SOURCE.ids_BS[row : row + 1, :src], SOURCE.mask_BS[row : row + 1, :src])
        (weights,) = attention_weights(model, alone, READ[row : row + 1, :tgt], READ_MASK[row : row + 1, :tgt], kind)
        torch.testing.assert_close(weights, together[row])


def test_models_without_such_attention() -> None:
    blind, seeing = recurrent(attention="none"), recurrent(attention="dot")
    for model, kind in ((blind, "source"), (blind, "encoder"), (seeing, "encoder"), (seeing, "decoder")):
        pairs = attention_weights(model, SOURCE, READ, READ_MASK, kind)  # type: ignore[arg-type]
        assert [pair.size(0) for pair in pairs] == [0, 0, 0]


def test_layers_and_heads_by_choice() -> None:
    (weights, *_) = attention_weights(transformer(), SOURCE, READ, READ_MASK, "source")
    everything = chosen_maps(weights, "all", "all")
    assert [[(one.layer, one.head) for one in row] for row in everything] == [
        [(layer, head) for head in (1, 2)] for layer in (1, 2, 3)
    ]
    torch.testing.assert_close(everything[2][0].weights_QP, weights[2, 0])
    ((one,),) = chosen_maps(weights, 3, 1)
    torch.testing.assert_close(one.weights_QP, weights[2, 0])
    ((mean,),) = chosen_maps(weights, 2, "mean")
    torch.testing.assert_close(mean.weights_QP, weights[1].mean(dim=0))
    assert (mean.layer, mean.head) == (2, "mean")
    ((all_mean,),) = chosen_maps(weights, "mean", "mean")
    torch.testing.assert_close(all_mean.weights_QP, weights.mean(dim=(0, 1)))
