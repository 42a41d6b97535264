"""Is one system better than another, or lucky: paired tests and intervals over the sentences of a test set.

Both tests reproduce sacreBLEU's numbers under the same seed, to the last digit: the same draws, sums in the same
arithmetic, the same score of each sum. Unlike sacreBLEU they take statistics that exist already, and hold a few
megabytes at a time whatever the number of sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from seqkit.metrics.translation import Row, TranslationMetric

DEFAULT_SEED = 12345
"""As sacreBLEU draws when nobody says otherwise."""
DEFAULT_BOOTSTRAP_SAMPLES = 1000
DEFAULT_RANDOMIZATION_TRIALS = 10000

_MOST_AT_ONCE = 1 << 24
"""Draws made in one piece, as sacreBLEU makes all of them; more are made in pieces of a quarter of this."""
_BOOLEANS_A_WORD = 32
"""NumPy draws booleans by the word; a piece that ends with a word leaves the later draws as they are."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where 95 % of bootstrap samples score."""

    mean: float
    """Their mean."""
    half_width: float
    """Half the distance between their 2.5th and 97.5th percentile: mean ± this."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a paired test says of one system."""

    p_value: float | None
    """How often chance alone would make so large a difference to the baseline; None for the baseline itself."""
    interval: Interval | None
    """None from approximate randomization, which gives none."""


def bootstrap_interval(
    metric: TranslationMetric,
    rows: Sequence[Row],
    *,
    num_samples: int = DEFAULT_BOOTSTRAP_SAMPLES,
    seed: int = DEFAULT_SEED,
) -> Interval:
    """The interval of one system's score (Koehn 2004), as ``sacrebleu --confidence`` gives it.

    Args:
        metric: What scores.
        rows: The system's statistics.
        num_samples: Test sets to draw, with replacement, from the sentences of this one.
        seed: Of the draws.
    """
    (scores,) = _bootstrap_scores(metric, [rows], num_samples, seed)
    ordered = sorted(scores)
    lower, upper = _tails(len(ordered))
    return Interval(mean=float(mean(ordered)), half_width=float(0.5 * (ordered[upper] - ordered[lower])))


def paired_bootstrap(
    metric: TranslationMetric,
    systems: Sequence[Sequence[Row]],
    *,
    num_samples: int = DEFAULT_BOOTSTRAP_SAMPLES,
    seed: int = DEFAULT_SEED,
) -> list[Comparison]:
    """Paired bootstrap resampling (Koehn 2004): every system is scored on the same drawn test sets.

    The p-value is the share of samples in which the difference to the baseline deviates from its mean by more than
    the observed difference, counted as sacreBLEU and Moses do.

    Args:
        metric: What scores.
        systems: The statistics of each; the first system is the baseline.
        num_samples: Test sets to draw.
        seed: Of the draws.
    """
    # Not simplified: in sacreBLEU's arithmetic, which is single precision for some metrics, each step rounds.
    baseline, *others = [np.array(scores) for scores in _bootstrap_scores(metric, systems, num_samples, seed)]
    tested = [Comparison(p_value=None, interval=_interval(baseline))]
    for rows, scores in zip(systems[1:], others, strict=True):
        differences = np.abs(scores - baseline)
        p_value = _p_value(differences - differences.mean(), _difference(metric, systems[0], rows))
        tested.append(Comparison(p_value=p_value, interval=_interval(scores)))
    return tested


def paired_randomization(
    metric: TranslationMetric,
    systems: Sequence[Sequence[Row]],
    *,
    num_trials: int = DEFAULT_RANDOMIZATION_TRIALS,
    seed: int = DEFAULT_SEED,
) -> list[Comparison]:
    """Approximate randomization (Noreen 1989; Riezler and Maxwell 2005): sentences swap their systems at random.

    The p-value is the share of trials with a larger difference than the observed one.

    Args:
        metric: What scores.
        systems: The statistics of each; the first system is the baseline.
        num_trials: How often all sentences are swapped or not.
        seed: Of the swaps.
    """
    baseline, *others = [np.array(rows) for rows in systems]
    differences: list[list[float]] = [[] for _ in others]
    for is_kept in _coin_tosses(len(baseline), num_trials, seed):
        for found, other in zip(differences, others, strict=True):
            left = _sums(is_kept, baseline) + _sums(~is_kept, other)
            right = _sums(~is_kept, baseline) + _sums(is_kept, other)
            found += [
                metric.score_of_sums(one) - metric.score_of_sums(two) for one, two in zip(left, right, strict=True)
            ]
    tested = [Comparison(p_value=None, interval=None)]
    for rows, found in zip(systems[1:], differences, strict=True):
        p_value = _p_value(np.abs(np.array(found)), _difference(metric, systems[0], rows))
        tested.append(Comparison(p_value=p_value, interval=None))
    return tested


def _bootstrap_scores(
    metric: TranslationMetric, systems: Sequence[Sequence[Row]], num_samples: int, seed: int
) -> list[list[Any]]:
    """The scores of every system on the same drawn test sets."""
    arrays = [np.array(rows, dtype=np.float32) for rows in systems]
    num_segments = len(arrays[0])
    scores: list[list[Any]] = [[] for _ in systems]
    rng = np.random.default_rng(seed)
    for size in _piece_sizes(num_samples, num_segments):
        for drawn in rng.choice(num_segments, size=(size, num_segments), replace=True):
            for found, array in zip(scores, arrays, strict=True):
                found.append(metric.score_of_sums(array[drawn].sum(0)))
    return scores


def _coin_tosses(num_segments: int, num_trials: int, seed: int) -> Iterator[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Whether each segment stays with its system: arrays (trials, segments), some trials at a time."""
    rng = np.random.default_rng(seed)
    for size in _piece_sizes(num_trials, num_segments):
        yield rng.integers(2, size=(size, num_segments), dtype=bool)


def _piece_sizes(num_rows: int, num_columns: int) -> Iterator[int]:
    """How many rows of draws to make at a time: multiples of a word, but for the last."""
    if num_rows * num_columns <= _MOST_AT_ONCE:
        yield num_rows
        return
    size = max(1, _MOST_AT_ONCE // 4 // num_columns // _BOOLEANS_A_WORD) * _BOOLEANS_A_WORD
    for done in range(0, num_rows, size):
        yield min(size, num_rows - done)


def _sums(is_taken: np.ndarray[Any, np.dtype[np.bool_]], stats: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sums of statistics (segments, columns) over the segments that each trial (trials, segments) takes.

    Whole numbers are added in double precision, where they are exact and fast, and come back whole.
    """
    sums: np.ndarray[Any, Any] = is_taken.astype(np.float64) @ stats.astype(np.float64)
    return sums.astype(stats.dtype)


def _difference(metric: TranslationMetric, baseline: Sequence[Row], rows: Sequence[Row]) -> float:
    return abs(metric.score(baseline).value - metric.score(rows).value)


def _p_value(differences: np.ndarray[Any, Any], observed: float) -> float:
    """The share of differences above the observed one, which itself counts as one more (Noreen 1989)."""
    return float((np.sum(differences > observed).item() + 1) / (len(differences) + 1))


def _interval(scores: np.ndarray[Any, Any]) -> Interval:
    ordered = np.sort(scores)
    lower, upper = _tails(len(ordered))
    return Interval(mean=float(ordered.mean()), half_width=float(0.5 * (ordered[upper] - ordered[lower])))


def _tails(num_scores: int) -> tuple[int, int]:
    """Indices that cut a fortieth off each end of sorted scores."""
    return num_scores // 40, num_scores - num_scores // 40 - 1
