"""``seqkit score``: BLEU, chrF and TER of translations, as sacreBLEU computes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli import console
from seqkit.cli.command import Json, command
from seqkit.cli.model_options import merge_options
from seqkit.cli.score_options import (
    ChrfBeta,
    ChrfCharOrder,
    ChrfEpsSmoothing,
    ChrfLowercase,
    ChrfWhitespace,
    ChrfWordOrder,
    LengthBounds,
    LengthUnit,
    Lowercase,
    ManyMetrics,
    Metric,
    MoreReferences,
    Reference,
    ScoreRecipe,
    SmoothMethod,
    SmoothValue,
    Source,
    Systems,
    TerAsianSupport,
    TerCaseSensitive,
    TerNoPunct,
    TerNormalized,
    Tokenize,
    metrics_of,
    refuse_flags_without_effect,
    split_bounds,
    split_list,
)
from seqkit.cli.score_report import (
    Lengths,
    Report,
    SignificanceTest,
    SystemScore,
    as_json,
    length_charts,
    number_lines,
    text_lines,
)
from seqkit.cli.score_texts import Texts, read_texts
from seqkit.cli.streams import stdout_columns, write_result
from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.metrics.significance import Comparison
    from seqkit.metrics.translation import Row, TranslationMetric
    from seqkit.recipe.schema import ScoreOptions

_EXAMPLES = """\
seqkit translate < test.de | seqkit score test.en
seqkit score test.en test.hyp --metric bleu chrf
seqkit score test.en test.hyp --ref test.en.2 --score-only --width 2
seqkit score test.en lstm.hyp transformer.hyp --bootstrap --by-length --source test.de
seqkit score test.en lstm.hyp transformer.hyp --by-length --plot by-length.svg
seqkit score test.en lstm.hyp transformer.hyp --worst 10"""

_TERMINAL = "-"
"""As the file of a plot."""


def register(app: typer.Typer) -> None:
    """Add ``score`` to the command tree."""

    @command(app, "score", examples=_EXAMPLES, cls=ManyMetrics, no_args_is_help=True)
    def score(
        reference: Reference,
        systems: Systems = None,
        more_references: MoreReferences = None,
        metric: Metric = None,
        tokenize: Tokenize = None,
        lowercase: Lowercase = None,
        smooth_method: SmoothMethod = None,
        smooth_value: SmoothValue = None,
        chrf_char_order: ChrfCharOrder = None,
        chrf_word_order: ChrfWordOrder = None,
        chrf_beta: ChrfBeta = None,
        chrf_lowercase: ChrfLowercase = None,
        chrf_whitespace: ChrfWhitespace = None,
        chrf_eps_smoothing: ChrfEpsSmoothing = None,
        ter_normalized: TerNormalized = None,
        ter_no_punct: TerNoPunct = None,
        ter_asian_support: TerAsianSupport = None,
        ter_case_sensitive: TerCaseSensitive = None,
        bootstrap: Annotated[
            bool, typer.Option("--bootstrap", help="Paired bootstrap against the first HYP; of one HYP, an interval.")
        ] = False,
        approximate_randomization: Annotated[
            bool, typer.Option("--approximate-randomization", help="Paired randomization test against the first HYP.")
        ] = False,
        samples: Annotated[
            int | None, typer.Option("--samples", help="Of the bootstrap (1000) or the other test (10000).")
        ] = None,
        seed: Annotated[int | None, typer.Option("--seed", help="Of either test (12345).")] = None,
        by_length: Annotated[bool, typer.Option("--by-length", help="Scores by sentence length.")] = False,
        source: Source = None,
        length_bounds: LengthBounds = None,
        length_unit: LengthUnit = None,
        plot: Annotated[
            str | None,
            typer.Option("--plot", metavar="FILE", help="Draw scores by length: PNG, SVG, PDF; - for the terminal."),
        ] = None,
        by_sentence: Annotated[bool, typer.Option("--by-sentence", help="The score of every line.")] = False,
        worst: Annotated[
            int | None,
            typer.Option(
                "--worst", min=1, help="The N lines on which the second HYP loses most; of one HYP, its worst."
            ),
        ] = None,
        score_only: Annotated[bool, typer.Option("--score-only", help="Only numbers: a line a HYP.")] = False,
        width: Annotated[int | None, typer.Option("--width", "-w", help="Decimals (1).")] = None,
        recipe: ScoreRecipe = None,
        json_output: Json = False,
    ) -> None:
        """Score translations against references: BLEU, chrF, TER.

        The numbers and signatures are sacreBLEU's. Give detokenized text: a metric splits words itself. The first
        file holds references, the others systems, one sentence a line.
        """
        flags: dict[str, object] = {
            "metric": [name for text in metric for name in split_list(text)] if metric else None,
            "tokenize": tokenize,
            "lowercase": lowercase,
            "smooth_method": smooth_method,
            "smooth_value": smooth_value,
            "chrf_char_order": chrf_char_order,
            "chrf_word_order": chrf_word_order,
            "chrf_beta": chrf_beta,
            "chrf_lowercase": chrf_lowercase,
            "chrf_whitespace": chrf_whitespace,
            "chrf_eps_smoothing": chrf_eps_smoothing,
            "ter_normalized": ter_normalized,
            "ter_no_punct": ter_no_punct,
            "ter_asian_support": ter_asian_support,
            "ter_case_sensitive": ter_case_sensitive,
            "samples": samples,
            "seed": seed,
            "length_bounds": split_bounds(length_bounds),
            "length_unit": length_unit,
            "width": width,
        }
        if bootstrap or approximate_randomization:
            # One given as a flag also undoes the other in a recipe.
            flags |= {"bootstrap": bootstrap, "approximate_randomization": approximate_randomization}
        from seqkit.recipe.schema import ScoreOptions

        options = merge_options(ScoreOptions(), recipe, "score", flags)
        refuse_flags_without_effect(flags, options.metric)
        request = ScoreRequest(
            by_length=by_length or plot is not None,
            by_sentence=by_sentence,
            worst=worst,
            plot=plot,
            score_only=score_only,
            json_output=json_output,
        )
        _check(request, options, flags, source=source, num_systems=len(systems or [None]))
        texts = read_texts([reference, *(more_references or [])], systems or [], source)
        report = make_report(texts, options, request)
        if request.plot_file is not None:
            from seqkit.plots.length_chart import save_length_charts

            save_length_charts(request.plot_file, length_charts(report))
            console.logger.info("%s written", request.plot_file)
        for line in _lines(report, request):
            write_result(line)


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What to print, besides the scores."""

    by_length: bool
    by_sentence: bool
    worst: int | None
    plot: str | None
    score_only: bool
    json_output: bool

    @property
    def plot_file(self) -> Path | None:
        """The file of the picture; None for none, or for a drawing on stdout."""
        return None if self.plot in (None, _TERMINAL) else Path(str(self.plot))


