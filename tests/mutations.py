"""Small damage to texts, JSON and bytes, drawn from a seed: what a fuzzer feeds to readers."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "\x00",
    "\ud800",
    "../../../etc/passwd",
    "é" * 300,
    [],
    [[]],
    {},
    {"": None},
    [0] * 50,
    {"tensor": "0"},
    {"bytes": "0", "dtype": "load", "shape": [1]},
    {"int": "0x" + "f" * 5000},
    {"float": []},
    {"dict": [[{"dict": []}, 1]]},
]
ODD_TEXTS = [
    "",
    "\n",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    "#",
    "!!python/object/apply:os.system ['x']",
    "&a",
    "*a",
]
ODD_TEXTS += [
    "\t",
    "\r\n",
    "\x00",
    "\ufeff",
    "\u2028",
    "\x85",
    "🎉",
    "-1",
    "1e999",
    "~",
    "null",
    "<<: *a",
    "?",
    "|",
    "%YAML 9",
]


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A copy in which one to three values are replaced, removed or repeated, or keys renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = _places(value)
        if not places:
            return copy.deepcopy(rng.choice(ODD_VALUES))
        parent, key = rng.choice(places)
        way = rng.random()
        if way < 0.6:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif way < 0.75:
            del parent[key]
        elif way < 0.9 and isinstance(parent, dict):
            parent[f"{key}x"] = parent.pop(key)
        else:
            other, place = rng.choice(places)
            parent[key] = copy.deepcopy(other[place]) if isinstance(place, str) or place < len(other) else None
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a nested value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(value, key), *_places(item)]
    return found


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """A copy with a few bytes changed, removed, repeated or put in, or cut off somewhere."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(damaged) + 1)
        way = rng.randrange(5)
        if way == 0 and damaged:
            damaged[place % len(damaged)] ^= 1 << rng.randrange(8)
        elif way == 1:
            damaged[place:place] = rng.randbytes(rng.randint(1, 8))
        elif way == 2:
            del damaged[place : place + rng.randint(1, 20)]
        elif way == 3:
            damaged[place:place] = damaged[place : place + rng.randint(1, 40)]
        else:
            damaged[place:place] = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
    return bytes(damaged[: rng.randrange(len(damaged) + 1)]) if rng.random() < 0.1 else bytes(damaged)


def mutated_json_bytes(content: bytes, rng: random.Random) -> bytes:
    """A JSON file's bytes, damaged as JSON more often than as bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(content, rng)
    if rng.random() < 0.03:
        return b"[" * 100_000
    return json.dumps(mutate_json(json.loads(content), rng)).encode()


def random_bytes(rng: random.Random) -> bytes:
    """Lines of anything: text in many scripts, control characters, bytes that are no text."""
    pieces = [rng.choice(_LINES) for _ in range(rng.randint(0, 6))]
    if rng.random() < 0.3:
        pieces.append(rng.randbytes(rng.randint(1, 60)))
    return b"\n".join(pieces) + (b"\n" if rng.random() < 0.7 else b"")


_LINES = [
    b"",
    b" ",
    b"a b c",
    b"ab\tcd",
    "Mäuse 雪 ☃ 🎉".encode(),
    b"\x00\x01\x1b[2J",
    b"a\r",
    "a\u2028b\x85c".encode(),
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"<unk> </s> @@ ##",
    b"1 2 3 99999999999999999999 -1",
    b"x" * 400,
    b"a " * 90,
]
