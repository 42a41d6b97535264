"""The flag ``--tokenizer`` and the BPE tokenizer it leads to."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli import console
from seqkit.errors import CheckpointError, MissingDataError, UsageError

if TYPE_CHECKING:
    from seqkit.tokenizers.bpe import BpeTokenizer

TOKENIZER_NAME = "tokenizer.json"
"""The file's name in a model folder, and the one looked for in the working directory."""

TokenizerPath = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        help="A tokenizer.json, or a run or checkpoint folder; else SEQKIT_TOKENIZER, else ./tokenizer.json, "
        "else the newest finished run with a BPE tokenizer.",
        show_default=False,
    ),
]


def choose_tokenizer(flag: Path | None, runs_dir: Path | None) -> BpeTokenizer:
    """Find and read the tokenizer; it is named on stderr unless the user named it.

    Raises:
        UsageError: None is named and none is found.
        MissingDataError: The one named does not exist.
        CheckpointError: It is damaged, of another program, or of another type.
    """
    path, source = _find(flag, runs_dir)
    tokenizer = read_bpe(path)
    level = console.VERBOSE if source == "--tokenizer" else logging.INFO
    fields = {"path": str(path), "source": source}
    console.logger.log(level, "tokenizer %s (%s)", path, source, extra={"event": "tokenizer", "fields": fields})
    return tokenizer


def read_bpe(path: Path) -> BpeTokenizer:
    """Read a BPE tokenizer.

    Args:
        path: Its file, or the folder of a run or a checkpoint.

    Raises:
        MissingDataError: There is no such file or folder.
        CheckpointError: It is damaged, of another program, or of another type.
    """
    from seqkit.tokenizers.bpe import BpeTokenizer
    from seqkit.tokenizers.registry import load_tokenizer

    file = tokenizer_file(path)
    try:
        tokenizer = load_tokenizer(file)
    except CheckpointError as error:
        foreign = format_of(file)
        if foreign in (None, "seqkit"):
            raise
        raise CheckpointError(
            f"{file}: not a tokenizer of seqkit but one of {foreign}",
            hint=f"seqkit bpe convert {file} --from {foreign} -o NEW.json",
        ) from error
    if not isinstance(tokenizer, BpeTokenizer):
        raise CheckpointError(f"{file}: a tokenizer of type {tokenizer.type}, but this command needs one of type bpe")
    return tokenizer


def tokenizer_file(path: Path) -> Path:
    """The tokenizer's file: ``path`` itself, or the one in the folder of a run or a checkpoint.

    Raises:
        MissingDataError: There is none.
        CheckpointError: The folder is a run without a checkpoint.
    """
    from seqkit.runs import step_folders

    if not path.exists():
        raise MissingDataError("no such tokenizer file or model folder", path=path)
    if not path.is_dir():
        return path
    file = step_folders.resolve(path) / TOKENIZER_NAME
    if not file.is_file():
        raise MissingDataError(f"no {TOKENIZER_NAME} in it", path=path, hint="name the file, or a run's folder")
    return file


def _find(flag: Path | None, runs_dir: Path | None) -> tuple[Path, str]:
    """The path of the tokenizer, and what named it."""
    from seqkit.runs.places import runs_dir as runs_place

    if flag is not None:
        return flag, "--tokenizer"
    named = os.environ.get("SEQKIT_TOKENIZER")
    if named:
        return Path(named).expanduser(), "SEQKIT_TOKENIZER"
    here = Path(TOKENIZER_NAME)
    if here.is_file():
        return here, "in this folder"
    runs = runs_place(runs_dir)
    newest = max(_finished_bpe_runs(runs), default=None)
    if newest is None:
        raise UsageError(
            f"no tokenizer: no ./{TOKENIZER_NAME}, and no finished run with a BPE tokenizer under {runs}",
            hint="name one with --tokenizer or SEQKIT_TOKENIZER; `seqkit bpe learn` makes one",
        )
    return newest[1], "newest run"


def _finished_bpe_runs(runs_dir: Path) -> Iterator[tuple[str, Path]]:
    """End and folder of the finished runs whose tokenizer is BPE."""
    from seqkit.runs.listing import find_runs
    from seqkit.runs.record import read_record

    for run_dir in find_runs(runs_dir):
        try:
            record = read_record(run_dir)
            if record.get("status") == "completed" and _type_of(tokenizer_file(run_dir)) == "bpe":
                yield str(record.get("end")), run_dir
        except (CheckpointError, MissingDataError):
            continue


def _type_of(file: Path) -> object:
    """The type that a tokenizer file says it is of; None if it says nothing."""
    try:
        fields = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return fields.get("type") if isinstance(fields, dict) else None


def format_of(file: Path) -> str | None:
    """Whose tokenizer a file is, in the words of ``bpe convert --from``; None if it does not show."""
    try:
        with file.open("rb") as stream:
            if stream.read(9) == b"#version:":
                return "subword-nmt"
        fields = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    if "seqkit_tokenizer" in fields:
        return "seqkit"
    return "huggingface" if isinstance(fields.get("model"), dict) and "vocab" in fields["model"] else None
