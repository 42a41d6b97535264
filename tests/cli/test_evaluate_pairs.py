"""``seqkit evaluate`` of a translation model: loss, BLEU and chrF of its translations, forced scores of given pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, ForkServer, InProcess
from tiny_pairs import TinyPairs, train_tiny_pairs


class Evaluate:
    """Runs ``seqkit evaluate`` with the tiny model."""

    def __init__(self, seqkit: InProcess, model: Path) -> None:
        self._seqkit = seqkit
        self._model = model

    def __call__(self, *words: object) -> Done:
        return self._seqkit("evaluate", "--model", self._model, *words)

    def facts(self, *words: object) -> dict[str, Any]:
        done = self("--json", *words)
        assert done.code == 0, done.err
        found: dict[str, Any] = json.loads(done.out)
        return found


@pytest.fixture
def evaluate(seqkit: InProcess, tiny_pairs: TinyPairs) -> Evaluate:
    return Evaluate(seqkit, tiny_pairs.run)


def write_pairs(folder: Path, *pairs: tuple[str, str]) -> tuple[Path, Path]:
    paths = folder / "x.src", folder / "x.tgt"
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8", newline="\n")
    return paths


def test_loss_and_scores_of_the_validation_pairs(
    evaluate: Evaluate, seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path
) -> None:
    told = evaluate.facts("--beam", 3)
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    assert (told["num_pairs"], told["num_left_out"], told["unit"], told["beam"]) == (40, 0, "character", 3)
    assert told["num_tokens"] == sum(len(line) + 1 for line in tiny_pairs.references)
    # As the two commands do it that are made for it.
    hypotheses = tmp_path / "x.hyp"
    assert seqkit("translate", "--model", tiny_pairs.run, tiny_pairs.src, "-o", hypotheses).code == 0
    scored = seqkit("score", tiny_pairs.tgt, hypotheses, "--metric", "bleu", "--metric", "chrf", "--json")
    scores = json.loads(scored.out)
    assert json.dumps(told["BLEU"]) in scored.out and json.dumps(told["chrF2"]) in scored.out, scores
    assert told["signatures"]["BLEU"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    lines = hypotheses.read_text().split("\n")[:-1]
    num_right = sum(map(str.__eq__, lines, tiny_pairs.references))
    assert num_right > 0 and told["exact_match"] == pytest.approx(100 * num_right / 40)


def test_loss_is_the_mean_of_forced_scores(evaluate: Evaluate) -> None:
    told = evaluate.facts("--beam", 0)
    assert "BLEU" not in told and "exact_match" not in told and told["signatures"] == {}
    rows = [json.loads(line) for line in evaluate("--per-line", "--json").out.split("\n")[:-1]]
    num_tokens = sum(row["num_tokens"] for row in rows)
    assert num_tokens == told["num_tokens"]
    assert -math.fsum(row["score"] for row in rows) / num_tokens == pytest.approx(told["loss"], abs=1e-6)


def test_the_report_for_people(evaluate: Evaluate, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, ("be c", "BE C"), ("", "A"), ("a", "A"), ("", ""))
    done = evaluate(*pairs)
    lines = {line[:12].strip(): line[12:] for line in done.out.split("\n")[:-1]}
    assert list(lines) == ["loss", "perplexity", "BLEU", "chrF2", "exact", "beam", "pairs", "left out"]
    assert lines["loss"].endswith(" nats/character") and lines["beam"] == "5"
    assert lines["pairs"] == "2 (7 target characters)"
    assert lines["left out"] == "2 with an empty side (of the loss)"
    assert "loss" not in evaluate("--per-line", *pairs).out


def test_forced_scores_line_by_line(evaluate: Evaluate, tmp_path: Path) -> None:
    pairs = [("be c", "BE C"), ("", ""), ("be c", "E"), ("", "A"), ("a", ""), ("Ж", "Ж"), ("a" * 300, "A" * 300)]
    done = evaluate("--per-line", *write_pairs(tmp_path, *pairs))
    assert done.code == 0
    rows = done.out.split("\n")[:-1]
    assert len(rows) == len(pairs) and rows[1] == ""
    found = [row.split("\t") for row in rows if row]
    # Characters that training did not have are two digits a byte.
    assert [int(count) for _, count in found] == [5, 2, 2, 1, 5, 301]
    assert float(found[0][0]) > float(found[1][0]) - 5 and all(float(score) < 0 for score, _ in found)
    # Neighbours and order change nothing beyond rounding.
    backwards = evaluate("--per-line", *write_pairs(tmp_path, *pairs[::-1])).out.split("\n")[:-1]
    for one, other in zip(rows, backwards[::-1], strict=True):
        assert [float(x) for x in one.split()] == pytest.approx([float(x) for x in other.split()], rel=1e-5)
    alone = evaluate("--per-line", "--batch-size", 1, *write_pairs(tmp_path, *pairs)).out.split("\n")[:-1]
    for one, other in zip(rows, alone, strict=True):
        assert [float(x) for x in one.split()] == pytest.approx([float(x) for x in other.split()], rel=1e-5)


def test_options_of_the_recipe(evaluate: Evaluate, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    recipe = tmp_path / "other.yaml"
    recipe.write_text(tiny_pairs.recipe.read_text() + "evaluate: {beam: 2}\n")
    assert evaluate.facts("--recipe", recipe)["beam"] == 2
    assert evaluate.facts("--recipe", recipe, "--beam", 1)["beam"] == 1
    assert evaluate.facts()["beam"] == 5


REFUSED: list[tuple[list[object], int, str]] = [
    (["x.src"], 2, "a translation model is evaluated on SRC and TGT, two texts, not 1"),
    (["x.src", "x.tgt", "x.tgt"], 2, "two texts, not 3"),
    (["x.src", "-"], 2, "pairs come from two files"),
    (["x.src", "nothing"], 2, "nothing: no such file"),
    (["x.src", "x.tgt", "--split", "test"], 2, "give DATA or --split, not both"),
    (["--split", "test"], 2, "the recipe names no test pairs"),
    (["--window", "3"], 2, "--window and --reset-state are for language models"),
    (["--per-line", "--beam", "2"], 2, "--beam does nothing with --per-line"),
    (["--batch-size", "2"], 2, "--batch-size does nothing without --per-line"),
    (["--beam", "500"], 2, "the beam of 500 is larger than the model's vocabulary"),
    (["x.src", "longer.tgt"], 1, "x.src has 2 lines but longer.tgt has 3"),
    (["--per-line", "longer.tgt", "x.src"], 1, "longer.tgt has 3 lines but x.src has 2"),
    (["x.src", "bad.tgt"], 1, "bad.tgt:2: not UTF-8"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED, ids=lambda value: str(value))
def test_what_is_wrong_is_one_line(
    evaluate: Evaluate, tmp_path: Path, words: list[object], code: int, message: str
) -> None:
    write_pairs(tmp_path, ("be c", "BE C"), ("a", "A"))
    (tmp_path / "longer.tgt").write_text("A\nB\nC\n")
    (tmp_path / "bad.tgt").write_bytes(b"A\n\xff\n")
    done = evaluate(*words)
    assert done.code == code and message in done.error_line
    assert done.out == "" or "--per-line" in words


def test_pairs_beyond_the_positions_of_a_model_are_named(
    seqkit: InProcess, fork_server: ForkServer, tmp_path: Path
) -> None:
    folder = tmp_path / "learned"
    folder.mkdir()
    settings = ["model.positions=learned", "model.max_positions=12", "train.max_steps=3"]
    evaluate = Evaluate(seqkit, train_tiny_pairs(fork_server, folder, *settings).run)
    fits = write_pairs(tmp_path, ("a" * 11, "A" * 11), ("", ""))
    assert evaluate.facts(*fits)["num_pairs"] == 1
    assert evaluate("--per-line", *fits).out.count("\n") == 2
    too_long = write_pairs(tmp_path, ("a", "A"), ("", ""), ("a", "A" * 12))
    for words in ((), ("--per-line",)):
        done = evaluate(*words, *too_long)
        assert done.code == 1 and done.out == ""
        assert done.error_line.endswith("x.tgt, line 3: 12 tokens, more than the 11 that the model has positions for")
