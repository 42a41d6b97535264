"""Batches that do not fit in memory: worked on in pieces, one after the other, whose gradients add up.

The loss is a sum over tokens, so the pieces come to the same gradient as the whole up to rounding. What dropout draws
is drawn in another order, so a run that met the end of its memory is not, to the bit, the one on a larger machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from seqkit.errors import OutOfMemoryError, is_out_of_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Pieces:
    """How many pieces each batch is cut into: one, until memory runs out; then as many as it takes, for good.

    Args:
        together: Why rows of a batch may not be trained on apart, such as ``which carry state``; ``None``: they may.
        setting: The recipe keys that make batches smaller, for messages.
    """

    def __init__(self, *, together: str | None = None, setting: str = "train.batch_size") -> None:
        self.number = 1
        self._together = together
        self._setting = setting

    def run(self, work: Callable[[int], T], *, num_rows: Callable[[], int], clear: Callable[[], None]) -> T:
        """Call ``work`` with the number of pieces; again with twice as many whenever memory runs out.

        Args:
            work: Finds gradients, with batches in so many pieces.
            num_rows: Rows of the largest batch; asked only when memory runs out.
            clear: Forgets what a failed attempt left of gradients.

        Raises:
            OutOfMemoryError: A single row does not fit, or rows must stay together.
        """
        while True:
            try:
                return work(self.number)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split("\n")[0].split())
            # Not inside the handler, where the error would keep the tensors of the failed attempt.
            clear()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            self._cut(num_rows(), reason)

    def _cut(self, num_rows: int, reason: str) -> None:
        told = f" ({reason})" if reason else ""
        if self._together is not None:
            raise OutOfMemoryError(
                f"out of memory in a batch of {num_rows:,} rows, {self._together} and stay together{told}",
                hint=f"lower {self._setting}",
            )
        if self.number >= num_rows:
            raise OutOfMemoryError(
                f"out of memory, even with one row of a batch at a time{told}",
                hint="train on shorter sequences (train.sequence_length, data.max_length), or a smaller model",
            )
        self.number = min(2 * self.number, num_rows)
        logger.warning(
            "out of memory in a batch of %d rows: batches are worked on in %d pieces from now on, which gives the same "
            "gradients up to rounding, but other draws of dropout; a lower %s would spare the time%s",
            num_rows,
            self.number,
            self._setting,
            told,
        )
