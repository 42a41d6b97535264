"""Training in two processes is training in one: the same batches, losses to rounding, checkpoints that fit either."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import ForkServer, Tiny
from tiny_pairs import write_tiny_pairs
from two_processes import metrics_of, record_of, start_pair

from seqkit.runs.checkpoint import Checkpoint, read_checkpoint

LSTM = """\
task: lm
seed: 7
data: {train: TEXT}
model: {type: lstm, d_model: 8, initial_state: learned}
train:
  max_steps: 9
  batch_size: 5
  sequence_length: 8
  reset_probability: 0.3
  clip_norm: 0.5
  SETTINGS
  precision: fp32
  evaluate_every: 3
  log_every: 1
  sample_length: 5
  threads: 1
  device: cpu
"""
PAIRS = """\
task: seq2seq
seed: 3
data: {train: {src: SRC, tgt: TGT}, valid: {src: SRC, tgt: TGT}, max_length: 24}
tokenizer: {type: char}
model: MODEL
train:
  max_steps: 9
  BATCH
  clip_norm: 0.5
  label_smoothing: 0.1
  optimizer: {type: adam, lr: 0.01, eps: 0.001}
  SETTINGS
  precision: fp32
  evaluate_every: 3
  log_every: 1
  validate_translations: 3
  threads: 1
  device: cpu
