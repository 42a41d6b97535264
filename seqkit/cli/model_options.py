"""Flags that every command with a model shares, and the model they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import ValidationError

from seqkit.cli import console
from seqkit.errors import UsageError

if TYPE_CHECKING:
    import torch

    from seqkit.recipe.config import Config

ModelPath = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="Run or checkpoint folder; else SEQKIT_MODEL, else the newest finished run."),
]
RunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", envvar="SEQKIT_RUNS_DIR", help="Where finished runs are looked for (runs)."),
]
Device = Annotated[str, typer.Option("--device", envvar="SEQKIT_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (one a core).")]
RecipeSection = Annotated[
    str | None, typer.Option("--recipe", help="Take options from this recipe's section instead of the model's own.")
]

OptionsT = TypeVar("OptionsT", bound="Config")


def choose_model(tasks: str | Sequence[str], flag: Path | None, runs_dir: Path | None) -> Path:
    """The model folder to use; named on stderr unless the user named it."""
    from seqkit.runs.find_model import find_model
    from seqkit.runs.places import runs_dir as runs_place

    choice = find_model(tasks, flag, runs_place(runs_dir))
    level = console.VERBOSE if choice.source == "--model" else 20
    console.logger.log(level, "model %s (%s)", choice.path, choice.source)
    return choice.path


def choose_device(name: str, threads: int | None) -> torch.device:
    """Set threads and return the device."""
    from seqkit.training.device import resolve_device, set_up_cpu

    set_up_cpu(threads)
    return resolve_device(name)


def merge_options(
    own: OptionsT, recipe: str | None, section: str, flags: dict[str, object], *, command: str | None = None
) -> OptionsT:
    """Options by precedence: a flag, else the section of ``--recipe``, else the model's own recipe, else defaults.

    Args:
        own: The section of the model's own recipe.
        recipe: What ``--recipe`` names, if anything.
        section: The section's name.
        flags: What the user typed; ``None`` where nothing.
        command: The command's words, where they are not the section's name.

    Raises:
        UsageError: A flag's value is out of range.
    """
    base = own
    if recipe is not None:
        from seqkit.recipe.loading import load_section

        base = load_section(recipe, section, type(own))
    given = {key: value for key, value in flags.items() if value is not None}
    values = {**base.model_dump(), **given}
    try:
        return type(own).model_validate(values)
    except ValidationError as error:
        from seqkit.recipe.explain import explain
        from seqkit.recipe.faults import Origins

        fault = explain(error, type(own), values, Origins(source=section, places={}))[0]
        flag = "--" + str(fault.path[0]).replace("_", "-") if fault.path else section
        raise UsageError(f"{flag}: {fault.message}", hint=f"seqkit {command or section} --help") from None
