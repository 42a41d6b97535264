"""``--set model.d_model=512``: single values of a recipe, given on the command line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from seqkit.recipe import yaml12
from seqkit.recipe.explain import in_words, show
from seqkit.recipe.faults import SET, Fault, KeyPath, Origins, dotted
from seqkit.recipe.keys import Slot, item, slot_at

logger = logging.getLogger(__name__)


def read_overrides(texts: Sequence[str]) -> tuple[list[tuple[KeyPath, yaml12.Plain]], list[Fault]]:
    """Split each ``KEY=VALUE`` at its first ``=``; the value is YAML.

    Args:
        texts: What ``--set`` was given, in order.

    Returns:
        Keys with their values, and a fault for each text that cannot be read.
    """
    pairs: list[tuple[KeyPath, yaml12.Plain]] = []
    faults: list[Fault] = []
    for text in texts:
        name, equals, value = text.partition("=")
        path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
        if not equals:
            faults.append(Fault(message=f"{in_words(text)} is not KEY=VALUE", source=SET))
        elif "" in path:
            faults.append(Fault(message=f"{in_words(name)} is not a dotted key, such as model.d_model", source=SET))
        else:
            try:
                document = yaml12.parse(value, SET)
            except yaml12.YamlError as error:
                faults.append(Fault(message=error.fault.message, path=path, source=SET))
                continue
            inner = document.faults
            faults += [Fault(message=fault.message, path=(*path, *fault.path), source=SET) for fault in inner]
            pairs.append((path, document.data))
    return pairs, faults


def apply_overrides(
    data: dict[str, Any],
    overrides: Sequence[tuple[KeyPath, yaml12.Plain]],
    root: type[BaseModel] | None,
    origins: Origins,
) -> list[Fault]:
    """Put each value at its key; later ones win. Alters ``data`` and notes in ``origins`` what came from here.

    A mapping that is absent is created, with the ``type`` of the schema's default where it needs one. A new
    ``type`` drops the file's keys that only the old type had.

    Args:
        data: The recipe as plain values.
        overrides: Keys and values.
        root: The recipe's type; None while its task is unknown.
        origins: Where its values were written.

    Returns:
        A fault for each key that leads through something that is no mapping or list.
    """
    faults: list[Fault] = []
    for path, value in overrides:
        parent: Any = data
        for depth, key in enumerate(path[:-1], start=1):
            problem = _misfit(parent, path[: depth - 1], key)
            if problem:
                break
            if item(parent, key) is None:
                parent[key] = _new_mapping(slot_at(root, data, path[:depth]) if root is not None else None)
                origins.overridden.add(path[:depth])
            parent = parent[key]
        else:
            problem = _misfit(parent, path[:-1], path[-1])
        if problem:
            faults.append(Fault(message=problem, path=path, source=SET))
            continue
        last = path[-1]
        if root is not None and isinstance(parent, dict) and isinstance(last, str):
            slot = slot_at(root, data, path[:-1])
            if slot is not None and slot.discriminator == last:
                _drop_keys_of_old_type(parent, slot, value, path[:-1], origins)
        parent[last] = value
        origins.overridden.add(path)
    return faults


def _misfit(parent: Any, path: KeyPath, key: str | int) -> str | None:
    """Why ``key`` cannot be set in what stands at ``path``; None if it can."""
    if isinstance(parent, dict):
        return None if isinstance(key, str) else f"{show(path)} is a mapping of keys, not a list"
    if isinstance(parent, list):
        if isinstance(key, int) and key < len(parent):
            return None
        return f"{show(path)} is a list of {len(parent)}; count its items from 0"
    return f"{show(path)} is {in_words(parent)}, not a mapping of keys"


def _new_mapping(slot: Slot | None) -> dict[str, Any]:
    """An empty mapping, or the default's ``type`` where the schema has one."""
    if slot is None or slot.discriminator is None or slot.field is None or slot.field.is_required():
        return {}
    default = slot.field.get_default(call_default_factory=True, validated_data={})
    tag = getattr(default, slot.discriminator, None)
    return {} if tag is None else {slot.discriminator: tag}


def _drop_keys_of_old_type(
    parent: dict[str, Any], slot: Slot, tag: yaml12.Plain, path: KeyPath, origins: Origins
) -> None:
    old = slot.model(parent)
    new = slot.by_tag.get(tag) if isinstance(tag, str) else None
    if old is None or new is None or old is new:
        return
    dropped = [
        key
        for key in parent
        if key in old.model_fields
        and key not in new.model_fields
        and not any(given[: len(path) + 1] == (*path, key) for given in origins.overridden)
    ]
    for key in dropped:
        del parent[key]
    if dropped:
        keys = ", ".join(dotted((*path, key)) for key in dropped)
        logger.info("--set %s=%s leaves out the recipe's %s", dotted((*path, str(slot.discriminator))), tag, keys)
