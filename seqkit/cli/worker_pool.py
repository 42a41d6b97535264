"""Several processes behind one filter: blocks go out to whoever is free, answers come back in the order of the input.

What is read ahead and what waits for its turn are both bounded, so memory stays flat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

from seqkit.cli.line_filter import Answer, Block, LineInput
from seqkit.errors import SeqkitError, UsageError
from seqkit.forked import Crew, Task, WorkerLostError, can_fork


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
    crew = Crew(work, num_workers)
    turns: deque[Task[Block, Answer]] = deque()
    try:
        while True:
            # One slow block must not let the others run ahead without end.
            while crew.has_free and lines.ready and len(turns) < 2 * num_workers:
                turns.append(crew.begin(lines.ready.popleft()))
            # After the workers have something to do: whoever takes the answers may keep us waiting.
            while turns and turns[0].is_done:
                yield turns.popleft().answer
            # One block is read ahead, so that whoever becomes free need not wait for the input.
            may_read = not lines.ready and not lines.is_exhausted
            if not crew.is_busy and not may_read and not lines.ready:
                return
            if lines.ready and crew.has_free and len(turns) < 2 * num_workers:
                continue
            if _wait(crew, lines if may_read else None):
                lines.fill()
    except WorkerLostError as error:
        assert isinstance(error.request, Block)
        what = f"{error} at the lines from {error.request.first_line:,} on"
        raise SeqkitError(what, hint="out of memory? try --workers 1") from None
    finally:
        crew.close()


def _wait(crew: Crew[Block, Answer], lines: LineInput | None) -> bool:
    """Wait for an answer or, where ``lines`` is given, for input; whether there is some."""
    if lines is None or lines.descriptor is not None:
        return crew.wait(lines.descriptor if lines is not None else None)
    crew.wait(timeout=0)
    return True
