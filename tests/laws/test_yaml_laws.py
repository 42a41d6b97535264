"""Laws of reading and writing recipes: what is written reads back, and no input crashes the reader."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.errors import RecipeError
from seqkit.recipe.loading import RecipeText, examine
from seqkit.recipe.yaml12 import Plain, dump, load

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["no", "1e-4", "0o7", "0x1f", "~", "1_000", "<<", "=", "---", "...", "\x85", "\u2028", "\ufeff"]),
)
VALUES: st.SearchStrategy[Plain] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=140), inner, max_size=4),
    max_leaves=12,
)
YAML_LIKE = st.text(alphabet=st.sampled_from(list("ab01.:-?[]{},&*!|>'\"%@#~ \n\t\\xuU")), max_size=60)


@given(VALUES)
@settings(deadline=None, max_examples=150)
def test_what_is_dumped_loads_as_it_was(value: Plain) -> None:
    text = dump(value)
    again = load(text)
    assert again == value
    assert load(text.encode()) == value
    assert dump(again) == text


@given(st.one_of(st.binary(max_size=80), YAML_LIKE.map(str.encode), st.text(max_size=60).map(str.encode)))
@settings(deadline=None, max_examples=300)
def test_random_bytes_load_or_give_a_recipe_error(text: bytes) -> None:
    with contextlib.suppress(RecipeError):
        load(text)


@given(
    st.dictionaries(
        st.sampled_from(["seed", "data", "tokenizer", "model", "train", "sample", "evaluate", "x"]),
        VALUES,
        max_size=5,
    ),
    st.lists(
        st.tuples(st.sampled_from(["task", "model.type", "data.train.0", "train.schedule.type", "a..b"]), YAML_LIKE)
    ),
)
@settings(deadline=None, max_examples=100)
def test_any_recipe_is_examined_without_a_crash(data: dict[str, Plain], overrides: list[tuple[str, str]]) -> None:
    text = dump({"task": "lm", **data}).encode()
    found = RecipeText(name="r", source="r.yaml", path=None, text=text)
    examination = examine(found, overrides=[f"{key}={value}" for key, value in overrides])
    assert (examination.recipe is None) == bool(examination.faults)
    assert all("\n" not in str(fault) for fault in examination.faults)
