"""``kill -9`` before every change on disk: what is there afterwards is whole, and the next call finishes the work."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from commandline import ForkServer, Tiny
from conftest import Tally
from test_fetch import CONTENT, HASTY, Server, pin, server, visible, whole
from tiny_pairs import TinyPairs
from tripwire import DISK, Trip, arm

from seqkit.data.fetch import fetch_files
from seqkit.runs.checkpoint import read_checkpoint

__all__ = ["server"]

KILL = [int(signal.SIGKILL)]
SETTINGS = ("--set", "train.checkpoint_every=1", "--set", "train.average_last=3")


def was_killed(
    fork_server: ForkServer, folder: Path, call: int, *words: object, functions: tuple[str, ...] = DISK
) -> bool:
    """Run a command line that is killed before its ``call``-th change; whether it had so many."""
    code = fork_server.start(*words, folder=folder, trip=Trip(functions, call, KILL)).wait_for_code()
    assert code in (0, -signal.SIGKILL), (folder, call, words)
    return code != 0


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    words = ["train", tiny.recipe, *SETTINGS, "--run-dir", "run", "--cache-dir", "cache", "-q"]
    assert fork_server.start(*words, folder=folder).wait().code == 0
    return folder / "run"


def assert_links_whole(run: Path) -> None:
    for link in ("last", "best"):
        if (run / link).is_symlink():
            assert read_checkpoint(run / link).train_state is not None


@pytest.mark.parametrize(("num_kills", "seed"), [(5, 0), pytest.param(45, 1, marks=pytest.mark.slow)])
def test_training_and_preparation(
    tiny: Tiny,
    fork_server: ForkServer,
    tmp_path: Path,
    uninterrupted: Path,
    tally: Tally,
    num_kills: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    num_killed, num_runs, is_done = 0, 0, True
    while num_killed < num_kills or not is_done:
        if is_done:
            # A cache of its own: the store is built under fire too.
            num_runs += 1
            folder = tmp_path / str(num_runs)
            folder.mkdir()
        words = ("train", tiny.recipe, *SETTINGS, "--run-dir", "run", "--resume", "--cache-dir", "cache", "-q")
        if num_killed < num_kills:
            is_done = not was_killed(fork_server, folder, rng.randrange(1, 160), *words)
        else:
            is_done = fork_server.start(*words, folder=folder).wait().code == 0
            assert is_done
        num_killed += not is_done
        run = folder / "run"
        if run.exists():
            assert_links_whole(run)
        if is_done:
            for link in ("last", "best"):
                for name in ("model.safetensors", "tokenizer.json"):
                    assert (run / link / name).read_bytes() == (uninterrupted / link / name).read_bytes()
            left = [path.name for path in [*run.iterdir(), *(run / "checkpoints").iterdir()] if path.name[0] == "."]
            assert left == [".lock"]
    tally("kills -9 of trainings and their preparation", num_killed)


@pytest.mark.parametrize(("stride", "least"), [(4, 4), pytest.param(1, 4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["bpe encode", "bpe learn", "translate", "bpe convert"])
def test_output_files(
    tiny_pairs: TinyPairs,
    bpe_examples: Path,
    fork_server: ForkServer,
    tmp_path: Path,
    tally: Tally,
    command: str,
    stride: int,
    least: int,
) -> None:
    words = {
        "bpe encode": ("bpe", "encode", bpe_examples / "text", "--tokenizer", bpe_examples / "bpe.json", "-o", "out"),
        "bpe learn": ("bpe", "learn", bpe_examples / "text", "--num-merges", 9, "-o", "out", "-q"),
        "translate": ("translate", "--model", tiny_pairs.run, tiny_pairs.src, "-o", "out", "-q"),
        "bpe convert": ("bpe", "convert", bpe_examples / "bpe.json", "--to", "huggingface", "-o", "out", "-q"),
    }[command]
    out = tmp_path / "out"
    assert fork_server.start(*words, folder=tmp_path).wait_for_code() == 0
    complete = out.read_bytes()
    functions = (*DISK, "seqkit.cli.line_filter.write_answer")
    call = 1
    while True:
        out.write_text("old")
        is_killed = was_killed(fork_server, tmp_path, call, *words, functions=functions)
        assert out.read_bytes() in (b"old", complete)
        if not is_killed:
            assert out.read_bytes() == complete
            # What those that were killed have left, this one has removed.
            assert not list(tmp_path.glob(".*"))
            break
        call += stride
    assert call > least
    tally("kills -9 of commands that write a file", call // stride)


@pytest.mark.parametrize(("stride", "least"), [(9, 9), pytest.param(1, 20, marks=pytest.mark.slow)])
def test_average_replaces_a_model_at_one_moment(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path, tally: Tally, stride: int, least: int
) -> None:
    words = ("average", uninterrupted, "-o", "averaged", "--force", "-q")
    shutil.copytree(uninterrupted / "last", tmp_path / "averaged")
    call = 1
    while was_killed(fork_server, tmp_path, call, *words):
        model = read_checkpoint(tmp_path / "averaged", train_state=False)
        assert model.facts["task"] == "lm"
        call += stride
    assert read_checkpoint(tmp_path / "averaged").facts["is_averaged"] is True and call > least
    assert not list(tmp_path.glob(".*"))
    tally("kills -9 of commands that write a file", call // stride)


@pytest.mark.parametrize(("stride", "least"), [(4, 4), pytest.param(1, 9, marks=pytest.mark.slow)])
def test_fetching(server: Server, tmp_path: Path, tally: Tally, stride: int, least: int) -> None:
    file = pin(server, whole(CONTENT))
    call, is_killed = 1, True
    while is_killed:
        folder = tmp_path / str(call)
        folder.mkdir()
        child = os.fork()
        if child == 0:
            try:
                arm(Trip((*DISK, "seqkit.data.download._read"), call, KILL))
                fetch_files([file], folder, patience=HASTY)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        is_killed = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        if (folder / "toy").exists() and visible(folder):
            assert (folder / "toy" / file.file).read_bytes() == CONTENT
        (result,) = fetch_files([file], folder, patience=HASTY)
        assert result.path.read_bytes() == CONTENT and visible(folder) == [file.file]
        assert not [*folder.rglob(".*.tmp"), *folder.rglob(".*.part")]
        call += stride * is_killed
    assert call > least
    tally("kills -9 of downloads", call // stride)
