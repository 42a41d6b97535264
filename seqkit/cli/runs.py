"""``seqkit runs ls|show``, and where ``prune`` joins them: what was trained, when, how long, how well."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from seqkit.cli import runs_prune
from seqkit.cli.command import Json, RunsDir, command, show_examples
from seqkit.cli.streams import write_result
from seqkit.cli.wording import format_seconds
from seqkit.errors import UsageError
from seqkit.runs import step_folders
from seqkit.runs.folder import RESOLVED_NAME
from seqkit.runs.listing import RunSummary, find_runs, list_runs, reports, summarize, true_status
from seqkit.runs.measures import show_score
from seqkit.runs.places import runs_dir as chosen_runs_dir
from seqkit.runs.record import RECORD_NAME, read_record

_logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add ``runs`` to the command tree."""
    runs = typer.Typer(
        help="List, show and remove training runs.",
        rich_markup_mode=None,
        no_args_is_help=True,
        epilog=show_examples("seqkit runs ls\nseqkit runs show runs/lstm_charlm/20261120T101500Z-k3x7"),
    )
    app.add_typer(runs, name="runs")

    @command(runs, "ls", examples="seqkit runs ls\nseqkit runs ls --json | jq -r '.runs[0].run_dir'")
    def ls(runs_dir: RunsDir = None, json_output: Json = False) -> None:
        """List the runs, the newest first: model, start, duration, steps, best validation score, status."""
        folder = chosen_runs_dir(runs_dir)
        if runs_dir is not None and not runs_dir.is_dir():
            raise UsageError(f"--runs-dir {runs_dir}: no such folder")
        summaries = list_runs(folder)
        if json_output:
            found = [_summary_fields(summary) for summary in summaries]
            write_result(json.dumps({"runs_dir": str(folder), "runs": found}, ensure_ascii=False))
            return
        if not summaries:
            _logger.info("no runs under %s", folder)
            return
        heads = ("RUN", "TASK", "MODEL", "STARTED (UTC)", "TOOK", "STEPS", "BEST VALID", "STATUS")
        for line in _align([heads, *map(_summary_cells, summaries)]):
            write_result(line)

    @command(
        runs,
        "show",
        examples="seqkit runs show runs/lstm_charlm/20261120T101500Z-k3x7\nseqkit runs show 20261120T101500Z-k3x7",
    )
    def show(
        run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name under the runs folder.")],
        runs_dir: RunsDir = None,
        json_output: Json = False,
    ) -> None:
        """Show one run: its record, resolved recipe, last reports and checkpoints."""
        facts = collect_facts(find_run(run, chosen_runs_dir(runs_dir)))
        if json_output:
            write_result(json.dumps(facts, ensure_ascii=False))
            return
        for line in _fact_lines(facts):
            write_result(line)

    runs_prune.register(runs)


def collect_facts(run_dir: Path) -> dict[str, Any]:
    """What ``runs show --json`` prints.

    Raises:
        CheckpointError: ``run.json`` is missing or damaged.
    """
    record = read_record(run_dir)
    resolved = run_dir / RESOLVED_NAME
    linked = {link: step_folders.linked_step(run_dir, link) for link in step_folders.LINK_NAMES}
    return {
        "run_dir": str(run_dir),
        "status": true_status(record, run_dir),
        "summary": _summary_fields(summarize(run_dir)),
        "record": record,
        "recipe": resolved.read_text(encoding="utf-8", errors="replace") if resolved.is_file() else None,
        "last_metrics": {row.get("split"): row for row in reports(run_dir)},
        "checkpoints": [
            {
                "step": step_folders.step_of(path),
                "path": str(path),
                "bytes": sum(item.stat().st_size for item in path.iterdir()),
                **{f"is_{link}": target is not None and target.name == path.name for link, target in linked.items()},
            }
            for path in step_folders.list_steps(run_dir)
        ],
    }


def find_run(name: str, runs_dir: Path) -> Path:
    """The run folder that a user means; UsageError with the nearest name if there is none."""
    path = Path(name)
    if (path / RECORD_NAME).is_file():
        return path
    known: dict[str, Path] = {}
    for found in find_runs(runs_dir):
        known[found.name] = known[str(found.relative_to(runs_dir))] = found
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "`seqkit runs ls` lists the runs"
    what = "a folder without run.json" if path.is_dir() else f"no such run, here or under {runs_dir}"
    raise UsageError(f"{name}: {what}", hint=hint)


def _summary_fields(summary: RunSummary) -> dict[str, Any]:
    best = None
    if summary.best_by is not None and summary.best_score is not None:
        best = {"step": summary.best_step, summary.best_by: summary.best_score}
    return {
        "run_dir": str(summary.path),
        "recipe": summary.recipe,
        "task": summary.task,
        "model": summary.model,
        "status": summary.status,
        "start": summary.start,
        "end": summary.end,
        "seconds": summary.seconds,
        "step": summary.step,
        "best": best,
    }


def _summary_cells(summary: RunSummary) -> tuple[str, ...]:
    best = "-"
    if summary.best_by is not None and summary.best_score is not None:
        best = show_score(summary.best_by, summary.best_score)
        if summary.best_step is not None:
            best += f" @ {summary.best_step:,}"
    return (
        str(summary.path),
        summary.task or "-",
        summary.model or "-",
        (summary.start or "-")[:19].replace("T", " "),
        "-" if summary.seconds is None else format_seconds(summary.seconds),
        "-" if summary.step is None else f"{summary.step:,}",
        best,
        summary.status,
    )


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, two blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _fact_lines(facts: dict[str, Any]) -> list[str]:
    """What ``runs show`` prints for people."""
    record = {key: value for key, value in facts["record"].items() if key not in ("sessions", "status")}
    plain = {"run": facts["run_dir"], "status": facts["status"], **record}
    width = max(map(len, plain))
    lines = [f"{key:<{width}}  {_inline(value)}" for key, value in plain.items()]
    if len(facts["record"]["sessions"]) > 1:
        lines += ["", "sessions:"]
        lines += [
            f"  {_inline({k: s.get(k) for k in ('start', 'end', 'status')})}" for s in facts["record"]["sessions"]
        ]
    lines += ["", "last reports:" if facts["last_metrics"] else "no reports yet"]
    for split, row in facts["last_metrics"].items():
        lines.append(f"  {split}  " + "  ".join(f"{k}={_inline(v)}" for k, v in row.items() if k != "split"))
    lines += ["", "checkpoints:" if facts["checkpoints"] else "no checkpoints"]
    for entry in facts["checkpoints"]:
        marks = "".join(f"  {link}" for link in step_folders.LINK_NAMES if entry[f"is_{link}"])
        lines.append(f"  {entry['path']}  {entry['bytes'] / 1e6:.1f} MB{marks}")
    if facts["recipe"] is not None:
        lines += [
            "",
            f"recipe ({RESOLVED_NAME}):",
            *(f"  {line}" for line in facts["recipe"].rstrip("\n").split("\n")),
        ]
    return lines


def _inline(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(item)}" for key, item in value.items())
    return "-" if value is None else str(value)
