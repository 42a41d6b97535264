"""Laws of byte-pair encoding, for any text that UTF-8 can write."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import pairwise, product
from typing import Literal

from hypothesis import example, given
from hypothesis import strategies as st
from reference_bpe import encode_reference

from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers.base import encode_blocks
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_learning import fit_bpe
from seqkit.tokenizers.bpe_text import BYTE_PIECES, ReservedStrings, runs

Boundary = Literal["start", "end"]
Split = Literal["punctuation", "blanks"]

BOUNDARIES: tuple[Boundary, ...] = ("start", "end")
SPLITS: tuple[Split, ...] = ("punctuation", "blanks")

# What marks words, what pieces are called and how they are written; what other programs take for a blank or a line
# end; what combines, and what is written from the right.
HOSTILE = [
    *(" ", "  ", "\n", "▁", "@", "@@", "</w>", "</s>", "<s>", "<unk>", "<pad>", "<0x41>", "<0x0A>", "<2de>"),
    *("<", ">", "/", "s", "w", "0x41", "a", "b", "7", ".", "ab", "ß", "é", "e\u0301", "\u0301", "\u0308"),
    *("\t", "\r", "\x00", "\x0b", "\x0c", "\x85", "\u00a0", "\u2028", "\u2029", "\u3000", "\ufeff", "\u200b"),
    *("😀", "👨\u200d👩\u200d👧", "שלום", "\u202e", "ﬁ", "日本", "\ud7ff", "\ue000", "\uffff", "\U0010ffff", "\ufffd"),
]
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(HOSTILE), max_size=12).map("".join))
LEARNED_FROM = (
    "ab abba ababab ba. a.b, <s> </s> </w> <unk>. <pad> <0x41> <2de> x<2de>x @@ a@@ ab@@ ▁ ▁a a▁b é e\u0301 ß 77 7\n"
    "a7b \tab\t a\u2028b a\u00a0b ﬁ <0x0A> 😀 @ @@@ שלום\n" * 3
)


@cache
def tokenizer_of(
    boundary: Boundary,
    split: Split,
    *,
    text: str = LEARNED_FROM,
    num_merges: int = 60,
    normalization: Literal["none", "nfc", "nfkc"] = "none",
    unseen: Literal["bytes", "unk"] = "bytes",
) -> BpeTokenizer:
    config = tokenizer_schema.BpeTokenizer(
        type="bpe",
        num_merges=num_merges,
        min_frequency=1,
        special_tokens=["<2de>"],
        boundary=boundary,
        split=split,
        normalization=normalization,
        unseen=unseen,
    )
    return fit_bpe(config, [text])


def tokenizers(text: str = LEARNED_FROM) -> list[BpeTokenizer]:
    """One of each boundary and split."""
    return [tokenizer_of(boundary, split, text=text) for boundary, split in product(BOUNDARIES, SPLITS)]


@given(TEXTS)
@example("\n\n \n  \n▁\n")
@example(" a")
@example("a@@ @@ @ @@@")
@example("<2de> <2de>x <2de>\n<2de>")
def test_decode_undoes_encode(text: str) -> None:
    for tokenizer in tokenizers():
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


@given(TEXTS, TEXTS)
def test_decode_undoes_encode_whatever_was_learned(learned_from: str, text: str) -> None:
    for boundary, split in product(BOUNDARIES, SPLITS):
        tokenizer = tokenizer_of.__wrapped__(boundary, split, text=learned_from + "\na", num_merges=20)
        for each in (text, learned_from):
            assert tokenizer.decode(tokenizer.encode(each)) == each
            assert tokenizer.decode_lines_to_text(tokenizer.encode_lines_to_text(each)) == each


@given(TEXTS)
def test_a_normalized_text_comes_back_normalized(text: str) -> None:
    for boundary in BOUNDARIES:
        nfc = tokenizer_of(boundary, "punctuation", normalization="nfc")
        assert nfc.decode(nfc.encode(text)) == unicodedata.normalize("NFC", text)
        nfkc = tokenizer_of(boundary, "punctuation", normalization="nfkc")
        assert nfkc.decode(nfkc.encode(text)) == unicodedata.normalize("NFKC", text)


@given(TEXTS)
@example("\n")
@example("a\n\n\n")
@example("\n \n")
def test_lines_are_encoded_one_by_one(text: str) -> None:
    for tokenizer in [
        *tokenizers(),
        tokenizer_of("start", "blanks", unseen="unk"),
        tokenizer_of("end", "blanks", unseen="unk"),
    ]:
        lines = text.split("\n")
        ids = [tokenizer.encode(line) for line in lines]
        as_ids = "\n".join(" ".join(map(str, line_ids)) for line_ids in ids)
        assert tokenizer.encode_lines_to_text(text, ids=True) == as_ids
        # The end of a line is a token of its own.
        joined = ids[0] + [i for line_ids in ids[1:] for i in (tokenizer.eos_id, *line_ids)]
        assert tokenizer.encode(text) == joined
        written = tokenizer.encode_lines_to_text(text)
        assert written.count("\n") == text.count("\n")
        if tokenizer.unseen == "bytes":
            assert written == "\n".join(" ".join(map(tokenizer.written, line_ids)) for line_ids in ids)
            assert tokenizer.decode_lines_to_text(written) == text
            assert tokenizer.decode_lines_to_text(as_ids, ids=True) == text


@given(st.lists(st.integers(min_value=0), max_size=12))
def test_ids_that_a_model_may_draw(numbers: list[int]) -> None:
    for tokenizer in [
        *tokenizers(),
        tokenizer_of("start", "blanks", unseen="unk"),
        tokenizer_of("end", "blanks", unseen="unk"),
    ]:
        ids = [number % tokenizer.vocab_size for number in numbers]
        text = tokenizer.decode(ids)
        stream = tokenizer.stream_decoder()
        for _ in range(2):
            assert "".join(map(stream.push, ids)) + stream.flush() == text
        line = [i for i in ids if i != tokenizer.eos_id]
        as_ids = " ".join(map(str, line))
        written = " ".join(map(tokenizer.written, line))
        decoded = tokenizer.decode_lines_to_text(as_ids, ids=True)
        assert decoded == tokenizer.decode_lines_to_text(written)
        if "\n" not in tokenizer.decode(line):
            assert decoded == tokenizer.decode(line)
        assert "\n" not in decoded


@given(TEXTS, st.lists(st.integers(min_value=0), max_size=4))
def test_cuts_between_blocks_change_nothing(text: str, places: list[int]) -> None:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    blocks = [text[a:b] for a, b in pairwise(edges)]
    for tokenizer in tokenizers():
        ids = [token_id for ids in encode_blocks(tokenizer, blocks) for token_id in ids.tolist()]
        assert ids == tokenizer.encode(text)


@given(st.text(alphabet="ab.7", min_size=1, max_size=12))
def test_pieces_are_those_of_applying_every_merge_in_turn(word: str) -> None:
    for tokenizer in tokenizers():
        parts = [word] if tokenizer.split == "blanks" else runs(word)
        spelled = [list(part) for part in parts]
        if tokenizer.boundary == "start":
            spelled[0].insert(0, "▁")
        else:
            spelled[-1][-1] += "</w>"
        expected = [piece for symbols in spelled for piece in encode_reference(tuple(symbols), tokenizer.merges)]
        assert [tokenizer.pieces[i] for i in tokenizer.encode(word)] == expected
        assert list(tokenizer.trace(word)[-1].symbols) == expected


@given(TEXTS)
def test_a_trace_ends_with_the_pieces_of_the_word(text: str) -> None:
    for tokenizer in tokenizers():
        for word in set(text.replace("\n", " ").split(" ")) - {""}:
            steps = tokenizer.trace(word)
            assert steps[-1].symbols == tuple(tokenizer.pieces[i] for i in tokenizer.encode(word))
            ranks = [step.rank for step in steps[1:]]
            assert all(
                tokenizer.merges[rank] == step.merge
                for rank, step in zip(ranks, steps[1:], strict=True)
                if rank is not None
            )


@given(TEXTS)
def test_runs_are_the_word(word: str) -> None:
    parts = runs(word)
    assert "".join(parts) == word
    assert all(parts)

    def kind(character: str) -> str:
        return {"L": "letter", "M": "letter", "N": "numeral"}.get(unicodedata.category(character)[0], "other")

    assert all(len({kind(character) for character in part}) == 1 for part in parts)
    assert all(kind(a[-1]) != kind(b[0]) for a, b in pairwise(parts))


@given(TEXTS, st.lists(st.text(alphabet="ab<", min_size=2, max_size=3), max_size=3))
def test_no_part_holds_a_reserved_name(text: str, names: list[str]) -> None:
    reserved = ReservedStrings([*names, *BYTE_PIECES])
    parts = reserved.cut(text)
    assert "".join(parts) == text
    assert not any(name in part for part in parts for name in [*names, *BYTE_PIECES])
    assert (len(parts) > 1) == reserved.occur_in(text)
