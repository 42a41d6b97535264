"""What validation of a translation model translates: how, how long, how often, and which score decides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import InProcess
from tiny_pairs import TINY_PAIRS_RECIPE, pairs_recipe, write_tiny_pairs
from tiny_runs import run_training

from seqkit.cli import app, console
from seqkit.decoding.beam import beam_search
from seqkit.errors import RecipeError
from seqkit.recipe.loading import load_recipe
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.runs.listing import summarize
from seqkit.runs.metrics_log import read_metrics
from seqkit.runs.step_folders import list_steps
from seqkit.tasks.registry import prepare
from seqkit.tasks.seq2seq import PreparedSeq2Seq
from seqkit.training.events import Evaluated


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def prepared(folder: Path, **sections: Any) -> PreparedSeq2Seq:
    train = sections.pop("train", {})
    recipe = pairs_recipe(folder, model={}, train={"max_steps": 4, **train}, **sections)
    made = prepare(recipe, folder / "cache", seed=1)
    assert isinstance(made, PreparedSeq2Seq)
    return made


class Searches:
    """Notes what beam search is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.beams: list[int] = []
        self.max_lengths: list[list[int]] = []

        def noted(model: Any, source: Any, batch_size: int, rule: Any, **options: Any) -> Any:
            self.beams.append(rule.beam_size)
            self.max_lengths.append(list(options["max_lengths"]))
            return beam_search(model, source, batch_size, rule, **options)

        monkeypatch.setattr("seqkit.tasks.torch_search.beam_search", noted)


@pytest.mark.parametrize(("beam", "expected"), [("unset", 1), (3, 3), (None, 4)])
def test_the_beam_of_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beam: int | str | None, expected: int
) -> None:
    train: dict[str, Any] = {"validate_translations": 5}
    if beam != "unset":
        train["validate_beam"] = beam
    task = prepared(tmp_path, train=train, translate={"beam": 4})
    searches = Searches(monkeypatch)
    scores = task.evaluate(task.build_model().eval(), lambda: None)
    assert set(searches.beams) == {expected} and sum(map(len, searches.max_lengths)) == 5
    assert 0 <= scores["bleu"] <= 100
    facts = task.facts()["validation"]
    assert (facts["num_translated"], facts["beam"]) == (5, expected)
    assert facts["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")


def test_translations_are_cut_soon_after_the_usual_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Targets are as long as sources here: one and a half times as long, and ten more.
    task = prepared(tmp_path, train={"validate_translations": None}, translate={"max_length_ratio": 50.0})
    searches = Searches(monkeypatch)
    task.evaluate(task.build_model().eval(), lambda: None)
    longest = max(map(len, (tmp_path / "tiny.src").read_text().split("\n")))
    assert max(max(lengths) for lengths in searches.max_lengths) == int(1.5 * longest) + 10
    # What the recipe allows is less: that holds.
    short = prepared(tmp_path, train={"validate_translations": None}, translate={"max_length_ratio": 0.5})
    searches.max_lengths.clear()
    short.evaluate(short.build_model().eval(), lambda: None)
    assert max(max(lengths) for lengths in searches.max_lengths) == int(0.5 * longest) + 10


def test_without_translations_nothing_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared(tmp_path)
    searches = Searches(monkeypatch)
    assert "bleu" not in task.evaluate(task.build_model().eval(), lambda: None)
    assert searches.beams == [] and task.facts()["validation"] == {"num_translated": 0}


def test_each_evaluation_shows_another_pair(tmp_path: Path) -> None:
    recipe = pairs_recipe(tmp_path, model={}, train={"max_steps": 6, "evaluate_every": 2, "sample_length": 9})
    _, events = run_training(recipe, tmp_path / "run")
    shown = [event.sample or "" for event in events if isinstance(event, Evaluated)]
    sources = (tmp_path / "tiny.src").read_text().split("\n")
    targets = (tmp_path / "tiny.tgt").read_text().split("\n")
    for sample, source, target in zip(shown, sources[:3], targets[:3], strict=True):
        assert sample.startswith(f"{source} → ") and sample.endswith(f" (reference: {target})")
        assert len(sample) <= len(f"{source} →  (reference: {target})") + 9
    # After the last one, the first again; a pair with an empty side is passed over.
    (tmp_path / "tiny.src").write_text("a b\n\nc\n")
    (tmp_path / "tiny.tgt").write_text("A B\n\nC\n")
    task = prepared(tmp_path)
    model = task.build_model().eval()
    starts = [task.show_sample(model, length=3, number=number).split(" →")[0] for number in range(4)]
    assert starts == ["a b", "c", "a b", "c"]


