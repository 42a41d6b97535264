"""Recurrent translation models from the command line: trained, translated with, evaluated, joined with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import ForkServer, InProcess
from tiny_pairs import TinyPairs, train_tiny_pairs

WITH_ATTENTION = "{type: gru, d_model: 24, d_embedding: 12, attention: additive, dropout: 0.0}"
WITHOUT = "{type: lstm, d_model: 12, attention: none, feeding: none, bidirectional: false, reverse_source: true}"


@pytest.fixture(scope="module")
def attentive(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    overrides = [f"model={WITH_ATTENTION}", "train.scheduled_sampling={probability: 0.2}", "train.max_steps=150"]
    return train_tiny_pairs(fork_server, tmp_path_factory.mktemp("attentive"), *overrides)


@pytest.fixture(scope="module")
def inattentive(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    overrides = [f"model={WITHOUT}", "train.max_steps=2", "train.evaluate_every=null"]
    return train_tiny_pairs(fork_server, tmp_path_factory.mktemp("inattentive"), *overrides)


def test_it_learns_translates_and_evaluates(seqkit: InProcess, attentive: TinyPairs) -> None:
    done = seqkit("translate", "--model", attentive.run, attentive.src)
    assert done.code == 0, done.err
    lines = done.out.split("\n")[:-1]
    assert len(lines) == len(attentive.lines)
    num_right = sum(map(str.__eq__, lines, attentive.references))
    assert num_right > 30
    told = json.loads(seqkit("evaluate", "--model", attentive.run, "--beam", 3, "--json").out)
    assert told["exact_match"] == pytest.approx(100 * num_right / 40)
    facts = json.loads((attentive.run / "last" / "model.json").read_text())
    assert facts["model_type"] == "gru"


def test_where_it_looked_is_told_unless_it_looks_nowhere(
    seqkit: InProcess, attentive: TinyPairs, inattentive: TinyPairs
) -> None:
    words = ["--text", "abc", "--alignments", "hard"]
    done = seqkit("translate", "--model", attentive.run, *words)
    text, pairs = done.out.removesuffix("\n").split("\t")
    assert [pair.split("-")[1] for pair in pairs.split(" ")] == [str(place) for place in range(len(text))]
    assert seqkit("translate", "--model", attentive.run, "--text", "abc", "--coverage-penalty", 0.2).code == 0
    for flag in (["--alignments", "hard"], ["--coverage-penalty", 0.2]):
        refused = seqkit("translate", "--model", inattentive.run, "--text", "abc", *flag)
        assert refused.code == 2 and refused.out == ""
        assert f"seqkit: error: {flag[0]} needs a model with attention to its source, and this one has none" in (
            refused.err
        )
    assert seqkit("translate", "--model", inattentive.run, "--text", "abc").code == 0


def test_models_of_all_families_translate_together(
    seqkit: InProcess, attentive: TinyPairs, inattentive: TinyPairs, tiny_pairs: TinyPairs
) -> None:
    words = ["translate", "--model", tiny_pairs.run, "--ensemble", attentive.run, "--ensemble", inattentive.run]
    done = seqkit(*words, tiny_pairs.src)
    assert done.code == 0, done.err
    assert len(done.out.split("\n")) == len(tiny_pairs.lines) + 1


def test_a_dry_run_tries_a_step_with_the_models_own_tokens(
    seqkit: InProcess, attentive: TinyPairs, tmp_path: Path
) -> None:
    done = seqkit("train", "--dry-run", attentive.run / "resolved.yaml")
    assert done.code == 0, done.err
    assert "gru" in done.out + done.err
    assert not (tmp_path / "runs").exists()
