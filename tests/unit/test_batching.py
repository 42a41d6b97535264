"""Batch order: every token predicted once, columns that go on where they stopped, windows that the seed fixes."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest

from seqkit.data import batching
from seqkit.data.batching import BatchOrder, ColumnBatches, FullBatches, LmBatch, StrideBatches, WindowBatches
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray


def text(num_tokens: int) -> TokenArray:
    """Ids that name their own place."""
    return np.arange(num_tokens, dtype=np.uint8)


def epoch(order: BatchOrder, number: int = 0) -> list[LmBatch]:
    return [order.batch(number, index) for index in range(order.num_batches(number))]


def test_examples_in_docstrings() -> None:
    failed, attempted = doctest.testmod(batching)
    assert attempted and not failed


def test_columns_worked_by_hand() -> None:
    # 23 tokens, 22 predicted, 3 columns of 7; T = 5 leaves a last batch of 2 steps, and 1 token over.
    batches = ColumnBatches(text(23), num_columns=3, sequence_length=5)
    assert (batches.num_batches(0), batches.column_length, batches.num_dropped) == (2, 7, 1)
    first, last = epoch(batches)
    assert first.inputs_BT.tolist() == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [14, 15, 16, 17, 18]]
    assert first.targets_BT.tolist() == [[1, 2, 3, 4, 5], [8, 9, 10, 11, 12], [15, 16, 17, 18, 19]]
    assert last.inputs_BT.tolist() == [[5, 6], [12, 13], [19, 20]]
    assert last.targets_BT.tolist() == [[6, 7], [13, 14], [20, 21]]
    assert [first.starts_fresh, last.starts_fresh] == [True, False]


@pytest.mark.parametrize(("num_tokens", "B", "T"), [(23, 3, 5), (31, 2, 5), (16, 3, 5), (17, 1, 4), (50, 7, 1)])
def test_columns_predict_every_token_once_but_the_tail(num_tokens: int, B: int, T: int) -> None:
    batches = ColumnBatches(text(num_tokens), B, T)
    targets = np.concatenate([batch.targets_BT for batch in epoch(batches)], axis=1)
    assert targets.reshape(-1).tolist() == list(range(1, num_tokens - batches.num_dropped))
    assert batches.num_dropped == (num_tokens - 1) % B
    assert all(batch.inputs_BT.shape[1] <= T for batch in epoch(batches))


def test_columns_are_the_same_in_every_epoch() -> None:
    batches = ColumnBatches(text(23), 3, 5)
    for one, other in zip(epoch(batches, 0), epoch(batches, 4), strict=True):
        assert one.inputs_BT.tolist() == other.inputs_BT.tolist()
        assert one.starts_fresh == other.starts_fresh


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: ColumnBatches(ids, 3, 5),
        lambda ids: WindowBatches(ids, 3, 5, seed=1),
        lambda ids: StrideBatches(ids, 3, 5, seed=1),
    ],
)
def test_batches_are_contiguous_int64(make: object) -> None:
    order: BatchOrder = make(text(40))  # type: ignore[operator]
    for batch in epoch(order):
        for array in (batch.inputs_BT, batch.targets_BT):
            assert array.dtype == np.int64
            assert array.flags.c_contiguous and array.flags.writeable


def test_columns_need_one_full_batch() -> None:
    assert ColumnBatches(text(16), 3, 5).num_batches(0) == 1
    with pytest.raises(DataError) as caught:
        ColumnBatches(text(15), 3, 5, name="a.txt")
    message = str(caught.value)
    assert message == "a.txt: the text has 15 tokens, but batch size 3 × sequence length 5 needs at least 16"
    assert caught.value.hint is not None and "train.batch_size" in caught.value.hint


@pytest.mark.parametrize("num_tokens", [4, 5, 15])
def test_columns_take_a_short_text_on_request(num_tokens: int) -> None:
    batches = ColumnBatches(text(num_tokens), 3, 5, allow_short=True)
    assert epoch(batches)[0].targets_BT.shape == (3, (num_tokens - 1) // 3)
    with pytest.raises(DataError, match=r"has 3 tokens.* at least 4"):
        ColumnBatches(text(3), 3, 5, allow_short=True)


def test_full_is_one_batch_of_whole_columns() -> None:
    batches = FullBatches(text(23), 3)
    assert (batches.num_batches(0), batches.sequence_length, batches.num_dropped) == (1, 7, 1)
    (batch,) = epoch(batches)
    assert batch.starts_fresh
    assert batch.inputs_BT.tolist() == [list(range(0, 7)), list(range(7, 14)), list(range(14, 21))]
    assert (batch.targets_BT == batch.inputs_BT + 1).all()
    with pytest.raises(DataError, match=r"has 3 tokens.* at least 4"):
        FullBatches(text(3), 3)
    with pytest.raises(DataError, match="has 0 tokens"):
        FullBatches(text(0), 3)


def test_windows_are_runs_of_the_text() -> None:
    batches = WindowBatches(text(200), num_windows=3, sequence_length=5, seed=1)
    assert batches.num_batches(0) == 13
    for batch in epoch(batches):
        assert batch.inputs_BT.shape == batch.targets_BT.shape == (3, 5)
        assert (np.diff(batch.inputs_BT, axis=1) == 1).all()
        assert (batch.targets_BT == batch.inputs_BT + 1).all()
        assert batch.starts_fresh


def test_windows_begin_wherever_one_fits() -> None:
    batches = WindowBatches(text(16), num_windows=3, sequence_length=5, seed=1)
    starts = {int(start) for number in range(100) for start in batches.batch(number, 0).inputs_BT[:, 0]}
    assert starts == set(range(11))


def test_windows_are_a_function_of_seed_epoch_and_index() -> None:
    def starts(seed: int, number: int, index: int) -> list[int]:
        batch = WindowBatches(text(200), 3, 5, seed=seed).batch(number, index)
        column: list[int] = batch.inputs_BT[:, 0].tolist()
        return column

    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 2, 3), (1, 3, 2)]
    drawn = [starts(*key) for key in keys]
    assert drawn == [starts(*key) for key in keys]
    assert len({tuple(draw) for draw in drawn}) == len(keys)


def test_windows_of_a_short_text() -> None:
    assert WindowBatches(text(16), 3, 5, seed=1).num_batches(0) == 1
    with pytest.raises(DataError, match=r"has 15 tokens.* at least 16"):
        WindowBatches(text(15), 3, 5, seed=1)


@pytest.mark.parametrize("num_tokens", [16, 17, 20, 21, 24, 103, 104])
def test_strides_cover_the_text_once_an_epoch_but_its_ends(num_tokens: int) -> None:
    B, T = 3, 5
    batches = StrideBatches(text(num_tokens), B, T, seed=1)
    left_out: set[tuple[int, int]] = set()
    for number in range(60):
        drawn = epoch(batches, number)
        assert all(batch.starts_fresh for batch in drawn)
        assert all(len(batch.inputs_BT) == B for batch in drawn[:-1]) and 1 <= len(drawn[-1].inputs_BT) <= B
        for batch in drawn:
            assert (np.diff(batch.inputs_BT, axis=1) == 1).all()
            assert (batch.targets_BT == batch.inputs_BT + 1).all()
        targets = sorted(np.concatenate([batch.targets_BT.reshape(-1) for batch in drawn]).tolist())
        assert targets == list(range(targets[0], targets[-1] + 1)), "one after the other, each once"
        assert targets[0] - 1 < T and num_tokens - 1 - targets[-1] < T
        left_out.add((targets[0] - 1, num_tokens - 1 - targets[-1]))
    # Every first place that leaves room for one full batch comes up.
    assert {before for before, _ in left_out} == set(range(min(T, num_tokens - B * T)))


def test_strides_come_in_another_order_and_from_another_place_each_epoch() -> None:
    def starts(seed: int, number: int) -> list[int]:
        batches = StrideBatches(text(200), 3, 5, seed=seed)
        return [int(start) for batch in epoch(batches, number) for start in batch.inputs_BT[:, 0]]

    keys = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    drawn = [starts(*key) for key in keys]
    assert drawn == [starts(*key) for key in keys]
    assert len({tuple(order) for order in drawn}) == len(keys)
    assert all(order != sorted(order) for order in drawn)
    assert len({min(order) for order in drawn}) > 1


def test_a_batch_of_strides_needs_no_batch_before_it() -> None:
    batches = StrideBatches(text(104), 3, 5, seed=1)
    forward = [[batch.inputs_BT.tolist() for batch in epoch(batches, number)] for number in range(3)]
    for number in (2, 0, 1):
        fresh = StrideBatches(text(104), 3, 5, seed=1)
        last = fresh.num_batches(number) - 1
        assert fresh.batch(number, last).inputs_BT.tolist() == forward[number][last]
        assert batches.batch(number, 0).inputs_BT.tolist() == forward[number][0]


def test_strides_of_a_short_text() -> None:
    assert StrideBatches(text(16), 3, 5, seed=1).num_batches(0) == 1
    with pytest.raises(DataError, match=r"has 15 tokens.* at least 16"):
        StrideBatches(text(15), 3, 5, seed=1)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_batch_that_does_not_exist(index: int) -> None:
    with pytest.raises(IndexError, match=f"batch {index} of an epoch of 2"):
        ColumnBatches(text(23), 3, 5).batch(0, index)


def test_batches_of_a_memory_map(tmp_path: Path) -> None:
    ids = np.arange(23, dtype=np.uint16)
    ids.tofile(tmp_path / "ids.bin")
    mapped: TokenArray = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
    batches = ColumnBatches(mapped, 3, 5)
    assert batches.batch(0, 1).inputs_BT.tolist() == [[5, 6], [12, 13], [19, 20]]
    # Views, not copies: the whole text is never read into memory.
    assert batches._views_BL is not None
    orders = WindowBatches(mapped, 3, 5, seed=1), StrideBatches(mapped, 3, 5, seed=1)
    for views in (*batches._views_BL, *(order._windows._views for order in orders)):
        assert views is not None and np.shares_memory(views, mapped)
