"""Other programs' files: the pieces of subword-nmt and the ids of the tokenizers library, and what is refused."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_formats import (
    from_subword_nmt,
    from_tokenizers_json,
    to_subword_nmt,
    to_tokenizers_json,
)
from seqkit.tokenizers.bpe_learning import WordCounts, learn_bpe
from seqkit.tokenizers.bpe_text import BUILT_IN_PIECES, BYTE_PIECES

needs_subword_nmt = pytest.mark.skipif(
    importlib.util.find_spec("subword_nmt") is None, reason="subword-nmt is not installed"
)

# One blank between words and none at the edges, which is where programs differ on purpose.
LINES = [
    "",
    "Two young, White males are outside near many bushes.",
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "a\tb a\u00a0b a\u2028b \u200b",
    "x@@ @@ @",
    "日本 日本語。 שלום 😀 é e\u0301 ﬁ Ⅷ½²7",
    "don't (well-known) 3.14 $-7%",
    "é",
]
TEXT = "\n".join(LINES[1:3]) + "\nlow lower lowest newest widest é e\u0301 ﬁ 7 70 3.14 x@ @ don't\n"

CODES = "#version: 0.2\nl o\nlo w</w>\ne r</w>\nlo w\n"


def learned(num_merges: int = 60, text: str = TEXT, **options: Any) -> BpeTokenizer:
    counts = WordCounts()
    counts.add(text)
    return learn_bpe(counts, tokenizer_schema.BpeTokenizer(type="bpe", num_merges=num_merges, **options))


def multi30k(data_dir: Path, split: str, num_lines: int) -> list[str]:
    """Lines of both languages, blanks single."""
    lines = []
    for language in ("en", "de"):
        text = (data_dir / "multi30k" / f"{split}.{language}").read_text(encoding="utf-8")
        lines += text.split("\n")[:num_lines]
    return [" ".join(word for word in line.split(" ") if word) for line in lines]


# subword-nmt


def apply_bpe(codes: str) -> Callable[[str], str]:
    module = importlib.import_module("subword_nmt.apply_bpe")
    process: Callable[[str], str] = module.BPE(io.StringIO(codes)).process_line
    return process


@needs_subword_nmt
def test_pieces_of_multi30k_are_those_of_apply_bpe(data_dir: Path) -> None:
    codes = io.StringIO()
    lines = multi30k(data_dir, "train", 300)
    learn = importlib.import_module("subword_nmt.learn_bpe").learn_bpe
    learn([line + "\n" for line in lines], codes, 400)
    tokenizer = from_subword_nmt(codes.getvalue())
    theirs = apply_bpe(codes.getvalue())
    for line in multi30k(data_dir, "val", 300) + LINES:
        assert tokenizer.encode_lines_to_text(line) == theirs(line)
        assert tokenizer.decode_lines_to_text(theirs(line)) == line
    assert to_subword_nmt(tokenizer)[0] == codes.getvalue()


@needs_subword_nmt
@pytest.mark.parametrize("unseen", ["unk", "keep"])
def test_our_merges_give_apply_bpe_our_pieces(unseen: str, data_dir: Path) -> None:
    lines = multi30k(data_dir, "train", 300)
    tokenizer = learned(300, "\n".join(lines), boundary="end", split="blanks", unseen="unk")
    codes, vocabulary = to_subword_nmt(tokenizer)
    if unseen == "keep":
        tokenizer = from_subword_nmt(codes, vocabulary)
    theirs = apply_bpe(codes)
    for line in multi30k(data_dir, "val", 300):
        if unseen == "keep" or tokenizer.unk_id not in tokenizer.encode(line):
            assert tokenizer.encode_lines_to_text(line) == theirs(line)


def test_codes() -> None:
    tokenizer = from_subword_nmt(CODES)
    letters = ["e", "l", "o", "w", "</w>", "r</w>", "w</w>"]
    assert tokenizer.pieces == (*BUILT_IN_PIECES, *letters, "lo", "low</w>", "er</w>", "low")
    assert tokenizer.encode_lines_to_text("low lower lows") == "low low@@ er low@@ s"
    assert (tokenizer.boundary, tokenizer.split, tokenizer.unseen) == ("end", "blanks", "keep")
    assert from_subword_nmt(CODES.replace("\n", "\r\n")).to_json() == tokenizer.to_json()
    assert from_subword_nmt(CODES + "l o\n").to_json() == tokenizer.to_json()


def test_a_vocabulary_gives_the_order_of_ids() -> None:
    tokenizer = from_subword_nmt(CODES, "low 9\nlo@@ 3\nx@@ 2\n<unk> 1\né 1\n")
    assert tokenizer.pieces[:8] == (*BUILT_IN_PIECES, "low</w>", "lo", "x", "é</w>")
    assert tokenizer.encode("low lox é") == [4, 5, tokenizer.id_of_piece["<unk>"], 7]
    assert tokenizer.encode_lines_to_text("low lox é") == "low lo@@ x é"


def test_codes_and_vocabulary_come_back() -> None:
    tokenizer = from_subword_nmt(CODES)
    codes, vocabulary = to_subword_nmt(tokenizer)
    assert codes == CODES
    lines = vocabulary.split("\n")
    assert (lines[0], lines[-2], lines[-1]) == ("e@@ 1", "low@@ 1", "")
    again = from_subword_nmt(codes, vocabulary)
    assert set(again.pieces) == set(tokenizer.pieces)
    _, counted = to_subword_nmt(tokenizer, {4: 70, 12: 5})
    assert counted.startswith("e@@ 70\nl@@ 0\n")
    assert "\nlow 5\n" in counted


@pytest.mark.parametrize(
    ("codes", "vocabulary", "what"),
    [
        ("", None, "line 1: expected '#version: 0.2'"),
        ("l o\nlo w</w>\n", None, "line 1: expected '#version: 0.2', found 'l o'"),
        ("#version: 0.1\nl o\n", None, "found '#version: 0.1'"),
        ("#version: 0.2\nl o\nlow\n", None, "line 3: expected two pieces with a blank between, found 'low'"),
        ("#version: 0.2\nl o w\n", None, "line 2:"),
        ("#version: 0.2\n\nl o\n", None, "line 2:"),
        ("#version: 0.2\nl  o\n", None, "line 2:"),
        ('{"version": "1.0"}', None, "line 1:"),
        (CODES, "low 9\nlo\n", "vocabulary line 2: expected a piece and its count, found 'lo'"),
        (CODES, "low many\n", "vocabulary line 1:"),
        (CODES, "", "vocabulary line 1:"),
        (CODES, "low 1\nlow 1\nlo w 1\n", "vocabulary line 3:"),
        # Text that spells out the mark itself: the piece could not be told from it.
        ("#version: 0.2\n< /\n</ w\n</w >\n", None, "'</w>', which is reserved"),
        ("#version: 0.2\n@ @</w>\n> @@</w>\n> @\n", None, "both written '>@@'"),
    ],
)
def test_files_that_are_not_subword_nmts(codes: str, vocabulary: str | None, what: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        from_subword_nmt(codes, vocabulary)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "no boundary start, no split punctuation, no unseen bytes"),
        ({"boundary": "end", "split": "blanks"}, "knows no unseen bytes"),
        ({"boundary": "end", "split": "blanks", "unseen": "unk", "normalization": "nfkc"}, "no normalization nfkc"),
        ({"boundary": "end", "split": "blanks", "unseen": "unk", "special_tokens": ["<x>"]}, "no special tokens"),
    ],
)
def test_what_subword_nmt_does_not_know(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        to_subword_nmt(learned(**options))


# The tokenizers library: out


@pytest.mark.parametrize("normalization", ["none", "nfc", "nfkc"])
@pytest.mark.parametrize(
    ("boundary", "split", "unseen"),
    [
        ("start", "punctuation", "bytes"),
        ("start", "punctuation", "unk"),
        ("start", "blanks", "bytes"),
        ("start", "blanks", "unk"),
        ("end", "blanks", "unk"),
    ],
)
def test_the_library_gives_our_ids(boundary: str, split: str, unseen: str, normalization: str) -> None:
    tokenizer = learned(
        boundary=boundary, split=split, unseen=unseen, normalization=normalization, special_tokens=["<2de>"]
    )
    written = to_tokenizers_json(tokenizer)
    theirs = Tokenizer.from_str(written)
    for line in [*LINES, "<2de> low", "low <2de> low <2de>"]:
        ids = tokenizer.encode(line)
        assert theirs.encode(line).ids == ids
        if tokenizer.unk_id not in ids and "<" not in line:
            assert theirs.decode(ids) == tokenizer.decode(ids)
    if boundary == "start":
        for line in (" low", "low ", "a  b   c", " "):
            assert theirs.encode(line).ids == tokenizer.encode(line)
    assert from_tokenizers_json(written).to_json() == tokenizer.to_json()


def test_the_library_gives_our_ids_on_multi30k(data_dir: Path) -> None:
    text = "\n".join(multi30k(data_dir, "train", 300))
    options: list[dict[str, Any]] = [{}, {"split": "blanks"}, {"boundary": "end", "split": "blanks", "unseen": "unk"}]
    for option in options:
        tokenizer = learned(400, text, **option)
        theirs = Tokenizer.from_str(to_tokenizers_json(tokenizer))
        for line in multi30k(data_dir, "val", 300):
            assert theirs.encode(line).ids == tokenizer.encode(line)


def test_kept_characters_are_unknown_to_the_library() -> None:
    tokenizer = from_subword_nmt(CODES)
    theirs = Tokenizer.from_str(to_tokenizers_json(tokenizer))
    for line in ("low lower lows", "é loé"):
        assert theirs.encode(line).ids == tokenizer.encode(line)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "knows no boundary end with unseen bytes, no boundary end with split punctuation"),
        ({"unseen": "unk"}, "knows no boundary end with split punctuation"),
        ({"split": "blanks"}, "knows no boundary end with unseen bytes"),
    ],
)
def test_what_the_library_does_not_know(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        to_tokenizers_json(learned(boundary="end", **options))


# The tokenizers library: in


def sentencepiece_like(scheme: str = "always", **options: Any) -> Tokenizer:
    """As models converted from SentencePiece are: Metaspace, unseen characters in bytes."""
    options = {"byte_fallback": True, "fuse_unk": True, **options}
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace()
    names = ["<unk>", "<s>", "</s>", *BYTE_PIECES] if options["byte_fallback"] else ["[PAD]", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator([TEXT.replace("\n", " ")], trainer)
    if options["byte_fallback"]:
        # The trainer has put bytes among the special tokens, which no model file does.
        content = json.loads(tokenizer.to_str())
        content["added_tokens"] = content["added_tokens"][:3]
        tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_a_model_as_sentencepiece_makes_them(scheme: str) -> None:
    theirs = sentencepiece_like(scheme)
    ours = from_tokenizers_json(theirs.to_str())
    for line in [*LINES, "low  lower ", "lowest\u3000x"]:
        assert ours.encode(line) == theirs.encode(line).ids
        assert ours.decode(ours.encode(line)) == line
    assert ours.pieces[:3] == ("<unk>", "<s>", "</s>")
    # What is missing comes after all others, so that no id changes.
    assert ours.pieces[-1] == "<pad>" and ours.vocab_size == theirs.get_vocab_size() + 1
    assert (ours.boundary, ours.split, ours.unseen, ours.special_tokens) == ("start", "blanks", "bytes", ())


def test_a_model_that_marks_in_its_normalizer() -> None:
    theirs = sentencepiece_like()
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    theirs.pre_tokenizer = None
    ours = from_tokenizers_json(theirs.to_str())
    for line in [*LINES, " low  lower "]:
        assert ours.encode(line) == theirs.encode(line).ids
    content = json.loads(theirs.to_str())
    number = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {"▁▁": number}
    content["model"]["merges"].append(["▁", "▁"])
    with pytest.raises(ValueError, match="pre_tokenizer null is not supported"):
        from_tokenizers_json(json.dumps(content))


def test_a_model_with_an_unknown_token_and_special_tokens() -> None:
    theirs = sentencepiece_like(byte_fallback=False, fuse_unk=False)
    ours = from_tokenizers_json(theirs.to_str())
    for line in LINES:
        assert ours.encode(line) == theirs.encode(line).ids
    assert ours.special_tokens == ("[PAD]",)
    assert (ours.unseen, ours.unk_id) == ("unk", 1)


@pytest.mark.parametrize("pre_tokenizer", [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.CharDelimiterSplit(" ")])
def test_a_model_with_marks_at_the_end(pre_tokenizer: Any) -> None:
    theirs = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    theirs.pre_tokenizer = pre_tokenizer
    theirs.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["[UNK]", "<s>"], end_of_word_suffix="</w>", show_progress=False
    )
    theirs.train_from_iterator([TEXT.replace("\n", " ")], trainer)
    ours = from_tokenizers_json(theirs.to_str())
    for line in LINES:
        # WhitespaceSplit parts words at what is no blank too.
        text = line.replace("\t", " ").replace("\u00a0", " ").replace("\u2028", " ")
        assert ours.encode(text) == theirs.encode(text).ids
    assert (ours.boundary, ours.unk_id, ours.normalization) == ("end", 0, "nfc")
    assert ours.pieces[0] == "<unk>"


def test_merges_as_older_files_have_them() -> None:
    content = json.loads(sentencepiece_like().to_str())
    new = from_tokenizers_json(json.dumps(content)).to_json()
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    del content["model"]["type"]
    assert from_tokenizers_json(json.dumps(content)).to_json() == new


def changed(change: Callable[[Any], object]) -> str:
    """The file of a supported model with something changed in it."""
    content = json.loads(sentencepiece_like().to_str())
    change(content)
    return json.dumps(content)


def model_with(**options: Any) -> str:
    return changed(lambda content: content["model"].update(options))


def with_part(name: str, part: Any) -> str:
    """A model with another normalizer or pre-tokenizer."""
    theirs = sentencepiece_like()
    setattr(theirs, name, part)
    return theirs.to_str()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no model in it"),
        ('{"seqkit_tokenizer": 1, "type": "bpe"}', "no model in it"),
        (model_with(type="WordPiece"), "model.type WordPiece is not supported"),
        (model_with(type="Unigram"), "model.type Unigram is not supported"),
        (model_with(dropout=0.1), "model.dropout is not supported"),
        (model_with(continuing_subword_prefix="##"), "model.continuing_subword_prefix is not supported"),
        (model_with(end_of_word_suffix="@"), "model.end_of_word_suffix @ is not supported"),
        (model_with(end_of_word_suffix="</w>"), "pre_tokenizer Metaspace with end_of_word_suffix is not supported"),
        (model_with(ignore_merges=True), "model.ignore_merges is not supported"),
        (model_with(byte_fallback=False), "model.fuse_unk is not supported"),
        (model_with(byte_fallback=False, unk_token=None), "drops unseen characters, is not supported"),
        (model_with(byte_fallback=False, unk_token="?"), "model.unk_token '?' has no id"),
        (model_with(vocab=[]), "model.vocab is not a table"),
        (model_with(vocab={"a": 0, "b": 2}), "the ids of model.vocab and added_tokens are not 0 to"),
        (model_with(merges={}), "model.merges is not a list"),
        (model_with(merges=[["a"]]), "which is no pair"),
        (model_with(merges=[["a", "€"]]), "which is no piece"),
        (changed(lambda c: c["model"]["vocab"].pop("<0x41>")), "are not 0 to"),
        (changed(lambda c: c.update(truncation={"max_length": 5})), "truncation is not supported"),
        (changed(lambda c: c.update(added_tokens=[{"id": 1}])), "something without id and content"),
        (changed(lambda c: c["added_tokens"].append({"id": 360, "content": "a b"})), "'a b' is no piece"),
        (with_part("normalizer", normalizers.Lowercase()), "normalizer Lowercase is not supported"),
        (
            with_part("normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()])),
            "normalizer StripAccents is not supported",
        ),
        (with_part("normalizer", normalizers.Prepend("▁")), "normalizer Prepend is not supported"),
        (with_part("pre_tokenizer", pre_tokenizers.ByteLevel()), "pre_tokenizer ByteLevel is not supported"),
        (with_part("pre_tokenizer", pre_tokenizers.Whitespace()), "pre_tokenizer Whitespace is not supported"),
        (with_part("pre_tokenizer", None), "pre_tokenizer null is not supported"),
        (
            with_part("pre_tokenizer", pre_tokenizers.Split(Regex("a|b"), "isolated")),
            "pre_tokenizer Split is not supported",
        ),
        (
            with_part("pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Metaspace()])),
            "pre_tokenizer Digits and Metaspace is not supported",
        ),
        (with_part("pre_tokenizer", pre_tokenizers.Metaspace("_")), "Metaspace with replacement _ is not supported"),
        (
            with_part("pre_tokenizer", pre_tokenizers.Metaspace(prepend_scheme="never")),
            "prepend_scheme never and split True is not supported",
        ),
        (
            with_part("pre_tokenizer", pre_tokenizers.Metaspace(split=False)),
            "prepend_scheme always and split False is not supported",
        ),
    ],
)
def test_what_is_refused_is_named(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        from_tokenizers_json(text)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_bytes_that_are_incomplete_or_at_the_wrong_end() -> None:
    content = json.loads(sentencepiece_like().to_str())
    vocab = content["model"]["vocab"]
    vocab["<0x4x>"] = vocab.pop("<0x41>")
    with pytest.raises(ValueError, match="byte_fallback without a piece for every byte"):
        from_tokenizers_json(json.dumps(content))
    content = json.loads(sentencepiece_like().to_str())
    content["model"]["end_of_word_suffix"] = "</w>"
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    with pytest.raises(ValueError, match="byte_fallback with end_of_word_suffix"):
        from_tokenizers_json(json.dumps(content))
