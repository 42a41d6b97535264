"""What the kernels of decoding steps compute, against the same from PyTorch.

Legend: N rows, M rows of a tensor with room for more, I inputs and O outputs of a matrix, B sources, W rows of each,
H heads, K head width, S positions, V vocabulary, C tokens wanted.
"""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.decoding.top_tokens import top_tokens
from seqkit.kernels.compiling import compiled_steps
from seqkit.kernels.native import NativeKernels, native_kernels
from seqkit.models.attention import fused_attention
from seqkit.models.int8_layers import Int8Linear

SMALLEST = 1e-30
UNTOUCHED = 77
WIDTHS = [1, 15, 16, 17, 100, 512]
VOCABULARIES = [3, 64, 100, 1000, 8000]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> NativeKernels:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler on this machine")
    cache = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.delenv("SEQKIT_KERNELS", raising=False)
        made = native_kernels(cache)
        assert made is not None, compiled_steps(cache).remark
    return made


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of_all_magnitudes(num_rows: int, size: int) -> Tensor:
    return numbers(num_rows, size) * torch.logspace(-25, 30, num_rows).unsqueeze(1)


def room_for(num_rows: int, size: int) -> Tensor:
    return torch.full((num_rows + 3, size), UNTOUCHED, dtype=torch.uint8)


def check_rounded(whole_MI: Tensor, largest_N: Tensor, x_NI: Tensor) -> None:
    """Check that rows were rounded as PyTorch rounds them, and no others written.

    A number whose quotient lies within rounding of the edge of a step may be a step off.
    """
    by_N1 = largest_N.unsqueeze(1)
    reference_NI = (x_NI * (127 / by_N1) + 128.5).to(torch.int32)
    exact_NI = x_NI.double() * (127 / by_N1.double()) + 128.5
    whole_NI = whole_MI[: len(x_NI)].int()
    assert bool(((whole_NI - reference_NI).abs() <= 1).all())
    assert bool(((whole_NI < exact_NI + 1e-4) & (whole_NI > exact_NI - 1 - 1e-4)).all())
    assert bool((whole_NI >= 1).all())
    assert bool((whole_MI[len(x_NI) :] == UNTOUCHED).all())


@pytest.mark.parametrize("size", WIDTHS)
def test_rows_are_rounded_to_steps_of_their_largest_number(kernels: NativeKernels, size: int) -> None:
    for x_NI in (rows_of_all_magnitudes(23, size), numbers(23, 2 * size)[:, ::2]):
        whole_MI = room_for(23, size)
        largest_N = kernels.round_rows(x_NI, whole_MI, SMALLEST)
        assert torch.equal(largest_N, x_NI.abs().amax(dim=1))
        check_rounded(whole_MI, largest_N, x_NI)
        # The largest number itself is 127 steps from zero, on either side.
        place_N1 = x_NI.abs().argmax(dim=1, keepdim=True)
        steps_N = whole_MI[:23].gather(1, place_N1).squeeze(1).int() - 128
        assert torch.equal(steps_N, 127 * x_NI.gather(1, place_N1).squeeze(1).sign().int())


@pytest.mark.parametrize("size", WIDTHS)
def test_rows_of_zeros_or_next_to_it_are_divided_by_the_smallest(kernels: NativeKernels, size: int) -> None:
    x_NI = numbers(4, size)
    x_NI[1] = 0.0
    x_NI[2] = -0.0
    x_NI[3] = 0.4e-30
    whole_MI = room_for(4, size)
    largest_N = kernels.round_rows(x_NI, whole_MI, SMALLEST)
    assert torch.equal(largest_N[1:], torch.full((3,), SMALLEST))
    assert bool((whole_MI[1:3] == 128).all()) and bool((whole_MI[3] == 128 + 51).all())
    check_rounded(whole_MI, largest_N, x_NI)


