"""BPE-dropout: the distribution of Provilkov et al. (2020), and draws that depend on the seed and the line alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import accumulate, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.errors import DataError
from seqkit.tokenizers import bpe_dropout
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_dropout import LONGEST_STRETCH, BpeDropout
from seqkit.tokenizers.bpe_text import BUILT_IN_PIECES, BYTE_PIECES

Segmentation = tuple[str, ...]

# So small that no 64-bit number is below it, yet not 0, which takes another way.
NEVER = 1e-300


def tokenizer(*merges: str, letters: str = "abcn", **options: object) -> BpeTokenizer:
    """A tokenizer with merges written as "left right"."""
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    end = options.get("boundary") == "end"
    symbols = [*letters, "</w>", *(letter + "</w>" for letter in letters)] if end else [*letters, "▁"]
    specials = list(options.get("special_tokens", ()))  # type: ignore[call-overload]
    seen_as_bytes = BYTE_PIECES if options.get("unseen", "bytes") == "bytes" else ()
    made = [left + right for left, right in pairs]
    pieces = dict.fromkeys([*BUILT_IN_PIECES, *specials, *seen_as_bytes, *symbols, *made])
    return BpeTokenizer(list(pieces), pairs, **options)  # type: ignore[arg-type]


# Merges that overlap ("a a" in "aaaa"), come about again after others, and make one piece in two ways ("ana").
BANANA = tokenizer("a n", "n a", "an a", "▁ b", "a a", "a na", "aa aa", "▁b an", "aa a", "n ana", "▁ban ana")
TOKENIZERS = {
    "start": BANANA,
    "unk": tokenizer("a n", "an a", "▁ b", "a a", unseen="unk"),
    "nfkc": tokenizer("a n", "an a", "▁ b", "a a", normalization="nfkc"),
    "special": tokenizer("a n", "▁ <", "▁ a", letters="<>2abn", special_tokens=["<2ab>"]),
    "end": tokenizer("a n", "an a</w>", "b an", "a a</w>", "a n</w>", "b a", letters="abn@", boundary="end"),
    "blanks": tokenizer("a n", "n ,", "n, a", letters="abn,", split="blanks"),
    "no-merges": tokenizer(),
}


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def exact(symbols: Segmentation, merges: list[tuple[str, str]], p: float) -> dict[Segmentation, float]:
    """The probability of each segmentation of a word, by algorithm 1 of the paper and all that can be dropped."""
    rank_of = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    known: dict[Segmentation, dict[Segmentation, float]] = {}

    def outcomes(word: Segmentation) -> dict[Segmentation, float]:
        if word not in known:
            places = [i for i, pair in enumerate(pairwise(word)) if pair in rank_of]
            found: Counter[Segmentation] = Counter()
            for survives in product((False, True), repeat=len(places)):
                chance = math.prod(1 - p if one else p for one in survives)
                left = [place for place, one in zip(places, survives, strict=True) if one]
                if not left:
                    found[word] += chance  # type: ignore[assignment]
                    continue
                best = min(rank_of[word[i : i + 2]] for i in left)  # type: ignore[index]
                for end, part in outcomes(merged(word, [i for i in left if rank_of[word[i : i + 2]] == best])).items():  # type: ignore[index]
                    found[end] += chance * part  # type: ignore[assignment]
            known[word] = dict(found)
        return known[word]

    return outcomes(symbols)


def merged(word: Segmentation, places: list[int]) -> Segmentation:
    """``word`` with the pairs at ``places`` merged from left to right, unless one takes a symbol of the one before."""
    made: list[str] = []
    i = 0
    while i < len(word):
        step = 2 if i in places else 1
        made.append("".join(word[i : i + step]))
        i += step
    return tuple(made)


def chi_square(counts: Counter[Segmentation], chances: dict[Segmentation, float], total: int) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; what is expected fewer than 5 times is taken together."""
    assert set(counts) <= set(chances), "a segmentation that cannot be"
    cells = [(counts[word], total * chance) for word, chance in chances.items() if total * chance >= 5]
    rare = [(counts[word], total * chance) for word, chance in chances.items() if total * chance < 5]
    if rare and sum(expected for _, expected in rare) >= 1:
        cells.append((sum(n for n, _ in rare), sum(expected for _, expected in rare)))
    return sum((n - expected) ** 2 / expected for n, expected in cells), len(cells) - 1


