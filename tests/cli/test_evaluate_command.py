"""``seqkit evaluate``: what is scored, under which protocol, and the recipe's section (R11)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from commandline import InProcess, Tiny


@pytest.fixture
def evaluate(tiny: Tiny, seqkit: InProcess) -> Any:
    """Runs ``evaluate`` with the tiny model."""
    return lambda *words, **more: seqkit("evaluate", "--model", tiny.run, *words, **more)


def facts(evaluate: Any, *words: object, **more: Any) -> dict[str, Any]:
    done = evaluate("--json", *words, **more)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_the_report_for_people_and_for_programs_agree(evaluate: Any) -> None:
    told = facts(evaluate)
    lines = dict(line.split("  ", maxsplit=1) for line in evaluate().out.removesuffix("\n").split("\n"))
    shown = {key: value.strip() for key, value in lines.items()}
    assert shown["loss"] == f"{told['loss']:.4f} nats/character"
    assert shown["perplexity"] == f"{told['perplexity']:.3f} per character"
    assert shown["bits per char"] == f"{told['bits_per_char']:.4f}"
    assert shown["bits per byte"] == f"{told['bits_per_byte']:.4f}"
    assert told["bits_per_char"] == pytest.approx(told["loss"] / math.log(2))
    assert shown["protocol"] == told["protocol"] == "one stream, state carried"


def test_the_default_is_the_validation_part(tiny: Tiny, evaluate: Any) -> None:
    text = tiny.text.read_text()
    held_out = text[int(len(text) * 0.9) :]
    Path("valid.txt").write_text(held_out)
    default, split, file = facts(evaluate), facts(evaluate, "--split", "valid"), facts(evaluate, "valid.txt")
    assert default["num_tokens"] == len(held_out) - 1
    assert default["loss"] == split["loss"] == file["loss"]
    assert (default["data"], file["data"]) == ("valid", "valid.txt")
    train = facts(evaluate, "--split", "train")
    assert train["num_tokens"] == len(text) - len(held_out) - 1
    assert facts(evaluate, tiny.text)["num_tokens"] == len(text) - 1


def test_several_files_are_one_text(tiny: Tiny, evaluate: Any) -> None:
    text = tiny.text.read_bytes()
    Path("a.txt").write_bytes(text[:500])
    Path("b.txt").write_bytes(text[500:])
    whole = facts(evaluate, tiny.text)
    assert facts(evaluate, "a.txt", "b.txt")["loss"] == whole["loss"]
    assert facts(evaluate, "a.txt", "-", stdin=text[500:])["loss"] == whole["loss"]
    assert facts(evaluate, "builtin:hello")["data"] == "builtin:hello"


def test_windows(tiny: Tiny, evaluate: Any) -> None:
    carried, chunked = facts(evaluate, tiny.text), facts(evaluate, tiny.text, "--window", 16)
    assert chunked["loss"] == pytest.approx(carried["loss"], abs=1e-5)
    fresh = facts(evaluate, tiny.text, "--window", 16, "--reset-state")
    assert fresh["num_tokens"] == carried["num_tokens"] and fresh["loss"] != pytest.approx(carried["loss"], abs=1e-5)
    assert fresh["protocol"] == "windows of 16 from an empty state"


def test_bf16_is_near_fp32(evaluate: Any) -> None:
    assert facts(evaluate, "--precision", "bf16")["loss"] == pytest.approx(facts(evaluate)["loss"], abs=0.02)


def test_lines_sum_to_their_text(tiny: Tiny, evaluate: Any) -> None:
    done = evaluate("--per-line", tiny.text)
    rows = [line.split("\t") for line in done.out.removesuffix("\n").split("\n")]
    assert len(rows) == 60 and all(float(score) < 0 for score, _ in rows)
    assert sum(int(count) for _, count in rows) == len(tiny.text.read_text()), "line ends count"


def test_a_text_too_short_to_predict(evaluate: Any) -> None:
    for text, said in ((b"t", "at least 2"), (b"", "<stdin>: is empty")):
        done = evaluate("-", stdin=text)
        assert done.code == 1 and said in done.error_line


def test_a_folder_is_no_text(evaluate: Any) -> None:
    Path("folder").mkdir()
    done = evaluate("folder")
    assert done.code == 1 and done.error_line == "folder: is a folder"


def test_r11_flag_then_recipe_then_the_models_own(tiny: Tiny, evaluate: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny.recipe.read_text() + "evaluate: {window: 16, reset_state: true}\n")
    assert facts(evaluate)["protocol"] == "one stream, state carried"
    assert facts(evaluate, "--recipe", other)["protocol"] == "windows of 16 from an empty state"
    assert facts(evaluate, "--recipe", other, "--window", 9)["protocol"] == "windows of 9 from an empty state"
    assert facts(evaluate, "--recipe", other, "--carry-state")["protocol"] == "one stream, state carried"
