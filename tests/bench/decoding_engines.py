"""Engines that translate lines with the same weights: ours, CTranslate2 behind our ``Translator``, CTranslate2 itself.

Each takes lines and gives their translations, from text to text, with all that is read and laid out before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkit.export.ctranslate_package import import_ctranslate2
from seqkit.models.fixed_layers import FixedNumbers
from seqkit.recipe.seq2seq_schema import EngineType, TranslateOptions
from seqkit.runs.export_folder import read_export
from seqkit.tasks import ctranslate_search
from seqkit.tasks.cpu_search import layout_for
from seqkit.tasks.ctranslate_export import export_model, token_names
from seqkit.tasks.ctranslate_search import CtranslateSearch
from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq, load_seq2seq
from seqkit.tasks.torch_search import torch_translator
from seqkit.tasks.translation_ensemble import joined_model
from seqkit.tasks.translation_requests import SourceLimits
from seqkit.tasks.translator import Translator

Translate = Callable[[Sequence[str]], list[str]]

_BATCH_TOKENS = 1024
"""Source tokens of CTranslate2's batches, with which it is fastest on a CPU."""


@dataclass(frozen=True)
class Model:
    """What all engines share."""

    loaded: LoadedSeq2Seq
    options: TranslateOptions
    threads: int
    """Of each engine."""

    @property
    def limits(self) -> SourceLimits:
        """How long a source may be."""
        return SourceLimits.of([self.loaded.recipe])

    def export(self, folder: Path, type_: EngineType) -> Path:
        """Write it for CTranslate2, as ``seqkit export`` does, into a folder of this folder; which."""
        path: Path = folder / type_
        export_model(self.loaded.path, path, type_=type_)
        return path


def own(model: Model, numbers: FixedNumbers = "float32", *, patience: float | None = None) -> Translate:
    """Ours, as ``seqkit translate`` sets it up."""
    # With weights of its own: a model has them laid out in one kind of numbers.
    loaded = load_seq2seq(model.loaded.path, model.loaded.device)
    translator = torch_translator(
        joined_model([loaded], layout_for(loaded.device, numbers)),
        loaded.src,
        loaded.tgt,
        model.options.model_copy(update={"patience": patience}),
        limits=model.limits,
        num_processes=model.threads,
    )
    return _of(translator)


def own_with_ctranslate2(model: Model, export: Path) -> Translate:
    """CTranslate2, as ``seqkit translate --engine ctranslate2`` sets it up."""
    loaded = model.loaded
    search = CtranslateSearch(read_export(export), loaded.src, loaded.tgt, model.options, threads=model.threads)
    return _of(Translator(search, loaded.src, loaded.tgt, model.options, limits=model.limits))


def same_search(model: Model, export: Path) -> Translate:
    """CTranslate2 in one call, searching as our engine asks it to; what it finds most likely is the translation."""
    beam = model.options.beam
    patience = ctranslate_search._PATIENCE if beam > 1 else 1.0
    return _direct(
        model,
        _load(export, inter_threads=model.threads, intra_threads=1),
        patience=patience,
        num_hypotheses=round(beam * patience),
        length_penalty=ctranslate_search._NO_PENALTY,
        max_batch_size=ctranslate_search._TRANSLATED_AT_ONCE,
        max_input_length=0,
        return_scores=True,
    )


def ctranslate2_alone(model: Model, export: Path, lines: Sequence[str]) -> Translate:
    """CTranslate2 by its own rules and set up as it is fastest: for many lines a core for each batch.

    For one line that is one core or all, which is tried. Of its length penalties it has one, by the average; and it
    stops at the first hypotheses that end.

    Args:
        model: What is to be translated with.
        export: Where it lies.
        lines: To try.
    """
    settings: dict[str, Any] = {"length_penalty": model.options.alpha, "max_batch_size": _BATCH_TOKENS}
    many, all_cores = (
        _direct(model, _load(export, inter_threads=inter, intra_threads=intra), **settings)
        for inter, intra in ((model.threads, 1), (1, model.threads))
    )
    single = min(many, all_cores, key=lambda engine: _seconds(engine, lines))
    return lambda lines: (single if len(lines) == 1 else many)(lines)


def _seconds(engine: Translate, lines: Sequence[str]) -> float:
    """Of translating lines one by one, the first one not counted."""
    engine(lines[:1])
    began = time.perf_counter()
    for line in lines:
        engine([line])
    return time.perf_counter() - began


def _of(translator: Translator) -> Translate:
    return lambda lines: [best.text for best in translator.best(lines)]


def _load(export: Path, **threads: int) -> Any:
    return import_ctranslate2().Translator(str(export), device="cpu", **threads)


def _direct(model: Model, engine: Any, **settings: Any) -> Translate:
    """One call of the package for all lines.

    Args:
        model: For its tokenizers and options.
        engine: The package's translator.
        **settings: Of the call.
    """
    src, tgt = model.loaded.src, model.loaded.tgt
    src_names, tgt_names = token_names(src), token_names(tgt)
    id_of_name = {name: token_id for token_id, name in enumerate(tgt_names)}

    def translate(lines: Sequence[str]) -> list[str]:
        sentences = [
            [*(src_names[token] for token in src.tokenizer.encode(line)), src_names[src.eos_id]] for line in lines
        ]
        results = engine.translate_batch(
            sentences,
            beam_size=model.options.beam,
            batch_type="tokens",
            max_decoding_length=round(model.options.max_length_ratio * max(map(len, sentences))) + 10,
            **settings,
        )
        return [tgt.decode([id_of_name[name] for name in result.hypotheses[0]]) for result in results]

    return translate
