"""Averages of checkpoints: the mean of each weight; by command from any folders, and at the end of a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import InProcess, Tiny, snapshot
from tiny_pairs import pairs_recipe
from tiny_runs import PowerCut, run_training, tiny_recipe

from seqkit.errors import InterruptedRunError
from seqkit.recipe.schema import LmRecipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.runs.metrics_log import read_metrics
from seqkit.runs.model_facts import read_facts
from seqkit.runs.step_folders import list_steps
from seqkit.training.checkpoint_average import average_checkpoints, average_weights
from seqkit.training.events import Averaged

TEXT = "abcab abbc\nbca abc\n" * 9


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def recipe_of(folder: Path, **train: Any) -> LmRecipe:
    path = folder / "corpus.txt"
    path.write_text(TEXT)
    model = {"type": "gru", "d_embedding": 5, "tie_embeddings": True, "dropout": 0.2}
    defaults = {"max_steps": 12, "evaluate_every": 3, "keep_last": 9, "optimizer": {"type": "adamw", "lr": 0.02}}
    return tiny_recipe(path, model=model, train={**defaults, **train})


def trained(folder: Path, name: str = "run", **train: Any) -> Path:
    run_training(recipe_of(folder, **train), folder / name)
    return folder / name


def mean_of(folders: list[Path]) -> dict[str, torch.Tensor]:
    """The mean, the plain way."""
    models = [read_checkpoint(folder).weights for folder in folders]
    return {name: torch.stack([model[name].double() for model in models]).mean(dim=0).float() for name in models[0]}


def test_the_mean_of_each_weight_in_its_own_type() -> None:
    shared = torch.tensor([1.0, 5.0])
    one = {"a": shared, "tied": shared, "half": torch.tensor([1.0], dtype=torch.bfloat16), "count": torch.tensor(3)}
    other_shared = torch.tensor([2.0, 8.0])
    other = {
        "a": other_shared,
        "tied": other_shared,
        "half": torch.tensor([2.0], dtype=torch.bfloat16),
        "count": torch.tensor(7),
    }
    mean = average_weights([one, other])
    assert mean["a"].tolist() == [1.5, 6.5] and mean["a"].dtype == torch.float32
    assert mean["tied"] is mean["a"], "what was one matrix is one"
    assert mean["half"].dtype == torch.bfloat16 and mean["half"].item() == 1.5
    assert mean["count"].item() == 7
    # The models are left alone, and ten thousand equal ones average to themselves.
    assert one["a"].tolist() == [1.0, 5.0]
    tenth = {"w": torch.tensor([0.1, 1e-20])}
    assert torch.equal(average_weights([tenth] * 10_000)["w"], tenth["w"])


def test_a_run_is_averaged_into_a_model_that_works(tmp_path: Path, seqkit: InProcess) -> None:
    run = trained(tmp_path)
    before = snapshot(run)
    done = seqkit("average", run, "-o", "averaged")
    assert (done.code, done.out) == (0, "averaged\n"), done.err
    assert "averaged 4 checkpoints (steps 3, 6, 9, 12)" in done.err
    assert snapshot(run) == before
    made = read_checkpoint(tmp_path / "averaged")
    for name, weight in mean_of(list_steps(run)).items():
        torch.testing.assert_close(made.weights[name], weight, rtol=0, atol=0)
    newest = read_checkpoint(run / "last")
    assert made.recipe == newest.recipe and made.tokenizers == newest.tokenizers and made.train_state is None
    assert made.facts["averaged_steps"] == [3, 6, 9, 12] and made.facts["scores"] == {}
    assert [member["step"] for member in made.facts["averaged"]] == [3, 6, 9, 12]
    assert made.facts["data"] == newest.facts["data"]
    assert seqkit("sample", "--model", "averaged", "--length", 5).code == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_last_and_the_best(tmp_path: Path, seqkit: InProcess) -> None:
    run = trained(tmp_path)
    told = json.loads(seqkit("average", run, "--last", 2, "-o", "last", "--json").out)
    assert told["path"] == "last" and told["task"] == "lm"
    assert [member["step"] for member in told["averaged"]] == [9, 12]
    # Give the second and the first the lowest losses.
    for number, folder in enumerate(list_steps(run)):
        facts = read_facts(folder)
        facts["scores"]["loss"] = [1.0, 0.5, 3.0, 2.0][number]
        (folder / "model.json").write_text(json.dumps(facts))
        sums = (folder / "SHA256SUMS").read_text().split("\n")
        kept = [line for line in sums if not line.endswith("model.json")]
        import hashlib

        digest = hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
        (folder / "SHA256SUMS").write_text("\n".join([f"{digest}  model.json", *kept]))
    told = json.loads(seqkit("average", run, "--best", 3, "-o", "best", "--json").out)
    assert [member["step"] for member in told["averaged"]] == [3, 6, 12]
    assert told["averaged"][1]["scores"]["loss"] == 0.5
    assert seqkit("average", run, "--last", 5, "-o", "x").error_line == f"{run}: has 4 checkpoints, not 5"
    assert (
        "has 4 checkpoints with a validation score, not 5" in seqkit("average", run, "--best", 5, "-o", "x").error_line
    )


def test_checkpoints_by_name(tmp_path: Path, seqkit: InProcess) -> None:
    run = trained(tmp_path)
    one, two = list_steps(run)[:2]
    done = seqkit("average", two, one, "-o", "a", "-q")
    assert (done.code, done.err) == (0, "")
    made = read_checkpoint(tmp_path / "a")
    assert made.facts["averaged_steps"] == [6, 3] and made.facts["step"] == 6
    for name, weight in mean_of([one, two]).items():
        torch.testing.assert_close(made.weights[name], weight, rtol=0, atol=0)
    # Of two runs it is a guess, and says so.
    other = run_training(recipe_of(tmp_path).model_copy(update={"seed": 12}), tmp_path / "other")
    assert other
    done = seqkit("average", one, list_steps(tmp_path / "other")[0], "-o", "b")
    assert done.code == 0 and "trained by different recipes (seed: 11 -> 12)" in done.err


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, seqkit: InProcess) -> None:
    run = trained(tmp_path)
    assert seqkit("average", run, "--last", 2, "-o", "a").code == 0
    first = read_checkpoint(tmp_path / "a").facts["averaged_steps"]
    done = seqkit("average", run, "--last", 3, "-o", "a")
    assert done.code == 2 and "a model is there already" in done.error_line and "--force" in done.err
    assert read_checkpoint(tmp_path / "a").facts["averaged_steps"] == first
    assert seqkit("average", run, "--last", 3, "-o", "a", "--force").code == 0
    assert read_checkpoint(tmp_path / "a").facts["averaged_steps"] == [6, 9, 12]
    # --force replaces models, not whatever else is there.
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    done = seqkit("average", run, "-o", mine, "--force")
    assert done.code == 2 and "holds no model" in done.error_line
    assert (mine / "thesis.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    assert seqkit("average", run, "-o", "empty").code == 0
    assert read_checkpoint(tmp_path / "empty").facts["averaged_steps"] == [3, 6, 9, 12]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    assert seqkit("average", run, "--last", 2, "-o", "a").code == 0
    before = snapshot(tmp_path / "a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "a")

    monkeypatch.setattr("seqkit.runs.checkpoint._write_weights", full)
    assert seqkit("average", run, "--last", 3, "-o", "a", "--force").code == 1
    assert snapshot(tmp_path / "a") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_cannot_be_averaged_is_one_clear_line(tmp_path: Path, seqkit: InProcess) -> None:
    run = trained(tmp_path)
    first = list_steps(run)[0]
    wider = tmp_path / "wider"
    run_training(
        recipe_of(tmp_path).model_copy(
            update={"model": recipe_of(tmp_path).model.model_copy(update={"d_model": 6, "d_embedding": 6})}
        ),
        wider,
    )
    (tmp_path / "pairs").mkdir()
    run_training(pairs_recipe(tmp_path / "pairs", model={}, train={"max_steps": 1}), tmp_path / "translation")
    other_text = tmp_path / "other"
    other_text.mkdir()
    run_training(recipe_of(other_text), other_text / "run")
    (other_text / "corpus.txt").write_text(TEXT.replace("c", "d"))
    run_training(
        tiny_recipe(other_text / "corpus.txt", model=recipe_of(tmp_path).model.model_dump(), train={"max_steps": 3}),
        other_text / "d",
    )
    cut = tmp_path / "cut"
    shutil.copytree(first, cut)
    (cut / "model.safetensors").write_bytes(b"x")
    (translation,) = list_steps(tmp_path / "translation")
    cases: list[tuple[list[object], int, str]] = [
        ([run], 2, "where should the average go? give --output FOLDER"),
        (["nowhere", "-o", "x"], 2, "nowhere: no such folder"),
        ([first, "-o", "x"], 2, f"{first}: one checkpoint is its own average"),
        ([first, first, "-o", "x"], 2, "a checkpoint is named twice; each counts once in an average"),
        ([first, run, "-o", "x"], 2, f"{run} is a run: give it alone, or name its checkpoints"),
        ([first, "--last", 2, "-o", "x"], 2, f"--last chooses among the checkpoints of a run; {first} is none"),
        ([run, "--last", 2, "--best", 2, "-o", "x"], 2, "give --last or --best, not both"),
        (["translation", "-o", "x"], 2, "translation: has 1 checkpoint, not 2"),
        (
            [first, list_steps(wider)[0], "-o", "x"],
            2,
            f"cannot average {first} and {list_steps(wider)[0]}: their models differ "
            "(model.d_model: 5 -> 6; model.d_embedding: 5 -> 6)",
        ),
        (
            [first, translation, "-o", "x"],
            2,
            f"cannot average {first} and {translation}: one is for the task lm, one for seq2seq",
        ),
        (
            [first, list_steps(other_text / "d")[0], "-o", "x"],
            2,
            f"cannot average {first} and {list_steps(other_text / 'd')[0]}: their tokenizers differ",
        ),
        ([first, cut, "-o", "x"], 1, f"{cut}/model.safetensors: damaged: its SHA-256 is not the one in SHA256SUMS"),
        ([run, "-o", "no/where/x"], 2, f"{tmp_path}/no/where: no such folder"),
    ]
    for words, code, message in cases:
        done = seqkit("average", *words)
        assert (done.code, done.error_line, done.out) == (code, message, ""), words
    assert not (tmp_path / "x").exists()


def test_a_weight_of_another_shape_is_named(tmp_path: Path) -> None:
    from seqkit.errors import UsageError
    from seqkit.training import checkpoint_average

    run = trained(tmp_path)
    one = read_checkpoint(list_steps(run)[0])
    with pytest.raises(UsageError, match=r"the weight b is \(2,\) in one, missing in the other"):
        checkpoint_average._require_same_model(
            one, {"a": torch.Size([3]), "b": torch.Size([2])}, one, {"a": torch.Size([3])}
        )


@pytest.mark.parametrize("ema", [None, 0.7])
def test_the_end_of_a_run_scores_the_average_of_its_last_checkpoints(tmp_path: Path, ema: float | None) -> None:
    run = tmp_path / "run"
    state, events = run_training(recipe_of(tmp_path, average_last=3, keep_last=1, ema=ema), run)
    (event,) = [event for event in events if isinstance(event, Averaged)]
    assert event.num_checkpoints == 3
    # The same run without it shows what was averaged, and that nothing else has changed.
    plain = trained(tmp_path, "plain", ema=ema)
    mean = mean_of(list_steps(plain)[-3:])
    from seqkit.tasks.registry import prepare

    recipe = recipe_of(tmp_path)
    prepared = prepare(recipe, tmp_path / "cache", seed=11)
    model = prepared.build_model()
    model.load_state_dict(mean)
    model.eval()
    scores = prepared.evaluate(model, lambda: None)
    assert event.scores["loss"] == pytest.approx(scores["loss"], rel=1e-6)
    last = read_checkpoint(run / "last")
    before = read_checkpoint(plain / "last")
    better = scores["loss"] < before.facts["scores"]["loss"]
    assert event.is_last is better
    expected = mean if better else before.weights
    for name, weight in expected.items():
        torch.testing.assert_close(last.weights[name], weight, rtol=0, atol=0)
    assert last.facts["averaged_steps"] == ([6, 9, 12] if better else [])
    # What was trained is what it was.
    for name, weight in state.model.state_dict().items():
        assert torch.equal(weight, (before.train_state["weights"] or before.weights)[name]), name
    row = read_metrics(run / "metrics.jsonl")[-1]
    assert (row["split"], row["step"], row["num_checkpoints"]) == ("average", 12, 3)
    assert row["loss"] == pytest.approx(event.scores["loss"])
    # Those that were only kept to be averaged are gone.
    names = {path.name for path in list_steps(run)}
    assert names == {"step-00000012", (run / "best").resolve().name}


@pytest.mark.parametrize("offset", [-1.0, 1.0])
def test_the_average_stays_only_if_it_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float) -> None:
    from seqkit.tasks.lm import PreparedLm

    real = PreparedLm.evaluate
    calls: list[float] = []

    def evaluate(self: PreparedLm, model: Any, on_part: Any) -> dict[str, float]:
        scores = real(self, model, on_part)
        calls.append(scores["loss"])
        # The fifth is that of the average.
        return {**scores, "loss": calls[3] + offset} if len(calls) == 5 else scores

    monkeypatch.setattr(PreparedLm, "evaluate", evaluate)
    run = tmp_path / "run"
    state, events = run_training(recipe_of(tmp_path, average_last=2), run)
    (event,) = [event for event in events if isinstance(event, Averaged)]
    assert event.is_last is event.is_best is (offset < 0)
    facts = read_checkpoint(run).facts
    assert facts["averaged_steps"] == ([9, 12] if offset < 0 else [])
    assert facts["scores"]["loss"] == pytest.approx(calls[3] + min(0.0, offset))
    assert state.progress.best_scores["loss"] == facts["scores"]["loss"]
    assert facts["step"] == 12 and facts["is_averaged"] is (offset < 0)


@pytest.mark.parametrize("stops", [(1, 7, 8, 11), (12,), (9, 10)])
def test_where_a_run_was_stopped_does_not_change_its_average(tmp_path: Path, stops: tuple[int, ...]) -> None:
    recipe = recipe_of(tmp_path, average_last=3, keep_last=1)
    whole, _ = run_training(recipe, tmp_path / "whole")
    for number, stop_at in enumerate(stops):
        with pytest.raises(InterruptedRunError):
            run_training(recipe, tmp_path / "parts", resume=number > 0, stop_at=stop_at)
        torch.manual_seed(number)
    parts, _ = run_training(recipe, tmp_path / "parts", resume=True)
    one, other = read_checkpoint(tmp_path / "whole" / "last"), read_checkpoint(tmp_path / "parts" / "last")
    assert one.facts["averaged_steps"] == other.facts["averaged_steps"]
    assert one.facts["scores"] == other.facts["scores"]
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name
    assert parts.progress.averaged_steps == whole.progress.averaged_steps
    rows = [
        [row["step"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["split"] == "average"]
        for name in ("whole", "parts")
    ]
    assert rows == [[12], [12]]


def test_a_run_that_vanished_before_its_average_makes_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, average_last=3, keep_last=1)
    run_training(recipe, tmp_path / "whole")
    from seqkit.training import session

    def vanish(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(session, "average_checkpoints", vanish)
        with pytest.raises(PowerCut):
            run_training(recipe, tmp_path / "parts")
    assert len(list_steps(tmp_path / "parts")) == 3, "kept to be averaged"
    run_training(recipe, tmp_path / "parts", resume=True)
    one, other = (read_checkpoint(tmp_path / name / "last") for name in ("whole", "parts"))
    assert one.facts["averaged_steps"] == other.facts["averaged_steps"]
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name


def test_too_few_checkpoints_average_nothing(tmp_path: Path) -> None:
    _, events = run_training(recipe_of(tmp_path, average_last=3, evaluate_every=99), tmp_path / "run")
    assert not [event for event in events if isinstance(event, Averaged)]
    assert read_checkpoint(tmp_path / "run" / "last").facts["averaged_steps"] == []


def test_members_are_named_with_what_differs(tmp_path: Path) -> None:
    run = trained(tmp_path)
    averaged = average_checkpoints(list_steps(run))
    assert averaged.differences == [] and averaged.newest.facts["step"] == 12


def test_the_command_says_what_became_of_the_average(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("train", tiny.recipe, "--set", "train.average_last=3", "--run-dir", "run")
    assert done.code == 0, done.err
    found = re.search(
        r"^average of the last 3 checkpoints  valid (\d\.\d{4}) nats/character( \(best\))?; (.*)$", done.err, re.M
    )
    assert found is not None, done.err
    facts = read_checkpoint(Path("run/last")).facts
    if found[3] == "it is the last checkpoint now":
        assert facts["averaged_steps"] == [4, 8, 12] and f"{facts['scores']['loss']:.4f}" == found[1]
    else:
        assert found[3] == "no better than the last one, which stays" and facts["averaged_steps"] == []
    record = json.loads(Path("run/run.json").read_text())
    assert f"{record['best']['loss']:.4f} nats/character at step {record['best']['step']}\n" in done.err
    events = seqkit("train", tiny.recipe, "--set", "train.average_last=3", "--log-format", "jsonl").records
    (told,) = [event for event in events if event["event"] == "average"]
    assert told["num_checkpoints"] == 3 and f"{told['loss']:.4f}" == found[1]
