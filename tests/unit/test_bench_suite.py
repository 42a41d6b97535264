"""The suite: its list, how it runs members, and the table it writes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.__main__ import main, run_member, write_tables
from bench.line_chart import Panel, save_panels
from bench.members import MEMBERS, Member
from bench.results_table import markdown, ratio_rows, table_rows

REPOSITORY = Path(__file__).resolve().parents[2]
BY_NAME = {member.name: member for member in MEMBERS}


def facts(**more: Any) -> dict[str, Any]:
    side = {"version": "seqkit 1", "settings": "bf16|2 slices", "unit": "tokens/s", "median": 3000.0, "spread": 0.1}
    other = {**side, "version": "torch 2", "settings": "fp32", "median": 2000.0, "values": [2000.0]}
    ratio = {"side": "seqkit", "other": "plain", "by_medians": 1.5, "by_rounds": None, "at_least": 1.25}
    return {
        "command": "python -m tests.bench.x",
        "started": "2026-01-02T03:04:05Z",
        "seconds": 61.2,
        "is_quick": False,
        "environment": {"torch": "2", "threads": 2},
        "sides": {"seqkit": {**side, "values": [3000.0, 2850.0, 3150.0]}, "plain": other},
        "ratios": [{**ratio, "reaches_aim": True}],
        "plots": [],
        **more,
    }


def test_the_table_has_a_row_a_side_and_a_ratio() -> None:
    results = {"x": facts(), "y": facts()}
    rows = table_rows(results)
    assert [(row["benchmark"], row["side"]) for row in rows] == [
        ("x", "seqkit"),
        ("x", "plain"),
        ("y", "seqkit"),
        ("y", "plain"),
    ]
    assert rows[0] == {
        "benchmark": "x",
        "side": "seqkit",
        "version": "seqkit 1",
        "settings": "bf16|2 slices",
        "unit": "tokens/s",
        "median": 3000.0,
        "lowest": 2850.0,
        "highest": 3150.0,
        "spread": 0.1,
        "runs": 3,
    }
    assert [row["benchmark"] for row in ratio_rows(results)] == ["x", "y"]


def test_the_markdown_names_sides_versions_settings_ratios_and_aims() -> None:
    text = markdown({"x": facts(plots=["x.svg"])}, {"x": "speed"}, {"x": "what it\nprinted\n"})
    lines = text.splitlines()
    assert "## x: speed" in lines
    assert "| x | seqkit ÷ plain | 1.500 |  | 1.25 | yes |" in lines
    assert r"| seqkit | tokens/s | 3,000 | 2,850 | 3,150 | 10.0 % | 3 | seqkit 1 | bf16\|2 slices |" in lines
    assert "| seqkit ÷ plain | 1.500 |  | 1.25 | yes |" in lines
    assert "![x.svg](x.svg)" in lines
    assert "torch 2 · threads 2" in lines
    assert "~~~~text\nwhat it\nprinted\n~~~~" in text
    assert "quick" not in text


def test_the_markdown_tells_tries_failures_and_what_was_skipped() -> None:
    head = {key: facts()[key] for key in ("command", "started", "seconds", "is_quick")}
    results = {
        "quick": facts(is_quick=True),
        "broken": {**head, "failed": "exit status 3"},
        "absent": {**head, "environment": {}, "skipped": "no card"},
    }
    text = markdown(results, dict.fromkeys(results, "something"), {})
    assert "**A quick try: these numbers mean nothing.**" in text
    assert "**failed:** exit status 3" in text
    assert "**skipped:** no card" in text


def test_members_have_names_of_their_own_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BY_NAME) == len(MEMBERS)
    for member in MEMBERS:
        assert importlib.util.find_spec(f"bench.{member.module}") is not None
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [tuple(line.split(maxsplit=1)) for line in printed] == [(member.name, member.shows) for member in MEMBERS]


@pytest.mark.parametrize("module", sorted({member.module for member in MEMBERS}))
def test_the_arguments_of_members_are_those_of_their_programs(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of all words that a program does not know it must name this one alone, and does nothing yet.
    program = importlib.import_module(f"bench.{module}")
    for member in MEMBERS:
        if member.module == module:
            words = [*member.arguments, *member.quick, "--json", "x.json", "--no-such-option"]
            monkeypatch.setattr(sys, "argv", [module, *words])
            with pytest.raises(SystemExit) as leaving:
                program.main()
            assert leaving.value.code == 2
            assert capsys.readouterr().err.endswith("error: unrecognized arguments: --no-such-option\n")


def test_an_unknown_member_and_arguments_for_many_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--only", "nonsense"])
    assert leaving.value.code == 2
    assert "'nonsense'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as leaving:
        main(["--quick", "--", "--rounds", "3"])
    assert leaving.value.code == 2
    assert "need one --only" in capsys.readouterr().err


def test_the_suite_runs_a_member_and_writes_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "matmul", "--quick", "-o", str(tmp_path), "--", "--rounds", "3"]
    assert main(words) == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "table.md")
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [(row["benchmark"], row["side"], row["runs"]) for row in table["sides"]] == [
        ("matmul", "matmul fp32", 3),
        ("matmul", "matmul bf16", 3),
    ]
    assert all(row["median"] > 0 and row["version"].startswith("torch ") for row in table["sides"])
    assert [row["side"] for row in table["ratios"]] == ["matmul bf16"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "## matmul: the machine's own matrix-product rate" in text
    assert "A quick try" in text
    assert (tmp_path / "matmul.txt").read_text(encoding="utf-8").rstrip() in text


def test_a_member_that_fails_leaves_no_old_numbers(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(json.dumps(facts()), encoding="utf-8")
    (tmp_path / "broken.svg").touch()
    member = Member(name="broken", shows="nothing", module="no_such_program", quick=())
    assert run_member(member, tmp_path, is_quick=True)["failed"] == "exit status 1"
    left = json.loads((tmp_path / "broken.json").read_text(encoding="utf-8"))
    assert (left["failed"], left["command"]) == ("exit status 1", "python -m tests.bench.no_such_program")
    assert "sides" not in left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json", "broken.txt"]


def test_the_table_is_made_of_all_results_in_the_folder(tmp_path: Path) -> None:
    for name in ("store", "matmul"):
        (tmp_path / f"{name}.json").write_text(json.dumps(facts()), encoding="utf-8")
        (tmp_path / f"{name}.txt").write_text("printed", encoding="utf-8")
    write_tables(tmp_path)
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    # In the suite's order.
    assert [row["benchmark"] for row in table["ratios"]] == ["matmul", "store"]
    assert (table["failed"], table["skipped"]) == ({}, {})


def test_curves_are_drawn_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    curves = {"beam 1": [(8, 1.0), (16, 2.0)], "beam 5": [(8, 3.0), (16, 7.0)]}
    save_panels(
        path,
        [Panel(x="tokens", y="ms", curves=curves, has_log_y=True), Panel(x="lines", y="MB", curves={"": [(1, 5)]})],
    )
    text = path.read_text(encoding="utf-8")
    assert all(f">{label}<" in text for label in ("beam 1", "beam 5", "tokens", "ms", "lines", "MB"))


# These two evaluate over whole validation sets, which takes minutes however small the model is.
LONG = {"wikitext", "gpt"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # most of a minute on two idle cores, many times that on busy ones
@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in LONG])
def test_every_member_runs(name: str, data_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--only", name, "-o", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "SEQKIT_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert table["failed"] == {}
    if table["skipped"]:
        assert name == "gpu"
        return
    assert table["sides"]
    for row in table["sides"]:
        assert row["median"] > 0 and row["version"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    for plot in json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["plots"]:
        assert (tmp_path / plot).stat().st_size > 0
        assert f"]({plot})" in text
