"""The results of the suite as one table, in Markdown and for JSON.

Pure: from what the members wrote (``sides.write_json``) to text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .sides import show

_SIDE_HEADER = ("side", "unit", "median", "lowest", "highest", "spread", "runs", "version", "settings")


def table_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a side, for the JSON table, in order.

    Args:
        results: What each member wrote, by its name.
    """
    return [
        {
            "benchmark": name,
            "side": side,
            "version": series["version"],
            "settings": series["settings"],
            "unit": series["unit"],
            "median": series["median"],
            "lowest": min(series["values"]),
            "highest": max(series["values"]),
            "spread": series["spread"],
            "runs": len(series["values"]),
        }
        for name, facts in results.items()
        for side, series in facts.get("sides", {}).items()
    ]


def ratio_rows(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a ratio, for the JSON table, in order."""
    return [{"benchmark": name, **ratio} for name, facts in results.items() for ratio in facts.get("ratios", [])]


def markdown(results: Mapping[str, Mapping[str, Any]], shows: Mapping[str, str], reports: Mapping[str, str]) -> str:
    """The whole table.

    Args:
        results: What each member wrote, by its name.
        shows: What each is about.
        reports: What each printed.
    """
    parts = ["# seqkit benchmarks", *_aims(results)]
    for name, facts in results.items():
        parts += [f"## {name}: {shows[name]}", *_section(facts, reports.get(name, ""))]
    return "\n\n".join(parts) + "\n"


def _aims(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The ratios of which somebody said what they should be."""
    rows = [
        [row["benchmark"], f"{row['side']} ÷ {row['other']}", *_ratio_cells(row)]
        for row in ratio_rows(results)
        if row["at_least"] is not None
    ]
    if not rows:
        return []
    return [_table(["benchmark", "ratio", "by medians", "median over rounds", "aim", "reached"], rows)]


def _section(facts: Mapping[str, Any], report: str) -> list[str]:
    ran = f"`{facts['command']}`, {facts['started']}, {facts['seconds']:,.0f} s"
    environment = " · ".join(f"{key} {value}" for key, value in facts.get("environment", {}).items())
    parts = [f"{ran}" + (f"\n\n{environment}" if environment else "")]
    if facts["is_quick"]:
        parts.append("**A quick try: these numbers mean nothing.**")
    for what in ("failed", "skipped"):
        if what in facts:
            return [*parts, f"**{what}:** {facts[what]}"]
    rows = table_rows({"": facts})
    if rows:
        parts.append(_table(_SIDE_HEADER, [_side_cells(row) for row in rows]))
    ratios = [[f"{ratio['side']} ÷ {ratio['other']}", *_ratio_cells(ratio)] for ratio in facts["ratios"]]
    if ratios:
        parts.append(_table(["ratio", "by medians", "median over rounds", "aim", "reached"], ratios))
    parts += [f"![{plot}]({plot})" for plot in facts["plots"]]
    if report:
        # A fence longer than any in the report.
        parts.append(f"<details><summary>report</summary>\n\n~~~~text\n{report.rstrip()}\n~~~~\n\n</details>")
    return parts


def _side_cells(row: Mapping[str, Any]) -> list[str]:
    numbers = [show(row[key]) for key in ("median", "lowest", "highest")]
    spread = f"{100 * row['spread']:.1f} %"
    return [row["side"], row["unit"], *numbers, spread, str(row["runs"]), row["version"], row["settings"]]


def _ratio_cells(ratio: Mapping[str, Any]) -> list[str]:
    by_rounds, aim = ratio["by_rounds"], ratio["at_least"]
    return [
        f"{ratio['by_medians']:.3f}",
        "" if by_rounds is None else f"{by_rounds:.3f}",
        "" if aim is None else f"{aim:g}",
        "" if aim is None else "yes" if ratio["reaches_aim"] else "no",
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
