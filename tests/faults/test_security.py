"""What is read is never run, what is written stays in its folder, and what the environment holds is not told."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import ForkServer, InProcess, Tiny
from test_fuzz_files import set_file
from tiny_pairs import TinyPairs

import seqkit as package

PACKAGE = Path(package.__file__).parent
SECRET = "hunter2-do-not-tell"


class Bomb:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self._mark),))


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a pickle, also through PyTorch, fails the test."""
    # Training imports it, and while it is imported it reads one of its own.
    importlib.import_module("torch._dynamo")

    def refuse(*args: object, **kwargs: object) -> Any:
        raise AssertionError("a pickle is being read")

    for name in ("Unpickler", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)


def test_no_command_reads_a_pickle(
    no_pickles: None, tiny: Tiny, tiny_pairs: TinyPairs, bpe_examples: Path, seqkit: InProcess, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny.run, tmp_path / "run", symlinks=True))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    for words in (
        ("train", tiny.recipe, "--run-dir", run, "--resume"),
        ("train", tiny.recipe, "--run-dir", "again", "--init-from", tiny.run),
        ("train", tiny.recipe, "--dry-run"),
        ("sample", "--model", tiny.run, "--length", 3),
        ("evaluate", "--model", tiny.run, tiny.text),
        ("average", tiny.run, "-o", "averaged"),
        ("translate", "--model", tiny_pairs.run, "--text", "abc"),
        ("translate", "--model", tiny_pairs.run, "--ensemble", tiny_pairs.run, "--text", "abc"),
        ("evaluate", "--model", tiny_pairs.run, tiny_pairs.src, tiny_pairs.tgt),
        ("bpe", "encode", bpe_examples / "text", "--tokenizer", bpe_examples / "bpe.json"),
        ("runs", "ls", "--runs-dir", tiny.runs),
        ("runs", "show", tiny.run),
        ("plot", "curves", tiny.run),
    ):
        done = seqkit(*words)
        assert done.code == 0, (words, done.err)


@pytest.mark.parametrize("name", ["model.safetensors", "train_state.safetensors", "tokenizer.json", "model.json"])
def test_a_pickle_in_place_of_a_file_does_nothing(tiny: Tiny, seqkit: InProcess, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(tiny.run, tmp_path / "run", symlinks=True))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    mark = tmp_path / "mark"
    folder = (run / "last").resolve()
    torch.save(Bomb(mark), folder / "train_state.pt")
    for content in (pickle.dumps(Bomb(mark)), (folder / "train_state.pt").read_bytes()):
        set_file(folder, name, content)
        for words in (
            ("sample", "--model", folder, "--length", 2),
            ("train", tiny.recipe, "--run-dir", run, "--resume"),
        ):
            done = seqkit(*words)
            assert done.code in (0, 1) and "Traceback" not in done.err, done.err
    assert not mark.exists()
    with pytest.raises(Exception, match="mark"):  # it is a bomb: the second one finds the mark of the first
        for _ in range(2):
            pickle.loads(pickle.dumps(Bomb(mark)))


def test_the_code_has_no_way_to_run_what_it_reads() -> None:
    """No pickle, no ``eval``, no unsafe YAML, no shell, anywhere in the package."""
    modules = {
        "pickle",
        "cPickle",
        "_pickle",
        "dill",
        "shelve",
        "marshal",
        "joblib",
        "cloudpickle",
        "tarfile",
        "zipfile",
    }
    calls = {"eval", "exec", "compile", "torch.load", "torch.jit.load", "torch.hub.load", "numpy.load", "np.load"}
    calls |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "pickle.loads"}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names) if {name.name.partition(".")[0] for name in names} & modules:
                    found.append((path.name, node.lineno))
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in modules:
                    found.append((path.name, node.lineno))
                case ast.Call(func=function) if ast.unparse(function) in calls:
                    found.append((path.name, node.lineno))
                case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                    found.append((path.name, node.value.lineno))
                case _:
                    pass
    assert not found


@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname", "..", "a/../../outside", "tokenizer/../x.json"])
def test_names_in_a_list_of_sums_do_not_leave_the_folder(
    tiny: Tiny, seqkit: InProcess, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree((tiny.run / "last").resolve(), tmp_path / "deep" / "model"))
    (tmp_path / "outside").write_text("secret")
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write("0" * 64 + f"  {name}\n")
    done = seqkit("sample", "--model", folder)
    assert done.code == 1 and "SHA256SUMS" in done.error_line and "damaged: not a checksum" in done.error_line


@pytest.mark.parametrize("name", ["...yaml", "..yaml", ". .yaml", "-.yaml", "a b.yaml"])
def test_a_recipe_name_does_not_leave_the_folder_of_runs(
    tiny: Tiny, seqkit: InProcess, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(tiny.recipe.read_bytes())
    done = seqkit("train", f"./{name}", "--set", "train.max_steps=1", "--runs-dir", "deep/runs", "-q")
    assert done.code == 0, done.err
    run = Path(done.out.removesuffix("\n"))
    assert run.resolve().parent.parent == tmp_path / "deep" / "runs" and (run / "run.json").is_file()
    assert json.loads(seqkit("runs", "ls", "--runs-dir", "deep/runs", "--json").out)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_replaced_file_keeps_who_may_read_it(
    bpe_examples: Path, seqkit: InProcess, tmp_path: Path, mode: int
) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(mode)
    words = ("bpe", "encode", bpe_examples / "text", "--tokenizer", bpe_examples / "bpe.json")
    assert seqkit(*words, "-o", out).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == mode and out.read_text() != "old"
    before = os.umask(0o077)
    try:
        assert seqkit(*words, "-o", "new").code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("new").stat().st_mode) == 0o600


def test_a_private_umask_keeps_a_run_private(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert seqkit("train", tiny.recipe, "--run-dir", "run", "--cache-dir", "private").code == 0
    finally:
        os.umask(before)
    for folder in ("run", "private"):
        for path in [Path(folder), *Path(folder).rglob("*")]:
            if not path.is_symlink():
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_environment_is_not_told(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    env = {"API_TOKEN": SECRET, "SEQKIT_UNKNOWN": SECRET, "PASSWORD": SECRET}
    runs = [
        (0, ("train", tiny.recipe, "--run-dir", "run", "--cache-dir", "cache", "-vv")),
        (0, ("env",)),
        (0, ("runs", "show", "run", "--json")),
        (0, ("sample", "--model", "run", "--length", 2, "-vv")),
        (2, ("train", tiny.recipe, "--set", "data.train=${NOT_SET}", "--run-dir", "other", "-vv")),
        (1, ("train", tiny.recipe, "--set", "train.optimizer.lr=1e30", "--run-dir", "failed", "-vv")),
    ]
    for code, words in runs:
        done = fork_server.start(*words, folder=tmp_path, env=env).wait()
        assert done.code == code, done.err
        assert SECRET not in done.out + done.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
