"""``seqkit plot curves|attention|lengths``: pictures of trainings, models and scores."""

from __future__ import annotations

import typer

from seqkit.cli import plot_attention, plot_curves, plot_lengths
from seqkit.cli.command import show_examples

_EXAMPLES = """\
seqkit plot curves runs/a runs/b
seqkit plot attention --text "Ein Hund läuft." -o attention.png
seqkit plot lengths test.en lstm.hyp transformer.hyp -o by-length.svg"""


def register(app: typer.Typer) -> None:
    """Add ``plot`` to the command tree."""
    plot = typer.Typer(
        help="Draw learning curves, attention, and scores by length: in the terminal, or into a PNG, SVG or PDF file.",
        rich_markup_mode=None,
        no_args_is_help=True,
        epilog=show_examples(_EXAMPLES),
    )
    app.add_typer(plot, name="plot")
    for module in (plot_curves, plot_attention, plot_lengths):
        module.register(plot)
