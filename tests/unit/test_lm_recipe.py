"""What a language-model recipe settles by its model, and what it refuses, at the key that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from seqkit.errors import RecipeError
from seqkit.recipe.loading import load_recipe, resolve_recipe_text
from seqkit.recipe.schema import LmRecipe

GPT = """\
task: lm
data: {train: builtin:hello}
model:
  type: transformer
  d_model: 16
train:
  max_steps: 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def resolved(text: str, *overrides: str) -> dict[str, Any]:
    """The resolved recipe, whose own resolution has the same bytes."""
    Path("r.yaml").write_text(text)
    once = resolve_recipe_text(load_recipe("r.yaml", overrides=overrides).recipe)
    Path("resolved.yaml").write_text(once)
    assert resolve_recipe_text(load_recipe("resolved.yaml").recipe) == once
    values: dict[str, Any] = yaml.safe_load(once)
    return values


def messages(text: str, *overrides: str) -> list[str]:
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", overrides=overrides)
    return caught.value.messages


def test_a_transformer_trains_on_windows_as_wide_as_its_context() -> None:
    found = resolved(GPT)
    assert found["train"]["bptt"] == "windows"
    assert found["train"]["reset_probability"] is None
    assert found["model"]["context_length"] == found["train"]["sequence_length"] == 64
    assert resolved(GPT, "train.sequence_length=9")["model"]["context_length"] == 9
    assert resolved(GPT, "model.context_length=90")["model"]["context_length"] == 90
    assert resolved(GPT, "train.bptt=stride")["train"]["bptt"] == "stride"
    assert resolved(GPT, "train.bptt=null", "model.context_length=null")["train"]["bptt"] == "windows"


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_models_carry_a_state_unless_told_otherwise(cell: str) -> None:
    text = GPT.replace("transformer", cell)
    found = resolved(text)["train"]
    assert (found["bptt"], found["reset_probability"]) == ("truncated", 0.01)
    for way in ("full", "windows", "stride"):
        assert resolved(text, f"train.bptt={way}")["train"]["bptt"] == way
    assert resolved(text, "train.reset_probability=0")["train"]["reset_probability"] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.bptt=truncated",
            "--set train.bptt: truncated is for recurrent models; a transformer takes windows or stride",
        ),
        ("train.bptt=full", "--set train.bptt: full is for recurrent models; a transformer takes windows or stride"),
        (
            "train.reset_probability=0.01",
            "--set train.reset_probability: is for recurrent models; a transformer carries no state",
        ),
        ("model.num_heads=5", "--set model.num_heads: 5 heads do not divide d_model 16"),
        ("model.num_heads=16", "r.yaml:3:1: model.positions: rotary needs an even d_model / num_heads, found 1"),
        (
            "model.context_length=63",
            "r.yaml:6:1: train.sequence_length: must be at most model.context_length, 63; found 64",
        ),
        ("evaluate.window=65", "--set evaluate.window: must be at most model.context_length, 64; found 65"),
        (
            "model.d_embedding=3",
            "--set model.d_embedding: not a key of type transformer; it belongs to type rnn or lstm or gru",
        ),
        ("model.dropout=1", "--set model.dropout: must be below 1, found 1"),
        ("train.sequence_length=x", '--set train.sequence_length: expected a whole number, found the text "x"'),
    ],
)
def test_what_does_not_fit_is_refused_at_its_key(override: str, message: str) -> None:
    assert messages(GPT, override) == [message]


def test_a_fault_of_two_keys_points_into_the_file() -> None:
    text = GPT + "  reset_probability: 0.1\n"
    assert messages(text) == [
        "r.yaml:8:3: train.reset_probability: is for recurrent models; a transformer carries no state"
    ]


def test_there_is_nothing_to_accumulate_where_an_epoch_is_one_batch() -> None:
    text = GPT.replace("transformer", "gru") + "  bptt: full\n  accumulate: 2\n"
    assert messages(text) == [
        "r.yaml:9:3: train.accumulate: has no effect with bptt full, which makes one batch an epoch"
    ]
    assert resolved(text, "train.accumulate=1")["train"]["bptt"] == "full"


def test_a_recipe_from_plain_values_is_settled_too() -> None:
    recipe = LmRecipe.model_validate(yaml.safe_load(GPT))
    assert recipe.train.bptt == "windows"
    assert recipe.model.type == "transformer" and recipe.model.context_length == 64


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"model": []}, "model: expected a mapping of keys, found a list"),
        ({"train": 3}, "train: expected a mapping of keys, found the number 3"),
        ({"model": {"type": 3}}, "model.type: expected one of rnn, lstm, gru, transformer; found the number 3"),
    ],
)
def test_broken_sections_are_told_as_such(broken: dict[str, Any], message: str) -> None:
    (found,) = messages(yaml.safe_dump({**yaml.safe_load(GPT), **broken}))
    assert found.endswith(message)
