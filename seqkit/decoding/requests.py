"""What is asked of a search, and whether it can be had; needs no torch, so that a mistake is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkit.decoding.constraint_automaton import ConstraintAutomaton
from seqkit.decoding.penalties import Penalties
from seqkit.errors import SeqkitError, UsageError

_MOST_SEQUENCES = 8
"""A shortest output is looked for with at most this many different constraints; with more, nothing is claimed."""


@dataclass(frozen=True, kw_only=True)
class BeamRule(Penalties):
    """How beam search searches and scores; the penalties are described in ``penalties.py``."""

    beam_size: int = 5
    """W, the live hypotheses of a sentence; 1 is greedy search."""
    min_length: int = 0
    """Fewest tokens of an output, the end token not counted; where the longest length is less, that counts."""
    no_repeat_ngram: int = 0
    """No n-gram of this length occurs twice in an output; 0: no limit."""
    num_best: int = 1
    """Hypotheses to return for each sentence; at most ``beam_size``."""
    patience: float | None = None
    """A sentence is final once ``beam_size`` times this have ended; ``None``: when nothing better can come."""

    @property
    def num_to_end(self) -> int | None:
        """So many of a sentence's hypotheses are waited for, if it is by number.

        >>> BeamRule(patience=1.3).num_to_end, BeamRule(patience=0.1, num_best=2).num_to_end
        (6, 2)
        """
        return None if self.patience is None else max(round(self.beam_size * self.patience), self.num_best)


class SentenceError(SeqkitError, ValueError):
    """What is asked of one sentence cannot be done.

    Args:
        sentence: 0-based position in the batch.
        reason: What is wrong, without the position; for callers that know the line.
        hint: What to do about it.
    """

    def __init__(self, sentence: int, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"sentence {sentence + 1}: {reason}", hint=hint)
        self.sentence = sentence
        self.reason = reason


def check_rule(rule: BeamRule, *, vocab_size: int | None = None) -> None:
    """Check a rule; with the model's vocabulary too where it is known.

    Raises:
        UsageError: A value is out of range, or two do not go together.
    """
    for name, value, least in (
        ("beam", rule.beam_size, 1),
        ("n-best", rule.num_best, 1),
        ("min-length", rule.min_length, 0),
        ("no-repeat-ngram", rule.no_repeat_ngram, 0),
        ("length penalty's alpha", rule.alpha, 0),
        ("coverage penalty", rule.coverage_penalty, 0),
    ):
        # Written so that NaN is refused too.
        if not least <= value < float("inf"):
            raise UsageError(f"the {name} is {value}, but must be at least {least}")
    if rule.patience is not None and not 0 < rule.patience < float("inf"):
        raise UsageError(f"the patience is {rule.patience}, but must be above 0")
    if rule.num_best > rule.beam_size:
        raise UsageError(
            f"{rule.num_best} best outputs are asked for, more than the beam of {rule.beam_size} holds",
            hint=f"use a beam of at least {rule.num_best}",
        )
    if vocab_size is not None and rule.beam_size > vocab_size:
        raise UsageError(f"the beam of {rule.beam_size} is larger than the model's vocabulary of {vocab_size} tokens")


def check_sentences(
    *,
    eos_id: int,
    max_lengths: Sequence[int],
    no_repeat_ngram: int = 0,
    forbidden_ids: Sequence[int] = (),
    prefixes: Sequence[Sequence[int]] | None = None,
    constraints: Sequence[Sequence[Sequence[int]]] | None = None,
) -> None:
    """Check what is asked of each sentence, as far as it can be known without the model.

    Raises:
        SentenceError: The first sentence whose prefix or constraints cannot be had.
    """
    num_sentences = len(max_lengths)
    assert prefixes is None or len(prefixes) == num_sentences, "one prefix a sentence, which may be empty"
    assert constraints is None or len(constraints) == num_sentences, "one list of constraints a sentence"
    for sentence, max_length in enumerate(max_lengths):
        prefix = prefixes[sentence] if prefixes is not None else ()
        if max_length < 1:
            raise SentenceError(sentence, f"the longest output has {max_length} tokens, but must have at least 1")
        if len(prefix) > max_length:
            raise SentenceError(
                sentence,
                f"the prefix has {len(prefix)} tokens, more than the longest output of {max_length}",
                hint="allow longer outputs",
            )
        if eos_id in prefix:
            raise SentenceError(sentence, "the prefix contains the end token")
        if constraints is not None and constraints[sentence]:
            reason = _why_unmeetable(
                constraints[sentence], prefix, max_length, {eos_id, *forbidden_ids}, no_repeat_ngram
            )
            if reason is not None:
                raise SentenceError(sentence, f"the constraints cannot be met: {reason}")


def _why_unmeetable(
    sequences: Sequence[Sequence[int]], prefix: Sequence[int], max_length: int, never: set[int], ngram: int
) -> str | None:
    for number, sequence in enumerate(sequences, start=1):
        if not sequence:
            return f"number {number} is empty"
        if never & set(sequence):
            return f"number {number} contains a token that the output may not contain"
        ngrams = [tuple(sequence[start : start + ngram]) for start in range(len(sequence) - ngram + 1)]
        if ngram and len(set(ngrams)) < len(ngrams):
            return f"number {number} repeats {ngram} tokens, which no-repeat-ngram forbids"
    if len(prefix) + sum(map(len, sequences)) <= max_length:
        return None
    shortest = shortest_output(sequences, prefix)
    if shortest is not None and shortest > max_length:
        return f"they need {shortest} tokens, and the longest output has {max_length}"
    return None


def shortest_output(sequences: Sequence[Sequence[int]], prefix: Sequence[int]) -> int | None:
    """Tokens of the shortest output that begins with the prefix and contains all sequences; they may overlap.

    Breadth-first over (state of the automaton, occurrences); the shortest such text can be hard to find (it is the
    shortest common superstring), so it is ``None`` where there are many sequences.

    >>> shortest_output([[1, 2, 3], [3, 4]], [9, 1])
    5
    """
    distinct = tuple(dict.fromkeys(map(tuple, sequences)))
    if len(distinct) > _MOST_SEQUENCES:
        return None
    required = [sum(tuple(sequence) == text for sequence in sequences) for text in distinct]
    tokens = sorted({token for sequence in distinct for token in sequence})
    automaton = ConstraintAutomaton(distinct, tokens, len(distinct))
    goto_QA, hits_QC = automaton.goto_QA.tolist(), automaton.hits_QC.tolist()

    def after(state: tuple[int, tuple[int, ...]], column: int) -> tuple[int, tuple[int, ...]]:
        node = goto_QA[state[0]][column]
        counts = zip(state[1], hits_QC[node], required, strict=True)
        return node, tuple(min(count + hit, most) for count, hit, most in counts)

    column = {token: number for number, token in enumerate(tokens, start=1)}
    state = (0, (0,) * len(distinct))
    for token in prefix:
        state = after(state, column.get(token, 0))
    seen, frontier, length = {state}, [state], len(prefix)
    while all(counts != tuple(required) for _, counts in frontier):
        frontier = list({after(state, number) for state in frontier for number in column.values()} - seen)
        seen.update(frontier)
        length += 1
    return length
