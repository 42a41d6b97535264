"""From a name to a typed recipe: faults with their places, overrides, paths, and what is written back."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from seqkit.errors import CheckpointError, RecipeError, UsageError
from seqkit.recipe.library import describe
from seqkit.recipe.loading import (
    differing_keys,
    load_recipe,
    load_section,
    recipe_from_resolved,
    resolve_recipe_text,
)
from seqkit.recipe.schema import LmEvaluateOptions, LmRecipe, SampleOptions
from seqkit.recipe.suggest import did_you_mean
from seqkit.recipe.training_schema import AdamW, Linear, Sgd

GOOD = """\
task: lm
data: {train: builtin:python-docs}
model:
  type: lstm
  d_model: 64
train:
  max_minutes: 3
  optimizer: {type: adamw, lr: 5e-3}
  schedule: {type: cosine, warmup_steps: 50, final_fraction: 0.1}
sample: {length: 10}
"""

BAD = """\
task: lm
data:
  train: ["a", 3, "${SEQKIT_TEST_UNSET}/x"]
  vaild: b
tokenizer: {tpe: char}
model:
  type: lstm
  num_layer: 2
  d_model: x
  dropout: 1.2
  nonlinearity: relu
train:
  optimizer: {type: sgdd}
  batch_size: "x"
  lr: 1
  max_steps: true
  log_every: 0
  schedule:
  early_stopping: {}
  bptt: ful
  max_minutes: .inf
  clip_norm: 0
  clip_norm: 1
