"""``seqkit average``: one model whose weights are the mean of several checkpoints' weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqkit.cli import console
from seqkit.cli.command import Json, command
from seqkit.cli.streams import write_result
from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.training.checkpoint_average import AveragedCheckpoints

_EXAMPLES = """\
seqkit average runs/deen/20261120T101500Z-k3x7 -o averaged           # all that the run kept
seqkit average runs/deen/20261120T101500Z-k3x7 --best 5 -o averaged
seqkit average one/checkpoints/step-00004000 two/checkpoints/step-00004000 -o averaged
seqkit translate --model averaged < input.de"""


def register(app: typer.Typer) -> None:
    """Add ``average`` to the command tree."""

    @command(app, "average", examples=_EXAMPLES, no_args_is_help=True)
    def average(
        sources: Annotated[
            list[Path], typer.Argument(metavar="RUN|CHECKPOINT...", help="One run folder, or checkpoint folders.")
        ],
        output: Annotated[
            Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the new model goes.")
        ] = None,
        last: Annotated[int | None, typer.Option("--last", min=2, help="The last N checkpoints of the run.")] = None,
        best: Annotated[
            int | None, typer.Option("--best", min=2, help="The N checkpoints of the run that validated best.")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace a model that is in FOLDER.")] = False,
        json_output: Json = False,
    ) -> None:
        """Average the weights of checkpoints into one model, for --model; prints its folder.

        Without --last or --best it takes all checkpoints that the run kept. The average has no validation scores of
        its own until `seqkit evaluate --model FOLDER` finds them, and training does not go on from it.
        """
        from seqkit.runs.checkpoint import check_model_place, write_model_folder
        from seqkit.training.checkpoint_average import average_checkpoints

        if output is None:
            raise UsageError("where should the average go? give --output FOLDER", hint="-o averaged")
        check_model_place(output, replace=force)
        folders = _chosen(sources, last=last, best=best)
        averaged = average_checkpoints(folders)
        if averaged.differences:
            console.logger.warning(
                "the checkpoints were trained by different recipes (%s); an average is of use only where all went on "
                "from the same weights",
                "; ".join(averaged.differences),
            )
        newest = averaged.newest
        facts = _facts(averaged)
        write_model_folder(
            output,
            weights=averaged.weights,
            tokenizers=newest.tokenizers,
            recipe=newest.recipe,
            facts=facts,
            replace=force,
        )
        steps = ", ".join(f"{member['step']:,}" for member in facts["averaged"])
        console.logger.info("averaged %d checkpoints (steps %s)", len(folders), steps)
        if json_output:
            told = {"path": str(output), "task": facts.get("task"), "averaged": facts["averaged"]}
            write_result(json.dumps(told, ensure_ascii=False))
        else:
            write_result(str(output))


def _chosen(sources: list[Path], *, last: int | None, best: int | None) -> list[Path]:
    """The checkpoint folders to average, oldest first where they are of one run.

    Raises:
        UsageError: The words do not go together, or do not come to two checkpoints.
    """
    from seqkit.runs.selection import best_checkpoints, is_run, last_checkpoints, single_checkpoints

    for path in sources:
        if not path.is_dir():
            raise UsageError(f"{path}: {'a file, not a folder' if path.exists() else 'no such folder'}")
    if last is not None and best is not None:
        raise UsageError("give --last or --best, not both")
    runs = [path for path in sources if is_run(path)]
    if not runs:
        if last is not None or best is not None:
            flag = "--last" if last is not None else "--best"
            raise UsageError(f"{flag} chooses among the checkpoints of a run; {sources[0]} is none")
        if len({path.resolve() for path in sources}) < len(sources):
            raise UsageError("a checkpoint is named twice; each counts once in an average")
        if len(sources) == 1:
            raise UsageError(f"{sources[0]}: one checkpoint is its own average", hint="name a run, or several of them")
        return sources
    if len(sources) > 1:
        raise UsageError(
            f"{runs[0]} is a run: give it alone, or name its checkpoints", hint=f"{runs[0]}/checkpoints/step-..."
        )
    if last is not None:
        return last_checkpoints(runs[0], last)
    if best is not None:
        return best_checkpoints(runs[0], best)
    kept = single_checkpoints(runs[0])
    # Two at least, or the message says how many there are.
    return last_checkpoints(runs[0], max(2, len(kept)))


def _facts(averaged: AveragedCheckpoints) -> dict[str, Any]:
    """``model.json``: that of the newest checkpoint, without scores, and what was averaged."""
    members = [
        {"path": str(member.path), "step": member.facts.get("step"), "scores": member.facts.get("scores", {})}
        for member in averaged.members
    ]
    steps = [member["step"] for member in members]
    return {**averaged.newest.facts, "is_averaged": True, "averaged_steps": steps, "averaged": members, "scores": {}}
