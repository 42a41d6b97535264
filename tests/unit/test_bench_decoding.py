"""What ``python -m tests.bench.decoding`` measures, on a tiny model and without another engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench import decoding
from tiny_pairs import TinyPairs

from seqkit.tasks.seq2seq_predictor import load_seq2seq


def test_both_tasks_are_measured_and_what_was_translated_is_scored(tiny_pairs: TinyPairs) -> None:
    lines, references = tiny_pairs.lines[:6], tiny_pairs.references[:6]
    rows = decoding.run(tiny_pairs.run, lines, references=references, threads=2, rounds=2, num_single=3)
    assert [row["side"] for row in rows] == ["seqkit, whole file", "seqkit, one by one"]
    for row in rows:
        assert row["unit"] == "sentences/s" and row["seqkit_is_times"] == 1.0
        assert len(row["values"]) == 2 and all(value > 0 for value in row["values"])
    assert rows[0]["same_as_seqkit"] == 6 and 0 <= rows[0]["bleu"] <= 100
    assert "bleu" not in rows[1]


def test_our_engine_translates_as_the_command_does(tiny_pairs: TinyPairs) -> None:
    loaded = load_seq2seq(tiny_pairs.run, torch.device("cpu"))
    engines = [decoding.own_engine(loaded, loaded.recipe.translate, threads) for threads in (1, 2)]
    # Small batches, so that two threads have something to do.
    few = loaded.recipe.translate.model_copy(update={"batch_tokens": 20})
    engines.append(decoding.own_engine(loaded, few, 2))
    outputs = [engine(tiny_pairs.lines) for engine in engines]
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_vocabulary_is_one_sides_or_shared(tmp_path: Path) -> None:
    (tmp_path / "shared_vocabulary.json").write_text('["a", "b"]')
    assert decoding._vocabulary(tmp_path, "source") == ["a", "b"]
    (tmp_path / "source_vocabulary.json").write_text('["c"]')
    assert decoding._vocabulary(tmp_path, "source") == ["c"]
    assert decoding._vocabulary(tmp_path, "target") == ["a", "b"]
    with pytest.raises(StopIteration):
        decoding._vocabulary(tmp_path / "nowhere", "target")
