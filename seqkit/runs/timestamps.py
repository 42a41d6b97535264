"""Moments as text: RFC 3339, UTC, to the millisecond, as every file of a run folder has them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_timestamp() -> str:
    """The time now, such as ``2026-11-20T10:15:00.123Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(start: str, end: str) -> float:
    """Seconds from one timestamp to another; 0 if the clock was set back in between.

    >>> seconds_between("2026-11-20T10:15:00.000Z", "2026-11-20T10:16:01.500Z")
    61.5

    Raises:
        ValueError: One of them is no timestamp.
    """
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
