"""Numbers that JSON has no word for."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same value with None for every NaN and infinity in it, and lists for tuples.

    >>> finite({"loss": float("nan"), "parts": [1.5, float("inf")]})
    {'loss': None, 'parts': [1.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
