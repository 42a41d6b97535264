"""Every recipe that ships, nested folders included, is valid and says what it costs and reaches."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest
from commandline import InProcess

from seqkit.data.pair_corpora import open_pairs
from seqkit.recipe.library import MODELINE, find_shipped, shipped_recipes
from seqkit.recipe.loading import load_recipe, resolve_recipe_text
from seqkit.recipe.recipe_types import Recipe
from seqkit.recipe.schema import LmRecipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
FILES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".yml"))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").split("\n")
    body = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:body])


def test_there_are_recipes_and_the_library_lists_them_all() -> None:
    assert FILES
    assert len(shipped_recipes()) == len(FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_valid_and_resolves_to_itself(path: Path, tmp_path: Path) -> None:
    text = resolve_recipe_text(load_recipe(str(path)).recipe)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(text, encoding="utf-8")
    assert resolve_recipe_text(load_recipe(str(resolved)).recipe) == text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_header_names_the_schema_the_time_and_the_score(path: Path) -> None:
    comment = header(path)
    modeline = re.match(re.escape(MODELINE) + r" \$schema=(\S+)\n", comment)
    assert modeline, "the first line tells editors the schema"
    if "://" not in modeline.group(1):
        assert (path.parent / modeline.group(1)).is_file()
    assert re.search(r"\d\s*(s|seconds?|min|minutes?|h|hours?)\b", comment), "how long it takes"
    assert re.search(r"\d\S*\s*(nats|bits|perplexity|BLEU|chrF|%)|perplexity\s+\d|accuracy", comment), (
        "how well it does"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_found_by_name(path: Path) -> None:
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    for spelling in (name, f"{name}{path.suffix}", f"recipes/{name}{path.suffix}"):
        found = find_shipped(spelling)
        assert found is not None
        assert found.name == name
        assert found.description


TINY = (
    "model.num_layers=1",
    "train.max_minutes=null",
    "train.max_epochs=null",
    "train.max_steps=1",
    "train.batch_size=2",
    "train.precision=fp32",
)
TINY_LM = ("model.d_model=6", "train.sequence_length=2", "data.valid_fraction=null")
TINY_SEQ2SEQ = ("model.d_model=8", "train.batch_tokens=null", "train.validate_translations=2", "translate.beam=2")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_completes_one_tiny_step(
    path: Path, seqkit: InProcess, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "catalog:" in path.read_text(encoding="utf-8"):
        monkeypatch.setenv("SEQKIT_DATA_DIR", str(request.getfixturevalue("data_dir")))
    recipe = load_recipe(str(path)).recipe
    make_tiny = tiny_lm if isinstance(recipe, LmRecipe) else tiny_seq2seq
    done = seqkit("train", path, *(f"--set={change}" for change in make_tiny(recipe, tmp_path)))
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    assert '"status": "completed"' in (run / "run.json").read_text(encoding="utf-8")


def tiny_lm(recipe: Recipe, folder: Path) -> list[str]:
    assert isinstance(recipe, LmRecipe)
    changes = [*TINY, *TINY_LM]
    if recipe.model.type == "transformer":
        # Heads divide the width, and rotary positions want an even width for each.
        changes.append("model.num_heads=3")
    if recipe.data.train == "builtin:hello":
        return [change.replace("batch_size=2", "batch_size=1") for change in changes if "fraction" not in change]
    valid = folder / "valid.txt"
    valid.write_text("some words to predict\n" * 5, encoding="utf-8")
    return [*changes, f"data.valid={valid}"]


def tiny_seq2seq(recipe: Recipe, folder: Path) -> list[str]:
    """A tiny model; of the data a few pairs, whose letters the recipe's own training text has."""
    assert isinstance(recipe, Seq2SeqRecipe)
    changes = [*TINY, *TINY_SEQ2SEQ]
    if recipe.model.type == "transformer":
        changes.append("model.num_heads=2")
    for split in ("train", "valid", "test") if recipe.data.test is not None else ("train", "valid"):
        pairs = list(islice(open_pairs(recipe.data, split).lines(), 3))
        assert len(pairs) == 3
        for side, lines in zip(("src", "tgt"), zip(*pairs, strict=True), strict=True):
            text = folder / f"{split}.{side}"
            text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            changes.append(f"data.{split}.{side}={text}")
    if recipe.tokenizer.type == "bpe":
        changes += ["tokenizer.vocab_size=null", "tokenizer.num_merges=5"]
    return changes
