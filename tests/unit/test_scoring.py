"""Forced scoring against loops that score one token at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fake_models import MemoryModel, random_table
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from seqkit.decoding import scoring
from seqkit.decoding.scoring import ScoreSum, score_lines, score_stream, score_windows
from seqkit.models.build import build_language_model
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.recipe.schema import GruModel, LstmModel, RecurrentLm, RnnModel

CPU = torch.device("cpu")
V = 11
Ids = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def random_ids(num_tokens: int, seed: int = 3) -> Ids:
    return np.random.default_rng(seed).integers(V, size=num_tokens, dtype=np.uint8)


def small_model(config: RecurrentLm | None = None) -> RecurrentLanguageModel:
    config = config or LstmModel(type="lstm", d_model=5, num_layers=2, initial_state="learned")
    model = build_language_model(config, V)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def naive_nats(model: RecurrentLanguageModel | MemoryModel, ids: list[int]) -> list[float]:
    """Of every token but the first: its negative log-probability after all the tokens before it, one by one."""
    state: Any = model.initial_state(None, 1)
    nats = []
    for token, target in pairwise(ids):
        logits_1V, state = model.step(state, torch.tensor([token]))
        nats.append(-float(logits_1V[0].double().log_softmax(-1)[target]))
    return nats


def naive_sum(model: RecurrentLanguageModel | MemoryModel, ids: list[int]) -> ScoreSum:
    nats = naive_nats(model, ids)
    return ScoreSum(sum(nats), len(nats))


def assert_equal(found: ScoreSum, expected: ScoreSum) -> None:
    assert found.num_tokens == expected.num_tokens
    assert found.nats == pytest.approx(expected.nats, rel=1e-5, abs=1e-6)


def test_sums_add_up() -> None:
    assert ScoreSum(1.5, 3) + ScoreSum(2.25, 4) == ScoreSum(3.75, 7)


@pytest.mark.parametrize(
    "config",
    [
        None,
        RnnModel(type="rnn", d_model=5, nonlinearity="relu", tie_embeddings=True, d_embedding=3),
        GruModel(type="gru", d_model=5),
        GruModel(type="gru", d_model=5, reset_gate="before", num_layers=2, residual=True),
    ],
)
@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
def test_a_stream_is_scored_as_token_by_token(config: RecurrentLm | None, chunk: int | None) -> None:
    model, ids = small_model(config), random_ids(61)
    expected = naive_sum(model, ids.tolist())
    assert_equal(score_stream(model, ids, device=CPU, vocab_size=V, chunk=chunk), expected)
    # Columns are cut from the stream only where there is room for their burn-in twice.
    assert_equal(score_stream(model, ids, device=CPU, vocab_size=V, num_columns=9, burn_in=31), expected)


def test_columns_with_a_long_burn_in_come_close() -> None:
    model, ids = small_model(), random_ids(1001)
    exact = score_stream(model, ids, device=CPU, vocab_size=V)
    cold = score_stream(model, ids, device=CPU, vocab_size=V, num_columns=7)
    warm = score_stream(model, ids, device=CPU, vocab_size=V, num_columns=7, burn_in=50)
    assert exact.num_tokens == cold.num_tokens == warm.num_tokens == 1000
    assert abs(warm.nats - exact.nats) < 1e-3
    assert abs(cold.nats - exact.nats) > 1e-1, "the columns' first tokens do need the burn-in"


# 0 columns short, a last column of its own length, columns that end before the chunk does.
@example(2, 9, 6, 1)
@example(22, 5, 2, 3)
@example(23, 6, 0, 4)
@given(st.integers(2, 60), st.integers(1, 9), st.integers(0, 6), st.none() | st.integers(1, 9))
def test_every_token_but_the_first_is_scored_once_after_its_burn_in(
    num_tokens: int, num_columns: int, burn_in: int, chunk: int | None
) -> None:
    # A model that remembers burn_in + 1 tokens needs exactly that burn-in: with less, or with a token scored twice
    # or left out, the sum would be another.
    ids = random_ids(num_tokens, seed=num_tokens)
    model = MemoryModel(random_table(V, seed=6), memory=burn_in + 1)
    found = score_stream(model, ids, device=CPU, vocab_size=V, num_columns=num_columns, burn_in=burn_in, chunk=chunk)
    assert_equal(found, naive_sum(model, ids.tolist()))


def test_columns_run_side_by_side() -> None:
    model = MemoryModel(random_table(V, seed=6))
    score_stream(model, random_ids(71), device=CPU, vocab_size=V, num_columns=7, burn_in=3, chunk=5)
    # 70 scored tokens: 7 columns of 10, and 3 of burn-in, in chunks of 5.
    assert [tuple(ids_BT.shape) for ids_BT in model.read] == [(7, 5), (7, 5), (7, 3)]


def test_logits_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(71)
    expected = naive_sum(MemoryModel(random_table(V, seed=6), memory=9), ids.tolist())
    monkeypatch.setattr(scoring, "_LOGITS_IN_MEMORY", 4 * V + 3)
    stream, windows, lines = (MemoryModel(random_table(V, seed=6), memory=9) for _ in range(3))
    assert_equal(score_stream(stream, ids, device=CPU, vocab_size=V), expected)
    score_windows(windows, ids, window=2, device=CPU, vocab_size=V)
    (line,) = score_lines(lines, [ids.tolist()[1:]], start_id=int(ids[0]), end_ids=[], device=CPU, vocab_size=V)
    assert_equal(line, expected)
    for model in (stream, windows, lines):
        assert max(ids_BT.numel() for ids_BT in model.read) == 4


@given(st.integers(2, 40), st.integers(1, 45))
def test_windows_begin_from_an_empty_state(num_tokens: int, window: int) -> None:
    # A long memory, so that anything carried into a window would show.
    ids = random_ids(num_tokens, seed=num_tokens).tolist()
    model = MemoryModel(random_table(V, seed=7), memory=50)
    expected = ScoreSum(0.0, 0)
    for first in range(0, num_tokens - 1, window):
        expected += naive_sum(model, ids[first : first + window + 1])
    found = score_windows(model, np.array(ids, dtype=np.uint8), window=window, device=CPU, vocab_size=V)
    assert expected.num_tokens == num_tokens - 1
    assert_equal(found, expected)


@pytest.mark.parametrize("window", [5, 7, 60, 61])
def test_windows_of_a_network(window: int) -> None:
    model, ids = small_model(), random_ids(61)
    # 60 scored tokens: windows of 5 come out even, of 7 leave 4 over, of 60 and more are one stream.
    expected = ScoreSum(0.0, 0)
    for first in range(0, 60, window):
        expected += naive_sum(model, ids.tolist()[first : first + window + 1])
    assert_equal(score_windows(model, ids, window=window, device=CPU, vocab_size=V), expected)
    stream = score_stream(model, ids, device=CPU, vocab_size=V)
    assert (abs(stream.nats - expected.nats) < 1e-3) == (window >= 60)


LINES = [[3, 1, 4, 1, 5], [], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6], [3, 1, 4, 1, 5]]


@pytest.mark.parametrize("end_ids", [[10], [], [7, 10]])
@pytest.mark.parametrize("logits_in_memory", [2**24, 5 * V * 3, 1])
def test_lines_are_scored_one_by_one_in_any_company(
    end_ids: list[int], logits_in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_LOGITS_IN_MEMORY", logits_in_memory)
    for model in (small_model(), MemoryModel(random_table(V, seed=8), memory=30)):
        expected = [naive_sum(model, [10, *line, *end_ids]) for line in LINES]

        def score(lines: list[list[int]], model: RecurrentLanguageModel | MemoryModel = model) -> list[ScoreSum]:
            return score_lines(model, lines, start_id=10, end_ids=end_ids, device=CPU, vocab_size=V)

        together = score(LINES)
        assert [total.num_tokens for total in together] == [len(line) + len(end_ids) for line in LINES]
        for found, alone in zip(together, expected, strict=True):
            assert_equal(found, alone)
        for found, alone in zip(reversed(score(LINES[::-1])), expected, strict=True):
            assert_equal(found, alone)
        for line, alone in zip(LINES, expected, strict=True):
            assert_equal(score([line])[0], alone)


def test_scoring_needs_no_gradient_and_gives_plain_numbers() -> None:
    model = small_model()
    total = score_stream(model, random_ids(9), device=CPU, vocab_size=V)
    assert isinstance(total.nats, float) and isinstance(total.num_tokens, int)
    assert all(parameter.grad is None for parameter in model.parameters())
