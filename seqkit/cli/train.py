"""``seqkit train``: from a recipe to a run folder."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqkit.cli import console, signals
from seqkit.cli.command import Json, command
from seqkit.cli.completion import complete_override_key, complete_recipe
from seqkit.cli.progress import EncodingLog, TrainingDisplay
from seqkit.cli.streams import write_result
from seqkit.cli.train_report import (
    describe_budget,
    describe_model,
    describe_place,
    describe_precision,
    planned_steps,
    print_going_on,
    print_headline,
)
from seqkit.cli.wording import format_seconds
from seqkit.errors import MissingDataError, RecipeError, UsageError
from seqkit.leftovers import scratch_folder

if TYPE_CHECKING:
    from seqkit.cli.train_together import Lead
    from seqkit.recipe.loading import LoadedRecipe
    from seqkit.recipe.recipe_types import Recipe
    from seqkit.runs.folder import RunFolder
    from seqkit.training.prepared import Prepared

_EXAMPLES = """\
seqkit train recipes/lstm_charlm.yaml
seqkit train lstm_charlm --set model.d_model=512 --set train.max_minutes=10
seqkit train mine.yaml --devices 2
seqkit train mine.yaml --run-dir runs/nightly --resume --lock nightly.lock -q
seqkit train finetune.yaml --init-from runs/mine/20261120T101500Z-k3x7
seqkit train mine.yaml --dry-run"""


def register(app: typer.Typer) -> None:
    """Add ``train`` to the command tree."""

    @command(app, "train", examples=_EXAMPLES, no_args_is_help=True)
    def train(
        recipe: Annotated[
            str,
            typer.Argument(
                metavar="RECIPE",
                help="A file, - for stdin, or a shipped recipe's name.",
                autocompletion=complete_recipe,
            ),
        ],
        overrides: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="KEY=VALUE",
                help="Override a key; repeatable.",
                autocompletion=complete_override_key,
            ),
        ] = None,
        run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Train in this folder.")] = None,
        resume: Annotated[
            bool, typer.Option("--resume", help="Start, continue, or do nothing if complete; needs --run-dir.")
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Check everything, try one step, write nothing.")
        ] = False,
        init_from: Annotated[
            Path | None,
            typer.Option("--init-from", help="Start from this model's weights; same as --set train.init_from=FOLDER."),
        ] = None,
        seed: Annotated[int | None, typer.Option("--seed", min=0, help="Same as --set seed=N.")] = None,
        device: Annotated[
            str | None,
            typer.Option(
                "--device", envvar="SEQKIT_DEVICE", help="auto, cpu, cuda, cuda:N or mps; wins over the recipe."
            ),
        ] = None,
        devices: Annotated[
            int | None,
            typer.Option(
                "--devices",
                min=1,
                metavar="N",
                help="Train in N processes on this machine, each with a GPU of its own or a part of the CPU's cores; "
                "the batch stays as large as the recipe says. For several machines: torchrun … -m seqkit train.",
            ),
        ] = None,
        peer_timeout: Annotated[
            float,
            typer.Option(
                "--peer-timeout", min=5, metavar="SECONDS", help="Give up on another process that does not answer."
            ),
        ] = 600.0,
        log_every: Annotated[
            int | None, typer.Option("--log-every", min=1, help="Same as --set train.log_every=N.")
        ] = None,
        threads: Annotated[
            int | None, typer.Option("--threads", min=1, help="CPU threads; wins over the recipe.")
        ] = None,
        runs_dir: Annotated[
            Path | None,
            typer.Option("--runs-dir", envvar="SEQKIT_RUNS_DIR", help="Where run folders are made (runs)."),
        ] = None,
        cache_dir: Annotated[
            Path | None, typer.Option("--cache-dir", envvar="SEQKIT_CACHE_DIR", help="Where token stores are kept.")
        ] = None,
        lock: Annotated[
            Path | None, typer.Option("--lock", help="Hold this lock file meanwhile; exit 75 if another has it.")
        ] = None,
        lock_wait: Annotated[float, typer.Option("--lock-wait", min=0, help="Seconds to wait for the lock.")] = 0.0,
        json_output: Json = False,
    ) -> None:
        """Train a model as a recipe says; prints the run folder last."""
        from seqkit.cli import train_together
        from seqkit.recipe.loading import load_recipe
        from seqkit.runs.folder import RunFolder, check_run_place, new_run_path
        from seqkit.runs.lock import file_lock
        from seqkit.runs.places import cache_dir as cache_place
        from seqkit.runs.places import runs_dir as runs_place
        from seqkit.training.processes import place_from_environment

        cache = cache_place(cache_dir)
        place = place_from_environment()
        if place is not None and not place.is_leader:
            train_together.follow(place, device=device, threads=threads, cache=cache, timeout_s=peer_timeout)
            return
        words = _follower_words(recipe, device=device, threads=threads, cache=cache, timeout_s=peer_timeout)
        lead = train_together.lead(place, devices, words, timeout_s=peer_timeout, resumes=resume)
        changes = list(overrides or [])
        if seed is not None:
            changes.append(f"seed={seed}")
        if init_from is not None:
            changes.append(f"train.init_from={json.dumps(str(init_from), ensure_ascii=False)}")
        if log_every is not None:
            changes.append(f"train.log_every={log_every}")
        if resume and run_dir is None:
            raise UsageError("--resume needs --run-dir: which run is to go on?")
        with ExitStack() as stack:
            if lead is not None:
                stack.enter_context(lead)
            loaded = load_recipe(recipe, overrides=changes)
            _require_data(loaded)
            if dry_run:
                # Without the locks: they are files too.
                if run_dir is not None:
                    check_run_place(run_dir, resume=resume)
                run_path = run_dir or new_run_path(runs_place(runs_dir), loaded.name)
                _dry_run(loaded, run_path, lead, device=device, threads=threads, json_output=json_output)
                return
            if lock is not None:
                stack.enter_context(file_lock(lock, lock_wait))
            if run_dir is not None:
                run = stack.enter_context(RunFolder.claim(run_dir, resume=resume))
            else:
                run = stack.enter_context(RunFolder.create(runs_place(runs_dir), loaded.name))
            settled = _settle_recipe(loaded, run)
            if run.state == "complete":
                console.logger.info("%s is complete; nothing to do", run.path)
                _print_result(run.path, run.record().get("metrics", {}), json_output)
                return
            again = ["seqkit", "train", recipe, *(f"--set={change}" for change in changes)]
            again += ["--run-dir", str(run.path), "--resume", *(["--devices", str(devices)] if devices else [])]
            from seqkit.training.device import flushing_denormals

            stack.enter_context(flushing_denormals())
            metrics = _train(
                loaded,
                settled,
                run,
                lead,
                device=device,
                threads=threads,
                cache=cache,
                how_to_resume=shlex.join(again),
            )
            _print_result(run.path, metrics, json_output)


def _require_data(loaded: LoadedRecipe) -> None:
    """Check that every named text and tokenizer is there, and point at its line in the recipe if not."""
    from seqkit.data.readers import open_source
    from seqkit.recipe.keys import walk
    from seqkit.recipe.mixtures import has_mappings
    from seqkit.tokenizers.registry import made_before

    values = loaded.recipe.model_dump()
    for path, slot, value in walk(type(loaded.recipe), values):
        if not slot.is_data_source or value is None or has_mappings(value):
            continue
        try:
            open_source(value)
        except MissingDataError as error:
            raise RecipeError([f"{loaded.locate(*path)}: {error.message}"], hint=error.hint) from None
    for key in ("tokenizer", "target_tokenizer"):
        config = getattr(loaded.recipe, key, None)
        try:
            if config is not None:
                made_before(config)
        except (MissingDataError, UsageError) as error:
            raise RecipeError([f"{loaded.locate(key, 'path')}: {error.message}"], hint=error.hint) from None


def _settle_recipe(loaded: LoadedRecipe, run: RunFolder) -> Recipe:
    """The recipe with its seed drawn; of a run that goes on, checked to be the one it began with."""
    import secrets

    from seqkit.recipe.loading import differing_keys, recipe_from_resolved

    recipe = loaded.recipe
    if run.state == "new":
        return recipe if recipe.seed is not None else recipe.model_copy(update={"seed": secrets.randbelow(2**31)})
    old = recipe_from_resolved(run.resolved_recipe(), source=f"{run.path}/resolved.yaml")
    if recipe.seed is None:
        recipe = recipe.model_copy(update={"seed": old.seed})
    changed = differing_keys(old, recipe)
    if changed:
        raise RecipeError(
            [f"{run.path}: the recipe has changed since this run began: {change}" for change in changed],
            hint="change it back, or start another run with another --run-dir",
        )
    return old


def _train(
    loaded: LoadedRecipe,
    recipe: Recipe,
    run: RunFolder,
    lead: Lead | None,
    *,
    device: str | None,
    threads: int | None,
    cache: Path,
    how_to_resume: str,
) -> dict[str, Any]:
    """Run the session, showing its events; return the final metrics."""
    from seqkit.recipe.loading import resolve_recipe_text
    from seqkit.runs.checkpoint import read_checkpoint
    from seqkit.runs.measures import show_score
    from seqkit.tasks.registry import prepare
    from seqkit.training.device import resolve_device, set_up_cpu
    from seqkit.training.events import Averaged, Evaluated, Reported, Saved, Ticked
    from seqkit.training.resuming import check_same_inputs
    from seqkit.training.session import Session
    from seqkit.training.setup import make_state

    place = resolve_device(device or recipe.train.device)
    if lead is not None:
        place = lead.device(place)
    set_up_cpu(threads or recipe.train.threads, num_processes=1 if lead is None else lead.local_size)
    seed = recipe.seed
    assert seed is not None
    text = resolve_recipe_text(recipe)

    def make() -> Prepared:
        return prepare(recipe, cache, seed=seed, on_progress=EncodingLog())

    prepared = make() if lead is None else lead.prepare(text, make)
    latest = run.latest_checkpoint() if run.state == "resumed" else None
    checkpoint = read_checkpoint(latest) if latest is not None else None
    if checkpoint is not None:
        check_same_inputs(prepared, checkpoint, run.path)
    team = lead.connect(recipe, place, checkpoint) if lead is not None else None
    state, choice = make_state(prepared, recipe, seed=seed, device=place, checkpoint=checkpoint, team=team)
    if latest is not None:
        # The last process may have been killed between a checkpoint and the links to it.
        run.move_link("last", state.progress.step)
        if state.progress.best_step is not None:
            run.move_link("best", state.progress.best_step)
    run.start(
        recipe=loaded.text,
        resolved=text,
        recipe_name=loaded.name,
        task=recipe.task,
        model=describe_model(recipe),
        seed=seed,
        device=describe_place(recipe, place, lead),
        command=["seqkit", *sys.argv[1:]],
    )
    with console.log_file(run.log_path):
        print_headline(recipe, prepared, state, choice, describe_place(recipe, place, lead), run)
        if checkpoint is not None:
            print_going_on(checkpoint, state, 1 if lead is None else lead.size)
        session = Session(
            prepared,
            recipe,
            text,
            state,
            run,
            stop=signals.received,
            how_to_resume=how_to_resume,
            team=team,
        )
        watch = nullcontext() if lead is None else lead.watching(run, how_to_resume)
        with signals.deferred(), watch, TrainingDisplay(prepared.unit) as display:
            for event in session.events():
                match event:
                    case Ticked():
                        display.ticked(event)
                    case Reported():
                        display.reported(event)
                    case Evaluated():
                        display.evaluated(event)
                    case Saved():
                        display.saved(event)
                    case Averaged():
                        display.averaged(event)
        metrics = session.final_metrics
        by = metrics["best_by"]
        best = {"step": metrics["best_step"], by: metrics[f"best_{by}"]}
        run.finish("completed", 0, {"best": best, "metrics": metrics})
        console.logger.info(
            "done in %s · best valid %s%s at step %s",
            format_seconds(metrics["elapsed"]),
            show_score(by, metrics[f"best_{by}"]),
            f" nats/{prepared.unit}" if by == "loss" else "",
            f"{metrics['best_step']:,}",
            extra={"event": "done", "fields": metrics},
        )
    return metrics


def _dry_run(
    loaded: LoadedRecipe,
    run_path: Path,
    lead: Lead | None,
    *,
    device: str | None,
    threads: int | None,
    json_output: bool,
) -> None:
    """Prepare everything in a temporary cache, build the model, try one step, and print what training would do."""
    from seqkit.cli.train_together import check_rows
    from seqkit.models.build import count_parameters
    from seqkit.tasks.registry import prepare
    from seqkit.training.device import resolve_device, set_up_cpu
    from seqkit.training.setup import make_state, try_step

    recipe = loaded.recipe
    where = resolve_device(device or recipe.train.device)
    if lead is not None:
        where = lead.device(where)
    set_up_cpu(threads or recipe.train.threads, num_processes=1 if lead is None else lead.local_size)
    with scratch_folder("dry-run") as cache:
        prepared = prepare(recipe, cache, seed=recipe.seed or 0)
        if lead is not None:
            check_rows(prepared, lead.size)
        state, choice = make_state(prepared, recipe, seed=recipe.seed or 0, device=where, checkpoint=None)
        try_step(state, prepared)
        num_parameters = count_parameters(state.model)
        facts = {
            "task": recipe.task,
            "model": describe_model(recipe),
            "num_parameters": num_parameters,
            "data": prepared.describe_data(),
            "batches_per_epoch": prepared.batches.num_batches(0),
            "budget": describe_budget(recipe),
            "num_steps": planned_steps(recipe, prepared.batches.num_batches(0)),
            "device": describe_place(recipe, where, lead),
            "precision": describe_precision(state, choice),
            "run_dir": str(run_path),
        }
        # Before the folder goes: a thread may be making something in it for a next epoch, and ends with these.
        del state, prepared
    if json_output:
        write_result(json.dumps(facts, ensure_ascii=False))
        return
    for key, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else "until the budget is spent" if value is None else value
        write_result(f"{key:<18} {shown}")


def _print_result(path: Path, metrics: dict[str, Any], json_output: bool) -> None:
    if json_output:
        write_result(json.dumps({"run_dir": str(path), "metrics": metrics}, ensure_ascii=False))
    else:
        write_result(str(path))


def _follower_words(
    recipe: str, *, device: str | None, threads: int | None, cache: Path, timeout_s: float
) -> list[str]:
    """The command line of a process that ``--devices`` starts; the recipe itself comes from the leader."""
    words = ["train", recipe, "--cache-dir", str(cache), "--peer-timeout", str(timeout_s), "-q"]
    if device is not None:
        words += ["--device", device]
    if threads is not None:
        words += ["--threads", str(threads)]
    return words
