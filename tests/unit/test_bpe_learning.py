"""Learning byte-pair encoding: the merges of the paper's algorithm, whatever the order of the words and the threads."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from reference_bpe import Pair, Word, greatest_text, learn_reference, smallest_ids

from seqkit.errors import DataError, UsageError
from seqkit.recipe import tokenizer_schema
from seqkit.tokenizers.bpe import BpeTokenizer
from seqkit.tokenizers.bpe_learning import WordCounts, fit_bpe, learn_bpe
from seqkit.tokenizers.bpe_text import runs

PAPER = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
"""The dictionary in algorithm 1 of Sennrich et al. (2016)."""

needs_subword_nmt = pytest.mark.skipif(
    importlib.util.find_spec("subword_nmt") is None, reason="subword-nmt is not installed"
)


def config(**options: Any) -> tokenizer_schema.BpeTokenizer:
    return tokenizer_schema.BpeTokenizer(**{"type": "bpe", "unseen": "unk", **options})


def alphabet_of(tokenizer: BpeTokenizer) -> list[str]:
    """The single symbols in the order of their ids."""
    made = {left + right for left, right in tokenizer.merges}
    return [piece for piece in tokenizer.pieces[4 + len(tokenizer.special_tokens) :] if piece not in made]


def with_word_end(counts: dict[str, int]) -> dict[Word, int]:
    return {(*word[:-1], word[-1] + "</w>"): count for word, count in counts.items() if word}


def multi30k_counts(data_dir: Path, num_lines: int | None) -> WordCounts:
    counts = WordCounts()
    for language in ("en", "de"):
        text = (data_dir / "multi30k" / f"train.{language}").read_text(encoding="utf-8")
        counts.add("\n".join(text.split("\n")[:num_lines]))
    return counts


def learn_subword_nmt(counts: dict[str, int], num_merges: int) -> list[Pair]:
    learn = importlib.import_module("subword_nmt.learn_bpe").learn_bpe
    codes = io.StringIO()
    lines = [f"{word} {count}\n" for word, count in counts.items() if word]
    learn(lines, codes, num_merges, min_frequency=2, is_dict=True)
    pairs = [line.split(" ") for line in codes.getvalue().split("\n")[1:-1]]
    return [(left, right) for left, right in pairs]


# The paper's dictionary


def test_merges_on_the_papers_dictionary_by_hand() -> None:
    # e·s and s·t</w> both occur 9 times: e has the smaller id. Then es·t</w> 9, l·o 7, and of e·w, n·e and w·est</w>
    # at 6 again e. And so on; at 2, w·er</w> comes before lo·w, which was made after w.
    tokenizer = learn_bpe(PAPER, config(num_merges=14, boundary="end"))
    assert [" ".join(merge) for merge in tokenizer.merges] == [
        "e s",
        "es t</w>",
        "l o",
        "e w",
        "n ew",
        "new est</w>",
        "lo w</w>",
        "d est</w>",
        "i dest</w>",
        "w idest</w>",
        "e r</w>",
        "w er</w>",
        "lo wer</w>",
    ]
    assert " ".join(tokenizer.pieces[:18]) == "<pad> <unk> <s> </s> d e i l n o r s t w </w> r</w> t</w> w</w>"
    assert tokenizer.encode_lines_to_text("lowest widest") == "lo@@ w@@ est widest"


def test_merges_with_marks_at_the_start() -> None:
    tokenizer = learn_bpe(PAPER, config(num_merges=5))
    # e·s and s·t: 9; then es·t: 9; then l·o, o·w and ▁·l: 7, where l has the smallest id; then ▁·lo and lo·w.
    assert tokenizer.merges == (("e", "s"), ("es", "t"), ("l", "o"), ("▁", "lo"), ("▁lo", "w"))
    assert tokenizer.encode_lines_to_text("low slow") == "▁low ▁ s lo w"


@pytest.mark.parametrize("tie_rule", [smallest_ids, greatest_text])
def test_the_reference_merges_a_pair_at_every_place(tie_rule: Any) -> None:
    merges, num_ties = learn_reference({("a", "a", "a", "b", "a", "a"): 1}, 2, tie_rule=tie_rule)
    # a·a stands at three places, of which two overlap; then aa·a, a·b and b·aa once each.
    assert merges[0] == ("a", "a")
    assert merges[1] == (("a", "b") if tie_rule is smallest_ids else ("b", "aa"))
    assert num_ties == 1


@pytest.mark.parametrize("boundary", ["start", "end"])
def test_merges_are_the_references_on_the_papers_dictionary(boundary: str) -> None:
    tokenizer = learn_bpe(PAPER, config(num_merges=50, boundary=boundary, min_frequency=1))
    words = with_word_end(PAPER) if boundary == "end" else {("▁", *word): count for word, count in PAPER.items()}
    alphabet = alphabet_of(tokenizer)
    merges, num_ties = learn_reference(words, 50, tie_rule=smallest_ids, alphabet=alphabet)
    assert list(tokenizer.merges) == merges
    assert num_ties > 5


# Multi30k


@pytest.mark.parametrize(("boundary", "split"), [("start", "blanks"), ("start", "punctuation"), ("end", "blanks")])
def test_merges_are_the_references_on_multi30k(boundary: str, split: str, data_dir: Path) -> None:
    counts = multi30k_counts(data_dir, 1000)
    tokenizer = learn_bpe(counts, config(num_merges=300, boundary=boundary, split=split))
    words: Counter[Word] = Counter()
    for word, count in counts.items():
        if not word:
            continue
        if boundary == "end":
            words[(*word[:-1], word[-1] + "</w>")] += count
        else:
            first, *others = runs(word) if split == "punctuation" else [word]
            for run in ("▁" + first, *others):
                words[tuple(run)] += count
    alphabet = alphabet_of(tokenizer)
    merges, num_ties = learn_reference(words, 300, tie_rule=smallest_ids, alphabet=alphabet)
    assert list(tokenizer.merges) == merges
    assert num_ties > 10


def compare_with_subword_nmt(counts: WordCounts, num_merges: int) -> None:
    """Ours and subword-nmt's are both the algorithm's merges; only the rule for ties is another."""
    words = with_word_end(counts)
    tokenizer = learn_bpe(counts, config(num_merges=num_merges, boundary="end", split="blanks"))
    theirs = learn_subword_nmt(counts, num_merges)
    alphabet = alphabet_of(tokenizer)
    by_ids, _ = learn_reference(words, num_merges, tie_rule=smallest_ids, alphabet=alphabet, min_frequency=2)
    by_text, _ = learn_reference(words, num_merges, tie_rule=greatest_text, min_frequency=2)
    assert list(tokenizer.merges) == by_ids
    assert theirs == by_text
    assert by_ids != by_text


@needs_subword_nmt
def test_subword_nmt_differs_by_ties_alone(data_dir: Path) -> None:
    compare_with_subword_nmt(multi30k_counts(data_dir, 500), 300)


@needs_subword_nmt
@pytest.mark.slow
def test_subword_nmt_differs_by_ties_alone_on_more_of_multi30k(data_dir: Path) -> None:
    # The same holds for 8,000 merges of all of it, for which the reference takes minutes; 158 are others there.
    compare_with_subword_nmt(multi30k_counts(data_dir, 5000), 1000)


# The same result, always


def shuffled(words: Iterable[tuple[str, int]], seed: int) -> dict[str, int]:
    items = list(words)
    random.Random(seed).shuffle(items)
    return dict(items)


@pytest.mark.parametrize("boundary", ["start", "end"])
def test_the_order_of_words_does_not_matter(boundary: str) -> None:
    counts = Counter(
        {f"{a}{b}{c}": 1 + (i * j) % 3 for i, a in enumerate("abcä") for j, b in enumerate("defé") for c in "ghi,"}
    )
    learned = {
        learn_bpe(shuffled(counts.items(), seed), config(num_merges=40, boundary=boundary)).to_json()
        for seed in range(5)
    }
    assert len(learned) == 1


_LEARN = """
import sys
from seqkit.recipe.tokenizer_schema import BpeTokenizer
from seqkit.tokenizers.bpe_learning import WordCounts, learn_bpe
counts = WordCounts()
for letter in sys.argv[1]:
    for other in "abcdefgh":
        counts.add(f"{letter}{other} {other}{letter}x {letter}, {other}." * 3)
