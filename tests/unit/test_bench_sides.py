"""What all benchmarks share: alternating runs, medians, spread, ratios, and what is written of them."""

from __future__ import annotations

import doctest
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from bench import operations, sides
from bench.equal_time import Outcome, outcome_series
from bench.growth_lines import milliseconds_per_line
from bench.processes import run_and_weigh, run_command
from bench.sides import Series, Side, compare, package_version, run_alternately, write_json, write_skipped
from bench.texts import count_lines, write_lines, write_megabytes

import seqkit


def series(*values: float, unit: str = "tokens/s", name: str = "a") -> Series:
    return Series(name=name, unit=unit, values=values, version="seqkit 1", settings="fp32")


@pytest.mark.parametrize("module", [operations, sides])
def test_examples_in_docstrings(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_the_median_is_the_middle_run_and_the_spread_the_distance_of_the_extremes() -> None:
    one = series(8.0, 5.0, 4.0)
    assert one.median == 5.0
    assert one.spread == pytest.approx(4 / 5)
    assert series(4.0, 6.0).median == 5.0


def test_sides_take_turns_and_warm_ups_do_not_count() -> None:
    order: list[str] = []

    def side(name: str, values: list[float]) -> Side:
        def run() -> float:
            order.append(name)
            return values.pop(0)

        return Side(run=run, unit="s", version=f"{name} 2", settings="here")

    found = run_alternately({"a": side("a", [9.0, 1.0, 2.0]), "b": side("b", [9.0, 3.0, 4.0])}, rounds=2)
    assert order == ["a", "b"] * 3
    assert [(one.name, one.values, one.version, one.settings, one.unit) for one in found] == [
        ("a", (1.0, 2.0), "a 2", "here", "s"),
        ("b", (3.0, 4.0), "b 2", "here", "s"),
    ]


def test_a_ratio_is_above_one_for_the_better_side_whatever_the_unit() -> None:
    fast = compare(series(30.0, 20.0, 40.0), series(10.0, 20.0, 5.0, name="b"))
    assert fast.by_medians == 3.0
    # 3, 1 and 8.
    assert fast.by_rounds == 3.0
    assert fast.reaches_aim is None
    short = compare(series(2.0, 4.0, 3.0, unit="s"), series(6.0, 4.0, 12.0, unit="s", name="b"), at_least=2.5)
    assert short.by_medians == 2.0
    # 3, 1 and 4.
    assert short.by_rounds == 3.0
    assert short.reaches_aim is False
    assert "MISSED" in str(short)
    assert compare(series(2.0, unit="MB"), series(6.0, unit="MB", name="b"), at_least=3.0).reaches_aim is True


def test_sides_of_unlike_units_have_no_ratio_and_those_of_other_rounds_no_median_over_them() -> None:
    with pytest.raises(ValueError, match="a is measured in s, b in MB"):
        compare(series(1.0, unit="s"), series(1.0, unit="MB", name="b"))
    assert compare(series(1.0, 2.0), series(3.0, name="b")).by_rounds is None


def test_what_is_written_names_each_side_its_version_settings_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    both = [series(1.0, 3.0), series(4.0, 4.0, name="b")]
    ratio = compare(*both, at_least=0.9)
    plot = tmp_path / "x.svg"
    write_json(path, "x", settings={"steps": 3}, sides=both, ratios=[ratio], results={"probe": "bf16"}, plots=[plot])
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert facts["sides"]["a"] == {
        "version": "seqkit 1",
        "settings": "fp32",
        "unit": "tokens/s",
        "values": [1.0, 3.0],
        "median": 2.0,
        "spread": 1.0,
    }
    assert facts["ratios"][0]["by_medians"] == 0.5
    assert facts["ratios"][0]["reaches_aim"] is False
    assert facts["environment"]["seqkit"] == seqkit.__version__
    assert (facts["settings"], facts["results"], facts["plots"]) == ({"steps": 3}, {"probe": "bf16"}, ["x.svg"])


def test_what_cannot_run_says_why_in_place_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    write_skipped(path, "x", "no such card")
    assert json.loads(path.read_text(encoding="utf-8"))["skipped"] == "no such card"
    assert capsys.readouterr().err == "x: skipped: no such card\n"


def test_a_package_is_named_with_its_version() -> None:
    assert package_version("pytest") == f"pytest {pytest.__version__}"


def test_outcomes_of_equal_time_become_sides_of_one_run() -> None:
    outcome = Outcome(num_tokens=300, seconds=3.0, valid_seconds=1.0, scores={"valid": 40.0}, settings="bf16")
    score, speed = outcome_series({"plain": outcome}, {"valid": "perplexity"}, rate_unit="tokens/s")
    assert (score.name, score.unit, score.values) == ("plain, valid", "perplexity", (40.0,))
    assert (speed.name, speed.unit, speed.values) == ("plain, training", "tokens/s", (150.0,))
    assert speed.settings == "bf16"


def test_time_a_line_leaves_out_what_starting_up_takes() -> None:
    seconds = [series(value, unit="s") for value in (2.0, 3.0, 13.0)]
    assert milliseconds_per_line([1, 101, 1101], seconds) == pytest.approx([10.0, 10.0])


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines"
    # U+2028 ends no line.
    path.write_text("one\ntwo\u2028zwei\nthree\n", encoding="utf-8")
    return path


def test_lines_come_in_ever_new_order_and_the_same_every_time(lines: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_lines(first, [lines], 3 * 20 + 1)
    write_lines(second, [lines], 3 * 20 + 1)
    assert first.read_bytes() == second.read_bytes()
    assert count_lines(first) == 61
    written = first.read_bytes().split(b"\n")
    orders = {tuple(written[index : index + 3]) for index in range(0, 60, 3)}
    assert len(orders) > 1
    assert all(sorted(order) == sorted(lines.read_bytes().split(b"\n")[:3]) for order in orders)


def test_two_sides_of_a_parallel_text_stay_side_by_side(lines: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(lines.read_bytes().upper())
    src, tgt = tmp_path / "src", tmp_path / "tgt"
    write_lines(src, [lines], 50)
    write_lines(tgt, [other], 50)
    assert tgt.read_bytes() == src.read_bytes().upper()


def test_a_text_of_a_size_ends_with_a_whole_line(lines: Path, tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_megabytes(path, [lines], 0.0001)
    text = path.read_bytes()
    assert 85 < len(text) <= 100
    assert text.endswith(b"\n")


def test_a_process_is_timed_and_weighed(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("some text")
    code = "import sys, time; held = bytearray(60_000_000); time.sleep(0.3); print(sys.stdin.read().upper())"
    seconds, peak = run_and_weigh([sys.executable, "-S", "-c", code], source, output, every=0.01)
    assert output.read_text() == "SOME TEXT\n"
    assert seconds >= 0.3
    assert 60 < peak < 110


@pytest.mark.parametrize("run", [run_command, run_and_weigh])
def test_a_process_that_fails_is_no_measurement(run: Callable[..., object], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    with pytest.raises(Exception, match="non-zero exit status 3"):
        run([sys.executable, "-S", "-c", "raise SystemExit(3)"], source)
