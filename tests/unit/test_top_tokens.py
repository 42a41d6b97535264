"""The likeliest tokens against a full stable sort."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqkit.decoding.top_tokens import log_normalizer, top_tokens, widen


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def logits_NV(vocab_size: int, kind: str) -> Tensor:
    """Enough rows that large vocabularies are ranked by groups."""
    num_rows = max(11, 2**16 // vocab_size + 1) if vocab_size > 100 else 11
    logits = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    if kind == "bf16":
        return logits.bfloat16().float()
    if kind == "few values":
        return (2 * logits).round()
    if kind == "mostly impossible":
        return logits.masked_fill(logits < 2.5, -torch.inf)
    return logits.double() if kind == "float64" else logits


@pytest.mark.parametrize("kind", ["distinct", "bf16", "few values", "mostly impossible", "float64"])
@pytest.mark.parametrize("vocab_size", [1, 6, 500, 1024, 2999, 8000])
@pytest.mark.parametrize("k", [1, 2, 6, 15])
def test_the_first_k_of_a_stable_sort(kind: str, vocab_size: int, k: int) -> None:
    logits = logits_NV(vocab_size, kind)
    values, ids = torch.sort(logits, dim=1, descending=True, stable=True)
    top, token = top_tokens(logits, k)
    assert torch.equal(top, values[:, :k]) and token.dtype == torch.int64
    is_possible = top > -torch.inf
    assert torch.equal(token[is_possible], ids[:, :k][is_possible])
    assert torch.equal(logits.gather(1, token), top)


def test_ties_across_groups_and_in_the_rest_go_to_the_lowest_ids() -> None:
    for vocab_size in (1024, 1999, 5003):
        logits = torch.zeros(70, vocab_size)
        logits[1, -3:] = 1.0
        logits[2, [5, vocab_size - 1]] = -1.0
        _, token = top_tokens(logits, 6)
        assert token[0].tolist() == [0, 1, 2, 3, 4, 5]
        assert token[1].tolist() == [vocab_size - 3, vocab_size - 2, vocab_size - 1, 0, 1, 2]
        assert token[2].tolist() == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("shape", [(1, 7), (3, 1000), (300, 3000)])
def test_the_normalizer_is_that_of_log_softmax(shape: tuple[int, int]) -> None:
    logits = 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits - log_normalizer(logits).unsqueeze(1), logits.log_softmax(dim=1))


def test_only_low_precision_is_widened() -> None:
    for dtype, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        assert widen(torch.zeros(2, 3, dtype=dtype)).dtype == expected


@pytest.mark.parametrize("shift", [-150.0, 150.0, 0.0])
def test_the_normalizer_takes_logits_of_any_size(shift: float) -> None:
    # Their exponentials leave float32, in both directions, in one row of many.
    logits = 5 * torch.randn(80, 1000, generator=torch.Generator().manual_seed(0))
    logits[7] += shift
    torch.testing.assert_close(log_normalizer(logits), logits.logsumexp(dim=1))
    logits[:, 3] = -torch.inf
    torch.testing.assert_close(log_normalizer(logits), logits.logsumexp(dim=1))
