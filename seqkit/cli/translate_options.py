"""The flags of ``seqkit translate``, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli.model_options import merge_options
from seqkit.cli.translation_output import Alignments
from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.recipe.seq2seq_schema import TranslateOptions
    from seqkit.tasks.translation_requests import SourceLimits

Text = Annotated[str | None, typer.Option("--text", help="Translate this sentence instead of a file.")]
Interactive = Annotated[bool, typer.Option("--interactive", help="A prompt with a history, on a terminal.")]
MoreModels = Annotated[
    list[Path] | None,
    typer.Option("--ensemble", help="A further model to predict with, of the same tokens; repeatable."),
]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="What searches: torch (seqkit's own; the default) or ctranslate2.")
]
EngineNumbers = Annotated[
    str | None,
    typer.Option(
        "--engine-type",
        help="Numbers to compute in: float32 (the default) or int8, which is faster for many lines; with --engine "
        "ctranslate2 also int16, bfloat16, ... (an export's own).",
    ),
]
Beam = Annotated[int | None, typer.Option("--beam", min=1, help="Hypotheses kept; 1 is greedy (5).")]
LengthPenalty = Annotated[
    str | None, typer.Option("--length-penalty", help="none, average, or wu (Wu et al. 2016; the default).")
]
Alpha = Annotated[float | None, typer.Option("--alpha", min=0, help="Strength of --length-penalty (1.0).")]
CoveragePenalty = Annotated[
    float | None, typer.Option("--coverage-penalty", min=0, help="Wu et al. 2016's β, for models with attention (0).")
]
Patience = Annotated[
    float | None,
    typer.Option(
        "--patience",
        help="End a line's search once this times --beam hypotheses have ended; faster (when nothing better can come).",
        show_default=False,
    ),
]
MinLength = Annotated[int | None, typer.Option("--min-length", min=0, help="Fewest tokens (0).")]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=1, help="Most tokens, the end counted.")]
MaxLengthRatio = Annotated[
    float | None, typer.Option("--max-length-ratio", help="Most tokens a source token, plus ten (2.0).")
]
NoRepeatNgram = Annotated[
    int | None, typer.Option("--no-repeat-ngram", min=0, help="Never repeat so many tokens (0: free to).")
]
NumBest = Annotated[int, typer.Option("--n-best", min=1, help="Translations of each line; needs --json.")]
Prefix = Annotated[
    str | None, typer.Option("--prefix", metavar="FILE", help="How the translation of each line begins; blank: anyhow.")
]
PrefixText = Annotated[str | None, typer.Option("--prefix-text", help="How every translation begins.")]
Constraint = Annotated[
    str | None,
    typer.Option(
        "--constraint", metavar="FILE", help="What the translation of each line must contain: terms, tabs between."
    ),
]
ConstraintText = Annotated[
    list[str] | None, typer.Option("--constraint-text", help="What every translation must contain; repeatable.")
]
Sample = Annotated[
    bool | None, typer.Option("--sample/--no-sample", help="Draw translations at random instead of searching.")
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=0, help="With --sample: 0 takes the likeliest token (1.0).")
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="With --sample: draw among the k likeliest.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="With --sample: draw among the fewest that sum to p, 0 < p <= 1.")
]
MinP = Annotated[
    float | None, typer.Option("--min-p", help="With --sample: draw among those at least p × the likeliest.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="With --sample: same seed, same translations.")]
Long = Annotated[
    str | None,
    typer.Option(
        "--long", help="Lines longer than in training: translate (whole where positions reach), split or refuse."
    ),
]
Scores = Annotated[bool, typer.Option("--scores", help="Put the score and a tab before each translation.")]
AlignmentsFlag = Annotated[
    Alignments | None,
    typer.Option(
        "--alignments",
        help="Attention to the source tokens: hard (pairs S-T after a tab, or in --json) or soft (a matrix in --json).",
    ),
]
LinesAtOnce = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Lines read together (512; 1 answers each at once).", show_default=False),
]
BatchTokens = Annotated[
    int | None, typer.Option("--batch-tokens", min=1, help="Source tokens translated side by side (4096).")
]
Deterministic = Annotated[
    bool | None,
    typer.Option(
        "--deterministic/--no-deterministic",
        help="Each line by itself: to the last bit the same whatever stands beside it.",
    ),
]

_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")
_OF_SEARCH = ("beam", "length_penalty", "alpha", "coverage_penalty", "patience")


@dataclass(frozen=True, kw_only=True)
class Given:
    """Where lines come from, and what is asked of them all or of each."""

    source: str | None
    text: str | None
    interactive: bool
    output: str | None
    batch_size: int | None
    prefix: str | None
    prefix_text: str | None
    constraint: str | None
    constraint_text: list[str] | None

    @property
    def wish(self) -> tuple[str, str]:
        """Prefix and terms of every line that has none of its own; between terms are tabs."""
        return self.prefix_text or "", "\t".join(self.constraint_text or ())

    @property
    def has_prefix(self) -> bool:
        """Whether a translation may have to begin in some way."""
        return bool(self.prefix or self.prefix_text)

    @property
    def has_constraints(self) -> bool:
        """Whether anything must occur in the translations."""
        return bool(self.constraint or self.constraint_text)

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: Two flags contradict each other, or a text is no single line of UTF-8.
        """
        for one, other in (("prefix", "prefix_text"), ("constraint", "constraint_text")):
            if getattr(self, one) is not None and getattr(self, other):
                raise UsageError(f"give {flag(one)} or {flag(other)}, not both")
        if self.interactive:
            self._refuse("--interactive", ("source", "text", "output", "batch_size", "prefix", "constraint"))
        if self.text is not None:
            if self.source is not None:
                raise UsageError("give a file or --text, not both")
            self._refuse("--text", ("batch_size", "prefix", "constraint"))
        texts = {"--text": self.text, "--prefix-text": self.prefix_text}
        for name, text in [*texts.items(), *(("--constraint-text", text) for text in self.constraint_text or ())]:
            _check_line(name, text)

    def _refuse(self, mode: str, names: tuple[str, ...]) -> None:
        """Refuse what does nothing in a mode."""
        for name in names:
            if getattr(self, name) is not None:
                what = "a file" if name == "source" else flag(name)
                instead = f"{flag(name)}-text" if name in ("prefix", "constraint") else None
                raise UsageError(
                    f"{what} does nothing with {mode}; leave one out", hint=f"{instead} is for all" if instead else None
                )


