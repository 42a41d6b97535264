"""Every recipe that ships, nested folders included, is valid and says what it costs and reaches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commandline import InProcess

from seqkit.recipe.library import MODELINE, find_shipped, shipped_recipes
from seqkit.recipe.loading import load_recipe, resolve_recipe_text

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
    "model.d_model=6",
    "train.max_minutes=null",
    "train.max_epochs=null",
    "train.max_steps=1",
    "train.batch_size=2",
    "train.sequence_length=2",
    "train.precision=fp32",
    "data.valid_fraction=null",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_completes_one_tiny_step(
    path: Path, seqkit: InProcess, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "catalog:" in path.read_text(encoding="utf-8"):
        monkeypatch.setenv("SEQKIT_DATA_DIR", str(request.getfixturevalue("data_dir")))
    changes = [*TINY]
    if re.search(r"type: transformer\b", path.read_text(encoding="utf-8")):
        # Heads divide the width, and rotary positions want an even width for each.
        changes.append("model.num_heads=3")
    if path.stem == "hello":
        changes = [change.replace("batch_size=2", "batch_size=1") for change in changes if "fraction" not in change]
    else:
        valid = tmp_path / "valid.txt"
        valid.write_text("some words to predict\n" * 5, encoding="utf-8")
        changes.append(f"data.valid={valid}")
    done = seqkit("train", path, *(f"--set={change}" for change in changes))
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    assert '"status": "completed"' in (run / "run.json").read_text(encoding="utf-8")
