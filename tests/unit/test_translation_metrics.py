"""BLEU, chrF and TER: the numbers of sacreBLEU to the last digit, by corpus, sentence and bucket."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import METRICS

from seqkit.errors import UsageError
from seqkit.metrics.length_buckets import length_buckets, scores_by_length
from seqkit.metrics.sentence_losses import largest_losses, lowest_scores
from seqkit.metrics.translation import Bleu, Chrf, MetricSettings, Ter, TranslationMetric, score_corpus

References = Sequence[Sequence[str | None]]

PLAIN = [
    "The dog ran into the house and barked.",
    "A man in a blue shirt is standing on a ladder, cleaning a window.",
    "Two children (a boy and a girl) play with a red ball.",
    "It costs $3.50, doesn't it?",
    "Hello.",
    "They waited for the 12:30 train to Paris -- in vain.",
]
ZH = ["猫坐在垫子上。", "我们明天去Beijing吃烤鸭!", "他说:“你好”,然后走了。"]
JA = ["猫がマットの上に座った。", "東京タワーは333メートルです。", "はい。"]


def drop_words(lines: Sequence[str], fraction: float, seed: int) -> list[str]:
    """The lines without some of their words."""
    rng = random.Random(seed)
    return [" ".join(word for word in line.split(" ") if rng.random() > fraction) for line in lines]


def shuffle_words(lines: Sequence[str], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.sample(words := line.split(" "), len(words))) for line in lines]


DATA: dict[str, tuple[list[str], References]] = {
    "words dropped": (drop_words(PLAIN, 0.2, 1), [PLAIN]),
    "words moved": (shuffle_words(PLAIN, 1), [PLAIN]),
    "identical": (PLAIN, [PLAIN]),
    "another case": ([line.upper() for line in PLAIN], [PLAIN]),
    "empty hypotheses": ([""] * 6, [PLAIN]),
    "some empty hypotheses": (["", *PLAIN[1:4], "", ""], [PLAIN]),
    "empty references": (PLAIN, [[""] * 6]),
    "some empty references": (PLAIN, [[PLAIN[0], "", *PLAIN[2:5], ""]]),
    "all empty": (["", ""], [["", ""]]),
    "one line": (drop_words(PLAIN[1:2], 0.2, 3), [PLAIN[1:2]]),
    "one word": (["Hello."], [["Hello!"]]),
    "no overlap": (["x y z", "v w"], [["a b c", "d"]]),
    "longer than the references": ([line + " " + line for line in PLAIN], [PLAIN]),
    "two references": (drop_words(PLAIN, 0.3, 4), [PLAIN, shuffle_words(PLAIN, 2)]),
    "three references of other lengths": (
        drop_words(PLAIN, 0.1, 5),
        [drop_words(PLAIN, 0.3, 6), drop_words(PLAIN, 0.5, 7), [line + " indeed" for line in PLAIN]],
    ),
    "unequal numbers of references": (
        drop_words(PLAIN, 0.2, 8),
        [PLAIN, [None, *PLAIN[1:3], None, None, "x"], [None, None, "Two children.", "", "Hi.", None]],
    ),
    "Chinese": (["猫坐在垫上。", "我们明天吃烤鸭！", "他说：“你好”，走了。"], [ZH]),
    "Japanese": (["猫はマットに座った。", "東京タワーは300メートルです。", "いいえ。"], [JA]),
    "Unicode": (
        [
            "cafe\u0301 \u2603 na\u00efve",
            "a\u2028b c\x85d",
            "\ufeffStra\u00dfe \U0001f600\u00a0\U0001f600",
            "a\rb \t c",
        ],
        [["caf\u00e9 \u2603 na\u00efve", "a\u2028b c d", "Strasse \U0001f600 \U0001f601", "a b c"]],
    ),
    "markup": (
        ["&quot;Hi&quot; &amp; &lt;b&gt;", "<skipped> 1,000.5 a-b x-\n y"],
        [['"Hi" & <b>', "1,000.5 a - b xy"]],
    ),
}

SETTINGS: dict[str, MetricSettings] = {
    "bleu": Bleu(),
    "bleu-lc": Bleu(lowercase=True),
    "bleu-intl": Bleu(tokenize="intl"),
    "bleu-zh": Bleu(tokenize="zh"),
    "bleu-char": Bleu(tokenize="char"),
    "bleu-none-unsmoothed": Bleu(tokenize="none", smooth_method="none"),
    "bleu-floor": Bleu(smooth_method="floor"),
    "bleu-floor-value": Bleu(smooth_method="floor", smooth_value=0.01),
    "bleu-add-k": Bleu(smooth_method="add-k"),
    "bleu-add-half": Bleu(smooth_method="add-k", smooth_value=0.5),
    "bleu-effective": Bleu(effective_order=True),
    "chrf": Chrf(),
    "chrf++": Chrf(word_order=2),
    "chrf-4-1-3": Chrf(char_order=4, word_order=1, beta=3),
    "chrf-lc-blanks": Chrf(lowercase=True, whitespace=True),
    "chrf-eps": Chrf(eps_smoothing=True),
    "ter": Ter(),
    "ter-normalized": Ter(normalized=True, case_sensitive=True),
    "ter-no-punct": Ter(no_punct=True),
    "ter-asian": Ter(normalized=True, no_punct=True, asian_support=True),
}


def peer_of(settings: MetricSettings, references: References, **changes: Any) -> Any:
    """The object that sacreBLEU's program builds for the same settings."""
    kind = METRICS[{"bleu": "BLEU", "chrf": "CHRF", "chrf++": "CHRF", "ter": "TER"}[settings.key]]
    return kind(**{**asdict(settings), **changes}, references=references)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("hypotheses", "references"), DATA.values(), ids=DATA)
