"""Laws of the CTranslate2 engine: whatever it is asked, its outputs keep to it, and their scores are the model's own.

Legend: T predictions, S source tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkit.errors import UsageError
from seqkit.export.ctranslate_spec import translation_spec
from seqkit.models.build import build_seq2seq
from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens
from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq, TranslateOptions
from seqkit.runs.export_folder import Export
from seqkit.tasks.ctranslate_abilities import check_ctranslate
from seqkit.tasks.ctranslate_export import token_names
from seqkit.tasks.ctranslate_search import CtranslateOutput, CtranslateSearch
from seqkit.tasks.torch_search import TorchSearch
from seqkit.tasks.translation_search import SearchBatch
from seqkit.tasks.translator import beam_rule
from seqkit.tokenizers.char import CharTokenizer
from seqkit.tokenizers.sentences import SentenceVocabulary

SRC = SentenceVocabulary(CharTokenizer("abcdef", unseen="error"))
# With a line end and <unk>, which a translation never contains and this model likes.
TGT = SentenceVocabulary(CharTokenizer("\nuvwxyz", unseen="unk"))
# Of unequal lengths, in no order, with limits that some outputs reach.
SENTENCES = [SRC.tokenizer.encode(line) for line in ("abc", "f", "abcdefabcdef", "dabcfe", "cc", "eb")]
MAX_LENGTHS = [5, 2, 11, 7, 1, 9]


@dataclass(frozen=True)
class Sides:
    """One model behind both engines."""

    model: EncoderDecoder
    export: Export

    def ours(self, **options: Any) -> TorchSearch:
        return TorchSearch(self.model, SRC, TGT, TranslateOptions(**options), with_attention=True)

    def theirs(self, **options: Any) -> CtranslateSearch:
        return CtranslateSearch(self.export, SRC, TGT, TranslateOptions(**options), with_attention=True)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """A model with random weights that prefers some outputs clearly and often ends."""
    config = TransformerSeq2Seq.model_validate(
        {"type": "transformer", "num_layers": 1, "num_decoder_layers": 2, "d_model": 12, "num_heads": 3}
    )
    torch.manual_seed(6)
    model = build_seq2seq(config, SRC.vocab_size, TGT.vocab_size, is_joint=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
        model.target.output.bias[TGT.eos_id] = 3.0
    folder = tmp_path_factory.mktemp("export")
    spec = translation_spec(
        model,
        src_tokens=token_names(SRC),
        tgt_tokens=token_names(TGT),
        bos_id=TGT.bos_id,
        eos_id=TGT.eos_id,
        unk_id=TGT.bos_id,
        num_positions=32,
    )
    spec.validate()
    spec.save(str(folder))
    export = Export(path=folder, tokenizers={}, recipe="", facts={"export": {"type": "float32"}})
    return Sides(model, export)


def batch_of(prefixes: Sequence[list[int]] | None = None) -> SearchBatch:
    return SearchBatch(
        sentences=SENTENCES,
        max_lengths=MAX_LENGTHS,
        prefixes=prefixes or [[] for _ in SENTENCES],
        constraints=[[] for _ in SENTENCES],
        rows=range(len(SENTENCES)),
    )


@torch.inference_mode()
def forced_log_prob(model: EncoderDecoder, sentence: list[int], output: CtranslateOutput) -> float:
    src = [*sentence, SRC.eos_id]
    predicted = [*output.ids, *([TGT.eos_id] if output.is_finished else [])]
    source = SourceTokens(torch.tensor([src]), torch.ones(1, len(src), dtype=torch.bool))
    hidden_1TD = model(source, torch.tensor([[TGT.bos_id, *predicted[:-1]]]))
    log_probs_TV = model.target.output(hidden_1TD[0]).log_softmax(dim=1)
    return float(log_probs_TV.gather(1, torch.tensor(predicted).unsqueeze(1)).double().sum())


PREFIXES = [TGT.tokenizer.encode(text) for text in ("uv", "", "z\nu", "?", "", "w")]


@pytest.mark.parametrize(
    ("options", "prefixes"),
    [
        ({}, None),
        ({"length_penalty": "average", "alpha": 0.6}, None),
        ({"min_length": 3}, None),
        ({"no_repeat_ngram": 1}, None),
        ({"no_repeat_ngram": 2, "min_length": 4}, None),
        ({"coverage_penalty": 0.3}, None),
        ({}, PREFIXES),
        ({"min_length": 2, "no_repeat_ngram": 2, "length_penalty": "none"}, PREFIXES),
    ],
)
def test_with_one_beam_it_is_our_search(
    sides: Sides, options: dict[str, Any], prefixes: Sequence[list[int]] | None
) -> None:
    batch = batch_of(prefixes)
    options = {"beam": 1, **options}
    ours, theirs = sides.ours(**options).find(batch, 1), sides.theirs(**options).find(batch, 1)
    for (expected,), (found,) in zip(ours, theirs, strict=True):
        assert found.ids == expected.ids
        assert found.is_finished == expected.is_finished
        assert found.log_prob == pytest.approx(expected.log_prob, abs=3e-5)
        assert found.score == pytest.approx(expected.score, abs=3e-5)
        assert found.attention is not None and expected.attention is not None
        torch.testing.assert_close(found.attention, expected.attention, atol=1e-5, rtol=0)


def test_the_examples_reach_what_they_are_about(sides: Sides) -> None:
    """Some outputs end and some are cut; without a limit some would hold what no translation may."""
    outputs = [found for (found,) in sides.ours(beam=1).find(batch_of(), 1)]
    assert {output.is_finished for output in outputs} == {True, False}
    engine = sides.theirs(beam=1)
    found = engine._search(batch_of(), range(len(SENTENCES)), max(MAX_LENGTHS))
    assert any(engine._is_spoiled(outputs, 0) for outputs in found.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"length_penalty": "none"},
        {"length_penalty": "average", "alpha": 0.7},
        {"beam": 2, "alpha": 0.0},
    ],
)
def test_outputs_keep_to_what_is_asked_and_scores_are_the_models(sides: Sides, options: dict[str, Any]) -> None:
    options = {"beam": 4, **options}
    num_best = options["beam"]
    rule = beam_rule(TranslateOptions(**options), num_best)
    for sentence, max_length, outputs in zip(
        SENTENCES, MAX_LENGTHS, sides.theirs(**options).find(batch_of(), num_best), strict=True
    ):
        assert 1 <= len(outputs) <= num_best
        assert len({(tuple(output.ids), output.is_finished) for output in outputs}) == len(outputs)
        scores = [output.score for output in outputs]
        assert scores == sorted(scores, reverse=True)
        for output in outputs:
            num_predictions = len(output.ids) + output.is_finished
            assert num_predictions <= max_length
            assert output.is_finished or num_predictions == max_length
            assert set(output.ids).isdisjoint({*TGT.never_written, TGT.eos_id})
            assert output.log_prob == pytest.approx(forced_log_prob(sides.model, sentence, output), abs=5e-5)
            assert output.attention is not None
            assert output.attention.shape == (num_predictions, len(sentence) + 1)
            assert output.score == pytest.approx(output.log_prob / rule.divisor(num_predictions), abs=5e-5)


def test_a_sentence_by_itself_is_found_as_beside_others(sides: Sides) -> None:
    engine = sides.theirs(beam=3)
    together = engine.find(batch_of(), 3)
    for place, outputs in enumerate(together):
        alone = SearchBatch(
            sentences=[SENTENCES[place]],
            max_lengths=[MAX_LENGTHS[place]],
            prefixes=[[]],
            constraints=[[]],
            rows=[place],
        )
        (found,) = engine.find(alone, 3)
        assert [output.ids for output in found] == [output.ids for output in outputs]
        for one, other in zip(found, outputs, strict=True):
            assert math.isclose(one.score, other.score, abs_tol=3e-5)


def test_no_sentences_are_no_work(sides: Sides) -> None:
    empty = SearchBatch(sentences=[], max_lengths=[], prefixes=[], constraints=[], rows=[])
    assert sides.theirs().find(empty, 1) == []


@pytest.mark.parametrize(
    ("options", "asked", "name"),
    [
        ({}, {"num_models": 2}, "--ensemble"),
        ({}, {"has_constraints": True}, "constraints"),
        ({"sample": True}, {"seed": 3}, "--sample"),
        ({}, {"has_prefix": True}, "--prefix"),
        ({"min_length": 1}, {}, "--min-length"),
        ({"no_repeat_ngram": 3}, {}, "--no-repeat-ngram"),
        ({"coverage_penalty": 0.1}, {}, "--coverage-penalty"),
    ],
)
def test_what_it_would_do_in_another_way_is_refused(options: dict[str, Any], asked: dict[str, Any], name: str) -> None:
    nothing: dict[str, Any] = {"num_models": 1, "has_prefix": False, "has_constraints": False, "seed": None}
    with pytest.raises(UsageError, match=f"^--engine ctranslate2 .*{name}"):
        check_ctranslate(TranslateOptions(**options), **{**nothing, **asked})
    check_ctranslate(TranslateOptions(), **nothing)
    one_beam = TranslateOptions(beam=1, min_length=1, no_repeat_ngram=3, coverage_penalty=0.1)
    check_ctranslate(one_beam, **{**nothing, "has_prefix": True})


def test_only_numbers_that_the_machine_and_the_export_have(sides: Sides, tmp_path: Path) -> None:
    small = sides.theirs(engine="ctranslate2", engine_type="int8")
    assert small.compute_type.startswith("int8")
    assert all(outputs for outputs in small.find(batch_of(), 1))
    with pytest.raises(UsageError, match=r"^--engine-type int8: .* holds int16"):
        held = Export(path=sides.export.path, tokenizers={}, recipe="", facts={"export": {"type": "int16"}})
        CtranslateSearch(held, SRC, TGT, TranslateOptions(engine="ctranslate2", engine_type="int8"))
    with pytest.raises(UsageError, match="has the devices auto, cpu, cuda and cuda:N, not 'mps'"):
        CtranslateSearch(sides.export, SRC, TGT, TranslateOptions(), device="mps")
    with pytest.raises(UsageError, match="device 'cuda:77' is not on this machine"):
        CtranslateSearch(sides.export, SRC, TGT, TranslateOptions(), device="cuda:77")
