"""What all tests share: real data, examples that repeat, none of the caller's seqkit settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no time limit on one: a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

REPOSITORY = Path(__file__).resolve().parent.parent


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