def _check(
    request: ScoreRequest, options: ScoreOptions, flags: dict[str, object], *, source: str | None, num_systems: int
) -> None:
    """Refuse what does not go together, before anything is read.

    Raises:
        UsageError: Two flags exclude each other, or one would do nothing.
        MissingDataError: The folder for the picture does not exist.
    """
    draws_on_stdout = request.plot == _TERMINAL
    has_test = options.bootstrap or options.approximate_randomization
    more_than_numbers = {
        "--json": request.json_output,
        "--by-length": request.by_length and request.plot is None,
        "--plot -": draws_on_stdout,
        "--worst": request.worst is not None,
        "--bootstrap": flags.get("bootstrap"),
        "--approximate-randomization": flags.get("approximate_randomization"),
    }
    for flag, is_given in more_than_numbers.items():
        if request.score_only and is_given:
            raise UsageError(f"--score-only prints scores and nothing else; leave it or {flag} out")
    if request.json_output and draws_on_stdout:
        raise UsageError("--json and --plot - both write to stdout; name a file for the plot")
    if not has_test:
        _refuse(flags, ("samples", "seed"), "--bootstrap or --approximate-randomization")
    if not request.by_length:
        _refuse(flags, ("length_bounds", "length_unit"), "--by-length or --plot")
        if source is not None and request.worst is None:
            raise UsageError("--source does nothing without --by-length, --plot or --worst")
    if options.approximate_randomization and num_systems == 1:
        raise UsageError("approximate randomization compares systems; name a second HYP")
    if request.worst is not None and num_systems > 2:
        raise UsageError(f"--worst compares two systems, found {num_systems}")
    if request.plot_file is not None:
        from seqkit.plots.figure import figure_format

        figure_format(request.plot_file)


def _refuse(flags: dict[str, object], keys: tuple[str, ...], needed: str) -> None:
    for key in keys:
        if flags[key] is not None:
            raise UsageError(f"--{key.replace('_', '-')} does nothing without {needed}")


