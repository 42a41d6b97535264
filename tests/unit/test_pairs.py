"""Parallel text: what is kept, what is left out and said, what is refused; stores that are built once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from seqkit.data.pair_batching import BucketBatches, pair_batch
from seqkit.data.pair_corpora import describe_left_out
from seqkit.data.pair_store import prepare_pairs
from seqkit.data.pairs import PairPolicy, PairStore, ParallelText, SentenceStore, Side
from seqkit.data.readers import open_source
from seqkit.errors import DataError
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.byte import ByteTokenizer

BYTES = ByteTokenizer()
DROP = PairPolicy(max_length=5, over_long="drop", empty="drop")
REFUSE = PairPolicy(max_length=5, over_long="refuse", empty="refuse")


def text_of(folder: Path, src: str, tgt: str) -> ParallelText:
    (folder / "x.src").write_text(src, encoding="utf-8", newline="\n")
    (folder / "x.tgt").write_text(tgt, encoding="utf-8", newline="\n")
    return ParallelText(src=open_source(str(folder / "x.src")), tgt=open_source(str(folder / "x.tgt")))


def store_of(folder: Path, src: str, tgt: str, policy: PairPolicy = DROP) -> PairStore:
    text = text_of(folder, src, tgt)
    return prepare_pairs(text, {"src": BYTES, "tgt": BYTES}, policy, cache_dir=folder / "cache")


def shown(store: PairStore) -> list[tuple[str, str]]:
    return [(bytes(store.src[i].tolist()).decode(), bytes(store.tgt[i].tolist()).decode()) for i in range(len(store))]


def test_pairs_are_kept_in_order_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    text = text_of(tmp_path, "a\n\nbb\n\nccc\ndddddd\ne", "A\n\nBB\nx\n\nD\nEEEEE")
    store = prepare_pairs(text, {"src": BYTES, "tgt": BYTES}, DROP, cache_dir=tmp_path / "cache")
    assert shown(store) == [("a", "A"), ("bb", "BB"), ("e", "EEEEE")]
    assert store.line_numbers.tolist() == [0, 2, 6]
    counts = store.counts
    assert (counts.num_lines, counts.num_pairs) == (7, 3)
    assert (counts.num_blank, counts.num_empty, counts.num_over_long) == (1, 2, 1)
    assert counts.num_tokens == {"src": 4, "tgt": 8}
    told = describe_left_out(store, text)
    assert told is not None
    assert told.endswith("left out 1 blank, 2 with an empty side, 1 over-long of 7 pairs")


def test_nothing_left_out_is_nothing_said(tmp_path: Path) -> None:
    text = text_of(tmp_path, "a\n", "b\n")
    store = prepare_pairs(text, {"src": BYTES, "tgt": BYTES}, DROP, cache_dir=tmp_path / "cache")
    assert describe_left_out(store, text) is None


@pytest.mark.parametrize(("src", "tgt"), [("a\nb\nc\n", "A\n"), ("a\n", "A\nB\nC\n"), ("a\nb\nc", "A")])
def test_unequal_texts_are_refused_with_both_counts(tmp_path: Path, src: str, tgt: str) -> None:
    with pytest.raises(DataError, match=r"x\.src has [13] lines but .*x\.tgt has [13]$"):
        store_of(tmp_path, src, tgt)
    assert not (tmp_path / "cache").exists()


def test_refused_pairs_are_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: one side is empty"):
        store_of(tmp_path, "a\n\n", "A\nB\n", REFUSE)
    with pytest.raises(DataError, match=r"line 3: 6 tokens, more than data\.max_length 5"):
        store_of(tmp_path, "a\nb\ncccccc\n", "A\nB\nC\n", REFUSE)
    assert shown(store_of(tmp_path, "a\n\nb\n", "A\n\nB\n", REFUSE)) == [("a", "A"), ("b", "B")]


def test_no_pair_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 2 pairs none is left"):
        store_of(tmp_path, "\nx\n", "y\n\n")


def test_a_store_is_built_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    calls: list[int] = []
    text = text_of(tmp_path, "a\nb\n", "A\nB\n")
    tokenizers: dict[Side, Tokenizer] = {"src": BYTES, "tgt": BYTES}
    for _ in range(2):
        prepare_pairs(text, tokenizers, DROP, cache_dir=tmp_path / "cache", on_progress=calls.append)
        # After the lines, and after the chunk that they are: both sides with their line ends.
        assert calls == [8, 8]
    prepare_pairs(text, tokenizers, REFUSE, cache_dir=tmp_path / "cache", on_progress=calls.append)
    text = text_of(tmp_path, "a\nb\n", "A\nC\n")
    prepare_pairs(text, tokenizers, DROP, cache_dir=tmp_path / "cache", on_progress=calls.append)
    assert calls == [8] * 6


def test_a_damaged_store_is_not_used(tmp_path: Path) -> None:
    store_of(tmp_path, "a\nb\n", "A\nB\n")
    (folder,) = (tmp_path / "cache" / "pairs").iterdir()
    (folder / "tgt.bin").write_bytes(b"A")
    assert shown(store_of(tmp_path, "a\nb\n", "A\nB\n")) == [("a", "A"), ("b", "B")]


def sentences(*rows: list[int]) -> SentenceStore:
    offsets = np.cumsum([0, *map(len, rows)])
    return SentenceStore(ids=np.array([i for row in rows for i in row], dtype=np.uint8), offsets=offsets)


def test_a_batch_is_padded_and_masked() -> None:
    pairs = (sentences([5, 6, 7], [8]), sentences([9], [10, 11]))
    batch = pair_batch(pairs, np.array([1, 0]), bos_id=1, eos_ids=(2, 3))
    assert batch.src_PS.tolist() == [[8, 2, 2, 2], [5, 6, 7, 2]]
    assert batch.src_mask_PS.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.inputs_PT.tolist() == [[1, 10, 11], [1, 9, 3]]
    assert batch.targets_PT.tolist() == [[10, 11, 3], [9, 3, 3]]
    assert batch.tgt_mask_PT.tolist() == [[True, True, True], [True, True, False]]


def random_pairs(count: int) -> tuple[SentenceStore, SentenceStore]:
    generator = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        sides.append(sentences(*[[1] * int(generator.integers(1, 9)) for _ in range(count)]))
    return sides[0], sides[1]


@pytest.mark.parametrize("budget", [{"batch_tokens": 40}, {"batch_size": 7}])
def test_every_pair_is_in_one_batch_of_an_epoch_and_the_budget_holds(budget: dict[str, int]) -> None:
    pairs = random_pairs(100)
    batches = BucketBatches(
        lambda _: pairs,
        batch_tokens=budget.get("batch_tokens"),
        batch_size=budget.get("batch_size"),
        bos_id=0,
        eos_ids=(0, 0),
        seed=3,
    )
    orders = []
    for epoch in (0, 1):
        seen = []
        for index in range(batches.num_batches(epoch)):
            batch = batches.batch(epoch, index)
            num_tokens = len(batch.src_PS) * max(batch.src_PS.shape[1], batch.targets_PT.shape[1])
            assert num_tokens <= budget.get("batch_tokens", 7 * 9)
            seen += [(int(s.sum()), int(t.sum())) for s, t in zip(batch.src_mask_PS, batch.tgt_mask_PT, strict=True)]
        wanted = [(s + 1, t + 1) for s, t in zip(pairs[0].lengths(), pairs[1].lengths(), strict=True)]
        assert sorted(seen) == sorted(wanted)
        orders.append(seen)
    assert orders[0] != orders[1]


def test_batches_are_a_function_of_seed_epoch_and_index() -> None:
    pairs = random_pairs(60)

    def made(seed: int) -> BucketBatches:
        return BucketBatches(lambda _: pairs, batch_tokens=40, bos_id=0, eos_ids=(0, 0), seed=seed)

    one, other = made(3), made(3)
    other.batch(5, 0)
    for index in reversed(range(one.num_batches(2))):
        assert (one.batch(2, index).src_PS == other.batch(2, index).src_PS).all()
    assert any(
        a.src_PS.shape != b.src_PS.shape for a, b in ((made(3).batch(0, i), made(4).batch(0, i)) for i in range(5))
    )


def test_like_lengths_stand_together() -> None:
    pairs = random_pairs(500)
    batches = BucketBatches(lambda _: pairs, batch_tokens=80, bos_id=0, eos_ids=(0, 0), seed=3)
    made = [batches.batch(0, index) for index in range(batches.num_batches(0))]
    real = sum(int(batch.tgt_mask_PT.sum() + batch.src_mask_PS.sum()) for batch in made)
    padded = sum(batch.tgt_mask_PT.size + batch.src_mask_PS.size for batch in made)
    assert real / padded > 0.75


def plan_as_one_list(
    pairs: tuple[SentenceStore, SentenceStore], seed: int, epoch: int, batch_tokens: int | None, batch_size: int | None
) -> list[list[int]]:
    """The batches of an epoch in the plainest way; trainings that were begun before count on them."""
    src, tgt = (np.diff(side.offsets) + 1 for side in pairs)
    longer = np.maximum(src, tgt)
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(longer)).tolist()
    stretch = 64 * (batch_size or int((batch_tokens or 0) / longer.mean()))
    batches = []
    for first in range(0, len(order), stretch):
        part = sorted(order[first : first + stretch], key=lambda n: (longer[n], tgt[n], src[n]))
        if batch_size:
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        while batch_tokens and part:
            size = batch_tokens // int(longer[part[-1]])
            batches.append(part[-size:])
            del part[-size:]
    return [batches[number] for number in generator.permutation(len(batches))]


@pytest.mark.parametrize("budget", [(40, None), (None, 7)])
@pytest.mark.parametrize("chosen", [None, [3, 3, *range(1, 700, 2)]])
def test_the_order_of_batches_is_what_it_always_was(
    budget: tuple[int | None, int | None], chosen: list[int] | None
) -> None:
    pairs = random_pairs(900)
    batches = BucketBatches(
        lambda _: pairs,
        batch_tokens=budget[0],
        batch_size=budget[1],
        bos_id=0,
        eos_ids=(0, 0),
        seed=5,
        choose=None if chosen is None else lambda _: np.array(chosen),
    )
    taken = pairs
    if chosen is not None:
        src, tgt = (sentences(*[side[number].tolist() for number in chosen]) for side in pairs)
        taken = (src, tgt)
    plan = batches._plan(2)
    made = [plan.order_P[first:last].tolist() for first, last in plan.bounds]
    assert len(made) > 50
    assert made == plan_as_one_list(taken, 5, 2, *budget)


def test_a_plan_takes_few_bytes_a_pair() -> None:
    num_pairs = 200_000
    offsets = np.arange(0, 5 * (num_pairs + 1), 5)
    side = SentenceStore(ids=np.ones(5 * num_pairs, dtype=np.uint8), offsets=offsets)
    batches = BucketBatches(lambda _: (side, side), batch_tokens=400, bos_id=0, eos_ids=(0, 0), seed=5)
    tracemalloc.start()
    assert batches.num_batches(0) == pytest.approx(num_pairs / (400 // 6), rel=0.01)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 6 * num_pairs and peak < 24 * num_pairs
