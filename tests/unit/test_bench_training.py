"""The plain sides of the training benchmarks do the arithmetic of seqkit's, and what is made of the measurements."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import training
from bench.operations import StepOperations
from bench.overhead import make_learner, operations_per_token
from bench.pair_learners import BlocksLearner, PairLearner
from bench.plain_recurrent import is_plain_recurrent
from bench.plain_transformer import is_plain_transformer
from bench.sides import Series
from bench.training import compare_all, compare_with_machine, plain_side, run_plain_side
from bench.training_sides import (
    TimedRun,
    Workload,
    batches_in_order,
    check_same_arithmetic,
    prepare_workload,
    probe,
    run_plain,
    run_seqkit,
)
from commandline import write_tiny_text
from tiny_pairs import pairs_recipe
from tiny_runs import tiny_recipe

from seqkit.models.build import count_parameters
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.tasks.registry import prepare
from seqkit.training.precision import Precision

NUM_STEPS = 9
TRAIN = {
    "max_steps": 20,
    "evaluate_every": 21,
    "checkpoint_every": 21,
    "slices": 1,
    "optimizer": {"type": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "schedule": {"type": "linear", "warmup_steps": 3},
    "clip_norm": 0.5,
}
LSTM = {"type": "lstm", "d_model": 6, "d_embedding": 5, "tie_embeddings": True, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Training as the command line does it sends logs and warnings where the command line wants them."""
    library = logging.getLogger("seqkit")
    before = library.handlers, library.propagate, library.level
    yield
    library.handlers, library.propagate, level = before
    library.setLevel(level)
    logging.captureWarnings(False)


def workload(recipe: Recipe, folder: Path) -> Workload:
    prepared = prepare(recipe, folder / "cache", seed=1)
    return Workload(prepared=prepared, recipe=recipe, device=torch.device("cpu")).in_precision("fp32")


def pair_workload(folder: Path, model: dict[str, Any], **train: Any) -> Workload:
    recipe = pairs_recipe(
        folder,
        model={"dropout": 0.0, **model},
        train={**TRAIN, "label_smoothing": 0.0, **train},
        tokenizer={"type": "char", "joint": True},
    )
    return workload(recipe, folder)


@pytest.mark.parametrize(
    "model",
    [
        {"num_layers": 2, "d_model": 8, "num_heads": 2},
        {"num_layers": 1, "num_decoder_layers": 2, "d_model": 12, "num_heads": 3, "activation": "gelu"},
        {**LSTM, "attention": "general"},
        {**LSTM, "attention": "dot"},
        {**LSTM, "attention": "additive", "feeding": "hidden", "d_attention": 7},
    ],
    ids=["transformer", "unequal", "general", "dot", "additive"],
)
def test_a_plain_model_learns_just_what_seqkits_does(tmp_path: Path, model: dict[str, Any]) -> None:
    # Over the end of an epoch of 6 batches.
    work = pair_workload(tmp_path, model)
    plain = plain_side(work.recipe)
    assert count_parameters(plain.build(work)) == count_parameters(work.prepared.build_model())
    there = run_plain_side(plain, work, NUM_STEPS)
    here = run_seqkit(work, NUM_STEPS, tmp_path)
    assert len(there.losses) == NUM_STEPS
    assert there.losses == pytest.approx(here.losses, rel=1e-4)
    assert there.losses[0] - there.losses[-1] > 0.05
    assert min(there.tokens_per_second, here.tokens_per_second) > 0


def test_a_plain_model_reads_every_batch_of_each_epoch(tmp_path: Path) -> None:
    batches = pair_workload(tmp_path, {}).prepared.batches
    found = batches_in_order(batches)
    num_batches = batches.num_batches(0)
    for epoch in (0, 1):
        for index in range(num_batches):
            assert (next(found).src_PS == batches.batch(epoch, index).src_PS).all()


