"""Laws of tokenizers, for any text that UTF-8 can write and any ids that a model may draw."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers.base import Tokenizer, encode_blocks
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_text import BYTE_PIECES
from seqkit.tokenizers.byte import ByteTokenizer
from seqkit.tokenizers.char import CharTokenizer
from seqkit.tokenizers.registry import fit_tokenizer, tokenizer_from_json
from seqkit.tokenizers.word import WordTokenizer

CONFIGS: list[tokenizer_schema.TokenizerConfig] = [
    tokenizer_schema.CharTokenizer(type="char"),
    tokenizer_schema.CharTokenizer(type="char", unseen="unk", min_frequency=2),
    tokenizer_schema.ByteTokenizer(type="byte"),
    tokenizer_schema.WordTokenizer(type="word"),
    tokenizer_schema.WordTokenizer(type="word", lowercase=True, min_frequency=2, max_size=3),
]

# Plain st.text() seldom draws what tokenizers divide at, or the same character twice.
TEXTS = st.one_of(st.text(), st.text(alphabet="ab \t\nÀΣσ\u00a0\u2028€😀", max_size=40))
BPE_PIECES = ["<pad>", "<unk>", "<s>", "</s>", *BYTE_PIECES]
WRITTEN_EXACTLY: list[Tokenizer] = [
    BpeTokenizer([*BPE_PIECES, "a", "b", "▁", "▁a", "ab"], [("▁", "a"), ("a", "b")]),
    BpeTokenizer([*BPE_PIECES, "a", "b", "</w>", "b</w>", "ab</w>"], [("a", "b</w>")], boundary="end", split="blanks"),
    CharTokenizer(""),
    CharTokenizer(" ab"),
    CharTokenizer("".join(map(chr, range(250)))),
    ByteTokenizer(),
]


def cut(text: str, places: list[int]) -> list[str]:
    """``text`` in pieces."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(edges)]


@given(TEXTS)
def test_decode_undoes_encode(text: str) -> None:
    for tokenizer in WRITTEN_EXACTLY:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(TEXTS)
def test_char_ids_are_those_of_a_loop_over_characters(text: str) -> None:
    tokenizer = CharTokenizer(" abà€")
    expected = []
    for character in text:
        if character in tokenizer.characters:
            expected.append(tokenizer.characters.index(character))
        else:
            expected += [5 + int(digit, 16) for digit in character.encode().hex()]
    assert tokenizer.encode(text) == expected


@given(TEXTS)
def test_word_ids_say_all_but_the_spacing(text: str) -> None:
    tokenizer = WordTokenizer(["a", "b", "ab", "À"])
    ids = tokenizer.encode(text)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    # The words of each line, by a second route.
    lines = [[word for word in line.replace("\t", " ").split(" ") if word] for line in text.split("\n")]
    assert len(ids) == sum(map(len, lines)) + len(lines) - 1


@given(TEXTS, st.lists(st.integers(min_value=0)))
def test_cuts_between_blocks_change_nothing(text: str, places: list[int]) -> None:
    blocks = cut(text, places)
    for config in CONFIGS:
        tokenizer = fit_tokenizer(config, blocks)
        assert tokenizer.to_json() == fit_tokenizer(config, [text]).to_json()
        ids = [token_id for array in encode_blocks(tokenizer, blocks) for token_id in array.tolist()]
        assert ids == tokenizer.encode(text) == tokenizer.encode_array(text).tolist()
        assert tokenizer.encode_array(text).dtype == tokenizer.dtype
        assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)


@given(st.lists(st.integers(0, 271)))
def test_streaming_gives_the_text_of_decode(numbers: list[int]) -> None:
    tokenizers: list[Tokenizer] = [
        *WRITTEN_EXACTLY,
        CharTokenizer("ab", unseen="unk"),
        WordTokenizer(["a", "b"]),
    ]
    for tokenizer in tokenizers:
        ids = [number % tokenizer.vocab_size for number in numbers]
        stream = tokenizer.stream_decoder()
        assert "".join(stream.push(token_id) for token_id in ids) + stream.flush() == tokenizer.decode(ids)


@given(TEXTS)
def test_a_saved_tokenizer_is_the_same(text: str) -> None:
    for config in CONFIGS:
        tokenizer = fit_tokenizer(config, [text])
        loaded = tokenizer_from_json(tokenizer.to_json())
        assert loaded.to_json() == tokenizer.to_json()
        assert loaded.encode(text) == tokenizer.encode(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["unseen", "characters", "lowercase", "words", "pieces", "merges", "other"]), JSON_VALUES
    ),
    st.sampled_from(["char", "byte", "word", "bpe"]) | JSON_VALUES,
    st.just(1) | JSON_VALUES,
)
def test_any_json_is_a_tokenizer_or_a_value_error(fields: dict[str, object], kind: object, version: object) -> None:
    text = json.dumps({"seqkit_tokenizer": version, "type": kind, **fields})
    try:
        tokenizer = tokenizer_from_json(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer.vocab_size == tokenizer_from_json(tokenizer.to_json()).vocab_size
