"""SIGTERM and SIGINT in the middle of every stage of a training, once and twice: the next call finishes the same."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from commandline import ForkServer, Tiny
from conftest import Tally
from tripwire import Trip

from seqkit.runs.checkpoint import read_checkpoint

# Where a signal comes, at which call of it, and whether one signal can stop what is left to do.
STAGES = {
    "preparing": ("seqkit.data.store._build", 1, True),
    "claiming": ("seqkit.runs.step_folders.recover", 1, True),
    "starting": ("seqkit.runs.record.write_record", 1, True),
    "first step": ("seqkit.training.loop._backward", 1, True),
    "evaluating": ("seqkit.training.session.Session._score", 2, True),
    "saving": ("seqkit.training.session.write_checkpoint", 2, True),
    "amid a save": ("seqkit.runs.checkpoint.save_tree", 2, True),
    "pruning": ("seqkit.runs.step_folders.prune", 2, True),
    "averaging": ("seqkit.training.session.average_checkpoints", 1, False),
    "finishing": ("seqkit.runs.folder.RunFolder.finish", 1, True),
}
SETTINGS = [word for setting in ("average_last=3", "keep_last=2") for word in ("--set", f"train.{setting}")]


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    words = ["train", tiny.recipe, *SETTINGS, "--run-dir", "run", "--cache-dir", "cache"]
    done = fork_server.start(*words, folder=folder).wait()
    assert done.code == 0, done.err
    return folder / "run"


def cases() -> list[object]:
    """Each stage with one signal or two, SIGTERM or SIGINT; all four with ``-m slow``."""
    found: list[object] = []
    for number, stage in enumerate(STAGES):
        ways = [(signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGINT, 1), (signal.SIGTERM, 2)]
        for place, (sent, times) in enumerate(ways):
            marks = () if place == number % 2 else pytest.mark.slow
            found.append(pytest.param(stage, sent, times, marks=marks, id=f"{stage}, {times} {sent.name}"))
    return found


@pytest.mark.parametrize(("stage", "number", "times"), cases())
def test_a_signal_at_any_stage(
    tiny: Tiny,
    fork_server: ForkServer,
    tmp_path: Path,
    uninterrupted: Path,
    tally: Tally,
    stage: str,
    number: signal.Signals,
    times: int,
) -> None:
    function, call, stops = STAGES[stage]
    words = ["train", tiny.recipe, *SETTINGS, "--run-dir", "run", "--resume", "--cache-dir", "cache"]
    trip = Trip([function], call, [int(number)] * times)
    done = fork_server.start(*words, folder=tmp_path, trip=trip).wait()
    run = tmp_path / "run"
    if stops or times == 2:
        assert done.code == 128 + number and done.out == "", done.err
    else:
        # What was left took no longer than to notice the signal: then it is done.
        assert done.code in (0, 128 + number), done.err
    assert "Traceback" not in done.err
    for link in ("last", "best"):
        if (run / link).is_symlink():
            assert read_checkpoint(run / link).train_state is not None
    again = fork_server.start(*words, folder=tmp_path).wait()
    assert again.code == 0, again.err
    for link in ("last", "best"):
        for name in ("model.safetensors", "tokenizer.json"):
            assert (run / link / name).read_bytes() == (uninterrupted / link / name).read_bytes()
    assert json.loads((run / "run.json").read_text())["status"] == "completed"
    tally("signals at the stages of a training", times)
