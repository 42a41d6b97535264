"""Several processes behind one filter: blocks go out to whoever is free, answers come back in the order of the input.

Workers are forked from the process that has begun the work, so they start in milliseconds with all that it has loaded
and cached. Each has one block at a time; what is read ahead and what waits for its turn are both bounded, so memory
stays flat. Workers end with the process that started them, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from seqkit.cli.line_filter import Answer, Block, LineInput
from seqkit.errors import SeqkitError, UsageError

_STOPPING_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True, slots=True)
class _Crash:
    """A worker's own exception."""

    trace: str


@dataclass(slots=True)
class _Turn:
    """A block that was handed out, and its answer once there is one."""

    block: Block
    answer: Answer | None = None


@dataclass(slots=True)
class _Worker:
    process: ForkProcess
    connection: Connection
    turn: _Turn | None = None


def answers_in_order(
    lines: LineInput, work: Callable[[Block], Answer], num_workers: int
) -> Generator[Answer, None, None]:
    """Answer the rest of ``lines`` with ``num_workers`` processes.

    Args:
        lines: The input; what is in ``ready`` comes first.
        work: What to do with a block.
        num_workers: Processes to start; this one only reads and passes on.

    Yields:
        Answers in the order of the blocks, each as soon as it and all before it are there.

    Raises:
        SeqkitError: A worker died.
        RuntimeError: ``work`` raised; the message holds the worker's traceback.
        UsageError: This system cannot fork.
    """
    workers = _start(work, num_workers)
    turns: deque[_Turn] = deque()
    try:
        while True:
            free = [worker for worker in workers if worker.turn is None]
            # One slow block must not let the others run ahead without end.
            while free and lines.ready and len(turns) < 2 * num_workers:
                turns.append(_Turn(lines.ready.popleft()))
                _hand_out(free.pop(), turns[-1])
            # After the workers have something to do: whoever takes the answers may keep us waiting.
            while turns and turns[0].answer is not None:
                yield turns.popleft().answer  # type: ignore[misc]
            busy = [worker.connection for worker in workers if worker.turn is not None]
            # One block is read ahead, so that whoever becomes free need not wait for the input.
            may_read = not lines.ready and not lines.is_exhausted
            if not busy and not may_read and not lines.ready:
                return
            if lines.ready and len(busy) < num_workers and len(turns) < 2 * num_workers:
                continue
            arrived = _wait(busy, lines if may_read else None)
            for worker in workers:
                if worker.connection in arrived:
                    _take_answer(worker)
            if may_read and lines in arrived:
                lines.fill()
    finally:
        _stop(workers)


def _wait(busy: list[Connection], lines: LineInput | None) -> list[object]:
    """Wait for an answer or, where ``lines`` is given, for input; returns what there is."""
    if lines is None:
        return list(wait(busy))
    if lines.descriptor is None:
        return [*wait(busy, timeout=0), lines]
    arrived: list[object] = list(wait([*busy, lines.descriptor]))
    return [lines if one == lines.descriptor else one for one in arrived]


def _start(work: Callable[[Block], Answer], num_workers: int) -> list[_Worker]:
    """Fork the workers; a signal that arrives meanwhile waits."""
    try:
        context = multiprocessing.get_context("fork")
    except ValueError:
        raise UsageError("--workers above 1 needs a system that can fork", hint="leave --workers out") from None
    workers: list[_Worker] = []
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
            workers.append(_Worker(process, ours))
    except BaseException:
        _stop(workers)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return workers


def _serve(connection: Connection, others: Sequence[Connection], work: Callable[[Block], Answer]) -> None:
    """A worker's life: answer blocks until there are no more, or nobody is left to answer."""
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
            block = connection.recv()
            try:
                answer = work(block)
            except Exception:
                connection.send(_Crash(traceback.format_exc()))
                return
            connection.send(answer)
    except (EOFError, OSError):
        return


def _hand_out(worker: _Worker, turn: _Turn) -> None:
    worker.turn = turn
    try:
        worker.connection.send(turn.block)
    except OSError:
        raise _death(worker) from None


def _take_answer(worker: _Worker) -> None:
    assert worker.turn is not None
    try:
        answer = worker.connection.recv()
    except (EOFError, OSError):
        raise _death(worker) from None
    if isinstance(answer, _Crash):
        raise RuntimeError(f"in a worker process\n{answer.trace}")
    worker.turn.answer = answer
    worker.turn = None


def _death(worker: _Worker) -> SeqkitError:
    """The error for a worker that is gone."""
    worker.process.join(1.0)
    code = worker.process.exitcode
    how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    line = worker.turn.block.first_line if worker.turn is not None else 1
    return SeqkitError(
        f"a worker process ended {how} at the lines from {line:,} on", hint="out of memory? try --workers 1"
    )


def _stop(workers: Sequence[_Worker]) -> None:
    """End the workers now; what they are working on is no longer wanted."""
    for worker in workers:
        worker.connection.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join()
