"""Every cell learns what needs a memory, in a second; a run that goes wrong says so and stops."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import run_training, tiny_recipe
from torch import Tensor

from seqkit.decoding.sampling import SamplingRule
from seqkit.errors import DataError, NonFiniteLossError
from seqkit.models.language_model import RecurrentLanguageModel
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.runs.record import read_record
from seqkit.tasks.lm_predictor import LoadedLm, draw_samples, evaluate_store, load_lm, text_protocol
from seqkit.tasks.registry import prepare
from seqkit.training.events import Evaluated, Event, Reported

CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"type": "rnn"},
    "rnn-relu": {"type": "rnn", "nonlinearity": "relu"},
    "lstm": {"type": "lstm"},
    "gru": {"type": "gru"},
    "gru-before": {"type": "gru", "reset_gate": "before"},
}
# After "a" comes a, b or c, which only the two characters before it decide.
PATTERN = "aabaac"


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(PATTERN * 25)
    return path


def evaluations(events: list[Event]) -> list[float]:
    return [event.scores["loss"] for event in events if isinstance(event, Evaluated)]


def greedy(loaded: LoadedLm, prompt: str, length: int) -> str:
    drawn = draw_samples(
        loaded.model,
        loaded.tokenizer,
        prompt,
        length=length,
        rule=SamplingRule(temperature=0),
        seed=0,
        num_samples=1,
    )
    return loaded.tokenizer.decode([tokens[0] for tokens, _ in drawn])


@pytest.mark.parametrize("cell", list(CELLS))
def test_every_cell_learns_hello(cell: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "builtin:hello",
        model={**CELLS[cell], "d_model": 8},
        train={"max_steps": 120, "batch_size": 1, "sequence_length": 4, "optimizer": {"type": "adamw", "lr": 0.05}},
    )
    state, events = run_training(recipe, tmp_path / "run")
    assert state.progress.num_tokens == 120 * 4
    assert evaluations(events)[-1] < 0.1
    loaded = load_lm(tmp_path / "run", torch.device("cpu"))
    # Four different characters; the first l is followed by l, the second by o.
    assert loaded.tokenizer.vocab_size == 4
    assert greedy(loaded, "h", 4) == "ello"
    assert greedy(loaded, "hel", 2) == "lo"


@pytest.mark.parametrize(
    ("positions", "norm", "bptt"),
    [
        ("learned", "pre", "windows"),
        ("sinusoidal", "pre", "windows"),
        ("rotary", "pre", "stride"),
        ("rotary", "post", "windows"),
    ],
)
def test_a_transformer_learns_the_pattern(positions: str, norm: str, bptt: str, tmp_path: Path, corpus: Path) -> None:
    recipe = tiny_recipe(
        corpus,
        model={
            "type": "transformer",
            "num_layers": 2,
            "d_model": 16,
            "num_heads": 2,
            "positions": positions,
            "norm": norm,
        },
        train={
            "max_steps": 100,
            "batch_size": 8,
            "sequence_length": 12,
            "bptt": bptt,
            "optimizer": {"type": "adamw", "lr": 0.02},
            "schedule": {"type": "cosine", "warmup_steps": 10},
        },
    )
    _, events = run_training(recipe, tmp_path / "run")
    losses = evaluations(events)
    # The first characters of each window of twelve cannot be told: some 0.16 nats of all.
    assert losses[0] > 0.5 and losses[-1] < 0.25
    loaded = load_lm(tmp_path / "run", torch.device("cpu"))
    # Four times the context.
    assert greedy(loaded, "aaba", 48) == (PATTERN * 9)[4:52]
    store = prepare(recipe, tmp_path / "cache", seed=0).corpora.valid  # type: ignore[attr-defined]
    scores = [
        evaluate_store(loaded.model, loaded.tokenizer, store, text_protocol(loaded.model, reset_state=reset_state)).loss
        for reset_state in (True, False)
    ]
    assert scores[0] == pytest.approx(min(losses), rel=1e-6)
    assert scores[1] < 0.5 * scores[0], "half a context is enough to know what follows"


@pytest.mark.parametrize("bptt", ["truncated", "windows", "full", "stride"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_pattern_that_needs_two_characters_of_memory(cell: str, bptt: str, tmp_path: Path, corpus: Path) -> None:
    recipe = tiny_recipe(
        corpus,
        model={**CELLS[cell], "d_model": 12},
        train={"max_steps": 100, "optimizer": {"type": "adamw", "lr": 0.03}, "bptt": bptt, "clip_norm": 1.0},
    )
    _, events = run_training(recipe, tmp_path / "run")
    losses = evaluations(events)
    # Knowing only the last character leaves ln 3 for half of them or so.
    assert losses[0] > 0.3 and losses[-1] < 0.05
    assert greedy(load_lm(tmp_path / "run", torch.device("cpu")), "aaba", 12) == (PATTERN * 3)[4:16]


def test_what_validation_found_is_what_evaluate_finds(tmp_path: Path, corpus: Path) -> None:
    recipe = tiny_recipe(corpus, model={"type": "gru"}, train={"max_steps": 30, "ema": 0.9})
    _, events = run_training(recipe, tmp_path / "run")
    loaded = load_lm(tmp_path / "run", torch.device("cpu"))
    prepared = prepare(recipe, tmp_path / "cache", seed=0)
    store = prepared.corpora.valid  # type: ignore[attr-defined]
    score = evaluate_store(loaded.model, loaded.tokenizer, store, text_protocol(loaded.model))
    assert score.loss == pytest.approx(min(evaluations(events)), rel=1e-6)
    assert (score.num_tokens, score.num_chars, score.num_bytes) == (149, 149, 149)


def test_averaged_weights_are_what_is_evaluated_and_saved(tmp_path: Path, corpus: Path) -> None:
    recipe = tiny_recipe(corpus, model={"type": "gru"}, train={"max_steps": 9, "ema": 0.9})
    state, _ = run_training(recipe, tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run" / "last")
    assert saved.facts["is_averaged"] is True
    assert state.average is not None
    trained = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with state.average.swapped_in():
        assert all(torch.equal(tensor, saved.weights[name]) for name, tensor in state.model.state_dict().items())
    assert not torch.equal(trained["output.weight"], saved.weights["output.weight"])
    assert torch.equal(trained["output.weight"], saved.train_state["weights"]["output.weight"])


def test_early_stopping_stops(tmp_path: Path, corpus: Path) -> None:
    train = {"max_steps": 500, "evaluate_every": 2, "optimizer": {"type": "sgd", "lr": 1e-9}}
    stopping = {"patience": 3, "min_delta": 0.01}
    recipe = tiny_recipe(corpus, model={"type": "rnn"}, train={**train, "early_stopping": stopping})
    state, events = run_training(recipe, tmp_path / "run")
    # Nothing is learned: the first evaluation is the best, and three more do not improve on it.
    assert len(evaluations(events)) == 4
    assert state.progress.step == 8
    assert (tmp_path / "run" / "last").resolve().name == "step-00000008"
    assert read_record(tmp_path / "run")["status"] == "completed"


@pytest.mark.parametrize("checkpoint_every", [1, 1000])
def test_a_loss_that_runs_away_is_named(checkpoint_every: int, tmp_path: Path, corpus: Path) -> None:
    # A ReLU network at so high a rate overflows within a few steps.
    recipe = tiny_recipe(
        corpus,
        model={"type": "rnn", "nonlinearity": "relu", "num_layers": 2},
        train={
            "max_steps": 500,
            "evaluate_every": 1000,
            "checkpoint_every": checkpoint_every,
            "optimizer": {"type": "sgd", "lr": 1e7},
        },
    )
    with pytest.raises(NonFiniteLossError) as caught:
        run_training(recipe, tmp_path / "run")
    message = caught.value.message
    found = re.match(r"loss is nan at step (\d+) \(learning rate 1e\+07\); ", message)
    assert found is not None, message
    step = int(found[1])
    assert 1 < step < 20
    if checkpoint_every == 1:
        last = tmp_path / "run" / "checkpoints" / f"step-{step - 1:08d}"
        assert message.endswith(f"; the last good checkpoint is {last}")
        weights = read_checkpoint(last).weights
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    else:
        assert message.endswith("; no checkpoint was saved before it")
        assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert caught.value.hint is not None and "train.optimizer.lr" in caught.value.hint
    record = read_record(tmp_path / "run")
    assert (record["status"], record["exit_code"], record["error"]) == ("failed", 1, message)


def test_a_validation_loss_that_runs_away_is_named(tmp_path: Path, corpus: Path) -> None:
    recipe = tiny_recipe(
        corpus,
        model={"type": "rnn", "nonlinearity": "relu", "num_layers": 2},
        train={"max_steps": 500, "evaluate_every": 1, "optimizer": {"type": "sgd", "lr": 1e7}},
    )
    named = r"^validation loss is nan at step 1 \(learning rate 1e\+07\); no checkpoint was saved before it$"
    with pytest.raises(NonFiniteLossError, match=named):
        run_training(recipe, tmp_path / "run")


def test_a_validation_text_with_nothing_to_predict_is_refused(tmp_path: Path, corpus: Path) -> None:
    one = tmp_path / "one.txt"
    one.write_text("a")
    data = {"train": str(corpus), "valid": str(one)}
    recipe = tiny_recipe(corpus, model={"type": "rnn"}, train={"max_steps": 1}, data=data)
    with pytest.raises(DataError, match=r"data\.valid: .* 1 token"):
        run_training(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def updates(corpus: Path, folder: Path, **train: Any) -> tuple[list[Tensor], list[Event]]:
    """How far each weight moved in one step of plain gradient descent at rate 1."""
    recipe = tiny_recipe(
        corpus,
        model={"type": "lstm", "num_layers": 2},
        train={"max_steps": 1, "optimizer": {"type": "sgd", "lr": 1.0}, **train},
    )
    torch.manual_seed(recipe.seed or 0)
    model = prepare(recipe, folder.parent / "cache", seed=0).build_model()
    assert isinstance(model, RecurrentLanguageModel)
    state, events = run_training(recipe, folder)
    pairs = zip(model.parameters(), state.model.parameters(), strict=True)
    return [(before - after).detach() for before, after in pairs], events


def test_clip_value_bounds_every_component(tmp_path: Path, corpus: Path) -> None:
    free, _ = updates(corpus, tmp_path / "free")
    clipped, _ = updates(corpus, tmp_path / "clipped", clip_value=0.01)
    assert max(float(move.abs().max()) for move in free) > 0.02
    for one, other in zip(free, clipped, strict=True):
        torch.testing.assert_close(other, one.clamp(-0.01, 0.01), atol=1e-6, rtol=0)


def test_clip_norm_bounds_the_whole_gradient_and_reports_it(tmp_path: Path, corpus: Path) -> None:
    free, events = updates(corpus, tmp_path / "free", log_every=1)
    norm = float(torch.cat([move.flatten() for move in free]).norm())
    assert norm > 0.1
    (row,) = [event for event in events if isinstance(event, Reported)]
    assert row.step == 1
    clipped, _ = updates(corpus, tmp_path / "clipped", clip_norm=0.05, log_every=1)
    for one, other in zip(free, clipped, strict=True):
        torch.testing.assert_close(other, one * 0.05 / norm, atol=1e-6, rtol=1e-3)
    # A bound that is not reached changes nothing.
    loose, _ = updates(corpus, tmp_path / "loose", clip_norm=100.0)
    for one, other in zip(free, loose, strict=True):
        assert torch.equal(one, other)
    # What is reported is the norm before clipping.
    log = (tmp_path / "clipped" / "metrics.jsonl").read_text()
    found = re.search(r'"grad_norm": ([0-9.e-]+)', log)
    assert found is not None and float(found[1]) == pytest.approx(norm, rel=1e-4)
