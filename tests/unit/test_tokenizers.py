"""Tokenizers: golden encodings, policies, files, and the counts published for WikiText-2."""

from __future__ import annotations

import doctest
import gzip
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from seqkit.errors import CheckpointError, DataError
from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers import base, byte, char, word
from seqkit.tokenizers.base import Tokenizer, encode_blocks
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.char import CharTokenizer, fit_char
from seqkit.tokenizers.registry import (
    fit_tokenizer,
    is_line_based,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from seqkit.tokenizers.word import WordTokenizer, fit_word

CHAR = tokenizer_schema.CharTokenizer(type="char")
WORD = tokenizer_schema.WordTokenizer(type="word")
BPE = tokenizer_schema.BpeTokenizer(type="bpe", num_merges=1, min_frequency=1, unseen="unk")
BPE_PIECES = ["<pad>", "<unk>", "<s>", "</s>", "▁", "a", "b"]


@pytest.mark.parametrize("module", [base, byte, char, word])
def test_examples_in_docstrings(module: object) -> None:
    failed, attempted = doctest.testmod(module)  # type: ignore[arg-type]
    assert attempted and not failed


# char


def test_char_ids_follow_code_points() -> None:
    tokenizer = fit_char(CHAR, ["hel", "", "lo"])
    assert tokenizer.characters == "ehlo"
    assert tokenizer.encode("hello") == [1, 0, 2, 2, 3]
    assert tokenizer.vocab_size == 4 + 16
    assert (tokenizer.type, tokenizer.unit, tokenizer.line_based) == ("char", "character", False)


def test_char_spells_unseen_characters_in_hexadecimal() -> None:
    tokenizer = CharTokenizer("af")
    # U+20AC is e2 82 ac; the digits begin at id 2, and the letters a and f keep their own ids.
    assert tokenizer.encode("a€f") == [0, 2 + 14, 2 + 2, 2 + 8, 2 + 2, 2 + 10, 2 + 12, 1]
    assert tokenizer.encode("\x00") == [2, 2]
    assert tokenizer.encode("😀") == [2 + int(digit, 16) for digit in "f09f9880"]


@pytest.mark.parametrize(
    "text", ["", "a", "\x00\x7f\x80߿ࠀ\uffff\U00010000\U0010ffff", "à l'été ñ", "\r\n\x85\u2028\ufeff"]
)
def test_char_round_trip_at_the_edges_of_utf8(text: str) -> None:
    for tokenizer in (CharTokenizer("a"), fit_char(CHAR, [text]), CharTokenizer("")):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_char_with_more_than_256_characters_needs_two_bytes() -> None:
    tokenizer = CharTokenizer("".join(map(chr, range(300))))
    ids = tokenizer.encode_array("aĀ€")
    assert ids.dtype == np.uint16 == tokenizer.dtype
    assert ids.tolist() == [97, 256, *(300 + int(digit, 16) for digit in "e282ac")]


@pytest.mark.parametrize("num_characters", [239, 240, 241, 255, 256])
def test_char_where_digits_cross_the_limit_of_a_byte(num_characters: int) -> None:
    tokenizer = CharTokenizer("".join(map(chr, range(num_characters))))
    text = "a~\u0101b"
    assert tokenizer.encode(text)[-1] == ord("b")
    assert tokenizer.encode("abc") == [97, 98, 99]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_array(text).dtype == (np.uint8 if num_characters <= 240 else np.uint16)


def test_char_unk() -> None:
    tokenizer = CharTokenizer("\nab", unseen="unk")
    assert tokenizer.encode("aéb!") == [1, 3, 2, 3]
    assert tokenizer.decode([1, 3, 2]) == "a\ufffdb"
    assert (tokenizer.unk_id, tokenizer.vocab_size, tokenizer.token_text(3)) == (3, 4, "<unk>")
    assert CharTokenizer("ab").unk_id is None


@pytest.mark.parametrize(("text", "name"), [("ab\u00e9", "'é' (U+00E9)"), ("a\tb", r"'\t' (U+0009)")])
def test_char_error_names_the_character(text: str, name: str) -> None:
    with pytest.raises(DataError) as caught:
        CharTokenizer("ab", unseen="error").encode(text)
    assert name in str(caught.value)


def test_char_error_accepts_what_it_knows() -> None:
    tokenizer = CharTokenizer("ab", unseen="error")
    assert tokenizer.encode("ba") == [1, 0]
    assert tokenizer.vocab_size == 2


def test_char_min_frequency_counts_over_all_blocks() -> None:
    config = tokenizer_schema.CharTokenizer(type="char", min_frequency=2)
    assert fit_char(config, ["aéb", "bée"]).characters == "bé"


def test_char_error_without_any_character() -> None:
    config = tokenizer_schema.CharTokenizer(type="char", min_frequency=5, unseen="error")
    with pytest.raises(DataError, match="no character occurs 5 times"):
        fit_char(config, ["abc"])


@pytest.mark.parametrize(
    ("characters", "unseen", "start_id"), [("\nab", "bytes", 0), ("\tab\u00e9", "bytes", 4), ("ab", "unk", 0)]
)
def test_char_start(characters: str, unseen: Literal["bytes", "unk"], start_id: int) -> None:
    assert CharTokenizer(characters, unseen=unseen).start_id == start_id


def test_char_stream_holds_back_what_is_incomplete() -> None:
    tokenizer = CharTokenizer("ab")
    stream = tokenizer.stream_decoder()
    assert [stream.push(token) for token in tokenizer.encode("a€b")] == ["a", "", "", "", "", "", "€", "b"]
    assert stream.flush() == ""


def test_char_stream_replaces_what_never_completes() -> None:
    tokenizer = CharTokenizer("ab")
    stream = tokenizer.stream_decoder()
    high, low, _ = tokenizer.encode("€")[:3]
    assert stream.push(high) + stream.push(0) == "\ufffda"
    assert stream.push(high) + stream.push(low) + stream.push(1) == "\ufffdb"
    assert stream.push(high) + stream.flush() == "\ufffd"
    assert stream.push(0) == "a"


def test_char_token_text_stays_on_its_line() -> None:
    tokenizer = CharTokenizer("\n é")
    assert [tokenizer.token_text(i) for i in (0, 1, 2, 3, 18)] == [r"\n", " ", "é", "<hex 0>", "<hex f>"]


# byte


def test_byte() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("é\n") == [0xC3, 0xA9, 0x0A] == tokenizer.encode_array("é\n").tolist()
    assert tokenizer.decode(np.array([0xC3, 0xA9, 0x21])) == "é!"  # type: ignore[arg-type]
    assert tokenizer.decode([0x61, 0xC3, 0x28]) == "a\ufffd("
    assert [tokenizer.token_text(i) for i in (0x61, 0x0A, 0xC3)] == ["a", "<0x0a>", "<0xc3>"]
    assert (tokenizer.vocab_size, tokenizer.start_id, tokenizer.unk_id, tokenizer.unit) == (256, 10, None, "byte")


def test_byte_stream() -> None:
    stream = ByteTokenizer().stream_decoder()
    assert [stream.push(byte) for byte in "é€!".encode()] == ["", "é", "", "", "€", "!"]
    assert stream.push(0xE2) + stream.flush() == "\ufffd"


# word


def test_word_splits_at_blanks_and_tabs_only() -> None:
    tokenizer = fit_word(WORD, ["  b  a\tb \n\n a\u00a0c\x0cd\u2028e\r\nb"])
    assert tokenizer.words == ("b", "a", "a\u00a0c\x0cd\u2028e\r")
    assert tokenizer.encode("  b  a\tb \n\n a\u00a0c\x0cd\u2028e\r\nb") == [2, 3, 2, 1, 1, 4, 1, 2]


def test_word_unk_and_eos() -> None:
    tokenizer = fit_word(WORD, ["a <unk> b <eos> a\n"])
    assert tokenizer.words == ("a", "<eos>", "b")
    assert tokenizer.encode("<unk> dog <eos> a\n") == [0, 0, 3, 2, 1]
    assert (tokenizer.unk_id, tokenizer.start_id, tokenizer.unit, tokenizer.line_based) == (0, 1, "word", True)
    assert [tokenizer.token_text(i) for i in (0, 1, 2)] == ["<unk>", "<eos>", "a"]


def test_word_order_is_frequency_then_code_point() -> None:
    assert fit_word(WORD, ["z é b z b a"]).words == ("b", "z", "a", "é")


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"max_size": 2}, ("b", "z")), ({"min_frequency": 2}, ("b", "z")), ({"min_frequency": 3}, ("b",))],
)
def test_word_limits(limits: dict[str, int], words: tuple[str, ...]) -> None:
    config = tokenizer_schema.WordTokenizer(type="word", **limits)  # type: ignore[arg-type]
    assert fit_word(config, ["z b b z b a"]).words == words


