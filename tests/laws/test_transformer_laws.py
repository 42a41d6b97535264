"""Laws of the Transformer language model: one step at a time, in parts, in any batch, it computes the same.

Legend: B rows, T time, V vocabulary, D width, C context length, N rows kept.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from seqkit.decoding.sampling import SamplingRule, generate, row_generators
from seqkit.decoding.scoring import ScoreSum, score_lines, score_windows
from seqkit.models.build import build_language_model
from seqkit.models.dropout import SequenceDropout
from seqkit.models.transformer_decoder import TransformerDecoder, TransformerState
from seqkit.recipe.schema import TransformerLm

CPU = torch.device("cpu")
POSITIONS = ("learned", "sinusoidal", "rotary")
VARIANTS = [
    pytest.param(
        {"positions": positions, "norm": norm, "activation": activation, "tie_embeddings": is_tied, "num_layers": 2},
        id=f"{positions}-{norm}-{activation}-{'tied' if is_tied else 'untied'}",
    )
    # Every position with every place of the norm; activations and tying in turn.
    for (positions, norm), activation, is_tied in zip(
        product(POSITIONS, ("pre", "post")),
        ("gelu", "relu", "geglu", "swiglu", "gelu", "relu"),
        (False, True, True, False, True, False),
        strict=True,
    )
]
B, T, V, D, C = 3, 7, 11, 12, 9
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_position = pytest.mark.parametrize("positions", POSITIONS)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def build(variant: dict[str, Any], **changed: Any) -> TransformerDecoder:
    """A model in which every parameter is random."""
    values = {"type": "transformer", "d_model": D, "num_heads": 3, "d_feed_forward": 8, "context_length": C}
    config = TypeAdapter(TransformerLm).validate_python({**values, **variant, **changed})
    model = build_language_model(config, V)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def exact(variant: dict[str, Any], **changed: Any) -> TransformerDecoder:
    """The same in float64, for comparisons without rounding to speak of."""
    return build(variant, **changed).double().eval()


def random_ids(*shape: int) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(8))


def feed(model: TransformerDecoder, ids_BT: Tensor) -> tuple[Tensor, TransformerState]:
    """Logits after each token, one step a token, and the state after the last."""
    state = model.initial_state(None, len(ids_BT))
    rows = []
    for token_B in ids_BT.unbind(dim=1):
        logits_BV, state = model.step(state, token_B)
        rows.append(logits_BV)
    return torch.stack(rows, dim=1), state


@every_variant
@torch.no_grad()
def test_a_sequence_at_once_equals_step_by_step(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, C)
    logits_BTV, end = model(ids_BT)
    assert logits_BTV.shape == (B, C, V)
    stepped_BTV, state = feed(model, ids_BT)
    torch.testing.assert_close(stepped_BTV, logits_BTV)
    # Training keeps no cache, and reads the same.
    hidden_BTD, no_state = model.hidden(ids_BT)
    assert no_state is None
    torch.testing.assert_close(model.output(hidden_BTD), logits_BTV)
    assert state.length == end.length == C


@every_variant
@torch.no_grad()
def test_a_token_changes_no_earlier_logit_and_all_that_follow(variant: dict[str, Any]) -> None:
    model, ids_BT, place = exact(variant), random_ids(B, T), 4
    changed_BT = ids_BT.clone()
    changed_BT[:, place] = (ids_BT[:, place] + 1) % V
    logits_BTV, changed_BTV = model(ids_BT)[0], model(changed_BT)[0]
    assert torch.equal(changed_BTV[:, :place], logits_BTV[:, :place])
    assert (changed_BTV[:, place:] - logits_BTV[:, place:]).abs().amax(dim=-1).min() > 1e-9


@every_variant
@torch.no_grad()
def test_the_order_of_tokens_matters(variant: dict[str, Any]) -> None:
    # Without positions, the last of three tokens would see the first two as a set.
    model = exact(variant)
    one_V, other_V = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))[0][:, -1]
    assert (one_V - other_V).abs().max() > 1e-3


@every_variant
@torch.no_grad()
def test_parts_with_the_state_carried_equal_the_whole(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    logits_BTV, _ = model(ids_BT)
    state, parts = None, []
    for first, last in pairwise((0, 1, 4, T)):
        part_BTV, state = model(ids_BT[:, first:last], state)
        parts.append(part_BTV)
    torch.testing.assert_close(torch.cat(parts, dim=1), logits_BTV)


@every_variant
@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    logits_BTV, _ = model(ids_BT)
    for row in range(B):
        torch.testing.assert_close(model(ids_BT[row : row + 1])[0][0], logits_BTV[row])


@every_variant
@torch.no_grad()
def test_reordered_states_go_on_as_the_rows_they_came_from(variant: dict[str, Any]) -> None:
    model, ids_BT = exact(variant), random_ids(B, T)
    index_N, token_N4 = torch.tensor([2, 0, 0, 1]), torch.tensor([[1, 4, 9, 6], [3, 3, 0, 10], [7, 1, 2, 5]]).T
    _, state = model(ids_BT)
    moved = model.reorder(state, index_N)
    # A state is used up when it is stepped; what reorder took from it before stays as it was.
    model.step(state, ids_BT[:, 0])
    for length, token_N in enumerate(token_N4.unbind(dim=1), start=1):
        logits_NV, moved = model.step(moved, token_N)
        alone_NT = torch.cat([ids_BT[index_N], token_N4[:, :length]], dim=1)[:, -C:]
        if length < 3:
            torch.testing.assert_close(logits_NV, model(alone_NT)[0][:, -1])
    # The tenth token of a context of nine: the last four of those, and it.
    torch.testing.assert_close(logits_NV, model(alone_NT[:, -5:])[0][:, -1])


@every_position
@pytest.mark.parametrize("context_length", [1, 2, 5, 8])
@torch.no_grad()
def test_beyond_the_context_its_later_half_is_read_again(positions: str, context_length: int) -> None:
    model, ids_BT = exact({"positions": positions}, context_length=context_length), random_ids(B, 23)
    stepped_BTV, state = feed(model, ids_BT)
    first = 0
    for t in range(ids_BT.size(1)):
        if t - first == context_length:
            first = t - context_length // 2
        logits_BTV, _ = model(ids_BT[:, first : t + 1])
        torch.testing.assert_close(stepped_BTV[:, t], logits_BTV[:, -1])
    assert 0 < state.length <= context_length


@every_position
def test_more_than_the_context_is_refused(positions: str) -> None:
    model = exact({"positions": positions})
    with pytest.raises(ValueError, match=f"{C + 1} tokens, but the model looks back over {C}"):
        model(random_ids(B, C + 1))
    with pytest.raises(ValueError, match=f"{C + 1} tokens"):
        model.hidden(random_ids(B, C + 1))
    _, state = model(random_ids(B, C - 1))
    with pytest.raises(ValueError, match=f"{C + 1} tokens"):
        model(random_ids(B, 2), state)


@every_position
@pytest.mark.parametrize("prompt_length", [1, 4, C])
@torch.no_grad()
def test_samples_with_and_without_the_cache_are_the_same(positions: str, prompt_length: int) -> None:
    model, prompt = exact({"positions": positions}), random_ids(prompt_length).tolist()
    generators = row_generators(3, 2, device=CPU)
    rule = SamplingRule(temperature=0.9)
    drawn = list(generate(model, prompt, length=30, rule=rule, generators=generators, device=CPU))
    for row in range(2):
        read, first = list(prompt), 0
        for tokens in drawn:
            if len(read) - first > C:
                first = len(read) - 1 - C // 2
            logits_V = model(torch.tensor([read[first:]]))[0][0, -1]
            token = int(tokens.token_B[row])
            assert tokens.log_prob_B[row].item() == pytest.approx(logits_V.float().log_softmax(-1)[token].item(), 1e-5)
            read.append(token)
    assert len({tuple(tokens.token_B.tolist()) for tokens in drawn}) > 10


@every_variant
def test_fp32_and_bf16_run_forward_and_back(variant: dict[str, Any]) -> None:
    model, ids_BT = build(variant), random_ids(B, T)
    logits_BTV, _ = model(ids_BT)
    assert logits_BTV.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BTD, _ = model.hidden(ids_BT)
        low_BTV = model.output(hidden_BTD)
        low_BTV.float().logsumexp(-1).sum().backward()
        with torch.no_grad():
            stepped_BTV, _ = feed(model, ids_BT)
    assert low_BTV.dtype == torch.bfloat16
    scale = max(1.0, logits_BTV.abs().max().item())
    torch.testing.assert_close(low_BTV.float(), logits_BTV, atol=0.05 * scale, rtol=0.05)
    torch.testing.assert_close(stepped_BTV.float(), logits_BTV, atol=0.05 * scale, rtol=0.05)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_position
def test_dropout_stands_on_the_input_in_every_branch_and_on_the_weights(positions: str) -> None:
    torch.manual_seed(10)
    model = build({"positions": positions}, num_layers=2, dropout=0.5, attention_dropout=0.25).train()
    shapes: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(module, SequenceDropout)
        dropped = (output == 0) & (inputs[0] != 0)
        assert 0 < dropped.double().mean() < 1
        shapes.append((*output.shape, module.probability))  # type: ignore[arg-type]

    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.register_forward_hook(note)
    model.hidden(random_ids(B, T))
    branch, inside, weights = (B, T, D, 0.5), (B, T, 8, 0.5), (B, 3, T, T, 0.25)
    assert shapes == [branch, *[weights, branch, inside, branch] * 2]


@torch.no_grad()
def test_dropout_is_off_outside_training() -> None:
    torch.manual_seed(11)
    ids_BT = random_ids(B, T)
    model, without = build({}, dropout=0.5, attention_dropout=0.5), build({})
    random_state = torch.get_rng_state()
    assert torch.equal(model.eval()(ids_BT)[0], without(ids_BT)[0])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not torch.equal(model.train()(ids_BT)[0], model(ids_BT)[0])


@torch.no_grad()
def naive(model: TransformerDecoder, ids: list[int], window: int, stride: int) -> ScoreSum:
    """Every token but the first after the widest stretch that a window of that stride leaves it, one by one."""
    nats, number = 0.0, 0
    for place in range(1, len(ids)):
        # The windows begin at 0, stride, 2 · stride …; the first that reaches this place reads for it, but the last
        # window, which ends with the text, begins as early as it can.
        number = max(0, -(-(place - window) // stride)) * stride
        number = min(number, max(0, len(ids) - 1 - window))
        logits_V = model(torch.tensor([ids[number:place]]))[0][0, -1]
        nats -= float(logits_V.log_softmax(-1)[ids[place]])
    return ScoreSum(nats, len(ids) - 1)


@pytest.mark.parametrize("num_tokens", [2, C, C + 1, C + 2, 38, 41])
@pytest.mark.parametrize("tokens_at_once", [None, 1, 20])
@pytest.mark.parametrize("window", [C, 4, 1])
def test_overlapping_windows_give_half_a_window_of_context(
    num_tokens: int, tokens_at_once: int | None, window: int
) -> None:
    model, ids = exact({}), random_ids(num_tokens)
    found = score_windows(
        model,
        ids.numpy().astype(np.uint8),
        window=window,
        device=CPU,
        vocab_size=V,
        overlaps=True,
        tokens_at_once=tokens_at_once,
    )
    expected = naive(model, ids.tolist(), window, window - window // 2)
    assert found.num_tokens == expected.num_tokens
    assert found.nats == pytest.approx(expected.nats, rel=1e-6)


def test_lines_longer_than_the_context_are_scored_in_windows() -> None:
    model = exact({})
    lines = [random_ids(length).tolist() for length in (0, 3, C - 2, C - 1, C, 31, 1)]
    for end_ids in ([10], [], [10, 7]):
        expected = [naive(model, [4, *line, *end_ids], C, C - C // 2) for line in lines]
        for tokens_at_once in (None, 12):
            found = score_lines(
                model,
                lines,
                start_id=4,
                end_ids=end_ids,
                device=CPU,
                vocab_size=V,
                window=C,
                tokens_at_once=tokens_at_once,
            )
            assert [total.num_tokens for total in found] == [total.num_tokens for total in expected]
            for total, wanted in zip(found, expected, strict=True):
                assert total.nats == pytest.approx(wanted.nats, rel=1e-6)
