"""Folders that take no writing: one line that names the place, the right exit code, and nothing half done."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import Done, InProcess, Tiny
from test_fetch import CONTENT, HASTY, Server, pin, server, whole
from tiny_pairs import TinyPairs

from seqkit.data.fetch import fetch_files
from seqkit.errors import SeqkitError

__all__ = ["server"]

Seal = Callable[[Path], Path]


@pytest.fixture
def seal() -> Iterator[Seal]:
    """Makes a folder read-only as it is: by a mount of it upon itself, or by its permissions if they bind."""
    sealed: list[Path] = []

    def seal_folder(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        if os.geteuid() != 0:
            folder.chmod(0o555)
        else:
            if shutil.which("mount") is None:
                pytest.skip("no read-only folder: no mount here, and permissions do not bind the superuser")
            for options in (["--bind", str(folder)], ["-o", "remount,bind,ro"]):
                done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"no read-only folder: {done.stderr.strip()}")
                if folder not in sealed:
                    sealed.append(folder)
        return folder

    yield seal_folder
    for folder in sealed:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)
        else:
            folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_refused(done: Done, folder: Path, code: int) -> None:
    assert (done.code, done.out) == (code, ""), done
    line = done.error_line
    assert str(folder) in line, line
    assert "read-only" in line.lower() or "permission denied" in line.lower(), line


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--run-dir", "PLACE/run"), 2),
        (("--run-dir", "PLACE"), 2),
        (("--run-dir", "PLACE", "--resume"), 2),
        (("--runs-dir", "PLACE"), 2),
        (("--run-dir", "run", "--cache-dir", "PLACE"), 1),
        (("--run-dir", "run", "--cache-dir", "PLACE/deep/cache"), 1),
        (("--run-dir", "run", "--lock", "PLACE/lock"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_training(seqkit: InProcess, tiny: Tiny, tmp_path: Path, seal: Seal, words: tuple[str, ...], code: int) -> None:
    place = seal(tmp_path / "place")
    done = seqkit("train", tiny.recipe, *(word.replace("PLACE", str(place)) for word in words))
    assert_refused(done, place, code)
    assert names(place) == [] and not (tmp_path / "run").exists()


def test_a_cache_of_parallel_texts(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path, seal: Seal) -> None:
    place = seal(tmp_path / "place")
    done = seqkit("train", tiny_pairs.recipe, "--run-dir", "run", "--cache-dir", place)
    assert_refused(done, place, 1)
    assert "SEQKIT_CACHE_DIR" in done.err and not (tmp_path / "run").exists()


def test_a_run_that_has_become_read_only(seqkit: InProcess, tiny: Tiny, tmp_path: Path, seal: Seal) -> None:
    run = Path(shutil.copytree(tiny.run, tmp_path / "run", symlinks=True))
    before = names(run)
    seal(run)
    done = seqkit("train", tiny.recipe, "--run-dir", run, "--resume")
    # It is complete; but whether another process works in it, only a lock tells, and that is a file too.
    assert_refused(done, run, 2)
    assert names(run) == before
    # To read it needs no permission to write.
    assert seqkit("evaluate", "--model", run, tiny.text).code == 0
    assert seqkit("sample", "--model", run, "--length", 2).code == 0


OUTPUTS: dict[str, tuple[str, ...]] = {
    "bpe learn": ("bpe", "learn", "TEXT", "--num-merges", "9", "-o", "PLACE/new"),
    "bpe encode": ("bpe", "encode", "TEXT", "--tokenizer", "BPE", "-o", "PLACE/new"),
    "bpe decode": ("bpe", "decode", "TEXT", "--tokenizer", "BPE", "-o", "PLACE/new"),
    "bpe convert": ("bpe", "convert", "BPE", "--to", "huggingface", "-o", "PLACE/new"),
    "translate": ("translate", "TEXT", "--model", "PAIRS", "--beam", "1", "-o", "PLACE/new"),
    "average": ("average", "RUN", "-o", "PLACE/new"),
    "recipe resolve": ("recipe", "resolve", "RECIPE", "-o", "PLACE/new"),
    "recipe cp": ("recipe", "cp", "gpt_charlm", "PLACE/new"),
    "plot curves": ("plot", "curves", "RUN", "-o", "PLACE/new.svg"),
}


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_output(
    seqkit: InProcess,
    tiny: Tiny,
    tiny_pairs: TinyPairs,
    bpe_examples: Path,
    tmp_path: Path,
    seal: Seal,
    name: str,
    is_there: bool,
) -> None:
    place = tmp_path / "place"
    words = OUTPUTS[name]
    if is_there:
        if name in ("average", "recipe cp"):
            pytest.skip("it asks for --force before it looks at the folder")
        place.mkdir()
        (place / Path(words[-1]).name).write_text("old")
    before = names(seal(place))
    stands_for = {"TEXT": bpe_examples / "text", "BPE": bpe_examples / "bpe.json", "PAIRS": tiny_pairs.run}
    stands_for |= {"RUN": tiny.run, "RECIPE": tiny.recipe}
    done = seqkit(*(stands_for.get(word, word.replace("PLACE", str(place))) for word in words), "-q")
    assert_refused(done, place, 1)
    assert names(place) == before


def test_fetching(server: Server, tmp_path: Path, seal: Seal) -> None:
    place = seal(tmp_path / "place")
    with pytest.raises(SeqkitError) as caught:
        fetch_files([pin(server, whole(CONTENT))], place, patience=HASTY)
    assert caught.value.exit_code == 1 and server.seen == []
    assert caught.value.message.startswith(f"cannot write {place}/")
    assert caught.value.hint is not None and "--cache-dir" in caught.value.hint