"""
TRANSFORMER = "{type: transformer, num_layers: 2, d_model: 8, num_heads: 2, dropout: 0.0, tie_embeddings: true}"
GRU = "{type: gru, num_layers: 1, d_model: 8, attention: additive, dropout: 0.0}"


def lstm_recipe(folder: Path, tiny: Tiny, *, settings: str = "") -> Path:
    path = folder / "lstm.yaml"
    path.write_text(LSTM.replace("TEXT", str(tiny.text)).replace("  SETTINGS\n", f"  {settings}\n" if settings else ""))
    return path


def pairs_recipe(folder: Path, *, model: str = TRANSFORMER, batch: str = "batch_size: 7", settings: str = "") -> Path:
    src, tgt = write_tiny_pairs(folder)
    text = PAIRS.replace("SRC", str(src)).replace("TGT", str(tgt)).replace("MODEL", model).replace("BATCH", batch)
    path = folder / "pairs.yaml"
    path.write_text(text.replace("  SETTINGS\n", f"  {settings}\n" if settings else ""))
    return path


def train_both_ways(fork_server: ForkServer, folder: Path, recipe: Path) -> tuple[Path, Path]:
    """Runs of the recipe in one process and in two."""
    alone = fork_server.start("train", recipe, "--run-dir", "one", "--cache-dir", "cache", folder=folder)
    pair = start_pair(fork_server, "train", recipe, "--run-dir", "two", "--cache-dir", "cache", folder=folder)
    leader, follower = pair.wait()
    assert (leader.code, leader.out) == (0, "two\n"), leader.err
    assert (follower.code, follower.out, follower.err) == (0, "", ""), follower.err
    done = alone.wait()
    assert done.code == 0, done.err
    return folder / "one", folder / "two"


def assert_equal_to_rounding(one: Path, two: Path) -> None:
    rows, expected = metrics_of(two), metrics_of(one)
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            # Counts, steps and epochs exactly: the data and its order are the same.
            assert value == (pytest.approx(other[key], rel=1e-4) if isinstance(value, float) else other[key]), key
    assert_same_checkpoint(read_checkpoint(two / "last"), read_checkpoint(one / "last"))


def assert_same_checkpoint(found: Checkpoint, expected: Checkpoint) -> None:
    """Equal to rounding, and alike in every name, type, shape and tie, so that it does not matter which one it is."""
    assert found.weights.keys() == expected.weights.keys()
    assert ties(found) == ties(expected)
    assert found.facts.keys() == expected.facts.keys()
    assert_alike(found.weights, expected.weights)
    assert_alike(found.train_state, expected.train_state)


def ties(checkpoint: Checkpoint) -> int:
    return len({id(tensor) for tensor in checkpoint.weights.values()})


def assert_alike(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            if key not in {"elapsed", "evaluation_seconds", "last_evaluation_seconds"}:
                assert_alike(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_alike(found[number], value, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4), where
    else:
        assert found == expected, where


def test_a_recurrent_model_whose_columns_are_divided(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    # Five columns: three here, two there, each with a state of its own that is carried, and gathered in checkpoints.
    one, two = train_both_ways(fork_server, tmp_path, lstm_recipe(tmp_path, tiny, settings="accumulate: 2"))
    assert_equal_to_rounding(one, two)
    assert read_checkpoint(two / "last").facts["num_processes"] == 2
    assert "2 processes (ddp), each on cpu" in record_of(two)["device"]


@pytest.mark.parametrize(
    "settings",
    ["accumulate: 2", "parallel: fsdp, accumulate: 2", "slices: 2"],
    ids=["ddp", "fsdp", "slices"],
)
def test_a_transformer(fork_server: ForkServer, tmp_path: Path, settings: str) -> None:
    recipe = pairs_recipe(tmp_path, settings="\n  ".join(settings.split(", ")))
    assert_equal_to_rounding(*train_both_ways(fork_server, tmp_path, recipe))


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_batches_of_a_single_pair_leave_a_process_without_rows(
    fork_server: ForkServer, tmp_path: Path, parallel: str
) -> None:
    # Of 13 tokens at most: long pairs come alone.
    recipe = pairs_recipe(tmp_path, model=GRU, batch="batch_tokens: 13", settings=f"parallel: {parallel}")
    assert_equal_to_rounding(*train_both_ways(fork_server, tmp_path, recipe))


def test_a_signal_stops_both_and_two_processes_go_on_bit_for_bit(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path
) -> None:
    # With dropout: what a process draws is a function of seed, step and rank.
    recipe = lstm_recipe(tmp_path, tiny, settings="checkpoint_every: 1")
    words = ["train", recipe, "--cache-dir", "cache", "--set", "train.max_steps=60", "--set", "model.dropout=0.2"]
    whole = start_pair(fork_server, *words, "--run-dir", "whole", folder=tmp_path)
    stopped = start_pair(fork_server, *words, "--run-dir", "run", folder=tmp_path)
    stopped.leader.wait_for("step 5 ")
    # To the follower: torchrun tells all processes of a machine that is to go, and may tell no others.
    stopped.follower.send(signal.SIGTERM)
    leader, follower = stopped.wait()
    assert (leader.code, follower.code) == (143, 143), leader.err
    assert leader.error_line.startswith("stopped by a signal; saved step ") and follower.err == ""
    assert record_of(tmp_path / "run")["status"] == "interrupted"
    leader, follower = start_pair(fork_server, *words, "--run-dir", "run", "--resume", folder=tmp_path).wait()
    assert (leader.code, follower.code) == (0, 0), leader.err
    assert whole.wait()[0].code == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    for link in ("last", "best"):
        name = f"{link}/model.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("returns", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sharded_training_goes_on_in_one_process(fork_server: ForkServer, tmp_path: Path, returns: bool) -> None:
    recipe = pairs_recipe(tmp_path, settings="parallel: fsdp")
    num_steps = 30 if returns else 9
    words = ["train", recipe, "--cache-dir", "cache", "--set", f"train.max_steps={num_steps}", "--run-dir"]
    alone = fork_server.start(*words, "one", folder=tmp_path)
    pair = start_pair(fork_server, *words, "run", folder=tmp_path)
    pair.leader.wait_for("step 2 ")
    pair.leader.send(signal.SIGTERM)
    leader, follower = pair.wait()
    assert (leader.code, follower.code) == (143, 143), leader.err
    single = fork_server.start(*words, "run", "--resume", folder=tmp_path)
    single.wait_for("1 process now, 2 before: the batches stay the same")
    if returns:
        single.send(signal.SIGTERM)
        assert single.wait().code == 143
        leader, follower = start_pair(fork_server, *words, "run", "--resume", folder=tmp_path).wait()
        assert (leader.code, follower.code) == (0, 0), leader.err
        assert "2 processes now, 1 before" in leader.err
    assert single.wait().code == (143 if returns else 0)
    assert alone.wait().code == 0
    assert_equal_to_rounding(tmp_path / "one", tmp_path / "run")