def test_label_smoothing_and_dropout_are_on_both_sides(tmp_path: Path) -> None:
    work = pair_workload(tmp_path, {"dropout": 0.5, "attention_dropout": 0.25}, label_smoothing=0.1)
    plain = plain_side(work.recipe).build(work)
    rates = {module.p for module in plain.modules() if isinstance(module, torch.nn.Dropout)}
    attention = {m.dropout for m in plain.modules() if isinstance(m, torch.nn.MultiheadAttention)}
    assert (rates, attention) == ({0.5}, {0.25})
    learner = PairLearner(plain, work)
    learner.model.eval()
    blocks = BlocksLearner(work)
    blocks.model.eval()
    with torch.no_grad():
        smoothed, count = learner.loss(0)
        ours, ours_count = blocks.loss(0)
    assert count == ours_count
    assert smoothed.item() == pytest.approx(ours.item(), rel=1e-5)


def test_attention_as_plain_products_changes_no_loss(tmp_path: Path) -> None:
    work = pair_workload(tmp_path, {})
    plain = plain_side(work.recipe)
    fused, unfused = (run_plain_side(plain, work, 3, has_plain_attention=has) for has in (False, True))
    assert fused.losses == pytest.approx(unfused.losses, rel=1e-5)


@pytest.mark.slow  # half a minute of tracing on a busy machine
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    # The backend that compiles nothing still traces the model, as for a GPU.
    work = pair_workload(tmp_path, {})
    exact = run_seqkit(work, 3, tmp_path)
    plain = plain_side(work.recipe)
    assert run_seqkit(work, 3, tmp_path, compile_backend="eager").losses == pytest.approx(exact.losses, rel=1e-5)
    compiled = run_plain_side(plain, work, 3, compile_backend="eager")
    assert compiled.losses == pytest.approx(exact.losses, rel=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_bare_lstm_loop_learns_just_what_seqkits_does(tmp_path: Path, layers: int) -> None:
    text = tmp_path / "text"
    write_tiny_text(text)
    recipe = tiny_recipe(text, model={"type": "lstm", "num_layers": layers}, train={**TRAIN, "reset_probability": 0})
    work = workload(recipe, tmp_path)
    there = run_plain(make_learner(work), work, NUM_STEPS)
    here = run_seqkit(work, NUM_STEPS, tmp_path)
    assert there.losses == pytest.approx(here.losses, rel=1e-4)
    assert operations_per_token(work, NUM_STEPS) == 6 * (layers * 10 * 20 + 5 * work.prepared.facts()["vocab_size"])


def test_the_bare_loop_around_seqkits_own_model_learns_the_same(tmp_path: Path) -> None:
    work = pair_workload(tmp_path, {})
    there = run_plain(make_learner(work), work, NUM_STEPS)
    assert there.losses == pytest.approx(run_seqkit(work, NUM_STEPS, tmp_path).losses, rel=1e-5)
    operations = operations_per_token(work, NUM_STEPS)
    assert operations is not None and operations > 0


def test_recipes_without_a_plain_side_are_refused(tmp_path: Path) -> None:
    def refused(model: dict[str, Any], **train: Any) -> Seq2SeqRecipe:
        return pairs_recipe(tmp_path, model=model, train={**TRAIN, **train}, tokenizer={"type": "char", "joint": True})

    assert is_plain_transformer(refused({}))
    changes: dict[str, Any]
    for changes in ({"norm": "post"}, {"positions": "rotary"}, {"activation": "swiglu"}, {"tie_embeddings": False}):
        assert not is_plain_transformer(refused(changes))
    assert is_plain_recurrent(refused({**LSTM}))
    for changes in ({"num_layers": 2}, {"bidirectional": False}, {"attention": "none"}, {"bridge": "zero"}):
        assert not is_plain_recurrent(refused({**LSTM, **changes}))
    with pytest.raises(SystemExit, match="no plain side is written for this recipe"):
        plain_side(refused({"norm": "post"}))
    text = tmp_path / "text"
    write_tiny_text(text)
    residual = tiny_recipe(text, model={"type": "lstm", "num_layers": 2, "residual": True}, train=TRAIN)
    with pytest.raises(SystemExit, match="plain LSTM language models"):
        make_learner(workload(residual, tmp_path))


def test_other_optimizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="hello: the plain loop knows AdamW"):
        prepare_workload("hello", num_steps=3, device="cpu", cache=tmp_path, overrides=["train.optimizer={type: adam}"])


