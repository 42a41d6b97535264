"""What ``seqkit score`` prints: tables for people, one object for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import seqkit
from seqkit.cli.score_texts import Text, Texts

if TYPE_CHECKING:
    from seqkit.metrics.length_buckets import LengthBucket
    from seqkit.metrics.significance import Comparison
    from seqkit.metrics.translation import TranslationMetric, TranslationScore
    from seqkit.plots.length_chart import LengthChart

TEST_NAMES = {"bs": "bootstrap", "ar": "approximate randomization"}


@dataclass(frozen=True, kw_only=True)
class SignificanceTest:
    """A significance test, or for one system the resampling behind its interval."""

    kind: str
    """``bs`` or ``ar``, as in sacreBLEU's signatures."""
    num_samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """By which lengths scores are listed."""

    unit: str
    """``words`` or ``characters``."""
    text: Text
    is_source: bool
    buckets: list[LengthBucket]

    @property
    def description(self) -> str:
        """``source length in words``."""
        return f"{'source' if self.is_source else 'reference'} length in {self.unit}"


@dataclass(frozen=True, kw_only=True)
class SystemScore:
    """One system under one metric."""

    corpus: TranslationScore
    tested: Comparison | None
    by_length: list[TranslationScore | None]
    """One a bucket; empty unless asked for."""
    sentences: list[float]
    """One a line; empty unless asked for."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was asked for."""

    texts: Texts
    metrics: list[TranslationMetric]
    scores: list[list[SystemScore]]
    """By system, then by metric."""
    test: SignificanceTest | None
    lengths: Lengths | None
    lists_sentences: bool
    """Every line's score was asked for."""
    worst: list[int] | None
    """0-based lines, the worst first; of the second system against the first if there are two."""
    width: int

    def signature(self, metric: TranslationMetric) -> str:
        """The signature of a metric's corpus scores, with the test that was made."""
        if self.test is None:
            return metric.signature()
        return metric.signature(**{self.test.kind: self.test.num_samples, "seed": self.test.seed})

    def column(self, metric_index: int) -> list[SystemScore]:
        """The scores of all systems under one metric."""
        return [row[metric_index] for row in self.scores]


def number_lines(report: Report) -> Iterator[str]:
    """``--score-only``: a line a system (or a sentence), a column a metric (or a system and metric), tabs between."""
    if report.lists_sentences:
        columns = [score.sentences for row in report.scores for score in row]
        for values in zip(*columns, strict=True):
            yield "\t".join(f"{value:.{report.width}f}" for value in values)
        return
    for row in report.scores:
        yield "\t".join(f"{score.corpus.value:.{report.width}f}" for score in row)


def text_lines(report: Report) -> Iterator[str]:
    """The report for people."""
    if report.worst is not None:
        yield from _worst_lines(report)
    elif report.lists_sentences:
        yield from _sentence_lines(report)
        yield ""
    if report.lengths is not None:
        yield from _length_lines(report)
    elif len(report.scores) == 1:
        rows = [
            (score.corpus.name, _score_cell(score, report.width), report.signature(metric))
            for score, metric in zip(report.scores[0], report.metrics, strict=True)
        ]
        yield from _align([*rows, *((name, "", text) for name, text in _sentence_signatures(report))], left=(0, 2))
        return
    else:
        yield from _system_lines(report)
    if report.test is not None and len(report.scores) > 1:
        yield from _test_lines(report)
    yield from _align(
        [*((metric.name, report.signature(metric)) for metric in report.metrics), *_sentence_signatures(report)],
        left=(0, 1),
    )


def _system_lines(report: Report) -> Iterator[str]:
    header = [""]
    rows = [[name] for name in report.texts.system_names]
    for index, metric in enumerate(report.metrics):
        header.append(metric.name)
        header += [""] if report.test else []
        for row, score in zip(rows, report.column(index), strict=True):
            row.extend([_score_cell(score, report.width), *([_p_cell(score)] if report.test else [])])
    yield from _align([header, *rows])
    yield ""


