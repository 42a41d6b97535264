"""``seqkit export``: a trained model in another engine's format."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer

from seqkit.cli import console
from seqkit.cli.command import Json, command
from seqkit.cli.streams import write_result
from seqkit.errors import UsageError

_EXAMPLES = """\
seqkit export runs/deen/20261120T101500Z-k3x7 --to ctranslate2 -o deen.ct2
seqkit export averaged --to ctranslate2 --type int8 -o deen.int8
seqkit translate --engine ctranslate2 --model deen.int8 < input.de"""


class Target(StrEnum):
    """An engine that models can be exported for."""

    ctranslate2 = "ctranslate2"


def register(app: typer.Typer) -> None:
    """Add ``export`` to the command tree."""

    @command(app, "export", examples=_EXAMPLES, no_args_is_help=True)
    def export(
        model: Annotated[Path, typer.Argument(metavar="MODEL", help="Run or checkpoint folder.")],
        to: Annotated[Target | None, typer.Option("--to", help="The engine.")] = None,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the export goes.")
        ] = None,
        type_: Annotated[
            str,
            typer.Option(
                "--type",
                help="Numbers that weights are stored in: float32, int8, int8_float32, int16, bfloat16, float16, ...",
            ),
        ] = "float32",
        force: Annotated[bool, typer.Option("--force", help="Replace an export that is in FOLDER.")] = False,
        json_output: Json = False,
    ) -> None:
        """Write a Transformer for CTranslate2: a translation model or a language model; prints the folder.

        The folder has the tokenizer and the recipe as well, so that it is all that `seqkit translate --engine
        ctranslate2 --model FOLDER` needs; programs of your own give CTranslate2 the tokens of its vocabulary, with
        the end token after a source. Recurrent models have no counterpart in CTranslate2.
        """
        from seqkit.recipe.seq2seq_schema import EngineType
        from seqkit.recipe.suggest import suggestion
        from seqkit.tasks.ctranslate_export import export_model

        if to is None:
            raise UsageError("for which engine? give --to ctranslate2", hint="seqkit export --help")
        if output is None:
            raise UsageError("where should the export go? give --output FOLDER", hint="-o exported")
        types = get_args(EngineType)
        if type_ not in types:
            raise UsageError(f"--type {type_}: must be one of {', '.join(types)}{suggestion(type_, types)}")
        if not model.is_dir():
            raise UsageError(f"{model}: {'a file, not a folder' if model.exists() else 'no such folder'}")
        facts = export_model(model, output, type_=type_, replace=force)  # type: ignore[arg-type]
        console.logger.info("exported step %s in %s", facts.get("step"), type_)
        if json_output:
            told = {"path": str(output), "task": facts.get("task"), "export": facts["export"]}
            write_result(json.dumps(told, ensure_ascii=False))
        else:
            write_result(str(output))
