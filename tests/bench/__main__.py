"""The benchmark suite: run members, each in a process of its own, and write their results and one table of them.

In the folder: for each member NAME.json (every run), NAME.txt (its report) and its pictures; and table.json and
table.md, made of all results that lie there, so that members can be run one by one. What an aim says is reported;
missing it is no failure.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqkit.runs.timestamps import utc_timestamp

from .members import MEMBERS, Member
from .results_table import markdown, ratio_rows, table_rows
from .sides import REPOSITORY, note

_BY_NAME = {member.name: member for member in MEMBERS}


def run_member(member: Member, folder: Path, *, is_quick: bool, more: Sequence[str] = ()) -> dict[str, Any]:
    """Run one member and keep its results; what came of it, with ``failed`` in it if it did not end well.

    Args:
        member: Which.
        folder: For its files.
        is_quick: Only try whether it runs.
        more: Arguments for its program, after its own.
    """
    result, report = folder / f"{member.name}.json", folder / f"{member.name}.txt"
    for old in folder.glob(f"{member.name}.*"):
        old.unlink()
    arguments = [*member.arguments, *(member.quick if is_quick else ()), *more]
    words = ["-m", f"tests.bench.{member.module}", *arguments]
    started, began = utc_timestamp(), time.monotonic()
    with report.open("wb") as output:
        command = [sys.executable, *words, "--json", str(result.resolve())]
        code = subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, check=False).returncode
    facts: dict[str, Any] = {
        "command": shlex.join(["python", *words]),
        "is_quick": is_quick,
        "started": started,
        "seconds": time.monotonic() - began,
    }
    if code == 0:
        facts |= json.loads(result.read_text(encoding="utf-8"))
    else:
        facts["failed"] = f"exit status {code}"
    result.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def write_tables(folder: Path) -> None:
    """Write ``table.json`` and ``table.md`` of all results in a folder."""
    results, reports = {}, {}
    for member in MEMBERS:
        result = folder / f"{member.name}.json"
        if result.exists():
            results[member.name] = json.loads(result.read_text(encoding="utf-8"))
            reports[member.name] = (folder / f"{member.name}.txt").read_text(encoding="utf-8")
    table = {
        "sides": table_rows(results),
        "ratios": ratio_rows(results),
        "skipped": {name: facts["skipped"] for name, facts in results.items() if "skipped" in facts},
        "failed": {name: facts["failed"] for name, facts in results.items() if "failed" in facts},
    }
    (folder / "table.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shows = {member.name: member.shows for member in MEMBERS}
    (folder / "table.md").write_text(markdown(results, shows, reports), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__.split("\n\n")[0],
        epilog="What stands after -- goes to the programs of the members, as in: --only growth_lines -- --million",
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--only", action="append", choices=list(_BY_NAME), metavar="NAME", help="a member; repeatable")
    parser.add_argument("--quick", action="store_true", help="try whether it runs: the numbers mean nothing")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/bench"), metavar="FOLDER", help="(%(default)s)"
    )
    parser.add_argument("more", nargs="*", metavar="ARGUMENT", help="for the programs; only with one --only")
    options = parser.parse_args(words)
    if options.list:
        width = max(map(len, _BY_NAME))
        for member in MEMBERS:
            print(f"{member.name:<{width}}  {member.shows}")
        return 0
    names = list(dict.fromkeys(options.only or _BY_NAME))
    if options.more and len(names) > 1:
        parser.error("arguments for a program need one --only")
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        note(f"== {name}: {_BY_NAME[name].shows}")
        facts = run_member(_BY_NAME[name], folder, is_quick=options.quick, more=options.more)
        print((folder / f"{name}.txt").read_text(encoding="utf-8"))
        if "failed" in facts:
            note(f"{name} failed: {facts['failed']}")
            failed.append(name)
        # After each, so that an interrupted suite leaves a table of what it did.
        write_tables(folder)
    print(folder / "table.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
