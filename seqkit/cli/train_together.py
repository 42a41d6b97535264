"""Training in several processes: what the leader does besides training, and the followers' whole life.

``seqkit train --devices N`` starts followers on this machine; under ``torchrun`` they are there already.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from seqkit.cli import console, signals
from seqkit.errors import NonFiniteLossError, SeqkitError, UsageError
from seqkit.training.processes import Followers, Place

if TYPE_CHECKING:
    import torch

    from seqkit.recipe.recipe_types import Recipe
    from seqkit.runs.checkpoint import Checkpoint
    from seqkit.runs.folder import RunFolder
    from seqkit.training.distributed import Team
    from seqkit.training.meeting import Meeting
    from seqkit.training.prepared import Prepared

_GRACE_S = 20.0
"""What the leader's main thread has to notice by itself that a follower is gone."""
_FAREWELL_S = 10.0
"""What followers have to end by themselves when all is done."""


class Lead:
    """The leader's side of a training in several processes; use it in a ``with`` block, which ends the others.

    Args:
        place: The leader's place, if ``torchrun`` started it.
        followers: The processes to start, if there is no ``torchrun``.
        timeout_s: How long to wait for a process that does not answer.
    """

    def __init__(self, *, place: Place | None, followers: Followers | None, timeout_s: float) -> None:
        self._place = place
        self._followers = followers
        self._timeout_s = timeout_s
        self._meeting: Meeting | None = None
        self._has_called = False
        self._team: Team | None = None

    @property
    def size(self) -> int:
        """How many processes there are."""
        known = self._place or self._followers
        assert known is not None
        return known.size

    @property
    def local_size(self) -> int:
        """How many of them are on this machine."""
        return self.size if self._place is None else self._place.local_size

    def device(self, device: torch.device) -> torch.device:
        """The leader's device.

        Raises:
            UsageError: Not every process can have one.
        """
        from seqkit.training.distributed import team_device

        return team_device(device, rank=0 if self._place is None else self._place.local_rank, size=self.local_size)

    def prepare(self, recipe_text: str, make: Callable[[], Prepared]) -> Prepared:
        """Start the followers, and prepare the data in all processes.

        Args:
            recipe_text: The resolved recipe.
            make: Prepares the data here.

        Raises:
            UsageError: They do not all have the same data, or there are too few columns for all.
            OtherProcessError: One of them failed.
        """
        self._meet().tell("start", {"recipe": recipe_text})
        return _prepare_in_turn(self._meet(), make)

    def connect(self, recipe: Recipe, device: torch.device, checkpoint: Checkpoint | None) -> Team:
        """Connect all processes for computing, and hand them what the run goes on from."""
        meeting = self._meet()
        meeting.tell("connect", {})
        self._team = _team(meeting, recipe, device, self._timeout_s)
        _share_checkpoint(self._team, checkpoint)
        return self._team

    @contextmanager
    def watching(self, run: RunFolder, how_to_resume: str) -> Iterator[None]:
        """Inside, another process that fails ends the run with one line that says which, and how to go on."""
        from seqkit.training.meeting import OtherProcessError

        def give_up(what: str) -> None:
            # The main thread waits in a place that nothing but the end of the process reaches.
            message = f"{what}; {_last_checkpoint(run)}"
            console.report_error([message], hint=how_to_resume, exit_code=1)
            run.finish("failed", 1, {"error": message})
            os._exit(1)

        if self._followers is not None:
            self._followers.watch(give_up, grace_s=_GRACE_S)
        try:
            with _explaining(self._meet()):
                yield
        except OtherProcessError as error:
            told = OtherProcessError(f"{error.message}; {_last_checkpoint(run)}", hint=how_to_resume)
            told.exit_code = error.exit_code
            raise told from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_code = error.exit_code if isinstance(error, SeqkitError) else 0 if error is None else 1
        is_orderly = error is None or (isinstance(error, SeqkitError) and not _is_of_another(error))
        if self._followers is not None:
            self._followers.expect_end()
        try:
            if isinstance(error, RuntimeError) and self._meeting is not None:
                # Before training; in it, `watching` has done that.
                self._meeting.explain(error)
            # Those that torchrun has started are there, and wait to be told, even if nothing was begun.
            if self._meeting is not None or (self._followers is None and not self._has_called):
                self._meet().end(exit_code)
            if self._team is not None and is_orderly:
                self._team.end(exit_code)
                self._team.close()
        except (RuntimeError, SeqkitError) as second:
            # Whoever is gone need not be told.
            is_orderly = False
            if isinstance(error, RuntimeError) and _is_of_another(second):
                raise second from None
        finally:
            if self._followers is not None:
                self._followers.end(patience_s=_FAREWELL_S if is_orderly else 0.0)

    def _meet(self) -> Meeting:
        from seqkit.training.meeting import Meeting

        if self._meeting is None:
            self._has_called = True
            if self._followers is not None:
                self._place = self._followers.start()
                self._meeting = Meeting(self._place, timeout_s=self._timeout_s, lost=self._followers.failure)
            else:
                assert self._place is not None
                self._meeting = Meeting(self._place, timeout_s=self._timeout_s)
        return self._meeting


