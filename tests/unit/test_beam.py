"""Beam search worked by hand: what lives, what ends, when it stops, and what is asked of the model meanwhile."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from fake_models import MemoryModel, random_table
from fake_translator import BOS, EOS, PAD, FakeTranslator

from seqkit.decoding.beam import beam_search
from seqkit.decoding.hypotheses import Hypothesis
from seqkit.decoding.model import AutoregressiveModel
from seqkit.decoding.requests import BeamRule, SentenceError, check_rule, check_sentences
from seqkit.decoding.sampling import SamplingRule, row_generators
from seqkit.decoding.single_path import sample_search
from seqkit.errors import SeqkitError, UsageError

CPU = torch.device("cpu")
A, B, C = 3, 4, 5


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def bigrams(vocab_size: int, **probs: dict[int, float]) -> MemoryModel:
    """A model from the probabilities after bos, a, b and c; after others all tokens are equal."""
    table_VV = torch.full((vocab_size, vocab_size), 1 / vocab_size, dtype=torch.float64)
    for name, after in probs.items():
        table_VV[{"bos": BOS, "a": A, "b": B, "c": C}[name]] = 0
        for token, p in after.items():
            table_VV[{"bos": BOS, "a": A, "b": B, "c": C}[name], token] = p
    return MemoryModel(table_VV.log() + 2)


def search(
    model: AutoregressiveModel, *, max_length: int = 9, num_sentences: int = 1, source: Any = None, **rule: Any
) -> list[list[Hypothesis]]:
    return beam_search(
        model,
        source,
        num_sentences,
        BeamRule(**rule),
        bos_id=BOS,
        eos_id=EOS,
        max_lengths=[max_length] * num_sentences,
        device=CPU,
    )


def probs(hypothesis: Hypothesis) -> list[float]:
    return [math.exp(log_prob) for log_prob in hypothesis.token_log_probs]


# Greedy takes a, the likelier beginning; the likelier whole is b.
GARDEN_PATH = {
    "bos": {A: 0.6, B: 0.4},
    "a": {A: 0.35, C: 0.35, EOS: 0.3},
    "b": {EOS: 0.9, C: 0.1},
    "c": {EOS: 0.5, A: 0.25, B: 0.25},
}


def test_two_beams_find_what_greedy_misses() -> None:
    ((greedy,),) = search(bigrams(6, **GARDEN_PATH), beam_size=1, max_length=3)
    assert greedy.ids == [A, A, A] and not greedy.is_finished
    assert probs(greedy) == pytest.approx([0.6, 0.35, 0.35])
    ((best, second),) = search(bigrams(6, **GARDEN_PATH), beam_size=2, num_best=2)
    assert best.ids == [B] and best.is_finished
    assert probs(best) == pytest.approx([0.4, 0.9])
    assert best.score == best.log_prob == pytest.approx(math.log(0.36))
    # Second step: b eos 0.36 finishes; a a 0.21 and a c 0.21 live, and a eos 0.18 is third, so it does not finish.
    # Third step: a c eos 0.105 finishes.
    assert second.ids == [A, C] and probs(second) == pytest.approx([0.6, 0.35, 0.5])


def test_one_hypothesis_may_give_the_whole_beam_beside_an_end() -> None:
    # Second step: the end after a 0.36, then a a and a b 0.27 each; all that follows b is far below.
    model = bigrams(6, bos={A: 0.9, B: 0.1}, a={EOS: 0.4, A: 0.3, B: 0.3}, b={C: 1.0}, c={C: 1.0})
    (outputs,) = search(model, beam_size=2, num_best=2, max_length=3)
    # Third step, the last: a b c 0.27, then a a with the end 0.108. Without a b it would be a a with the end alone.
    assert [(output.ids, output.is_finished) for output in outputs] == [([A], True), ([A, B, C], False)]


def test_the_score_is_the_log_probability_after_the_penalty() -> None:
    expected = {"none": math.log(0.36), "average": math.log(0.36) / 2, "wu": math.log(0.36) / (7 / 6)}
    for length_penalty, score in expected.items():
        ((best,),) = search(bigrams(6, **GARDEN_PATH), beam_size=2, max_length=2, length_penalty=length_penalty)
        assert best.ids == [B]
        assert best.score == pytest.approx(score) and best.log_prob == pytest.approx(math.log(0.36))


def test_of_equals_the_lower_beam_and_then_the_lower_token_come_first() -> None:
    # Every token is as likely as any other.
    model = MemoryModel(torch.zeros(6, 6))
    (outputs,) = beam_search(
        model,
        None,
        1,
        BeamRule(beam_size=3, num_best=3),
        bos_id=BOS,
        eos_id=EOS,
        max_lengths=[3],
        device=CPU,
        forbidden_ids=[PAD, BOS],
    )
    # Step 1: the end, a and b are first; the end finishes, and a, b, c live. Step 2: a with the end, a, b.
    # Step 3, the last: a a with the end, a, b, of which the end fills the last place.
    assert [output.ids for output in outputs] == [[], [A], [A, A]]
    assert all(output.is_finished for output in outputs)


def test_outputs_that_reach_the_longest_length_are_cut() -> None:
    model = bigrams(6, bos={A: 1.0}, a={A: 0.7, EOS: 0.3})
    (outputs,) = search(model, beam_size=3, num_best=3, max_length=3)
    # Cut outputs rank with the others by the same score: 0.49, 0.3, 0.21.
    assert [(output.ids, output.is_finished) for output in outputs] == [
        ([A, A, A], False),
        ([A], True),
        ([A, A], True),
    ]
    assert probs(outputs[0]) == pytest.approx([1, 0.7, 0.7])
    assert outputs[0].log_prob == pytest.approx(math.log(0.49))
    # The mean counts three predictions in the first and in the last, two in the other.
    (outputs,) = search(
        bigrams(6, bos={A: 1.0}, a={A: 0.7, EOS: 0.3}), beam_size=3, num_best=3, max_length=3, length_penalty="average"
    )
    assert [output.score for output in outputs] == pytest.approx(
        [math.log(0.49) / 3, math.log(0.21) / 3, math.log(0.3) / 2]
    )


def test_search_stops_as_soon_as_nothing_can_win() -> None:
    # The end at once has 0.5; a has 0.4 and then costs next to nothing, for a long time.
    chain: dict[str, dict[int, float]] = {"bos": {EOS: 0.5, A: 0.4, B: 0.1}, "a": {A: 0.99, EOS: 0.01}, "b": {EOS: 1}}
    model = bigrams(6, **chain)
    ((best,),) = search(model, beam_size=2, max_length=30)
    assert best.ids == [] and len(model.read) == 1
    # The second best is b, known after the second step; then a a a … with 0.4 · 0.99² is still above it, and stays so.
    model = bigrams(6, **chain)
    ((best, second),) = search(model, beam_size=2, max_length=30, num_best=2)
    assert best.ids == [] and second.ids == [A] * 30 and len(model.read) == 30
    # By the mean, a over 30 predictions wins by far, and only the last step can tell.
    model = bigrams(6, **chain)
    ((best,),) = search(model, beam_size=2, max_length=30, length_penalty="average")
    assert best.ids == [A] * 30 and not best.is_finished and len(model.read) == 30


@pytest.mark.parametrize(("max_length", "num_steps"), [(4, 1), (5, 5)])
def test_the_longest_length_decides_what_the_mean_can_still_reach(max_length: int, num_steps: int) -> None:
    # a goes on at no cost: log 0.2 / 4 = -0.402 is below log 0.7 = -0.357, and log 0.2 / 5 = -0.322 is above.
    model = bigrams(6, bos={EOS: 0.7, A: 0.2, B: 0.1}, a={A: 1.0}, b={A: 1.0})
    ((best,),) = search(model, beam_size=2, max_length=max_length, length_penalty="average")
    assert len(model.read) == num_steps
    assert best.ids == ([] if num_steps == 1 else [A] * 5)


def test_an_equal_score_found_later_does_not_enter() -> None:
    model = bigrams(6, bos={EOS: 0.5, A: 0.5}, a={EOS: 1.0})
    ((best,),) = search(model, beam_size=2)
    assert best.ids == [] and len(model.read) == 1


def test_sentences_leave_when_they_are_final_and_no_step_is_wasted() -> None:
    model = FakeTranslator(7, seed=2)
    sources = [[3, 4], [5], [6, 6, 3], [4, 4, 4, 4]]
    lengths = [2, 5, 3, 4]
    arguments: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_lengths": lengths, "device": CPU}
    beam_search(model, sources, 4, BeamRule(beam_size=3, min_length=5), **arguments)
    # No end is allowed, so each is cut at its length. The first step has one row a sentence.
    assert model.sentences == [4, 4, 3, 2, 1] and model.rows == [4, 12, 9, 6, 3]
    assert model.num_reorders == 4
    greedy = FakeTranslator(7, seed=2)
    beam_search(greedy, sources, 4, BeamRule(beam_size=1, min_length=5), **arguments)
    # Nothing moves but when a sentence leaves.
    assert greedy.rows == greedy.sentences == [4, 4, 3, 2, 1] and greedy.num_reorders == 3


def test_with_a_patience_a_better_output_may_come_too_late() -> None:
    # A, then the end, is worth more than the end at once, by the mean; two hypotheses end before it is known.
    model = bigrams(6, bos={EOS: 0.4, A: 0.6}, a={EOS: 0.1, A: 0.9})
    ((proved,),) = search(model, beam_size=2, length_penalty="average", max_length=12)
    num_proved = len(model.read)
    ((first,),) = search(model, beam_size=2, length_penalty="average", max_length=12, patience=0.5)
    assert first.ids == [] and len(proved.ids) > 1
    assert len(model.read) - num_proved < num_proved


def test_a_beam_larger_than_the_vocabulary_still_works() -> None:
    (outputs,) = search(MemoryModel(random_table(4, seed=1)), beam_size=9, num_best=9, max_length=2)
    assert len(outputs) == 9 and outputs == sorted(outputs, key=lambda output: -output.score)
    assert len({(*output.ids, output.is_finished) for output in outputs}) == 9
    (outputs,) = search(MemoryModel(random_table(4, seed=1)), beam_size=20, num_best=20, max_length=2)
    # The end at once; three tokens followed by four.
    assert len(outputs) == 1 + 3 * 4


@pytest.mark.parametrize("beam_size", [1, 3])
def test_where_nothing_is_allowed_the_output_ends_as_it_is(beam_size: int) -> None:
    # Three tokens, none twice, and at least five: impossible.
    limits: dict[str, Any] = {"min_length": 5, "no_repeat_ngram": 1, "beam_size": beam_size}
    outputs = beam_search(
        MemoryModel(random_table(6, seed=3)),
        None,
        2,
        BeamRule(length_penalty="average", **limits),
        bos_id=BOS,
        eos_id=EOS,
        max_lengths=[7, 2],
        device=CPU,
        forbidden_ids=[PAD, BOS],
        prefixes=[[A], []],
    )
    (stuck,), (cut,) = outputs
    assert sorted(stuck.ids) == [A, B, C] and stuck.ids[0] == A and not stuck.is_finished
    assert len(stuck.token_log_probs) == 3
    assert stuck.score == pytest.approx(stuck.log_prob / 3)
    assert len(cut.ids) == 2 and not cut.is_finished


def test_a_model_that_can_say_nothing_gives_nothing() -> None:
    for beam_size in (1, 2):
        ((output,),) = beam_search(
            MemoryModel(random_table(3, seed=3)),
            None,
            1,
            BeamRule(min_length=1, beam_size=beam_size, length_penalty="average"),
            bos_id=BOS,
            eos_id=EOS,
            max_lengths=[4],
            device=CPU,
            forbidden_ids=[PAD, BOS],
        )
        assert output == Hypothesis(ids=[], score=0.0, log_prob=0.0, token_log_probs=[], is_finished=False)


def test_prefixes_count_in_the_score_and_may_be_forbidden_tokens() -> None:
    for beam_size in (1, 2):
        model = MemoryModel(random_table(6, seed=4))
        outputs = beam_search(
            model,
            None,
            3,
            BeamRule(beam_size=beam_size),
            bos_id=BOS,
            eos_id=EOS,
            max_lengths=[3, 3, 3],
            device=CPU,
            forbidden_ids=[PAD, BOS],
            prefixes=[[PAD, C], [], [C, C, C]],
        )
        (given,), (free,), (whole,) = outputs
        assert given.ids[:2] == [PAD, C] and PAD not in free.ids
        assert whole.ids == [C, C, C] and not whole.is_finished
        table = random_table(6, seed=4).log_softmax(dim=1)
        assert given.token_log_probs[:2] == pytest.approx([table[BOS, PAD].item(), table[PAD, C].item()])
        assert whole.log_prob == pytest.approx((table[BOS, C] + 2 * table[C, C]).item())


def test_constraints_that_turn_out_not_to_fit_give_the_best_effort() -> None:
    # They need no token twice, but the output must begin with two of them and has room for one more.
    for beam_size in (1, 4):
        ((output,),) = beam_search(
            MemoryModel(random_table(6, seed=5)),
            None,
            1,
            BeamRule(beam_size=beam_size, no_repeat_ngram=1),
            bos_id=BOS,
            eos_id=EOS,
            max_lengths=[6],
            device=CPU,
            forbidden_ids=[PAD, BOS],
            prefixes=[[A]],
            constraints=[[[B, A]]],
        )
        assert not output.meets_constraints and not output.is_finished
        assert output.ids[0] == A and len(set(output.ids)) == len(output.ids)


def test_one_beam_is_greedy_beside_a_sentence_with_constraints() -> None:
    # By the mean, a a … would win; but greedy search ends where its path ends.
    model = bigrams(6, bos={EOS: 0.6, A: 0.4}, a={A: 0.9, EOS: 0.1})
    (free,), (bound,) = beam_search(
        model,
        None,
        2,
        BeamRule(beam_size=1, length_penalty="average"),
        bos_id=BOS,
        eos_id=EOS,
        max_lengths=[5, 5],
        device=CPU,
        constraints=[[], [[A]]],
    )
    assert free.ids == [] and free.is_finished
    assert bound.ids == [A] * 5 and bound.meets_constraints


def test_attention_is_returned_for_the_real_positions_of_each_sentence() -> None:
    sources = [[3, 4], [5], [6, 6, 3, 4]]
    for beam_size in (1, 3):
        outputs = beam_search(
            FakeTranslator(7, seed=2),
            sources,
            3,
            BeamRule(beam_size=beam_size),
            bos_id=BOS,
            eos_id=EOS,
            max_lengths=[6, 6, 6],
            device=CPU,
            source_lengths=[2, 1, 4],
            with_attention=True,
        )
        for source, (output,) in zip(sources, outputs, strict=True):
            assert output.attention is not None
            assert output.attention.shape == (len(output.token_log_probs), len(source))
            torch.testing.assert_close(output.attention.sum(dim=1), torch.ones(len(output.attention)))


def test_a_model_without_attention_returns_none_and_takes_no_coverage_penalty() -> None:
    arguments: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_lengths": [4], "device": CPU}
    for beam_size in (1, 2):
        model = MemoryModel(random_table(5, seed=1))
        ((output,),) = beam_search(model, None, 1, BeamRule(beam_size=beam_size), with_attention=True, **arguments)
        assert output.attention is None
        with pytest.raises(UsageError, match="coverage penalty needs a model with attention"):
            beam_search(model, None, 1, BeamRule(beam_size=beam_size, coverage_penalty=0.1), **arguments)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_scores_that_are_no_numbers_are_refused(beam_size: int) -> None:
    with pytest.raises(SeqkitError, match="not numbers"):
        search(MemoryModel(torch.full((5, 5), torch.nan)), beam_size=beam_size, max_length=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_low_precision_logits_are_summed_in_high_precision(dtype: torch.dtype, beam_size: int) -> None:
    table = (random_table(2000, seed=1) / 2).to(dtype)
    ((output,),) = search(MemoryModel(table), beam_size=beam_size, max_length=8, min_length=4)
    log_probs = table.double().log_softmax(dim=1)
    tokens = [BOS, *output.ids, *[EOS] * output.is_finished]
    expected = [log_probs[before, after].item() for before, after in pairwise(tokens)]
    assert output.token_log_probs == pytest.approx(expected, abs=2e-6)


def test_no_sentences_give_no_outputs() -> None:
    for beam_size in (1, 2):
        assert search(MemoryModel(random_table(5, seed=1)), num_sentences=0, beam_size=beam_size) == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (BeamRule(beam_size=0), "the beam is 0, but must be at least 1"),
        (BeamRule(num_best=0), "the n-best is 0"),
        (BeamRule(beam_size=3, num_best=4), "4 best outputs are asked for, more than the beam of 3 holds"),
        (BeamRule(beam_size=50), "the beam of 50 is larger than the model's vocabulary of 40 tokens"),
        (BeamRule(alpha=-0.5), "alpha is -0.5"),
        (BeamRule(alpha=math.nan), "alpha is nan"),
        (BeamRule(coverage_penalty=-1), "the coverage penalty is -1"),
        (BeamRule(coverage_penalty=math.inf), "the coverage penalty is inf"),
        (BeamRule(min_length=-1), "the min-length is -1"),
        (BeamRule(no_repeat_ngram=-2), "the no-repeat-ngram is -2"),
        (BeamRule(patience=0), "the patience is 0, but must be above 0"),
        (BeamRule(patience=math.nan), "the patience is nan"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: BeamRule, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_rule(rule, vocab_size=40)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_rules_that_make_sense_are_not_refused() -> None:
    check_rule(BeamRule())
    check_rule(BeamRule(beam_size=40, num_best=40, alpha=0), vocab_size=40)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"max_lengths": [3, 0]}, "sentence 2: the longest output has 0 tokens"),
        ({"prefixes": [[3, 3], [4] * 6]}, "sentence 2: the prefix has 6 tokens, more than the longest output of 5"),
        ({"prefixes": [[3], [4, EOS]]}, "sentence 2: the prefix contains the end token"),
        ({"constraints": [[], [[3], []]]}, "sentence 2: the constraints cannot be met: number 2 is empty"),
        ({"constraints": [[], [[3, EOS]]]}, "sentence 2: .* number 1 contains a token that the output may not"),
        ({"constraints": [[], [[3], [BOS]]]}, "sentence 2: .* number 2 contains a token that the output may not"),
        ({"constraints": [[], [[3, 4, 3]]], "no_repeat_ngram": 1}, "sentence 2: .* number 1 repeats 1 tokens"),
        ({"constraints": [[], [[3, 4, 3, 4]]], "no_repeat_ngram": 2}, "sentence 2: .* number 1 repeats 2 tokens"),
        ({"constraints": [[], [[3, 4, 5], [6, 7, 8]]]}, "sentence 2: .* they need 6 tokens, .* output has 5"),
        ({"prefixes": [[], [9] * 4], "constraints": [[], [[3, 4]]]}, "sentence 2: .* they need 6 tokens"),
    ],
)
def test_what_cannot_be_had_is_refused_naming_the_sentence(request_: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"eos_id": EOS, "max_lengths": [5, 5], "forbidden_ids": [PAD, BOS], **request_}
    with pytest.raises(SentenceError, match=message) as caught:
        check_sentences(**arguments)
    assert isinstance(caught.value, ValueError) and caught.value.sentence == 1
    assert str(caught.value) == f"sentence 2: {caught.value.reason}"


def test_what_fits_only_by_overlapping_is_not_refused() -> None:
    arguments: dict[str, Any] = {"eos_id": EOS, "max_lengths": [5], "no_repeat_ngram": 2}
    check_sentences(constraints=[[[3, 4, 5], [5, 6, 7]]], **arguments)
    check_sentences(constraints=[[[3, 4, 5], [5, 6, 7]]], prefixes=[[3]], **arguments)


def test_a_request_is_checked_before_the_model_is_asked() -> None:
    model = MemoryModel(random_table(6, seed=5))
    arguments: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_lengths": [2], "device": CPU}
    with pytest.raises(SentenceError):
        beam_search(model, None, 1, BeamRule(), constraints=[[[A, B, C]]], **arguments)
    with pytest.raises(SentenceError):
        sample_search(
            model,
            None,
            1,
            SamplingRule(),
            prefixes=[[A, B, C]],
            generators=row_generators(0, 1, device=CPU),
            **arguments,
        )
    assert model.read == []


def test_sampled_sentences_leave_when_they_end() -> None:
    # After a only the end, after b only b.
    model = bigrams(6, bos={A: 0.5, B: 0.5}, a={EOS: 1.0}, b={B: 1.0})
    outputs = sample_search(
        model,
        None,
        8,
        SamplingRule(),
        generators=row_generators(1, 8, device=CPU),
        bos_id=BOS,
        eos_id=EOS,
        max_lengths=[4] * 8,
        device=CPU,
    )
    num_b = sum(output.ids == [B] * 4 for output in outputs)
    assert 0 < num_b < 8 and all(output.ids in ([A], [B] * 4) for output in outputs)
    assert all(output.is_finished == (output.ids == [A]) for output in outputs)
    assert [len(ids) for ids in model.read] == [8, 8, num_b, num_b]


def test_dead_beams_are_never_read_as_outputs() -> None:
    # Only one output is possible, whatever the beam.
    model = bigrams(6, bos={A: 1.0}, a={B: 1.0}, b={EOS: 1.0})
    (outputs,) = search(model, beam_size=4, num_best=4)
    assert [output.ids for output in outputs] == [[A, B]] and outputs[0].log_prob == pytest.approx(0)
    assert [len(ids) for ids in model.read] == [1, 4, 4]
