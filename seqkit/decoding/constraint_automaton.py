"""The automaton that follows a sentence's lexical constraints.

Legend: C constraints (padded), Q states, A token columns.
"""

from __future__ import annotations

import numpy as np


class ConstraintAutomaton:
    """Aho and Corasick's automaton of one sentence's constraints.

    Attributes:
        goto_QA: The next state by state and token column; column 0 and unknown tokens lead back to state 0.
        hits_QC: 1 where the last tokens spell the whole constraint.
        begun_QC: Length of the longest beginning of the constraint, not the whole, that the last tokens spell.
        next_QC: The constraint's token after that beginning.
    """

    def __init__(self, sequences: tuple[tuple[int, ...], ...], tokens: list[int], width: int) -> None:
        column = {token: number for number, token in enumerate(tokens, start=1)}
        spelled: list[tuple[int, ...]] = [()]
        state: dict[tuple[int, ...], int] = {(): 0}
        for sequence in sequences:
            for end in range(1, len(sequence) + 1):
                if sequence[:end] not in state:
                    state[sequence[:end]] = len(spelled)
                    spelled.append(sequence[:end])
        self.goto_QA = np.zeros((len(spelled), len(tokens) + 1), np.int64)
        self.hits_QC, self.begun_QC, self.next_QC = (np.zeros((len(spelled), width), np.int64) for _ in range(3))
        own_tokens = {token for sequence in sequences for token in sequence}
        for row, text in enumerate(spelled):
            endings = [text[start:] for start in range(len(text) + 1)]
            for token in own_tokens:
                self.goto_QA[row, column[token]] = next(
                    (state[longer] for ending in endings if (longer := (*ending, token)) in state), 0
                )
            for number, sequence in enumerate(sequences):
                self.hits_QC[row, number] = sequence in endings
                begun = next(len(e) for e in endings if len(e) < len(sequence) and e == sequence[: len(e)])
                self.begun_QC[row, number] = begun
                self.next_QC[row, number] = sequence[begun]
