"""The folder of one run: who may start, continue or skip it, and the files it always has.

``recipe.yaml`` (as given), ``resolved.yaml``, ``run.json``, ``metrics.jsonl``, ``log.txt``, ``checkpoints/``, the
links ``last`` and ``best``. ``run.json`` is written last at the start: a folder that has one is a run.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from seqkit.atomic import atomic_write, write_text_atomic
from seqkit.errors import CheckpointError, InterruptedRunError, SeqkitError, UsageError
from seqkit.runs import record as run_record
from seqkit.runs import step_folders
from seqkit.runs.lock import LOCK_NAME, run_lock
from seqkit.runs.metrics_log import MetricsLog

RECIPE_NAME = "recipe.yaml"
RESOLVED_NAME = "resolved.yaml"
LOG_NAME = "log.txt"

RunState = Literal["new", "resumed", "complete"]
"""new: nothing was trained here; resumed: a run to go on with; complete: nothing is left to do."""

_STARTED_FILES = {RECIPE_NAME, RESOLVED_NAME, LOG_NAME, run_record.METRICS_NAME, step_folders.CHECKPOINTS_NAME}
TEMPORARY_FILE = re.compile(r"\.(recipe\.yaml|resolved\.yaml|run\.json|metrics\.jsonl)\..+\.tmp")
"""What a process that was killed while it replaced a file leaves beside it."""

GENERATED_NAME = re.compile(r"\d{8}T\d{6}Z-[a-z0-9]{4}")
"""What :func:`new_run_path` calls a run folder."""

_WRONG_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}

_CLAIM_ATTEMPTS = 5

_logger = logging.getLogger(__name__)


class RunFolder:
    """A run folder that this process holds the lock of; made by :meth:`create` or :meth:`claim`.

    Use it in a ``with`` block. A block that ends by an error before :meth:`start` leaves nothing behind where there
    was nothing; one that ends by an error after it records how (unless :meth:`finish` did).

    Attributes:
        path: The folder.
        state: What was found in it.
    """

    def __init__(self, path: Path, state: RunState, made: Sequence[Path], lock: ExitStack) -> None:
        self.path = path
        self.state = state
        self._made = made
        self._lock = lock
        self._record: dict[str, Any] | None = None

    @classmethod
    def create(cls, runs_dir: Path, recipe_name: str) -> RunFolder:
        """Make and lock ``runs_dir/recipe_name/<UTC time>-<id>/``.

        Raises:
            UsageError: No folder can be made there.
        """
        return cls.claim(new_run_path(runs_dir, recipe_name), resume=False)

    @classmethod
    def claim(cls, path: Path, *, resume: bool) -> RunFolder:
        """Lock a folder that the user named, made if missing, and see what is to be done in it.

        Args:
            path: The run folder.
            resume: Whether a run that is already there is to be continued.

        Raises:
            UsageError: It is not empty (without ``resume``), or full of something else than a run.
            LockedError: Another process works in it; nothing was changed.
            CheckpointError: Its ``run.json`` is damaged.
        """
        for _ in range(_CLAIM_ATTEMPTS - 1):
            try:
                return cls._claim(path, resume=resume)
            except (UsageError, FileNotFoundError):
                # Another process may just have given up on a new run, and removed its folder under us.
                if path.exists():
                    raise
        return cls._claim(path, resume=resume)

    @classmethod
    def _claim(cls, path: Path, *, resume: bool) -> RunFolder:
        if not (path / LOCK_NAME).exists():
            # Someone else's folder must not even get a lock file.
            check_run_place(path, resume=resume)
        made = _make_folders(path)
        lock = ExitStack()
        try:
            lock.enter_context(run_lock(path))
            state = _check_content(path, resume=resume)
            _remove_temporary_files(path)
            step_folders.recover(path)
        except BaseException:
            lock.close()
            _remove_folders(made)
            raise
        return cls(path, state, made, lock)

    @property
    def metrics_path(self) -> Path:
        """Where :meth:`open_metrics` writes."""
        return self.path / run_record.METRICS_NAME

    @property
    def log_path(self) -> Path:
        """For a copy of the messages on stderr; the caller writes it."""
        return self.path / LOG_NAME

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says now.

        Raises:
            CheckpointError: The run has not started, or the file is damaged.
        """
        return self._record if self._record is not None else run_record.read_record(self.path)

    def resolved_recipe(self) -> str:
        """The resolved recipe that an existing run was started with, to compare with the one given now.

        Raises:
            CheckpointError: The file is missing or no text.
        """
        path = self.path / RESOLVED_NAME
        try:
            return path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error

    def start(
        self,
        *,
        recipe: bytes,
        resolved: str,
        recipe_name: str,
        task: str,
        model: str,
        seed: int,
        device: str,
        command: Sequence[str],
    ) -> None:
        """Write the recipe and ``run.json`` of a new run, or note in ``run.json`` that an old one goes on.

        Args:
            recipe: The recipe file, byte for byte.
            resolved: The same with every default and override written out.
            recipe_name: What ``runs ls`` calls it.
            task: Such as ``lm``.
            model: The model in a few words, such as ``lstm 1×512``.
            seed: The seed, given or drawn.
            device: Such as ``cpu`` or the name of a GPU.
            command: The words of the command line.
        """
        assert self.state != "complete", "a complete run cannot start again"
        if self.state == "resumed":
            written = run_record.resumed_record(self.record(), self.path, device=device, command=command)
        else:
            (self.path / step_folders.CHECKPOINTS_NAME).mkdir(exist_ok=True)
            with atomic_write(self.path / RECIPE_NAME) as file:
                file.write(recipe)
            write_text_atomic(self.path / RESOLVED_NAME, resolved)
            written = run_record.first_record(
                recipe_name=recipe_name, task=task, model=model, seed=seed, device=device, command=command
            )
        run_record.write_record(self.path, written)
        self._record = written

    def finish(self, status: run_record.Status, exit_code: int, extra: Mapping[str, Any] | None = None) -> None:
        """Note in ``run.json`` how the run ended.

        Args:
            status: Anything but ``running``.
            exit_code: What the command will exit with.
            extra: More for ``run.json``: ``best`` (``{"step": …, "loss": …}`` or ``bleu``), ``metrics``, ...
        """
        assert self._record is not None, "start() comes before finish()"
        self._record = run_record.finished_record(self._record, status=status, exit_code=exit_code, extra=extra or {})
        run_record.write_record(self.path, self._record)

    def open_metrics(self) -> MetricsLog:
        """The log of reports, to append to."""
        return MetricsLog(self.metrics_path)

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint, which is always complete; what a killed process left half-done is cleaned up."""
        step_folders.recover(self.path)
        return next(reversed(step_folders.list_steps(self.path)), None)

    def move_link(self, link: step_folders.LinkName, step: int) -> None:
        """Point ``last`` or ``best`` at an existing checkpoint.

        :func:`seqkit.runs.checkpoint.write_checkpoint` does it too; a resumed run repeats it, because its
        predecessor may have been killed between the checkpoint and the link.
        """
        step_folders.move_link(self.path, link, step)

    def prune(self, keep_last: int, *, also: Collection[int] = ()) -> list[Path]:
        """Delete all but the newest ``keep_last`` checkpoints, ``last``, ``best`` and the steps ``also``.

        Returns:
            The deleted ones.
        """
        return step_folders.prune(self.path, keep_last, also=also)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self.path / step_folders.CHECKPOINTS_NAME / step_folders.step_name(step)

    def discard(self) -> None:
        """Remove a new run, files and folders, as if it had never been claimed."""
        assert self.state == "new", "only a new run can be discarded"
        for name in _STARTED_FILES | {run_record.RECORD_NAME, *step_folders.LINK_NAMES}:
            _remove(self.path / name)
        self._record = None

    def close(self) -> None:
        """Let go of the lock; a new run that never started is removed."""
        if self.state == "new" and self._record is None:
            self.discard()
            # While the lock is held, so that nobody can have it meanwhile.
            _remove(self.path / LOCK_NAME)
        else:
            self._made = ()
        self._lock.close()
        if self._made:
            _remove_folders(self._made)
            self._made = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._record is not None and self._record["status"] == "running":
                self._record_failure(error)
        finally:
            self.close()

    def _record_failure(self, error: BaseException) -> None:
        exit_code = error.exit_code if isinstance(error, SeqkitError) else 1
        status: run_record.Status = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
        try:
            self.finish(status, exit_code, {"error": str(error)})
        except OSError as second:
            # The first error matters more: on a full disk both have the same cause.
            _logger.warning("%s: could not record how the run ended: %s", self.path, second)


def new_run_path(runs_dir: Path, recipe_name: str) -> Path:
    """Where a run that starts now would go, such as ``runs/lstm_charlm/20261120T101500Z-k3x7``; makes nothing."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    suffix = "".join(secrets.choice(alphabet) for _ in range(4))
    return runs_dir / recipe_name / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{suffix}"


