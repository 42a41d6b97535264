"""A training text encoded anew for each epoch: from seed and epoch alone, in files that leave no trace."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tiny_runs import tiny_recipe

from seqkit.data import epochs
from seqkit.data.batching import BatchOrder, ColumnBatches, FullBatches, WindowBatches
from seqkit.data.epochs import ReencodedBatches, ReencodedText
from seqkit.data.readers import open_source
from seqkit.data.stretches import Stretch
from seqkit.errors import DataError
from seqkit.recipe import tokenizer_schema
from seqkit.tasks.lm import PreparedLm, prepare_lm
from seqkit.tokenizers.base import TokenArray
from seqkit.tokenizers.bpe_dropout import BpeDropout
from seqkit.tokenizers.bpe_learning import fit_bpe

TEXT = "".join(f"low lower newest widest {'newer ' * (n % 4)}é{n}\n" for n in range(60)) + "\n the last line"
BPE = fit_bpe(tokenizer_schema.BpeTokenizer(type="bpe", num_merges=40, unseen="unk"), [TEXT])


def wanted() -> bool:
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def reencoded(path: Path, *, seed: int = 5, start: int = 0, end: int | None = None, p: float = 0.3) -> ReencodedText:
    source = open_source(str(path))
    stats = source.measure()
    stretch = Stretch(source=source, stats=stats, start=start, end=stats.num_chars if end is None else end)
    return ReencodedText(stretch=stretch, dropout=BpeDropout(BPE, p), seed=seed, cache_dir=path.parent / "cache")


def ids(text: ReencodedText, epoch: int) -> list[int]:
    array = text.ids(epoch, wanted)
    assert array is not None and array.dtype == BPE.dtype
    return array.tolist()  # type: ignore[no-any-return]


def test_ids_are_a_function_of_seed_and_epoch(path: Path) -> None:
    keys = [(5, 0), (5, 1), (6, 0), (0, 5)]
    drawn = {key: ids(reencoded(path, seed=key[0]), key[1]) for key in keys}
    assert len({tuple(one) for one in drawn.values()}) == len(keys)
    text = reencoded(path)
    assert ids(text, 1) == drawn[5, 1] and ids(text, 0) == drawn[5, 0], "in any order"
    for one in drawn.values():
        assert BPE.decode(one) == TEXT
        assert one != BPE.encode(TEXT)


def test_without_dropout_they_are_the_tokenizers_own(path: Path) -> None:
    assert ids(reencoded(path, p=0.0), 3) == BPE.encode(TEXT)


def test_a_stretch_of_a_text(path: Path) -> None:
    start, end = TEXT.index("\n") + 1, TEXT.index("\n", 300) + 1
    assert BPE.decode(ids(reencoded(path, start=start, end=end), 0)) == TEXT[start:end]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_where_blocks_are_cut_makes_no_difference(path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = TEXT.index("\n") + 1
    expected = ids(reencoded(path, start=start), 2)
    zipped = path.with_name("text.txt.gz")
    zipped.write_bytes(gzip.compress(TEXT.encode()))
    monkeypatch.setattr(epochs, "_PIECE_CHARACTERS", size)
    monkeypatch.setattr("seqkit.data.readers.BLOCK_BYTES", size + 2)
    assert ids(reencoded(path, start=start), 2) == expected
    assert ids(reencoded(zipped, start=start), 2) == expected


def test_ids_are_mapped_from_a_file_without_a_name(path: Path) -> None:
    text = reencoded(path)
    first, second = text.ids(0, wanted), text.ids(1, wanted)
    assert isinstance(first, np.memmap) and isinstance(second, np.memmap)
    assert not first.flags.writeable
    assert list((path.parent / "cache").rglob("*")) == [path.parent / "cache" / "stores"]
    assert BPE.decode(first.tolist()) == BPE.decode(second.tolist()) == TEXT


def test_what_is_not_wanted_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "_PIECE_CHARACTERS", 50)
    answers = iter([True, True, False])
    assert reencoded(path).ids(0, lambda: next(answers)) is None
    assert next(answers, None) is None


@pytest.mark.parametrize("edited", [TEXT + "x", TEXT.replace("the last", "one last"), TEXT[:-1]])
def test_a_text_that_changed_is_refused(path: Path, edited: str) -> None:
    # The stretch itself is the same: what follows it is what was held out, from the same file.
    text = reencoded(path, end=TEXT.index("\n") + 1)
    ids(text, 0)
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        text.ids(1, wanted)
    assert caught.value.message == f"{path}: changed while it was being trained on"
    path.write_text(TEXT, encoding="utf-8")
    ids(text, 1)


def test_a_text_that_is_gone_and_a_cache_that_takes_nothing(path: Path) -> None:
    text = reencoded(path)
    (path.parent / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot write the cache"):
        text.ids(0, wanted)
    path.unlink()
    (path.parent / "cache").unlink()
    with pytest.raises(DataError, match=r"text\.txt"):
        text.ids(0, wanted)


@pytest.mark.parametrize("kind", ["columns", "full", "windows"])
def test_batches_of_an_epoch_are_those_of_its_ids(path: Path, kind: str) -> None:
    def lay_out(array: TokenArray) -> BatchOrder:
        if kind == "columns":
            return ColumnBatches(array, 3, 7, reset_probability=0.3, seed=5)
        return FullBatches(array, 3) if kind == "full" else WindowBatches(array, 3, 7, seed=5)

    batches = ReencodedBatches(reencoded(path), lay_out)
    sizes = []
    # Epoch 1 is met again after others, as in a run that is resumed.
    for epoch in (0, 1, 2, 7, 1):
        expected = lay_out(np.array(ids(reencoded(path), epoch), dtype=BPE.dtype))
        sizes.append(batches.num_batches(epoch))
        assert sizes[-1] == expected.num_batches(epoch)
        for index in range(sizes[-1]):
            one, other = batches.batch(epoch, index), expected.batch(epoch, index)
            assert one.inputs_BT.tolist() == other.inputs_BT.tolist()
            assert one.targets_BT.tolist() == other.targets_BT.tolist()
            assert one.starts_fresh == other.starts_fresh
            assert (one.resets_B is None) == (other.resets_B is None)
    assert kind == "full" or len(set(sizes)) > 1


def test_the_next_epoch_is_encoded_once_and_not_too_early(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    original = ReencodedText.ids

    def noted(self: ReencodedText, epoch: int, is_wanted: object) -> TokenArray | None:
        encoded.append(epoch)
        return original(self, epoch, is_wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(ReencodedText, "ids", noted)
    batches = ReencodedBatches(reencoded(path), lambda array: ColumnBatches(array, 3, 7), num_epochs=2)
    num_batches = batches.num_batches(0)
    assert num_batches > 8
    for index in range(num_batches // 4 - 1):
        batches.batch(0, index)
    assert encoded == [0]
    for index in range(num_batches // 4 - 1, num_batches):
        batches.batch(0, index)
    for index in range(batches.num_batches(1)):
        batches.batch(1, index)
    assert encoded == [0, 1], "no third epoch is to come"


def test_the_recipe_key() -> None:
    config = tokenizer_schema.BpeTokenizer(type="bpe", path="tokenizer.json", dropout=0.1)
    assert config.dropout == 0.1, "goes with a tokenizer made before"
    assert tokenizer_schema.BpeTokenizer(type="bpe", vocab_size=300).dropout == 0
    for refused in (-0.1, 1.0):
        with pytest.raises(ValidationError, match="dropout"):
            tokenizer_schema.BpeTokenizer(type="bpe", vocab_size=300, dropout=refused)


@pytest.mark.parametrize("bptt", ["truncated", "full", "windows"])
def test_a_language_model_trains_on_drawn_text_and_is_validated_on_plain(path: Path, bptt: str) -> None:
    def prepared(dropout: float) -> PreparedLm:
        tokenizer = {"type": "bpe", "num_merges": 40, "unseen": "unk", "dropout": dropout}
        recipe = tiny_recipe(path, model={"type": "gru"}, train={"max_epochs": 2, "bptt": bptt}, tokenizer=tokenizer)
        return prepare_lm(recipe, path.parent / "cache", seed=5)

    plain, drawn = prepared(0.0), prepared(0.3)
    assert plain.tokenizer_files == drawn.tokenizer_files, "dropout is no part of the tokenizer"
    assert plain.corpora.valid.ids.tolist() == drawn.corpora.valid.ids.tolist()
    assert drawn.corpora.tokenizer.decode(drawn.corpora.valid.ids.tolist()) == TEXT
    assert "BPE-dropout 0.3" in drawn.describe_data() and "dropout" not in plain.describe_data()
    first = [prepare.batches.batch(0, 0).inputs_BT.tolist() for prepare in (plain, drawn, prepared(0.3))]
    assert first[1] == first[2] != first[0]
    assert drawn.batches.batch(1, 0).inputs_BT.tolist() != first[1]
    if bptt == "full":
        fed = drawn.batches.batch(0, 0)
        row = [int(fed.inputs_BT[0, 0]), *fed.targets_BT.reshape(-1).tolist()]
        assert TEXT.startswith(drawn.corpora.tokenizer.decode(row).rstrip("\N{REPLACEMENT CHARACTER}"))


def test_a_text_that_is_too_short_is_found_before_training(path: Path) -> None:
    tokenizer = {"type": "bpe", "num_merges": 40, "unseen": "unk", "dropout": 0.3}
    recipe = tiny_recipe(
        path, model={"type": "gru"}, train={"max_epochs": 2, "sequence_length": 5000}, tokenizer=tokenizer
    )
    with pytest.raises(DataError, match="needs at least"):
        prepare_lm(recipe, path.parent / "cache", seed=5)
