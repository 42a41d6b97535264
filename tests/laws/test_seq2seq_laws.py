"""Laws of every encoder-decoder model: in steps or at once, alone or in any batch, it computes the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens, TransformerEncoder
from seqkit.models.memory import Memory
from seqkit.models.recurrent import CellName
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.recurrent_encoder import RecurrentEncoder
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder

V_SRC, V, D = 13, 11, 8
B, S, T = 4, 6, 5
LENGTHS = (4, 6, 2, 6)

CELLS: tuple[CellName, ...] = get_args(CellName)
# What attends to what, and what is fed; with them some options, so that each occurs with several.
DECODERS: dict[str, dict[str, Any]] = {
    "sutskever": {"bridge": "copy"},
    "cho": {"feeding": "context"},
    "dot": {"attention": "dot", "bridge": "copy"},
    "dot-fed": {"attention": "dot", "feeding": "hidden"},
    "dot-before": {"attention": "dot", "feeding": "context", "bridge": "zero"},
    "general": {"attention": "general", "ties_embeddings": True},
    "general-fed": {"attention": "general", "feeding": "hidden", "ties_embeddings": True},
    "general-before": {"attention": "general", "feeding": "context", "bridge": "copy"},
    "additive": {"attention": "additive"},
    "additive-fed": {"attention": "additive", "feeding": "hidden", "bridge": "zero"},
    "bahdanau": {"attention": "additive", "feeding": "context"},
}
ENCODERS: list[dict[str, Any]] = [{}, {"is_bidirectional": True}, {"reverses_source": True}]
DEPTHS: list[dict[str, Any]] = [{}, {"num_layers": 2}, {"num_layers": 2, "is_residual": True}]
RECURRENT: dict[str, dict[str, Any]] = {
    f"{cell}-{name}": {
        "cell": cell,
        "decoder": decoder,
        "encoder": ENCODERS[(number + number // len(DECODERS)) % 3],
        "depth": DEPTHS[(number // 3 + number) % 3],
    }
    for number, (cell, (name, decoder)) in enumerate(product(CELLS, DECODERS.items()))
    # The LSTM with every decoder, the others with every second one; the equations are tested for all.
    if cell == "lstm" or number % 2
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "transformer-pre-sinusoidal": {"norm": "pre", "positions": "sinusoidal"},
    "transformer-post-learned": {"norm": "post", "positions": "learned"},
    "transformer-pre-rotary-tied": {"norm": "pre", "positions": "rotary", "ties_embeddings": True},
}
VARIANTS = {**RECURRENT, **TRANSFORMERS}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def build(variant: str, **both: Any) -> EncoderDecoder:
    """A model in which every parameter, biases included, is random."""
    options = VARIANTS[variant]
    encoder: nn.Module
    decoder: nn.Module
    if "cell" in options:
        both = {"cell": options["cell"], **options["depth"], **both}
        keeps_states = options["decoder"].get("bridge") == "copy"
        encoder = RecurrentEncoder(V_SRC, D, embedding_size=5, keeps_states=keeps_states, **options["encoder"], **both)
        decoder = RecurrentDecoder(V, D, embedding_size=5, **options["decoder"], **both)
    else:
        kinds = {"norm": options["norm"], "positions": options["positions"], **both}
        encoder = TransformerEncoder(V_SRC, TransformerStack(2, D, 2, 16, **kinds))
        stack = TransformerStack(2, D, 2, 16, d_memory=D, **kinds)
        decoder = TransformerDecoder(V, stack, ties_embeddings=options.get("ties_embeddings", False))
    model = EncoderDecoder(encoder, decoder)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


def exact(variant: str) -> EncoderDecoder:
    """The same in float64, for comparisons without rounding to speak of."""
    return build(variant).double().eval()


def random_ids(num_ids: int, *shape: int, seed: int = 8) -> Tensor:
    return torch.randint(num_ids, shape, generator=torch.Generator().manual_seed(seed))


def source(rows: int = B) -> SourceTokens:
    """Rows of unequal length in no order."""
    lengths_B = torch.tensor([LENGTHS[row % len(LENGTHS)] for row in range(rows)])
    return SourceTokens(random_ids(V_SRC, rows, S), torch.arange(S) < lengths_B.unsqueeze(1))


def rows_of(tokens: SourceTokens, index_N: Tensor) -> SourceTokens:
    return SourceTokens(tokens.ids_BS[index_N], tokens.mask_BS[index_N])


def run(model: EncoderDecoder, tokens: SourceTokens, ids_BT: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, shape (B, T, V), and the weights over the source, shape (B, T, S), as ``attention`` would tell them."""
    taken: list[Tensor] = []
    hidden_BTR = model.target.attended_hidden(ids_BT, model.encode(tokens), memory_weights=taken)
    # Of several layers the last; the mean of its heads.
    return model.target.output(hidden_BTR), taken[-1].mean(dim=1) if taken else None