def translate_options(
    own: TranslateOptions, recipe: str | None, flags: Mapping[str, object], *, num_best: int, has_constraints: bool
) -> TranslateOptions:
    """The options of a run of the command, checked against each other.

    Args:
        own: The section of the model's own recipe.
        recipe: What ``--recipe`` names.
        flags: What the user typed, by the names of the options; ``None`` where nothing.
        num_best: Of ``--n-best``.
        has_constraints: Whether anything must occur in the translations.

    Raises:
        UsageError: A value is out of range, or a flag would do nothing.
    """
    typed = [name for name, value in flags.items() if value is not None]
    if "max_length" in typed and "max_length_ratio" in typed:
        raise UsageError("give --max-length or --max-length-ratio, not both")
    if "max_length_ratio" in typed:
        own = own.model_copy(update={"max_length": None})
    options = merge_options(own, recipe, "translate", dict(flags))
    if "engine" in typed and "engine_type" not in typed:
        unflagged = merge_options(own, recipe, "translate", {})
        if unflagged.engine != options.engine:
            # The type that a recipe names is its engine's.
            options = options.model_copy(update={"engine_type": None})
    if "max_length_ratio" in typed:
        # A flag wins over the recipe's max_length, which would win over the ratio.
        options = options.model_copy(update={"max_length": None})
    if options.sample:
        _refuse_any(typed, _OF_SEARCH, "with --sample, which does not search")
        if num_best > 1:
            raise UsageError("--n-best does nothing with --sample, which does not search")
        if has_constraints:
            raise UsageError("constraints need beam search; leave --sample out")
    else:
        _refuse_any(typed, _OF_SAMPLING, "without --sample")
    if options.beam == 1:
        _refuse_any(typed, ("patience",), "with one beam, which ends when its hypothesis does")
    if options.length_penalty == "none":
        _refuse_any(typed, ("alpha",), "with --length-penalty none")
    if options.deterministic:
        _refuse_any(typed, ("batch_tokens",), "with --deterministic, which translates each line by itself")
    return options


def check_against_model(options: TranslateOptions, limits: SourceLimits, flags: Mapping[str, object]) -> None:
    """Refuse what a model cannot do, or what would do nothing with it.

    Args:
        options: The options, flags merged in.
        limits: What the model takes.
        flags: What the user typed.

    Raises:
        UsageError: As said.
    """
    if flags["long"] in ("split", "refuse") and limits.longest_usual is None:
        raise UsageError(
            f"--long {flags['long']} does nothing with this model: it takes any length",
            hint="its recipe has data.max_length: null, and its positions have no end",
        )
    positions = limits.max_positions
    if positions is not None and options.max_length is not None and options.max_length > positions:
        raise UsageError(f"--max-length {options.max_length:,}: the model has {positions:,} positions")


def existing_folders(name: str, paths: Sequence[Path]) -> list[Path]:
    """The folders that a flag names.

    Raises:
        UsageError: One does not exist.
    """
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{name} {path}: {'not a folder' if path.exists() else 'no such folder'}")
    return list(paths)


def flag(name: str) -> str:
    """The flag of an option."""
    return "--" + name.replace("_", "-")


def _refuse_any(typed: list[str], names: tuple[str, ...], why: str) -> None:
    for name in names:
        if name in typed:
            raise UsageError(f"{flag(name)} does nothing {why}")


def _check_line(name: str, text: str | None) -> None:
    """Refuse a text of several lines, or one whose bytes are no UTF-8: Python gives those as lone surrogates."""
    if text is None:
        return
    if "\n" in text:
        raise UsageError(f"{name} takes one line", hint="pipe several in" if name == "--text" else None)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not UTF-8") from None
