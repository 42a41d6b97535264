"""``metrics.jsonl``: one JSON object a report, for ``tail -f … | jq``.

A number that is not finite becomes ``null``, because JSON has no other word for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from seqkit.atomic import atomic_write
from seqkit.errors import DataError
from seqkit.runs.json_values import finite
from seqkit.runs.timestamps import utc_timestamp


class MetricsLog:
    """Appends reports to a metrics file; each is on disk's way before the call returns.

    A half-written last line, left by a killed process, is cut off on opening.

    Args:
        path: The file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_half_line(path)
        self._file = path.open("a", encoding="utf-8", newline="\n")

    def report(self, *, step: int, epoch: float, split: str, **values: Any) -> dict[str, Any]:
        """Append one report.

        Args:
            step: Optimizer steps taken.
            epoch: Passes over the training data; may be a fraction.
            split: ``train``, ``valid``, ``test`` or ``average`` (the validation set under averaged weights).
            **values: What was measured, such as ``loss=1.45``; anything that JSON can hold.

        Returns:
            The row as written.
        """
        row = finite({"time": utc_timestamp(), "step": step, "epoch": epoch, "split": split, **values})
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        return dict(row)

    def truncate_after(self, step: int, *, without: str | None = None) -> None:
        """Forget the reports that a run resumed at ``step`` will write again. All or nothing.

        Args:
            step: Reports of later steps go.
            without: So do those of this split.
        """
        rows = read_metrics(self.path)
        kept = [row for row in rows if row["step"] <= step and row.get("split") != without]
        if len(kept) == len(rows):
            return
        self._file.close()
        try:
            with atomic_write(self.path) as file:
                for row in kept:
                    file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
        finally:
            self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def close(self) -> None:
        """Close the file; no report can follow."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All reports, oldest first; none if the file is missing. A half-written last line does not count.

    Raises:
        DataError: A whole line is no report.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError("not a line of a metrics log", path=path, line=number)
        rows.append(row)
    return rows


def _cut_half_line(path: Path) -> None:
    """Make the file end at a line end."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end == 0:
                return
            file.seek(end - 1)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
    except FileNotFoundError:
        pass
