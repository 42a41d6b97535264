"""Drawing tokens: what each rule keeps, worked by hand, and what a generated sequence is made of."""

from __future__ import annotations

import pytest
import torch
from fake_models import MemoryModel, random_table
from torch import Tensor

from seqkit.decoding.sampling import (
    DrawnTokens,
    SamplingRule,
    generate,
    read_prompt,
    row_generators,
    sample_next,
    truncate,
)

CPU = torch.device("cpu")
# Out of order, so that ranks and token ids differ. By rank: 1 (0.5), 3 (0.25), 0 (0.13), 4 (0.07), 2 (0.05).
PROBS = [0.13, 0.5, 0.05, 0.25, 0.07]
SHIFT = 2.5


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def logits_BV(*rows: list[float]) -> Tensor:
    """Logits of given probabilities; a constant is added, as a network would."""
    return torch.tensor(rows).log() + SHIFT


def kept(rule: SamplingRule, probs: list[float] = PROBS) -> set[int]:
    scores_V = truncate(logits_BV(probs), rule)[0]
    return set(scores_V.isfinite().nonzero().flatten().tolist())


def texts(drawn: list[DrawnTokens]) -> list[list[int]]:
    """Tokens of each row."""
    return torch.stack([tokens.token_B for tokens in drawn], dim=1).tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (SamplingRule(), {0, 1, 2, 3, 4}),
        (SamplingRule(top_k=1), {1}),
        (SamplingRule(top_k=2), {1, 3}),
        (SamplingRule(top_k=4), {0, 1, 3, 4}),
        (SamplingRule(top_k=5), {0, 1, 2, 3, 4}),
        (SamplingRule(top_k=100), {0, 1, 2, 3, 4}),
        # Sums by rank: 0.5, 0.75, 0.88, 0.95, 1.
        (SamplingRule(top_p=0.01), {1}),
        (SamplingRule(top_p=0.49), {1}),
        (SamplingRule(top_p=0.51), {1, 3}),
        (SamplingRule(top_p=0.74), {1, 3}),
        (SamplingRule(top_p=0.76), {0, 1, 3}),
        (SamplingRule(top_p=0.94), {0, 1, 3, 4}),
        (SamplingRule(top_p=1.0), {0, 1, 2, 3, 4}),
        # Compared with the likeliest: 1, 0.5, 0.26, 0.14, 0.1.
        (SamplingRule(min_p=1.0), {1}),
        (SamplingRule(min_p=0.51), {1}),
        (SamplingRule(min_p=0.49), {1, 3}),
        (SamplingRule(min_p=0.2), {0, 1, 3}),
        (SamplingRule(min_p=0.01), {0, 1, 2, 3, 4}),
        # Of the best three the sums are 0.568, 0.852, 1: top_p acts on what top_k left, else token 0 would stay.
        (SamplingRule(top_k=3, top_p=0.8), {1, 3}),
        (SamplingRule(top_k=2, top_p=0.9, min_p=0.6), {1}),
        (SamplingRule(top_k=4, top_p=0.9, min_p=0.2), {0, 1, 3}),
    ],
)
def test_a_rule_keeps_exactly_the_right_tokens(rule: SamplingRule, expected: set[int]) -> None:
    assert kept(rule) == expected


def test_what_is_kept_keeps_its_score() -> None:
    logits = logits_BV(PROBS)
    scores = truncate(logits, SamplingRule(top_k=3, top_p=0.9))
    assert torch.equal(scores[0, [0, 1, 3]], logits[0, [0, 1, 3]])


def test_rows_are_truncated_by_themselves() -> None:
    flat = [0.2, 0.2, 0.21, 0.19, 0.2]
    scores = truncate(logits_BV(PROBS, flat), SamplingRule(top_p=0.6))
    assert scores.isfinite().sum(dim=1).tolist() == [2, 3]
    scores = truncate(logits_BV(PROBS, flat), SamplingRule(min_p=0.5001))
    assert scores.isfinite().sum(dim=1).tolist() == [1, 5]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_keeps_k_tokens_also_among_equals(k: int) -> None:
    assert len(kept(SamplingRule(top_k=k), [0.2] * 5)) == k
    assert kept(SamplingRule(top_k=1), [0.1, 0.1, 0.6, 0.1, 0.1]) == {2}


def test_temperature_comes_before_truncation() -> None:
    # At temperature 0.5 the probabilities are the squares over their sum: 0.5²: 0.25 / 0.3369 = 0.742.
    drawn = [
        int(sample_next(logits_BV(PROBS), SamplingRule(temperature=0.5, top_p=0.7), [generator]).token_B)
        for generator in row_generators(5, 50, device=CPU)
    ]
    assert set(drawn) == {1}


