"""The flags of ``seqkit score`` that change a number, and the metrics they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.metrics.translation import MetricSettings
    from seqkit.recipe.schema import ScoreOptions

METRIC_NAMES = ("bleu", "chrf", "chrf++", "ter")

Reference = Annotated[str, typer.Argument(metavar="REF", help="Reference translations, one a line.")]
Systems = Annotated[
    list[str] | None,
    typer.Argument(metavar="HYP", help="Translations of one or more systems (default: stdin)."),
]
MoreReferences = Annotated[
    list[str] | None, typer.Option("--ref", help="One more file of references for the same lines; repeatable.")
]
Source = Annotated[
    str | None, typer.Option("--source", help="The source text: lengths are its (else the reference's).")
]
LengthBounds = Annotated[
    str | None, typer.Option("--length-bounds", help="Longest length of each bucket but the last (10,20,30).")
]
LengthUnit = Annotated[str | None, typer.Option("--length-unit", metavar="NAME", help="words or characters (words).")]
ScoreRecipe = Annotated[str | None, typer.Option("--recipe", help="Take options from this recipe's section `score`.")]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME…",
        help="bleu, chrf, chrf++, ter: one or more, also as --metric bleu,chrf (bleu).",
        autocompletion=lambda incomplete: [name for name in METRIC_NAMES if name.startswith(incomplete)],
    ),
]
Tokenize = Annotated[
    str | None,
    typer.Option("--tokenize", metavar="NAME", help="BLEU: 13a, intl, zh, char, none, ja-mecab or ko-mecab (13a)."),
]
Lowercase = Annotated[bool | None, typer.Option("--lowercase/--cased", help="BLEU: lower-case both sides first.")]
SmoothMethod = Annotated[
    str | None,
    typer.Option("--smooth-method", metavar="NAME", help="BLEU: for precisions of 0: exp, floor, add-k or none (exp)."),
]
SmoothValue = Annotated[
    float | None, typer.Option("--smooth-value", help="BLEU: of floor (0.1) or add-k (1).", show_default=False)
]
ChrfCharOrder = Annotated[
    int | None, typer.Option("--chrf-char-order", help="chrF: longest character n-gram (6).", show_default=False)
]
ChrfWordOrder = Annotated[
    int | None,
    typer.Option("--chrf-word-order", help="chrF: longest word n-gram; 2 is chrF++ (0).", show_default=False),
]
ChrfBeta = Annotated[
    int | None, typer.Option("--chrf-beta", help="chrF: how much more recall counts (2).", show_default=False)
]
ChrfLowercase = Annotated[
    bool | None, typer.Option("--chrf-lowercase/--chrf-cased", help="chrF: lower-case both sides first.")
]
ChrfWhitespace = Annotated[
    bool | None, typer.Option("--chrf-whitespace/--chrf-no-whitespace", help="chrF: count blanks too.")
]
ChrfEpsSmoothing = Annotated[
    bool | None,
    typer.Option(
        "--chrf-eps-smoothing/--chrf-effective-order", help="chrF: smooth as chrF++.py does, or drop empty orders."
    ),
]
TerNormalized = Annotated[
    bool | None, typer.Option("--ter-normalized/--ter-raw", help="TER: split punctuation from words first.")
]
TerNoPunct = Annotated[bool | None, typer.Option("--ter-no-punct/--ter-punct", help="TER: drop punctuation first.")]
TerAsianSupport = Annotated[
    bool | None,
    typer.Option("--ter-asian-support/--ter-no-asian-support", help="TER: both, for Chinese and Japanese too."),
]
TerCaseSensitive = Annotated[
    bool | None, typer.Option("--ter-case-sensitive/--ter-lowercase", help="TER: keep case, or lower-case (lower).")
]


class ManyMetrics(TyperCommand):
    """A command whose ``--metric`` also takes several words: ``--metric bleu chrf``.

    The words after it that are names of metrics belong to it; a file of such a name is ``./bleu``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``--metric`` before each further name."""
        return super().parse_args(ctx, _one_metric_each(args))


def _one_metric_each(words: Sequence[str]) -> list[str]:
    """Repeat ``--metric`` before each name that follows it.

    >>> _one_metric_each(["a", "--metric", "bleu", "chrf", "b", "--", "--metric", "bleu", "ter"])
    ['a', '--metric', 'bleu', '--metric', 'chrf', 'b', '--', '--metric', 'bleu', 'ter']
    """
    spread: list[str] = []
    is_value = may_follow = False
    for place, word in enumerate(words):
        if is_value:
            is_value, may_follow = False, True
        elif word == "--":
            return [*spread, *words[place:]]
        elif may_follow and _is_metric_list(word):
            spread.append("--metric")
        else:
            is_value, may_follow = word == "--metric", word.startswith("--metric=")
        spread.append(word)
    return spread


def _is_metric_list(word: str) -> bool:
    return all(name in METRIC_NAMES for name in split_list(word))


def split_list(text: str) -> list[str]:
    """The parts of a list with commas.

    >>> split_list("BLEU, chrf")
    ['bleu', 'chrf']
    """
    return [part.strip().lower() for part in text.split(",")]


def split_bounds(text: str | None) -> list[int] | None:
    """The numbers of ``--length-bounds``.

    Raises:
        UsageError: One is no whole number.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in split_list(text)]
    except ValueError:
        raise UsageError(f"--length-bounds: expected whole numbers such as 10,20,30, found {text!r}") from None


def metrics_of(options: ScoreOptions) -> list[MetricSettings]:
    """The metrics that options ask for, in that order, none twice."""
    from seqkit.metrics.translation import Bleu, Chrf, Ter

    settings: list[MetricSettings] = []
    for name in options.metric:
        match name:
            case "bleu":
                settings.append(
                    Bleu(
                        tokenize=options.tokenize,
                        lowercase=options.lowercase,
                        smooth_method=options.smooth_method,
                        smooth_value=options.smooth_value,
                    )
                )
            case "chrf" | "chrf++":
                settings.append(
                    Chrf(
                        char_order=options.chrf_char_order,
                        word_order=2 if name == "chrf++" else options.chrf_word_order,
                        beta=options.chrf_beta,
                        lowercase=options.chrf_lowercase,
                        whitespace=options.chrf_whitespace,
                        eps_smoothing=options.chrf_eps_smoothing,
                    )
                )
            case "ter":
                settings.append(
                    Ter(
                        normalized=options.ter_normalized,
                        no_punct=options.ter_no_punct,
                        asian_support=options.ter_asian_support,
                        case_sensitive=options.ter_case_sensitive,
                    )
                )
    return list(dict.fromkeys(settings))


_BLEU_KEYS = ("tokenize", "lowercase", "smooth_method", "smooth_value")


def refuse_flags_without_effect(flags: Mapping[str, object], metrics: Sequence[str]) -> None:
    """Refuse a flag for a metric that is not computed.

    Args:
        flags: What the user typed by key; ``None`` where nothing.
        metrics: The metrics' names.

    Raises:
        UsageError: There is such a flag.
    """
    for key, value in flags.items():
        owner = "bleu" if key in _BLEU_KEYS else key.partition("_")[0]
        if value is None or owner not in METRIC_NAMES:
            continue
        fits = {owner} if key == "chrf_word_order" else {owner, f"{owner}++"}
        if not fits & set(metrics):
            flag = "--" + key.replace("_", "-")
            raise UsageError(f"{flag} changes {owner}, which is not computed", hint=f"add --metric {owner}")
