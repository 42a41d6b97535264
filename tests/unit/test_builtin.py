"""Built-in corpora: there, the same each time, and nothing of this machine in them."""

from __future__ import annotations

import ast
import sys
import sysconfig
from pathlib import Path

import pytest

from seqkit.data.builtin import BuiltinText, builtin_text, list_builtins
from seqkit.errors import MissingDataError


def test_the_list() -> None:
    assert [text.name for text in list_builtins()] == ["python-docs", "python-source", "hello"]


@pytest.mark.parametrize("text", list_builtins(), ids=lambda text: text.name)
def test_a_second_pass_reads_the_same(text: BuiltinText) -> None:
    first = "".join(text.blocks())
    assert first == "".join(text.blocks())
    # Python versions differ; the stated size is for orientation.
    assert len(first.encode()) == pytest.approx(text.approximate_bytes, rel=0.3)
    assert text.licence == "PSF-2.0"
    assert text.description


def test_python_docs_are_the_topics_in_order() -> None:
    from pydoc_data.topics import topics

    text = "".join(builtin_text("python-docs").blocks())
    names = sorted(topics)
    assert text.startswith(topics[names[0]] + "\n\n" + topics[names[1]])
    assert text.endswith(topics[names[-1]])
    assert len(text) == sum(map(len, topics.values())) + 2 * (len(topics) - 1)


def test_python_source_is_the_modules_in_order() -> None:
    blocks = list(builtin_text("python-source").blocks())
    assert "__future__" in blocks[0][:2000]
    assert len(blocks) > 100
    ast.parse(blocks[-1])
    folder = Path(sysconfig.get_path("stdlib"))
    assert (folder / "zipimport.py").read_text("utf-8") == blocks[-1]


def test_python_source_leaves_out_what_the_distribution_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ast.py").write_bytes(b"one = 1\r\n")
    (tmp_path / "_sysconfigdata__linux_.py").write_text("build_time_vars = {}\n")
    (tmp_path / "abc.py").write_text("two = 2\n")
    (tmp_path / "bdb.py").write_bytes(b"# coding: latin-1\n# \xe9\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "bdb" in sys.stdlib_module_names
    assert list(builtin_text("python-source").blocks()) == ["two = 2\n", "one = 1\r\n"]


def test_python_source_without_source_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(MissingDataError, match="no source files"):
        list(builtin_text("python-source").blocks())


def test_hello() -> None:
    assert "".join(builtin_text("hello").blocks()) == "hello"


def test_an_unknown_name_gets_a_guess() -> None:
    with pytest.raises(MissingDataError, match=r"did you mean builtin:python-docs\?") as caught:
        builtin_text("python-dcs")
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None and "python-source" in caught.value.hint
    with pytest.raises(MissingDataError) as caught:
        builtin_text("zzz")
    assert "did you mean" not in str(caught.value)