def test_bleu_decides_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = {"max_steps": 12, "evaluate_every": 3, "best_by": "bleu", "validate_translations": 7, "keep_last": 9}
    recipe = pairs_recipe(tmp_path, model={}, train=train)
    run = tmp_path / "runs" / "tiny" / "one"
    run.parent.mkdir(parents=True)
    state, events = run_training(recipe, run)
    # An untrained model's translations are all alike; the first of equals is the best, whatever the loss.
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    bleus = [event.scores["bleu"] for event in evaluated]
    best = bleus.index(max(bleus))
    assert state.progress.best_step == 3 * (best + 1)
    losses = [event.scores["loss"] for event in evaluated]
    assert losses == sorted(losses, reverse=True), "by loss another one would be the best"
    assert (run / "best").resolve() == list_steps(run)[best].resolve() != list_steps(run)[-1].resolve()
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "valid"]
    assert {row["best_by"] for row in rows} == {"bleu"}
    assert [row["is_best"] for row in rows] == [
        bleu == max(bleus[: n + 1]) and bleu not in bleus[:n] for n, bleu in enumerate(bleus)
    ]
    assert read_checkpoint(run).facts["scores"]["bleu"] == max(bleus)
    # The record of these runs names no best: `runs ls` reads it off the reports.
    summary = summarize(run)
    assert (summary.best_by, summary.best_step, summary.best_score) == ("bleu", 3 * (best + 1), max(bleus))
    assert app.run(["runs", "ls", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert f"BLEU {max(bleus):.2f} @ {3 * (best + 1)}" in capsys.readouterr().out
    assert app.run(["runs", "ls", "--runs-dir", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["best"] == {"step": 3 * (best + 1), "bleu": max(bleus)}
    console.configure(console.ConsoleOptions())


@pytest.mark.parametrize(
    ("override", "task", "message"),
    [
        (["train.best_by=bleu"], "lm", '--set train.best_by: expected loss; found the text "bleu"'),
        (
            ["train.best_by=bleu", "train.validate_translations=0"],
            "seq2seq",
            "--set train.best_by: bleu needs translations, but validate_translations is 0",
        ),
    ],
)
def test_bleu_where_nothing_is_translated_is_refused(
    tmp_path: Path, override: list[str], task: str, message: str
) -> None:
    path = tmp_path / "r.yaml"
    if task == "lm":
        path.write_text("task: lm\ndata: {train: builtin:hello}\nmodel: {type: gru}\ntrain: {max_steps: 1}\n")
    else:
        text = "{src: builtin:hello, tgt: builtin:hello}"
        path.write_text(
            f"task: seq2seq\ndata: {{train: {text}, valid: {text}}}\ntokenizer: {{type: char}}\n"
            "model: {type: transformer}\ntrain: {max_steps: 1}\n"
        )
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path), overrides=override)
    assert caught.value.messages == [message]


def test_the_command_says_which_score_decided(tmp_path: Path, seqkit: InProcess) -> None:
    src, tgt = write_tiny_pairs(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text(TINY_PAIRS_RECIPE.replace("SRC", str(src)).replace("TGT", str(tgt)))
    words = ["train", path, "--set", "train.max_steps=4", "--set", "train.evaluate_every=2", "--run-dir", "run"]
    done = seqkit(*words, "--set", "train.best_by=bleu")
    assert done.code == 0, done.err
    assert re.search(r"step 2  valid \d\.\d{4} nats/character, BLEU \d\.\d\d \(best\)\n", done.err)
    assert re.search(r"done in \S+ · best valid BLEU \d\.\d\d at step \d\n", done.err)
    record = json.loads(Path("run/run.json").read_text())
    assert set(record["best"]) == {"step", "bleu"}
    metrics = record["metrics"]
    assert metrics["best_by"] == "bleu" and record["best"]["bleu"] == metrics["best_bleu"]
    assert metrics["best_loss"] >= metrics["valid_loss"]
    # By loss, the mark stands with the loss.
    done = seqkit(*words[:-1], "run2")
    assert re.search(r"step 4  valid \d\.\d{4} nats/character \(best\), BLEU \d\.\d\d\n", done.err)
    assert re.search(r"best valid \d\.\d{4} nats/character at step 4\n", done.err)