def unlikely(freedom: int) -> float:
    """What chi-square exceeds once in 30,000 times (Wilson and Hilferty 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 4.0 * math.sqrt(2 / (9 * freedom))) ** 3


def segmentations(dropout: BpeDropout, word: str, total: int, seed: int) -> Counter[Segmentation]:
    """How often each segmentation comes, half of the words in one line and half in lines of their own."""
    text = " ".join([word] * (total // 2)) + "\n" + f"{word}\n" * (total - total // 2)
    pieces = [dropout.tokenizer.pieces[i] for i in dropout.encode_array(text, rng(seed)).tolist()]
    counts: Counter[Segmentation] = Counter()
    current: list[str] = []
    for piece in pieces:
        if current and (piece == "</s>" or piece.startswith("▁")):
            counts[tuple(current)] += 1
            current = []
        if piece != "</s>":
            current.append(piece)
    assert counts.total() == total
    return counts


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("word", ["banana", "aaaa", "aaaaa", "b", "nanana", "caan"])
def test_the_distribution_is_that_of_the_paper(word: str, p: float) -> None:
    total = 12_000
    chances = exact(("▁", *word), list(BANANA.merges), p)
    assert math.isclose(sum(chances.values()), 1)
    counts = segmentations(BpeDropout(BANANA, p), word, total, seed=5)
    statistic, freedom = chi_square(counts, chances, total)
    assert freedom >= 1 and statistic < unlikely(freedom), (statistic, freedom)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_comparison_sees_other_algorithms(p: float) -> None:
    total = 6_000
    chances = exact(("▁", *"banana"), list(BANANA.merges), p)
    generator = np.random.default_rng(3)

    def draw(drops: Callable[[int], bool]) -> Segmentation:
        """Algorithm 1, but whether a pair is dropped is asked of ``drops`` by its rank."""
        word: Segmentation = ("▁", *"banana")
        while True:
            ranks = {i: BANANA.merges.index(pair) for i, pair in enumerate(pairwise(word)) if pair in BANANA.merges}
            left = {i: rank for i, rank in ranks.items() if not drops(rank)}
            if not left:
                return word
            word = merged(word, [i for i, rank in left.items() if rank == min(left.values())])

    def once_a_word() -> Segmentation:
        dropped = generator.random(len(BANANA.merges)) < p
        return draw(lambda rank: bool(dropped[rank]))

    right = Counter(draw(lambda _: generator.random() < p) for _ in range(total))
    statistic, freedom = chi_square(right, chances, total)
    assert statistic < unlikely(freedom)
    wrong = Counter(once_a_word() for _ in range(total))
    statistic, freedom = chi_square(wrong, chances, total)
    assert statistic > unlikely(freedom)
    others = segmentations(BpeDropout(BANANA, p + 0.05), "banana", total, seed=5)
    statistic, freedom = chi_square(others, chances, total)
    assert statistic > unlikely(freedom)


@pytest.mark.parametrize("between", [" ", "\n", " b b b ", "\n\n"])
def test_words_are_drawn_independently(between: str) -> None:
    total, word = 9_000, "anan"
    one = exact(("▁", *word), list(BANANA.merges), 0.3)
    assert len(one) > 4
    both = {(*first, "|", *second): p * q for first, p in one.items() for second, q in one.items()}
    dropout = BpeDropout(BANANA, 0.3)
    counts: Counter[Segmentation] = Counter()
    # A line of its own for each two, so that what is compared are numbers far apart and close together.
    ids = dropout.encode_array(f"{word}{between}{word}\nc\n" * total, rng(8)).tolist()
    text = " ".join(BANANA.pieces[i] for i in ids).replace(" </s> ", " ").replace("▁b", "").replace("▁ b", "")
    for pair in text.split(" ▁ c")[:-1]:
        pieces = pair.replace("</s>", "").split()
        second = max(i for i, piece in enumerate(pieces) if piece.startswith("▁"))
        counts[(*pieces[:second], "|", *pieces[second:])] += 1
    assert counts.total() == total
    statistic, freedom = chi_square(counts, both, total)
    assert statistic < unlikely(freedom), (statistic, freedom)


TEXTS = st.text(alphabet="abn c\n▁@<>2,é\u00a0\ufb01\u0301", max_size=40)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, p=st.sampled_from([0.0, NEVER, 0.1, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_any_pieces_spell_the_text(name: str, text: str, p: float, seed: int) -> None:
    bpe = TOKENIZERS[name]
    plain = bpe.encode_array(text)
    ids = BpeDropout(bpe, p).encode_array(text, rng(seed))
    assert ids.dtype == bpe.dtype
    assert bpe.decode(ids.tolist()) == bpe.decode(plain.tolist())
    if p in (0.0, NEVER):
        assert ids.tolist() == plain.tolist()
    if p == 1 and bpe.normalization == "none":
        pieces = [bpe.pieces[i] for i in ids.tolist()]
        expected: list[str] = []
        for line in text.split("\n"):
            for word in line.split(" ") if line else []:
                expected += bpe.trace(word)[0].symbols
            expected.append("</s>")
        assert pieces == expected[:-1]


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60), p=st.sampled_from([0.1, 0.7]))
def test_round_trip_of_any_text(text: str, p: float) -> None:
    for bpe in (BANANA, TOKENIZERS["end"]):
        assert bpe.decode(BpeDropout(bpe, p).encode_array(text, rng()).tolist()) == text


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.text(alphabet="abn ▁c", max_size=20), max_size=8), cut=st.integers(0, 8))
def test_where_a_text_is_cut_makes_no_difference(lines: list[str], cut: int) -> None:
    dropout = BpeDropout(BANANA, 0.4)
    whole = dropout.encode_lines(lines, rng(4))
    generator = rng(4)
    assert dropout.encode_lines(lines[:cut], generator) + dropout.encode_lines(lines[cut:], generator) == whole
    # One number a line: a generator that was advanced goes on at any line.
    later = np.random.Generator(np.random.PCG64(4).advance(min(cut, len(lines))))
    assert BpeDropout(BANANA, 0.4).encode_lines(lines[cut:], later) == whole[cut:]
    text = "\n".join(lines)
    eos = BANANA.eos_id
    joined = [token_id for ids in whole for token_id in [*ids, eos]][:-1]
    assert dropout.encode_array(text, rng(4)).tolist() == joined


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_each_line_takes_one_number(p: float) -> None:
    for text, num_lines in (("", 0), ("a", 1), ("a\n", 1), ("\n", 1), ("a\nb", 2), ("a\n\n b\n", 3)):
        one, other = rng(), rng()
        BpeDropout(BANANA, p).encode_array(text, one)
        other.bit_generator.advance(num_lines)  # type: ignore[attr-defined]
        assert one.random() == other.random(), text


def test_the_same_seed_gives_the_same_pieces_and_another_gives_others() -> None:
    text = "banana anan\n" * 50
    dropout = BpeDropout(BANANA, 0.3)
    first = dropout.encode_array(text, rng(1)).tolist()
    assert dropout.encode_array(text, rng(1)).tolist() == first
    assert BpeDropout(BANANA, 0.3).encode_array(text, rng(1)).tolist() == first
    assert dropout.encode_array(text, rng(2)).tolist() != first
    generator = rng(1)
    assert dropout.encode_array(text, generator).tolist() == first
    assert dropout.encode_array(text, generator).tolist() != first


def test_neither_the_size_of_arrays_nor_what_the_table_holds_makes_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["banana anan  naan", "", "aaaa b\u00e9", "cabana ban an a nab " * 9]
    text = "\n".join(lines * 5)
    expected = BpeDropout(BANANA, 0.3).encode_array(text, rng(7)).tolist()
    monkeypatch.setattr(bpe_dropout, "_SYMBOLS_AT_ONCE", 11)
    assert BpeDropout(BANANA, 0.3).encode_array(text, rng(7)).tolist() == expected
    monkeypatch.setattr(bpe_dropout, "_MAX_WORDS", 3)
    dropout = BpeDropout(BANANA, 0.3)
    generator = rng(7)
    blocks = ["\n".join(lines) + "\n"] * 4 + ["\n".join(lines)]
    sizes = []
    parts = []
    for block in blocks:
        parts += dropout.encode_array(block, generator).tolist()
        sizes.append(len(dropout._words))
    assert parts == expected
    assert len(set(sizes)) == 1, "begun anew for each block"


def test_a_word_without_end_takes_no_time_without_end() -> None:
    word = "banana" * 5_000
    ids = BpeDropout(BANANA, 0.1).encode_array(word, rng()).tolist()
    assert BANANA.decode(ids) == word
    # Cut where a merge could go on.
    lengths = [len(BANANA.pieces[i]) for i in BpeDropout(BANANA, NEVER).encode_array(word, rng()).tolist()]
    assert set(range(LONGEST_STRETCH, len(word), LONGEST_STRETCH)) <= set(accumulate(lengths))


def test_a_large_vocabulary() -> None:
    # Many pairs in the table of ranks, found and not found.
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 150)))
    pairs = [f"{left} {right}" for left, right in product(letters[:75], letters[75:])]
    bpe = tokenizer(*pairs, letters=letters)
    generator = np.random.default_rng(2)
    text = "".join(generator.choice(list(letters + " \n"), size=5_000))
    assert BpeDropout(bpe, NEVER).encode_array(text, rng()).tolist() == bpe.encode(text)
    some = BpeDropout(bpe, 0.5).encode_array(text, rng())
    assert bpe.decode(some.tolist()) == text and len(some) > len(bpe.encode(text))


def test_what_is_refused() -> None:
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            BpeDropout(BANANA, p)
    for p in (0.0, 0.5):
        with pytest.raises(DataError, match=r"U\+D800"):
            BpeDropout(BANANA, p).encode_array("a \ud800", rng())
        with pytest.raises(ValueError, match="line end"):
            BpeDropout(BANANA, p).encode_lines(["a\nb"], rng())


def test_blank_lines_and_blanks() -> None:
    dropout = BpeDropout(BANANA, 1.0)
    lines = dropout.encode_lines(["", " ", "a", " a ", ""], rng())
    written = [[BANANA.pieces[i] for i in ids] for ids in lines]
    assert written == [[], ["▁", "▁"], ["▁", "a"], ["▁", "▁", "a", "▁"], []]
    assert dropout.encode_lines([], rng()) == []
