"""How durations and rates are written for people."""

from __future__ import annotations


def format_rate(per_second: float) -> str:
    """A rate in at most five characters.

    >>> format_rate(31_250.0), format_rate(812.4)
    ('31.2k', '812')
    """
    if per_second >= 1e6:
        return f"{per_second / 1e6:.1f}M"
    return f"{per_second / 1e3:.1f}k" if per_second >= 1e3 else f"{per_second:.0f}"


def format_seconds(seconds: float) -> str:
    """A duration as people write it.

    >>> format_seconds(52), format_seconds(3723)
    ('0:52', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
