"""The tokenizer of byte-pair encoding: golden encodings, what is written and read, files, memory."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from seqkit.errors import DataError
from seqkit.tokenizers import bpe_lines, bpe_text, bpe_words
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_decoding import LineError
from seqkit.tokenizers.bpe_text import BUILT_IN_PIECES, BYTE_PIECES, ReservedStrings, runs
from seqkit.tokenizers.bpe_words import merge_pair
from seqkit.tokenizers.registry import tokenizer_from_json

SPECIAL = list(BUILT_IN_PIECES)
BYTES = list(BYTE_PIECES)


def start(*pieces: str, merges: list[tuple[str, str]] | None = None, **options: Any) -> BpeTokenizer:
    """Words marked at the start, no pieces for bytes unless asked for."""
    options = {"unseen": "unk", **options}
    first = SPECIAL + list(options.get("special_tokens", [])) + BYTES * (options["unseen"] == "bytes")
    return BpeTokenizer([*first, "▁", *pieces], merges or [], **options)


def end(*pieces: str, merges: list[tuple[str, str]] | None = None, **options: Any) -> BpeTokenizer:
    """Words marked at the end."""
    options = {"unseen": "unk", "split": "blanks", **options}
    first = SPECIAL + list(options.get("special_tokens", [])) + BYTES * (options["unseen"] == "bytes")
    return BpeTokenizer([*first, "</w>", *pieces], merges or [], boundary="end", **options)


LOW = start(
    *("e", "l", "o", "r", "w", "lo", "▁lo", "▁low", "er"),
    merges=[("l", "o"), ("▁", "lo"), ("▁lo", "w"), ("e", "r")],
)
LOW_END = end(
    *("e", "l", "o", "r", "w", "r</w>", "w</w>", "lo", "low</w>", "er</w>"),
    merges=[("l", "o"), ("lo", "w</w>"), ("e", "r</w>")],
)


def pieces(tokenizer: BpeTokenizer, text: str) -> list[str]:
    return [tokenizer.pieces[i] for i in tokenizer.encode(text)]


# Golden encodings


def test_words_marked_at_the_start() -> None:
    assert pieces(LOW, "low lower\nwol\n") == ["▁low", "▁low", "er", "</s>", "▁", "w", "o", "l", "</s>"]
    assert (LOW.type, LOW.unit, LOW.line_based, LOW.start_id) == ("bpe", "piece", True, 3)


def test_words_marked_at_the_end() -> None:
    assert pieces(LOW_END, "low lower\n") == ["low</w>", "lo", "w", "er</w>", "</s>"]
    assert LOW_END.decode(LOW_END.encode("low lower\n")) == "low lower\n"


def test_the_first_merges_come_first_whatever_the_order_of_the_letters() -> None:
    tokenizer = start("a", "b", "c", "bc", "ab", merges=[("b", "c"), ("a", "b")])
    assert pieces(tokenizer, "abc") == ["▁", "a", "bc"]
    assert pieces(tokenizer, "aab") == ["▁", "a", "ab"]


def test_blanks_in_a_row_and_at_the_edges() -> None:
    assert pieces(LOW, " low  l ") == ["▁", "▁low", "▁", "▁", "l", "▁"]
    assert pieces(LOW_END, " low  low ") == ["</w>", "low</w>", "</w>", "low</w>", "</w>"]
    for tokenizer in (LOW, LOW_END):
        for text in (" ", "  ", " \n \n\n", "\n", "\n\n", "low", "low \n low"):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_blank_line_has_no_pieces() -> None:
    assert pieces(LOW, "low\n\n\nlow") == ["▁low", "</s>", "</s>", "</s>", "▁low"]
    assert pieces(LOW, "\n") == ["</s>"]
    assert LOW.encode("") == []


def test_only_blanks_part_words() -> None:
    # The tab is a character like another, here without a piece.
    assert pieces(LOW, "low\tlow") == ["▁low", "<unk>", "lo", "w"]
    assert pieces(LOW, "low\u00a0low\u2028") == ["▁low", "<unk>", "lo", "w", "<unk>"]


def test_merges_stop_at_punctuation_or_only_at_blanks() -> None:
    merges = [("a", "."), ("a.", "a"), ("7", "a")]
    letters = ("a", ".", "7", "a.", "a.a", "7a")
    assert pieces(start(*letters, merges=merges), "a.a 7a") == ["▁", "a", ".", "a", "▁", "7", "a"]
    assert pieces(start(*letters, merges=merges, split="blanks"), "a.a 7a") == ["▁", "a.a", "▁", "7a"]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("a\u0301.\u0301", ["a\u0301", ".", "\u0301"]),
        ("x²½Ⅷ3", ["x", "²½Ⅷ3"]),
        ("a_b", ["a", "_", "b"]),
        ("日本2", ["日本", "2"]),
        ("a\u200bb", ["a", "\u200b", "b"]),
        ("$-1.5e3", ["$-", "1", ".", "5", "e", "3"]),
    ],
)
def test_runs(word: str, parts: list[str]) -> None:
    assert runs(word) == parts


@pytest.mark.parametrize("split", ["blanks", "punctuation"])
def test_an_endless_run_is_cut(split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_text, "LONGEST_RUN", 5)
    monkeypatch.setattr(bpe_words, "LONGEST_RUN", 5)
    merges = [("a", "a"), ("aa", "aa")]
    tokenizer = start("a", "aa", "aaaa", ".", merges=merges, split=split)
    assert pieces(tokenizer, "a" * 12) == ["▁", "aaaa", "a", "aaaa", "a", "aa"]
    tokenizer = end("a", "a</w>", "aa", "aaaa", merges=merges, split=split)
    assert pieces(tokenizer, "a" * 12) == ["aaaa", "a", "aaaa", "a", "a", "a</w>"]
    assert pieces(tokenizer, "a" * 11) == ["aaaa", "a", "aaaa", "a", "a</w>"]
    assert tokenizer.trace("a" * 11)[-1].symbols == ("aaaa", "a", "aaaa", "a", "a</w>")


def test_reserved_names_are_cut() -> None:
    assert ReservedStrings([]).cut("<s>") == ["<s>"]
    assert ReservedStrings(["ab", "abc"]).cut("xabc") == ["xa", "b", "c"]


def test_merging_a_pair() -> None:
    assert merge_pair(["a", "a", "a", "a"], ("a", "a")) == ["aa", "aa"]
    assert merge_pair(["b", "a", "b"], ("a", "b")) == ["b", "ab"]


# What has no piece


def test_unseen_characters_in_bytes() -> None:
    tokenizer = start("a", "b", "ab", merges=[("a", "b")], unseen="bytes")
    assert pieces(tokenizer, "abéab") == ["▁", "ab", "<0xC3>", "<0xA9>", "ab"]
    assert pieces(tokenizer, "€") == ["▁", "<0xE2>", "<0x82>", "<0xAC>"]
    assert (tokenizer.unk_id, len(tokenizer.byte_ids)) == (None, 256)
    assert tokenizer.byte_ids[0xC3] == tokenizer.id_of_piece["<0xC3>"]


def test_unseen_characters_in_bytes_where_words_are_marked_at_the_end() -> None:
    tokenizer = end("a", "b", "b</w>", "ab</w>", merges=[("a", "b</w>")], unseen="bytes")
    assert pieces(tokenizer, "ab éab") == ["ab</w>", "<0xC3>", "<0xA9>", "ab</w>"]
    # Bytes carry no mark, and there is no a</w>.
    assert pieces(tokenizer, "é a") == ["<0xC3>", "<0xA9>", "</w>", "<0x61>", "</w>"]
    assert tokenizer.decode(tokenizer.encode("é a  ab")) == "é a  ab"


def test_unknown_characters() -> None:
    assert pieces(LOW, "low!") == ["▁low", "<unk>"]
    assert pieces(LOW, "!!") == ["▁", "<unk>", "<unk>"]
    assert LOW.decode(LOW.encode("low!")) == "low\ufffd"
    assert (LOW.unk_id, LOW.byte_ids) == (1, ())
    assert pieces(LOW_END, "!low !") == ["<unk>", "low</w>", "<unk>"]
    # Taken for the end of its word, as the ids do not tell.
    assert LOW_END.decode(LOW_END.encode("! low")) == "\ufffd low"


def test_a_mark_in_the_text_is_not_taken_for_one() -> None:
    tokenizer = start("a", "▁a", merges=[("▁", "a")], unseen="bytes")
    assert pieces(tokenizer, "a▁a") == ["▁a", "<0xE2>", "<0x96>", "<0x81>", "a"]
    assert pieces(tokenizer, "▁") == ["▁", "<0xE2>", "<0x96>", "<0x81>"]
    assert pieces(LOW, "▁low") == ["▁", "<unk>", "lo", "w"]
    # At the end it is a character like any other.
    assert pieces(end("▁", "▁</w>"), "▁▁") == ["▁", "▁</w>"]


def test_names_of_pieces_in_the_text_are_text() -> None:
    for text in ("<s> </s> <unk> <pad>", "<0x41>", "a</w> </w>", "a@@ @@"):
        for tokenizer in (start(*"<>/sunkpadx041w@", unseen="bytes"), end(*"<>/sunkpadx041w@", unseen="bytes")):
            ids = tokenizer.encode(text)
            assert not set(ids) & {0, 1, 2, 3, tokenizer.id_of_piece["<0x41>"]}
            assert tokenizer.decode(ids) == text


def test_half_a_surrogate_pair_is_a_data_error() -> None:
    for tokenizer in (LOW, LOW_END):
        for encode in (tokenizer.encode, tokenizer.encode_lines_to_text):
            with pytest.raises(DataError, match=r"U\+D800 at character 3"):
                encode("ab\ud800")


# Special tokens


def test_special_tokens_are_whole_words() -> None:
    for make in (start, end):
        tokenizer = make(*"<>2dex", "e</w>" if make is end else "y", special_tokens=["<2de>"])
        assert pieces(tokenizer, "<2de> e")[0] == "<2de>"
        assert "<2de>" not in pieces(tokenizer, "x<2de> <2de>x")
        for text in ("<2de> e", "e <2de>", " <2de>  <2de> ", "<2de>\n<2de>\n"):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        written = tokenizer.encode_lines_to_text("e <2de> e\n")
        assert " <2de> " in written
        assert tokenizer.decode_lines_to_text(written) == "e <2de> e\n"


@pytest.mark.parametrize("token", ["★", "a b", "a\nb", "<s>", "<0x41>"])
def test_what_cannot_be_a_special_token(token: str) -> None:
    with pytest.raises(ValueError, match=r"special token|is no piece|repeated"):
        start("x", unseen="bytes", special_tokens=[token])
    with pytest.raises(ValueError, match="looks like"):
        start("x", special_tokens=["▁x"])
    with pytest.raises(ValueError, match="looks like"):
        end("x", special_tokens=["x@@"])
    with pytest.raises(ValueError, match="'ﬁx' is not in NFKC"):
        start("x", special_tokens=["ﬁx"], normalization="nfkc")


# Normalization


def test_normalization() -> None:
    nfc = start("é", "ﬁ", "f", "i", normalization="nfc")
    assert pieces(nfc, "e\u0301 ﬁ") == ["▁", "é", "▁", "ﬁ"]
    nfkc = start("é", "f", "i", normalization="nfkc")
    assert pieces(nfkc, "e\u0301 ﬁ") == ["▁", "é", "▁", "f", "i"]
    # A no-break space becomes a blank, and a diaeresis one with a mark above it.
    assert pieces(nfkc, "f\u00a0i") == pieces(nfkc, "f i")
    assert nfkc.decode(nfkc.encode("i\u00a8")) == "i \ufffd"
    assert nfkc.encode_lines_to_text("f\u00a0i\n\u00a0\n") == "▁ f ▁ i\n▁ ▁\n"
    assert [step.symbols for step in nfkc.trace("ﬁ")] == [("▁", "f", "i")]


# Lines to lines


def test_lines_of_pieces() -> None:
    assert LOW.encode_lines_to_text("low lower\n\nlow") == "▁low ▁low er\n\n▁low"
    assert LOW_END.encode_lines_to_text("low lower\n\nlow") == "low lo@@ w@@ er\n\nlow"
    assert LOW.encode_lines_to_text("low lower\n\nlow", ids=True) == "12 12 13\n\n12"
    assert LOW.encode_lines_to_text("") == ""
    assert LOW_END.encode_lines_to_text(" low  low \n") == " low  low \n"


def test_lines_that_are_nothing_but_blanks() -> None:
    assert LOW.encode_lines_to_text("\n \n  \n\n") == "\n▁ ▁\n▁ ▁ ▁\n\n"
    assert LOW_END.encode_lines_to_text("\n \n  \n\n") == "\n \n  \n\n"
    for tokenizer in (LOW, LOW_END):
        for ids in (False, True):
            encoded = tokenizer.encode_lines_to_text("\n \n  \n\n \n\n\n", ids=ids)
            assert tokenizer.decode_lines_to_text(encoded, ids=ids) == "\n \n  \n\n \n\n\n"


def test_unknown_characters_are_written_with_their_place_in_the_word() -> None:
    assert LOW_END.encode_lines_to_text("!low lo! !") == "<unk>@@ low lo@@ <unk> <unk>"
    assert LOW_END.decode_lines_to_text("<unk>@@ low lo@@ <unk> <unk>") == "\ufffdlow lo\ufffd \ufffd"
    keeping = end("l", "o", "o</w>", unseen="keep")
    assert keeping.encode_lines_to_text("é! lé") == "é@@ ! l@@ é"
    assert keeping.decode_lines_to_text("é@@ ! l@@ é") == "é! lé"
    assert keeping.encode_lines_to_text("é! lé", ids=True) == "1 1 5 1"


def test_bytes_in_lines() -> None:
    tokenizer = start("a", unseen="bytes")
    written = tokenizer.encode_lines_to_text("é\n")
    assert written == "▁ <0xC3> <0xA9>\n"
    assert tokenizer.decode_lines_to_text(written) == "é\n"
    # Bytes that are no UTF-8, or that would end the line.
    assert tokenizer.decode_lines_to_text("▁ a <0xC3> a\n<0xC3>\n<0x0A> a") == "a\ufffda\n\ufffd\n\ufffda"


def test_pieces_that_are_no_text_do_not_change_the_number_of_lines() -> None:
    assert LOW.decode_lines_to_text("<s> ▁low </s> <pad>\n</s>\n") == "low\n\n"
    assert LOW.decode_lines_to_text("2 12 3 0\n3\n", ids=True) == "low\n\n"


@pytest.mark.parametrize(
    ("block", "ids", "line", "message"),
    [
        ("▁low\n▁low high\n", False, 1, "'high' is not a piece of this tokenizer"),
        ("low", False, 0, "'low' is not a piece of this tokenizer"),
        ("▁low\tx", False, 0, r"'▁low\tx' is not a piece"),
        ("x" * 100, False, 0, "x" * 60 + "…' is not"),
        ("12\n\n12 99\n", True, 2, "token id 99 is outside the vocabulary of 14"),
        ("12 -1", True, 0, "token id -1 is outside the vocabulary of 14"),
        ("12 ▁low", True, 0, "'▁low' is not a token id"),
        ("1.0", True, 0, "'1.0' is not a token id"),
        ("٣", True, 0, "'٣' is not a token id"),
    ],
)
def test_a_line_that_is_no_pieces(block: str, ids: bool, line: int, message: str) -> None:
    with pytest.raises(LineError) as caught:
        LOW.decode_lines_to_text(block, ids=ids)
    assert caught.value.line_index == line
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_bad_line_far_down_in_a_block() -> None:
    block = "▁low ▁low\n" * 20_000 + "nothing\n"
    with pytest.raises(LineError) as caught:
        LOW.decode_lines_to_text(block)
    assert caught.value.line_index == 20_000


def test_large_blocks_are_the_sum_of_their_lines() -> None:
    lines = ["low lower", "", " ", "row  low", "lower" * 300, " " * 40_000, ""] * 4
    for tokenizer in (LOW, LOW_END):
        block = "\n".join(lines)
        written = tokenizer.encode_lines_to_text(block)
        assert written.split("\n") == [tokenizer.encode_lines_to_text(line) for line in lines]
        assert tokenizer.decode_lines_to_text(written) == block
        assert tokenizer.decode(tokenizer.encode(block)) == block


# Decoding ids


def test_the_stream_knows_where_a_blank_is_due() -> None:
    stream = LOW.stream_decoder()
    assert [stream.push(i) for i in LOW.encode("low low\nlower")] == ["low", " low", "\n", "low", "er"]
    stream = LOW_END.stream_decoder()
    # A blank that ends the line would be the mark of the last word, so it waits.
    assert [stream.push(i) for i in LOW_END.encode("low low\nlower")] == ["low", " low", "\n", "lo", "w", "er"]
    assert stream.flush() == ""


def test_the_stream_holds_back_incomplete_characters() -> None:
    tokenizer = start("a", unseen="bytes")
    stream = tokenizer.stream_decoder()
    assert [stream.push(i) for i in tokenizer.encode("é a")] == ["", "", "é", " ", "a"]
    stream.push(tokenizer.byte_ids[0xE2])
    assert stream.flush() == "\ufffd"
    assert stream.push(tokenizer.id_of_piece["▁"]) == ""


def test_decode_takes_arrays() -> None:
    ids = LOW.encode_array("low lower\n")
    assert ids.dtype == LOW.dtype == np.uint8
    assert LOW.decode(ids) == "low lower\n"  # type: ignore[arg-type]
    assert start("a", *(chr(0x4E00 + i) for i in range(300))).encode_array("a").dtype == np.uint16


@pytest.mark.parametrize("wrong", [-1, 14])
def test_ids_outside_the_vocabulary(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary of 14"):
        LOW.decode([12, wrong])
    with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary of 14"):
        LOW.written(wrong)


# Reports


def test_written_pieces_and_reports() -> None:
    assert [LOW.written(i) for i in (0, 4, 12)] == ["<pad>", "▁", "▁low"]
    assert [LOW_END.written(i) for i in (0, 4, 5, 12, 13)] == ["<pad>", "", "e@@", "lo@@", "low"]
    assert LOW.token_text(12) == "▁low"
    assert start("\t").token_text(5) == r"\t"
    assert LOW.last_boundary("ab c\nd e") == 5


def test_a_trace_goes_merge_by_merge() -> None:
    assert [(step.rank, step.merge, " ".join(step.symbols)) for step in LOW.trace("lower")] == [
        (None, None, "▁ l o w e r"),
        (0, ("l", "o"), "▁ lo w e r"),
        (1, ("▁", "lo"), "▁lo w e r"),
        (2, ("▁lo", "w"), "▁low e r"),
        (3, ("e", "r"), "▁low er"),
    ]
    assert [" ".join(step.symbols) for step in LOW_END.trace("lolo!")] == ["l o l o <unk>", "lo lo <unk>"]
    tokenizer = end("a", "x</w>", unseen="bytes", special_tokens=["<2de>"])
    assert tokenizer.trace("aé")[0].symbols == ("a", "<0xC3>", "<0xA9>", "</w>")
    assert tokenizer.trace("<2de>")[-1].symbols == ("<2de>",)
    assert end("a", unseen="keep").trace("é")[0].symbols == ("é",)


# Memory


def test_the_table_of_words_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_lines, "MAX_CACHED_WORDS", 10)
    table = bpe_lines.WordTable(lambda word: word.encode(), blank=b" ", line_end=b"\n")
    text = "".join(f"w{i} w{i % 7} w{i}x\n" for i in range(300)).encode()
    assert table.translate(text) == text
    assert len(table) <= 10
    monkeypatch.setattr(bpe_lines, "MAX_CACHED_BYTES", 40)
    assert table.translate(text) == text
    assert sum(map(len, table)) <= 60


def test_long_words_are_not_kept() -> None:
    table = bpe_lines.WordTable(lambda word: word.encode(), blank=b" ", line_end=b"\n")
    assert table.translate(b"a " + b"b" * 1000 + b"\n") == b"a " + b"b" * 1000 + b"\n"
    assert list(table) == [b"a"]


# Files


def test_save_and_load() -> None:
    tokenizer = end(
        *("\u2028", '"', "é", "a", "a</w>", "éa</w>"),
        merges=[("é", "a</w>")],
        unseen="bytes",
        normalization="nfc",
        special_tokens=["<2de>", "\t\t"],
    )
    loaded = tokenizer_from_json(tokenizer.to_json())
    assert isinstance(loaded, BpeTokenizer)
    assert loaded.to_json() == tokenizer.to_json()
    assert vars(loaded)["merges"] == tokenizer.merges
    assert loaded.encode("éa <2de> \u2028") == tokenizer.encode("éa <2de> \u2028")
    for setting in ("boundary", "split", "normalization", "unseen", "special_tokens", "pieces"):
        assert getattr(loaded, setting) == getattr(tokenizer, setting)


FIELDS: dict[str, Any] = {
    "seqkit_tokenizer": 1,
    "type": "bpe",
    "boundary": "start",
    "split": "blanks",
    "normalization": "none",
    "unseen": "unk",
    "special_tokens": [],
    "pieces": [*SPECIAL, "▁", "a", "b", "ab"],
    "merges": ["a b"],
}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"boundary": "middle"}, "boundary is none of start, end"),
        ({"split": ["blanks"]}, "split is none of punctuation, blanks"),
        ({"normalization": None}, "normalization is none of"),
        ({"unseen": "error"}, "unseen is none of bytes, unk, keep"),
        ({"unseen": "keep"}, "keep needs the boundary end"),
        ({"unseen": "bytes"}, "'<0x00>' is missing"),
        ({"boundary": "end"}, "'</w>' is missing"),
        ({"pieces": FIELDS["pieces"][1:]}, "'<pad>' is missing"),
        ({"pieces": "abc"}, "pieces is not a list of strings"),
        ({"pieces": [1]}, "pieces is not a list of strings"),
        ({"pieces": [*FIELDS["pieces"], "a"]}, "repeated"),
        ({"pieces": [*FIELDS["pieces"], "a b"]}, "'a b' is no piece"),
        ({"pieces": [*FIELDS["pieces"], ""]}, "'' is no piece"),
        ({"pieces": [*FIELDS["pieces"], "\n"]}, "is no piece"),
        ({"pieces": [*FIELDS["pieces"], "\ud800"]}, "surrogate"),
        ({"merges": ["ab"]}, "needs '', which is no piece"),
        ({"merges": ["a b", "b a"]}, "needs 'ba', which is no piece"),
        ({"merges": ["a  b"]}, "which is no piece"),
        ({"merges": [["a", "b"]]}, "merges is not a list of strings"),
        ({"merges": ["< s>"], "pieces": [*FIELDS["pieces"], "<", "s>"]}, "'<s>', which is reserved"),
        ({"merges": ["a b", "a b"]}, "a merge is repeated"),
        ({"special_tokens": ["<2de>"]}, "'<2de>' is missing"),
        ({"special_tokens": ["ab"]}, "'ab', which is reserved"),
        ({"special_tokens": ["ab", "ab"], "merges": []}, "there already"),
        ({"extra": 1}, "the fields must be boundary, split,"),
        (
            {"boundary": "end", "pieces": [*SPECIAL, "</w>", ">", "@@", ">@@</w>"], "merges": []},
            "two pieces are both written '>@@'",
        ),
    ],
)
def test_a_damaged_file(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        tokenizer_from_json(json.dumps({**FIELDS, **changes}))
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200


def test_a_missing_field() -> None:
    for name in FIELDS:
        with pytest.raises(ValueError, match=r"\S"):
            tokenizer_from_json(json.dumps({key: value for key, value in FIELDS.items() if key != name}))


def test_it_is_a_tokenizer() -> None:
    tokenizer: Tokenizer = LOW
    assert tokenizer.vocab_size == 14