def _length_lines(report: Report) -> Iterator[str]:
    """A table for each metric: a row a system, a column a bucket."""
    assert report.lengths is not None
    buckets = report.lengths.buckets
    for index, metric in enumerate(report.metrics):
        rows = [[metric.name, *(bucket.label for bucket in buckets), "all"]]
        for name, score in zip(report.texts.system_names, report.column(index), strict=True):
            cells = ["–" if one is None else f"{one.value:.{report.width}f}" for one in score.by_length]
            rows.append([name, *cells, _score_cell(score, report.width)])
        rows.append(["sentences", *(str(len(bucket.segments)) for bucket in buckets), str(report.texts.num_sentences)])
        if report.test is not None:
            for row, cell in zip(rows, ["", *map(_p_cell, report.column(index)), ""], strict=True):
                row.append(cell)
        yield from _align(rows)
        yield ""
    yield f"columns: {report.lengths.description} ({report.lengths.text.name})"


def _sentence_lines(report: Report) -> Iterator[str]:
    labels = [f"{name} " if len(report.scores) > 1 else "" for name in report.texts.system_names]
    header = ["line", *(f"{label}{metric.name}" for label in labels for metric in report.metrics)]
    columns = [score.sentences for row in report.scores for score in row]
    rows = [
        [str(number), *(f"{value:.{report.width}f}" for value in values)]
        for number, values in enumerate(zip(*columns, strict=True), start=1)
    ]
    yield from _align([header, *rows], left=())


def _worst_lines(report: Report) -> Iterator[str]:
    """A few sentences in full: the score of each system, the source, the references, the translations."""
    assert report.worst is not None
    metric, scores = report.metrics[0], report.column(0)
    labels = ["source"] * (report.texts.source is not None)
    labels += [_numbered("reference", report.texts.references, index) for index in range(len(report.texts.references))]
    labels += report.texts.system_names
    width = max(map(len, labels))
    for line in report.worst:
        told = " → ".join(f"{score.sentences[line]:.{report.width}f}" for score in scores)
        if len(scores) == 2:
            told += f"  ({scores[1].sentences[line] - scores[0].sentences[line]:+.{report.width}f})"
        yield f"line {line + 1}  {metric.name} {told}"
        for label, text in zip(labels, _texts_in_order(report.texts), strict=True):
            yield f"  {label:<{width}}  {text.lines[line]}".rstrip()
        yield ""
    if not report.worst:
        first, second = report.texts.system_names
        yield f"no sentence on which {second} scores worse than {first}"
        yield ""


def _texts_in_order(texts: Texts) -> list[Text]:
    return [*([texts.source] if texts.source else []), *texts.references, *texts.systems]


def _numbered(word: str, things: Sequence[object], index: int) -> str:
    return word if len(things) == 1 else f"{word} {index + 1}"


def _sentence_signatures(report: Report) -> list[tuple[str, str]]:
    """Names and signatures of sentence scores, where they are others than the corpus scores'."""
    if not report.lists_sentences and report.worst is None:
        return []
    return [
        (f"sentence {metric.name}", metric.sentence_signature)
        for metric in report.metrics
        if metric.sentence_signature != metric.signature()
    ]


def _score_cell(score: SystemScore, width: int) -> str:
    """A score, and the mean of its samples ± half of their 95 % interval."""
    cell = f"{score.corpus.value:.{width}f}"
    if score.tested is not None and score.tested.interval is not None:
        interval = score.tested.interval
        cell += f" ({interval.mean:.{width}f} ± {interval.half_width:.{width}f})"
    return cell


def _p_cell(score: SystemScore) -> str:
    p_value = score.tested.p_value if score.tested is not None else None
    return "" if p_value is None else f"p = {p_value:.4f}"


