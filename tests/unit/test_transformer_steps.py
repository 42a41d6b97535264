"""Steps of a Transformer decoder: hypotheses that branch, meet no others, and agree with whole sequences.

Legend: B sources, W hypotheses of each, N = B·W, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens, TransformerEncoder
from seqkit.models.fixed_layers import Layout
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder
from seqkit.models.transformer_steps import SteppingState

B, S, V, D = 3, 5, 11, 8
LENGTHS_B1 = torch.tensor([[5], [2], [4]])
SOURCE = SourceTokens(
    torch.randint(V, (B, S), generator=torch.Generator().manual_seed(1)), torch.arange(S) < LENGTHS_B1
)
VARIANTS: dict[str, dict[str, Any]] = {
    "pre-relu": {"norm": "pre", "positions": "sinusoidal", "activation": "relu"},
    "pre-gelu": {"norm": "pre", "positions": "learned", "activation": "gelu"},
    "post-geglu": {"norm": "post", "positions": "rotary", "activation": "geglu"},
    "post-swiglu": {"norm": "post", "positions": "sinusoidal", "activation": "swiglu"},
}


def make_model(variant: str) -> EncoderDecoder:
    """In float64, every parameter random."""
    options = VARIANTS[variant]
    encoder = TransformerEncoder(V, TransformerStack(1, D, 2, 12, **options))
    decoder = TransformerDecoder(V, TransformerStack(2, D, 2, 12, d_memory=D, **options))
    model = EncoderDecoder(encoder, decoder).double().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


def whole(model: EncoderDecoder, source_of_row_N: Tensor, ids_NT: Tensor) -> Tensor:
    """Logits after the last of some tokens, by a pass over whole sequences, each row with a source of its own."""
    source = SourceTokens(SOURCE.ids_BS[source_of_row_N], SOURCE.mask_BS[source_of_row_N])
    logits_NV: Tensor = model.target.output(model.target.attended_hidden(ids_NT, model.encode(source))[:, -1])
    return logits_NV


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_hypotheses_that_branch_for_long_agree_with_whole_sequences(variant: str) -> None:
    model, generator, width = make_model(variant), torch.Generator().manual_seed(3), 4
    state = model.initial_state(SOURCE, B)
    origin_N, read_NT = torch.arange(B), torch.empty(B, 0, dtype=torch.long)
    num_positions = []
    for step in range(60):
        token_N = torch.randint(V, origin_N.shape, generator=generator)
        logits_NV, state = model.step(state, token_N)
        read_NT = torch.cat([read_NT, token_N.unsqueeze(1)], dim=1)
        if step % 7 == 0 or step > 56:
            torch.testing.assert_close(logits_NV, whole(model, origin_N, read_NT))
        num_positions.append(state.cache.num_positions)
        # Any hypothesis of a source may go on as any number of them; the second source leaves on the way.
        sources = [0, 1, 2] if step < 30 else [0, 2] if step < 50 else [2]
        index_N = torch.cat([_rows_from(origin_N, source, width, generator) for source in sources])
        state = model.reorder(state, index_N)
        origin_N, read_NT = origin_N[index_N], read_NT[index_N]
    # What nobody sees is dropped: of 60 steps with 4 hypotheses each there would be 237 positions.
    assert max(num_positions) < 150
    # But not in every step, which would be a copy each time.
    assert sum(after < before for before, after in pairwise(num_positions)) < 15


def _rows_from(origin_N: Tensor, source: int, width: int, generator: torch.Generator) -> Tensor:
    rows = (origin_N == source).nonzero().squeeze(1)
    return rows[torch.randint(len(rows), (width,), generator=generator)]


# Up to 4 positions, as wide as a head, a single source is laid out in another way.
@pytest.mark.parametrize("length", [2, 5])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_hypotheses_of_a_single_source_agree_with_whole_sequences(variant: str, length: int) -> None:
    model, generator = make_model(variant), torch.Generator().manual_seed(4)
    number = LENGTHS_B1.flatten().tolist().index(length)
    source = SourceTokens(SOURCE.ids_BS[number : number + 1, :length], SOURCE.mask_BS[number : number + 1, :length])
    state, read_NT = model.initial_state(source, 1), torch.empty(1, 0, dtype=torch.long)
    for width in (3, 3, 1, 4):
        token_N = torch.randint(V, (len(read_NT),), generator=generator)
        logits_NV, state = model.step(state, token_N)
        read_NT = torch.cat([read_NT, token_N.unsqueeze(1)], dim=1)
        weights: list[Tensor] = []
        memory = model.encode(
            SourceTokens(*(each.expand(len(read_NT), -1) for each in (source.ids_BS, source.mask_BS)))
        )
        hidden_NTD = model.target.attended_hidden(read_NT, memory, memory_weights=weights)
        torch.testing.assert_close(logits_NV, model.target.output(hidden_NTD[:, -1]))
        torch.testing.assert_close(model.attention(state), weights[-1].mean(dim=1)[:, -1])
        index_N = torch.randint(len(read_NT), (width,), generator=generator)
        state, read_NT = model.reorder(state, index_N), read_NT[index_N]


@torch.no_grad()
def test_one_state_goes_on_in_two_ways_if_its_rows_are_named_twice() -> None:
    model = make_model("pre-relu")
    state = model.initial_state(SOURCE, B)
    first_N, ids_2B = torch.tensor([1, 2, 3]), torch.tensor([[4, 5, 6], [7, 8, 9]])
    _, state = model.step(state, first_N)
    twice_N = torch.arange(B).repeat_interleave(2)
    state = model.reorder(state, twice_N)
    read_NT = torch.stack([first_N[twice_N], ids_2B.T.flatten()], dim=1)
    logits_NV, state = model.step(state, ids_2B.T.flatten())
    torch.testing.assert_close(logits_NV, whole(model, twice_N, read_NT))
    # Neither sees what the other has read meanwhile.
    logits_NV, _ = model.step(state, first_N[twice_N])
    read_NT = torch.cat([read_NT, first_N[twice_N].unsqueeze(1)], dim=1)
    torch.testing.assert_close(logits_NV, whole(model, twice_N, read_NT))


@torch.no_grad()
def test_a_state_that_was_used_says_so() -> None:
    model, token_B, order_B = make_model("pre-relu"), torch.tensor([1, 2, 3]), torch.arange(B)
    state = model.initial_state(SOURCE, B)
    _, after = model.step(state, token_B)
    with pytest.raises(RuntimeError, match="gone on from before"):
        model.step(state, token_B)
    model.reorder(after, order_B)
    for use in (lambda: model.reorder(after, order_B), lambda: model.step(after, token_B)):
        with pytest.raises(RuntimeError, match="gone on from before"):
            use()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_sources_that_fill_gaps_go_on_as_before(variant: str) -> None:
    model, generator = make_model(variant), torch.Generator().manual_seed(4)
    origin_N = torch.randint(B, (9,), generator=generator)
    state = model.initial_state(SourceTokens(SOURCE.ids_BS[origin_N], SOURCE.mask_BS[origin_N]), 9)
    read_NT = torch.empty(9, 0, dtype=torch.long)
    # Hypotheses of each source, and the sources that stay: in place, in place, at the end, in another order, one twice.
    for width, kept in (
        (2, range(9)),
        (2, (0, 8, 2, 3, 4, 7, 6)),
        (3, (6, 1, 2, 3, 5)),
        (3, (0, 1, 2, 3)),
        (3, (2, 0, 1)),
        (3, (1, 1)),
    ):
        for _ in range(9):
            token_N = torch.randint(V, origin_N.shape, generator=generator)
            logits_NV, state = model.step(state, token_N)
            read_NT = torch.cat([read_NT, token_N.unsqueeze(1)], dim=1)
            torch.testing.assert_close(logits_NV, whole(model, origin_N, read_NT))
            now = len(token_N) // state.cache.num_sources
            index_N = (
                torch.arange(len(token_N)).view(-1, now)[:, torch.randint(now, (now,), generator=generator)].flatten()
            )
            state = model.reorder(state, index_N)
            origin_N, read_NT = origin_N[index_N], read_NT[index_N]
        now = len(origin_N) // state.cache.num_sources
        index_N = torch.cat([source * now + torch.randint(now, (width,), generator=generator) for source in kept])
        state = model.reorder(state, index_N)
        origin_N, read_NT = origin_N[index_N], read_NT[index_N]


@torch.no_grad()
def test_sources_leave_before_the_first_step_too() -> None:
    model, token_N = make_model("pre-relu"), torch.tensor([3, 4])
    state = model.reorder(model.initial_state(SOURCE, B), torch.tensor([2, 0]))
    logits_NV, _ = model.step(state, token_N)
    torch.testing.assert_close(logits_NV, whole(model, torch.tensor([2, 0]), token_N.unsqueeze(1)))


@torch.no_grad()
def test_attention_is_told_of_the_step_just_made_only() -> None:
    model = make_model("pre-relu")
    _, state = model.step(model.initial_state(SOURCE, B), torch.tensor([1, 2, 3]))
    weights_NS = model.attention(state)
    assert weights_NS is not None
    torch.testing.assert_close(weights_NS.sum(dim=1), torch.ones(B, dtype=torch.float64))
    assert model.attention(model.reorder(state, torch.tensor([0, 1]))) is None


@torch.no_grad()
def test_steps_follow_the_weights_until_they_are_fixed() -> None:
    model, token_B = make_model("pre-relu"), torch.tensor([1, 2, 3])

    def logits() -> Tensor:
        return model.step(model.initial_state(SOURCE, B), token_B)[0]

    before_BV = logits()
    model.decoder.output.bias += 1.0  # type: ignore[union-attr,operator]
    torch.testing.assert_close(logits(), before_BV + 1.0)
    model.fix_weights()
    state = model.initial_state(SOURCE, B)
    assert isinstance(state, SteppingState)
    assert state.steps is model.initial_state(SOURCE, B).steps
    torch.testing.assert_close(logits(), before_BV + 1.0)


@pytest.mark.parametrize("num_sources", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_steps_in_bf16_differ_by_its_rounding_only(variant: str, num_sources: int) -> None:
    model = make_model(variant).float()
    source = SourceTokens(SOURCE.ids_BS[:num_sources], SOURCE.mask_BS[:num_sources])
    origin_N = torch.arange(num_sources)
    read_NT = torch.empty(num_sources, 0, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = model.initial_state(source, num_sources)
    for step in range(4):
        token_N = torch.arange(len(origin_N)) + step
        read_NT = torch.cat([read_NT, token_N.unsqueeze(1)], dim=1)
        expected_NV = whole(model, origin_N, read_NT)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_NV, state = model.step(state, token_N)
            weights_NS = model.attention(state)
            assert weights_NS is not None
            # Any row of a source may have gone on as both of its rows.
            index_N = torch.arange(num_sources).repeat_interleave(2) * (1 if step == 0 else 2)
            state = model.reorder(state, index_N)
        assert (logits_NV - expected_NV).abs().mean() < 0.03 * expected_NV.abs().mean()
        torch.testing.assert_close(weights_NS.sum(dim=1).float(), torch.ones(len(origin_N)), atol=0.02, rtol=0.0)
        origin_N, read_NT = origin_N[index_N], read_NT[index_N]


@pytest.mark.usefixtures("int8_machine")
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_steps_in_8_bits_are_close_alone_and_in_company(variant: str) -> None:
    model, token_B = make_model(variant).float(), torch.tensor([1, 2, 3])
    exact_BV, _ = model.step(model.initial_state(SOURCE, B), token_B)
    model.fix_weights(Layout("int8"))
    logits_BV, _ = model.step(model.initial_state(SOURCE, B), token_B)
    deviation = float((logits_BV - exact_BV).square().mean().sqrt() / exact_BV.std())
    assert 0 < deviation < 0.05
    for row in range(B):
        # A source by itself takes no other way, such as the one that has no 8-bit products.
        length = int(LENGTHS_B1[row])
        alone = SourceTokens(SOURCE.ids_BS[row : row + 1, :length], SOURCE.mask_BS[row : row + 1, :length])
        logits_1V, _ = model.step(model.initial_state(alone, 1), token_B[row : row + 1])
        torch.testing.assert_close(logits_1V[0], logits_BV[row], rtol=0.0, atol=0.05 * float(exact_BV.std()))
