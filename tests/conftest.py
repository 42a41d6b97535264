"""What all tests share: real data, examples that repeat, none of the caller's seqkit settings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch: tiny tensors gain nothing from threads, and two that wait for each other lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from bpe_examples import make_examples
from commandline import TINY_RECIPE, ForkServer, InProcess, Tiny, save_time, write_tiny_text
from hypothesis import settings
from tiny_pairs import TinyPairs, train_tiny_pairs

# The same examples in every run, and no time limit on one: a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

Tally = Callable[[str, int], None]
"""(what was tried, how often) → noted."""

_TALLY = "tally"

REPOSITORY = Path(__file__).resolve().parent.parent

_MOST_WORKERS = 4
"""Each worker trains the tiny models and imports torch twice, so that many of them gain nothing."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let a run of whole folders use several processes, one file of tests in one of them, where pytest-xdist is there.

    ``-n 0`` keeps it to one process, as does naming files or tests, a debugger, and ``-s``.
    """
    options = config.option
    is_typed = getattr(options, "numprocesses", 0) is not None
    is_watched = options.usepdb or options.capture == "no"
    is_worker = hasattr(config, "workerinput")
    if is_typed or is_watched or is_worker or options.collectonly or not all(map(os.path.isdir, config.args)):
        return
    # As if typed: the plugin reads it in its own hook, which comes after this one.
    options.numprocesses = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    if options.dist == "no":
        options.dist = "loadfile"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets: ``SEQKIT_DATA_DIR``, else ``../shared/data`` beside the repository.

    A test that asks for it is skipped where there is none.
    """
    named = os.environ.get("SEQKIT_DATA_DIR")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: SEQKIT_DATA_DIR is not set to a data folder, and there is no {folder}")
    return folder


@pytest.fixture(autouse=True)
def _no_surprises_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's seqkit settings out of the tests; ``SEQKIT_DATA_DIR`` only says where data is."""
    for name in list(os.environ):
        if name.startswith("SEQKIT_") and name != "SEQKIT_DATA_DIR":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kill what a test that failed left running; it would slow down all that follow."""
    server = request.getfixturevalue("fork_server") if "fork_server" in request.fixturenames else None
    yield
    if server is not None:
        server.kill_all()


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Runs command lines in processes of their own, without the seconds that importing torch takes."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny language model, trained once for all tests."""
    folder = tmp_path_factory.mktemp("tiny")
    text, recipe = folder / "tiny.txt", folder / "tiny.yaml"
    write_tiny_text(text)
    recipe.write_text(TINY_RECIPE.replace("TEXT", str(text)))
    runs, cache = folder / "runs", folder / "cache"
    words = ["train", recipe, "--runs-dir", runs, "--cache-dir", cache]
    done = fork_server.start(*words, folder=folder).wait()
    assert done.code == 0, done.err
    run = Path(done.out.removesuffix("\n"))
    return Tiny(folder=folder, text=text, recipe=recipe, cache=cache, runs=runs, run=run)


@pytest.fixture(scope="session")
def tiny_pairs(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    """A tiny translation model, trained once for all tests."""
    return train_tiny_pairs(fork_server, tmp_path_factory.mktemp("tiny_pairs"))


@pytest.fixture
def seqkit(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Runs command lines in this process, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQKIT_RUNS_DIR", str(tmp_path / "runs"))
    save_time(monkeypatch.setattr)
    return InProcess(capfd, tmp_path)


@pytest.fixture(scope="session")
def bpe_examples(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and tokenizers learned from them, made once; see ``bpe_examples.py``."""
    folder = tmp_path_factory.mktemp("bpe")
    make_examples(folder, fork_server)
    return folder


@pytest.fixture(scope="session")
def int8_machine() -> None:
    """Skips where PyTorch has no exact products of 8-bit integers."""
    import torch

    from seqkit.errors import UsageError
    from seqkit.models.int8_layers import check_int8

    try:
        check_int8(torch.device("cpu"))
    except UsageError as error:
        pytest.skip(error.message)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Notes how much was tried; the sums are printed at the end of the run."""
    return lambda what, count: record_property(_TALLY, [what, count])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the tests tried, over all processes."""
    counts: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    if name == _TALLY:
                        counts[value[0]] += value[1]
    if counts:
        terminalreporter.write_sep("-", "tried")
        for what, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:>7,} {what}")
