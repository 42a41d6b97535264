"""The mean of the weights of several checkpoints: often better than any one of them, and as fast to use.

Vaswani et al. 2017, section 6.1, average the last checkpoints of a run; Izmailov et al. 2018 say why that helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seqkit.errors import UsageError
from seqkit.recipe.loading import differing_keys, recipe_from_resolved
from seqkit.runs.checkpoint import Checkpoint, read_checkpoint
from seqkit.runs.tensor_file import storage_key


@dataclass(frozen=True, kw_only=True)
class AveragedCheckpoints:
    """What several checkpoints come to together."""

    weights: dict[str, Tensor]
    """The mean of each weight, in its own type; tied ones are one tensor under several names."""
    members: list[Checkpoint]
    """The checkpoints without their weights, in the order given."""
    differences: list[str]
    """Where a recipe differs from that of the first one; models that share no beginning have no useful mean."""

    @property
    def newest(self) -> Checkpoint:
        """The member of the highest step; of equals the last one given."""
        return max(reversed(self.members), key=lambda member: int(member.facts.get("step", 0)))


def average_checkpoints(folders: Sequence[Path]) -> AveragedCheckpoints:
    """Read checkpoints, one at a time, and average their weights.

    Args:
        folders: Checkpoint folders; one at least.

    Raises:
        UsageError: Two of them are of different tasks, models or tokenizers.
        CheckpointError: One is damaged.
    """
    members: list[Checkpoint] = []

    def weights() -> Iterable[Mapping[str, Tensor]]:
        shapes: dict[str, torch.Size] = {}
        for folder in folders:
            checkpoint = read_checkpoint(folder, train_state=False)
            found = {name: tensor.shape for name, tensor in checkpoint.weights.items()}
            if members:
                _require_same_model(members[0], shapes, checkpoint, found)
            shapes = shapes or found
            members.append(_without_weights(checkpoint))
            yield checkpoint.weights

    mean = average_weights(weights())
    recipes = [recipe_from_resolved(member.recipe, source=f"{member.path}/recipe.yaml") for member in members]
    differences = dict.fromkeys(line for recipe in recipes[1:] for line in differing_keys(recipes[0], recipe))
    return AveragedCheckpoints(weights=mean, members=members, differences=list(differences))


def average_weights(models: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each weight over several models of the same names and shapes, summed in double precision.

    What is no floating-point number, such as a count, is taken from the last model.

    >>> average_weights([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 2.0])}])
    {'w': tensor([2., 2.])}
    """
    sums: dict[str, Tensor] = {}
    last: Mapping[str, Tensor] = {}
    num_models = 0
    for last in models:
        num_models += 1
        for name, tensor in last.items():
            if tensor.is_floating_point():
                sums[name] = tensor.double() if name not in sums else sums[name].add_(tensor)
    owners: dict[object, Tensor] = {}
    mean: dict[str, Tensor] = {}
    for name, tensor in last.items():
        averaged = (sums.pop(name) / num_models).to(tensor.dtype) if name in sums else tensor
        key = storage_key(tensor)
        mean[name] = averaged if key is None else owners.setdefault(key, averaged)
    return mean


def _require_same_model(
    first: Checkpoint, shapes: dict[str, torch.Size], other: Checkpoint, other_shapes: dict[str, torch.Size]
) -> None:
    """Check that the mean of two models is a model.

    Raises:
        UsageError: It is none; the message names both and what differs.
    """

    def refuse(what: str) -> UsageError:
        return UsageError(
            f"cannot average {first.path} and {other.path}: {what}",
            hint="take checkpoints of one run, or of one recipe",
        )

    if first.facts.get("task") != other.facts.get("task"):
        raise refuse(f"one is for the task {first.facts.get('task')}, one for {other.facts.get('task')}")
    recipes = [recipe_from_resolved(member.recipe, source=f"{member.path}/recipe.yaml") for member in (first, other)]
    changed = [line for line in differing_keys(recipes[0], recipes[1]) if line.startswith("model.")]
    if changed:
        raise refuse(f"their models differ ({'; '.join(changed)})")
    if first.tokenizers != other.tokenizers:
        raise refuse("their tokenizers differ")
    for name in dict.fromkeys([*shapes, *other_shapes]):
        one, two = (tuple(s[name]) if name in s else "missing" for s in (shapes, other_shapes))
        if one != two:
            raise refuse(f"the weight {name} is {one} in one, {two} in the other")


def _without_weights(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint(
        path=checkpoint.path,
        weights={},
        tokenizers=checkpoint.tokenizers,
        recipe=checkpoint.recipe,
        facts=checkpoint.facts,
        train_state=None,
    )
