"""A folder gets its name whole: at no moment, where the system can, is there none or half of one."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from seqkit import atomic


def make(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    path = tmp_path / "model"
    for content in ("first", "second", "third"):
        atomic.publish_folder(make(tmp_path / ".new", content), path)
        assert (path / "file").read_text() == content
        assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_a_reader_never_misses_it(tmp_path: Path) -> None:
    probe = make(tmp_path / "a", "a"), make(tmp_path / "b", "b")
    if not atomic._exchange(*probe):
        pytest.skip("this file system cannot exchange two names")
    path = make(tmp_path / "model", "old")
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            seen.add("there" if path.is_dir() else "missing")

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(200):
        atomic.publish_folder(make(tmp_path / ".new", str(number)), path)
    is_over.set()
    thread.join()
    assert seen == {"there"} and (path / "file").read_text() == "199"


def test_what_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "model", "old")
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    with pytest.raises(FileNotFoundError):
        atomic.publish_folder(tmp_path / "nothing", path)
    assert (path / "file").read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["model"]


def test_a_refusal_is_the_systems_own(tmp_path: Path) -> None:
    path = make(tmp_path / "model", "old")
    with pytest.raises(OSError) as caught:
        atomic.publish_folder(tmp_path / "nothing", path)
    assert caught.value.errno == errno.ENOENT and (path / "file").read_text() == "old"