sample: {stop: x, top_p: 2}
evaluate: []
"""

BAD_MESSAGES = """\
3:16: data.train.1: expected text, found the number 3
3:19: data.train.2: the environment variable SEQKIT_TEST_UNSET is not set
4:3: data.vaild: unknown key; did you mean valid?
5:1: tokenizer.type: missing key; one of char, byte, word, bpe
5:13: tokenizer.tpe: unknown key; did you mean type?
8:3: model.num_layer: unknown key; did you mean num_layers?
9:12: model.d_model: expected a whole number, found the text "x"
10:12: model.dropout: must be below 1, found 1.2
11:3: model.nonlinearity: not a key of type lstm; it belongs to type rnn
13:21: train.optimizer.type: expected one of sgd, adam, adamw, rmsprop, muon; found the text "sgdd"; did you mean sgd?
14:15: train.batch_size: expected a whole number, found the text "x"
15:3: train.lr: unknown key; did you mean train.optimizer.lr?
16:14: train.max_steps: expected a whole number, found true
17:14: train.log_every: must be at least 1, found 0
18:12: train.schedule: expected a mapping of keys, found null
19:3: train.early_stopping.patience: missing key
20:9: train.bptt: expected one of truncated, full, windows, stride; found the text "ful"; did you mean full?
21:16: train.max_minutes: must be a finite number, found the number .inf
22:14: train.clip_norm: must be above 0, found 0
23:3: train.clip_norm: duplicate key; first given at 22:3
24:16: sample.stop: expected a list of texts, found the text "x"
24:26: sample.top_p: must be at most 1, found 2
25:11: evaluate: expected a mapping of keys, found a list
""".splitlines()


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("r.yaml")
    path.write_text(GOOD, encoding="utf-8")
    return path


def faults_of(text: str, *overrides: str) -> list[str]:
    Path("r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", overrides=overrides)
    return caught.value.messages


def test_every_fault_in_one_pass(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQKIT_TEST_UNSET", raising=False)
    assert faults_of(BAD) == [f"r.yaml:{message}" for message in BAD_MESSAGES]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["r.yaml:1:1: the recipe is empty"]),
        ("- a", ["r.yaml:1:1: expected keys and values, found a list"]),
        ("lm", ['r.yaml:1:1: expected keys and values, found the text "lm"']),
        ("data: {}", ["r.yaml:1:1: task: missing key; one of lm, seq2seq"]),
        ("task: ml", ['r.yaml:1:7: task: expected one of lm, seq2seq; found the text "ml"; did you mean lm?']),
        ("task: [lm]", ["r.yaml:1:7: task: expected one of lm, seq2seq; found a list"]),
        (
            "task: lm",
            [
                "r.yaml:1:1: data: missing key",
                "r.yaml:1:1: model: missing key",
                "r.yaml:1:1: train: missing key",
            ],
        ),
        (
            GOOD.replace("max_minutes: 3", "batch_size: 3"),
            ["r.yaml:6:1: train: set a budget: max_steps, max_epochs or max_minutes"],
        ),
        (
            GOOD.replace("{train: builtin:python-docs}", "{train: 3}"),
            ["r.yaml:2:15: data.train: expected text or a list of texts or a list of mappings, found the number 3"],
        ),
        (
            GOOD.replace("{train: builtin:python-docs}", "{train: buitlin:python-docs}"),
            ["r.yaml:2:15: data.train: no corpora are called buitlin:…; did you mean builtin:?"],
        ),
        (
            GOOD.replace("{train: builtin:python-docs}", "{train: x, valid: y, valid_fraction: 0.5}"),
            ["r.yaml:2:1: data: give valid or valid_fraction, not both"],
        ),
    ],
)
def test_a_fault_has_its_place(recipe_file: Path, text: str, messages: list[str]) -> None:
    assert faults_of(text) == messages


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_layer=2", "--set model.num_layer: unknown key; did you mean num_layers?"),
        ("model.d_model=x", '--set model.d_model: expected a whole number, found the text "x"'),
        ("modle.d_model=2", "--set modle: unknown key; did you mean model?"),
        ("model.d_model", '--set: the text "model.d_model" is not KEY=VALUE'),
        ("a..b=1", '--set: the text "a..b" is not a dotted key, such as model.d_model'),
        ("model.d_model.x=1", "--set model.d_model.x: model.d_model is the number 64, not a mapping of keys"),
        ("model.3=1", "--set model.3: model is a mapping of keys, not a list"),
        (
            "model.d_model=[1",
            "--set model.d_model: not YAML: expected ',' or ']', but got the end of the text "
            "when parsing a flow sequence from 1:1",
        ),
        ("model={type: lstm, type: gru}", "--set model.type: duplicate key; first given at 1:2"),
        (
            "model.type=lsmt",
            '--set model.type: expected one of rnn, lstm, gru, transformer; found the text "lsmt"; did you mean lstm?',
        ),
        ("task=ml", '--set task: expected one of lm, seq2seq; found the text "ml"; did you mean lm?'),
        ("train.early_stopping.min_delta=1", "--set train.early_stopping.patience: missing key"),
        (
            "data.train=${SEQKIT_TEST_UNSET}",
            "--set data.train: the environment variable SEQKIT_TEST_UNSET is not set",
        ),
    ],
)
def test_a_bad_override_is_told_against_set(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", overrides=[override])
    assert caught.value.messages == [message]


def test_overrides(recipe_file: Path) -> None:
    recipe = load_recipe(
        "r.yaml",
        overrides=[
            "model.d_model=1",
            "model.d_model=0x10",
            "train.optimizer.lr=1e-4",
            "train.schedule.type=linear",
            "train.early_stopping={patience: 3}",
            "tokenizer.min_frequency=2",
            'sample.stop=["a=b", no]',
            "sample.stop.1=c",
        ],
    ).recipe
    assert recipe.model.d_model == 16
    assert recipe.train.optimizer == AdamW(type="adamw", lr=1e-4)
    assert recipe.train.schedule == Linear(type="linear", warmup_steps=50, final_fraction=0.1)
    assert recipe.train.early_stopping is not None
    assert recipe.tokenizer.type == "char"
    assert isinstance(recipe, LmRecipe)
    assert recipe.sample.stop == ["a=b", "c"]


def test_a_new_type_drops_only_keys_of_the_old_type_in_the_file(recipe_file: Path) -> None:
    recipe = load_recipe("r.yaml", overrides=["train.schedule.type=constant", "train.optimizer.type=sgd"]).recipe
    assert recipe.train.schedule.type == "constant"
    assert recipe.train.schedule.warmup_steps == 50
    assert recipe.train.optimizer == Sgd(type="sgd", lr=5e-3)
    assert faults_of(GOOD, "train.schedule.final_fraction=0.2", "train.schedule.type=constant") == [
        "--set train.schedule.final_fraction: not a key of type constant; it belongs to type linear or cosine"
    ]


def test_paths_become_absolute_and_variables_expand(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQKIT_TEST_DIR", "/data")
    monkeypatch.setenv("HOME", "/home/x")
    here = Path.cwd()
    sources = [
        "a.txt",
        "./d/*.gz",
        "../b.txt",
        "~/c.txt",
        "${SEQKIT_TEST_DIR}/d",
        "/e",
        "catalog:ptb/train",
        "$HOME",
    ]
    text = GOOD.replace("builtin:python-docs", str(sources)).replace("length: 10", "stop: [a.txt]")
    recipe_file.write_text(text, encoding="utf-8")
    recipe = load_recipe("r.yaml", overrides=["data.valid=v.txt"]).recipe
    assert recipe.data.train == [
        f"{here}/a.txt",
        f"{here}/d/*.gz",
        f"{here}/../b.txt",
        "/home/x/c.txt",
        "/data/d",
        "/e",
        "catalog:ptb/train",
        f"{here}/$HOME",
    ]
    assert recipe.data.valid == f"{here}/v.txt"
    assert recipe.sample.stop == ["a.txt"]


def test_a_glob_in_a_folder_with_brackets_stays_a_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "[x]"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("r.yaml").write_text(GOOD.replace("builtin:python-docs", "'*.txt'"), encoding="utf-8")
    assert load_recipe("r.yaml").recipe.data.train == f"{tmp_path}/[[]x]/*.txt"


def test_resolving_the_resolved_recipe_gives_the_same_bytes(recipe_file: Path) -> None:
    recipe = load_recipe("r.yaml", overrides=["data.train=[a.txt, b*.txt]", "data.valid=v.txt"]).recipe
    text = resolve_recipe_text(recipe)
    Path("resolved.yaml").write_text(text, encoding="utf-8")
    again = load_recipe("resolved.yaml")
    assert again.recipe == recipe
    assert resolve_recipe_text(again.recipe) == text
    assert recipe_from_resolved(text) == recipe
    assert recipe_from_resolved(text.encode()) == recipe
    assert "batch_tokens: null\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", "the model's recipe is damaged: recipe.yaml:1:1: not UTF-8: byte 0xff"),
        (
            "task: tag",
            "the model's recipe cannot be read: recipe.yaml:1:7: task: expected one of lm, seq2seq; "
            'found the text "tag"',
        ),
        ("", "the model's recipe cannot be read: recipe.yaml:1:1: task: missing key; one of lm, seq2seq"),
        ("task: lm", "the model's recipe cannot be read: recipe.yaml:1:1: data: missing key (and 2 more)"),
    ],
)
def test_a_damaged_resolved_recipe_is_a_checkpoint_error(text: str | bytes, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        recipe_from_resolved(text)
    assert caught.value.message == message


def test_differing_keys(recipe_file: Path) -> None:
    old = load_recipe("r.yaml").recipe
    assert differing_keys(old, old) == []
    new = load_recipe("r.yaml", overrides=["train.optimizer.lr=1e-2", "tokenizer={type: byte}", "sample.stop=[a]"])
    assert differing_keys(old, new.recipe) == [
        "tokenizer.type: char -> byte",
        "tokenizer.unseen: bytes -> not set",
        "tokenizer.min_frequency: 1 -> not set",
        "train.optimizer.lr: 0.005 -> 0.01",
        "sample.stop: [] -> [a]",
    ]


def test_the_loaded_recipe_knows_its_source(recipe_file: Path) -> None:
    loaded = load_recipe("./r.yaml", overrides=["model.d_model=1"])
    assert (loaded.name, loaded.source, loaded.path) == ("r", "./r.yaml", Path("r.yaml"))
    assert loaded.text == GOOD.encode()
    assert loaded.locate("data", "train") == "./r.yaml:2:15: data.train"
    assert loaded.locate("model", "d_model") == "--set model.d_model"
    assert loaded.locate("data", "valid") == "./r.yaml:2:1: data.valid"


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    loaded = load_recipe("-")
    assert (loaded.name, loaded.source, loaded.path) == ("stdin", "<stdin>", None)


def test_a_missing_recipe_names_the_nearest(recipe_file: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe rr\.yaml; did you mean r\.yaml\?"):
        load_recipe("rr.yaml")
    Path("folder").mkdir()
    with pytest.raises(UsageError, match="folder is a folder, not a recipe"):
        load_recipe("folder")


def test_a_section_of_a_recipe(recipe_file: Path) -> None:
    section = load_section("r.yaml", "sample", SampleOptions)
    assert section.length == 10
    assert section.model_fields_set == {"length"}
    assert load_section("r.yaml", "evaluate", LmEvaluateOptions) == LmEvaluateOptions()
    with pytest.raises(UsageError, match="has no such section `translate`"):
        load_section("r.yaml", "translate", SampleOptions)


def test_a_description_is_the_first_comment_line() -> None:
    assert describe(b"# yaml-language-server: $schema=x\n#\n# One.\n# Two.\ntask: lm") == "One."
    assert describe(b"task: lm\n# late") == ""


def test_did_you_mean() -> None:
    assert did_you_mean("ADAMW", ["sgd", "adamw"]) == "adamw"
    assert did_you_mean("zzz", ["sgd", "adamw"]) is None
