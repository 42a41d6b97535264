"""Processes forked to share some work.

They start in milliseconds with all that this process has loaded and cached, and end with it, however it ends. Each has
one request at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Final, Generic, TypeVar, cast

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

_STOPPING_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_NO_MORE: Final = object()


class WorkerLostError(Exception):
    """A worker is gone.

    Args:
        how: ``by SIGKILL``, ``with exit code 3``.
        request: What it was at.
    """

    def __init__(self, how: str, request: object = None) -> None:
        super().__init__(f"a worker process ended {how}")
        self.how = how
        self.request = request

    def at(self, request: object) -> WorkerLostError:
        """The error with what the worker was at."""
        return WorkerLostError(self.how, request)


@dataclass(frozen=True, slots=True)
class _Crash:
    """A worker's own exception."""

    trace: str


class Worker(Generic[RequestT, AnswerT]):
    """One process, and our end of the pipe to it.

    Args:
        process: The process.
        connection: Readable once its answer is there.
    """

    def __init__(self, process: ForkProcess, connection: Connection) -> None:
        self.connection = connection
        self._process = process

    def send(self, request: RequestT) -> None:
        """Have it begin.

        Raises:
            WorkerLostError: It is gone.
        """
        try:
            self.connection.send(request)
        except OSError:
            raise self._death() from None

    def receive(self) -> AnswerT:
        """Wait for its answer to the last request.

        Raises:
            WorkerLostError: It is gone.
            RuntimeError: The work raised; the message holds the worker's traceback.
        """
        try:
            answer: AnswerT | _Crash = self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if isinstance(answer, _Crash):
            raise RuntimeError(f"in a worker process\n{answer.trace}")
        return answer

    def kill(self) -> None:
        """End it now."""
        self.connection.close()
        self._process.kill()

    def join(self) -> None:
        """Wait for its end."""
        self._process.join()

    def _death(self) -> WorkerLostError:
        self._process.join(1.0)
        code = self._process.exitcode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return WorkerLostError(how)


def can_fork() -> bool:
    """Whether this system can."""
    return "fork" in multiprocessing.get_all_start_methods()


def start_workers(work: Callable[[RequestT], AnswerT], num_workers: int) -> list[Worker[RequestT, AnswerT]]:
    """Fork the workers; a signal that arrives meanwhile waits.

    Args:
        work: What each does with a request; both it and its answer are pickled on their way.
        num_workers: How many.
    """
    context = multiprocessing.get_context("fork")
    workers: list[Worker[RequestT, AnswerT]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING_SIGNALS)
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            others = [ours, *(worker.connection for worker in workers)]
            process = context.Process(target=_serve, args=(theirs, others, work), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of threads, which numerical libraries start; a worker uses none of theirs.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            workers.append(Worker(process, ours))
    except BaseException:
        stop_workers(workers)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return workers


def stop_workers(workers: Sequence[Worker[RequestT, AnswerT]]) -> None:
    """End the workers now; what they are working on is no longer wanted."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


@dataclass(eq=False, slots=True)
class Task(Generic[RequestT, AnswerT]):
    """A request that a worker was given."""

    request: RequestT
    _answers: list[AnswerT] = field(default_factory=list)
    """One, once it is there."""

    @property
    def is_done(self) -> bool:
        """Whether the answer is there."""
        return bool(self._answers)

    @property
    def answer(self) -> AnswerT:
        """The answer, of a task that is done."""
        return self._answers[0]

    def _finish(self, answer: AnswerT) -> None:
        self._answers.append(answer)


class Crew(Generic[RequestT, AnswerT]):
    """Workers, each of them free or at one task.

    Args:
        work: What each does with a request.
        num_workers: How many.
    """

    def __init__(self, work: Callable[[RequestT], AnswerT], num_workers: int) -> None:
        self._workers = start_workers(work, num_workers)
        self._free = list(self._workers)
        self._at: dict[Connection, tuple[Worker[RequestT, AnswerT], Task[RequestT, AnswerT]]] = {}

    @property
    def has_free(self) -> bool:
        """Whether some worker has nothing to do."""
        return bool(self._free)

    @property
    def is_busy(self) -> bool:
        """Whether some worker is at a task."""
        return bool(self._at)

    def begin(self, request: RequestT) -> Task[RequestT, AnswerT]:
        """Have a free worker begin.

        Raises:
            WorkerLostError: It is gone.
        """
        worker, task = self._free.pop(), Task[RequestT, AnswerT](request)
        try:
            worker.send(request)
        except WorkerLostError as error:
            raise error.at(request) from None
        self._at[worker.connection] = (worker, task)
        return task

    def wait(self, other: int | None = None, *, timeout: float | None = None) -> bool:
        """Wait until a worker is done, which then is free, or something else can be read.

        Args:
            other: A descriptor.
            timeout: Seconds, at most.

        Returns:
            Whether there is something to be read from ``other``.

        Raises:
            WorkerLostError: A worker is gone, in the middle of the ``request`` that the error names.
            RuntimeError: The work raised; the message holds the worker's traceback.
        """
        arrived = wait([*self._at, *([] if other is None else [other])], timeout)
        for connection in arrived:
            if isinstance(connection, Connection):
                worker, task = self._at.pop(connection)
                try:
                    task._finish(worker.receive())
                except WorkerLostError as error:
                    raise error.at(task.request) from None
                self._free.append(worker)
        return other in arrived

    def close(self) -> None:
        """End the workers now; what they are at is no longer wanted."""
        stop_workers(self._workers)


def answers_as_they_come(
    requests: Iterable[RequestT], work: Callable[[RequestT], AnswerT], num_workers: int
) -> Generator[tuple[RequestT, AnswerT], None, None]:
    """Answer requests with some processes.

    Args:
        requests: What to do, begun in this order.
        work: What to do with each.
        num_workers: Processes to start.

    Yields:
        Each request with its answer, as soon as it is there.

    Raises:
        WorkerLostError: A worker died.
        RuntimeError: ``work`` raised; the message holds the worker's traceback.
    """
    crew = Crew(work, num_workers)
    waiting = iter(requests)
    begun: list[Task[RequestT, AnswerT]] = []
    try:
        while True:
            # Before an answer is passed on: whoever takes it may keep us waiting.
            while crew.has_free and (request := next(waiting, _NO_MORE)) is not _NO_MORE:
                begun.append(crew.begin(cast(RequestT, request)))
            done = next((task for task in begun if task.is_done), None)
            if done is not None:
                begun.remove(done)
                yield done.request, done.answer
            elif crew.is_busy:
                crew.wait()
            else:
                return
    finally:
        crew.close()


def _serve(connection: Connection, others: Sequence[Connection], work: Callable[[RequestT], AnswerT]) -> None:
    """A worker's life: answer requests until there are no more, or nobody is left to answer."""
    # Ctrl-C reaches the whole group; the process that started us decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING_SIGNALS)
    # A pipe ends when the last process that holds it does.
    for other in others:
        other.close()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    try:
        while True:
            request = connection.recv()
            try:
                answer = work(request)
            except Exception:
                connection.send(_Crash(traceback.format_exc()))
                return
            connection.send(answer)
    except (EOFError, OSError):
        return
