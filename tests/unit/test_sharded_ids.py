"""Ids in several arrays behave as if they lay in one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from fake_models import MemoryModel, random_table

from seqkit.data.batching import BatchOrder, ColumnBatches, FullBatches, StrideBatches, WindowBatches
from seqkit.data.sharded_ids import ShardedIds, TokenIds, Windows, joined, token_counts
from seqkit.decoding.scoring import score_stream, score_windows

N, V = 61, 11
WHOLE = np.random.default_rng(3).integers(V, size=N).astype(np.uint16)


def sharded(*cuts: int) -> ShardedIds:
    return ShardedIds([WHOLE[first:end] for first, end in pairwise([0, *cuts, N])])


CUTS = [(), (1,), (60,), (7, 8, 30), tuple(range(1, N))]


@pytest.mark.parametrize("cuts", CUTS)
def test_every_slice_and_place(cuts: tuple[int, ...]) -> None:
    ids = sharded(*cuts)
    assert len(ids) == N and ids.dtype == np.dtype(np.uint16)
    assert ids.tolist() == WHOLE.tolist() and ids.astype("int64").dtype == np.int64
    for start in (0, 1, 7, 8, 59, 61, 70):
        for stop in (0, 1, 7, 8, 31, 60, 61, 70):
            found = ids[start:stop]
            assert found.tolist() == WHOLE[start:stop].tolist() and found.dtype == np.uint16
    assert [int(ids[place]) for place in range(-N, N)] == [int(WHOLE[place]) for place in range(-N, N)]
    places = np.random.default_rng(1).integers(N, size=(4, 5))
    assert np.array_equal(ids[places], WHOLE[places])
    assert ids[np.zeros((0, 2), dtype=np.int64)].shape == (0, 2)
    assert np.array_equal(token_counts(ids, V), token_counts(WHOLE, V))


def test_what_is_not_there_is_refused() -> None:
    ids = sharded(7, 30)
    for wrong in (N, -N - 1, np.array([0, N]), np.array([-1])):
        with pytest.raises(IndexError):
            ids[wrong]
    with pytest.raises(ValueError, match="no step"):
        ids[::2]
    with pytest.raises(ValueError, match="one type"):
        ShardedIds([np.zeros(2, dtype=np.uint8), np.zeros(2, dtype=np.uint16)])
    with pytest.raises(ValueError, match="empty"):
        ShardedIds([WHOLE, WHOLE[:0]])


def test_a_slice_of_one_shard_is_no_copy() -> None:
    assert np.shares_memory(sharded(30)[3:20], WHOLE)


def test_texts_are_joined() -> None:
    assert joined([WHOLE[:4], ShardedIds([WHOLE[4:9], WHOLE[9:20]]), WHOLE[20:]]).tolist() == WHOLE.tolist()


@pytest.mark.parametrize("cuts", CUTS)
def test_windows(cuts: tuple[int, ...]) -> None:
    starts = np.array([0, 54, 3, 3, 29])
    for length in (1, 7):
        found, expected = Windows(sharded(*cuts), length), Windows(WHOLE, length)
        assert len(found) == len(expected) == N - length + 1
        assert np.array_equal(found.at(starts), expected.at(starts))


ORDERS: dict[str, Callable[[TokenIds], BatchOrder]] = {
    "columns": lambda ids: ColumnBatches(ids, 3, 7, reset_probability=0.3, seed=2),
    "full": lambda ids: FullBatches(ids, 3),
    "windows": lambda ids: WindowBatches(ids, 3, 7, seed=2),
    "stride": lambda ids: StrideBatches(ids, 3, 7, seed=2),
}


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("cuts", CUTS)
def test_batches_are_the_same(kind: str, cuts: tuple[int, ...]) -> None:
    found, expected = ORDERS[kind](sharded(*cuts)), ORDERS[kind](WHOLE)
    for epoch in range(2):
        assert found.num_batches(epoch) == expected.num_batches(epoch) > 0
        for index in range(expected.num_batches(epoch)):
            for name, value in vars(expected.batch(epoch, index)).items():
                assert_same(getattr(found.batch(epoch, index), name), value)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.flags.c_contiguous and np.array_equal(found, expected)
    else:
        assert found == expected


def test_scores_are_the_same() -> None:
    def both(ids: TokenIds) -> list[float]:
        models = [MemoryModel(random_table(V, seed=6), memory=9) for _ in range(2)]
        place = torch.device("cpu")
        return [
            score_stream(models[0], ids, device=place, vocab_size=V, num_columns=3, burn_in=2).nats,
            score_windows(models[1], ids, window=9, device=place, vocab_size=V, overlaps=True).nats,
        ]

    assert both(sharded(7, 8, 30)) == both(WHOLE)
