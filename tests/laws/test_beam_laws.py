"""Laws of search: one beam is greedy, a beam wide enough is exhaustive, stopping early and batches change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from fake_models import MemoryModel, random_table
from fake_translator import BOS, EOS, PAD, FakeTranslator, Forced, Scored, every_output
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.decoding.beam import beam_search
from seqkit.decoding.ensemble import Ensemble, SourceOfEach
from seqkit.decoding.hypotheses import Hypothesis
from seqkit.decoding.model import AutoregressiveModel
from seqkit.decoding.penalties import LengthPenalty
from seqkit.decoding.requests import BeamRule
from seqkit.decoding.sampling import SamplingRule, row_generators
from seqkit.decoding.single_path import sample_search

CPU = torch.device("cpu")
FORBIDDEN = [PAD, BOS]
# Of unequal length, so that the source is padded.
SOURCES = [[3, 5, 4], [4], [5, 5, 3, 4, 3, 5], [3, 4]]

PENALTIES = [
    BeamRule(),
    BeamRule(length_penalty="average"),
    BeamRule(length_penalty="average", alpha=0.4),
    BeamRule(length_penalty="wu", alpha=0.6),
    BeamRule(length_penalty="wu", alpha=2.5),
    BeamRule(coverage_penalty=0.7),
    BeamRule(length_penalty="wu", alpha=1.0, coverage_penalty=0.3),
]


def name_of(rule: BeamRule) -> str:
    return f"{rule.length_penalty}-{rule.alpha}-{rule.coverage_penalty}"


every_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=name_of)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def rule_like(penalty: BeamRule, **changes: Any) -> BeamRule:
    return BeamRule(
        length_penalty=penalty.length_penalty,
        alpha=penalty.alpha,
        coverage_penalty=penalty.coverage_penalty,
        **changes,
    )


def search(
    model: AutoregressiveModel, sources: Sequence[Sequence[int]], rule: BeamRule, *, max_lengths: list[int], **more: Any
) -> list[list[Hypothesis]]:
    return beam_search(
        model,
        sources,
        len(sources),
        rule,
        bos_id=BOS,
        eos_id=EOS,
        forbidden_ids=FORBIDDEN,
        max_lengths=max_lengths,
        source_lengths=[len(source) for source in sources],
        device=CPU,
        **more,
    )


def predictions(hypothesis: Hypothesis) -> list[int]:
    return [*hypothesis.ids, *[EOS] * hypothesis.is_finished]


def assert_same(found: Hypothesis, expected: Hypothesis) -> None:
    """Equal, but for rounding."""
    assert found.ids == expected.ids
    assert (found.is_finished, found.meets_constraints) == (expected.is_finished, expected.meets_constraints)
    assert found.score == pytest.approx(expected.score, abs=1e-9)
    assert found.log_prob == pytest.approx(expected.log_prob, abs=1e-9)
    assert found.token_log_probs == pytest.approx(expected.token_log_probs, abs=1e-9)


def assert_is(found: Hypothesis, expected: Scored, rule: BeamRule) -> None:
    """A hypothesis is what forced scoring finds for it."""
    assert (tuple(found.ids), found.is_finished) == (expected.ids, expected.is_finished)
    assert found.token_log_probs == pytest.approx(expected.token_log_probs, abs=1e-9)
    assert found.log_prob == pytest.approx(expected.log_prob, abs=1e-9)
    assert found.score == pytest.approx(expected.score(rule), abs=1e-9)


def reference_search(forced: Forced, rule: BeamRule, *, vocab_size: int, max_length: int) -> list[Scored]:
    """Beam search in plain lists that goes on to the longest length, or until its patience ends."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[Scored] = []
    for length in range(1, max_length + 1):
        extensions = sorted(
            (-log_prob - forced.log_probs(ids)[token], beam, token, ids)
            for beam, (log_prob, ids) in enumerate(live)
            for token in range(EOS, vocab_size)
        )
        ended += [
            forced.score([*ids, token])
            for _, _, token, ids in extensions[: rule.beam_size]
            if token == EOS or length == max_length
        ]
        if rule.patience is not None and len(ended) >= max(round(rule.beam_size * rule.patience), rule.num_best):
            break
        live = [(-cost, (*ids, token)) for cost, _, token, ids in extensions if token != EOS][: rule.beam_size]
    return sorted(ended, key=lambda one: -one.score(rule))[: rule.num_best]