def run_in_steps(model: EncoderDecoder, state: Any, ids_NT: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    """The same, one token at a time; and the last state."""
    logits, weights = [], []
    for token_N in ids_NT.unbind(1):
        logits_NV, state = model.step(state, token_N)
        logits.append(logits_NV)
        weights_NS = model.attention(state)
        if weights_NS is not None:
            weights.append(weights_NS)
    return torch.stack(logits, dim=1), torch.stack(weights, dim=1) if weights else None, state


@every_variant
@torch.no_grad()
def test_a_target_at_once_equals_step_by_step(variant: str) -> None:
    model, ids_BT = exact(variant), random_ids(V, B, T)
    logits_BTV, weights_BTS = run(model, source(), ids_BT)
    assert logits_BTV.shape == (B, T, V)
    state = model.initial_state(source(), B)
    assert model.attention(state) is None
    step_logits_BTV, step_weights_BTS, _ = run_in_steps(model, state, ids_BT)
    torch.testing.assert_close(step_logits_BTV, logits_BTV)
    torch.testing.assert_close(step_weights_BTS, weights_BTS)


@every_variant
@torch.no_grad()
def test_a_target_token_changes_no_earlier_logit_and_all_that_follow(variant: str) -> None:
    model, tokens, ids_BT, place = exact(variant), source(12), random_ids(V, 12, T), 2
    changed_BT = ids_BT.clone()
    changed_BT[:, place] = (ids_BT[:, place] + 1) % V
    logits_BTV, _ = run(model, tokens, ids_BT)
    changed_BTV, _ = run(model, tokens, changed_BT)
    torch.testing.assert_close(changed_BTV[:, :place], logits_BTV[:, :place], rtol=0, atol=1e-12)
    # In some row at least: the units of a ReLU network may all be off.
    assert (changed_BTV[:, place:] - logits_BTV[:, place:]).abs().amax(dim=(0, 2)).min() > 1e-9


@every_variant
@torch.no_grad()
def test_every_real_source_token_counts_and_no_padding_does(variant: str) -> None:
    model, tokens, ids_BT = exact(variant), source(12), random_ids(V, 12, T)
    logits_BTV, _ = run(model, tokens, ids_BT)
    differences = []
    for place in range(S):
        ids_BS = tokens.ids_BS.clone()
        ids_BS[:, place] = (ids_BS[:, place] + 1) % V_SRC
        changed_BTV, _ = run(model, SourceTokens(ids_BS, tokens.mask_BS), ids_BT)
        differences.append((changed_BTV - logits_BTV).abs().amax(dim=(1, 2)))
    differences_BS = torch.stack(differences, dim=1)
    assert not differences_BS[~tokens.mask_BS].any()
    # In some row at least, as above.
    assert differences_BS.amax(dim=0).min() > 1e-9


@every_variant
@torch.no_grad()
def test_wider_padding_changes_nothing(variant: str) -> None:
    model, tokens, ids_BT = exact(variant), source(), random_ids(V, B, T)
    extra = 3
    wide = SourceTokens(
        torch.cat([tokens.ids_BS, random_ids(V_SRC, B, extra)], dim=1),
        torch.cat([tokens.mask_BS, torch.zeros(B, extra, dtype=torch.bool)], dim=1),
    )
    longer_BT = torch.cat([ids_BT, random_ids(V, B, 2, seed=3)], dim=1)
    logits_BTV, weights_BTS = run(model, tokens, ids_BT)
    wide_BTV, wide_BTS = run(model, wide, longer_BT)
    torch.testing.assert_close(wide_BTV[:, :T], logits_BTV)
    if weights_BTS is not None:
        assert wide_BTS is not None
        torch.testing.assert_close(wide_BTS[:, :T, :S], weights_BTS)
        assert not wide_BTS[:, :, S:].any()


@every_variant
@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(variant: str) -> None:
    model, tokens, ids_BT = exact(variant), source(), random_ids(V, B, T)
    logits_BTV, _ = run(model, tokens, ids_BT)
    for row, length in enumerate(LENGTHS):
        alone = SourceTokens(tokens.ids_BS[row : row + 1, :length], tokens.mask_BS[row : row + 1, :length])
        alone_1TV, _ = run(model, alone, ids_BT[row : row + 1])
        torch.testing.assert_close(alone_1TV[0], logits_BTV[row])
    order_B = torch.tensor([2, 0, 3, 1])
    turned_BTV, _ = run(model, rows_of(tokens, order_B), ids_BT[order_B])
    torch.testing.assert_close(turned_BTV, logits_BTV[order_B])


@every_variant
@torch.no_grad()
def test_attention_sums_to_one_over_real_positions_and_is_zero_elsewhere(variant: str) -> None:
    model, tokens = exact(variant), source()
    _, weights_BTS = run(model, tokens, random_ids(V, B, T))
    has_attention = variant in TRANSFORMERS or "attention" in RECURRENT[variant]["decoder"]
    assert (weights_BTS is not None) == has_attention
    if weights_BTS is not None:
        assert weights_BTS.shape == (B, T, S)
        torch.testing.assert_close(weights_BTS.sum(dim=2), torch.ones(B, T, dtype=torch.float64))
        is_real_BTS = tokens.mask_BS.unsqueeze(1).expand(B, T, S)
        assert (weights_BTS[is_real_BTS] > 0).all() and (weights_BTS[~is_real_BTS] == 0).all()


def memory_rows(state: Any) -> int | None:
    """Rows of the memory that a state holds, if it holds one."""
    if hasattr(state, "memories"):
        return int(state.memories[0].num_sources)
    return None if state.memory is None else len(state.memory.values_BSM)


# Rows of the second batch among those of the first, as search moves them: hypotheses of a source are adjacent.
MOVES = {
    "several-rows-a-source": ([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], 4),
    "sources-leave": ([3, 3, 1, 1], 2),
    "sources-change-places": ([2, 0, 1], 3),
    "one-row": ([2], 1),
    "groups-of-unequal-size": ([1, 1, 0, 3, 3, 3], 6),
    "groups-that-are-not-adjacent": ([1, 0, 1, 0], 4),
    "as-they-are": ([0, 1, 2, 3], 4),
}


@every_variant
@torch.no_grad()
def test_reordered_states_go_on_as_the_rows_they_came_from(variant: str) -> None:
    model, tokens, ids_BT = exact(variant), source(), random_ids(V, B, 3)
    for index, num_memories in MOVES.values():
        index_N = torch.tensor(index)
        _, _, state = run_in_steps(model, model.initial_state(tokens, B), ids_BT)
        state = model.reorder(state, index_N)
        assert memory_rows(state) in (num_memories, None)
        more_NT = random_ids(V, len(index_N), 2, seed=9)
        logits_NTV, weights_NTS, _ = run_in_steps(model, state, more_NT)
        # The same from the beginning, each row with a source of its own.
        whole_NT = torch.cat([ids_BT[index_N], more_NT], dim=1)
        expected_NTV, expected_NTS = run(model, rows_of(tokens, index_N), whole_NT)
        torch.testing.assert_close(logits_NTV, expected_NTV[:, 3:])
        if expected_NTS is not None:
            torch.testing.assert_close(weights_NTS, expected_NTS[:, 3:])


@pytest.mark.parametrize("variant", RECURRENT)
@torch.no_grad()
def test_recurrent_decoders_read_several_tokens_of_several_rows_a_source_at_once(variant: str) -> None:
    model, tokens, index_N = exact(variant), source(), torch.arange(B).repeat_interleave(2)
    decoder = model.decoder
    assert isinstance(decoder, RecurrentDecoder)
    ids_NT = random_ids(V, 2 * B, T)
    expected_NTV, expected_NTS = run(model, rows_of(tokens, index_N), ids_NT)
    state = model.reorder(model.initial_state(tokens, B), index_N)
    begin_NTR, state = decoder.hidden(ids_NT[:, :3], state)
    if expected_NTS is not None:
        torch.testing.assert_close(model.attention(state), expected_NTS[:, 2])
    end_NTV, _, _ = run_in_steps(model, state, ids_NT[:, 3:])
    torch.testing.assert_close(torch.cat([decoder.output(begin_NTR), end_NTV], dim=1), expected_NTV)


@every_variant
@torch.no_grad()
def test_hypotheses_move_again_and_again_without_copying_the_memory(variant: str) -> None:
    model, tokens = exact(variant), source()
    state = model.initial_state(tokens, B)
    origin_N, read_NT = torch.arange(B), torch.empty(B, 0, dtype=torch.long)
    for number, index in enumerate(
        [[0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 2, 2, 5, 4, 7, 7], [4, 5, 3, 2], [0, 0, 1, 3, 3, 2], [3, 4, 5]]
    ):
        token_N = random_ids(V, len(origin_N), seed=number)
        _, state = model.step(state, token_N)
        index_N = torch.tensor(index)
        state = model.reorder(state, index_N)
        origin_N, read_NT = origin_N[index_N], torch.cat([read_NT, token_N.unsqueeze(1)], dim=1)[index_N]
        assert memory_rows(state) in (4 if number < 2 else 2 if number < 4 else 1, None)
    assert origin_N.tolist() == [1, 1, 1]
    token_N = random_ids(V, 3, seed=20)
    logits_NV, state = model.step(state, token_N)
    expected_NTV, expected_NTS = run(
        model, rows_of(tokens, origin_N), torch.cat([read_NT, token_N.unsqueeze(1)], dim=1)
    )
    torch.testing.assert_close(logits_NV, expected_NTV[:, -1])
    if expected_NTS is not None:
        torch.testing.assert_close(model.attention(state), expected_NTS[:, -1])


@every_variant
def test_fp32_and_bf16_run_forward_and_back_and_gradients_reach_every_parameter(variant: str) -> None:
    model, tokens, ids_BT = build(variant), source(12), random_ids(V, 12, T)
    # As they are initialised: random parameters of this size send a ReLU network to large numbers.
    torch.manual_seed(4)
    for module in (model.encoder, model.decoder):
        module.reset_parameters()  # type: ignore[operator]
    logits_BTV, _ = run(model, tokens, ids_BT)
    assert logits_BTV.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_BTV, _ = run(model, tokens, ids_BT)
        (low_BTV.float().logsumexp(-1) - low_BTV[..., 0].float()).sum().backward()
        with torch.no_grad():
            steps_BTV, _, _ = run_in_steps(model, model.initial_state(tokens, 12), ids_BT)
    scale = max(1.0, logits_BTV.abs().max().item())
    for other_BTV in (low_BTV, steps_BTV):
        assert other_BTV.dtype == torch.bfloat16
        # bf16 has 8 bits: after some layers and steps, logits differ by hundredths.
        torch.testing.assert_close(other_BTV.float(), logits_BTV, atol=0.05 * scale, rtol=0.05)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_a_reversing_encoder_reads_backwards_and_keeps_the_order(cell: CellName) -> None:
    tokens = source()
    reading: dict[bool, Memory] = {}
    for reverses in (False, True):
        torch.manual_seed(3)
        encoder = RecurrentEncoder(
            V_SRC, D, cell=cell, num_layers=2, reverses_source=reverses, keeps_states=True
        ).double()
        ids_BS = tokens.ids_BS.clone()
        if not reverses:
            for row, length in enumerate(LENGTHS):
                ids_BS[row, :length] = ids_BS[row, :length].flip(0)
        reading[reverses] = encoder(ids_BS, tokens.mask_BS)
    for row, length in enumerate(LENGTHS):
        forwards_SM = reading[False].values_BSM[row, :length]
        torch.testing.assert_close(reading[True].values_BSM[row, :length], forwards_SM.flip(0))
    torch.testing.assert_close(reading[True].states, reading[False].states)


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_a_recurrent_decoder_takes_any_memory(cell: CellName) -> None:
    # Image regions, say: vectors and their mean, and no encoder's states.
    decoder = RecurrentDecoder(V, D, cell=cell, d_memory=3, attention="additive", feeding="hidden").double()
    values_BSM = torch.randn(B, S, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    memory = Memory(values_BSM, torch.ones(B, S, dtype=torch.bool), values_BSM.mean(dim=1))
    ids_BT = random_ids(V, B, T)
    hidden_BTR = decoder.attended_hidden(ids_BT, memory)
    changed = replace(memory, summary_BM=memory.summary_BM + 1)
    assert (decoder.attended_hidden(ids_BT, changed) - hidden_BTR).abs().max() > 1e-6
    order_S = torch.tensor([3, 1, 5, 0, 2, 4])
    turned = replace(memory, values_BSM=values_BSM[:, order_S])
    torch.testing.assert_close(decoder.attended_hidden(ids_BT, turned), hidden_BTR)
