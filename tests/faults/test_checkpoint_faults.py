"""Checkpoints under faults: damaged files are named, and no kill or full disk leaves half a checkpoint."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqkit.errors import CheckpointError
from seqkit.runs.checkpoint import read_checkpoint, write_checkpoint
from seqkit.runs.folder import RunFolder
from seqkit.runs.step_folders import list_steps, prune

torch.set_num_threads(1)

FILES = [
    "SHA256SUMS",
    "model.json",
    "model.safetensors",
    "recipe.yaml",
    "tokenizer.json",
    "train_state.safetensors",
]


def write(run_dir: Path, step: int) -> Path:
    return write_checkpoint(
        run_dir,
        step,
        weights={"w": torch.full((64, 33), float(step))},
        tokenizers={"tokenizer.json": '{"type": "byte"}\n'},
        recipe="task: lm\n",
        facts={"task": "lm", "step": step},
        train_state={"step": step, "moments": {0: torch.full((70, 33), float(step))}},
        best_step=step,
    )


def assert_whole(path: Path) -> None:
    loaded = read_checkpoint(path)
    step = loaded.facts["step"]
    assert loaded.weights["w"].unique().tolist() == [step]
    assert loaded.train_state["step"] == step
    assert loaded.train_state["moments"][0].unique().tolist() == [step]


def truncate_by_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncate_last_line(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [truncate_by_half, truncate_last_line, empty, append, Path.unlink, replace_by_folder]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    folder = write(tmp_path, 1)
    damage(folder / name)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    assert str(folder) in caught.value.message
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint and caught.value.exit_code == 1


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 1)
    path = folder / name
    content = path.read_bytes()
    rng = random.Random(name)
    positions = {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(25))}
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(folder)
        assert str(folder) in caught.value.message and "\n" not in caught.value.message
    path.write_bytes(content)
    assert_whole(folder)


def test_every_bit_of_the_list_of_sums_counts(tmp_path: Path) -> None:
    path = write(tmp_path, 1) / "SHA256SUMS"
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_checkpoint(path.parent)


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(0)
    run_dir = tmp_path / "run"
    with RunFolder.claim(run_dir, resume=True) as run:
        run.start(
            recipe=b"", resolved="", recipe_name="r", task="lm", model="m", seed=0, device="cpu", command=["train"]
        )
    write(run_dir, 0)
    for _ in range(12):
        child = os.fork()
        if child == 0:
            _write_forever(run_dir)
        time.sleep(rng.uniform(0.01, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for folder in list_steps(run_dir):
            assert_whole(folder)
        for link in ("last", "best"):
            if (run_dir / link).exists():  # it may dangle while a checkpoint of its step is replaced
                assert_whole(run_dir / link)
        with RunFolder.claim(run_dir, resume=True) as run:
            assert run.state == "resumed"
            newest = run.latest_checkpoint()
        assert newest is not None
        assert_whole(newest)
        assert_whole(run_dir / "last")
        assert_whole(run_dir / "best")
        assert not [path for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
        assert not list(run_dir.glob(".*.tmp"))


def _write_forever(run_dir: Path) -> None:
    """In a forked process: every step twice, so that some writes replace a folder; never returns."""
    try:
        step = int(read_checkpoint(run_dir / "last", train_state=False).facts["step"])
        while True:
            write(run_dir, step)
            write(run_dir, step)
            prune(run_dir, 2)
            step += 1
    finally:
        os._exit(1)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
        pytest.skip("needs a mount namespace for a small tmpfs")
    code = textwrap.dedent(
        """
        import errno, sys, torch
        from pathlib import Path
        from seqkit.runs.checkpoint import read_checkpoint, write_checkpoint
        run = Path(sys.argv[1])
        def write(step, size):
            block = torch.zeros(size)
            write_checkpoint(run, step, weights={"w": block}, tokenizers={}, recipe="",
                             facts={"step": step}, train_state=[block], best_step=step)
        write(1, 10)
        for size in (2_000_000, 200_000):  # the weights do not fit; they fit, but not the train state
            try:
                write(2, size)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
            else:
                raise SystemExit("it fitted")
            assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]
            assert read_checkpoint(run / "last").facts["step"] == 1
        print("survived")
        """
    )
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1" || exit 77; exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "disk"), sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no tmpfs can be mounted here")
    assert done.stdout == "survived\n", done.stderr