def test_a_side_that_does_something_else_does_not_count() -> None:
    one, close, far = (TimedRun(tokens_per_second=1.0, losses=[4.0, last]) for last in (3.0, 3.0005, 3.5))
    assert check_same_arithmetic(one, close, "fp32") == pytest.approx(0.0005)
    with pytest.raises(SystemExit, match=r"losses differ by 0\.5 nats"):
        check_same_arithmetic(one, far, "fp32")


def test_the_probe_is_asked_whatever_precision_is_set(tmp_path: Path) -> None:
    choice = probe(pair_workload(tmp_path, {}))
    assert choice.precision in ("fp32", "bf16")
    assert choice.speedup > 0


def measured(**medians: float) -> dict[str, Series]:
    return {
        name: Series(name=name, unit="target tokens/s", values=(value,), version="", settings="")
        for name, value in medians.items()
    }


def test_the_fastest_plain_side_in_bf16_is_the_one_to_beat(tmp_path: Path) -> None:
    plain = plain_side(pair_workload(tmp_path, {}).recipe)
    names = ("nn.Transformer fp32", "nn.Transformer bf16", "nn.Transformer bf16, plain attention")
    series = measured(**{"seqkit fp32": 8.0, "seqkit bf16": 6.0, names[0]: 5.0, names[1]: 2.0, names[2]: 4.0})
    ratios = compare_all(series, plain, "bf16", is_on_cpu=True)
    assert [(ratio.side, ratio.other, ratio.by_medians, ratio.at_least) for ratio in ratios] == [
        ("seqkit bf16", names[0], 1.2, None),
        ("seqkit bf16", names[1], 3.0, None),
        ("seqkit bf16", names[2], 1.5, 1.8),
    ]
    assert ratios[-1].reaches_aim is False
    assert {ratio.side for ratio in compare_all(series, plain, "fp32", is_on_cpu=True)} == {"seqkit fp32"}
    assert not any(ratio.at_least for ratio in compare_all(series, plain, "bf16", is_on_cpu=False))


def test_the_part_of_the_matrix_rate_is_taken_in_the_sides_own_precision() -> None:
    series = measured(**{"seqkit bf16": 1000.0, "seqkit fp32": 500.0})
    rates = {"its products bf16": 20.0, "its products fp32": 8.0, "matmul bf16": 40.0, "matmul fp32": 10.0}
    series |= {name: replace(one, unit="GFLOP/s") for name, one in measured(**rates).items()}
    operations = StepOperations(padded=40_000_000, real=32_000_000, num_targets=4)

    def found(chosen: Precision, *, is_on_cpu: bool = True) -> dict[tuple[str, str], tuple[float, float | None]]:
        _, ratios = compare_with_machine(series, operations, chosen, is_on_cpu=is_on_cpu)
        return {(ratio.side, ratio.other): (ratio.by_medians, ratio.at_least) for ratio in ratios}

    reached, _ = compare_with_machine(series, operations, "bf16", is_on_cpu=True)
    bf16, fp32 = (one.name for one in reached)
    assert {one.name: (one.median, one.unit) for one in reached} == {bf16: (8.0, "GFLOP/s"), fp32: (4.0, "GFLOP/s")}
    assert found("bf16") == {
        (bf16, "its products bf16"): (0.4, 0.5),
        (bf16, "matmul bf16"): (0.2, None),
        (fp32, "its products fp32"): (0.5, None),
        (fp32, "matmul fp32"): (0.4, None),
    }
    # The machine can do more in bf16, whatever the probe chose.
    assert {pair for pair, (_, aim) in found("fp32").items() if aim} == {(fp32, "its products bf16")}
    assert not any(aim for _, aim in found("bf16", is_on_cpu=False).values())


def test_without_a_cuda_device_the_benchmark_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "gpu.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["training", "--device", "cuda", "--json", str(report)])
    training.main()
    assert json.loads(report.read_text(encoding="utf-8"))["skipped"] == "PyTorch sees no CUDA device on this machine"
    assert "skipped: PyTorch sees no CUDA device" in capsys.readouterr().err