def test_word_lowercase() -> None:
    tokenizer = fit_word(tokenizer_schema.WordTokenizer(type="word", lowercase=True), ["The CAT <UNK> the"])
    assert tokenizer.words == ("the", "cat")
    assert tokenizer.encode("THE <UNK> Cat") == [2, 0, 3]
    assert fit_word(WORD, ["The the"]).words == ("The", "the")


def test_word_decode_writes_single_blanks() -> None:
    tokenizer = WordTokenizer(["a", "b"])
    assert tokenizer.decode(tokenizer.encode(" a   b \n\n c\tb")) == "a b\n\n<unk> b"
    stream = tokenizer.stream_decoder()
    assert [stream.push(i) for i in (2, 3, 1, 3)] == ["a", " b", "\n", "b"]


@pytest.mark.parametrize(("text", "boundary"), [("", 0), ("ab", 0), ("a b", 2), ("a b\tc", 4), ("a b\nc\u00a0d", 4)])
def test_word_boundaries(text: str, boundary: int) -> None:
    assert WordTokenizer([]).last_boundary(text) == boundary


def test_word_longer_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_TOKEN_CHARACTERS", 10)
    with pytest.raises(DataError, match="a word or line of more than 10 characters"):
        fit_word(WORD, ["abcd ", "efghi", "jklmno", " p"])
    assert fit_word(WORD, ["abcd ", "efghi", "jklm", " o"]).vocab_size == 5


