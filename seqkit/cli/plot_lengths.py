"""``seqkit plot lengths``: the scores of ``seqkit score --by-length`` as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seqkit.cli.command import command
from seqkit.cli.model_options import merge_options
from seqkit.cli.plot_output import NumbersAsJson, PictureFile, picture_output
from seqkit.cli.score import ScoreRequest, make_report
from seqkit.cli.score_options import (
    LengthBounds,
    LengthUnit,
    Lowercase,
    ManyMetrics,
    Metric,
    MoreReferences,
    Reference,
    ScoreRecipe,
    Source,
    Systems,
    Tokenize,
    refuse_flags_without_effect,
    split_bounds,
    split_list,
)
from seqkit.cli.score_report import as_json, length_charts
from seqkit.cli.score_texts import read_texts

if TYPE_CHECKING:
    from seqkit.plots.length_chart import LengthChart

_EXAMPLES = """\
seqkit plot lengths test.en lstm.hyp transformer.hyp
seqkit plot lengths test.en lstm.hyp transformer.hyp --source test.de -o by-length.svg
seqkit translate < test.de | seqkit plot lengths test.en --metric bleu chrf"""


def register(plot: typer.Typer) -> None:
    """Add ``lengths`` to ``seqkit plot``."""

    @command(plot, "lengths", examples=_EXAMPLES, cls=ManyMetrics, no_args_is_help=True)
    def lengths(
        reference: Reference,
        systems: Systems = None,
        more_references: MoreReferences = None,
        metric: Metric = None,
        tokenize: Tokenize = None,
        lowercase: Lowercase = None,
        source: Source = None,
        length_bounds: LengthBounds = None,
        length_unit: LengthUnit = None,
        recipe: ScoreRecipe = None,
        output: PictureFile = None,
        json_output: NumbersAsJson = False,
    ) -> None:
        """Draw scores by sentence length: does a model hold up on long sentences?

        The numbers are those of `seqkit score --by-length`, which also lists them, tests differences and has more
        settings; --recipe takes such settings from a recipe.
        """
        destination = picture_output(output, as_json=json_output)
        flags: dict[str, object] = {
            "metric": [name for text in metric for name in split_list(text)] if metric else None,
            "tokenize": tokenize,
            "lowercase": lowercase,
            "length_bounds": split_bounds(length_bounds),
            "length_unit": length_unit,
        }
        from seqkit.recipe.schema import ScoreOptions

        options = merge_options(ScoreOptions(), recipe, "score", flags, command="plot lengths")
        # A picture shows no test.
        options = options.model_copy(update={"bootstrap": False, "approximate_randomization": False})
        refuse_flags_without_effect(flags, options.metric)
        texts = read_texts([reference, *(more_references or [])], systems or [], source)
        request = ScoreRequest(
            by_length=True, by_sentence=False, worst=None, plot=output, score_only=False, json_output=json_output
        )
        report = make_report(texts, options, request)
        charts = length_charts(report)

        def save(path: Path) -> None:
            from seqkit.plots.length_chart import save_length_charts

            save_length_charts(path, charts)

        def facts() -> dict[str, Any]:
            return as_json(report)

        destination.deliver(save=save, text=lambda columns, _: _text(charts, columns), facts=facts)


def _text(charts: list[LengthChart], columns: int) -> Iterator[str]:
    from seqkit.plots.length_chart import length_chart_text

    for number, chart in enumerate(charts):
        if number:
            yield ""
        yield from length_chart_text(chart, width=columns)