def test_scores_and_signatures_are_sacrebleus(
    settings: MetricSettings, hypotheses: list[str], references: References
) -> None:
    peer = peer_of(settings, references)
    theirs = peer.corpus_score(hypotheses, None)
    metric = TranslationMetric(settings, references)
    rows = metric.statistics(hypotheses)
    ours = metric.score(rows)
    assert ours.value == theirs.score
    assert ours.signature == metric.signature() == str(peer.get_signature())
    assert ours.name == metric.name == theirs.name
    # Sentence by sentence, where `sacrebleu --sentence-level` takes BLEU's effective order.
    sentence_peer = peer_of(settings, references, **({"effective_order": True} if settings.key == "bleu" else {}))
    for index, row in enumerate(rows):
        theirs = sentence_peer.sentence_score(
            hypotheses[index], [lines[index] for lines in references if lines[index] is not None]
        )
        assert metric.sentence_score(row) == theirs.score, index
    if all(line is not None for lines in references for line in lines):
        assert metric.sentence_signature == str(sentence_peer.get_signature())


@given(
    st.lists(st.tuples(*[st.text("ab .,", max_size=12)] * 3), min_size=1, max_size=5),
    st.sampled_from(sorted(SETTINGS)),
)
def test_any_text_scores_as_with_sacrebleu(triples: list[tuple[str, str, str]], name: str) -> None:
    hypotheses, *references = (list(column) for column in zip(*triples, strict=True))
    theirs = peer_of(SETTINGS[name], references).corpus_score(hypotheses, None)
    assert score_corpus(SETTINGS[name], hypotheses, references).value == theirs.score


@pytest.mark.parametrize("name", ["bleu", "chrf++", "ter"])
def test_buckets_score_like_corpora_of_their_own(name: str) -> None:
    hypotheses = drop_words(PLAIN, 0.2, 1)
    metric = TranslationMetric(SETTINGS[name], [PLAIN])
    lengths = [len(line.split()) for line in PLAIN]
    buckets = length_buckets(lengths, [5, 8, 9])
    assert [bucket.segments for bucket in buckets] == [(3, 4), (0,), (), (1, 2, 5)]
    scores = scores_by_length(metric, metric.statistics(hypotheses), buckets)
    for bucket, score in zip(buckets, scores, strict=True):
        if not bucket.segments:
            assert score is None
            continue
        own = [[PLAIN[index] for index in bucket.segments]]
        theirs = peer_of(SETTINGS[name], own).corpus_score([hypotheses[index] for index in bucket.segments], None)
        assert score is not None and score.value == theirs.score


def test_real_sentences(data_dir: Path) -> None:
    references = (data_dir / "multi30k/test_2016_flickr.en").read_text(encoding="utf-8").split("\n")[:200]
    hypotheses = drop_words(references, 0.15, 1)
    for name in ("bleu", "chrf", "chrf++"):
        theirs = peer_of(SETTINGS[name], [references]).corpus_score(hypotheses, None)
        assert score_corpus(SETTINGS[name], hypotheses, [references]).value == theirs.score