for boundary in ("start", "end"):
    config = BpeTokenizer(type="bpe", vocab_size=320, boundary=boundary, split="blanks")
    sys.stdout.buffer.write(learn_bpe(counts, config).to_json().encode())
"""


def test_threads_hash_seeds_and_file_order_do_not_matter() -> None:
    results = set()
    for letters, threads, parallelism, seed in [
        ("uvwxyz", "1", None, "0"),
        ("zyxwvu", "2", None, "1"),
        ("vxzuwy", "2", "false", "2"),
        ("uvwxyz", "3", "true", "3"),
    ]:
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        environment.pop("TOKENIZERS_PARALLELISM", None)
        if parallelism is not None:
            environment["TOKENIZERS_PARALLELISM"] = parallelism
        done = subprocess.run([sys.executable, "-c", _LEARN, letters], env=environment, capture_output=True, check=True)
        assert not done.stderr
        results.add(done.stdout)
    assert len(results) == 1


@pytest.mark.parametrize("before", [None, "true", "0"])
def test_the_environment_is_left_as_it_was(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    else:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
    learn_bpe(PAPER, config(num_merges=3))
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_large_counts_weigh_as_many_words() -> None:
    # More than is fed to the trainer at once.
    tokenizer = learn_bpe({"ab": 5000, "cd": 4999, "ef": 5001}, config(num_merges=3, boundary="end"))
    assert tokenizer.merges == (("e", "f</w>"), ("a", "b</w>"), ("c", "d</w>"))


# Counting and fitting


def test_words_are_what_stands_between_blanks_and_line_ends() -> None:
    counts = WordCounts()
    counts.add("a  b\ta\n\nc\u00a0d\r\n")
    counts.add("a\u2028 a")
    del counts[""]
    assert counts == {"a": 2, "b\ta": 1, "c\u00a0d\r": 1, "a\u2028": 1}


def test_fitting_on_blocks_cut_anywhere() -> None:
    text = "low lower\nnewest widest low\n" * 3
    whole = fit_bpe(config(num_merges=5), [text]).to_json()
    for size in (1, 3, 10):
        assert fit_bpe(config(num_merges=5), [text[i : i + size] for i in range(0, len(text), size)]).to_json() == whole


# Sizes


def test_vocab_size_counts_every_piece() -> None:
    tokenizer = learn_bpe(PAPER, config(vocab_size=270 + 11 + 3, unseen="bytes", special_tokens=["<a>", "<b>"]))
    assert tokenizer.pieces[:7] == ("<pad>", "<unk>", "<s>", "</s>", "<a>", "<b>", "<0x00>")
    assert tokenizer.pieces[261:263] == ("<0xFF>", "d")
    # 4 + 2 special pieces, 256 bytes, 10 letters and the mark.
    assert tokenizer.vocab_size == 284 == 4 + 2 + 256 + 11 + len(tokenizer.merges)


@pytest.mark.parametrize(("options", "smallest"), [({}, 4 + 11), ({"unseen": "bytes"}, 260 + 11)])
def test_a_vocabulary_smaller_than_the_alphabet(options: dict[str, str], smallest: int) -> None:
    with pytest.raises(UsageError, match=f"make {smallest}, the smallest that works") as caught:
        learn_bpe(PAPER, config(vocab_size=smallest - 1, **options))
    assert caught.value.hint is not None and str(smallest) in caught.value.hint
    tokenizer = learn_bpe(PAPER, config(vocab_size=smallest, **options))
    assert (tokenizer.vocab_size, tokenizer.merges) == (smallest, ())


def test_no_merge_at_all() -> None:
    assert learn_bpe(PAPER, config(num_merges=0)).merges == ()


@pytest.mark.parametrize(
    ("options", "what"),
    [({"vocab_size": 1000}, "pieces instead of 1,000"), ({"num_merges": 999}, "merges instead of 999")],
)
def test_fewer_merges_than_asked_for_are_told(
    options: dict[str, int], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = learn_bpe(PAPER, config(min_frequency=5, **options))
    assert what in caplog.text
    assert "occurs 5 or more times" in caplog.text
    merges, _ = learn_reference(
        {("▁", *word): count for word, count in PAPER.items()}, 99, tie_rule=smallest_ids,
        alphabet=alphabet_of(tokenizer), min_frequency=5,
    )  # fmt: skip
    assert list(tokenizer.merges) == merges


def test_a_merge_that_makes_a_known_piece_adds_none() -> None:
    # aa·a and a·aa both make aaa.
    words = {"aaa": 9, "baa": 8, "aab": 7, "caa": 6}
    tokenizer = learn_bpe(words, config(num_merges=6, split="blanks", boundary="end"))
    made = [left + right for left, right in tokenizer.merges]
    assert len(set(tokenizer.pieces)) == tokenizer.vocab_size == len(alphabet_of(tokenizer)) + 4 + len(set(made))


# The alphabet


def test_character_coverage() -> None:
    words = {"aaaa": 20, "b": 15, "c": 4, "d": 1}
    alphabets = [
        "".join(alphabet_of(learn_bpe(words, config(num_merges=0, character_coverage=coverage))))
        for coverage in (0.5, 0.95, 0.96, 0.99, 0.991, 1.0)
    ]
    assert alphabets == ["a▁", "ab▁", "abc▁", "abc▁", "abcd▁", "abcd▁"]


def test_what_is_not_covered_parts_a_word() -> None:
    tokenizer = learn_bpe({"abxcd": 10, "ab": 1, "ef": 70}, config(num_merges=9, character_coverage=0.9))
    assert "x" not in tokenizer.pieces
    assert all("b" not in left or "c" not in right for left, right in tokenizer.merges)
    assert tokenizer.encode_lines_to_text("abxcd") == "▁ab <unk> cd"


def test_ties_at_the_cut_fall_in_code_point_order() -> None:
    assert alphabet_of(learn_bpe({"zyx": 1}, config(num_merges=0, character_coverage=0.5))) == ["x", "y", "▁"]


def test_only_characters_that_end_a_word_have_a_piece_for_it() -> None:
    tokenizer = learn_bpe({"ab": 1}, config(num_merges=0, boundary="end"))
    assert alphabet_of(tokenizer) == ["a", "b", "</w>", "b</w>"]


def test_text_from_the_private_use_areas() -> None:
    # The forms at the end of words are coded in the last code points that the text does not use.
    tokenizer = learn_bpe(
        {"\U0010ffff\U0010fffe": 3, "a\U0010ffff": 2}, config(num_merges=2, boundary="end", split="blanks")
    )
    assert tokenizer.merges == (("\U0010ffff", "\U0010fffe</w>"), ("a", "\U0010ffff</w>"))


@pytest.mark.parametrize(("form", "word"), [("nfc", "é"), ("nfkc", "fi")])
def test_normalization_comes_first(form: str, word: str) -> None:
    counts = {"e\u0301": 2, "é": 1, "\ufb01": 3, "fi": 1, "a\u00a0b": 1}
    tokenizer = learn_bpe(counts, config(num_merges=9, normalization=form))
    assert "▁" + word in tokenizer.pieces
    assert "\u0301" not in tokenizer.pieces
    assert ("\u00a0" in tokenizer.pieces) == (form == "nfc")


# Names that must stay apart


@pytest.mark.parametrize("boundary", ["start", "end"])
@pytest.mark.parametrize("unseen", ["unk", "bytes"])
def test_names_of_pieces_never_come_out_of_merges(boundary: str, unseen: str) -> None:
    names = ["<pad>", "<unk>", "<s>", "</s>", "</w>", "<0x41>", "<2de>"]
    counts = {prefix + name + suffix: 9 for name in names for prefix in ("", "a", "<") for suffix in ("", "b", "@@")}
    counts |= dict.fromkeys(("▁", "a▁b", "@@", "a@@", "<2de>"), 99)
    tokenizer = learn_bpe(
        counts,
        config(num_merges=500, boundary=boundary, split="blanks", unseen=unseen, special_tokens=["<2de>"]),
    )
    made = {left + right for left, right in tokenizer.merges}
    reserved = [*names[:4], "<2de>"] + ["<0x41>"] * (unseen == "bytes") + ["</w>"] * (boundary == "end")
    for name in reserved:
        assert not any(name in piece.removesuffix("</w>") for piece in made)
    if unseen == "bytes":
        text = "".join(f" {word}\n" for word in counts)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_not_learned_from() -> None:
    tokenizer = learn_bpe({"xyz": 99, "ab": 2}, config(num_merges=5, special_tokens=["xyz"]))
    assert alphabet_of(tokenizer) == ["a", "b", "▁"]
    assert tokenizer.encode("xyz ab") == [4, tokenizer.vocab_size - 1]


# Bad input


@pytest.mark.parametrize("counts", [{}, {"": 3}, {"<2de>": 3}])
def test_no_word_at_all(counts: dict[str, int]) -> None:
    with pytest.raises(DataError, match="no word to learn from"):
        learn_bpe(counts, config(num_merges=5, special_tokens=["<2de>"]))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"special_tokens": ["<unk>"]}, "'<unk>' is there already"),
        ({"special_tokens": ["▁de"]}, "'▁de' looks like a piece"),
        ({"special_tokens": ["ab@@"], "boundary": "end"}, "'ab@@' looks like a piece"),
        ({"special_tokens": ["ﬁn"], "normalization": "nfkc"}, "'ﬁn' is not in NFKC"),
    ],
)
def test_special_tokens_that_cannot_be(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        learn_bpe(PAPER, config(num_merges=5, **options))


def test_half_a_surrogate_pair() -> None:
    with pytest.raises(DataError, match=r"U\+D800"):
        learn_bpe({"a\ud800": 1}, config(num_merges=5))
