"""BLEU, chrF and TER as sacreBLEU computes them, behind one interface.

A metric is made once with its references. It turns each hypothesis into a row of statistics (counts of n-grams,
edits, lengths); rows are summed, and the sum is scored. So a corpus, one sentence, a bucket of long sentences and a
bootstrap sample all go the same way. The arithmetic is sacreBLEU's own (Post 2018), which is what makes a score
comparable; the signature beside it holds every setting that changes the number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from seqkit.errors import UsageError

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric, Score

BleuTokenizer = Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"]
"""How BLEU splits words. sacreBLEU's others fetch a model from the network, which scoring must not."""
SmoothMethod = Literal["exp", "floor", "add-k", "none"]

Row = Sequence[int | float]
"""Statistics of one segment; what they mean is the metric's affair."""


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """BLEU (Papineni et al. 2002), 0–100, on detokenized text; the defaults are sacreBLEU's."""

    tokenize: BleuTokenizer = "13a"
    lowercase: bool = False
    smooth_method: SmoothMethod = "exp"
    """What stands in for an n-gram precision of zero (Chen and Cherry 2014)."""
    smooth_value: float | None = None
    """For ``floor`` (0.1) and ``add-k`` (1)."""
    effective_order: bool = False
    """Leave out the orders that a short segment cannot have; sentences are always scored so."""

    key = "bleu"
    name = "BLEU"
    lower_is_better = False

    def sacrebleu_metric(self, references: Any) -> Metric:
        """The object of sacreBLEU with these settings and references."""
        from sacrebleu import BLEU

        return BLEU(
            lowercase=self.lowercase,
            # Its warning about tokenized text, which is the only thing this silences, would go to its own logger.
            force=True,
            tokenize=self.tokenize,
            smooth_method=self.smooth_method,
            smooth_value=self.smooth_value,
            effective_order=self.effective_order,
            references=references,
        )

    def parts(self, score: Any, row: Row) -> dict[str, Any]:
        """Precisions (0–100) by order, and what they and the brevity penalty are made of."""
        return {
            "precisions": list(score.precisions),
            "brevity_penalty": score.bp,
            "ratio": score.ratio,
            "hyp_len": score.sys_len,
            "ref_len": score.ref_len,
            "counts": list(score.counts),
            "totals": list(score.totals),
        }


@dataclass(frozen=True, kw_only=True)
class Chrf:
    """chrF (Popović 2015), or with words chrF++ (Popović 2017), 0–100; the defaults are sacreBLEU's."""

    char_order: int = 6
    word_order: int = 0
    """0 for chrF, 2 for chrF++."""
    beta: int = 2
    """How much more recall counts than precision."""
    lowercase: bool = False
    whitespace: bool = False
    """Count blanks as characters."""
    eps_smoothing: bool = False
    """Smooth as chrF++.py, NLTK and Moses do, instead of leaving empty orders out."""

    lower_is_better = False

    @property
    def key(self) -> str:
        """``chrf``, or ``chrf++`` with words."""
        return "chrf++" if self.word_order == 2 else "chrf"

    @property
    def name(self) -> str:
        """As sacreBLEU writes it: ``chrF2``, ``chrF2++``."""
        return f"chrF{self.beta}" + "+" * self.word_order

    def sacrebleu_metric(self, references: Any) -> Metric:
        """The object of sacreBLEU with these settings and references."""
        from sacrebleu import CHRF

        return CHRF(
            char_order=self.char_order,
            word_order=self.word_order,
            beta=self.beta,
            lowercase=self.lowercase,
            whitespace=self.whitespace,
            eps_smoothing=self.eps_smoothing,
            references=references,
        )

    def parts(self, score: Any, row: Row) -> dict[str, Any]:
        """N-grams in the hypotheses, in the references and in both, characters by order and then words by order."""
        return {"hyp_ngrams": list(row[0::3]), "ref_ngrams": list(row[1::3]), "matches": list(row[2::3])}


@dataclass(frozen=True, kw_only=True)
class Ter:
    """Translation edit rate (Snover et al. 2006) in edits per 100 reference words; the defaults are sacreBLEU's."""

    normalized: bool = False
    """Split punctuation from words first."""
    no_punct: bool = False
    """Drop punctuation first."""
    asian_support: bool = False
    """Let the two above treat Chinese and Japanese characters."""
    case_sensitive: bool = False

    key = "ter"
    name = "TER"
    lower_is_better = True

    def sacrebleu_metric(self, references: Any) -> Metric:
        """The object of sacreBLEU with these settings and references."""
        from sacrebleu import TER

        return TER(
            normalized=self.normalized,
            no_punct=self.no_punct,
            asian_support=self.asian_support,
            case_sensitive=self.case_sensitive,
            references=references,
        )

    def parts(self, score: Any, row: Row) -> dict[str, Any]:
        """Edits, and the words of the references, averaged where a segment has several."""
        return {"num_edits": score.num_edits, "ref_len": score.ref_length}


MetricSettings = Bleu | Chrf | Ter


@dataclass(frozen=True, kw_only=True)
class TranslationScore:
    """A score that can be compared with others of the same signature."""

    name: str
    """``BLEU``, ``chrF2``, ``TER``."""
    value: float
    """0–100; TER may exceed 100."""
    signature: str
    parts: dict[str, Any]
    """What the number is made of; see the metric's ``parts``."""