def lead(
    place: Place | None, devices: int | None, words: Sequence[str], *, timeout_s: float, resumes: bool
) -> Lead | None:
    """The leader's side of a training in several processes, or None if this one is alone.

    Args:
        place: What ``torchrun`` says.
        devices: What ``--devices`` says.
        words: The command line of a follower.
        timeout_s: How long to wait for a process that does not answer.
        resumes: Whether ``--resume`` was given.

    Raises:
        UsageError: Both say something.
    """
    if place is not None:
        if devices is not None:
            raise UsageError(
                f"--devices {devices} under torchrun, which has started {place.size} processes",
                hint="leave --devices out",
            )
        if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and not resumes:
            console.logger.warning("without --run-dir and --resume, a restart by torchrun begins from the start")
        return Lead(place=place, followers=None, timeout_s=timeout_s)
    if devices is None or devices == 1:
        return None
    return Lead(place=None, followers=Followers(devices, words), timeout_s=timeout_s)


def follow(place: Place, *, device: str | None, threads: int | None, cache: Path, timeout_s: float) -> None:
    """Do what the leader says until it says that all is done.

    Raises:
        typer.Exit: With the leader's exit code, where that is not 0.
        SeqkitError: Something is wrong here, and no leader on this machine will tell.
    """
    from seqkit.training.meeting import Meeting

    # The leader has the same to say.
    logging.getLogger("seqkit").setLevel(logging.ERROR)
    meeting = Meeting(place, timeout_s=timeout_s)
    # Around all that asks the leader anything: it may have fallen silent.
    with _ending_with_leader(meeting, timeout_s) as note_end:
        code = _follow_and_tell(meeting, note_end, device=device, threads=threads, cache=cache, timeout_s=timeout_s)
    if code:
        raise typer.Exit(code)


def _follow_and_tell(
    meeting: Meeting,
    note_end: Callable[[int], None],
    *,
    device: str | None,
    threads: int | None,
    cache: Path,
    timeout_s: float,
) -> int:
    """A follower's work, and its last word to the others if it cannot go on; returns its exit code."""
    from seqkit.training.meeting import OtherProcessError, OverError

    is_heard = meeting.place.store is not None
    try:
        with _explaining(meeting):
            return _follow(meeting, note_end, device=device, threads=threads, cache=cache, timeout_s=timeout_s)
    except OverError as error:
        return error.exit_code
    except NonFiniteLossError as error:
        # All have the same loss.
        return error.exit_code
    except OtherProcessError as error:
        if not is_heard:
            raise
        return error.exit_code
    except SeqkitError as error:
        meeting.fail(error)
        if not is_heard:
            raise
        return error.exit_code
    except Exception as error:
        meeting.fail(SeqkitError(f"{type(error).__name__}: {error}", hint="its traceback is above"))
        raise


@contextmanager
def _ending_with_leader(meeting: Meeting, timeout_s: float) -> Iterator[Callable[[int], None]]:
    """Inside, a follower ends soon after its leader, wherever it waits; yields what is to be told the leader's last."""
    if meeting.place.store is not None:
        # It has a pipe for that.
        yield lambda exit_code: None
        return
    from seqkit.training.leader_watch import LeaderWatch, News
    from seqkit.training.meeting import GONE_HINT

    def end(news: News) -> None:
        if news.message is not None:
            console.report_error([news.message], hint=GONE_HINT, exit_code=news.exit_code)
        # The main thread waits in a place that nothing but the end of the process reaches.
        os._exit(news.exit_code)

    ask = meeting.news_of_leader()
    with LeaderWatch(ask, end, grace_s=_FAREWELL_S, timeout_s=timeout_s) as watch:
        yield lambda exit_code: watch.note_end(News(None, exit_code))


