"""YAML 1.2's core schema, and one clear line for each way to break it."""

from __future__ import annotations

import math

import pytest

from seqkit.errors import RecipeError
from seqkit.recipe import yaml12
from seqkit.recipe.faults import Place, Position
from seqkit.recipe.yaml12 import dump, load, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.2.2, sections 10.2.1 and 10.3.2
        ("1e-4", 1e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e5", 1e5),
        ("+.5E+1", 5.0),
        ("-12", -12),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("Null", None),
        ("-.INF", -math.inf),
        # what YAML 1.1 reads as something else
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("12:30:00", "12:30:00"),
        ("2001-01-01", "2001-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        # nearly numbers
        ("-0o7", "-0o7"),
        ("1e", "1e"),
        (".", "."),
        ("0x", "0x"),
        # quoted is text
        ("'1'", "1"),
        ('"null"', "null"),
        ('"\\ud83d\\ude00"', "😀"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
    ],
)
def test_a_scalar_is_read_as_yaml_1_2_has_it(text: str, value: object) -> None:
    loaded = load(f"[{text}]")
    assert isinstance(loaded, list)
    (read,) = loaded
    assert read == value
    assert type(read) is type(value)


def test_not_a_number() -> None:
    value = load(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert load("a: &a {x: 1}\nb: {<<: *a}") == {"a": {"x": 1}, "b": {"<<": {"x": 1}}}


def test_an_empty_text_is_null_and_a_byte_order_mark_is_ignored() -> None:
    assert load("") is None
    assert load("# only a comment\n") is None
    assert load(b"\xef\xbb\xbfa: 1") == {"a": 1}


def test_places_of_keys_and_values() -> None:
    document = parse("data:\n  train: [a.txt, b.txt]\n  valid: c.txt\n")
    assert document.places == {
        (): Place(Position(1, 1), Position(1, 1)),
        ("data",): Place(Position(1, 1), Position(2, 3)),
        ("data", "train"): Place(Position(2, 3), Position(2, 10)),
        ("data", "train", 0): Place(Position(2, 11), Position(2, 11)),
        ("data", "train", 1): Place(Position(2, 18), Position(2, 18)),
        ("data", "valid"): Place(Position(3, 3), Position(3, 10)),
    }


def test_an_alias_points_at_what_it_stands_for() -> None:
    document = parse("a: &x\n  b: 1\nc: *x\n")
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.places["c", "b"] == Place(Position(2, 3), Position(2, 6))


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("a: 1\nb: 2\na: 3", ["r.yaml:3:1: a: duplicate key; first given at 1:1"]),
        (
            "m:\n  x: 1\n  x: 2\n  y: !!int z",
            [
                "r.yaml:3:3: m.x: duplicate key; first given at 2:3",
                "r.yaml:4:6: m.y: tag !!int is not allowed here; recipes hold plain values only",
            ],
        ),
        ("a: !lazy 1", ["r.yaml:1:4: a: tag !lazy is not allowed here; recipes hold plain values only"]),
        (
            "a: !!python/name:os.system x",
            ["r.yaml:1:4: a: tag !!python/name:os.system is not allowed here; recipes hold plain values only"],
        ),
        ("a: !x {b: 1}", ["r.yaml:1:4: a: tag !x is not allowed here; recipes hold plain values only"]),
        ("1: 2", ["r.yaml:1:1: a key must be text, found `1`; put it in quotes"]),
        ("{? [a]: 2}", ["r.yaml:1:4: a key must be text, found a list or mapping; put it in quotes"]),
        ("a: 1\n--- \nb: 2", ["r.yaml:2:1: a second document (`---`); a recipe is one"]),
        ("a:\n\tb: 1", ["r.yaml:2:1: a tab; YAML is indented and spaced with blanks"]),
        (b"a: 1\nb: caf\xe9\n", ["r.yaml:2:7: not UTF-8: byte 0xe9"]),
        ("a: \x00", ['r.yaml:1:4: unprintable character U+0000; write it as "\\x00", in double quotes']),
        ("a: x\u2028y", ['r.yaml:1:5: unprintable character U+2028; write it as "\\u2028", in double quotes']),
        ('a: "\\ud83d"', ["r.yaml:1:4: a: half a surrogate pair is no character"]),
        ("a: b: c", ["r.yaml:1:5: unexpected `: `; quote text that holds one, or check the indentation"]),
        (
            "a: [1,\n b",
            [
                "r.yaml:2:3: not YAML: expected ',' or ']', but got the end of the text "
                "when parsing a flow sequence from 1:4"
            ],
        ),
        ("a: *x", ["r.yaml:1:4: not YAML: found undefined alias 'x'"]),
        ("a: &a [*a]", ["r.yaml:1:4: an alias in here stands for all of this"]),
        ("a: " + "9" * 5000, ["r.yaml:1:4: a: a number of 5000 digits is too long"]),
        ("[" * 70, ["r.yaml:1:65: more than 64 levels inside each other"]),
    ],
)
def test_a_fault_is_one_line_with_its_place(text: str | bytes, messages: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text, "r.yaml")
    assert caught.value.messages == messages
    assert caught.value.exit_code == 2


def test_aliases_cannot_ask_for_billions_of_values() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(RecipeError, match="more than 100,000 values once aliases are followed"):
        load(bomb)


def test_a_huge_text_is_refused_unread() -> None:
    with pytest.raises(RecipeError, match="longer than"):
        load(b" " * (yaml12.MAX_BYTES + 1))


@pytest.mark.parametrize("text", ["no", "1e-4", "0o7", "null", "", "2001-01-01", "12:30", "y: z", "# x", "- a", "~"])
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    written = dump({"key": text})
    assert written.startswith("key: '")
    assert load(written) == {"key": text}


def test_dump_is_block_style_in_the_given_order() -> None:
    data: yaml12.Plain = {"z": {"b": [1, 2.5, "x"], "a": None}, "empty": [], "also": {}, "small": 1e-5, "t": "a\nb"}
    text = 'z:\n  b:\n    - 1\n    - 2.5\n    - x\n  a: null\nempty: []\nalso: {}\nsmall: 1.0e-05\nt: "a\\nb"\n'
    assert dump(data) == text
    assert load(text) == data
