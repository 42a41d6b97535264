"""Lexical constraints: token sequences that must occur in the output.

Where a hypothesis stands with its constraints is a state of the automaton of Aho and Corasick (1975) over the
sentence's constraints (which of their beginnings do the last tokens spell?) and how often each has occurred. So
sequences with repeated tokens and sequences that overlap are counted as in the text: ``a a b`` occurs in ``a a a b``,
and ``a b c`` meets both ``a b`` and ``b c``. A sequence given twice must occur twice.

The beam is shared out as in Post and Vilar 2018 ("Fast Lexically Constrained Decoding with Dynamic Beam Allocation
for Neural Machine Translation"): beside its likeliest tokens each hypothesis offers the next token of each constraint,
candidates are put into banks by the number of constraint tokens they have, and the beam takes from the banks in turn.
Departures: hypotheses with more constraint tokens are served first in each turn, so that with any beam the best-placed
hypothesis advances in every step; and a broken sequence falls back to the longest beginning that still fits, not to
nothing.

Legend: N rows, X candidates of a row, B sentences, Y candidates of a sentence, C constraints of a sentence (padded),
Q automaton states of all sentences, A tokens in constraints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqkit.decoding.constraint_automaton import ConstraintAutomaton


@dataclass(frozen=True)
class Progress:
    """Where hypotheses stand; any leading shape."""

    node: Tensor
    """State of the automaton."""
    count_C: Tensor
    """How often each constraint has occurred, at most as often as it must."""

    def __getitem__(self, index: Tensor | slice | tuple[slice | None, ...]) -> Progress:
        """Some of the hypotheses."""
        return Progress(self.node[index], self.count_C[index])

    def reshape(self, *shape: int) -> Progress:
        """The same hypotheses in another shape."""
        return Progress(self.node.reshape(*shape), self.count_C.reshape(*shape, self.count_C.size(-1)))

    def pick(self, column_BM: Tensor) -> Progress:
        """Of hypotheses in two axes, some columns of each row."""
        index_BMC = column_BM.unsqueeze(2).expand(-1, -1, self.count_C.size(2))
        return Progress(self.node.gather(1, column_BM), self.count_C.gather(1, index_BMC))


class LexicalConstraints:
    """The constraints of all sentences of a search, as tables on the device.

    Args:
        constraints: For each sentence any number of token sequences, none empty.
        device: Where the search runs.
    """

    def __init__(self, constraints: Sequence[Sequence[Sequence[int]]], device: torch.device) -> None:
        tokens = sorted({token for sequences in constraints for sequence in sequences for token in sequence})
        wanted = [Counter(map(tuple, sequences)) for sequences in constraints]
        width = max(map(len, wanted), default=0)
        automata = [ConstraintAutomaton(tuple(counter), tokens, width) for counter in wanted]
        first = np.cumsum([0, *(len(automaton.goto_QA) for automaton in automata)])

        def table(parts: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device)

        self._root_B = torch.from_numpy(first[:-1]).to(device)
        self._goto_QA = table([automaton.goto_QA + start for automaton, start in zip(automata, first, strict=False)])
        self._hits_QC = table([automaton.hits_QC for automaton in automata])
        self._begun_QC = table([automaton.begun_QC for automaton in automata])
        self._next_QC = table([automaton.next_QC for automaton in automata])
        required_BC = np.array([[*counter.values(), *[0] * (width - len(counter))] for counter in wanted])
        length_BC = np.array([[*map(len, counter), *[0] * (width - len(counter))] for counter in wanted])
        num_nodes = np.diff(first)
        self._required_QC = torch.from_numpy(required_BC.repeat(num_nodes, axis=0)).to(device)
        self._length_QC = torch.from_numpy(length_BC.repeat(num_nodes, axis=0)).to(device)
        self.num_banks = int((required_BC * length_BC).sum(axis=1).max(initial=0)) + 1
        # Column 0 stands for every token that is in no constraint.
        self._column_V = torch.zeros(tokens[-1] + 2 if tokens else 1, dtype=torch.long, device=device)
        self._column_V[tokens] = torch.arange(1, len(tokens) + 1, device=device)

    def start(self) -> Progress:
        """Before the first token, one row a sentence."""
        return Progress(self._root_B, torch.zeros_like(self._required_QC[self._root_B]))

    def advance(self, progress: Progress, token: Tensor) -> Progress:
        """After one more token each; shapes broadcast."""
        column = self._column_V[token.clamp(max=len(self._column_V) - 1)]
        node = self._goto_QA[progress.node, column]
        return Progress(node, torch.minimum(progress.count_C + self._hits_QC[node], self._required_QC[node]))

    def is_met(self, progress: Progress) -> Tensor:
        """Whether all constraints have occurred."""
        return (progress.count_C == self._required_QC[progress.node]).all(dim=-1)

    def bank(self, progress: Progress) -> Tensor:
        """Constraint tokens so far: those of the sequences that occurred, and of the one that is furthest begun."""
        is_open_C = progress.count_C < self._required_QC[progress.node]
        whole = (progress.count_C * self._length_QC[progress.node]).sum(dim=-1)
        return whole + (self._begun_QC[progress.node] * is_open_C).amax(dim=-1)

    def next_tokens(self, progress_N: Progress) -> tuple[Tensor, Tensor]:
        """The token by which each constraint goes on, shape (N, C), and whether it is still wanted.

        A token that goes on with several constraints is wanted once.
        """
        token_NC = self._next_QC[progress_N.node]
        is_open_NC = progress_N.count_C < self._required_QC[progress_N.node]
        is_same_NCC = (token_NC.unsqueeze(2) == token_NC.unsqueeze(1)) & is_open_NC.unsqueeze(1)
        return token_NC, is_open_NC & ~is_same_NCC.tril(diagonal=-1).any(dim=2)


def share_out(log_prob_BY: Tensor, bank_BY: Tensor, num_banks: int) -> Tensor:
    """The order in which a beam takes candidates: each bank's best, fullest bank first, then each bank's second best.

    Args:
        log_prob_BY: Minus infinity for what is no candidate; those come last.
        bank_BY: Constraint tokens of each candidate.
        num_banks: More than the largest bank.

    Returns:
        Columns, shape (B, Y).

    >>> log_prob_BY = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -5.0]])
    >>> share_out(log_prob_BY, torch.tensor([[0, 0, 1, 0, 1]]), 2)
    tensor([[2, 0, 4, 1, 3]])
    """
    by_score_BY = torch.sort(log_prob_BY, dim=1, descending=True, stable=True).indices
    sorted_BY = bank_BY.gather(1, by_score_BY)
    is_in_bank_BYK = sorted_BY.unsqueeze(2) == torch.arange(num_banks, device=bank_BY.device)
    turn_BY = is_in_bank_BYK.cumsum(dim=1).gather(2, sorted_BY.unsqueeze(2)).squeeze(2)
    place_BY = turn_BY * num_banks - sorted_BY
    place_BY = place_BY.masked_fill(log_prob_BY.gather(1, by_score_BY) == -torch.inf, torch.iinfo(torch.long).max)
    return by_score_BY.gather(1, torch.sort(place_BY, dim=1, stable=True).indices)
