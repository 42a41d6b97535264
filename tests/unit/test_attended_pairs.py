"""Sentences that a model cannot read at once are refused in words; the ends of sentences have one name each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_pairs import pairs_recipe

from seqkit.diagnostics.attention import AttentionKind
from seqkit.errors import DataError
from seqkit.models.build import build_seq2seq
from seqkit.tasks.attended_pairs import attend_pair, attention_size
from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq
from seqkit.tokenizers.registry import fit_tokenizer
from seqkit.tokenizers.sentences import SentenceVocabulary

POSITIONS = 8
KINDS: tuple[AttentionKind, ...] = ("source", "decoder")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedSeq2Seq:
    """An untrained model with eight positions, of words."""
    torch.set_num_threads(1)
    recipe = pairs_recipe(
        tmp_path_factory.mktemp("pairs"),
        model={"positions": "learned", "max_positions": POSITIONS, "num_layers": 2},
        train={"max_steps": 1},
        tokenizer={"type": "word"},
    )
    words = SentenceVocabulary(fit_tokenizer(recipe.tokenizer, ["a b c d\n"]))
    torch.manual_seed(3)
    model = build_seq2seq(recipe.model, words.vocab_size, words.vocab_size, is_joint=False).eval()
    return LoadedSeq2Seq(model, words, words, recipe, Path("model"), {})


def test_what_is_read_and_what_is_written(loaded: LoadedSeq2Seq) -> None:
    assert attention_size(loaded, "source") == attention_size(loaded, "encoder") == (2, 2)
    pair = attend_pair(loaded, "a b", "c", "source")
    assert (pair.target, pair.queries, pair.keys) == ("c", ("c", "</s>"), ("a", "b", "</s>"))
    assert attend_pair(loaded, "a b", "c", "decoder").queries == ("<s>", "c")
    encoder = attend_pair(loaded, "a b", None, "encoder")
    assert (encoder.target, encoder.queries) == (None, ("a", "b", "</s>"))


@pytest.mark.parametrize("ends", [True, False])
def test_the_models_own_translation_ends_only_if_the_model_ends_it(loaded: LoadedSeq2Seq, ends: bool) -> None:
    output = loaded.model.target.output
    before = output.bias.detach().clone()
    with torch.no_grad():
        output.bias[loaded.tgt.eos_id] = 50.0 if ends else -50.0
    try:
        source, decoder = (attend_pair(loaded, "a b", None, kind) for kind in KINDS)
    finally:
        with torch.no_grad():
            output.bias.copy_(before)
    if ends:
        assert (source.target, source.queries, decoder.queries, source.remarks) == ("", ("</s>",), ("<s>",), ())
    else:
        # As many predictions as there are positions, of which the last is read by nothing.
        assert len(source.queries) == POSITIONS and "</s>" not in source.queries
        assert decoder.queries == ("<s>", *source.queries[:-1])
        assert source.target == " ".join(source.queries)
        assert [remark for remark in source.remarks if "does not end its translation" in remark]
    assert source.weights_LHQP.shape == (2, 2, len(source.queries), 3)


def test_an_empty_target_is_one(loaded: LoadedSeq2Seq) -> None:
    pair = attend_pair(loaded, "a", "", "source")
    assert pair.queries == ("</s>",) and pair.weights_LHQP.shape == (2, 2, 1, 2)


def test_unknown_words_are_told(loaded: LoadedSeq2Seq) -> None:
    pair = attend_pair(loaded, "x y", "z", "source")
    assert pair.keys == ("<unk>", "<unk>", "</s>") and pair.queries[0] == "<unk>"
    assert len(pair.remarks) == 1 and "were not in the training text" in pair.remarks[0]


def test_as_long_as_there_are_positions(loaded: LoadedSeq2Seq) -> None:
    most = " ".join("a" * (POSITIONS - 1))
    assert attend_pair(loaded, most, most, "source").weights_LHQP.shape == (2, 2, POSITIONS, POSITIONS)
    with pytest.raises(DataError, match=r"too long to be read at once: 8 tokens, more than the 7"):
        attend_pair(loaded, f"{most} a", "a", "source")
    with pytest.raises(DataError, match=r"the target has 8 tokens, but the model has 8 positions"):
        attend_pair(loaded, "a", f"{most} a", "source")
    with pytest.raises(DataError, match="blank"):
        attend_pair(loaded, " ", "a", "source")
