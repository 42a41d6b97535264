"""What ``python -m tests.bench.decoding`` measures, on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from bench import decoding, decoding_engines
from bench.decoding import (
    BY_ENGINE,
    FLOAT32,
    INT8,
    OWN,
    OWN_INT8,
    OWN_SOON,
    OWN_SOONEST,
    SAME_SEARCH,
    SINGLE,
    WHOLE,
    Text,
)
from bench.decoding_engines import Model, Translate
from tiny_pairs import TinyPairs

from seqkit.tasks.seq2seq_predictor import load_seq2seq


@pytest.fixture
def model(tiny_pairs: TinyPairs) -> Model:
    loaded = load_seq2seq(tiny_pairs.run, torch.device("cpu"))
    return Model(loaded, loaded.recipe.translate, 2)


@pytest.mark.usefixtures("int8_machine")
def test_every_engine_translates_the_file_and_single_lines(model: Model, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    text = Text(tiny_pairs.lines[:6], tiny_pairs.references[:6], 2)
    engines = decoding.load_engines(model, tmp_path, text.lines[:2])
    series, translations = decoding.measure(engines, text, rounds=2, settings="tiny")
    assert list(engines) == [OWN, OWN_INT8, OWN_SOON, OWN_SOONEST, BY_ENGINE, SAME_SEARCH, FLOAT32, INT8]
    assert list(series) == [f"{name}, {task}" for task in (WHOLE, SINGLE) for name in engines]
    for one in series.values():
        assert one.unit == "sentences/s" and len(one.values) == 2 and min(one.values) > 0
        is_own = one.name.startswith((f"{OWN},", f"{OWN_INT8},", f"{OWN_SOON},", f"{OWN_SOONEST},"))
        assert ("torch" in one.version, "ctranslate2" in one.version) == (is_own, not is_own)
    assert translations[OWN] == translations[BY_ENGINE]
    facts = decoding.describe_translations(translations, text.references)
    assert list(facts) == list(engines)
    assert facts[OWN]["same_as_seqkit"] == facts[BY_ENGINE]["same_as_seqkit"] == 6
    ratios = decoding.compare_all(series)
    assert [(ratio.side, ratio.other, ratio.at_least) for ratio in ratios if ratio.at_least is not None] == [
        ("seqkit --engine-type int8 --patience 1.4, whole file", "ctranslate2 float32, whole file", 1.3),
        ("seqkit --engine-type int8 --patience 1.4, whole file", "ctranslate2 int8, whole file", 1.0),
        ("seqkit, one by one", "ctranslate2 float32, one by one", 0.6),
        ("seqkit --engine ctranslate2, whole file", "ctranslate2 float32, same search, whole file", 0.95),
    ]


def test_the_whole_file_is_one_call_and_single_lines_are_one_each() -> None:
    calls: dict[str, list[int]] = {"a": [], "b": []}

    def counting(name: str) -> Translate:
        def translate(lines: Sequence[str]) -> list[str]:
            calls[name].append(len(lines))
            return [line.upper() if name == "a" else line for line in lines]

        return translate

    lines = ["a b c d", "E F G H", "i j k l"]
    text = Text(lines, [line.upper() for line in lines], 2)
    _, translations = decoding.measure({name: counting(name) for name in calls}, text, rounds=1, settings="")
    # A warm-up and a round.
    assert calls == {"a": [3, 1, 1, 3, 1, 1], "b": [3, 1, 1, 3, 1, 1]}
    assert translations == {"a": text.references, "b": lines}
    facts = decoding.describe_translations({OWN: translations["a"], "b": translations["b"]}, text.references)
    assert [fact["same_as_seqkit"] for fact in facts.values()] == [3, 1]
    assert facts[OWN]["bleu"] == pytest.approx(100) and facts["b"]["bleu"] < 50


def test_our_engine_translates_alike_with_any_number_of_threads(model: Model, tiny_pairs: TinyPairs) -> None:
    # Small batches, so that two threads have something to do.
    few = model.options.model_copy(update={"batch_tokens": 20})
    engines = [
        decoding_engines.own(Model(model.loaded, options, threads))
        for options, threads in ((model.options, 1), (model.options, 2), (few, 2))
    ]
    outputs = [engine(tiny_pairs.lines) for engine in engines]
    assert outputs[0] == outputs[1] == outputs[2]