def make_report(texts: Texts, options: ScoreOptions, request: ScoreRequest) -> Report:
    """Compute everything that was asked for."""
    from seqkit.metrics.sentence_losses import largest_losses, lowest_scores
    from seqkit.metrics.translation import TranslationMetric

    _warn_if_tokenized(texts, options)
    references = [text.lines for text in texts.references]
    metrics = [TranslationMetric(settings, references) for settings in metrics_of(options)]
    lengths = _lengths(texts, options) if request.by_length else None
    test = None if request.score_only else _test(options)
    columns = []
    for metric in metrics:
        rows = [metric.statistics(system.lines) for system in texts.systems]
        tested = [None] * len(rows) if test is None else _run_test(test, metric, rows, texts)
        is_by_sentence = request.by_sentence or (request.worst is not None and metric is metrics[0])
        columns.append(
            [
                _system_score(metric, one, result, lengths, is_by_sentence=is_by_sentence)
                for one, result in zip(rows, tested, strict=True)
            ]
        )
    worst = None
    if request.worst is not None:
        sentences = [score.sentences for score in columns[0]]
        choose = largest_losses if len(sentences) == 2 else lowest_scores
        worst = choose(*sentences, lower_is_better=metrics[0].settings.lower_is_better, limit=request.worst)
    return Report(
        texts=texts,
        metrics=metrics,
        scores=[list(row) for row in zip(*columns, strict=True)],
        test=test,
        lengths=lengths,
        lists_sentences=request.by_sentence,
        worst=worst,
        width=options.width,
    )


def _system_score(
    metric: TranslationMetric,
    rows: list[Row],
    tested: Comparison | None,
    lengths: Lengths | None,
    *,
    is_by_sentence: bool,
) -> SystemScore:
    from seqkit.metrics.length_buckets import scores_by_length

    return SystemScore(
        corpus=metric.score(rows),
        tested=tested,
        by_length=[] if lengths is None else scores_by_length(metric, rows, lengths.buckets),
        sentences=[metric.sentence_score(row) for row in rows] if is_by_sentence else [],
    )


def _lengths(texts: Texts, options: ScoreOptions) -> Lengths:
    from seqkit.metrics.length_buckets import length_buckets

    text = texts.source or texts.references[0]
    is_in_words = options.length_unit == "words"
    lengths = [len(line.split()) if is_in_words else len(line) for line in text.lines]
    return Lengths(
        unit=options.length_unit,
        text=text,
        is_source=texts.source is not None,
        buckets=length_buckets(lengths, options.length_bounds),
    )


def _test(options: ScoreOptions) -> SignificanceTest | None:
    from seqkit.metrics.significance import DEFAULT_BOOTSTRAP_SAMPLES, DEFAULT_RANDOMIZATION_TRIALS

    if options.bootstrap:
        return SignificanceTest(kind="bs", num_samples=options.samples or DEFAULT_BOOTSTRAP_SAMPLES, seed=options.seed)
    if options.approximate_randomization:
        return SignificanceTest(
            kind="ar", num_samples=options.samples or DEFAULT_RANDOMIZATION_TRIALS, seed=options.seed
        )
    return None


def _run_test(
    test: SignificanceTest, metric: TranslationMetric, rows: list[list[Row]], texts: Texts
) -> list[Comparison]:
    """What the test says of each system."""
    from seqkit.metrics.significance import Comparison, bootstrap_interval, paired_bootstrap, paired_randomization

    if len(rows) == 1:
        interval = bootstrap_interval(metric, rows[0], num_samples=test.num_samples, seed=test.seed)
        return [Comparison(p_value=None, interval=interval)]
    values = [metric.score(one).value for one in rows]
    for text, value in zip(texts.systems[1:], values[1:], strict=True):
        if value == values[0]:
            # As sacreBLEU and Moses count, no trial then has a larger difference, and p is as small as it gets.
            console.logger.warning(
                "%s and %s have the same %s: p says nothing of them", texts.systems[0].name, text.name, metric.name
            )
    if test.kind == "bs":
        return paired_bootstrap(metric, rows, num_samples=test.num_samples, seed=test.seed)
    return paired_randomization(metric, rows, num_trials=test.num_samples, seed=test.seed)


def _warn_if_tokenized(texts: Texts, options: ScoreOptions) -> None:
    if "bleu" not in options.metric or options.tokenize == "none":
        return
    for text in texts.systems:
        if text.looks_tokenized:
            console.logger.warning(
                "%s looks tokenized: many lines end in ' .'; detokenize it, or the score compares with no other",
                text.name,
            )


def _lines(report: Report, request: ScoreRequest) -> Iterator[str]:
    """What goes to stdout."""
    if request.json_output:
        yield json.dumps(as_json(report), ensure_ascii=False)
    elif request.score_only:
        yield from number_lines(report)
    else:
        yield from text_lines(report)
    if request.plot == _TERMINAL:
        from seqkit.plots.length_chart import length_chart_text

        for chart in length_charts(report):
            yield ""
            yield from length_chart_text(chart, width=stdout_columns())
    for metric, scores in zip(report.metrics, zip(*report.scores, strict=True), strict=True):
        for name, score in zip(report.texts.system_names, scores, strict=True):
            console.logger.log(console.VERBOSE, "%s %s %s", name, metric.name, score.corpus.parts)
