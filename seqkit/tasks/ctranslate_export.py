"""From a trained Transformer to a folder that CTranslate2 reads: exported for good, or once into the cache.

CTranslate2 runs Transformers; what else there is, recurrent models above all, has no counterpart in it and is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seqkit
from seqkit.errors import UsageError
from seqkit.export.ctranslate_package import import_ctranslate2
from seqkit.recipe.seq2seq_schema import EngineType
from seqkit.runs import listed_files, step_folders
from seqkit.runs.export_folder import check_export_place, is_export, write_export
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.sentences import SentenceVocabulary

_FORMAT = 1
"""Of an export; one of another format is not taken from the cache."""
_POSITIONS = 4096
"""Positions of sinusoidal tables, which an export must write down: sixteen times our longest training sentences."""
_SENTENCE_ENDS = ("<s>", "</s>")


@dataclass(frozen=True, kw_only=True)
class _Exportable:
    """A model, ready to be written."""

    spec: Any
    num_positions: int | None
    """Most positions that it knows; ``None``: any number."""
    tokenizers: dict[str, Tokenizer]
    path: Path
    facts: dict[str, Any]


def export_model(source: Path, output: Path, *, type_: EngineType = "float32", replace: bool = False) -> dict[str, Any]:
    """Write a model for CTranslate2; the folder appears complete or not at all.

    Args:
        source: A run or checkpoint folder.
        output: The folder to write; its parent must exist.
        type_: In which numbers weights are stored.
        replace: Whether another export there may be replaced.

    Returns:
        What the export's ``model.json`` says.

    Raises:
        CheckpointError: The model is damaged.
        UsageError: CTranslate2 is missing, has no such model, or the place is taken.
    """
    package = import_ctranslate2()
    check_export_place(output, replace=replace)
    model = _exportable(source)
    spec = model.spec
    spec.validate()
    spec.optimize(quantization=type_)
    sums = listed_files.read_sums(model.path)
    facts = {
        **model.facts,
        "export": {
            "to": "ctranslate2",
            "format": _FORMAT,
            "type": type_,
            "max_positions": model.num_positions,
            "source": str(model.path.resolve()),
            "source_sha256": sums["model.safetensors"],
            "versions": {"seqkit": seqkit.__version__, "ctranslate2": package.__version__},
        },
    }
    write_export(
        output,
        lambda folder: spec.save(str(folder)),
        tokenizers={name: tokenizer.to_json() for name, tokenizer in model.tokenizers.items()},
        recipe=listed_files.read_text(model.path / "recipe.yaml"),
        facts=facts,
        replace=replace,
    )
    return facts


def cached_export(model: Path, cache_dir: Path, *, on_export: Callable[[Path], None]) -> Path:
    """The export of a model: itself if it is one, else one in the cache, which is written where it is missing.

    Args:
        model: An export, or a run or checkpoint folder.
        cache_dir: The cache; exports lie in a folder of it, named by what they were made from.
        on_export: Called before one is written.

    Raises:
        CheckpointError: The model is damaged.
        UsageError: CTranslate2 is missing, or has no such model.
    """
    if is_export(model):
        return model
    source = step_folders.resolve(model)
    folder = cache_dir / "ctranslate2" / _content_key(source)
    if is_export(folder):
        return folder
    on_export(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        export_model(source, folder)
    except (UsageError, OSError):
        # Another process may have been faster; what it wrote is the same.
        if not is_export(folder):
            raise
    return folder


def token_names(vocabulary: SentenceVocabulary) -> list[str]:
    """A name for each id, no two alike: CTranslate2 knows tokens by name."""
    names = [vocabulary.tokenizer.token_text(token_id) for token_id in range(vocabulary.tokenizer.vocab_size)]
    if not vocabulary.has_own_ends:
        names += _SENTENCE_ENDS
    return _distinct(names)


def _distinct(names: list[str]) -> list[str]:
    """The same names with a number after each that was there before.

    >>> _distinct(["a", "b", "a", "a#2"])
    ['a', 'b', 'a#2', 'a#2#3']
    """
    seen: set[str] = set()
    distinct = []
    for number, name in enumerate(names):
        new = name
        while new in seen:
            new += f"#{number}"
        seen.add(new)
        distinct.append(new)
    return distinct


def _content_key(source: Path) -> str:
    """A name made of all that an export is made from."""
    sums = listed_files.read_sums(source)
    told = [f"{sums[name]} {name}" for name in sorted(sums) if not name.startswith(("train_state", "model.json"))]
    told += [f"format {_FORMAT}", f"ctranslate2 {import_ctranslate2().__version__}"]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def _exportable(source: Path) -> _Exportable:
    import torch

    from seqkit.runs.checkpoint import read_task

    task = read_task(source)
    cpu = torch.device("cpu")
    if task == "seq2seq":
        return _translation_model(source, cpu)
    if task == "lm":
        return _language_model(source, cpu)
    raise UsageError(f"{source}: a model for the task {task}, which has no counterpart in CTranslate2")


def _translation_model(source: Path, cpu: Any) -> _Exportable:
    from seqkit.export.ctranslate_spec import translation_spec
    from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq
    from seqkit.tasks.seq2seq_predictor import load_seq2seq

    loaded = load_seq2seq(source, cpu)
    config = loaded.recipe.model
    if not isinstance(config, TransformerSeq2Seq):
        raise _no_transformer(loaded.path, config.type)
    table = max(_POSITIONS, 4 * (loaded.recipe.data.max_length or 0))
    spec = translation_spec(
        loaded.model,
        src_tokens=token_names(loaded.src),
        tgt_tokens=token_names(loaded.tgt),
        bos_id=loaded.tgt.bos_id,
        eos_id=loaded.tgt.eos_id,
        # Every token has an id of its own, so that nothing ever is the unknown one; but there must be one.
        unk_id=_or(loaded.tgt.tokenizer.unk_id, loaded.tgt.bos_id),
        num_positions=table,
    )
    tokenizers = (
        {"tokenizer.json": loaded.src.tokenizer}
        if loaded.recipe.is_joint
        else {"tokenizer.src.json": loaded.src.tokenizer, "tokenizer.tgt.json": loaded.tgt.tokenizer}
    )
    num_positions = {"sinusoidal": table, "learned": config.max_positions, "rotary": None}[config.positions]
    return _Exportable(
        spec=spec, num_positions=num_positions, tokenizers=tokenizers, path=loaded.path, facts=loaded.facts
    )


def _language_model(source: Path, cpu: Any) -> _Exportable:
    from seqkit.export.ctranslate_spec import language_model_spec
    from seqkit.models.transformer_decoder import TransformerDecoder
    from seqkit.tasks.lm_predictor import load_lm

    loaded = load_lm(source, cpu)
    if not isinstance(loaded.model, TransformerDecoder):
        raise _no_transformer(loaded.path, loaded.recipe.model.type)
    tokenizer, num_positions = loaded.tokenizer, loaded.model.context_length
    assert num_positions is not None, "a language model's context is limited"
    spec = language_model_spec(
        loaded.model,
        tokens=_distinct([tokenizer.token_text(token_id) for token_id in range(tokenizer.vocab_size)]),
        start_id=tokenizer.start_id,
        unk_id=_or(tokenizer.unk_id, tokenizer.start_id),
        num_positions=num_positions,
    )
    return _Exportable(
        spec=spec,
        num_positions=num_positions,
        tokenizers={"tokenizer.json": tokenizer},
        path=loaded.path,
        facts=loaded.facts,
    )


def _or(token_id: int | None, otherwise: int) -> int:
    return otherwise if token_id is None else token_id


def _no_transformer(path: Path, type_: str) -> UsageError:
    return UsageError(
        f"{path}: CTranslate2 runs Transformers, and this is a recurrent model ({type_})",
        hint="seqkit's own engine runs it: --engine torch",
    )
