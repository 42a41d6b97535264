"""What pydantic found wrong with a recipe, in words, each at its key and position."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from seqkit.recipe.config import FaultAtKeyError
from seqkit.recipe.faults import Fault, KeyPath, Origins, dotted
from seqkit.recipe.keys import Slot, all_keys, item, slot_of
from seqkit.recipe.suggest import did_you_mean, suggestion

_RANGES = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LONGEST_QUOTE = 60


def explain(error: ValidationError, root: type[BaseModel], data: Any, origins: Origins) -> list[Fault]:
    """One fault for each thing that is wrong.

    Args:
        error: What validating ``data`` raised.
        root: The type it was validated as.
        data: The recipe as plain values.
        origins: Where its values were written.
    """
    found = [_Found.of(detail, root, data) for detail in error.errors(include_url=False)]
    found = [one for one in found if not one.is_of_other_list]
    faults: list[Fault] = []
    seen_unions: set[KeyPath] = set()
    for one in found:
        if one.union is None:
            faults += _faults_of(one, root, data, origins)
            continue
        # Where text or a list may stand, pydantic says how each of them fails. The one that got further is meant.
        rivals = [other for other in found if other.union == one.union]
        deepest = max(len(other.path) for other in rivals)
        if deepest > len(one.union):
            if len(one.path) == deepest:
                faults += _faults_of(one, root, data, origins)
        elif one.union not in seen_unions:
            seen_unions.add(one.union)
            faults.append(origins.fault(one.path, _expected_message(one.union_slot, one.value)))
    return faults


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One of pydantic's errors, its location freed of union tags."""

    kind: str
    path: KeyPath
    slot: Slot | None
    value: Any
    context: dict[str, Any]
    message: str
    union: KeyPath | None
    union_slot: Slot
    is_of_other_list: bool
    """Pydantic tried a list of mappings on one of texts, or the other way round."""

    @classmethod
    def of(cls, detail: Any, root: type[BaseModel], data: Any) -> _Found:
        rest: list[str | int] = list(detail["loc"])
        path: KeyPath = ()
        slot: Slot | None = slot_of(root)
        union: KeyPath | None = None
        union_slot = slot_of(root)
        is_of_other_list = False
        while rest:
            if slot is not None and len(slot.options) > 1:
                label = str(rest.pop(0))  # which member pydantic tried; no key of the recipe
                if slot.discriminator is None and union is None:
                    union, union_slot = path, slot
                slot = _member(slot, label)
                is_of_other_list = is_of_other_list or _is_other_list(slot, data)
                continue
            key = rest.pop(0)
            path = (*path, key)
            slot = slot.child(data, key) if slot is not None else None
            data = item(data, key)
        return cls(
            kind=detail["type"],
            path=path,
            slot=slot,
            value=detail["input"],
            context=detail.get("ctx", {}),
            message=detail["msg"],
            union=union,
            union_slot=union_slot,
            is_of_other_list=is_of_other_list,
        )


def _is_other_list(slot: Slot | None, value: Any) -> bool:
    """Whether the one option is a list of texts but ``value`` a list with mappings, or the other way round."""
    option = slot.options[0] if slot is not None else None
    if get_origin(option) is not list or not isinstance(value, list):
        return False
    return bool(slot_of(get_args(option)[0]).models) != any(isinstance(each, dict) for each in value)


def _member(slot: Slot, label: str) -> Slot | None:
    """The member of a union that pydantic calls ``label``."""
    if label in slot.by_tag:
        return Slot(options=(slot.by_tag[label],))
    for option in slot.options:
        if label in (getattr(option, "__name__", ""), str(option)) and get_origin(option) is None:
            return Slot(options=(option,))
        if get_origin(option) is list and label == f"list[{getattr(get_args(option)[0], '__name__', '')}]":
            return Slot(options=(option,))
    return None


