"""Parallel texts that are made up on the spot: small translation tasks that a model can learn in a minute.

``builtin:NAME/SPLIT.SIDE`` is one side of one split: ``builtin:dates/train.iso``. The pairs are drawn from a fixed
seed, the same on every machine. No source of the validation or test split is in the training split.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from seqkit.data.number_words import english, french, german

SPLIT_SIZES = {"train": 10_000, "valid": 500, "test": 500}
"""Pairs of each split; fewer training pairs where a task has not so many different ones."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MONTHS = ("January February March April May June July August September October November December").split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MOST_ATTEMPTS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class BuiltinPairs:
    """A made-up translation task."""

    name: str
    description: str
    sides: tuple[str, ...]
    """Names of the sides; a recipe takes any two."""
    draw: Callable[[random.Random], tuple[str, ...]]
    """One example: a line for each side; the first decides which examples are the same."""

    def parts(self) -> list[str]:
        """Every ``SPLIT.SIDE``."""
        return [f"{split}.{side}" for split in SPLIT_SIZES for side in self.sides]

    def lines(self, split: str, side: str) -> Iterator[str]:
        """The lines of one side of one split."""
        column = self.sides.index(side)
        for example in self._examples(split):
            yield example[column]

    @functools.cache  # noqa: B019 - the few tasks live as long as the process
    def _examples(self, split: str) -> list[tuple[str, ...]]:
        """Different examples, of which test and validation come first, so that training cannot take them."""
        generator = random.Random(f"seqkit {self.name}")
        seen: dict[str, tuple[str, ...]] = {}
        wanted = sum(SPLIT_SIZES.values())
        for _ in range(_MOST_ATTEMPTS):
            example = self.draw(generator)
            seen.setdefault(example[0], example)
            if len(seen) == wanted:
                break
        examples = list(seen.values())
        first = 0
        for name in ("test", "valid", "train"):
            last = first + SPLIT_SIZES[name]
            if name == split:
                return examples[first:last]
            first = last
        raise KeyError(split)


def _numbers(generator: random.Random) -> tuple[str, ...]:
    number = generator.randrange(10 ** generator.randint(1, 6))
    return str(number), english(number), german(number), french(number)


def _dates(generator: random.Random) -> tuple[str, ...]:
    day = date(1900, 1, 1) + timedelta(days=generator.randrange(73_000))
    month = _MONTHS[day.month - 1]
    written = generator.choice(
        [
            f"{day.day} {month} {day.year}",
            f"{month} {day.day}, {day.year}",
            f"{_DAYS[day.weekday()]}, {day.day} {month} {day.year}",
            f"{day.day} {month[:3]} {day.year}",
            f"{day.day}/{day.month}/{day.year}",
            f"{day.day:02}.{day.month:02}.{day.year}",
        ]
    )
    return written, day.isoformat()


def _word(generator: random.Random) -> str:
    return "".join(generator.choices(_LETTERS, k=generator.randint(3, 12)))


def _copy(generator: random.Random) -> tuple[str, ...]:
    word = _word(generator)
    return word, word


def _reverse(generator: random.Random) -> tuple[str, ...]:
    word = _word(generator)
    return word, word[::-1]


def _adding(generator: random.Random) -> tuple[str, ...]:
    one, other = (generator.randrange(10 ** generator.randint(1, 4)) for _ in range(2))
    return f"{one}+{other}", str(one + other)


def pair_text(name: str) -> tuple[BuiltinPairs, str, str] | None:
    """Task, split and side that ``NAME/SPLIT.SIDE`` stands for; ``None`` if there is no such text."""
    task, _, part = name.partition("/")
    split, _, side = part.partition(".")
    pairs = PAIRS.get(task)
    if pairs is None or split not in SPLIT_SIZES or side not in pairs.sides:
        return None
    return pairs, split, side


def pair_names() -> list[str]:
    """Every ``NAME/SPLIT.SIDE``."""
    return [f"{pairs.name}/{part}" for pairs in PAIRS.values() for part in pairs.parts()]


PAIRS = {
    pairs.name: pairs
    for pairs in (
        BuiltinPairs(
            name="numbers",
            description="whole numbers below a million: digits, and words in English, German and French",
            sides=("digits", "en", "de", "fr"),
            draw=_numbers,
        ),
        BuiltinPairs(
            name="dates",
            description="dates as people write them in English, and as ISO 8601",
            sides=("written", "iso"),
            draw=_dates,
        ),
        BuiltinPairs(name="copy", description="random words, and the same again", sides=("src", "tgt"), draw=_copy),
        BuiltinPairs(
            name="reverse", description="random words, and the same backwards", sides=("src", "tgt"), draw=_reverse
        ),
        BuiltinPairs(name="adding", description="sums, and their results", sides=("src", "tgt"), draw=_adding),
    )
}
"""Every made-up task."""
