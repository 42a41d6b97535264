"""Byte-pair encoding in recipes: its keys, learning it in the run, and taking one that was made before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import InProcess
from pydantic import ValidationError
from tiny_runs import run_training, tiny_recipe

from seqkit.data.corpora import prepare_text_corpora
from seqkit.errors import InterruptedRunError, MissingDataError, RecipeError, UsageError
from seqkit.recipe.loading import examine, load_recipe, resolve_recipe_text
from seqkit.recipe.schema import TextData
from seqkit.recipe.tokenizer_schema import BpeTokenizer as BpeConfig
from seqkit.runs.checkpoint import read_checkpoint
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_learning import fit_bpe
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.registry import fit_tokenizer, load_tokenizer, made_before, save_tokenizer

TEXT = "the low lowest\nof the newer widest\n\nlower than  low\n" * 12

RECIPE = """\
task: lm
seed: 3
data: {train: text.txt}
tokenizer: {type: bpe, path: made/tokenizer.json}
model: {type: gru, d_model: 5}
train: {max_steps: 2, batch_size: 2, sequence_length: 5, device: cpu, sample_length: 3}
"""


def config(**options: Any) -> BpeConfig:
    return BpeConfig(**{"type": "bpe", **options})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text, a tokenizer made from it, and a recipe that names both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "made").mkdir()
    save_tokenizer(fit_bpe(config(num_merges=9), [TEXT]), tmp_path / "made" / "tokenizer.json")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


# Keys


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "give vocab_size, num_merges or path"),
        ({"vocab_size": 300, "num_merges": 5}, "give only one of vocab_size and num_merges"),
        ({"num_merges": 5, "path": "t.json"}, "give only one of num_merges and path"),
        ({"path": "t.json", "min_frequency": 3}, "min_frequency says how to learn a tokenizer, but path names one"),
        ({"path": "t.json", "special_tokens": ["<x>"]}, "special_tokens says how"),
        ({"path": "t.json", "boundary": "end"}, "boundary says how"),
        ({"num_merges": 5, "special_tokens": ["x"]}, "two or more characters"),
        ({"num_merges": 5, "special_tokens": ["a b"]}, "without a blank"),
        ({"num_merges": 5, "special_tokens": ["ab", "ab"]}, "twice"),
        ({"num_merges": 5, "unseen": "keep"}, "unseen"),
        ({"num_merges": 5, "character_coverage": 0.0}, "character_coverage"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_keys_that_do_not_fit_together(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        config(**options)


def test_a_path_beside_defaults_is_fine() -> None:
    assert config(path="t.json", min_frequency=2, boundary="start", special_tokens=[]).path == "t.json"


# path


def test_the_path_becomes_absolute_and_stays_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("r.yaml").recipe
    assert isinstance(recipe.tokenizer, BpeConfig)
    assert recipe.tokenizer.path == str(folder / "made" / "tokenizer.json")
    resolved = resolve_recipe_text(recipe)
    (folder / "resolved.yaml").write_text(resolved)
    monkeypatch.chdir(folder / "made")
    assert resolve_recipe_text(load_recipe(str(folder / "resolved.yaml")).recipe) == resolved


def test_variables_and_special_names_in_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path_of(written: str) -> str | None:
        tokenizer = load_recipe("r.yaml", overrides=[f"tokenizer.path={written}"]).recipe.tokenizer
        assert isinstance(tokenizer, BpeConfig)
        return tokenizer.path

    monkeypatch.setenv("MADE", "somewhere")
    monkeypatch.setenv("HOME", "/home/nobody")
    assert path_of("${MADE}/t.json") == str(folder / "somewhere" / "t.json")
    assert path_of("~/t.json") == "/home/nobody/t.json"
    # The path of one file: no glob and no corpus.
    assert path_of("'made[1]/*.json'") == str(folder / "made[1]" / "*.json")
    assert path_of("builtin:hello") == str(folder / "builtin:hello")
    for wrong, what in (("${UNSET_HERE}/t", "UNSET_HERE is not set"), ("''", "expected a path, found empty text")):
        with pytest.raises(RecipeError, match=what):
            path_of(wrong)


def test_a_wrong_type_of_path_is_told_once(folder: Path) -> None:
    from seqkit.recipe.loading import find_recipe

    faults = examine(find_recipe("r.yaml"), overrides=["tokenizer.path=[1]"]).faults
    assert [str(fault) for fault in faults if "tokenizer.path" in str(fault)] == list(map(str, faults))
    assert len(faults) == 1


def test_a_tokenizer_made_before(folder: Path) -> None:
    made = load_tokenizer(folder / "made" / "tokenizer.json")
    found = made_before(config(path=str(folder / "made" / "tokenizer.json")))
    assert found is not None and found.to_json() == made.to_json()
    assert made_before(config(num_merges=3)) is None
    fitted = fit_tokenizer(config(path=str(folder / "made" / "tokenizer.json")), ["other text"])
    assert fitted.to_json() == made.to_json()


def test_a_missing_or_foreign_file(folder: Path) -> None:
    with pytest.raises(MissingDataError, match=r"none\.json: no such tokenizer file") as missing:
        made_before(config(path=str(folder / "none.json")))
    assert missing.value.exit_code == 2
    for content, what in [
        ('{"version": "1.0", "model": {"type": "BPE"}}', "no seqkit_tokenizer in it"),
        ("\x00\x01", "not JSON"),
        (ByteTokenizer().to_json(), "a tokenizer of type byte, where tokenizer.path takes one of type bpe"),
    ]:
        (folder / "foreign.json").write_text(content)
        with pytest.raises(UsageError, match=what) as foreign:
            made_before(config(path=str(folder / "foreign.json")))
        assert foreign.value.exit_code == 2
        assert "foreign.json" in foreign.value.message and "\n" not in foreign.value.message
    with pytest.raises(UsageError, match="cannot read the tokenizer: Is a directory"):
        made_before(config(path=str(folder)))


def test_a_file_that_changed_is_read_again(folder: Path) -> None:
    path = folder / "made" / "tokenizer.json"
    data = TextData(train=str(folder / "text.txt"))
    first = prepare_text_corpora(data, config(path=str(path)), folder / "cache")
    save_tokenizer(fit_bpe(config(num_merges=2), [TEXT]), path)
    second = prepare_text_corpora(data, config(path=str(path)), folder / "cache")
    assert first.tokenizer.vocab_size == second.tokenizer.vocab_size + 7
    assert second.train.num_tokens > first.train.num_tokens


# Whole corpora and runs


def test_the_validation_part_is_not_learned_from(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT + "zzzz zzzz\n")
    data = TextData(train=str(tmp_path / "text.txt"), valid_fraction=0.05)
    corpora = prepare_text_corpora(data, config(num_merges=9), tmp_path / "cache")
    assert isinstance(corpora.tokenizer, BpeTokenizer)
    assert "z" not in corpora.tokenizer.pieces
    valid = corpora.tokenizer.decode(corpora.valid.ids.tolist())
    train = corpora.tokenizer.decode(corpora.train.ids.tolist())
    assert train + valid == TEXT + "zzzz zzzz\n"
    assert train.endswith("\n")
    # Kept in the cache for the next run.
    again = prepare_text_corpora(data, config(num_merges=9), tmp_path / "cache")
    assert again.tokenizer.to_json() == corpora.tokenizer.to_json()


@pytest.mark.parametrize("tokenizer", [{"vocab_size": 300}, {"num_merges": 9, "unseen": "unk", "boundary": "end"}])
def test_a_run_resumes_bit_for_bit(tokenizer: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    torch.set_num_threads(1)
    (tmp_path / "text.txt").write_text(TEXT)
    recipe = tiny_recipe(
        tmp_path / "text.txt",
        model={"type": "gru", "dropout": 0.2},
        train={"max_steps": 8, "evaluate_every": 4, "sample_length": 5},
        tokenizer={"type": "bpe", **tokenizer},
    )
    whole, _ = run_training(recipe, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        run_training(recipe, tmp_path / "parts", stop_at=5)
    parts, _ = run_training(recipe, tmp_path / "parts", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name])
    saved = read_checkpoint(tmp_path / "whole" / "last").tokenizers["tokenizer.json"]
    assert json.loads(saved)["type"] == "bpe"


def test_train_sample_and_evaluate(seqkit: InProcess, folder: Path) -> None:
    done = seqkit("train", "r.yaml", "--run-dir", "run")
    assert done.code == 0, done.err
    # The checkpoint is enough, wherever it is.
    (folder / "made" / "tokenizer.json").unlink()
    (folder / "run").rename(folder / "moved")
    assert seqkit("sample", "--model", "moved", "--prompt", "the low", "--length", 5, "--seed", 1).code == 0
    done = seqkit("evaluate", "--model", "moved")
    assert done.code == 0, done.err
    assert "nats/piece" in done.out


def test_a_tokenizer_that_is_not_there_costs_no_run_folder(seqkit: InProcess, folder: Path) -> None:
    (folder / "made" / "tokenizer.json").unlink()
    done = seqkit("train", "r.yaml", "--run-dir", "run")
    assert done.code == 2
    assert done.error_line.startswith("r.yaml:4:")
    assert "tokenizer.path: " in done.error_line and "no such tokenizer file" in done.error_line
    assert not (folder / "run").exists()


def test_a_run_does_not_go_on_with_another_tokenizer(seqkit: InProcess, folder: Path) -> None:
    assert seqkit("train", "r.yaml", "--run-dir", "run").code == 0
    # As if it had been stopped before its last step.
    record = json.loads((folder / "run" / "run.json").read_text())
    (folder / "run" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    again = seqkit("train", "r.yaml", "--run-dir", "run", "--resume")
    assert again.code == 0, again.err
    (folder / "run" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    made = load_tokenizer(folder / "made" / "tokenizer.json")
    assert isinstance(made, BpeTokenizer)
    pieces = list(made.pieces)
    first, second = pieces.index("h"), pieces.index("w")
    pieces[first], pieces[second] = pieces[second], pieces[first]
    save_tokenizer(BpeTokenizer(pieces, made.merges), folder / "made" / "tokenizer.json")
    done = seqkit("train", "r.yaml", "--run-dir", "run", "--resume")
    assert done.code == 2
    assert "the tokenizer is no longer the one that this run began with" in done.error_line


def test_a_vocabulary_too_small_for_the_text(seqkit: InProcess, folder: Path) -> None:
    done = seqkit("train", "r.yaml", "--set", "tokenizer={type: bpe, vocab_size: 99}", "--run-dir", "run")
    assert done.code == 2
    assert "the smallest that works" in done.error_line
