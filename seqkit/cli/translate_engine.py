"""The model behind ``seqkit translate``, read by the engine that the options name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqkit.cli import console
from seqkit.errors import CheckpointError

if TYPE_CHECKING:
    from seqkit.recipe.seq2seq_schema import TranslateOptions
    from seqkit.runs.export_folder import Export
    from seqkit.tasks.translation_requests import SourceLimits
    from seqkit.tasks.translation_search import SearchEngine
    from seqkit.tokenizers.sentences import SentenceVocabulary


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """What an engine is asked to do."""

    paths: Sequence[Path]
    """Folders of the model and of those that predict with it."""
    options: TranslateOptions
    device: str
    threads: int | None
    """``None``: one a core."""
    seed: int | None
    """Of sampled translations."""
    with_attention: bool
    has_prefix: bool
    has_constraints: bool


@dataclass(frozen=True, kw_only=True)
class ReadyEngine:
    """A model, ready to search."""

    search: SearchEngine
    src: SentenceVocabulary
    tgt: SentenceVocabulary
    limits: SourceLimits


def load_engine(request: EngineRequest) -> ReadyEngine:
    """Read the models.

    Raises:
        CheckpointError: A model is damaged.
        UsageError: A model is of another task, or the engine cannot do what is asked.
    """
    return _ENGINES[request.options.engine](request)


def _torch(request: EngineRequest) -> ReadyEngine:
    from seqkit.cli.model_options import choose_device
    from seqkit.kernels.compiling import compiled_steps
    from seqkit.runs.places import cache_dir
    from seqkit.tasks.cpu_search import layout_for, processes_for
    from seqkit.tasks.torch_search import TorchSearch, own_numbers
    from seqkit.tasks.translation_ensemble import joined_model, load_translation_models
    from seqkit.tasks.translation_requests import SourceLimits

    numbers = own_numbers(request.options)
    place = choose_device(request.device, request.threads)
    loaded = load_translation_models(request.paths, place)
    src, tgt = loaded[0].src, loaded[0].tgt
    # With --deterministic each line has all cores, whether it is alone or not: their number may change the last bit.
    num_processes = 1 if request.options.deterministic else processes_for(place)
    if place.type == "cpu":
        console.logger.log(console.VERBOSE, "compiled steps: %s", compiled_steps(cache_dir(None)).remark)
    search = TorchSearch(
        joined_model(loaded, layout_for(place, numbers)),
        src,
        tgt,
        request.options,
        place,
        seed=request.seed,
        with_attention=request.with_attention,
        num_processes=num_processes,
    )
    return ReadyEngine(search=search, src=src, tgt=tgt, limits=SourceLimits.of(one.recipe for one in loaded))


def _ctranslate2(request: EngineRequest) -> ReadyEngine:
    """Needs no torch, unless the model has to be exported first."""
    from seqkit.runs.export_folder import read_export
    from seqkit.runs.places import cache_dir
    from seqkit.tasks.ctranslate_abilities import check_ctranslate
    from seqkit.tasks.ctranslate_export import cached_export
    from seqkit.tasks.ctranslate_search import CtranslateSearch
    from seqkit.tasks.model_recipe import read_seq2seq_recipe
    from seqkit.tasks.translation_requests import SourceLimits

    check_ctranslate(
        request.options,
        num_models=len(request.paths),
        has_prefix=request.has_prefix,
        has_constraints=request.has_constraints,
        seed=request.seed,
    )

    def tell(folder: Path) -> None:
        console.logger.info("exporting the model for CTranslate2 once, to %s", folder)

    path = cached_export(request.paths[0], cache_dir(None), on_export=tell)
    export, recipe = read_export(path), read_seq2seq_recipe(path)
    src, tgt = (_vocabulary(export, side, is_joint=recipe.is_joint) for side in ("src", "tgt"))
    search = CtranslateSearch(
        export,
        src,
        tgt,
        request.options,
        device=request.device,
        threads=request.threads or len(os.sched_getaffinity(0)),
        with_attention=request.with_attention,
    )
    _tell_of_type(export, request.options, search.compute_type)
    limits = replace(SourceLimits.of([recipe]), max_positions=export.facts["export"].get("max_positions"))
    return ReadyEngine(search=search, src=src, tgt=tgt, limits=limits)


_ENGINES: dict[str, Callable[[EngineRequest], ReadyEngine]] = {"torch": _torch, "ctranslate2": _ctranslate2}


def _vocabulary(export: Export, side: str, *, is_joint: bool) -> SentenceVocabulary:
    from seqkit.tokenizers.registry import tokenizer_from_json
    from seqkit.tokenizers.sentences import SentenceVocabulary

    name = "tokenizer.json" if is_joint else f"tokenizer.{side}.json"
    text = export.tokenizers.get(name)
    if text is None:
        raise CheckpointError(f"{export.path}: {name} is missing")
    return SentenceVocabulary(tokenizer_from_json(text))


def _tell_of_type(export: Export, options: TranslateOptions, compute_type: str) -> None:
    """The package takes what comes nearest where the machine does not compute with what is stored, unless told."""
    stored = str(export.facts["export"].get("type"))
    console.logger.log(console.VERBOSE, "CTranslate2 computes in %s", compute_type)
    if options.engine_type is None and compute_type.partition("_")[0] != stored.partition("_")[0]:
        console.logger.warning("this machine does not compute in %s; CTranslate2 takes %s", stored, compute_type)