def _test_lines(report: Report) -> Iterator[str]:
    assert report.test is not None
    baseline = report.texts.system_names[0]
    draws = f"{report.test.num_samples} {'samples' if report.test.kind == 'bs' else 'trials'}"
    yield (
        f"p: how often chance alone makes so large a difference to {baseline} "
        f"(paired {TEST_NAMES[report.test.kind]}, {draws})"
    )
    if report.test.kind == "bs":
        yield "(…): mean of the samples ± half of their 95 % interval"


def _align(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> list[str]:
    """Columns as wide as their widest cell, two blanks between them, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def length_charts(report: Report) -> list[LengthChart]:
    """The table of scores by length, to draw: a chart a metric."""
    from seqkit.plots.length_chart import LengthChart, LengthSeries

    assert report.lengths is not None
    return [
        LengthChart(
            metric=metric.name + (" (lower is better)" if metric.settings.lower_is_better else ""),
            lengths=report.lengths.description,
            buckets=tuple(bucket.label for bucket in report.lengths.buckets),
            num_sentences=tuple(len(bucket.segments) for bucket in report.lengths.buckets),
            series=tuple(
                LengthSeries(name=name, values=tuple(None if one is None else one.value for one in score.by_length))
                for name, score in zip(report.texts.system_names, report.column(index), strict=True)
            ),
        )
        for index, metric in enumerate(report.metrics)
    ]


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs: full precision, parts, signatures, versions."""
    import sacrebleu

    texts = report.texts
    keys = [metric.settings.key for metric in report.metrics]
    told: dict[str, Any] = {
        "references": [text.name for text in texts.references],
        "source": texts.source.name if texts.source else None,
        "num_sentences": texts.num_sentences,
        "systems": [
            {
                "name": name,
                "file": text.name,
                "scores": {
                    key: _score_fields(report, metric, score)
                    for key, metric, score in zip(keys, report.metrics, row, strict=True)
                },
            }
            for name, text, row in zip(texts.system_names, texts.systems, report.scores, strict=True)
        ],
        "versions": {"seqkit": seqkit.__version__, "sacrebleu": sacrebleu.__version__},
    }
    if report.test is not None:
        told["test"] = {
            "name": TEST_NAMES[report.test.kind],
            "num_samples": report.test.num_samples,
            "seed": report.test.seed,
            "baseline": texts.system_names[0] if len(texts.systems) > 1 else None,
        }
    if report.lengths is not None:
        told["lengths"] = {
            "unit": report.lengths.unit,
            "of": "source" if report.lengths.is_source else "reference",
            "file": report.lengths.text.name,
            "buckets": [
                {
                    "label": bucket.label,
                    "shortest": bucket.shortest,
                    "longest": bucket.longest,
                    "num_sentences": len(bucket.segments),
                }
                for bucket in report.lengths.buckets
            ],
        }
    if report.worst is not None:
        told["worst"] = [_sentence_fields(report, line) for line in report.worst]
    return told


def _score_fields(report: Report, metric: TranslationMetric, score: SystemScore) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": metric.name,
        "score": score.corpus.value,
        "signature": report.signature(metric),
        "parts": score.corpus.parts,
    }
    if score.tested is not None:
        fields["p_value"] = score.tested.p_value
        fields["interval"] = asdict(score.tested.interval) if score.tested.interval else None
    if report.lengths is not None:
        fields["by_length"] = [one and {"score": one.value, "parts": one.parts} for one in score.by_length]
    if report.lists_sentences:
        fields["sentence_signature"] = metric.sentence_signature
        fields["sentences"] = score.sentences
    return fields


def _sentence_fields(report: Report, line: int) -> dict[str, Any]:
    texts = report.texts
    return {
        "line": line + 1,
        "source": texts.source.lines[line] if texts.source else None,
        "references": [text.lines[line] for text in texts.references],
        "systems": [
            {"name": name, "output": text.lines[line], "score": row[0].sentences[line]}
            for name, text, row in zip(texts.system_names, texts.systems, report.scores, strict=True)
        ],
    }
