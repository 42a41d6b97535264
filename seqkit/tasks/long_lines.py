"""Lines that are longer than a model can take, cut into parts where a reader would pause."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

_BLANKS = " \t\u3000"
# A word with the blanks after it; full-width sentence marks end one too, since no blank follows them.
_SEGMENT = re.compile(rf"[^{_BLANKS}。！？]*(?:[。！？]+[」』”’）]*|[^{_BLANKS}。！？])[{_BLANKS}]*|[{_BLANKS}]+")
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'“”‘’»«)\]」』）]*$")


@dataclass(frozen=True)
class LinePart:
    """Part of a line."""

    text: str
    """Without blanks at its end."""
    follows_blank: bool
    """Whether there was a blank before it; then its translation belongs after one too."""


def split_line(line: str, count_tokens: Callable[[str], int], limit: int) -> list[LinePart]:
    """Cut a line into parts of at most ``limit`` tokens.

    Each cut is at the last end of a sentence below the limit; if there is none, at the last blank; and only a word
    that is over-long itself is cut inside.

    Args:
        line: Any text.
        count_tokens: The number of tokens of a text.
        limit: Most tokens of a part; at least 1.

    Returns:
        The parts in order. Joined, with the blanks at the cuts, they are the line.

    Raises:
        ValueError: A single character has more tokens than ``limit``.

    >>> [part.text for part in split_line("One two. Three four five. Six", len, 20)]
    ['One two.', 'Three four five. Six']
    """
    segments = _SEGMENT.findall(line)
    counts = [count_tokens(segment.rstrip(_BLANKS)) for segment in segments]
    has_capitals = any(map(str.isupper, line))
    parts: list[LinePart] = []
    first, follows_blank = 0, False
    while first < len(segments):
        num_taken = _num_that_fit(segments, counts, first, count_tokens, limit)
        if num_taken == 0:
            # One word that is too long: its beginning becomes a part, the rest a word of its own.
            cut = _longest_beginning(segments[first], count_tokens, limit)
            taken, segments[first] = segments[first][:cut], segments[first][cut:]
            counts[first] = count_tokens(segments[first].rstrip(_BLANKS))
        else:
            if first + num_taken < len(segments):
                num_taken = _up_to_a_sentence_end(segments, first, num_taken, has_capitals=has_capitals)
            taken = "".join(segments[first : first + num_taken])
            first += num_taken
        text = taken.rstrip(_BLANKS)
        if text:
            parts.append(LinePart(text, follows_blank))
        follows_blank = len(text) < len(taken) or (follows_blank and not text)
    return parts


def _num_that_fit(
    segments: list[str], counts: list[int], first: int, count_tokens: Callable[[str], int], limit: int
) -> int:
    """How many segments from ``first`` on have at most ``limit`` tokens together."""
    num_taken, total = 0, 0
    while first + num_taken < len(segments) and total + counts[first + num_taken] <= limit:
        total += counts[first + num_taken]
        num_taken += 1
    # What stands between words may have tokens too.
    while num_taken and count_tokens("".join(segments[first : first + num_taken]).rstrip(_BLANKS)) > limit:
        num_taken -= 1
    return num_taken


def _up_to_a_sentence_end(segments: list[str], first: int, num_taken: int, *, has_capitals: bool) -> int:
    """How many of the segments to take, so that they end with a sentence; all if none ends in them."""
    for number in range(num_taken, 0, -1):
        is_end = _SENTENCE_END.search(segments[first + number - 1].rstrip(_BLANKS))
        # Where sentences begin with capitals, a full stop before a small letter is an abbreviation's.
        if is_end and not (has_capitals and segments[first + number][:1].islower()):
            return number
    return num_taken


def _longest_beginning(word: str, count_tokens: Callable[[str], int], limit: int) -> int:
    """Characters of the longest beginning that has at most ``limit`` tokens."""
    low, high = 0, min(len(word), limit + 1)
    while count_tokens(word[:high]) <= limit and high < len(word):
        low, high = high, min(len(word), 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count_tokens(word[:middle]) <= limit else (low, middle)
    # Not between a letter and its accent.
    while low > 1 and unicodedata.combining(word[low]):
        low -= 1
    if low == 0 or count_tokens(word[:low]) > limit:
        raise ValueError(f"one character alone has more than {limit} tokens")
    return low
