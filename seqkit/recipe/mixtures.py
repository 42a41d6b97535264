"""What recipes of every task that mixes corpora check: a list of mappings under ``data.train``, and a temperature."""

from __future__ import annotations

from typing import Any

from seqkit.recipe.config import FaultAtKeyError


def has_mappings(train: Any) -> bool:
    """Whether ``data.train`` is a list in which corpora to mix stand."""
    return isinstance(train, list) and any(isinstance(each, dict) for each in train)


def check_list_to_mix(data: Any, key: str) -> None:
    """Refuse a list of which some items are names and some mappings.

    Args:
        data: The recipe's ``data`` section as plain values.
        key: What a mapping names its text by.

    Raises:
        FaultAtKeyError: It is one.
    """
    train = data.get("train") if isinstance(data, dict) else None
    if isinstance(train, list) and has_mappings(train) and not all(isinstance(each, dict) for each in train):
        raise FaultAtKeyError(
            ("train",), f"lists names, which are joined, beside mappings, which are mixed; write each as {key}: NAME"
        )


def check_mixture(is_mixture: bool, temperature: float) -> None:
    """Refuse a temperature where there is nothing to mix.

    Raises:
        FaultAtKeyError: There is not.
    """
    if not is_mixture and temperature != 1:
        raise FaultAtKeyError(("mix_temperature",), "is for a mixture: data.train with a list of weighted corpora")