@pytest.mark.parametrize("size", [1, 17, 64])
@pytest.mark.parametrize("number", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_the_largest_of_its_row_alone(
    kernels: NativeKernels, size: int, number: float
) -> None:
    x_NI, whole_MI, clean_MI = numbers(5, size), room_for(5, size), room_for(5, size)
    clean_N = kernels.round_rows(x_NI, clean_MI, SMALLEST)
    for place in {0, size // 2, size - 1}:
        y_NI = x_NI.clone()
        y_NI[2, place] = number
        largest_N = kernels.round_rows(y_NI, whole_MI, SMALLEST)
        torch.testing.assert_close(largest_N[2], torch.tensor(number).abs(), equal_nan=True)
        others = [0, 1, 3, 4]
        assert torch.equal(largest_N[others], clean_N[others])
        assert torch.equal(whole_MI[others], clean_MI[others])


def test_a_row_is_rounded_alike_whatever_is_beside_it(kernels: NativeKernels) -> None:
    x_NI, whole_MI = rows_of_all_magnitudes(9, 100), room_for(9, 100)
    largest_N = kernels.round_rows(x_NI, whole_MI, SMALLEST)
    order_N = torch.tensor([3, 8, 0, 1, 7, 2, 6, 4, 5])
    moved_MI = room_for(9, 100)
    assert torch.equal(kernels.round_rows(x_NI[order_N], moved_MI, SMALLEST), largest_N[order_N])
    assert torch.equal(moved_MI[:9], whole_MI[order_N])
    for row in range(9):
        alone_MI = room_for(1, 100)
        assert torch.equal(kernels.round_rows(x_NI[row : row + 1], alone_MI, SMALLEST), largest_N[row : row + 1])
        assert torch.equal(alone_MI[0], whole_MI[row])


@pytest.mark.parametrize("size", WIDTHS)
def test_rows_are_scaled_and_shifted_in_place(kernels: NativeKernels, size: int) -> None:
    y_NO, largest_N, bias_O = numbers(7, size), torch.logspace(-3, 3, 7), numbers(size, seed=1)
    y_NO[2, size // 2] = torch.nan
    expected_NO = torch.addcmul(bias_O, y_NO, largest_N.unsqueeze(1))
    kernels.scale_rows_(y_NO, largest_N, bias_O)
    torch.testing.assert_close(y_NO, expected_NO, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert int(y_NO.isnan().sum()) == 1


@pytest.mark.parametrize("size", WIDTHS)
def test_scaled_rows_are_added_in_place(kernels: NativeKernels, size: int) -> None:
    x_NO, bias_O = numbers(7, size, seed=2), numbers(size, seed=1)
    largest_N = torch.logspace(-3, 3, 7)
    for y_NO in (numbers(7, size), numbers(size, 7).T):
        sum_NO, before_NO = x_NO.clone(), y_NO.clone()
        kernels.add_scaled_rows_(sum_NO, y_NO, largest_N, bias_O)
        expected_NO = x_NO + torch.addcmul(bias_O, y_NO, largest_N.unsqueeze(1))
        torch.testing.assert_close(sum_NO, expected_NO, rtol=1e-6, atol=1e-6)
        assert torch.equal(y_NO, before_NO)


@pytest.mark.parametrize("size", WIDTHS)
def test_negative_numbers_are_rounded_to_zero_where_relu_is_asked_for(kernels: NativeKernels, size: int) -> None:
    y_NO, bias_O, largest_N = numbers(9, size), numbers(size, seed=1), torch.logspace(-3, 3, 9)
    y_NO[3] = -1e6
    y_NO[5, size // 2] = torch.nan
    relu_NO = torch.addcmul(bias_O, y_NO, largest_N.unsqueeze(1)).relu_()
    whole_MO = room_for(9, size)
    after_N = kernels.scale_relu_round_rows(y_NO, largest_N, bias_O, whole_MO, SMALLEST)
    torch.testing.assert_close(
        after_N, relu_NO.amax(dim=1).clamp(min=SMALLEST), rtol=1e-6, atol=1e-6 * SMALLEST, equal_nan=True
    )
    assert after_N[3] == SMALLEST and bool(after_N[5].isnan())
    whole_MO[5], relu_NO[5], after_N[5] = 128, 0.0, 1.0
    check_rounded(whole_MO, after_N, relu_NO)
    assert bool((whole_MO[:9] >= 128).all())


def as_decoder_has_them(num_queries: int, num_positions: int, d_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries with the heads of a row side by side; keys and values at the beginning of a larger room, full of NaN."""
    q_BHWK = numbers(3, num_queries, 4, d_head).transpose(1, 2)
    room_2BHRK = torch.full((2, 3 + 1, 4, num_positions + 5, d_head), torch.nan)
    kv_2BHSK = room_2BHRK.narrow(1, 0, 3).narrow(3, 0, num_positions)
    kv_2BHSK.copy_(numbers(2, 3, 4, num_positions, d_head, seed=1))
    return q_BHWK, kv_2BHSK[0], kv_2BHSK[1]


def masked(num_rows: int, num_positions: int) -> Tensor:
    """Shape (B, 1, W or 1, S): some positions are at minus infinity, in no row all; the rest of the table is NaN."""
    mask_B1WS = numbers(3, 1, num_rows, num_positions, seed=2) < -0.3
    mask_B1WS[..., num_positions // 2] = False
    table = torch.full((3, 1, num_rows + 2, num_positions + 3), torch.nan)
    bias_B1WS = table[:, :, :num_rows, :num_positions]
    bias_B1WS.copy_(numbers(3, 1, num_rows, num_positions, seed=3).masked_fill(mask_B1WS, -torch.inf))
    return bias_B1WS


def attended(q_BHWK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None) -> Tensor:
    """What PyTorch finds in twice as many bits, shape (N, D)."""
    mask = None if bias is None else bias.double()
    y_BHWK = F.scaled_dot_product_attention(q_BHWK.double(), k_BHSK.double(), v_BHSK.double(), attn_mask=mask)
    return y_BHWK.transpose(1, 2).flatten(0, 1).flatten(1).float()


@pytest.mark.parametrize("d_head", [16, 32, 48, 64, 128])
@pytest.mark.parametrize("num_queries", [1, 5, 7])
@pytest.mark.parametrize("num_positions", [1, 15, 16, 17, 40])
def test_attention_is_that_of_pytorch(
    kernels: NativeKernels, d_head: int, num_queries: int, num_positions: int
) -> None:
    q_BHWK, k_BHSK, v_BHSK = as_decoder_has_them(num_queries, num_positions, d_head)
    assert kernels.can_attend(q_BHWK)
    for bias in (None, masked(1, num_positions), masked(num_queries, num_positions)):
        y_ND = kernels.attend(q_BHWK, k_BHSK, v_BHSK, bias)
        assert y_ND.shape == (3 * num_queries, 4 * d_head) and y_ND.is_contiguous()
        torch.testing.assert_close(y_ND, attended(q_BHWK, k_BHSK, v_BHSK, bias), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("num_positions", [15, 17, 40])
@pytest.mark.parametrize("d_head", [16, 48, 64])
def test_what_must_not_be_attended_to_has_no_weight_at_all(
    kernels: NativeKernels, num_positions: int, d_head: int
) -> None:
    q_BHWK, k_BHSK, v_BHSK = as_decoder_has_them(5, num_positions, d_head)
    bias_B11S = masked(1, num_positions)
    y_ND = kernels.attend(q_BHWK, k_BHSK, v_BHSK, bias_B11S)
    is_hidden_B1S1 = bias_B11S[:, :, 0, :, None].isneginf()
    assert bool(is_hidden_B1S1.any())
    others = [torch.where(is_hidden_B1S1, 1e30 * x_BHSK.flip(2), x_BHSK) for x_BHSK in (k_BHSK, v_BHSK)]
    assert torch.equal(kernels.attend(q_BHWK, others[0], others[1], bias_B11S), y_ND)


@pytest.mark.parametrize("sizes", [(80.0, -80.0), (80.0, 80.0), (80.0, 0.0), (88.5, 88.5), (-95.0, -95.0), (3e3, -3e3)])
def test_scores_may_be_large(kernels: NativeKernels, sizes: tuple[float, float]) -> None:
    _, k_BHSK, v_BHSK = as_decoder_has_them(2, 20, 64)
    unit_K = torch.ones(64) / 8
    k_BHSK = 0.1 * k_BHSK
    k_BHSK[:, :, ::2] += sizes[0] * unit_K
    k_BHSK[:, :, 1::2] += sizes[1] * unit_K
    # Times √K, which scores are divided by.
    q_BHWK = (8 * unit_K).expand(3, 4, 2, 64).contiguous()
    y_ND = kernels.attend(q_BHWK, k_BHSK, v_BHSK, None)
    torch.testing.assert_close(y_ND, attended(q_BHWK, k_BHSK, v_BHSK, None), rtol=1e-4, atol=1e-6 * abs(sizes[0]))


def test_small_weights_are_as_precise_as_large_ones(kernels: NativeKernels) -> None:
    below_B = torch.cat([torch.linspace(0, 86.9, 500), torch.tensor([87.1, 100.0, 1e4, 1e30])])
    q_B11K, kv_2B1SK = torch.zeros(504, 1, 1, 16), torch.zeros(2, 504, 1, 2, 16)
    # Of two positions the second has a score that far below the first one's, and all there is of values.
    q_B11K[..., 0] = 4.0
    kv_2B1SK[0, :, 0, 1, 0] = -below_B
    kv_2B1SK[1, :, :, 1] = 1.0
    y_BK = kernels.attend(q_B11K, kv_2B1SK[0], kv_2B1SK[1], None)
    weight_B = (-below_B.double()).sigmoid().float()
    torch.testing.assert_close(y_BK[:500, 7], weight_B[:500], rtol=1e-6, atol=0)
    assert not y_BK[500:].any()


@pytest.mark.parametrize("of", ["queries", "keys", "values", "bias"])
def test_what_is_no_number_shows_where_it_is_attended_to(kernels: NativeKernels, of: str) -> None:
    q_BHWK, k_BHSK, v_BHSK = as_decoder_has_them(5, 17, 32)
    bias_B1WS = masked(5, 17).nan_to_num(neginf=-1.0)
    clean_ND = kernels.attend(q_BHWK, k_BHSK, v_BHSK, bias_B1WS)
    {"queries": q_BHWK, "keys": k_BHSK, "values": v_BHSK, "bias": bias_B1WS}[of][1, 0, 2, 3] = torch.nan
    y_ND = kernels.attend(q_BHWK, k_BHSK, v_BHSK, bias_B1WS)
    is_nan_BWHK = attended(q_BHWK, k_BHSK, v_BHSK, bias_B1WS).isnan()
    assert bool(is_nan_BWHK.any()) and torch.equal(y_ND.isnan(), is_nan_BWHK)
    assert torch.equal(y_ND[~is_nan_BWHK], clean_ND[~is_nan_BWHK])


def test_other_types_and_widths_are_left_to_pytorch(kernels: NativeKernels) -> None:
    for dtype, d_head, expected in [
        (torch.float32, 32, True),
        (torch.float64, 32, False),
        (torch.bfloat16, 32, False),
        (torch.float32, 24, False),
    ]:
        q_BHWK, k_BHSK, v_BHSK = (x.to(dtype) for x in as_decoder_has_them(5, 17, d_head))
        bias_B1WS = masked(5, 17).to(dtype)
        assert kernels.can_attend(q_BHWK) == expected
        y_ND = fused_attention(q_BHWK, k_BHSK, v_BHSK, bias_B1WS, kernels)
        without_ND = fused_attention(q_BHWK, k_BHSK, v_BHSK, bias_B1WS)
        if expected:
            torch.testing.assert_close(y_ND, without_ND, rtol=1e-5, atol=2e-6)
        else:
            assert torch.equal(y_ND, without_ND)


def logits_NV(kind: str, vocab_size: int) -> Tensor:
    y_NV = numbers(6, vocab_size, seed=vocab_size)
    if kind == "few values":
        return (2 * y_NV).round()
    if kind == "all the same":
        return torch.zeros_like(y_NV)
    if kind == "ascending":
        return y_NV.sort(dim=1).values
    if kind == "far apart":
        return 1e5 * y_NV
    if kind == "as far apart as can be":
        return 3e38 * y_NV.clamp(-1, 1)
    if kind == "mostly impossible":
        keeps_one = torch.arange(vocab_size) == vocab_size - 1
        return y_NV.masked_fill((y_NV < 2) & ~keeps_one, -torch.inf)
    return 3 * y_NV


def check_best(found: tuple[Tensor, Tensor, Tensor], logits: Tensor, blocked_ids: list[int], count: int) -> None:
    """Check what ``best_tokens`` found against what the search does without it."""
    normalizer_N, top_NC, token_NC = found
    torch.testing.assert_close(normalizer_N, logits.double().logsumexp(dim=1).float(), rtol=1e-6, atol=2e-6)
    allowed = logits.index_fill(1, torch.tensor(blocked_ids, dtype=torch.int64), -torch.inf)
    expected_NC, expected_token_NC = top_tokens(allowed, count)
    assert token_NC.dtype == torch.int64 and token_NC.shape == (len(logits), count)
    torch.testing.assert_close(top_NC, expected_NC, rtol=1e-6, atol=1e-6)
    is_possible_NC = expected_NC > -torch.inf
    assert torch.equal(token_NC[is_possible_NC], expected_token_NC[is_possible_NC])
    # The order of impossible ones is open, but each is a token, and none comes twice.
    assert all(len({*ids} & {*range(logits.size(1))}) == count for ids in token_NC.tolist())


@pytest.mark.parametrize(
    "kind",
    ["distinct", "few values", "all the same", "ascending", "far apart", "as far apart as can be", "mostly impossible"],
)
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_the_best_tokens_are_those_of_the_search(kernels: NativeKernels, vocab_size: int, kind: str) -> None:
    logits = logits_NV(kind, vocab_size)
    before_NV = logits.clone()
    likeliest = logits.amax(dim=0).topk(min(3, vocab_size - 1)).indices.tolist()
    counts = {1, min(6, vocab_size), min(15, vocab_size), min(vocab_size, 1000)}
    for blocked_ids, count in itertools.product(([], [0, vocab_size - 1], likeliest), sorted(counts)):
        check_best(kernels.best_tokens(logits, None, None, blocked_ids, count), logits, blocked_ids, count)
    assert torch.equal(logits, before_NV)


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_the_best_of_what_is_yet_to_be_scaled(kernels: NativeKernels, vocab_size: int) -> None:
    count, blocked_ids = min(6, vocab_size), [1]
    y_NV, bias_V, largest_N = numbers(6, vocab_size), numbers(vocab_size, seed=1), torch.logspace(-2, 2, 6)
    # With few bits there are ties, and nothing is lost to rounding.
    few_NV, few_V, few_N = (2 * y_NV).round(), (2 * bias_V).round() / 4, torch.tensor([0.25, 0.5, 1, 2, 3, 40])
    for product_NV, scale_N, shift_V in [(y_NV, largest_N, bias_V), (few_NV, few_N, few_V)]:
        logits = torch.addcmul(shift_V, product_NV, scale_N.unsqueeze(1))
        found = kernels.best_tokens(product_NV, scale_N, shift_V, blocked_ids, count)
        check_best(found, logits, blocked_ids, count)


@pytest.mark.parametrize("shift", [-1e4, -150.0, 150.0, 1e4])
def test_the_normalizer_takes_logits_of_any_size(kernels: NativeKernels, shift: float) -> None:
    logits = logits_NV("distinct", 1000)
    logits[2] += shift
    check_best(kernels.best_tokens(logits, None, None, [], 6), logits, [], 6)


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_a_row_with_a_number_that_is_none_has_no_normalizer(kernels: NativeKernels, vocab_size: int) -> None:
    logits, count = logits_NV("distinct", vocab_size), min(6, vocab_size)
    scales: list[tuple[Tensor | None, Tensor | None]] = [(None, None), (torch.ones(6), torch.zeros(vocab_size))]
    clean = kernels.best_tokens(logits, None, None, [], count)
    others = [0, 1, 2, 3, 5]
    for place in {0, vocab_size // 2, vocab_size - 1}:
        broken_NV = logits.clone()
        broken_NV[4, place] = torch.nan
        for (largest_N, bias_V), is_wanted in itertools.product(scales, (True, False)):
            found = kernels.best_tokens(broken_NV, largest_N, bias_V, [] if is_wanted else [place], count)
            assert bool(found[0][4].isnan())
            assert torch.equal(found[0][others], clean[0][others])
            if is_wanted:
                assert torch.equal(found[1][others], clean[1][others])
                assert torch.equal(found[2][others], clean[2][others])


def on_whole_steps(num_rows: int, size: int) -> Tensor:
    """Rows of several magnitudes of which no number is rounded one way here and the other way there."""
    steps_NI = (60 * numbers(num_rows, size)).round().clamp(-127, 127)
    steps_NI += 0.3 * numbers(num_rows, size, seed=1).clamp(-1, 1)
    steps_NI[:, size // 3] = 127.0
    steps_NI.clamp_(max=127.0)
    steps_NI.clamp_(min=-127.0)
    return steps_NI / 127 * torch.logspace(-3, 3, num_rows).unsqueeze(1)


def two_layers(linear: nn.Linear, kernels: NativeKernels) -> tuple[Int8Linear, Int8Linear]:
    nn.init.normal_(linear.bias, generator=torch.Generator().manual_seed(4))
    return Int8Linear(linear, kernels=kernels), Int8Linear(linear)


def relative_error_N(y_NO: Tensor, reference_NO: Tensor) -> Tensor:
    error_N: Tensor = (y_NO - reference_NO).norm(dim=1) / reference_NO.norm(dim=1)
    return error_N


@pytest.mark.usefixtures("int8_machine")
@pytest.mark.parametrize("num_rows", [1, 16, 21])
@torch.inference_mode()
def test_a_layer_gives_the_same_with_kernels(kernels: NativeKernels, num_rows: int) -> None:
    torch.manual_seed(3)
    with_kernels, without = two_layers(nn.Linear(100, 70), kernels)
    x_NI, sum_NO = on_whole_steps(num_rows, 100), numbers(num_rows, 70)
    before_NI = x_NI.clone()
    y_NO = with_kernels(x_NI)
    assert y_NO.shape == (num_rows, 70)
    assert relative_error_N(y_NO, without(x_NI)).max() < 1e-5
    sums = sum_NO.clone(), sum_NO.clone()
    with_kernels.add_to(sums[0], x_NI)
    without.add_to(sums[1], x_NI)
    assert relative_error_N(sums[0], sums[1]).max() < 1e-5
    assert relative_error_N(sums[0], sum_NO + y_NO).max() < 1e-5
    assert torch.equal(x_NI, before_NI)


@pytest.mark.usefixtures("int8_machine")
@pytest.mark.parametrize("num_rows", [1, 16, 21])
@torch.inference_mode()
def test_two_layers_with_relu_between_give_the_same_with_kernels(kernels: NativeKernels, num_rows: int) -> None:
    torch.manual_seed(3)
    first, second = two_layers(nn.Linear(64, 96), kernels), two_layers(nn.Linear(96, 50), kernels)
    x_NI, sum_NO = on_whole_steps(num_rows, 64), numbers(num_rows, 50)
    sums = sum_NO.clone(), sum_NO.clone()
    second[0].add_relu_to(sums[0], first[0], x_NI)
    second[1].add_relu_to(sums[1], first[1], x_NI)
    error_N = relative_error_N(sums[0], sums[1])
    # Between the layers, a number at the edge of a step may fall to either side of it.
    assert error_N.max() < 1e-2 and error_N.quantile(0.8) < 1e-5
    assert relative_error_N(sums[0], sum_NO + second[1](first[1](x_NI).relu_())).quantile(0.8) < 1e-5
