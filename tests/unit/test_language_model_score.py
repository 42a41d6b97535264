"""Scores of language models and their units, worked by hand."""

from __future__ import annotations

import doctest
import math

import pytest

from seqkit.metrics import language_model
from seqkit.metrics.language_model import language_model_score


def test_example_in_docstring() -> None:
    failed, attempted = doctest.testmod(language_model)
    assert attempted and not failed


def test_a_uniform_model_over_bytes() -> None:
    # 256 equally likely bytes: 8 bits each, perplexity 256; "é" and "à" are 2 characters, 4 bytes, 4 tokens.
    score = language_model_score(4 * math.log(256), num_tokens=4, num_chars=2, num_bytes=4)
    assert score.loss == pytest.approx(math.log(256))
    assert score.perplexity == pytest.approx(256)
    assert score.bits_per_byte == pytest.approx(8)
    assert score.bits_per_char == pytest.approx(16)


def test_a_word_model() -> None:
    # "to be or" in 3 words, 2 of them scored, each with probability 1/16: 8 bits over 5 characters.
    score = language_model_score(2 * math.log(16), num_tokens=2, num_chars=5, num_bytes=5)
    assert score.perplexity == pytest.approx(16)
    assert score.bits_per_char == pytest.approx(8 / 5)


def test_the_unit_of_bits_does_not_depend_on_the_tokenizer() -> None:
    by_char = language_model_score(30.0, num_tokens=20, num_chars=20, num_bytes=23)
    by_word = language_model_score(30.0, num_tokens=4, num_chars=20, num_bytes=23)
    assert by_char.bits_per_byte == by_word.bits_per_byte == pytest.approx(30 / math.log(2) / 23)
    assert by_char.perplexity == pytest.approx(math.exp(1.5)) and by_word.perplexity == pytest.approx(math.exp(7.5))


def test_a_perfect_model() -> None:
    score = language_model_score(0.0, num_tokens=3, num_chars=3, num_bytes=5)
    assert (score.loss, score.perplexity, score.bits_per_char, score.bits_per_byte) == (0.0, 1.0, 0.0, 0.0)


def test_a_hopeless_model_has_no_largest_perplexity() -> None:
    assert language_model_score(2 * 699.0, num_tokens=2, num_chars=1, num_bytes=1).perplexity < math.inf
    for nats in (2 * 701.0, 1e300, math.inf):
        assert language_model_score(nats, num_tokens=2, num_chars=1, num_bytes=1).perplexity == math.inf


def test_text_without_characters_has_no_bits_per_character() -> None:
    score = language_model_score(1.0, num_tokens=1, num_chars=0, num_bytes=0)
    assert math.isnan(score.bits_per_char) and math.isnan(score.bits_per_byte)


def test_fields_by_name() -> None:
    score = language_model_score(2.0, num_tokens=4, num_chars=5, num_bytes=7)
    assert score.as_dict() == {
        "loss": 0.5,
        "perplexity": math.exp(0.5),
        "bits_per_char": 2 / math.log(2) / 5,
        "bits_per_byte": 2 / math.log(2) / 7,
        "num_tokens": 4,
        "num_chars": 5,
        "num_bytes": 7,
    }
