"""Significance tests: sacreBLEU's numbers to the last digit, and the statistics they should have."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from sacrebleu.significance import PairedTest
from test_translation_metrics import SETTINGS, drop_words, peer_of

from seqkit.metrics import significance
from seqkit.metrics.significance import Comparison, bootstrap_interval, paired_bootstrap, paired_randomization
from seqkit.metrics.translation import Bleu, MetricSettings, TranslationMetric

LINES = [
    " ".join(random.Random(number).choices("a b c d e f g".split(), k=4 + number % 9)) + "." for number in range(40)
]
SYSTEMS = [drop_words(LINES, 0.3, 1), drop_words(LINES, 0.25, 2), LINES, drop_words(LINES, 0.3, 1), [""] * 40]
REFERENCES = {
    "one": [LINES],
    # Thirds of a word in TER's average lengths: sums that round.
    "three": [LINES, drop_words(LINES, 0.2, 7), drop_words(LINES, 0.4, 8)],
}


def run_theirs(
    settings: MetricSettings,
    systems: list[list[str]],
    references: list[list[str]],
    *,
    kind: str,
    num_samples: int,
) -> list[tuple[float | None, float | None, float | None]]:
    """p-value, mean and half interval of each system by sacreBLEU."""
    named: list[tuple[str, Sequence[str]]] = [(str(number), system) for number, system in enumerate(systems)]
    peer = peer_of(settings, references)
    signatures, scores = PairedTest(named, {"it": peer}, None, test_type=kind, n_samples=num_samples)()
    (name,) = signatures
    results: list[Any] = scores[name]
    return [(result.p_value, as_float(result.mean), as_float(result.ci)) for result in results]


def as_float(value: Any) -> float | None:
    return None if value is None else float(value)


def run_ours(
    settings: MetricSettings,
    systems: list[list[str]],
    references: list[list[str]],
    *,
    kind: str,
    num_samples: int,
    seed: int = 12345,
) -> list[tuple[float | None, float | None, float | None]]:
    metric = TranslationMetric(settings, references)
    rows = [metric.statistics(system) for system in systems]
    tested = (
        paired_bootstrap(metric, rows, num_samples=num_samples, seed=seed)
        if kind == "bs"
        else paired_randomization(metric, rows, num_trials=num_samples, seed=seed)
    )
    return [as_tuple(one) for one in tested]


def as_tuple(tested: Comparison) -> tuple[float | None, float | None, float | None]:
    interval = tested.interval
    return tested.p_value, interval.mean if interval else None, interval.half_width if interval else None


@pytest.mark.parametrize("references", REFERENCES.values(), ids=REFERENCES)
@pytest.mark.parametrize(
    "name", ["bleu", "bleu-add-half", "bleu-floor", "bleu-lc", "chrf", "chrf++", "chrf-eps", "ter"]
)
@pytest.mark.parametrize("kind", ["bs", "ar"])
def test_paired_tests_are_sacrebleus(kind: str, name: str, references: list[list[str]]) -> None:
    theirs = run_theirs(SETTINGS[name], SYSTEMS, references, kind=kind, num_samples=120)
    ours = run_ours(SETTINGS[name], SYSTEMS, references, kind=kind, num_samples=120)
    assert ours == theirs
    assert ours[0][0] is None and all(p_value is not None for p_value, _, _ in ours[1:])


@pytest.mark.parametrize("seed", [1, 987654321])
@pytest.mark.parametrize("kind", ["bs", "ar"])
def test_the_seed_draws_as_sacrebleus_does(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", str(seed))
    theirs = run_theirs(Bleu(), SYSTEMS[:2], REFERENCES["one"], kind=kind, num_samples=77)
    assert run_ours(Bleu(), SYSTEMS[:2], REFERENCES["one"], kind=kind, num_samples=77, seed=seed) == theirs
    assert run_ours(Bleu(), SYSTEMS[:2], REFERENCES["one"], kind=kind, num_samples=77, seed=seed + 1) != theirs
    # The environment is nobody's business: only the argument counts.
    monkeypatch.setenv("SACREBLEU_SEED", "5")
    assert run_ours(Bleu(), SYSTEMS[:2], REFERENCES["one"], kind=kind, num_samples=77, seed=seed) == theirs


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("kind", ["bs", "ar"])
def test_few_sentences(kind: str, lines: int) -> None:
    for name in ("bleu", "ter"):
        systems = [system[:lines] for system in SYSTEMS]
        references = [one[:lines] for one in REFERENCES["three"]]
        arguments: dict[str, Any] = {"kind": kind, "num_samples": 50}
        ours = run_ours(SETTINGS[name], systems, references, **arguments)
        assert ours == run_theirs(SETTINGS[name], systems, references, **arguments)


@pytest.mark.parametrize("kind", ["bs", "ar"])
def test_draws_in_pieces_are_the_same_draws(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = [system[:39] for system in SYSTEMS[:2]]
    references = [LINES[:39]]
    whole = run_ours(Bleu(), systems, references, kind=kind, num_samples=300)
    sizes: list[int] = []
    pieces = significance._piece_sizes

    def noted(num_rows: int, num_columns: int) -> Iterator[int]:
        for size in pieces(num_rows, num_columns):
            sizes.append(size)
            yield size

    monkeypatch.setattr(significance, "_MOST_AT_ONCE", 4 * 39 * 64)
    monkeypatch.setattr(significance, "_piece_sizes", noted)
    assert run_ours(Bleu(), systems, references, kind=kind, num_samples=300) == whole
    assert sizes == [64, 64, 64, 64, 44]


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("num_samples", [2, 39, 40, 200])
def test_one_systems_interval_is_sacrebleus(name: str, num_samples: int) -> None:
    peer = peer_of(SETTINGS[name], REFERENCES["three"])
    theirs = peer.corpus_score(SYSTEMS[0], None, n_bootstrap=num_samples)
    metric = TranslationMetric(SETTINGS[name], REFERENCES["three"])
    interval = bootstrap_interval(metric, metric.statistics(SYSTEMS[0]), num_samples=num_samples)
    assert (interval.mean, interval.half_width) == (float(theirs._mean), float(theirs._ci))
    assert metric.signature(bs=num_samples, seed=12345) == str(peer.get_signature())


@pytest.mark.parametrize("test", [paired_bootstrap, paired_randomization])
def test_signatures_are_sacrebleus(test: Any) -> None:
    kind = "bs" if test is paired_bootstrap else "ar"
    peer = peer_of(Bleu(), [LINES])
    signatures, _ = PairedTest([("a", SYSTEMS[0]), ("b", LINES)], {"x": peer}, None, test_type=kind, n_samples=30)()
    metric = TranslationMetric(Bleu(), [LINES])
    assert metric.signature(**{kind: 30}, seed=12345) == str(signatures["BLEU"])


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    for kind in ("bs", "ar"):
        ours = run_ours(Bleu(), SYSTEMS, REFERENCES["one"], kind=kind, num_samples=999)
        p_values = [p_value for p_value, _, _ in ours]
        assert p_values[2] == pytest.approx(0.001), "the references themselves"
        if kind == "ar":
            # "The same translations": no trial can differ, and a difference of 0 is not larger than one of 0.
            assert p_values[3] == pytest.approx(0.001)
        assert p_values[4] == pytest.approx(0.001), "empty translations"


def test_the_order_of_the_systems_after_the_first_changes_nothing() -> None:
    forth = run_ours(Bleu(), SYSTEMS[:3], REFERENCES["one"], kind="bs", num_samples=50)
    back = run_ours(Bleu(), [SYSTEMS[0], SYSTEMS[2], SYSTEMS[1]], REFERENCES["one"], kind="bs", num_samples=50)
    assert forth == [back[0], back[2], back[1]]


def test_the_global_random_state_is_left_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    run_ours(Bleu(), SYSTEMS[:2], REFERENCES["one"], kind="bs", num_samples=10)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
