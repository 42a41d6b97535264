"""What translates prepared sentences: the seam between lines and engines. Needs no torch.

``Translator`` handles lines, prefixes, parts and batches; an engine searches. Ours is ``torch_search.py``, another one
``ctranslate_search.py``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SearchBatch:
    """Sentences to translate side by side; each list has an item a sentence."""

    sentences: Sequence[list[int]]
    """Source tokens, without the end."""
    max_lengths: Sequence[int]
    """Most predictions, the end token counted."""
    prefixes: Sequence[list[int]]
    """Tokens that the outputs begin with; empty: any."""
    constraints: Sequence[list[list[int]]]
    """Token sequences that must occur in the outputs."""
    rows: Sequence[int]
    """Which random draws belong to the sentence."""


class Output(Protocol):
    """One translation of a sentence, as ``Hypothesis`` has it."""

    @property
    def ids(self) -> list[int]:
        """Tokens, without start and end token."""
        ...

    @property
    def score(self) -> float:
        """Log-probability after the penalties."""
        ...

    @property
    def log_prob(self) -> float:
        """Natural log-probability under the model, the end token counted where there is one."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether it ends with the end token."""
        ...

    @property
    def meets_constraints(self) -> bool:
        """Whether every constraint occurs in it."""
        ...

    @property
    def attention(self) -> Tensor | None:
        """Weights over the source, float32 on the CPU, shape (T, S): one row a prediction; ``None``: not asked for."""
        ...


class SearchEngine(Protocol):
    """Finds translations."""

    @property
    def num_shares(self) -> int:
        """A batch is at most one of so many parts of what is still to be done, unless it were tiny."""
        ...

    def begin(self, batches: Sequence[SearchBatch], num_best: int) -> Generator[Sequence[Sequence[Output]], None, None]:
        """Begin to translate batches, if that can be done ahead.

        Returns:
            For each batch, in order: of each sentence at least one output and at most ``num_best``, best first.
            Closing a generator that was begun ends what was not waited for.
        """
        ...

    def has_attention(self) -> bool:
        """Whether outputs can come with attention to the source."""
        ...
