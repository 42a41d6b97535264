"""A run that was stopped and resumed ends with the same bits as one that was not; looking on changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pairs import pairs_recipe
from tiny_runs import PowerCut, run_training, tiny_recipe
from torch import Tensor

from seqkit.errors import CheckpointError, DataError, InterruptedRunError
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.schema import LmRecipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.runs.metrics_log import read_metrics
from seqkit.training.events import Evaluated
from seqkit.training.state import TrainState

NUM_STEPS = 18
# 151 tokens in 3 columns of 50, 7 steps a batch: 8 batches an epoch, the last one of a single step.
NUM_BATCHES = 8

CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"type": "rnn", "dropout": 0.3},
    "lstm": {"type": "lstm", "num_layers": 2, "dropout": 0.3, "initial_state": "learned"},
    "gru": {"type": "gru", "num_layers": 2, "dropout": 0.3, "variational_dropout": True},
    "gru-before": {"type": "gru", "reset_gate": "before", "dropout": 0.3, "tie_embeddings": True, "d_embedding": 3},
}
TRANSFORMER = {"type": "transformer", "num_layers": 2, "d_model": 6, "num_heads": 3, "dropout": 0.3}
WAYS: dict[str, dict[str, Any]] = {
    "adamw-clip": {"optimizer": {"type": "adamw", "lr": 0.02}, "clip_norm": 0.5, "reset_probability": 0.3},
    "momentum": {"optimizer": {"type": "sgd", "lr": 0.3, "momentum": 0.9}, "clip_value": 0.02},
    "rmsprop-windows": {"optimizer": {"type": "rmsprop", "lr": 0.01}, "bptt": "windows"},
    "adam-ema-cosine": {
        "optimizer": {"type": "adam", "lr": 0.02},
        "ema": 0.8,
        "schedule": {"type": "cosine", "warmup_steps": 4},
    },
    # At so high a rate the loss goes up and down, so that there are cuts to remember.
    "plateau": {"optimizer": {"type": "sgd", "lr": 8.0}, "schedule": {"type": "plateau", "patience": 0}},
    "full": {"optimizer": {"type": "adamw", "lr": 0.02}, "bptt": "full"},
    "muon": {"optimizer": {"type": "muon", "lr": 0.02, "adam_lr": 0.01}, "clip_norm": 0.5},
    "stride": {"optimizer": {"type": "adamw", "lr": 0.02}, "bptt": "stride"},
    "slices": {"optimizer": {"type": "adamw", "lr": 0.02}, "bptt": "windows", "slices": 2},
    # 8 batches an epoch: steps of 3, 3 and 2, the state carried through all of them.
    "accumulate": {"optimizer": {"type": "adamw", "lr": 0.02}, "accumulate": 3, "reset_probability": 0.3},
}


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs need not outlive a power failure, and most of their time would go to syncing."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    letters = torch.randint(7, (151,), generator=torch.Generator().manual_seed(1)).tolist()
    path.write_text("".join("abcdefg"[letter] for letter in letters))
    return path


def make_recipe(corpus: Path, cell: str, way: str, **changed: Any) -> LmRecipe:
    train = {"max_steps": NUM_STEPS, "evaluate_every": 3, "log_every": 4, **WAYS[way], **changed}
    return tiny_recipe(corpus, model={**CELLS, "transformer": TRANSFORMER}[cell], train=train)


def assert_same_tree(found: Any, expected: Any, place: str = "") -> None:
    """Equal to the bit, whatever the nesting; only wall-clock time may differ."""
    assert type(found) is type(expected), place
    if isinstance(found, Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), place
    elif isinstance(found, dict):
        assert found.keys() == expected.keys(), place
        for key in found.keys() - {"elapsed", "evaluation_seconds", "last_evaluation_seconds"}:
            assert_same_tree(found[key], expected[key], f"{place}.{key}")
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same_tree(one, other, f"{place}[{number}]")
    else:
        assert found == expected, place


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The reports without what a clock measured."""
    timed = {"time", "elapsed", "seconds", "tokens_per_second"}
    return [
        {key: value for key, value in row.items() if key not in timed}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def assert_same_runs(found: Path, expected: Path, *, step: int = NUM_STEPS) -> None:
    """The same last checkpoint, train state included, the same best one, and the same metrics."""
    for link in ("last", "best"):
        one, other = read_checkpoint(found / link), read_checkpoint(expected / link)
        assert (found / link).resolve().name == (expected / link).resolve().name
        assert_same_tree(one.weights, other.weights, f"{link} weights")
        assert_same_tree(one.train_state, other.train_state, f"{link} state")
        assert one.recipe == other.recipe and one.tokenizers == other.tokenizers
        assert_same_tree(one.facts, other.facts, f"{link} facts")
    assert read_checkpoint(found / "last").train_state["progress"]["step"] == step
    assert metrics(found) == metrics(expected)
    assert {row["step"] for row in metrics(found)} >= {3, 4, step}


def stop_and_resume(recipe: Recipe, folder: Path, *stops: int) -> TrainState:
    """Train with an interruption at each of ``stops``, then to the end."""
    for number, stop_at in enumerate(stops):
        with pytest.raises(InterruptedRunError):
            run_training(recipe, folder, resume=number > 0, stop_at=stop_at)
        # What another process would have: no model, no random state, no carried state of the last one.
        torch.manual_seed(999 + number)
    return run_training(recipe, folder, resume=True)[0]


@pytest.mark.parametrize(
    ("cell", "way"),
    [
        *((cell, "adamw-clip") for cell in CELLS),
        *(("lstm", way) for way in WAYS if way != "adamw-clip"),
        ("gru", "adam-ema-cosine"),
        ("rnn", "momentum"),
        ("gru-before", "rmsprop-windows"),
        ("transformer", "rmsprop-windows"),
        ("transformer", "stride"),
        ("transformer", "slices"),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(cell: str, way: str, tmp_path: Path, corpus: Path) -> None:
    recipe = make_recipe(corpus, cell, way)
    whole, _ = run_training(recipe, tmp_path / "whole")
    # In the first epoch, between two reports and two evaluations.
    parts = stop_and_resume(recipe, tmp_path / "parts", NUM_STEPS // 2 - 4)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")
    assert_same_tree(parts.state_dict(), whole.state_dict(), "state")
    if way == "plateau":
        assert whole.progress.plateau_factor < 1, "a schedule that never cut would show nothing"


@pytest.mark.parametrize(
    ("cell", "stops"), [("rnn", (9,)), ("lstm", (1, 2, 11, 16)), ("gru", (NUM_BATCHES,)), ("gru-before", (7, 8, 9))]
)
def test_resuming_across_epochs_and_often(cell: str, stops: tuple[int, ...], tmp_path: Path, corpus: Path) -> None:
    recipe = make_recipe(corpus, cell, "adamw-clip")
    whole, _ = run_training(recipe, tmp_path / "whole")
    assert (whole.progress.epoch, whole.progress.batch_index) == (2, 2)
    stop_and_resume(recipe, tmp_path / "parts", *stops)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


OWN_TOKENS: dict[str, dict[str, Any]] = {
    "targets": {},
    "likeliest": {"scheduled_sampling": {"probability": 0.9}},
    "drawn": {"scheduled_sampling": {"probability": 0.9, "own_token": "drawn"}},
    "drawn-in-slices": {"scheduled_sampling": {"probability": 0.9, "own_token": "drawn"}, "slices": 2},
}


def translation_recipe(folder: Path, own: str, **model: Any) -> Seq2SeqRecipe:
    """A recurrent translation recipe, 6 batches an epoch."""
    train = {"max_steps": NUM_STEPS, "evaluate_every": 3, "log_every": 4, "optimizer": {"type": "adamw", "lr": 0.02}}
    model = {"d_model": 8, "d_embedding": 3, "dropout": 0.3, **model}
    return pairs_recipe(folder, model=model, train={**train, **OWN_TOKENS[own]})


@pytest.mark.parametrize(
    ("own", "model"),
    [
        ("targets", {"type": "lstm", "attention": "none", "bridge": "copy", "num_layers": 2}),
        ("likeliest", {"type": "gru", "attention": "additive", "variational_dropout": True}),
        ("drawn", {"type": "lstm", "attention": "general", "residual": True, "num_layers": 2}),
        ("drawn", {"type": "rnn", "attention": "none", "bidirectional": False}),
        # Two threads draw at the same time, dropout and tokens.
        ("drawn-in-slices", {"type": "gru", "attention": "dot"}),
    ],
)
def test_a_resumed_translator_ends_with_the_same_bits(own: str, model: dict[str, Any], tmp_path: Path) -> None:
    recipe = translation_recipe(tmp_path, own, **model)
    whole, _ = run_training(recipe, tmp_path / "whole")
    assert whole.progress.epoch >= 2
    parts = stop_and_resume(recipe, tmp_path / "parts", 1, 5, 11)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")
    assert_same_tree(parts.state_dict(), whole.state_dict(), "state")
    if own != "targets":
        # It matters: with the targets alone, other bits come out.
        plain, _ = run_training(translation_recipe(tmp_path, "targets", **model), tmp_path / "plain")
        name = "decoder.output.weight"
        assert not torch.equal(plain.model.state_dict()[name], whole.model.state_dict()[name])


BPE_WAYS: dict[str, dict[str, Any]] = {
    "columns": {"optimizer": {"type": "adamw", "lr": 0.02}, "reset_probability": 0.3},
    "windows": {"optimizer": {"type": "adamw", "lr": 0.02}, "bptt": "windows"},
    "full": {"optimizer": {"type": "adamw", "lr": 0.02}, "bptt": "full"},
}


def bpe_recipe(folder: Path, way: str, *, dropout: float = 0.4) -> LmRecipe:
    """A recipe with BPE-dropout, in which an epoch is about 8 batches."""
    path = folder / "words.txt"
    words = ["low", "lower", "newest", "widest", "new"]
    chosen = torch.randint(5, (36,), generator=torch.Generator().manual_seed(1)).tolist()
    path.write_text("".join(words[word] + ("\n" if place % 6 == 5 else " ") for place, word in enumerate(chosen)))
    return tiny_recipe(
        path,
        model=CELLS["lstm"],
        train={"max_steps": NUM_STEPS + 6, "evaluate_every": 3, "log_every": 4, **BPE_WAYS[way]},
        tokenizer={"type": "bpe", "num_merges": 14, "unseen": "unk", "dropout": dropout},
    )


@pytest.mark.parametrize(
    ("way", "stops"), [("columns", (5,)), ("columns", (1, 2, 9, 10, 16, 17)), ("windows", (11,)), ("full", (4, 7))]
)
def test_resuming_with_a_text_that_is_encoded_anew_for_each_epoch(
    way: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    recipe = bpe_recipe(tmp_path, way)
    whole, _ = run_training(recipe, tmp_path / "whole")
    assert whole.progress.epoch >= 2
    parts = stop_and_resume(recipe, tmp_path / "parts", *stops)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole", step=NUM_STEPS + 6)
    assert_same_tree(parts.state_dict(), whole.state_dict(), "state")
    # It matters: with the text as the tokenizer alone encodes it, other bits come out.
    plain, _ = run_training(bpe_recipe(tmp_path, way, dropout=0.0), tmp_path / "plain")
    assert plain.progress.num_tokens != whole.progress.num_tokens or way == "windows"
    assert not torch.equal(plain.model.state_dict()["output.weight"], whole.model.state_dict()["output.weight"])


def test_what_a_thread_encodes_ahead_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = bpe_recipe(tmp_path, "columns")
    run_training(recipe, tmp_path / "whole")
    with pytest.raises(PowerCut):
        run_training(recipe, tmp_path / "parts", cut_at=11)
    monkeypatch.setattr("seqkit.data.ahead.MadeAhead.prepare", lambda self, epoch: None)
    run_training(recipe, tmp_path / "parts", resume=True)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole", step=NUM_STEPS + 6)
    # The text is all that a resumed run needs: nothing of an epoch was left in the cache.
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_text_that_changes_while_it_is_trained_on(tmp_path: Path) -> None:
    recipe = bpe_recipe(tmp_path, "columns")
    path = tmp_path / "words.txt"
    text = path.read_text()

    class Edit:
        """A clock by which the text is edited once training runs."""

        ticks = 0

        def __call__(self) -> float:
            self.ticks += 1
            if self.ticks == 4:
                path.write_text(text.replace("low", "owl"))
            return float(self.ticks)

    with pytest.raises(DataError, match="changed while it was being trained on"):
        run_training(recipe, tmp_path / "run", clock=Edit())
    path.write_text(text)
    run_training(recipe, tmp_path / "run", resume=True)
    run_training(recipe, tmp_path / "whole")
    assert_same_runs(tmp_path / "run", tmp_path / "whole", step=NUM_STEPS + 6)


def test_a_run_that_vanished_goes_on_from_its_last_checkpoint(tmp_path: Path, corpus: Path) -> None:
    recipe = make_recipe(corpus, "lstm", "adam-ema-cosine", log_every=1)
    run_training(recipe, tmp_path / "whole")
    with pytest.raises(PowerCut):
        run_training(recipe, tmp_path / "parts", cut_at=11)
    # Saved at step 9; what was reported since is reported again, not twice.
    assert (tmp_path / "parts" / "last").resolve().name == "step-00000009"
    assert metrics(tmp_path / "parts")[-1]["step"] == 10
    run_training(recipe, tmp_path / "parts", resume=True)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_vanished_before_its_first_checkpoint_starts_again(tmp_path: Path, corpus: Path) -> None:
    recipe = make_recipe(corpus, "gru", "adamw-clip", log_every=1)
    run_training(recipe, tmp_path / "whole")
    with pytest.raises(PowerCut):
        run_training(recipe, tmp_path / "parts", cut_at=2)
    run_training(recipe, tmp_path / "parts", resume=True)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path, corpus: Path) -> None:
    # The signal comes in the step at which early stopping ends the run: going on would train longer than without.
    recipe = make_recipe(corpus, "rnn", "momentum", early_stopping={"patience": 1, "min_delta": 10.0})
    whole, _ = run_training(recipe, tmp_path / "whole")
    assert whole.progress.step == 6
    stop_and_resume(recipe, tmp_path / "parts", 6)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole", step=6)


@pytest.mark.parametrize(
    ("cell", "way"),
    [("rnn", "momentum"), ("lstm", "adamw-clip"), ("gru", "adam-ema-cosine"), ("gru-before", "adam-ema-cosine")],
)
def test_validation_and_samples_change_no_training(cell: str, way: str, tmp_path: Path, corpus: Path) -> None:
    looked, seen = run_training(
        make_recipe(corpus, cell, way, evaluate_every=1, sample_length=9, checkpoint_every=2), tmp_path / "looked"
    )
    left, unseen = run_training(make_recipe(corpus, cell, way, evaluate_every=1000), tmp_path / "left")
    evaluated = [event for event in seen if isinstance(event, Evaluated)]
    assert len(evaluated) == NUM_STEPS and all(len(event.sample or "") == 9 for event in evaluated)
    # One at the end, which no budget goes without.
    assert len([event for event in unseen if isinstance(event, Evaluated)]) == 1
    one, other = looked.state_dict(), left.state_dict()
    for tree in (one, other):
        del tree["progress"]
    assert one["carry"] is not None and any(tensor.any() for layer in one["carry"] for tensor in layer)
    assert_same_tree(one, other)
    assert_same_tree(dict(looked.model.state_dict()), dict(left.model.state_dict()))


def test_another_seed_gives_other_bits(tmp_path: Path, corpus: Path) -> None:
    # Without it, equality above might mean that nothing is random.
    recipe = make_recipe(corpus, "lstm", "adamw-clip")
    one, _ = run_training(recipe, tmp_path / "one")
    other, _ = run_training(recipe.model_copy(update={"seed": 12}), tmp_path / "other")
    assert not torch.equal(one.model.state_dict()["output.weight"], other.model.state_dict()["output.weight"])


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, corpus: Path) -> None:
    recipe = make_recipe(corpus, "lstm", "adamw-clip")
    with pytest.raises(InterruptedRunError):
        run_training(recipe, tmp_path / "run", stop_at=2)
    wider = recipe.model_copy(update={"model": recipe.model.model_copy(update={"d_model": 6})})
    with pytest.raises(CheckpointError, match=r"step-00000002: its weights do not fit the recipe's model"):
        run_training(wider, tmp_path / "run", resume=True)
    averaged = recipe.model_copy(update={"train": recipe.train.model_copy(update={"ema": 0.9})})
    with pytest.raises(CheckpointError, match=r"step-00000002: its train state does not fit the recipe"):
        run_training(averaged, tmp_path / "run", resume=True)
