"""Orders that are computed place by place, and sequences that go round and round."""

from __future__ import annotations

import numpy as np
import pytest

from seqkit.data import batching, shuffling
from seqkit.data.batching import StrideBatches
from seqkit.data.shuffling import Rounds, Shuffle


def order(size: int, *seed: int, stream: int = 1) -> list[int]:
    return Shuffle(size, seed, stream=stream).at(np.arange(size)).tolist()  # type: ignore[no-any-return]


@pytest.fixture(params=["drawn", "computed"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "computed":
        monkeypatch.setattr(shuffling, "_HELD_IN_MEMORY", 0)


@pytest.mark.usefixtures("_either_way")
def test_every_number_comes_once() -> None:
    for size in (1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097):
        assert sorted(order(size, 7, 1)) == list(range(size))


@pytest.mark.usefixtures("_either_way")
def test_seed_and_stream_fix_the_order() -> None:
    orders = [order(50, 7, 1), order(50, 7, 2), order(50, 8, 1), order(50, 7, 1, stream=2), order(50, 1, 7)]
    assert len(set(map(tuple, orders))) == 5
    assert order(50, 7, 1) == orders[0]


@pytest.mark.usefixtures("_either_way")
def test_places_can_be_asked_for_in_any_order() -> None:
    shuffle = Shuffle(1000, (3,), stream=1)
    places = np.array([999, 0, 5, 5, 17])
    assert shuffle.at(places).tolist() == [int(shuffle.at(np.array([place]))[0]) for place in places.tolist()]
    assert shuffle.at(places[:0]).tolist() == []


def test_a_computed_order_looks_random() -> None:
    size = 3 * shuffling._HELD_IN_MEMORY
    numbers = Shuffle(size, (5,), stream=1).at(np.arange(size))
    assert len(np.unique(numbers)) == size
    # Of a random order: the sum of x·y has this mean and deviation, and one number in size stays in place.
    for lag in (0, 1, 2, 64):
        correlation = np.corrcoef(np.arange(size - lag), numbers[lag:])[0, 1]
        neighbours = np.corrcoef(numbers[: size - lag - 1], numbers[lag + 1 :])[0, 1]
        assert max(abs(correlation), abs(neighbours)) < 5 / np.sqrt(size)
    assert (numbers == np.arange(size)).sum() < 10
    counts = np.histogram(numbers[: size // 10], bins=50)[0]
    assert abs(counts - size / 500).max() < 5 * np.sqrt(size / 500)


def test_huge_orders_cost_nothing() -> None:
    shuffle = Shuffle(10**15 + 7, (2,), stream=1)
    numbers = shuffle.at(np.arange(1000))
    assert len(set(numbers.tolist())) == 1000
    assert 0 <= numbers.min() < numbers.max() < 10**15 + 7
    assert numbers.max() > 9 * 10**14


def test_rounds_take_every_number_once_each() -> None:
    rounds = Rounds(5, (7, 0), stream=1)
    numbers, items = rounds.at(np.arange(35))
    assert numbers.tolist() == [place // 5 for place in range(35)]
    orders = [tuple(items[first : first + 5].tolist()) for first in range(0, 35, 5)]
    assert all(sorted(each) == list(range(5)) for each in orders)
    assert len(set(orders)) > 3
    some = np.array([34, 2, 11, 2])
    assert np.array_equal(Rounds(5, (7, 0), stream=1).at(some)[1], items[some])


def test_windows_too_many_to_hold_cover_the_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def starts() -> list[list[int]]:
        order = StrideBatches(np.arange(200, dtype=np.uint8), num_windows=4, sequence_length=3, seed=9)
        batches = [[order.batch(epoch, index) for index in range(order.num_batches(epoch))] for epoch in range(3)]
        return [[int(start) for batch in epoch for start in batch.inputs_BT[:, 0]] for epoch in batches]

    held = starts()
    monkeypatch.setattr(batching, "_HELD_IN_MEMORY", 8)
    monkeypatch.setattr(shuffling, "_HELD_IN_MEMORY", 8)
    computed = starts()
    assert [sorted(epoch) for epoch in computed] == [sorted(epoch) for epoch in held]
    assert all(one != other != sorted(other) for one, other in zip(held, computed, strict=True))