def _follow(
    meeting: Meeting,
    note_end: Callable[[int], None],
    *,
    device: str | None,
    threads: int | None,
    cache: Path,
    timeout_s: float,
) -> int:
    """A follower's work; returns its exit code."""
    from seqkit.recipe.loading import recipe_from_resolved
    from seqkit.tasks.registry import prepare
    from seqkit.training.device import flushing_denormals, resolve_device, set_up_cpu
    from seqkit.training.distributed import team_device
    from seqkit.training.loop import budget_spent, train_steps
    from seqkit.training.setup import make_state

    place = meeting.place
    recipe = recipe_from_resolved(meeting.hear("start")["recipe"], source="the leader's recipe")
    seed = recipe.seed
    assert seed is not None
    where = resolve_device(device or recipe.train.device)
    where = team_device(where, rank=place.local_rank, size=place.local_size)
    set_up_cpu(threads or recipe.train.threads, num_processes=place.local_size)
    prepared = _prepare_in_turn(meeting, lambda: prepare(recipe, cache, seed=seed))
    meeting.hear("connect")
    team = _team(meeting, recipe, where, timeout_s)
    checkpoint = _share_checkpoint(team, None)
    with flushing_denormals():
        state, _ = make_state(prepared, recipe, seed=seed, device=where, checkpoint=checkpoint, team=team)
        if budget_spent(recipe.train, state.progress, prepared.batches) < 1:
            # What an epoch takes to be made is set-up here as in the leader.
            prepared.batches.num_batches(state.progress.epoch)
        with signals.deferred(announces=False):
            for _ in train_steps(state, prepared.batches, prepared.loss, recipe.train, clock=time.monotonic, team=team):
                pass
    assert team.exit_code is not None
    note_end(team.exit_code)
    team.close()
    return team.exit_code


def _prepare_in_turn(meeting: Meeting, make: Callable[[], Prepared]) -> Prepared:
    """Prepare the data: first in one process of each machine, which fills its cache, then in the others.

    Raises:
        UsageError: Of the leader: another process has other data; or there are too few columns for all.
    """
    place = meeting.place
    key = f"prepared {place.machine}"
    if place.local_rank == 0:
        prepared = make()
        meeting.tell(key, True)
    else:
        meeting.hear(key)
        prepared = make()
    if not place.is_leader:
        meeting.tell(f"data {place.rank}", _digest(prepared))
        return prepared
    check_rows(prepared, place.size)
    own = _digest(prepared)
    for rank in range(1, place.size):
        if meeting.hear(f"data {rank}") != own:
            raise UsageError(
                f"process {rank} has other texts or tokenizers than process 0 under the same names",
                hint="give all machines the same files",
            )
    return prepared


def check_rows(prepared: Prepared, size: int) -> None:
    """Check that each process gets rows of its own where state is carried from batch to batch.

    Raises:
        UsageError: There are too few.
    """
    if not prepared.carries_state:
        return
    num_rows = prepared.batches.batch(0, 0).num_rows
    if num_rows < size:
        raise UsageError(
            f"batches of {num_rows} sequence{'s' if num_rows > 1 else ''} cannot be divided among {size} processes, "
            "for each sequence's state is carried on in one of them",
            hint="raise train.batch_size, or use fewer processes",
        )


def _digest(prepared: Prepared) -> str:
    """What tells data and tokenizers from others."""
    told = json.dumps([prepared.facts()["data"], sorted(prepared.tokenizer_files.items())], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _team(meeting: Meeting, recipe: Recipe, device: torch.device, timeout_s: float) -> Team:
    from seqkit.training.distributed import Team

    assert recipe.seed is not None
    team = Team(meeting.place, meeting, device, parallel=recipe.train.parallel, seed=recipe.seed, timeout_s=timeout_s)
    team.own_signal = signals.received
    return team


def _share_checkpoint(team: Team, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Hand the leader's checkpoint to all, so that only the leader must see the run folder."""
    from seqkit.runs.checkpoint import Checkpoint

    tree: Any = None
    if checkpoint is not None:
        tree = {"path": str(checkpoint.path), "weights": checkpoint.weights, "train_state": checkpoint.train_state}
    tree = team.share_tree(tree)
    if team.is_leader or tree is None:
        return checkpoint
    return Checkpoint(
        path=Path(tree["path"]),
        weights=tree["weights"],
        tokenizers={},
        recipe="",
        facts={},
        train_state=tree["train_state"],
    )


@contextmanager
def _explaining(meeting: Meeting) -> Iterator[None]:
    """Inside, an error of PyTorch's that another process caused is told as that."""
    try:
        yield
    except RuntimeError as error:
        meeting.explain(error)
        raise


def _is_of_another(error: Exception) -> bool:
    from seqkit.training.meeting import OtherProcessError

    return isinstance(error, OtherProcessError)


def _last_checkpoint(run: RunFolder) -> str:
    from seqkit.runs.step_folders import list_steps

    steps = list_steps(run.path)
    return f"the last checkpoint is {steps[-1]}" if steps else "no checkpoint was saved before"
