"""Mixtures: each corpus by its share, every part of it before any comes again, wherever a run begins."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from seqkit.data.batching import BatchOrder
from seqkit.data.mixed_batches import MixedStrideBatches, MixedWindowBatches
from seqkit.data.mixing import MixedItems, Mixture, mix, quotas
from seqkit.data.sharded_ids import ShardedIds
from seqkit.errors import DataError

SIZES = (120, 35, 61)
TEXTS = [np.arange(size, dtype=np.uint16) + 1000 * number for number, size in enumerate(SIZES)]
"""Ids that name their own corpus and place."""
IDS = ShardedIds([TEXTS[0][:50], TEXTS[0][50:], *TEXTS[1:]])
B, T = 4, 5


def mixture(*weights: float, temperature: float = 1.0) -> Mixture:
    return mix(["a", "b", "c"], SIZES, weights, temperature)


def test_shares_worked_by_hand() -> None:
    # Sizes 100 and 10,000: by size 1 : 100, at temperature 2 1 : 10, by weight alone 1 : 1.
    for temperature, weight, expected in [(1, 1, 1 / 101), (2, 1, 1 / 11), (2, 5, 5 / 15), (1e9, 3, 3 / 4)]:
        made = mix(["a", "b"], [100, 10_000], [weight, 1], temperature)
        assert made.shares == pytest.approx((expected, 1 - expected))
    assert mix(["a"], [7], [0.1], 1).shares == (1.0,)
    assert mix(["a", "b"], [10, 10**12], [1, 1], 0.001).shares == (0.0, 1.0)


def test_repeats_are_passes_over_each_corpus() -> None:
    made = mix(["a", "b"], [100, 300], [2, 1], 1)
    assert made.repeats() == pytest.approx([1.6, 0.8])
    assert made.describe() == "a mixture of a 40 %, b 60 %"


@pytest.mark.parametrize("total", [0, 1, 2, 7, 100, 12345])
def test_quotas_are_whole_and_near(total: int) -> None:
    for shares in ([0.2, 0.3, 0.5], [1 / 3] * 3, [1.0], [0.1] * 10, [0.0, 1.0]):
        found = quotas(shares, total)
        assert sum(found) == total
        assert all(abs(quota - share * total) < 1 for quota, share in zip(found, shares, strict=True))


def test_nothing_comes_again_before_all_has_come() -> None:
    items = MixedItems([6, 3, 10], [0.5, 0.4, 0.1], seed=3)
    assert items.num_items == 19 and items.quotas == [9, 8, 2]
    taken: list[list[int]] = [[], [], []]
    for epoch in range(12):
        corpora, rounds, numbers = items.at(epoch, np.arange(19))
        assert np.bincount(corpora).tolist() == items.quotas
        for corpus, number in zip(corpora.tolist(), numbers.tolist(), strict=True):
            taken[corpus].append(number)
        assert rounds.tolist() == [
            (epoch * items.quotas[corpus] + place) // size
            for corpus, size in enumerate([6, 3, 10])
            for place in range(items.quotas[corpus])
        ]
    for of_corpus, size in zip(taken, [6, 3, 10], strict=True):
        rounds_of = [tuple(of_corpus[first : first + size]) for first in range(0, len(of_corpus) - size + 1, size)]
        assert len(rounds_of) >= 2 and all(sorted(each) == list(range(size)) for each in rounds_of)
        assert len(set(rounds_of)) > 1


def test_numbers_count_the_corpora_through() -> None:
    items = MixedItems([6, 3], [0.5, 0.5], seed=3)
    numbers = items.numbers(epoch=1)
    assert len(numbers) == 9 and numbers.max() < 9
    assert (numbers < 6).sum() == items.quotas[0] == 5


ORDERS: dict[str, type[MixedStrideBatches] | type[MixedWindowBatches]] = {
    "stride": MixedStrideBatches,
    "windows": MixedWindowBatches,
}


def order(kind: str, made: Mixture, *, seed: int = 7) -> BatchOrder:
    return ORDERS[kind](IDS, made, B, T, seed)


def rows(batches: BatchOrder, epoch: int) -> npt.NDArray[np.int64]:
    return np.concatenate([batches.batch(epoch, index).inputs_BT for index in range(batches.num_batches(epoch))])


@pytest.mark.parametrize("kind", ORDERS)
def test_windows_are_stretches_of_one_corpus(kind: str) -> None:
    batches = order(kind, mixture(1, 4, 1))
    for epoch in range(3):
        for index in range(batches.num_batches(epoch)):
            batch = batches.batch(epoch, index)
            assert batch.starts_fresh and batch.resets_B is None
            assert (batch.targets_BT == batch.inputs_BT + 1).all() and (np.diff(batch.inputs_BT) == 1).all()
            for last in batch.targets_BT[:, -1].tolist():
                assert last % 1000 < SIZES[last // 1000]


@pytest.mark.parametrize("kind", ORDERS)
def test_a_batch_is_a_function_of_seed_epoch_and_index(kind: str) -> None:
    made = mixture(1, 2, 1, temperature=3)
    batches = order(kind, made)
    wanted = [(2, 1), (0, 0), (2, 0), (1, 3), (0, 0)]
    asked = [batches.batch(*place).inputs_BT.tolist() for place in wanted]
    # Another process, which has seen nothing before.
    alone = [order(kind, made).batch(*place).inputs_BT.tolist() for place in wanted]
    assert asked == alone
    assert len({str(each) for each in asked}) == 4
    assert order(kind, made, seed=8).batch(2, 1).inputs_BT.tolist() != asked[0]
    with pytest.raises(IndexError):
        batches.batch(0, batches.num_batches(0))


def test_an_epoch_of_strides_has_each_corpus_by_its_quota_and_each_window_once_a_round() -> None:
    batches = order("stride", mixture(1, 3, 1))
    assert isinstance(batches, MixedStrideBatches)
    windows = [(size - T) // T for size in SIZES]
    assert windows == [23, 6, 11] and batches.num_batches(0) == 10
    met: list[list[int]] = [[], [], []]
    for epoch in range(9):
        starts = rows(batches, epoch)[:, 0]
        counts = Counter((starts // 1000).tolist())
        # Shares 120 : 105 : 61 of 40 windows: 16.8, 14.7 and 8.5.
        assert [counts[corpus] for corpus in range(3)] == [17, 15, 8]
        for start in starts.tolist():
            met[start // 1000].append(start % 1000)
    for corpus, num_windows in enumerate(windows):
        assert len(set(met[corpus])) > num_windows, "rounds begin at other tokens"
    # 9 · 8 windows of the third corpus are six rounds of 11 and 6 more: each place of the lattice at least six times.
    assert min(Counter(start // T for start in met[2]).values()) >= 5
    assert sum(Counter(met[2]).values()) == 72


def test_random_windows_come_by_share_from_every_place() -> None:
    batches = order("windows", mixture(1, 3, 1))
    starts = np.concatenate([rows(batches, epoch)[:, 0] for epoch in range(60)])
    shares = np.bincount(starts // 1000) / len(starts)
    assert np.abs(shares - mixture(1, 3, 1).shares).max() < 0.03
    for corpus, size in enumerate(SIZES):
        assert set((starts[starts // 1000 == corpus] % 1000).tolist()) == set(range(size - T))


def test_a_corpus_of_one_window() -> None:
    for size in (T + 1, 2 * T - 1, 2 * T):
        texts = [np.arange(size, dtype=np.uint16), np.arange(40, dtype=np.uint16) + 1000]
        for kind in ORDERS.values():
            batches = kind(ShardedIds(texts), mix(["a", "b"], [size, 40], [1, 1], 9), B, T, 3)
            seen = np.concatenate([rows(batches, epoch)[:, 0] for epoch in range(30)])
            assert set(seen[seen < 1000].tolist()) == set(range(size - T))


@pytest.mark.parametrize("kind", ORDERS)
def test_a_corpus_without_a_window_is_named(kind: str) -> None:
    made = mix(["long.txt", "short.txt"], [40, T], [1, 1], 1)
    ids = ShardedIds([np.arange(40, dtype=np.uint8), np.arange(T, dtype=np.uint8)])
    with pytest.raises(DataError, match=r"^short\.txt: this corpus of the mixture has 5 tokens.* needs 6$"):
        ORDERS[kind](ids, made, B, T, 1)