def test_temperature_0_takes_the_likeliest_and_ignores_the_seed() -> None:
    logits = logits_BV(PROBS, [0.2, 0.1, 0.3, 0.1, 0.3], [0.9, 0.025, 0.025, 0.025, 0.025])
    for seed in range(5):
        generators = row_generators(seed, 3, device=CPU)
        before = [generator.get_state() for generator in generators]
        drawn = sample_next(logits, SamplingRule(temperature=0), generators)
        # Tokens 2 and 4 of the second row are equal: the first of them.
        assert drawn.token_B.tolist() == [1, 2, 0]
        assert all(torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True))


@pytest.mark.parametrize(
    "rule",
    [SamplingRule(temperature=0), SamplingRule(temperature=0.3), SamplingRule(temperature=2, top_k=2, min_p=0.1)],
)
def test_log_probabilities_are_the_models_own(rule: SamplingRule) -> None:
    for seed in range(9):
        drawn = sample_next(logits_BV(PROBS, PROBS[::-1]), rule, row_generators(seed, 2, device=CPU))
        expected = [[*PROBS][int(drawn.token_B[0])], PROBS[::-1][int(drawn.token_B[1])]]
        torch.testing.assert_close(drawn.log_prob_B, torch.tensor(expected).log())
        assert drawn.token_B.dtype == torch.int64 and drawn.log_prob_B.dtype == torch.float32


def test_draws_touch_no_global_random_state() -> None:
    before = torch.get_rng_state()
    model = MemoryModel(random_table(5, seed=1))
    list(generate(model, [1], length=4, rule=SamplingRule(), generators=row_generators(3, 2, device=CPU), device=CPU))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("length", [0, 1, 3, 9])
@pytest.mark.parametrize("prompt", [[2], [0, 4, 1, 1, 3, 2, 0]])
def test_length_counts_new_tokens_and_no_step_is_wasted(prompt: list[int], length: int) -> None:
    model = MemoryModel(random_table(5, seed=1), memory=3)
    generators = row_generators(0, 2, device=CPU)
    drawn = list(generate(model, prompt, length=length, rule=SamplingRule(), generators=generators, device=CPU))
    assert len(drawn) == length
    assert all(tokens.token_B.shape == tokens.log_prob_B.shape == (2,) for tokens in drawn)
    # The prompt is read once, by one row; then every new token but the last, by both.
    assert [ids.shape for ids in model.read] == [(1, len(prompt))] + [(2, 1)] * max(0, length - 1)
    assert model.read[0][0].tolist() == prompt
    fed_back = [ids_B1[:, 0].tolist() for ids_B1 in model.read[1:]]
    assert fed_back == [tokens.token_B.tolist() for tokens in drawn][: max(0, length - 1)]


def test_nothing_is_computed_for_tokens_that_nobody_asks_for() -> None:
    model = MemoryModel(random_table(5, seed=1))
    stream = generate(
        model, [1], length=100, rule=SamplingRule(), generators=row_generators(0, 1, device=CPU), device=CPU
    )
    next(stream)
    next(stream)
    assert len(model.read) == 2


def test_a_prompt_is_read_in_order_into_every_row() -> None:
    table = random_table(5, seed=2)
    logits, state = read_prompt(MemoryModel(table, memory=3), [4, 2, 3, 3], 6, CPU)
    assert logits.shape == (6, 5) and state.tolist() == [[3, 3]] * 6
    assert torch.equal(logits, table[(2 + 3 + 3) % 5].expand(6, 5))


def test_a_long_prompt_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [4, 2, 3, 3, 1, 0, 2]
    whole, _ = read_prompt(MemoryModel(random_table(5, seed=2), memory=5), prompt, 2, CPU)
    monkeypatch.setattr("seqkit.decoding.sampling._PROMPT_TOKENS_AT_ONCE", 3)
    model = MemoryModel(random_table(5, seed=2), memory=5)
    parts, _ = read_prompt(model, prompt, 2, CPU)
    assert [ids_BT.shape for ids_BT in model.read] == [(1, 3), (1, 3), (1, 1)]
    assert torch.equal(parts, whole)


def test_greedy_text_follows_the_model() -> None:
    # After token s the likeliest is s + 2 modulo 5.
    table = torch.eye(5).roll(2, dims=1)
    stream = generate(
        MemoryModel(table),
        [0, 3],
        length=6,
        rule=SamplingRule(temperature=0),
        generators=row_generators(0, 2, device=CPU),
        device=CPU,
    )
    assert texts(list(stream)) == [[0, 2, 4, 1, 3, 0]] * 2
