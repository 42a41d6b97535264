"""``seqkit translate``: a filter that writes the translation of each line."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

import typer

from seqkit.cli import translate_options as flags_of
from seqkit.cli.aligned_lines import open_aligned_lines
from seqkit.cli.command import Json, command
from seqkit.cli.filter_options import InputFile, OutputFile
from seqkit.cli.line_filter import write_answer
from seqkit.cli.line_translator import Answering, LineTranslator, load_line_translator
from seqkit.cli.model_options import (
    Device,
    ModelPath,
    RecipeSection,
    RunsDir,
    Threads,
    choose_model,
)
from seqkit.cli.streams import open_binary_output, stdin_is_terminal
from seqkit.cli.translate_options import Given, existing_folders
from seqkit.cli.translate_prompt import converse, require_terminal
from seqkit.cli.translation_output import OutputForm
from seqkit.errors import SeqkitError, UsageError

_EXAMPLES = """\
seqkit translate --beam 5 < test.de > test.hyp
zcat big.de.gz | seqkit translate | gzip > big.en.gz
seqkit translate --text "Ein Hund läuft durch den Schnee." --n-best 3 --json
seqkit translate --constraint terms.tsv test.de          # each translation contains its line's terms
seqkit translate --sample --top-p 0.9 --seed 1 < test.de
seqkit translate --model runs/a --ensemble runs/b < test.de
seqkit translate --engine ctranslate2 --engine-type int8 < test.de
seqkit translate --interactive"""

_LINES_AT_ONCE = 512
"""Lines read together by default: enough to find company of like length, few enough for a first answer soon."""

_BLOCKS_AHEAD = 2
"""Blocks begun while an earlier one is waited for, if they are there: so no core waits for the last of a block."""


def register(app: typer.Typer) -> None:
    """Add ``translate`` to the command tree."""

    @command(app, "translate", examples=_EXAMPLES)
    def translate(
        source: InputFile = None,
        text: flags_of.Text = None,
        interactive: flags_of.Interactive = False,
        output: OutputFile = None,
        model: ModelPath = None,
        ensemble: flags_of.MoreModels = None,
        engine: flags_of.EngineName = None,
        engine_type: flags_of.EngineNumbers = None,
        beam: flags_of.Beam = None,
        length_penalty: flags_of.LengthPenalty = None,
        alpha: flags_of.Alpha = None,
        coverage_penalty: flags_of.CoveragePenalty = None,
        patience: flags_of.Patience = None,
        min_length: flags_of.MinLength = None,
        max_length: flags_of.MaxLength = None,
        max_length_ratio: flags_of.MaxLengthRatio = None,
        no_repeat_ngram: flags_of.NoRepeatNgram = None,
        n_best: flags_of.NumBest = 1,
        prefix: flags_of.Prefix = None,
        prefix_text: flags_of.PrefixText = None,
        constraint: flags_of.Constraint = None,
        constraint_text: flags_of.ConstraintText = None,
        sample: flags_of.Sample = None,
        temperature: flags_of.Temperature = None,
        top_k: flags_of.TopK = None,
        top_p: flags_of.TopP = None,
        min_p: flags_of.MinP = None,
        seed: flags_of.Seed = None,
        long: flags_of.Long = None,
        scores: flags_of.Scores = False,
        alignments: flags_of.AlignmentsFlag = None,
        batch_size: flags_of.LinesAtOnce = None,
        batch_tokens: flags_of.BatchTokens = None,
        deterministic: flags_of.Deterministic = None,
        recipe: RecipeSection = None,
        runs_dir: RunsDir = None,
        device: Device = "auto",
        threads: Threads = None,
        json_output: Json = False,
    ) -> None:
        """Translate each line: as many lines out as in, in order.

        A blank line stays blank. --prefix and --constraint take files whose line n belongs to line n of the input;
        a prefix is plain text and its last word may go on, a constraint any number of terms with tabs between them.

        With --engine ctranslate2, --model may be an export (`seqkit export`); another Transformer is exported into the
        cache the first time. Of the options, CTranslate2 has no --ensemble, --constraint and --sample, and --prefix,
        --min-length, --no-repeat-ngram and --coverage-penalty with --beam 1 only.
        """
        given = Given(
            source=source,
            text=text,
            interactive=interactive,
            output=output,
            batch_size=batch_size,
            prefix=prefix,
            prefix_text=prefix_text,
            constraint=constraint,
            constraint_text=constraint_text,
        )
        given.check()
        form = OutputForm(as_json=json_output, num_best=n_best, with_scores=scores, alignments=alignments)
        form.check()
        flags: dict[str, object] = {
            "engine": engine,
            "engine_type": engine_type,
            "beam": beam,
            "length_penalty": length_penalty,
            "alpha": alpha,
            "coverage_penalty": coverage_penalty,
            "patience": patience,
            "min_length": min_length,
            "max_length": max_length,
            "max_length_ratio": max_length_ratio,
            "no_repeat_ngram": no_repeat_ngram,
            "batch_tokens": batch_tokens,
            "deterministic": deterministic,
            "long": long,
            "sample": sample,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "seed": seed,
        }

        def load() -> LineTranslator:
            paths = [choose_model("seq2seq", model, runs_dir), *existing_folders("--ensemble", ensemble or [])]
            return load_line_translator(paths, device, threads, recipe, flags, form, given)

        if interactive:
            require_terminal()
            translator = load()
            converse(lambda line, number: translator.answer_line(line, number, name="<stdin>"))
        elif text is not None:
            answer = load().answer_line(text, 1, name="--text")
            with open_binary_output(output) as sink:
                sink.write(answer.encode("utf-8"))
        else:
            _translate_lines(load, given)


def _translate_lines(load: Callable[[], LineTranslator], given: Given) -> None:
    """Translate a file or stdin; what can be wrong with the files is found before the model is loaded."""
    if given.source is None and stdin_is_terminal():
        hint = "--interactive gives a prompt; `-` reads from the terminal"
        raise UsageError("no input: name a file, or pipe text in", hint=hint)
    sides = {"prefix": given.prefix, "constraint": given.constraint}
    with ExitStack() as stack:
        max_lines = given.batch_size or _LINES_AT_ONCE
        aligned = stack.enter_context(open_aligned_lines(given.source, sides, max_lines=max_lines))
        translator = load()
        sink = stack.enter_context(open_binary_output(given.output))
        begun: deque[Answering] = deque()
        # A file beside may be a slow one.
        num_ahead = 0 if any(sides.values()) else _BLOCKS_AHEAD

        def write_next() -> None:
            write_answer(begun.popleft().finish(), sink, aligned.lines.name)

        fault: SeqkitError | None = None
        blocks = iter(aligned)
        while True:
            try:
                block, beside = next(blocks)
            except StopIteration:
                break
            except SeqkitError as error:
                # To be told after the answers to what precedes it.
                fault = error
                break
            begun.append(Answering(translator, block, beside, name=aligned.lines.name))
            while begun and (len(begun) > num_ahead or not aligned.lines.has_next_now()):
                write_next()
        while begun:
            write_next()
        if fault is not None:
            raise fault