@every_penalty
@pytest.mark.parametrize("seed", [0, 1])
def test_one_beam_is_greedy(penalty: BeamRule, seed: int) -> None:
    model = FakeTranslator(7, seed)
    max_lengths = [9, 3, 12, 6]
    found = search(model, SOURCES, rule_like(penalty, beam_size=1), max_lengths=max_lengths)
    for source, max_length, (output,) in zip(SOURCES, max_lengths, found, strict=True):
        forced = Forced(model, [source])
        ids: tuple[int, ...] = ()
        while len(ids) < max_length and EOS not in ids:
            after = forced.log_probs(ids)
            ids = (*ids, max(range(EOS, 7), key=after.__getitem__))
        assert_is(output, forced.score(ids), penalty)


@every_penalty
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_wide_enough_is_exhaustive(penalty: BeamRule, seed: int) -> None:
    # Three tokens beside the end token: at most 4 · 3³ candidates in the last step.
    model = FakeTranslator(6, seed)
    rule = rule_like(penalty, beam_size=4 * 3**3, num_best=9)
    found = search(model, SOURCES[:3], rule, max_lengths=[4, 2, 3])
    for source, max_length, outputs in zip(SOURCES, [4, 2, 3], found, strict=False):
        every = every_output(Forced(model, [source]), vocab_size=6, max_length=max_length)
        best = sorted(every, key=lambda one: -one.score(rule))[:9]
        for output, expected in zip(outputs, best, strict=True):
            assert_is(output, expected, rule)


