"""Lines of text to the lines that ``seqkit translate`` writes, with warnings that name the line."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqkit.cli import console
from seqkit.cli.line_filter import LineFault
from seqkit.cli.translate_options import Given, check_against_model, translate_options
from seqkit.cli.translation_output import OutputForm, TranslationWriter
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

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
        found = self._translator.translate(requests, num_best=form.num_best, first_line=first_line)
        answers = []
        for number, (line, request, translations) in enumerate(zip(lines, requests, found, strict=True), first_line):
            if request.parts and not translations[0].meets_constraints:
                warn_of_line(name, number, "the translation does not contain all that it must")
            answers.append(self._writer.write(line, request, translations))
        return "\n".join(answers) + ("\n" if text.endswith("\n") or form.as_json else "")

    def answer_line(self, line: str, number: int, *, name: str) -> str:
        """The answer to one line, with its line end.

        Raises:
            DataError: It cannot be translated as asked.
        """
        try:
            return self.answer(line + "\n", number, name=name, beside={})
        except LineFault as fault:
            raise DataError(fault.message, path=name, hint=fault.hint) from None


def load_line_translator(
    paths: Sequence[Path],
    place: torch.device,
    recipe: str | None,
    flags: Mapping[str, object],
    form: OutputForm,
    given: Given,
) -> LineTranslator:
    """Read the models and check the options against them and each other, before any line is read.

    Args:
        paths: Folders of the model and of those that predict with it.
        place: Where to compute.
        recipe: What ``--recipe`` names.
        flags: What the user typed.
        form: What to write.
        given: What else was given.

    Raises:
        CheckpointError: A model is damaged.
        UsageError: A model is of another task, or it or another option does not allow what is asked.
    """
    import torch

    from seqkit.decoding.requests import check_rule
    from seqkit.tasks.side_by_side import SideBySide
    from seqkit.tasks.translation_ensemble import joined_model, load_translation_models
    from seqkit.tasks.translation_requests import SourceLimits
    from seqkit.tasks.translator import Translator, beam_rule

    loaded = load_translation_models(paths, place)
    first = loaded[0]
    options = translate_options(
        first.recipe.translate, recipe, flags, num_best=form.num_best, has_constraints=given.has_constraints
    )
    limits = SourceLimits.of(one.recipe for one in loaded)
    check_against_model(options, limits, flags)
    seed = None
    if options.sample:
        seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
        console.logger.log(console.VERBOSE, "seed %d", seed)
    else:
        check_rule(beam_rule(options, form.num_best), vocab_size=first.tgt.vocab_size)
    model, side_by_side = joined_model(loaded, options.weights), None
    num_threads = torch.get_num_threads()
    # With --deterministic each line has all cores, whether it is alone or not: their number may change the last bit.
    if place.type == "cpu" and num_threads > 1 and not options.deterministic:
        side_by_side = SideBySide(num_threads)
        model = side_by_side.watched(model)
    translator = Translator(
        model,
        first.src,
        first.tgt,
        options,
        place,
        limits=limits,
        seed=seed,
        with_attention=form.alignments is not None,
        side_by_side=side_by_side,
    )
    has_coverage = options.coverage_penalty > 0 and not options.sample
    if (form.alignments or has_coverage) and not translator.has_attention():
        name = "--alignments" if form.alignments else "--coverage-penalty"
        raise UsageError(f"{name} needs a model with attention to its source, and this one has none")
    console.logger.log(console.VERBOSE, "options %s", options.model_dump_json())
    writer = TranslationWriter(form=form, src=first.src, tgt=first.tgt, seed=seed)
    return LineTranslator(translator, writer, given.wish)


def _wish(prefix: str, terms: str) -> Wish:
    from seqkit.tasks.translation_requests import Wish

    stripped = (term.strip(_BLANK) for term in terms.split("\t"))
    return Wish(prefix=prefix, terms=tuple(term for term in stripped if term))


def warn_of_line(name: str, line: int, what: str) -> None:
    """Warn of a line of an input, from 1 on."""
    fields = {"input": name, "line": line}
    console.logger.warning("%s:%d: %s", name, line, what, extra={"event": "line", "fields": fields})
