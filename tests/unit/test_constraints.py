"""Lexical constraints and token limits against plain substring search."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkit.decoding.constraints import LexicalConstraints, Progress, share_out
from seqkit.decoding.requests import shortest_output
from seqkit.decoding.token_limits import TokenLimits, repeating_tokens

CPU = torch.device("cpu")
# Few tokens, so that sequences repeat tokens and overlap often.
sequences = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=4), max_size=4)
texts = st.lists(st.integers(2, 6), max_size=12)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def read(constraints: LexicalConstraints, sentence: int, text: list[int]) -> Progress:
    """Where one hypothesis stands after a text; shape (1,)."""
    progress = constraints.start()[slice(sentence, sentence + 1)]
    for token in text:
        progress = constraints.advance(progress, torch.tensor([token]))
    return progress


def count(text: list[int], sequence: list[int]) -> int:
    return sum(text[at : at + len(sequence)] == sequence for at in range(len(text)))


@given(sequences, sequences, texts)
def test_constraints_are_met_when_they_occur_in_the_text(
    first: list[list[int]], second: list[list[int]], text: list[int]
) -> None:
    constraints = LexicalConstraints([first, second, [[4]]], CPU)
    for sentence, wanted in enumerate((first, second)):
        required = Counter(map(tuple, wanted))
        expected = all(count(text, list(sequence)) >= number for sequence, number in required.items())
        assert bool(constraints.is_met(read(constraints, sentence, text))) == expected


@given(sequences.filter(bool), texts)
def test_until_all_are_met_some_wanted_token_leads_to_a_fuller_bank(wanted: list[list[int]], text: list[int]) -> None:
    constraints = LexicalConstraints([wanted], CPU)
    progress = read(constraints, 0, text)
    steps = 0
    while not constraints.is_met(progress):
        tokens, is_wanted = constraints.next_tokens(progress)
        choices = tokens[is_wanted].tolist()
        assert len(set(choices)) == len(choices)
        banks = {
            token: int(constraints.bank(constraints.advance(progress, torch.tensor([token])))) for token in choices
        }
        best = max(banks, key=lambda token: banks[token])
        assert banks[best] > int(constraints.bank(progress))
        progress = constraints.advance(progress, torch.tensor([best]))
        steps += 1
    assert steps <= sum(map(len, wanted))
    assert int(constraints.bank(progress)) == sum(map(len, wanted)) == constraints.num_banks - 1
    assert not constraints.next_tokens(progress)[1].any()


def test_a_broken_sequence_falls_back_to_what_still_fits() -> None:
    constraints = LexicalConstraints([[[3, 3, 4]]], CPU)
    banks = [int(constraints.bank(read(constraints, 0, [3, 3, 3, 4][:length]))) for length in range(5)]
    assert banks == [0, 1, 2, 2, 3]
    assert constraints.next_tokens(read(constraints, 0, [3, 3, 3]))[0].tolist() == [[4]]
    assert int(constraints.bank(read(constraints, 0, [3, 3, 5]))) == 0


def test_a_sequence_given_twice_must_occur_twice() -> None:
    constraints = LexicalConstraints([[[3, 3], [3, 3]]], CPU)
    assert not constraints.is_met(read(constraints, 0, [3, 3, 4]))
    assert constraints.is_met(read(constraints, 0, [3, 3, 4, 3, 3]))
    # Occurrences may overlap.
    assert constraints.is_met(read(constraints, 0, [3, 3, 3]))


def test_the_beam_is_shared_out_between_the_banks_in_turn() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -torch.inf, -5.0, -6.0, -7.0]])
    banks = torch.tensor([[0, 0, 0, 2, 2, 1, 0, 2]])
    # First turn: bank 2 (-4), 1 (-5), 0 (-1); second: 2 (-7), 0 (-2); then only bank 0 has more.
    assert share_out(log_probs, banks, 3).tolist() == [[3, 5, 0, 7, 1, 2, 6, 4]]
    # Without constraints it is the order of the scores, ties kept.
    log_probs = torch.tensor([[-2.0, -1.0, -2.0, -1.0]])
    assert share_out(log_probs, torch.zeros(1, 4, dtype=torch.long), 1).tolist() == [[1, 3, 0, 2]]


@given(
    st.lists(st.lists(st.integers(3, 4), min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.integers(3, 5), max_size=2),
)
def test_the_shortest_output_is_the_shortest(wanted: list[list[int]], prefix: list[int]) -> None:
    shortest = shortest_output(wanted, prefix)
    required = Counter(map(tuple, wanted))

    def fits(length: int) -> bool:
        return any(
            all(count([*prefix, *rest], list(one)) >= number for one, number in required.items())
            for rest in product([3, 4], repeat=length - len(prefix))
        )

    assert shortest is not None and fits(shortest)
    assert shortest == len(prefix) or not fits(shortest - 1)


def test_a_shortest_output_too_hard_to_find_is_not_claimed() -> None:
    assert shortest_output([[3, token, token + 1] for token in range(4, 60)], []) is None


@given(st.lists(st.integers(0, 2), max_size=9), st.integers(1, 4))
def test_tokens_that_repeat_an_ngram_are_found(history: list[int], n: int) -> None:
    if len(history) < n:
        return
    rows, tokens = repeating_tokens(torch.tensor([history, history[::-1]]), n)
    for row, text in enumerate((history, history[::-1])):
        grams = [text[at : at + n] for at in range(len(text) - n + 1)]
        expected = {token for token in range(3) if [*text[len(text) - n + 1 :], token] in grams}
        assert {token for at, token in zip(rows.tolist(), tokens.tolist(), strict=True) if at == row} == expected


def limits_of(**changes: object) -> TokenLimits:
    arguments: dict[str, object] = {
        "eos_id": 2,
        "forbidden_ids": [],
        "min_length": 0,
        "no_repeat_ngram": 0,
        "prefixes": None,
        "device": CPU,
    }
    return TokenLimits(**{**arguments, **changes})  # type: ignore[arg-type]


def blocked(limits: TokenLimits, history: list[list[int]]) -> list[set[int]]:
    """The blocked tokens of each row."""
    logits = torch.zeros(len(history), 6)
    limits.block_(logits, len(history[0]), torch.tensor(history, dtype=torch.long).view(len(history), -1))
    return [set((row == -torch.inf).nonzero().flatten().tolist()) for row in logits]


def test_limits_block_what_they_say() -> None:
    assert blocked(limits_of(), [[3, 3]]) == [set()]
    assert blocked(limits_of(forbidden_ids=[0, 4, 0]), [[3, 3]]) == [{0, 4}]
    assert [blocked(limits_of(min_length=2), [[3] * length]) for length in range(4)] == [[{2}], [{2}], [set()], [set()]]
    assert blocked(limits_of(no_repeat_ngram=2), [[3, 4, 3], [3, 4, 5]]) == [{4}, set()]
    assert blocked(limits_of(no_repeat_ngram=1), [[], []]) == [set(), set()]
    assert blocked(limits_of(no_repeat_ngram=3), [[4, 4]]) == [set()]


def test_prefixes_of_unequal_length_are_forced_row_by_row() -> None:
    limits = limits_of(prefixes=[[3, 4], [], [5]])
    rows = torch.tensor([2, 2, 0, 1])
    forced = [limits.forced(step, rows) for step in range(3)]
    assert forced[0] is not None and forced[0].tolist() == [5, 5, 3, -1]
    assert forced[1] is not None and forced[1].tolist() == [-1, -1, 4, -1]
    assert forced[2] is None and limits_of().forced(0, rows) is None
