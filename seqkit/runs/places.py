"""Where things are kept: runs, caches, data. Flags win over the environment, the environment over defaults."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def runs_dir(flag: Path | None) -> Path:
    """The folder of run folders: the flag, else ``SEQKIT_RUNS_DIR``, else ``runs`` here."""
    return flag or _from_environment("SEQKIT_RUNS_DIR") or Path("runs")


def cache_dir(flag: Path | None) -> Path:
    """The cache: the flag, else ``SEQKIT_CACHE_DIR``, else the user's cache folder (XDG on Linux)."""
    return flag or _from_environment("SEQKIT_CACHE_DIR") or platformdirs.user_cache_path("seqkit", appauthor=False)


def data_dirs() -> list[Path]:
    """Folders that may hold catalog data, in the order they are searched: ``SEQKIT_DATA_DIR``, then the cache."""
    given = _from_environment("SEQKIT_DATA_DIR")
    return [*([given] if given else []), cache_dir(None) / "data"]


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value).expanduser() if value else None
