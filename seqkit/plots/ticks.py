"""Round numbers along an axis."""

from __future__ import annotations

import math
from itertools import pairwise

_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MOST_DECIMALS = 16
_TOLERANCE = 1e-3
"""How far a label may lie from its tick, in units of their spacing."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` evenly spaced round numbers from ``low`` to ``high``; at least one.

    >>> round_ticks(0.0, 97.0, 6), round_ticks(1.31, 1.42, 3)
    ([0.0, 20.0, 40.0, 60.0, 80.0], [1.35, 1.4])
    """
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / max(most, 1)))
    for step in (factor * scale for scale in (power, 10 * power) for factor in _STEPS):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 1 <= last - first + 1 <= most:
            return [round(number * step, 12) for number in range(first, last + 1)]
    return [low]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers that begin with 1, 2 or 5 from ``low`` to ``high``, both above 0; over many decades those with 1 only.

    >>> log_ticks(3.0, 120.0), log_ticks(5.0, 2e6)
    ([5.0, 10.0, 20.0, 50.0, 100.0], [10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    leading = (1, 2, 5) if high / low < 1e4 else (1,)
    return [tick for power in powers for one in leading if low <= (tick := float(f"{one}e{power}")) <= high] or [low]


def tick_labels(ticks: list[float]) -> list[str]:
    """The numbers as short as they can be while they differ, all with the same decimals.

    >>> tick_labels([0.0, 20_000.0, 40_000.0]), tick_labels([1.35, 1.4]), tick_labels([1e-4, 2e-4])
    (['0', '20k', '40k'], ['1.35', '1.40'], ['0.0001', '0.0002'])
    """
    largest = max(map(abs, ticks), default=0.0)
    unit, letter = next((scale for scale in _SCALES if largest >= 10 * scale[0]), (1.0, ""))
    spacing = min((after - before for before, after in pairwise(ticks)), default=largest or 1.0)
    for decimals in range(_MOST_DECIMALS):
        labels = [f"{tick / unit:.{decimals}f}" for tick in ticks]
        if all(
            abs(float(label) * unit - tick) <= _TOLERANCE * spacing for label, tick in zip(labels, ticks, strict=True)
        ):
            return [label + letter if float(label) else label for label in labels]
    return [f"{tick:.3e}" for tick in ticks]
