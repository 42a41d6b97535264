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
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

_STOPPING_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class WorkerLostError(Exception):
    """A worker is gone.

    Args:
        how: ``by SIGKILL``, ``with exit code 3``.
    """

    def __init__(self, how: str) -> None:
        super().__init__(f"a worker process ended {how}")
        self.how = how


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
    workers = start_workers(work, num_workers)
    waiting = iter(requests)
    at: dict[Connection, tuple[Worker[RequestT, AnswerT], RequestT]] = {}

    def hand_out(worker: Worker[RequestT, AnswerT]) -> None:
        for request in waiting:
            worker.send(request)
            at[worker.connection] = (worker, request)
            return

    try:
        for worker in workers:
            hand_out(worker)
        while at:
            for connection in wait(list(at)):
                assert isinstance(connection, Connection)
                worker, request = at.pop(connection)
                answer = worker.receive()
                # Before the answer is passed on: whoever takes it may keep us waiting.
                hand_out(worker)
                yield request, answer
    finally:
        stop_workers(workers)


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
