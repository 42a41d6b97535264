"""The compiled library: made once, found again, and never the reason why a command fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from seqkit.kernels import compiling
from seqkit.kernels.compiling import Compiled, compiled_steps
from seqkit.kernels.native import native_kernels

FUNCTIONS = ["round_rows", "scale_rows", "add_scaled_rows", "scale_relu_round_rows", "attend", "best_tokens"]
ELSEWHERE = """
import sys
from pathlib import Path
from seqkit.kernels.compiling import compiled_steps
compiled = compiled_steps(Path(sys.argv[1]))
print(compiled.remark if compiled.library else "none: " + compiled.remark)
"""


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process know of no library, until the test ends."""
    monkeypatch.setattr(compiling, "_known", {})


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    forget(monkeypatch)


@pytest.fixture(scope="module")
def _compiler() -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler on this machine")


@pytest.fixture(scope="module")
def filled_cache(_compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a process before this one has filled."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.delenv("SEQKIT_KERNELS", raising=False)
        assert told_elsewhere(cache) == str(only_file(cache))
    return cache


@pytest.fixture
def cache(filled_cache: Path, tmp_path: Path) -> Path:
    """A copy of it, of which this process has loaded nothing: a library of the same path would not be read again."""
    return Path(shutil.copytree(filled_cache, tmp_path / "cache"))


def only_file(cache: Path) -> Path:
    """The one file in a cache."""
    (path,) = (path for path in cache.rglob("*") if not path.is_dir())
    return path


def told_elsewhere(cache: Path) -> str:
    """What a process of its own has to say."""
    command = [sys.executable, "-c", ELSEWHERE, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr}"
    return done.stdout.removesuffix("\n")


def is_complete(compiled: Compiled) -> bool:
    return compiled.library is not None and all(hasattr(compiled.library, name) for name in FUNCTIONS)


def write_compiler(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def forbid_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> NoReturn:
        pytest.fail(f"a process is started: {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_processes(monkeypatch)


@pytest.mark.usefixtures("_compiler")
def test_a_first_call_leaves_one_file_and_a_second_one_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiled_steps(tmp_path)
    path = only_file(tmp_path)
    assert is_complete(first) and first.remark == str(path) and path.parent == tmp_path / "kernels"
    forbid_processes(monkeypatch)
    assert compiled_steps(tmp_path) is first
    forget(monkeypatch)
    second = compiled_steps(tmp_path)
    assert is_complete(second) and second.remark == str(path) and only_file(tmp_path) == path


@pytest.mark.usefixtures("_no_process")
def test_what_another_process_compiled_is_loaded(cache: Path) -> None:
    compiled = compiled_steps(cache)
    assert is_complete(compiled) and compiled.remark == str(only_file(cache))
    assert native_kernels(cache) is not None


@pytest.mark.usefixtures("_no_process")
def test_it_can_be_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQKIT_KERNELS", "off")
    assert compiled_steps(cache) == Compiled(None, "switched off by SEQKIT_KERNELS")
    assert native_kernels(cache) is None


@pytest.mark.usefixtures("_no_process")
def test_without_a_compiler_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled_steps(tmp_path) == Compiled(None, "there is no C compiler (cc, gcc or clang)")
    assert native_kernels(tmp_path) is None


@pytest.mark.usefixtures("_no_process")
def test_a_named_compiler_that_does_not_exist_is_told_and_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "no-such-cc"))
    compiled = compiled_steps(tmp_path / "cache")
    assert compiled.library is None and native_kernels(tmp_path / "cache") is None
    assert str(tmp_path / "no-such-cc") in compiled.remark and "\n" not in compiled.remark


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["echo '  steps.c: the machine\tis odd' >&2", "echo more >&2", "exit 1"], "steps.c: the machine is odd"),
        (["exit 1"], "no message"),
        # It claims to have done its work.
        (["exit 0"], "No such file"),
        (["exec sleep 60"], "timed out"),
        (["printf 'caf\\351\\n' >&2", "exit 1"], "caf"),
    ],
    ids=["a message of two lines", "no message", "no library", "too slow", "a message in Latin-1"],
)
def test_a_compiler_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], told: str
) -> None:
    if told == "timed out":
        monkeypatch.setattr(compiling, "_SECONDS", 0.2)
    compiler = write_compiler(tmp_path / "odd-cc", *lines)
    monkeypatch.setenv("CC", compiler)
    compiled = compiled_steps(tmp_path / "cache")
    assert compiled.library is None and native_kernels(tmp_path / "cache") is None
    assert compiled.remark.startswith(f"{compiler} fails: ") and told in compiled.remark
    assert "\n" not in compiled.remark and "more" not in compiled.remark
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".so"]


@pytest.mark.usefixtures("_compiler")
def test_a_named_compiler_may_have_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = write_compiler(tmp_path / "odd-cc", 'echo "$1" >&2', "exit 1")
    monkeypatch.setenv("CC", f"{compiler} -m64")
    assert compiled_steps(tmp_path / "cache").remark == f"{compiler} fails: -m64"


@pytest.mark.usefixtures("_compiler")
def test_where_no_folder_can_be_made_the_library_is_there_all_the_same(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("not a folder", encoding="utf-8")
    compiled = compiled_steps(cache)
    assert is_complete(compiled) and compiled.remark == "compiled for this process alone"
    assert cache.read_text(encoding="utf-8") == "not a folder" and only_file(tmp_path) == cache


def test_another_compiler_makes_a_library_of_its_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiled_steps(cache)
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    monkeypatch.setenv("CC", write_compiler(tmp_path / "other-cc", f'exec {found} "$@"'))
    second = compiled_steps(cache)
    assert is_complete(second) and first.remark != second.remark
    assert {str(path) for path in cache.rglob("*.so")} == {first.remark, second.remark}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_library_that_was_cut_short_is_replaced(cache: Path, share: float) -> None:
    path = only_file(cache)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(share * size)])
    # In a process of its own: the system's loader would end the one in which it meets half a library.
    assert told_elsewhere(cache) == str(path)
    assert only_file(cache).stat().st_size == size
