"""Several processes behind one filter: blocks go out to whoever is free, answers come back in the order of the input.

What is read ahead and what waits for its turn are both bounded, so memory stays flat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from seqkit.cli.line_filter import Answer, Block, LineInput
from seqkit.errors import SeqkitError, UsageError
from seqkit.forked import Worker, WorkerLostError, can_fork, start_workers, stop_workers


@dataclass(slots=True)
class _Turn:
    """A block that was handed out, and its answer once there is one."""

    block: Block
    answer: Answer | None = None


@dataclass(slots=True)
class _Busy:
    """A worker and what it is at."""

    process: Worker[Block, Answer]
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
    if not can_fork():
        raise UsageError("--workers above 1 needs a system that can fork", hint="leave --workers out")
    workers = [_Busy(process) for process in start_workers(work, num_workers)]
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
            busy = [worker.process.connection for worker in workers if worker.turn is not None]
            # One block is read ahead, so that whoever becomes free need not wait for the input.
            may_read = not lines.ready and not lines.is_exhausted
            if not busy and not may_read and not lines.ready:
                return
            if lines.ready and len(busy) < num_workers and len(turns) < 2 * num_workers:
                continue
            arrived = _wait(busy, lines if may_read else None)
            for worker in workers:
                if worker.process.connection in arrived:
                    _take_answer(worker)
            if may_read and lines in arrived:
                lines.fill()
    finally:
        stop_workers([worker.process for worker in workers])


def _wait(busy: list[Connection], lines: LineInput | None) -> list[object]:
    """Wait for an answer or, where ``lines`` is given, for input; returns what there is."""
    if lines is None:
        return list(wait(busy))
    if lines.descriptor is None:
        return [*wait(busy, timeout=0), lines]
    arrived: list[object] = list(wait([*busy, lines.descriptor]))
    return [lines if one == lines.descriptor else one for one in arrived]


def _hand_out(worker: _Busy, turn: _Turn) -> None:
    worker.turn = turn
    try:
        worker.process.send(turn.block)
    except WorkerLostError as error:
        raise _death(worker, error) from None


def _take_answer(worker: _Busy) -> None:
    assert worker.turn is not None
    try:
        worker.turn.answer = worker.process.receive()
    except WorkerLostError as error:
        raise _death(worker, error) from None
    worker.turn = None


def _death(worker: _Busy, error: WorkerLostError) -> SeqkitError:
    """The error for a worker that is gone."""
    line = worker.turn.block.first_line if worker.turn is not None else 1
    return SeqkitError(f"{error} at the lines from {line:,} on", hint="out of memory? try --workers 1")
