"""seqkit as cron starts it: the crontab in docs/cron.md, many starts at once, and logs that are rotated underneath."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import ForkServer, Tiny, wait_until
from conftest import REPOSITORY, Tally
from tiny_pairs import TinyPairs

GUIDE = REPOSITORY / "docs" / "cron.md"
ENDLESS = ("--set", "train.max_steps=1000000", "--set", "train.evaluate_every=1000000", "--set", "train.log_every=100")


def read_crontab() -> tuple[dict[str, str], list[str]]:
    """The environment and the commands of the guide's crontab, as cron would take them."""
    block = re.search(r"```crontab\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    environment: dict[str, str] = {}
    commands = []
    for line in block[1].split("\n"):
        if not line or line.startswith("#"):
            continue
        if setting := re.fullmatch(r"([A-Z_]+)=(.*)", line):
            environment[setting[1]] = setting[2]
            continue
        job = re.fullmatch(r"(?:[\d*,/-]+\s+){5}(\S.*)", line)
        assert job is not None and "%" not in job[1], f"no line of a crontab: {line}"
        commands.append(job[1])
    return environment, commands


def test_the_crontab_is_one() -> None:
    environment, commands = read_crontab()
    assert environment["PATH"].split(":")[-1] == "/bin" and len(commands) >= 3
    assert all(command.startswith("cd /srv/seqkit && ") for command in commands)
    assert any("--resume --lock " in command for command in commands)


@pytest.mark.slow
def test_the_crontab_works_in_a_bare_environment(tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    place, programs = tmp_path / "srv", tmp_path / "bin"
    place.mkdir()
    programs.mkdir()
    (place / "nightly.yaml").write_bytes(tiny_pairs.recipe.read_bytes())
    (place / "inbox.txt").write_text("abc\n\nde a\n")
    # Not on the path of cron, nor installed for all: a script that knows where it is.
    (programs / "seqkit").write_text(f"#!/bin/sh\nPYTHONPATH='{REPOSITORY}' exec '{sys.executable}' -m seqkit \"$@\"\n")
    (programs / "seqkit").chmod(0o755)
    settings, commands = read_crontab()
    # As `env -i`: no HOME, no terminal, no user; the locale that knows only ASCII.
    environment = {
        key: value.replace("/opt/seqkit/bin", str(programs)).replace("/srv/seqkit", str(place))
        for key, value in {**settings, "LC_ALL": "C"}.items()
    }

    def start(command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["/bin/sh", "-c", command.replace("/srv/seqkit", str(place))],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            start_new_session=True,
        )

    for command in commands:
        done = start(command)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), (command, done)
    weights = (place / "runs" / "nightly" / "last" / "model.safetensors").read_bytes()
    assert weights == (tiny_pairs.run / "last" / "model.safetensors").read_bytes()
    assert (place / "outbox.txt").read_bytes().count(b"\n") == 3
    # The next night: nothing left to do, and nobody to tell.
    done = start(commands[0])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sorted(path.name for path in place.iterdir()) == [
        "cache",
        "inbox.txt",
        "nightly.yaml",
        "outbox.txt",
        "runs",
        "training.lock",
    ]


def test_twenty_starts_at_once_are_one_run(tiny: Tiny, fork_server: ForkServer, tmp_path: Path, tally: Tally) -> None:
    words = ["train", tiny.recipe, "--run-dir", "run", "--resume", "--cache-dir", tiny.cache]
    processes = [fork_server.start(*words, *ENDLESS, folder=tmp_path) for _ in range(20)]
    wait_until(lambda: sum(process.is_running() for process in processes) == 1, "nineteen to be turned away")
    (winner,) = [process for process in processes if process.is_running()]
    winner.wait_for("step ")
    winner.send(signal.SIGTERM)
    codes = sorted(process.wait_for_code() for process in processes)
    assert codes == [75] * 19 + [143]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted" and len(record["sessions"]) == 1
    for process in processes:
        if process is not winner:
            assert "another process is working in this run folder" in process.wait().error_line and process.out == ""
    tally("concurrent starts", 20)


@pytest.mark.parametrize("num_starts", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_starts_that_go_on_until_the_run_is_complete(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, tally: Tally, num_starts: int
) -> None:
    words = ["train", tiny.recipe, "--run-dir", "run", "--resume", "--cache-dir", tiny.cache, "-q"]
    processes = [fork_server.start(*words, folder=tmp_path) for _ in range(num_starts)]
    done = [process.wait() for process in processes]
    # Whoever comes after the end finds nothing to do.
    assert {one.code for one in done} <= {0, 75} and any(one.code == 0 for one in done)
    assert {one.out for one in done if one.code == 0} == {"run\n"} and not any(one.err for one in done if one.code == 0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed" and len(record["sessions"]) == 1
    weights = (tmp_path / "run" / "last" / "model.safetensors").read_bytes()
    assert weights == (tiny.run / "last" / "model.safetensors").read_bytes()
    tally("concurrent starts", num_starts)


@pytest.mark.parametrize("num_starts", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_lock_lets_one_through_at_a_time(
    tiny: Tiny, fork_server: ForkServer, tmp_path: Path, tally: Tally, num_starts: int
) -> None:
    common = ["--cache-dir", tiny.cache, "--lock", "lock"]
    first = fork_server.start("train", tiny.recipe, *ENDLESS, "--run-dir", "first", *common, folder=tmp_path)
    first.wait_for("step ")
    turned_away = [
        fork_server.start("train", tiny.recipe, "--run-dir", f"away{number}", *common, folder=tmp_path)
        for number in range(num_starts)
    ]
    assert {process.wait_for_code() for process in turned_away} == {75}
    waiting = [
        fork_server.start(
            "train", tiny.recipe, "--run-dir", f"wait{number}", *common, "--lock-wait", 60, folder=tmp_path
        )
        for number in range(num_starts)
    ]
    first.send(signal.SIGKILL)
    assert {process.wait_for_code() for process in waiting} == {0}
    assert not list(tmp_path.glob("away*"))
    spans = []
    for number in range(num_starts):
        record = json.loads((tmp_path / f"wait{number}" / "run.json").read_text())
        spans.append((record["start"], record["end"]))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "side by side"
    tally("concurrent starts", 2 * num_starts + 1)


def test_a_log_may_be_cut_off_while_it_is_written(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of yesterday\n")
    words = ["train", tiny.recipe, *ENDLESS, "--run-dir", "run", "--cache-dir", tiny.cache]
    process = fork_server.start(*words, folder=tmp_path, stderr=log)
    process.wait_for("step 200 ")
    assert log.read_text().startswith("of yesterday\n")
    os.truncate(log, 0)
    wait_until(lambda: log.stat().st_size > 0, "what is written after the log was cut off")
    process.send(signal.SIGTERM)
    assert process.wait().code == 143
    content = log.read_bytes()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", content), "no holes, no control codes"
    assert b"stopped by a signal" in content and all(line for line in content.removesuffix(b"\n").split(b"\n"))
