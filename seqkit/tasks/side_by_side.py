"""Batches that have nothing to do with each other, each computed by a process with one core of its own.

On a CPU most operations of a decoding step are too small to gain much from a second core. Batches side by side keep
all cores at work, and what comes out does not depend on how many there are. Threads would take a sixth to a quarter
longer: between two operations they wait for each other, and share what Python counts references with.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from seqkit.errors import SeqkitError
from seqkit.forked import Crew, Task, WorkerLostError

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


@dataclass(eq=False)
class _Job(Generic[RequestT, AnswerT]):
    """A request, and the task that it became once a process was free."""

    request: RequestT
    task: Task[RequestT, AnswerT | SeqkitError] | None = None


class SideBySide(Generic[RequestT, AnswerT]):
    """Processes for batches, forked when first needed: what is loaded and laid out by then they share.

    Args:
        work: What to do with a batch.
        num_processes: How many.
    """

    def __init__(self, work: Callable[[RequestT], AnswerT], num_processes: int) -> None:
        self._work = work
        self._num_processes = num_processes
        self._crew: Crew[RequestT, AnswerT | SeqkitError] | None = None
        self._waiting: deque[_Job[RequestT, AnswerT]] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether some process is at work."""
        return self._crew is not None and self._crew.is_busy

    def begin(self, requests: Sequence[RequestT]) -> Generator[AnswerT, None, None]:
        """Have the processes begin, after what they were given before, and do not wait for them.

        Returns:
            The answers, in order. They raise what the work raised; a generator that was begun is to be read to its
            end, or closed, which breaks all work off.
        """
        jobs = [_Job[RequestT, AnswerT](request) for request in requests]
        self._waiting.extend(jobs)
        self._hand_out()
        return self._answers(jobs)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._waiting.clear()
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()

    def _answers(self, jobs: Sequence[_Job[RequestT, AnswerT]]) -> Generator[AnswerT, None, None]:
        is_whole = not jobs
        try:
            for job in jobs:
                answer = self._answer(job)
                # Whoever has the last answer need not come again.
                is_whole = job is jobs[-1]
                yield answer
        except WorkerLostError as error:
            hint = "out of memory? try a lower --batch-tokens, or --threads 1"
            raise SeqkitError(f"{error} while it translated", hint=hint) from None
        finally:
            if not is_whole:
                self.close()

    def _answer(self, job: _Job[RequestT, AnswerT]) -> AnswerT:
        self._hand_out()
        while job.task is None or not job.task.is_done:
            assert self._crew is not None, "what was broken off is not waited for"
            self._crew.wait()
            self._hand_out()
        answer = job.task.answer
        if isinstance(answer, SeqkitError):
            raise answer
        return answer

    def _hand_out(self) -> None:
        if self._waiting and self._crew is None:
            self._crew = Crew(self._expected, self._num_processes)
            # Whoever forgets this ends them too.
            weakref.finalize(self, self._crew.close)
        while self._crew is not None and self._waiting and self._crew.has_free:
            job = self._waiting.popleft()
            job.task = self._crew.begin(job.request)

    def _expected(self, request: RequestT) -> AnswerT | SeqkitError:
        """The work, in a process; its expected errors are answers, to be raised where somebody hears them."""
        torch.set_num_threads(1)
        try:
            return self._work(request)
        except SeqkitError as error:
            return error