def limits() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, changes of the rule, arguments."""
    return [
        ("min_length", {"min_length": 2}, {}),
        ("unigrams", {"no_repeat_ngram": 1}, {}),
        ("bigrams", {"no_repeat_ngram": 2}, {}),
        ("prefix", {}, {"prefixes": [[5, 3]]}),
        ("prefix-and-bigrams", {"no_repeat_ngram": 2}, {"prefixes": [[4, 4, 4]]}),
        ("word", {}, {"constraints": [[[4]]]}),
        ("phrase", {}, {"constraints": [[[3, 3, 5]]]}),
        ("words", {}, {"constraints": [[[3], [5]]]}),
        ("overlap", {"min_length": 3}, {"constraints": [[[3, 4], [4, 5]]]}),
        ("twice", {}, {"constraints": [[[4], [4]]]}),
        ("prefix-and-phrase", {}, {"prefixes": [[5]], "constraints": [[[5, 3]]]}),
    ]


@pytest.mark.parametrize(("name", "changes", "arguments"), limits(), ids=[name for name, *_ in limits()])
@pytest.mark.parametrize("length_penalty", ["none", "average"])
def test_a_beam_wide_enough_is_exhaustive_within_limits(
    name: str, changes: dict[str, Any], arguments: dict[str, Any], length_penalty: LengthPenalty
) -> None:
    model = FakeTranslator(6, seed=3)
    rule = BeamRule(beam_size=4 * 3**3, num_best=9, length_penalty=length_penalty, **changes)
    prefix: list[int] = arguments.get("prefixes", [[]])[0]
    wanted: list[list[int]] = arguments.get("constraints", [[]])[0]

    def may_follow(ids: tuple[int, ...], token: int) -> bool:
        if len(ids) < len(prefix):
            return token == prefix[len(ids)]
        if token == EOS:
            return len(ids) >= rule.min_length and meets(ids, wanted)
        n = rule.no_repeat_ngram
        grams = [(*ids, token)[start : start + n] for start in range(len(ids) + 2 - n)]
        return not n or grams[-1:] == [] or grams[-1] not in grams[:-1]

    every = list(every_output(Forced(model, [SOURCES[2]]), vocab_size=6, max_length=4, may_follow=may_follow))
    every.sort(key=lambda one: (not meets(one.ids, wanted), -one.score(rule)))
    (outputs,) = search(model, [SOURCES[2]], rule, max_lengths=[4], **arguments)
    assert len(outputs) >= 1
    for output, expected in zip(outputs, every[:9], strict=True):
        assert_is(output, expected, rule)
        assert output.meets_constraints == meets(expected.ids, wanted)


def occurrences(ids: Sequence[int], sequence: Sequence[int]) -> int:
    return sum(tuple(ids[at : at + len(sequence)]) == tuple(sequence) for at in range(len(ids)))


def meets(ids: Sequence[int], constraints: Sequence[Sequence[int]]) -> bool:
    return all(occurrences(ids, one) >= n for one, n in Counter(map(tuple, constraints)).items())


@every_penalty
@pytest.mark.parametrize("patience", [None, 0.5, 1.0, 1.6])
@pytest.mark.parametrize("beam_size", [2, 3, 5])
def test_stopping_early_changes_nothing(penalty: BeamRule, beam_size: int, patience: float | None) -> None:
    # But what ends by its number of hypotheses, which is where the other search stops too.
    model = FakeTranslator(6, seed=4, sharpness=1.0)
    max_lengths = [7, 4, 9]
    num_best = 2 if beam_size < 5 else 5
    rule = rule_like(penalty, beam_size=beam_size, num_best=num_best, patience=patience)
    found = search(model, SOURCES[:3], rule, max_lengths=max_lengths)
    for source, max_length, outputs in zip(SOURCES, max_lengths, found, strict=False):
        expected = reference_search(Forced(model, [source]), rule, vocab_size=6, max_length=max_length)
        for output, scored in zip(outputs, expected, strict=True):
            assert_is(output, scored, rule)


@every_penalty
def test_fewer_best_are_the_first_of_more(penalty: BeamRule) -> None:
    # So the proof for one output holds back nothing that the proof for four finds.
    max_lengths = [9, 5, 12, 7]
    for seed, constraints in product(range(4), (None, [[[3, 4]], [], [[5], [6]], [[7, 7]]])):
        model = FakeTranslator(8, seed, sharpness=1.0)
        many, *fewer = (
            search(
                model,
                SOURCES,
                rule_like(penalty, beam_size=4, num_best=num_best),
                max_lengths=max_lengths,
                constraints=constraints,
            )
            for num_best in (4, 1, 2)
        )
        for num_best, few in enumerate(fewer, start=1):
            for some, outputs in zip(few, many, strict=True):
                for output, expected in zip(some, outputs[:num_best], strict=True):
                    assert_same(output, expected)


@settings(max_examples=10)
@given(st.permutations(range(4)), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 3))
def test_batch_order_and_padding_change_nothing(
    order: list[int], num_together: int, beam_size: int, penalty_number: int
) -> None:
    rule = rule_like(PENALTIES[2 * penalty_number], beam_size=beam_size, no_repeat_ngram=2)
    max_lengths = [9, 3, 12, 6]
    constraints = [[[3, 4]], [], [[5], [4, 4]], []]
    prefixes = [[], [4], [3, 3], []]
    for with_limits in (False, True):
        alone: list[list[Hypothesis]] = []
        together: list[list[Hypothesis]] = []
        for numbers, into in (([n] for n in range(4)), alone), ((order[:num_together], order[num_together:]), together):
            for part in filter(None, numbers):
                more = {"constraints": [constraints[n] for n in part], "prefixes": [prefixes[n] for n in part]}
                into += search(
                    FakeTranslator(7, seed=5),
                    [SOURCES[n] for n in part],
                    rule,
                    max_lengths=[max_lengths[n] for n in part],
                    **(more if with_limits else {}),
                )
        for number, (output,) in zip(order, together, strict=True):
            assert_same(output, alone[number][0])


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_scores_of_every_output_are_those_of_forced_scoring(beam_size: int) -> None:
    model = FakeTranslator(9, seed=6, sharpness=1.0)
    for penalty in PENALTIES:
        rule = rule_like(penalty, beam_size=beam_size, num_best=beam_size, no_repeat_ngram=2, min_length=1)
        arguments: dict[str, Any] = {"prefixes": [[], [7], [], [8, 8]], "constraints": [[], [], [[6, 3]], [[4]]]}
        found = search(model, SOURCES, rule, max_lengths=[9, 4, 12, 6], with_attention=True, **arguments)
        for source, outputs in zip(SOURCES, found, strict=True):
            for output in outputs:
                expected = Forced(model, [source]).score(predictions(output))
                assert_is(output, expected, rule)
                assert output.attention is not None
                assert torch.allclose(output.attention, torch.tensor(expected.attention), atol=1e-6)


@settings(max_examples=25)
@given(
    st.integers(1, 6),
    st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(0, 50),
)
def test_constraints_are_met_with_any_beam(beam_size: int, constraints: list[list[int]], seed: int) -> None:
    # So many tokens that those of a constraint are seldom among the likeliest.
    model = FakeTranslator(40, seed)
    room = sum(map(len, constraints)) + 1
    rule = BeamRule(beam_size=beam_size, num_best=beam_size, length_penalty="average")
    found = search(model, SOURCES[:2], rule, max_lengths=[room, room + 4], constraints=[constraints, constraints])
    for source, outputs in zip(SOURCES, found, strict=False):
        assert outputs[0].meets_constraints
        assert len({tuple(predictions(output)) for output in outputs}) == len(outputs)
        for output in outputs:
            assert output.meets_constraints == meets(output.ids, constraints)
            assert_is(output, Forced(model, [source]).score(predictions(output)), rule)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_an_ensemble_of_one_is_its_model(beam_size: int) -> None:
    model = FakeTranslator(8, seed=7)
    rule = BeamRule(beam_size=beam_size, num_best=beam_size, coverage_penalty=0.2)
    plain, ensemble = (search(one, SOURCES, rule, max_lengths=[8] * 4) for one in (model, Ensemble([model])))
    assert plain == ensemble


def test_an_ensemble_is_searched_exhaustively_too() -> None:
    ensemble = Ensemble([FakeTranslator(6, seed=8), FakeTranslator(6, seed=9), FakeTranslator(6, seed=10)])
    rule = BeamRule(beam_size=4 * 3**2, num_best=5, length_penalty="wu", coverage_penalty=0.2)
    (outputs,) = search(ensemble, [SOURCES[0]], rule, max_lengths=[3])
    every = every_output(Forced(ensemble, [SOURCES[0]]), vocab_size=6, max_length=3)
    for output, expected in zip(outputs, sorted(every, key=lambda one: -one.score(rule))[:5], strict=True):
        assert_is(output, expected, rule)


def test_the_models_of_an_ensemble_may_read_sources_of_their_own() -> None:
    first, second = FakeTranslator(6, seed=8), FakeTranslator(6, seed=9)
    arguments: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_lengths": [5], "device": CPU}
    own = SourceOfEach(([[3, 4]], [[5, 5, 3]]))
    (together,) = beam_search(Ensemble([first, second]), own, 1, BeamRule(), **arguments)
    (swapped,) = beam_search(Ensemble([second, first]), SourceOfEach(own.sources[::-1]), 1, BeamRule(), **arguments)
    assert_same(together[0], swapped[0])


def sampled(numbers: Sequence[int], rule: SamplingRule, **more: Any) -> list[Hypothesis]:
    sources = [SOURCES[number] for number in numbers]
    return sample_search(
        FakeTranslator(7, seed=11),
        sources,
        len(sources),
        rule,
        generators=[row_generators(5, 1, device=CPU, first_row=number)[0] for number in numbers],
        bos_id=BOS,
        eos_id=EOS,
        forbidden_ids=FORBIDDEN,
        max_lengths=[[9, 3, 12, 6][number] for number in numbers],
        device=CPU,
        **more,
    )


@settings(max_examples=10)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_a_sampled_output_does_not_depend_on_its_batch(order: list[int], num_together: int) -> None:
    rule = SamplingRule(temperature=1.3, top_p=0.95)
    alone = [sampled([number], rule, no_repeat_ngram=2)[0] for number in range(4)]
    together = [
        output
        for part in (order[:num_together], order[num_together:])
        if part
        for output in sampled(part, rule, no_repeat_ngram=2)
    ]
    for number, output in zip(order, together, strict=True):
        assert_same(output, alone[number])


def test_a_sampled_output_scores_as_forced_scoring_finds() -> None:
    model = FakeTranslator(7, seed=11)
    rule = SamplingRule(temperature=1.5, top_k=4)
    for output, source in zip(sampled(range(4), rule, min_length=2, no_repeat_ngram=2), SOURCES, strict=True):
        assert_is(output, Forced(model, [source]).score(predictions(output)), BeamRule())
        assert len(output.ids) >= 2 and PAD not in output.ids and BOS not in output.ids


def test_sampling_at_temperature_0_is_greedy() -> None:
    drawn = sampled(range(4), SamplingRule(temperature=0))
    greedy = search(FakeTranslator(7, seed=11), SOURCES, BeamRule(beam_size=1), max_lengths=[9, 3, 12, 6])
    for output, (expected,) in zip(drawn, greedy, strict=True):
        assert_same(output, expected)


def test_samples_follow_the_models_probabilities() -> None:
    # A bigram model: the chance of an output is the product of its tokens' chances.
    model = MemoryModel(random_table(4, seed=12))
    outputs = sample_search(
        model,
        None,
        4000,
        SamplingRule(),
        generators=row_generators(3, 4000, device=CPU),
        bos_id=BOS,
        eos_id=EOS,
        max_lengths=[2] * 4000,
        device=CPU,
    )
    counts = Counter(tuple(predictions(output)) for output in outputs)
    table = random_table(4, seed=12).softmax(dim=1)
    expected: dict[tuple[int, ...], float] = {(EOS,): float(table[BOS, EOS])}
    for first, second in product([0, 1, 3], range(4)):
        expected[first, second] = float(table[BOS, first] * table[first, second])
    chi_square = sum((counts[ids] - 4000 * p) ** 2 / (4000 * p) for ids, p in expected.items())
    # 12 degrees of freedom: passed once in a thousand.
    assert sum(counts.values()) == sum(counts[ids] for ids in expected) == 4000
    assert chi_square < 32.9
