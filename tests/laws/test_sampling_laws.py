"""Laws of drawing tokens: greedy is argmax, draws follow the probabilities, rows and seeds stay apart."""

from __future__ import annotations

import math

import pytest
import torch
from fake_models import MemoryModel, random_table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqkit.decoding.sampling import SamplingRule, generate, row_generators, sample_next, truncate

CPU = torch.device("cpu")
# Far enough apart, or equal, that float32 does not decide.
logit_rows = st.lists(st.integers(-8, 8).map(lambda number: number / 2), min_size=1, max_size=7)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def draw(
    model: MemoryModel, prompt: list[int], *, length: int, seed: int, num_samples: int, first_row: int = 0
) -> tuple[list[list[int]], Tensor]:
    """Tokens of each row, and their log-probabilities."""
    generators = row_generators(seed, num_samples, device=CPU, first_row=first_row)
    rule = SamplingRule(temperature=1.1, top_p=0.95)
    drawn = list(generate(model, prompt, length=length, rule=rule, generators=generators, device=CPU))
    token_BT = torch.stack([tokens.token_B for tokens in drawn], dim=1)
    return token_BT.tolist(), torch.stack([tokens.log_prob_B for tokens in drawn], dim=1)


def chi_square(token_N: Tensor, probs: list[float]) -> float:
    """Pearson's statistic: Σ (observed - expected)² / expected."""
    assert set(token_N.tolist()) <= {token for token, p in enumerate(probs) if p > 0}
    counts: list[int] = torch.bincount(token_N, minlength=len(probs)).tolist()
    expected = [p * len(token_N) for p in probs]
    return math.fsum((o - e) ** 2 / e for o, e in zip(counts, expected, strict=True) if e > 0)


@given(logit_rows, st.integers(0, 2**31))
def test_temperature_0_is_argmax_for_any_seed(logits: list[float], seed: int) -> None:
    drawn = sample_next(torch.tensor([logits]), SamplingRule(temperature=0), row_generators(seed, 1, device=CPU))
    assert drawn.token_B.tolist() == [logits.index(max(logits))]
    # With one token kept there is nothing to draw.
    top = sample_next(torch.tensor([logits]), SamplingRule(top_k=1), row_generators(seed, 1, device=CPU))
    assert logits[int(top.token_B)] == max(logits)


@given(logit_rows, st.integers(1, 9))
def test_top_k_keeps_k_and_none_better_is_dropped(logits: list[float], k: int) -> None:
    scores = truncate(torch.tensor([logits]), SamplingRule(top_k=k))[0]
    kept = [logit for logit, score in zip(logits, scores.tolist(), strict=True) if score > -torch.inf]
    assert sorted(kept, reverse=True) == sorted(logits, reverse=True)[:k]


@given(logit_rows, st.integers(1, 99))
def test_top_p_keeps_the_fewest_that_sum_to_p(logits: list[float], percent: int) -> None:
    p = percent / 100
    probs = torch.tensor(logits, dtype=torch.float64).softmax(0)
    scores = truncate(torch.tensor([logits]), SamplingRule(top_p=p))[0]
    is_kept = scores > -torch.inf
    kept, dropped = probs[is_kept], probs[~is_kept]
    assert len(kept) >= 1
    assert kept.sum() >= p - 1e-6
    assert kept.sum() - kept.min() < p + 1e-6, "one fewer would have done"
    assert not len(dropped) or kept.min() >= dropped.max()


@given(logit_rows, st.integers(1, 100))
def test_min_p_compares_with_the_likeliest(logits: list[float], percent: int) -> None:
    scores = truncate(torch.tensor([logits]), SamplingRule(min_p=percent / 100))[0]
    for logit, score in zip(logits, scores.tolist(), strict=True):
        ratio = torch.tensor(logit - max(logits), dtype=torch.float64).exp().item()
        assert (score > -torch.inf) == (ratio >= percent / 100 - 1e-9)


@pytest.mark.parametrize(
    ("rule", "probs"),
    [
        (SamplingRule(), [0.13, 0.5, 0.05, 0.25, 0.07]),
        # Temperature 1/2: the squares 0.0169, 0.25, 0.0025, 0.0625, 0.0049 over their sum, 0.3368.
        (
            SamplingRule(temperature=0.5),
            [0.0169 / 0.3368, 0.25 / 0.3368, 0.0025 / 0.3368, 0.0625 / 0.3368, 0.0049 / 0.3368],
        ),
        (SamplingRule(top_k=2), [0, 2 / 3, 0, 1 / 3, 0]),
        (SamplingRule(top_p=0.8), [0.13 / 0.88, 0.5 / 0.88, 0, 0.25 / 0.88, 0]),
    ],
)
def test_frequencies_match_the_probabilities(rule: SamplingRule, probs: list[float]) -> None:
    logits_V = torch.tensor([0.13, 0.5, 0.05, 0.25, 0.07]).log() - 1
    # The first draws of many rows, and many draws of one row; 18.5 is passed once in a thousand with 4 degrees of
    # freedom.
    rows = sample_next(logits_V.expand(2000, 5), rule, row_generators(3, 2000, device=CPU)).token_B
    assert chi_square(rows, probs) < 18.5
    one = row_generators(4, 1, device=CPU)
    over_time = torch.cat([sample_next(logits_V.unsqueeze(0), rule, one).token_B for _ in range(2000)])
    assert chi_square(over_time, probs) < 18.5


def test_first_draws_of_neighbouring_seeds_match_the_probabilities() -> None:
    probs = [0.13, 0.5, 0.05, 0.25, 0.07]
    logits_1V = torch.tensor([probs]).log()
    tokens = [
        sample_next(logits_1V, SamplingRule(), row_generators(seed, 1, device=CPU)).token_B for seed in range(2000)
    ]
    assert chi_square(torch.cat(tokens), probs) < 18.5


@settings(max_examples=25)
@given(st.integers(0, 2**63 - 1), st.integers(1, 6), st.data())
def test_a_row_does_not_depend_on_the_rows_beside_it(seed: int, num_samples: int, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, num_samples - 1))
    model = MemoryModel(random_table(7, seed=5), memory=2)
    together, log_probs_BT = draw(model, [3, 1], length=9, seed=seed, num_samples=num_samples)
    alone, alone_1T = draw(model, [3, 1], length=9, seed=seed, num_samples=1, first_row=row)
    assert alone[0] == together[row]
    assert torch.equal(alone_1T[0], log_probs_BT[row])


def test_a_seed_repeats_its_text_and_others_differ() -> None:
    model = MemoryModel(random_table(7, seed=5))
    drawn = [draw(model, [3], length=30, seed=seed, num_samples=4)[0] for seed in range(5)]
    again = [draw(model, [3], length=30, seed=seed, num_samples=4)[0] for seed in range(5)]
    assert drawn == again
    rows = [tuple(row) for batch in drawn for row in batch]
    assert len(set(rows)) == len(rows) == 20


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 8))
def test_a_longer_text_begins_with_the_shorter_one(seed: int, shorter: int, longer: int) -> None:
    shorter, longer = sorted((shorter, longer))
    model = MemoryModel(random_table(7, seed=6))
    few, _ = draw(model, [0], length=shorter, seed=seed, num_samples=2)
    many, _ = draw(model, [0], length=longer, seed=seed, num_samples=2)
    assert [row[:shorter] for row in many] == few