class TranslationMetric:
    """One metric with its settings and references.

    Args:
        settings: Which metric, and how.
        references: One list for each set of references, aligned line by line; ``None`` where a set lacks a segment.

    Raises:
        ValueError: The sets differ in length, there is nothing in them, or a segment has no reference.
        UsageError: The tokenizer needs packages that are not installed.

    >>> metric = TranslationMetric(Bleu(), [["The cat sat on the mat.", "Hello."]])
    >>> rows = metric.statistics(["The cat sat on a mat.", "Hello."])
    >>> f"{metric.score(rows).value:.4f}", f"{metric.sentence_score(rows[1]):.1f}"
    ('50.1972', '100.0')
    """

    def __init__(self, settings: MetricSettings, references: Sequence[Sequence[str | None]]) -> None:
        self.settings = settings
        lengths = {len(one_set) for one_set in references}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"references must be sets of one and the same length above 0, found {sorted(lengths)}")
        for number, segment in enumerate(zip(*references, strict=True), start=1):
            if all(line is None for line in segment):
                raise ValueError(f"segment {number} has no reference")
        self.num_segments = lengths.pop()
        try:
            self._corpus = settings.sacrebleu_metric(references)
        except RuntimeError as error:
            if not isinstance(settings, Bleu):
                raise
            # What sacreBLEU raises where MeCab is missing; its message is several lines of advice.
            raise UsageError(
                f"the tokenizer {settings.tokenize} needs packages that are not installed",
                hint=f"pip install 'sacrebleu[{settings.tokenize.partition('-')[0]}]'",
            ) from error

    @property
    def name(self) -> str:
        """``BLEU``, ``chrF2``, ``TER``."""
        return self.settings.name

    def signature(self, **more: object) -> str:
        """The signature that sacreBLEU gives: every setting that changes the number.

        Args:
            **more: What else to record: ``bs`` or ``ar`` (the number of samples), ``seed``.
        """
        signature = self._corpus.get_signature()
        for key, value in more.items():
            signature.update(key, str(value))
        return str(signature)

    @property
    def sentence_signature(self) -> str:
        """The signature of scores of single sentences: BLEU's differs, as its order is then the effective one."""
        if not isinstance(self.settings, Bleu):
            return self.signature()
        return self.signature(eff="yes")

    def statistics(self, hypotheses: Sequence[str]) -> list[Row]:
        """A row of statistics for each segment.

        Raises:
            ValueError: There are not as many hypotheses as references.
        """
        if len(hypotheses) != self.num_segments:
            raise ValueError(f"{len(hypotheses)} hypotheses for {self.num_segments} references")
        rows: list[Row] = self._corpus._extract_corpus_statistics(hypotheses, None)
        return rows

    def score(self, rows: Sequence[Row]) -> TranslationScore:
        """The score of some segments together.

        Args:
            rows: Their statistics, at least one row.
        """
        total = _sum(rows)
        score = self._corpus._compute_score_from_stats(total)
        return TranslationScore(
            name=self.name,
            value=float(score.score),
            signature=self.signature(),
            parts=self.settings.parts(score, total),
        )

    def sentence_score(self, row: Row) -> float:
        """The score of one segment by itself; BLEU with its effective order, as ``sacrebleu --sentence-level`` has it.

        Args:
            row: Its statistics.
        """
        if isinstance(self.settings, Bleu) and not self.settings.effective_order:
            from sacrebleu import BLEU

            return float(
                BLEU.compute_bleu(
                    correct=list(row[2:6]),  # type: ignore[arg-type] # BLEU's are whole numbers
                    total=list(row[6:]),  # type: ignore[arg-type]
                    sys_len=int(row[0]),
                    ref_len=int(row[1]),
                    smooth_method=self.settings.smooth_method,
                    smooth_value=self.settings.smooth_value,
                    effective_order=True,
                ).score
            )
        return float(self.score_of_sums(list(row)))

    def score_of_sums(self, sums: Any) -> Any:
        """The score of a sample whose statistics were added up elsewhere.

        Args:
            sums: The sums, as a list or a NumPy vector, whose type the arithmetic then has; may be changed.

        Returns:
            A float, or a NumPy scalar of that type, exactly as sacreBLEU gives it.
        """
        score: Score = self._corpus._compute_score_from_stats(sums)
        return score.score


def score_corpus(
    settings: MetricSettings, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]
) -> TranslationScore:
    """The score of a whole corpus, where only that is wanted.

    Args:
        settings: Which metric, and how.
        hypotheses: Detokenized translations.
        references: As :class:`TranslationMetric` takes them.

    >>> score_corpus(Chrf(), ["a cat"], [["a cat"]]).value
    100.0
    """
    metric = TranslationMetric(settings, references)
    return metric.score(metric.statistics(hypotheses))


def _sum(rows: Sequence[Row]) -> list[int | float]:
    """Column sums in sacreBLEU's order and types: whole numbers stay whole, and a first row counts from zero."""
    total = [type(rows[0][0])(0)] * len(rows[0])
    for row in rows:
        for column, value in enumerate(row):
            total[column] += value
    return total