def _faults_of(found: _Found, root: type[BaseModel], data: Any, origins: Origins) -> list[Fault]:
    path, value = found.path, found.value
    match found.kind:
        case "extra_forbidden":
            return [origins.fault(path, _unknown_key_message(path, root, data), at_key=True)]
        case "missing":
            return [origins.fault(path, "missing key")]
        case "union_tag_not_found" if found.slot is not None:
            return _missing_tag(found.slot, path, value, origins)
        case "union_tag_invalid" if found.slot is not None:
            tag_path = (*path, str(found.slot.discriminator))
            return [origins.fault(tag_path, choice_message(item(value, tag_path[-1]), list(found.slot.by_tag)))]
        case "literal_error" if found.slot is not None:
            words = [str(word) for option in found.slot.options for word in get_args(option)]
            return [origins.fault(path, choice_message(value, words))]
        case "value_error":
            error = found.context.get("error", found.message)
            at = (*path, *error.path) if isinstance(error, FaultAtKeyError) else path
            return [origins.fault(at, str(error), at_key=True)]
        case "finite_number":
            return [origins.fault(path, f"must be a finite number, found {in_words(value)}")]
        case kind if kind in _RANGES:
            word, key = _RANGES[kind]
            message = f"must be {word} {_number(found.context[key])}, found {_number(value)}"
            return [origins.fault(path, message)]
        case kind if kind.endswith("_type") and found.slot is not None:
            return [origins.fault(path, _expected_message(found.slot, value))]
    message = found.message[:1].lower() + found.message[1:]
    return [origins.fault(path, f"{message}, found {in_words(value)}")]


def _unknown_key_message(path: KeyPath, root: type[BaseModel], data: Any) -> str:
    """Say what the key may have been meant as: a neighbour, another type's key, the same key elsewhere."""
    slot: Slot | None = slot_of(root)
    for key in path[:-1]:
        slot = slot.child(data, key) if slot is not None else None
        data = item(data, key)
    key = str(path[-1])
    model = slot.model(data) if slot is not None else None
    if slot is not None and model is not None and slot.discriminator is not None:
        owners = [tag for tag, other in slot.by_tag.items() if key in other.model_fields]
        if owners:
            name = slot.discriminator
            return f"not a key of {name} {data[name]}; it belongs to {name} {' or '.join(owners)}"
    near = did_you_mean(key, model.model_fields) if model is not None else None
    if near is None:
        near = next((other for other in all_keys(root) if other.rpartition(".")[2] == key), None)
    return f"unknown key; did you mean {near}?" if near else "unknown key"


def _missing_tag(slot: Slot, path: KeyPath, value: Any, origins: Origins) -> list[Fault]:
    """The ``type`` is missing; a misspelt one is likely among the keys that no type has."""
    name = str(slot.discriminator)
    known = {key for model in slot.models for key in model.model_fields}
    faults = [origins.fault((*path, name), f"missing key; one of {', '.join(slot.by_tag)}")]
    for key in value if isinstance(value, dict) else ():
        if key not in known:
            faults.append(origins.fault((*path, key), f"unknown key{suggestion(key, known)}", at_key=True))
    return faults


def choice_message(value: Any, words: Sequence[str]) -> str:
    """A word that is not among the choices, and the nearest that is."""
    near = suggestion(value, words) if isinstance(value, str) else ""
    return f"expected {'one of ' if len(words) > 1 else ''}{', '.join(words)}; found {in_words(value)}{near}"


def _expected_message(slot: Slot, value: Any) -> str:
    if len(slot.options) == 1 and slot.models and isinstance(value, dict):
        return "expected a mapping of keys"
    expected = list(dict.fromkeys(_expectation(option) for option in slot.options))
    return f"expected {' or '.join(expected)}, found {in_words(value)}"


def _expectation(option: Any) -> str:
    if get_origin(option) is list:
        inner = slot_of(get_args(option)[0])
        return "a list of texts" if inner.options == (str,) else "a list of mappings" if inner.models else "a list"
    if get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, get_args(option)))
    if isinstance(option, type) and issubclass(option, BaseModel):
        return "a mapping of keys"
    return _TYPE_NAMES.get(option, str(option))


def in_words(value: Any) -> str:
    """A value as a message quotes it: ``the text "x"``, ``the number 3``, ``a list``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {_number(value)}"
    if isinstance(value, str):
        shown = value if len(value) <= _LONGEST_QUOTE else value[: _LONGEST_QUOTE - 1] + "…"
        return f"the text {json.dumps(shown, ensure_ascii=False)}"
    return "a list" if isinstance(value, list) else "a mapping of keys"


def _number(value: Any) -> str:
    """A number without a needless ``.0``."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = str(value) if not isinstance(value, int) or abs(value) < 10**20 else f"{value:.3e}"
    return text.replace("inf", ".inf").replace("nan", ".nan")


def unknown_task(data: Any, tasks: Sequence[str], origins: Origins) -> Fault:
    """The fault of a recipe whose ``task`` is missing or unknown."""
    if not isinstance(data, dict) or "task" not in data:
        return origins.fault(("task",), f"missing key; one of {', '.join(tasks)}")
    return origins.fault(("task",), choice_message(data["task"], tasks))


def show(path: KeyPath) -> str:
    """A key for a message; the recipe as a whole has none."""
    return dotted(path) or "the recipe"
