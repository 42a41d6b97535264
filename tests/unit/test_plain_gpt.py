"""The plain GPT that ``python -m tests.bench.gpt`` compares with, and what its sides report."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.equal_time import Outcome, outcome_of_run
from bench.gpt import gains_over
from bench.plain_gpt import (
    PlainGpt,
    PublishedSetting,
    estimate,
    optimizer_of,
    random_windows,
    renumber,
    score_plain,
    train_plain,
)

PUBLISHED = PublishedSetting()
TINY = replace(
    PUBLISHED,
    num_layers=2,
    num_heads=3,
    d_model=12,
    context_length=7,
    batch_size=5,
    num_iterations=40,
    num_estimate_batches=2,
    peak_rate=1e-2,
)


def test_the_published_setting_has_as_many_parameters_as_nanogpt_counts() -> None:
    model = PlainGpt(65, PUBLISHED)
    counted = sum(parameter.numel() for parameter in model.parameters()) - model.positions.weight.numel()
    # It prints 0.80M, without positions.
    assert counted == 4 * 12 * 128**2 + 9 * 128 + 65 * 128
    assert [name for name, _ in model.named_parameters() if name.endswith("bias")] == []
    assert model.output.weight is model.embedding.weight


def test_weights_begin_as_gpt_2s_do() -> None:
    weights = PlainGpt(65, PUBLISHED).state_dict()
    assert float(weights["blocks.0.query_key_value.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(weights["embedding.weight"].std()) == pytest.approx(0.02, rel=0.05)
    for end in ("attention_output", "feed_forward_output"):
        assert float(weights[f"blocks.3.{end}.weight"].std()) == pytest.approx(0.02 / math.sqrt(8), rel=0.03)


def test_the_rate_rises_for_100_iterations_and_falls_to_a_tenth() -> None:
    rates = [PUBLISHED.learning_rate(iteration) for iteration in (0, 49, 99, 100, 1050, 2000)]
    assert rates == pytest.approx([1e-5, 5e-4, 1e-3, 1e-3, 5.5e-4, 1e-4])
    due = [number for number in range(2001) if PUBLISHED.is_estimate_due(number)]
    assert due == list(range(0, 2001, 250))


def test_a_later_token_changes_no_earlier_logit() -> None:
    model = PlainGpt(11, TINY).eval()
    ids_BT = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
    changed_BT = ids_BT.clone()
    changed_BT[:, 4] = (ids_BT[:, 4] + 1) % 11
    with torch.no_grad():
        before_BTV, after_BTV = model(ids_BT)[0], model(changed_BT)[0]
    torch.testing.assert_close(before_BTV[:, :4], after_BTV[:, :4])
    assert (before_BTV[:, 4:] - after_BTV[:, 4:]).abs().amax(dim=(0, 2)).min() > 1e-4


def test_only_matrices_decay_and_the_tied_one_once() -> None:
    model = PlainGpt(11, TINY)
    matrices, gains = optimizer_of(model, TINY).param_groups
    assert (matrices["weight_decay"], gains["weight_decay"]) == (0.1, 0.0)
    assert len(matrices["params"]) == 2 + 4 * TINY.num_layers
    assert len(gains["params"]) == 1 + 2 * TINY.num_layers


def test_windows_come_from_all_of_the_text_and_targets_are_the_next_tokens() -> None:
    ids_N = torch.arange(9)
    generator = torch.Generator().manual_seed(0)
    windows = [random_windows(ids_N, TINY, generator) for _ in range(20)]
    for inputs_BT, targets_BT in windows:
        assert inputs_BT.shape == (5, 7)
        assert torch.equal(targets_BT, inputs_BT + 1)
    # Eight tokens are needed, so there are two places.
    assert {int(begin) for inputs_BT, _ in windows for begin in inputs_BT[:, 0]} == {0, 1}


def test_the_loop_learns_and_counts_its_estimates_in_its_time() -> None:
    ids_N = torch.arange(400) % 5
    model, outcome = train_plain(ids_N, ids_N[:100], 5, TINY)
    assert (outcome.steps, outcome.num_tokens) == (40, 40 * 5 * 7)
    losses = [row["loss"] for row in outcome.validations]
    assert len(losses) == 9
    assert losses[0] == pytest.approx(math.log(5), abs=0.05)
    assert losses[-1] < 0.5
    assert 0 < outcome.valid_seconds < outcome.seconds
    elapsed = [row["elapsed"] for row in outcome.validations]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] <= outcome.seconds
    generator = torch.Generator().manual_seed(3)
    assert estimate(model, ids_N[:100], TINY, generator) == pytest.approx(losses[-1], abs=0.1)


def test_ids_are_renumbered_over_all_texts_so_that_none_is_idle() -> None:
    (first_N, second_N), vocab_size = renumber(
        np.array([9, 300, 9], dtype=np.uint16), np.array([4, 9], dtype=np.uint16)
    )
    assert vocab_size == 3
    assert (first_N.tolist(), second_N.tolist()) == ([1, 2, 1], [0, 1])
    assert first_N.dtype == second_N.dtype == torch.int64


def test_a_text_is_scored_in_windows_of_the_models_context() -> None:
    model = PlainGpt(11, TINY)
    ids_N = torch.randint(11, (17,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        log_probs = [
            float(model(ids_N[None, begin:last])[0][0, -1].log_softmax(0)[ids_N[last]])
            for last in range(1, 17)
            # Windows begin at 0, 7 and 14, and predict the token after each of theirs.
            for begin in [(last - 1) // 7 * 7]
        ]
    score = score_plain(model, ids_N, 11, overlaps=False)
    assert score == pytest.approx(-sum(log_probs) / 16, rel=1e-5)
    assert score_plain(model, ids_N, 11, overlaps=True) != pytest.approx(score, rel=1e-5)


def test_a_runs_last_validation_and_what_follows_it_are_outside_its_budget() -> None:
    rows = [
        {"split": "train", "step": 10, "loss": 3.0, "elapsed": 1.0},
        {"split": "valid", "step": 10, "loss": 2.5, "elapsed": 1.0, "seconds": 0.25},
        {"split": "valid", "step": 30, "loss": 2.0, "elapsed": 4.0, "seconds": 0.5},
    ]
    outcome = outcome_of_run({"step": 30, "num_tokens": 1500, "elapsed": 4.75}, rows, wall=10.0)
    assert (outcome.seconds, outcome.valid_seconds, outcome.valid_seconds_after) == (4.0, 0.25, 0.5)
    assert outcome.setup_seconds == 5.25
    assert outcome.tokens_per_second == 400.0
    assert [row["loss"] for row in outcome.validations] == [2.5, 2.0]


def test_a_gain_is_positive_where_gpt_is_lower() -> None:
    gpt = Outcome(scores={"windows": 1.5, "carried": 1.25}, validations=[{"elapsed": 1.0, "loss": 1.5}])
    plain = Outcome(scores={"windows": 2.0, "carried": 1.5}, validations=[{"elapsed": 1.0, "loss": 1.75}])
    assert gains_over(gpt, plain) == {"windows": 0.5, "carried": 0.25, "own": 0.25}


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes and 30 seconds on two idle cores, many times that on busy ones
def test_the_benchmark_runs(data_dir: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = ["--iterations", "8", "--minutes", "0.01", "--order", "plain,gpt", "--json", str(report)]
    words += ["--set", "model.num_layers=1", "--set", "model.d_model=32"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpt", *words],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "SEQKIT_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "NOT at equal time" in done.stdout
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    assert results["plain"]["steps"] == 8
    assert "65 characters" in results["plain"]["settings"]
    # About chance, log 65 = 4.17; the recipe's tokenizer knows 256 bytes besides, log 321 = 5.77.
    assert 2.5 < results["plain"]["scores"]["windows"] < 4.3
    assert 2.5 < results["gpt"]["scores"]["windows"] < 6.0
    gain = results["plain"]["scores"]["windows"] - results["gpt"]["scores"]["windows"]
    assert results["gpt_below"]["plain"]["windows"] == pytest.approx(gain)
