"""Lines of text to the lines that ``seqkit translate`` writes, with warnings that name the line."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seqkit.cli import console
from seqkit.cli.line_filter import Answer, Block, LineFault, Transform, answer_block, on_text
from seqkit.cli.translate_engine import EngineRequest, load_engine
from seqkit.cli.translate_options import Given, check_against_model, translate_options
from seqkit.cli.translation_output import OutputForm, TranslationWriter
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from seqkit.tasks.translation_requests import Wish
    from seqkit.tasks.translator import Translator

_BLANK = " "


class LineTranslator:
    """Answers blocks of lines.

    Args:
        translator: The model with its options.
        writer: Writes what it finds.
        wish_for_all: Prefix and terms, with tabs between them, of lines that have none of their own.
    """

    def __init__(self, translator: Translator, writer: TranslationWriter, wish_for_all: tuple[str, str]) -> None:
        self._translator = translator
        self._writer = writer
        self._wish_for_all = wish_for_all

    def answer(self, text: str, first_line: int, *, name: str, beside: Mapping[str, Sequence[str]]) -> str:
        """A ``line_filter.Transform``.

        Args:
            text: Whole lines.
            first_line: Number of the first.
            name: What to call the input in warnings.
            beside: By ``prefix`` and ``constraint`` what belongs to the lines, at least one for each.

        Raises:
            LineFault: A line cannot be translated as asked; nothing was translated then.
        """
        return self.begin(text, first_line, name=name, beside=beside)()

    def begin(self, text: str, first_line: int, *, name: str, beside: Mapping[str, Sequence[str]]) -> Callable[[], str]:
        """Begin to answer, as ``answer`` does, if the engine works ahead; what is returned waits for the answer.

        Raises:
            LineFault: A line cannot be translated as asked; nothing was begun then.
        """
        from seqkit.decoding.requests import SentenceError

        lines = text.removesuffix("\n").split("\n")
        prefix_for_all, terms_for_all = self._wish_for_all
        prefixes = beside.get("prefix", [prefix_for_all] * len(lines))
        terms = beside.get("constraint", [terms_for_all] * len(lines))
        wishes = [_wish(*both) for both in zip(prefixes, terms, strict=False)]
        try:
            requests = self._translator.reader.read(lines, wishes)
        except SentenceError as error:
            raise LineFault(error.sentence, error.reason, hint=error.hint) from None
        for number, request in enumerate(requests, start=first_line):
            for remark in request.remarks:
                warn_of_line(name, number, remark)
        form = self._writer.form
        finish = self._translator.begin(requests, num_best=form.num_best, first_line=first_line)

        def answer() -> str:
            answers = []
            translated = zip(lines, requests, finish(), strict=True)
            for number, (line, request, translations) in enumerate(translated, first_line):
                if request.parts and not translations[0].meets_constraints:
                    warn_of_line(name, number, "the translation does not contain all that it must")
                answers.append(self._writer.write(line, request, translations))
            return "\n".join(answers) + ("\n" if text.endswith("\n") or form.as_json else "")

        return answer

    def answer_line(self, line: str, number: int, *, name: str) -> str:
        """The answer to one line, with its line end.

        Raises:
            DataError: It cannot be translated as asked.
        """
        try:
            return self.answer(line + "\n", number, name=name, beside={})
        except LineFault as fault:
            raise DataError(fault.message, path=name, hint=fault.hint) from None


class Answering:
    """The answer to a block, begun.

    Args:
        translator: Answers.
        block: The lines.
        beside: What belongs to them.
        name: What to call the input.
    """

    def __init__(
        self, translator: LineTranslator, block: Block, beside: Mapping[str, Sequence[str]], *, name: str
    ) -> None:
        self._block = block
        # Whatever is wrong with a line is told in its turn.
        self._transform: Transform = partial(translator.answer, name=name, beside=beside)
        with suppress(LineFault, UnicodeDecodeError):
            answer = translator.begin(block.data.decode("utf-8"), block.first_line, name=name, beside=beside)
            self._transform = lambda text, first_line: answer()

    def finish(self) -> Answer:
        """Wait for it.

        Raises:
            SeqkitError: The search found numbers that are none.
        """
        return answer_block(self._block, on_text(self._transform))


def load_line_translator(
    paths: Sequence[Path],
    device: str,
    threads: int | None,
    recipe: str | None,
    flags: Mapping[str, object],
    form: OutputForm,
    given: Given,
) -> LineTranslator:
    """Read the models and check the options against them and each other, before any line is read.

    Args:
        paths: Folders of the model and of those that predict with it.
        device: Where to compute.
        threads: CPU threads; ``None``: one a core.
        recipe: What ``--recipe`` names.
        flags: What the user typed.
        form: What to write.
        given: What else was given.

    Raises:
        CheckpointError: A model is damaged.
        UsageError: A model is of another task, or it or another option does not allow what is asked.
    """
    from seqkit.decoding.requests import check_rule
    from seqkit.tasks.model_recipe import read_seq2seq_recipe
    from seqkit.tasks.translator import Translator, beam_rule

    own = read_seq2seq_recipe(paths[0]).translate
    options = translate_options(own, recipe, flags, num_best=form.num_best, has_constraints=given.has_constraints)
    seed = None
    if options.sample:
        seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
        console.logger.log(console.VERBOSE, "seed %d", seed)
    engine = load_engine(
        EngineRequest(
            paths=paths,
            options=options,
            device=device,
            threads=threads,
            seed=seed,
            with_attention=form.alignments is not None,
            has_prefix=given.has_prefix,
            has_constraints=given.has_constraints,
        )
    )
    check_against_model(options, engine.limits, flags)
    if not options.sample:
        check_rule(beam_rule(options, form.num_best), vocab_size=engine.tgt.vocab_size)
    translator = Translator(engine.search, engine.src, engine.tgt, options, limits=engine.limits)
    has_coverage = options.coverage_penalty > 0 and not options.sample
    if (form.alignments or has_coverage) and not translator.has_attention():
        name = "--alignments" if form.alignments else "--coverage-penalty"
        raise UsageError(f"{name} needs a model with attention to its source, and this one has none")
    console.logger.log(console.VERBOSE, "options %s", options.model_dump_json())
    writer = TranslationWriter(form=form, src=engine.src, tgt=engine.tgt, seed=seed)
    return LineTranslator(translator, writer, given.wish)


def _wish(prefix: str, terms: str) -> Wish:
    from seqkit.tasks.translation_requests import Wish

    stripped = (term.strip(_BLANK) for term in terms.split("\t"))
    return Wish(prefix=prefix, terms=tuple(term for term in stripped if term))


def warn_of_line(name: str, line: int, what: str) -> None:
    """Warn of a line of an input, from 1 on."""
    fields = {"input": name, "line": line}
    console.logger.warning("%s:%d: %s", name, line, what, extra={"event": "line", "fields": fields})