def test_wikitext2_has_its_published_counts(data_dir: Path) -> None:
    # Merity et al. 2017, Table 1: 2,088,628 tokens in training, a vocabulary of 33,278.
    path = data_dir / "wikitext-2" / "train.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        text = file.read()
    blocks = [text[i : i + 1_000_003] for i in range(0, len(text), 1_000_003)]
    tokenizer = fit_word(WORD, blocks)
    assert tokenizer.vocab_size == 33_278
    assert sum(len(ids) for ids in encode_blocks(tokenizer, blocks)) == 2_088_628
    assert tokenizer.words[0] == "the"


# all of them


@pytest.mark.parametrize(
    "tokenizer",
    [CharTokenizer("ab"), ByteTokenizer(), WordTokenizer(["a"]), BpeTokenizer(BPE_PIECES, [], unseen="unk")],
)
@pytest.mark.parametrize("offset", [-1, 0])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, offset: int) -> None:
    wrong = -1 if offset else tokenizer.vocab_size
    what = f"token id {wrong} is outside the vocabulary of"
    with pytest.raises(ValueError, match=what):
        tokenizer.decode([0, wrong])
    with pytest.raises(ValueError, match=what):
        tokenizer.stream_decoder().push(wrong)
    with pytest.raises(ValueError, match=what):
        tokenizer.token_text(wrong)


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer("ab"),
        CharTokenizer("ab", unseen="unk"),
        ByteTokenizer(),
        BpeTokenizer(BPE_PIECES, [], unseen="unk"),
    ],
)
def test_half_a_surrogate_pair_is_a_data_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"U\+D800 at character 3"):
        tokenizer.encode("ab\ud800")


def test_smallest_dtype_at_its_edges() -> None:
    sizes = (1, 256, 257, 1 << 16, (1 << 16) + 1)
    assert [base.smallest_dtype(size).name for size in sizes] == ["uint8", "uint8", "uint16", "uint16", "uint32"]


