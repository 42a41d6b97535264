"""``seqkit recipe`` as a shell sees it: streams, exit codes, suggestions, completion, and no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seqkit
from seqkit.cli.app import run
from seqkit.recipe import library

RECIPE = b"""\
# yaml-language-server: $schema=recipe.schema.json
# A tiny recipe for tests.\r
task: lm
data: {train: builtin:python-docs}
model: {type: lstm}
train: {max_minutes: 3}
"""
BAD = b"task: lm\ndata: {train: x}\nmodel: {type: lstm, num_layer: 2}\ntrain: {max_minutes: 0}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with two shipped recipes, one of them nested."""
    shipped = tmp_path / "shipped"
    (shipped / "nested").mkdir(parents=True)
    (shipped / "tiny_charlm.yaml").write_bytes(RECIPE)
    (shipped / "nested" / "deep.yaml").write_bytes(RECIPE)
    monkeypatch.setattr(library, "_folder", lambda: shipped)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


def test_ls(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["recipe", "ls"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == b"nested/deep  lm  A tiny recipe for tests.\ntiny_charlm  lm  A tiny recipe for tests.\n"
    assert err == b""
    assert run(["recipe", "ls", "--json"]) == 0
    listed = json.loads(capsysbinary.readouterr().out)
    assert listed["recipes"][1] == {
        "name": "tiny_charlm",
        "task": "lm",
        "description": "A tiny recipe for tests.",
    }


@pytest.mark.parametrize("name", ["tiny_charlm", "tiny_charlm.yaml", "recipes/tiny_charlm.yaml", "deep"])
def test_show_is_byte_exact(name: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["recipe", "show", name]) == 0
    assert capsysbinary.readouterr().out == RECIPE


def test_a_file_wins_over_a_shipped_name(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Path("tiny_charlm").write_bytes(b"# mine\n")
    assert run(["recipe", "show", "tiny_charlm"]) == 0
    assert capsysbinary.readouterr().out == b"# mine\n"


def test_cp_never_overwrites_unasked(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["recipe", "cp", "tiny_charlm", "-q"]) == 0
    assert capsysbinary.readouterr() == (b"tiny_charlm.yaml\n", b"")
    assert Path("tiny_charlm.yaml").read_bytes() == RECIPE
    Path("tiny_charlm.yaml").write_bytes(b"mine")
    assert run(["recipe", "cp", "tiny_charlm"]) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err == b"seqkit: error: tiny_charlm.yaml exists; it stays as it is\nhint: --force replaces it\n"
    assert Path("tiny_charlm.yaml").read_bytes() == b"mine"
    assert run(["recipe", "cp", "tiny_charlm", ".", "--force"]) == 0
    assert Path("tiny_charlm.yaml").read_bytes() == RECIPE
    assert run(["recipe", "cp", "tiny_charlm", "no/such/folder.yaml"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipe", "show", "tiny_charml"], "no recipe tiny_charml; did you mean tiny_charlm?"),
        (["recipe", "cp", "tiny_charml"], "no recipe tiny_charml; did you mean tiny_charlm?"),
        (["recipe", "validate", "tiny_charml"], "no recipe tiny_charml; did you mean tiny_charlm?"),
        (["recipe", "schema", "--task", "ml"], "no task ml; did you mean lm?"),
        (["recpie", "ls"], "no such command 'recpie'; did you mean 'recipe'?"),
        (["recipe", "shwo"], "no such command 'shwo'; did you mean 'show'?"),
        (["recipe", "ls", "--jsno"], "no such option: --jsno; did you mean --json?"),
        (["recipe", "ls", "--jso"], "no such option: --jso; did you mean --json?"),
        (["recipe", "validate", "-", "-"], "stdin can be read only once: `-` is given twice"),
    ],
)
def test_a_mistyped_word_names_the_nearest(
    arguments: list[str], message: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(arguments) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.decode().splitlines()[0] == f"seqkit: error: {message}"


def test_validate_checks_all_and_lists_every_fault(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Path("bad.yaml").write_bytes(BAD)
    Path("worse.yaml").write_bytes(b"a: [")
    assert run(["recipe", "validate", "bad.yaml", "tiny_charlm", "worse.yaml"]) == 2
    out, err = capsysbinary.readouterr()
    assert out == b"tiny_charlm: ok\n"
    assert err.decode().splitlines() == [
        "seqkit: error: bad.yaml:3:21: model.num_layer: unknown key; did you mean num_layers?",
        "seqkit: error: bad.yaml:4:22: train.max_minutes: must be above 0, found 0",
        "seqkit: error: worse.yaml:1:5: not YAML: expected a value, but found the end of the text",
    ]
    assert run(["recipe", "validate", "tiny_charlm", "--set", "model.type=gru"]) == 0
    assert capsysbinary.readouterr() == (b"tiny_charlm: ok\n", b"")


def test_validate_json_has_the_parts_of_each_fault(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Path("bad.yaml").write_bytes(BAD)
    assert run(["recipe", "validate", "bad.yaml", "tiny_charlm", "none.yaml", "--json"]) == 2
    result = json.loads(capsysbinary.readouterr().out)
    assert result["ok"] is False
    assert [report["ok"] for report in result["recipes"]] == [False, True, False]
    assert result["recipes"][0]["errors"][0] == {
        "message": "bad.yaml:3:21: model.num_layer: unknown key; did you mean num_layers?",
        "file": "bad.yaml",
        "line": 3,
        "column": 21,
        "key": "model.num_layer",
    }
    assert run(["recipe", "validate", "bad.yaml", "--json", "--set", "x=1"]) == 2
    last = json.loads(capsysbinary.readouterr().out)["recipes"][0]["errors"][-1]
    assert (last["file"], last["line"], last["message"]) == ("--set", None, "--set x: unknown key")


def test_resolve_twice_is_resolve_once(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["recipe", "resolve", "tiny_charlm", "--set", "data.train=a.txt", "--set", "model.d_model=3"]) == 0
    once = capsysbinary.readouterr().out
    assert f"train: {Path.cwd()}/a.txt\n".encode() in once
    assert b"\n  d_model: 3\n" in once
    Path("once.yaml").write_bytes(once)
    assert run(["recipe", "resolve", "once.yaml", "-o", "twice.yaml"]) == 0
    assert capsysbinary.readouterr().out == b""
    assert Path("twice.yaml").read_bytes() == once


def test_resolve_from_stdin_through_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "seqkit", "recipe", "resolve", "-"],
        input=BAD,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(seqkit.__file__).parents[1]), "LC_ALL": "C"},
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"seqkit: error: <stdin>:3:21: model.num_layer: unknown key")


def test_schema(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["recipe", "schema", "--task", "lm"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["properties"]["task"]["const"] == "lm"


def test_completion_prints_the_choices_and_nothing_else(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my.yaml").touch()
    Path("my.txt").touch()
    Path("my folder").mkdir()
    monkeypatch.setenv("_SEQKIT_COMPLETE", "complete_bash")
    for words, offered in (
        ("seqkit recipe re", ["resolve"]),
        (
            "seqkit recipe resolve x --set model.d_",
            ["model.d_model=", "model.d_embedding=", "model.d_feed_forward=", "model.d_attention="],
        ),
        ("seqkit recipe validate my", ["my folder/", "my.yaml"]),
        ("seqkit recipe schema --task l", ["lm"]),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit) as ended:
            run([])
        out, err = capfd.readouterr()
        assert (ended.value.code, err) == (0, ""), words
        assert out.split("\n")[:-1] == offered, words


def test_completion_functions() -> None:
    from seqkit.cli.completion import complete_override_key, complete_recipe

    assert complete_recipe("tiny") == ["tiny_charlm"]
    assert complete_recipe("/no/such/") == []
    assert complete_override_key("train.bptt=t") == ["train.bptt=truncated"]
    assert complete_override_key("train.optimizer.type=") == [
        f"train.optimizer.type={name}" for name in ("sgd", "adam", "adamw", "rmsprop", "muon")
    ]
    assert complete_override_key("model.residual=f") == ["model.residual=false"]
    assert complete_override_key("nothing=") == []
