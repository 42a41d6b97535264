"""``seqkit recipe``: list, show, copy, check and complete recipes, and their JSON Schema. Imports no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from seqkit.cli.command import Json, command, show_examples
from seqkit.cli.completion import (
    complete_override_key,
    complete_recipe,
    complete_shipped_recipe,
    complete_task,
)
from seqkit.cli.streams import flush_stdout, open_output, write_result
from seqkit.errors import RecipeError, UsageError

logger = logging.getLogger(__name__)

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A path, `-` for stdin, or the name of a shipped recipe.",
        autocompletion=complete_recipe,
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key, such as model.d_model=512; repeatable, later wins.",
        autocompletion=complete_override_key,
        show_default=False,
    ),
]
ShippedName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The name of a shipped recipe.",
        autocompletion=complete_shipped_recipe,
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add ``recipe`` and its subcommands to the command tree."""
    group = typer.Typer(
        help="List, show, copy and check recipes.",
        rich_markup_mode=None,
        no_args_is_help=True,
        epilog=show_examples("seqkit recipe ls\nseqkit recipe cp lstm_charlm my.yaml\nseqkit recipe validate my.yaml"),
    )
    app.add_typer(group, name="recipe")

    @command(group, "ls", examples="seqkit recipe ls\nseqkit recipe ls --json | jq -r '.recipes[].name'")
    def ls(json_output: Json = False) -> None:
        """List the recipes that come with seqkit."""
        rows = _list_shipped()
        if json_output:
            write_result(json.dumps({"recipes": rows}, ensure_ascii=False))
            return
        widths = [max((len(row[key]) for row in rows), default=0) for key in ("name", "task")]
        for row in rows:
            line = f"{row['name']:<{widths[0]}}  {row['task']:<{widths[1]}}  {row['description']}"
            write_result(line.rstrip())

    @command(group, "show", examples="seqkit recipe show lstm_charlm\nseqkit recipe show lstm_charlm > my.yaml")
    def show(name: RecipeName) -> None:
        """Print a recipe as it is."""
        write_result(_read_text(name), end="")

    @command(
        group,
        "cp",
        examples="seqkit recipe cp lstm_charlm\nseqkit recipe cp lstm_charlm my.yaml && $EDITOR my.yaml",
    )
    def cp(
        name: ShippedName,
        destination: Annotated[
            str | None,
            typer.Argument(metavar="[DEST]", help="A file or folder (default: here).", show_default=False),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    ) -> None:
        """Copy a shipped recipe, to change it; prints the path of the copy."""
        write_result(_copy_shipped(name, destination, force=force))

    @command(
        group,
        "validate",
        examples="seqkit recipe validate my.yaml\nseqkit recipe validate recipes/*.yaml --json | jq .ok",
    )
    def validate(
        names: Annotated[
            list[str],
            typer.Argument(
                metavar="RECIPE...",
                help="Paths, `-` for stdin, or names of shipped recipes.",
                autocompletion=complete_recipe,
                show_default=False,
            ),
        ],
        overrides: Overrides = None,
        json_output: Json = False,
    ) -> None:
        """Check recipes and list every fault; exit code 2 if there is one."""
        _validate(names, overrides or [], json_output=json_output)

    @command(
        group,
        "resolve",
        examples="seqkit recipe resolve lstm_charlm --set model.d_model=512\nseqkit recipe resolve - < my.yaml",
    )
    def resolve(
        name: RecipeName,
        overrides: Overrides = None,
        output: Annotated[
            str | None,
            typer.Option("--output", "-o", metavar="FILE", help="Write here (default: stdout).", show_default=False),
        ] = None,
    ) -> None:
        """Print the full recipe: overrides applied, defaults written out, paths absolute."""
        from seqkit.recipe.loading import load_recipe, resolve_recipe_text

        text = resolve_recipe_text(load_recipe(name, overrides=overrides or []).recipe)
        with open_output(output) as file:
            file.write(text)

    @command(
        group,
        "schema",
        examples="seqkit recipe schema > recipe.schema.json\nseqkit recipe schema --task lm | jq .properties.train",
    )
    def schema(
        task: Annotated[
            str | None,
            typer.Option(help="Only this task (default: all).", autocompletion=complete_task, show_default=False),
        ] = None,
    ) -> None:
        """Print the JSON Schema of recipes, for editors."""
        from seqkit.recipe.json_schema import recipe_schema_text
        from seqkit.recipe.recipe_types import RECIPE_TYPES
        from seqkit.recipe.suggest import suggestion

        if task is not None and task not in RECIPE_TYPES:
            raise UsageError(
                f"no task {task}{suggestion(task, RECIPE_TYPES)}", hint=f"tasks: {', '.join(RECIPE_TYPES)}"
            )
        write_result(recipe_schema_text([task] if task else None), end="")


def _list_shipped() -> list[dict[str, str]]:
    """Name, task and description of every shipped recipe."""
    from seqkit.recipe import yaml12
    from seqkit.recipe.library import describe, shipped_recipes

    rows: list[dict[str, str]] = []
    for recipe in shipped_recipes():
        text = recipe.read()
        data = yaml12.parse(text, recipe.source).data
        task = data.get("task") if isinstance(data, dict) else None
        rows.append({"name": recipe.name, "task": str(task), "description": describe(text)})
    return rows


def _read_text(name: str) -> str:
    from seqkit.recipe.loading import find_recipe

    found = find_recipe(name)
    try:
        return found.text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([f"{found.source}: not UTF-8: byte {error.start + 1}"]) from None


def _copy_shipped(name: str, destination: str | None, *, force: bool) -> str:
    """Copy a shipped recipe and return where to."""
    from seqkit.atomic import atomic_write
    from seqkit.recipe.library import find_shipped
    from seqkit.recipe.loading import no_such_recipe

    shipped = find_shipped(name)
    if shipped is None:
        raise no_such_recipe(name, only_shipped=True)
    target = Path(destination) if destination is not None else Path(shipped.file.name)
    if target.is_dir():
        target /= shipped.file.name
    if not target.parent.is_dir():
        raise UsageError(f"{target}: no such folder {target.parent}")
    if target.exists() and not force:
        raise UsageError(f"{target} exists; it stays as it is", hint="--force replaces it")
    with atomic_write(target) as file:
        file.write(shipped.read())
    logger.info("for an editor that knows the keys: seqkit recipe schema > %s", target.parent / "recipe.schema.json")
    return str(target)


def _validate(names: Sequence[str], overrides: Sequence[str], *, json_output: bool) -> None:
    """Check every recipe, then report: stdout gets what holds, stderr what does not."""
    if names.count("-") > 1:
        raise UsageError("stdin can be read only once: `-` is given twice")
    reports = [_check(name, overrides) for name in names]
    if json_output:
        result = {"ok": all(report["ok"] for report in reports), "recipes": reports}
        write_result(json.dumps(result, ensure_ascii=False))
    else:
        for report in reports:
            if report["ok"]:
                write_result(f"{report['recipe']}: ok")
    messages = [error["message"] for report in reports for error in report["errors"]]
    if messages:
        flush_stdout()
        raise RecipeError(messages)


def _check(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What ``validate --json`` says of one recipe."""
    from seqkit.recipe.faults import dotted
    from seqkit.recipe.loading import examine, find_recipe

    errors: list[dict[str, Any]] = []
    try:
        for fault in examine(find_recipe(name), overrides=overrides).faults:
            line, column = fault.position or (None, None)
            where = {"file": fault.source, "line": line, "column": column, "key": dotted(fault.path) or None}
            errors.append({"message": str(fault), **where})
    except (UsageError, OSError) as error:
        message = (
            error.message if isinstance(error, UsageError) else f"{name}: {(error.strerror or str(error)).lower()}"
        )
        errors.append({"message": message, "file": name, "line": None, "column": None, "key": None})
    return {"recipe": name, "ok": not errors, "errors": errors}
