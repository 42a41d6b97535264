"""Stop strings in streamed text: however the text is cut, the same text comes out."""

from __future__ import annotations

import doctest
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqkit.decoding import stopping
from seqkit.decoding.stopping import StopMatcher

# Two letters, so that stop strings often begin, end and hold each other.
texts = st.text(alphabet="ab", max_size=12)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3)


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.flush(), matcher.is_stopped


def cut(text: str, places: list[int]) -> list[str]:
    marks = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[first:last] for first, last in pairwise(marks)]


def test_example_in_docstrings() -> None:
    failed, attempted = doctest.testmod(stopping)
    assert attempted and not failed


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["one\n", "two", "\n\nthree"], ["\n\n"], ("one\ntwo", True)),
        (["one\n", "\nthree"], ["\n\n"], ("one", True)),
        (["aab"], ["ab"], ("a", True)),
        (["a", "a", "b"], ["ab"], ("a", True)),
        (["abx"], ["b", "abc"], ("a", True)),
        # The first stop string to be complete counts: "abc" might still come when "b" is there.
        (["abc"], ["abc", "b"], ("a", True)),
        # Of two that are complete at once, the longer one is held back whole.
        (["xab"], ["b", "ab"], ("x", True)),
        (["ababac"], ["abac"], ("ab", True)),
        (["stop", "after"], ["stop"], ("", True)),
        (["nothing"], ["never"], ("nothing", False)),
        (["held ne"], ["never"], ("held ne", False)),
        (["anything"], [], ("anything", False)),
        (["anything"], [""], ("anything", False)),
    ],
)
def test_worked_examples(pieces: list[str], stops: list[str], expected: tuple[str, bool]) -> None:
    assert run(pieces, stops) == expected


def test_text_is_held_back_no_longer_than_needed() -> None:
    matcher = StopMatcher(["abc", "cd"])
    assert [matcher.push(piece) for piece in ["xa", "b", "b", "c", "e"]] == ["x", "", "abb", "", "ce"]
    assert matcher.flush() == ""
    assert not matcher.is_stopped


@example("aba", ["aba", "b"], [2])
@given(texts, stop_lists, st.lists(st.integers(0, 12), max_size=5))
def test_any_cuts_give_the_same_text(text: str, stops: list[str], places: list[int]) -> None:
    assert run(cut(text, places), stops) == run([text], stops)


@given(texts, stop_lists)
def test_the_text_ends_before_the_stop_string_that_is_complete_first(text: str, stops: list[str]) -> None:
    expected = (text, False)
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            expected = (text[: end - max(map(len, complete))], True)
            break
    assert run(list(text), stops) == expected


@given(texts, stop_lists, st.lists(st.integers(0, 12), max_size=5))
def test_nothing_is_lost_where_no_stop_string_appears(text: str, stops: list[str], places: list[int]) -> None:
    stops = [stop for stop in stops if stop not in text]
    assert run(cut(text, places), stops) == (text, False)


@given(texts, stop_lists)
def test_after_a_stop_nothing_more_comes(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    matcher.push("b" + stops[0] + text)
    assert matcher.is_stopped
    assert matcher.push(text) == "" and matcher.flush() == ""