def check_run_place(path: Path, *, resume: bool) -> None:
    """Check, without touching it, that a folder may be trained in.

    Raises:
        UsageError: It is a file; or not empty (without ``resume``), or full of something else than a run.
        CheckpointError: Its ``run.json`` is damaged.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: a file, where a run folder should be", hint="name another folder")
    if path.is_dir():
        _check_content(path, resume=resume)


def _check_content(path: Path, *, resume: bool) -> RunState:
    """What a run folder's content allows to do; raises UsageError if that is nothing."""
    names = {item.name for item in path.iterdir()} - {LOCK_NAME}
    if not resume:
        if names:
            is_run = run_record.RECORD_NAME in names
            hint = "--resume continues the run in it; else name another folder" if is_run else "name another folder"
            raise UsageError(f"{path}: this folder is not empty", hint=hint)
        return "new"
    if run_record.RECORD_NAME in names:
        return "complete" if run_record.read_record(path).get("status") == "completed" else "resumed"
    # A process killed before it wrote run.json leaves some of these.
    foreign = sorted(name for name in names if not is_of_a_start(name))
    if foreign:
        raise UsageError(
            f"{path}: this folder is not empty and holds no run (it has {foreign[0]})", hint="name another folder"
        )
    return "new"


def is_of_a_start(name: str) -> bool:
    """Whether a process that was killed before it wrote ``run.json`` may have left a file of this name."""
    return name in {*_STARTED_FILES, LOCK_NAME} or TEMPORARY_FILE.fullmatch(name) is not None


def _make_folders(path: Path) -> list[Path]:
    """Make a folder and its missing parents, all or none; returns those made, outermost first."""
    made: list[Path] = []
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another process was faster
            made.append(folder)
    except OSError as error:
        _remove_folders(made)
        kind = UsageError if error.errno in _WRONG_PLACE else SeqkitError
        raise kind(
            f"{path}: cannot make this run folder: {error.strerror} ({error.filename})",
            hint="choose another place with --run-dir or --runs-dir",
        ) from error
    return made


def _remove_folders(made: Sequence[Path]) -> None:
    """Remove folders that are empty, innermost first."""
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:
            return


def _remove_temporary_files(path: Path) -> None:
    """Remove what a process killed while it replaced a file left beside it."""
    for item in path.iterdir():
        if TEMPORARY_FILE.fullmatch(item.name):
            item.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