def test_parts_make_up_the_score() -> None:
    # 9 words, of which 8 match; 5 of 7 pairs; 2 of 5 triples; 1 of 4 fours. (8/9 · 5/7 · 2/5 · 1/4)^(1/4) = 0.501972
    score = score_corpus(Bleu(), ["The cat sat on a mat.", "Hello."], [["The cat sat on the mat.", "Hello."]])
    assert score.value == pytest.approx(50.1972, abs=1e-4)
    assert (score.parts["counts"], score.parts["totals"]) == ([8, 5, 2, 1], [9, 7, 5, 4])
    assert score.parts["precisions"] == pytest.approx([800 / 9, 500 / 7, 40, 25])
    assert (score.parts["hyp_len"], score.parts["ref_len"]) == (9, 9)
    assert (score.parts["brevity_penalty"], score.parts["ratio"]) == (1.0, 1.0)
    # "ab" in "abc": one of two characters each, the pair; recall 2/3 and 1/2, precision 1.
    score = score_corpus(Chrf(char_order=2), ["ab"], [["abc"]])
    assert score.parts == {"hyp_ngrams": [2, 1], "ref_ngrams": [3, 2], "matches": [2, 1]}
    recall = (2 / 3 + 1 / 2) / 2
    assert score.value == pytest.approx(100 * 5 * recall / (4 + recall))
    # One word inserted, one moved: 2 edits, 4 words.
    score = score_corpus(Ter(), ["d a b x c"], [["a b c d"]])
    assert score.parts == {"num_edits": 2, "ref_len": 4.0} and score.value == 50.0


def test_sums_of_whole_numbers_stay_whole() -> None:
    score = score_corpus(Bleu(), PLAIN, [PLAIN])
    assert all(isinstance(count, int) for count in [*score.parts["counts"], score.parts["hyp_len"]])


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "one and the same length above 0"),
        ([[]], "one and the same length above 0"),
        ([["a"], ["a", "b"]], r"found \[1, 2\]"),
        ([["a", None], ["b", None]], "segment 2 has no reference"),
    ],
)
def test_references_that_cannot_be(references: References, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TranslationMetric(Bleu(), references)


def test_hypotheses_must_match() -> None:
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        TranslationMetric(Bleu(), [["a"]]).statistics(["a", "b"])


def test_a_tokenizer_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from sacrebleu.tokenizers import tokenizer_ja_mecab

    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    with pytest.raises(UsageError, match="ja-mecab needs packages") as raised:
        TranslationMetric(Bleu(tokenize="ja-mecab"), [JA])
    assert raised.value.hint == "pip install 'sacrebleu[ja]'"


def test_labels_of_buckets() -> None:
    def labels(*bounds: int) -> list[str]:
        return [bucket.label for bucket in length_buckets([1], bounds)]

    assert labels(10, 20, 30) == ["≤10", "11–20", "21–30", ">30"]
    assert labels(0, 1, 2) == ["≤0", "1", "2", ">2"]
    assert labels() == ["any"]
    for bounds in ((20, 10), (10, 10), (-1, 5)):
        with pytest.raises(ValueError, match="must rise"):
            labels(*bounds)


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 50), unique=True).map(sorted))
def test_every_sentence_is_in_one_bucket(lengths: list[int], bounds: list[int]) -> None:
    buckets = length_buckets(lengths, bounds)
    assert sorted(index for bucket in buckets for index in bucket.segments) == list(range(len(lengths)))
    for bucket in buckets:
        for index in bucket.segments:
            assert bucket.shortest <= lengths[index] <= (bucket.longest if bucket.longest is not None else 50)


def test_losses_respect_the_direction_and_the_order() -> None:
    before, after = [50.0, 20.0, 0.0, 70.0, 30.0], [40.0, 30.0, 0.0, 20.0, 20.0]
    assert largest_losses(before, after, lower_is_better=False, limit=9) == [3, 0, 4]
    assert largest_losses(before, after, lower_is_better=False, limit=2) == [3, 0]
    assert largest_losses(before, after, lower_is_better=True, limit=9) == [1]
    assert lowest_scores(before, lower_is_better=False, limit=2) == [2, 1]
    assert lowest_scores(before, lower_is_better=True, limit=2) == [3, 0]


def test_names_and_signatures_tell_the_settings() -> None:
    signature: Callable[[MetricSettings], str] = lambda settings: TranslationMetric(settings, [["a"]]).signature()  # noqa: E731
    assert re.fullmatch(r"nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:[\d.]+", signature(Bleu()))
    assert "case:lc" in signature(Bleu(lowercase=True)) and "tok:zh" in signature(Bleu(tokenize="zh"))
    assert "smooth:floor[0.01]" in signature(Bleu(smooth_method="floor", smooth_value=0.01))
    assert (Chrf().key, Chrf().name, Chrf(word_order=2).key, Chrf(word_order=2).name) == (
        "chrf",
        "chrF2",
        "chrf++",
        "chrF2++",
    )
    two = TranslationMetric(Bleu(), [["a"], ["b"]])
    assert two.signature(bs=1000, seed=12345).startswith("nrefs:2|bs:1000|seed:12345|case:mixed|")
    uneven = TranslationMetric(Bleu(), [["a", "b"], [None, "c"]])
    assert uneven.signature().startswith("nrefs:var|")