def test_fit_by_name() -> None:
    assert fit_tokenizer(CHAR, ["ba"]).encode("ab") == [0, 1]
    assert fit_tokenizer(tokenizer_schema.ByteTokenizer(type="byte"), []).vocab_size == 256
    assert fit_tokenizer(WORD, ["ba"]).vocab_size == 3
    assert fit_tokenizer(BPE, ["ba"]).encode("ba") == [6, 7]
    assert [is_line_based(config) for config in (CHAR, tokenizer_schema.ByteTokenizer(type="byte"), WORD, BPE)] == [
        False,
        False,
        True,
        True,
    ]


# files


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer("\n\x1f\"'\\é\u2028😀"),
        CharTokenizer("ab", unseen="unk"),
        ByteTokenizer(),
        WordTokenizer(["the", "é", '"', "\u2028"], lowercase=True),
        BpeTokenizer([*BPE_PIECES, "\u2028", '"', "ab"], [("a", "b")], unseen="unk"),
    ],
)
def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert loaded.to_json() == tokenizer.to_json() == path.read_text("utf-8")
    text = "ab the é x\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert json.loads(path.read_bytes())["seqkit_tokenizer"] == 1


HEAD = '{"seqkit_tokenizer": 1, "type": '


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "no seqkit_tokenizer"),
        (b'{"version": "1.0", "model": {}}', "no seqkit_tokenizer"),
        (b'{"seqkit_tokenizer": 2, "type": "byte"}', "format 2"),
        (b'{"seqkit_tokenizer": true, "type": "byte"}', "format True"),
        ((HEAD + '"bytes"}').encode(), "type 'bytes' is none of char, byte, word, bpe"),
        ((HEAD + '["byte"]}').encode(), "is none of"),
        ((HEAD + '"byte", "extra": 1}').encode(), "'extra'"),
        ((HEAD + '"char", "unseen": "bytes"}').encode(), "fields"),
        ((HEAD + '"char", "unseen": "bytes", "characters": "ba"}').encode(), "order"),
        ((HEAD + '"char", "unseen": "bytes", "characters": "aa"}').encode(), "order"),
        ((HEAD + '"char", "unseen": "bytes", "characters": ["a"]}').encode(), "not a string"),
        ((HEAD + '"char", "unseen": "bytes", "characters": "\\ud800"}').encode(), "surrogate"),
        ((HEAD + '"char", "unseen": ["bytes"], "characters": "a"}').encode(), "unseen"),
        ((HEAD + '"char", "unseen": "error", "characters": ""}').encode(), "no characters"),
        ((HEAD + '"word", "lowercase": 0, "words": []}').encode(), "lowercase"),
        ((HEAD + '"word", "lowercase": true, "words": ["a", 1]}').encode(), "list of strings"),
        ((HEAD + '"word", "lowercase": true, "words": ["a", "a"]}').encode(), "repeated"),
        ((HEAD + '"word", "lowercase": true, "words": ["a b"]}').encode(), "no word"),
        ((HEAD + '"word", "lowercase": true, "words": [""]}').encode(), "no word"),
        ((HEAD + '"word", "lowercase": true, "words": ["<unk>"]}').encode(), "no word"),
        ((HEAD + '"word", "lowercase": true, "words": ["\\udfff"]}').encode(), "surrogate"),
        ((HEAD + '"bpe", "pieces": [], "merges": []}').encode(), "fields"),
    ],
)
def test_a_damaged_file_is_one_clear_line(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(path)
    message = str(caught.value)
    assert str(path) in message
    assert what in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load_tokenizer(tmp_path / "none.json")


def test_every_cut_of_a_saved_file_is_refused() -> None:
    for tokenizer in (WordTokenizer(["the", "cat"]), BpeTokenizer([*BPE_PIECES, "ab"], [("a", "b")], unseen="unk")):
        saved = tokenizer.to_json().rstrip()
        for length in range(len(saved)):
            with pytest.raises(ValueError, match=r"\S"):
                tokenizer_from_json(saved[:length])
