"""The keys of a recipe as a tree, read off the schema's types.

A :class:`Slot` is one place of the tree and knows what may stand there: one type, or several of which a
discriminator (``type``) picks one. Messages, overrides, path expansion and completion all walk it.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from seqkit.recipe.config import LOCAL_PATH
from seqkit.recipe.faults import KeyPath


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What may stand at one key.

    Args:
        options: The types, None aside.
        nullable: Whether null may stand there too.
        discriminator: The key that tells mapping types apart, where there is one.
        is_path: Whether the path of one file may stand there.
        field: The schema's field, for its description and default; None at the root and inside lists.
    """

    options: tuple[Any, ...]
    nullable: bool = False
    discriminator: str | None = None
    is_path: bool = False
    field: FieldInfo | None = None

    @property
    def models(self) -> list[type[BaseModel]]:
        """The mapping types among the options."""
        return [option for option in self.options if isinstance(option, type) and issubclass(option, BaseModel)]

    @property
    def by_tag(self) -> dict[str, type[BaseModel]]:
        """The mapping types by what their discriminator must say; empty without a discriminator."""
        if self.discriminator is None:
            return {}
        tags = [(tag, model) for model in self.models for tag in _tags(model, self.discriminator)]
        return dict(tags)

    @property
    def is_data_source(self) -> bool:
        """Whether a corpus may be named here: text, or a list of texts."""
        return {str, list[str]} <= set(self.options)

    def model(self, value: Any) -> type[BaseModel] | None:
        """The mapping type that ``value`` has or should have; None where it cannot be told."""
        if self.discriminator is not None:
            tag = value.get(self.discriminator) if isinstance(value, dict) else None
            return self.by_tag.get(tag) if isinstance(tag, str) else None
        return self.models[0] if len(self.models) == 1 else None

    def child(self, value: Any, key: str | int) -> Slot | None:
        """The slot under ``key`` of ``value``, which stands here; None if the schema has no such key."""
        model = self.model(value)
        if model is not None and key in model.model_fields:
            return slot_of_field(model.model_fields[str(key)])
        items = [get_args(option)[0] for option in self.options if get_origin(option) is list]
        if not isinstance(key, int) or not items:
            return None
        # Of lists of texts and of mappings the one that the item belongs to.
        fits = [kind for kind in items if isinstance(item(value, key), dict) == bool(slot_of(kind).models)]
        return slot_of((fits or items)[0])


def slot_of(annotation: Any, field: FieldInfo | None = None, discriminator: str | None = None) -> Slot:
    """The slot that a type annotation describes."""
    options: list[Any] = []
    nullable = is_path = False
    pending = [annotation]
    while pending:
        kind = pending.pop(0)
        origin = get_origin(kind)
        if origin is Annotated:
            inner, *extras = get_args(kind)
            discriminator = discriminator or _discriminator_among(extras)
            is_path = is_path or LOCAL_PATH in extras
            pending.insert(0, inner)
        elif origin in (Union, types.UnionType):
            pending[:0] = get_args(kind)
        elif kind is type(None):
            nullable = True
        else:
            options.append(kind)
    return Slot(options=tuple(options), nullable=nullable, discriminator=discriminator, is_path=is_path, field=field)


def slot_of_field(field: FieldInfo) -> Slot:
    """The slot of a config's field."""
    discriminator = field.discriminator if isinstance(field.discriminator, str) else None
    return slot_of(field.annotation, field, discriminator)


def slot_at(root: type[BaseModel], data: Any, path: KeyPath) -> Slot | None:
    """The slot at ``path`` of ``data``; None where the schema has no such key."""
    slot: Slot | None = slot_of(root)
    for key in path:
        if slot is None:
            return None
        slot = slot.child(data, key)
        data = item(data, key)
    return slot


def item(data: Any, key: str | int) -> Any:
    """What stands under ``key``, or None."""
    if isinstance(data, dict):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data):
        return data[key]
    return None


def walk(root: type[BaseModel], data: Any) -> Iterator[tuple[KeyPath, Slot, Any]]:
    """Every value of ``data`` that the schema knows, with its key and slot, parents first."""
    pending: list[tuple[KeyPath, Slot, Any]] = [((), slot_of(root), data)]
    while pending:
        path, slot, value = pending.pop(0)
        yield path, slot, value
        keys: list[str | int] = []
        if isinstance(value, dict):
            keys = list(value)
        elif isinstance(value, list):
            keys = list(range(len(value)))
        for key in keys:
            child = slot.child(value, key)
            if child is not None:
                pending.append(((*path, key), child, value[key]))


def all_keys(root: type[BaseModel]) -> dict[str, Slot]:
    """Every dotted key that recipes of type ``root`` may hold, whatever the ``type`` of each part."""
    found: dict[str, Slot] = {}

    def add(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            slot = slot_of_field(field)
            known = found.get(prefix + name)
            if known is not None and known.options != slot.options:  # such as `type`, once for each
                slot = Slot(options=(*known.options, *slot.options), field=field)
            found[prefix + name] = slot
            for member in slot.models:
                add(member, f"{prefix}{name}.")

    add(root, "")
    return found


def choices(slot: Slot) -> list[str]:
    """The words that may stand in ``slot``, where it holds words of a fixed list or a truth value."""
    words: list[str] = []
    for option in slot.options:
        if get_origin(option) is Literal:
            words += [str(value) for value in get_args(option)]
        elif option is bool:
            words += ["true", "false"]
    return list(dict.fromkeys(words))


def _tags(model: type[BaseModel], discriminator: str) -> list[str]:
    field = model.model_fields.get(discriminator)
    return [str(tag) for tag in get_args(field.annotation)] if field is not None else []


def _discriminator_among(extras: list[Any]) -> str | None:
    for extra in extras:
        if isinstance(extra, FieldInfo) and isinstance(extra.discriminator, str):
            return extra.discriminator
    return None
