"""From a checkpoint's files to the parts of a model, whatever somebody put into the files: a part or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from seqkit.errors import CheckpointError
from seqkit.recipe.loading import recipe_from_resolved
from seqkit.recipe.recipe_types import Recipe
from seqkit.runs.checkpoint import Checkpoint
from seqkit.tokenizers.base import Tokenizer
from seqkit.tokenizers.registry import tokenizer_from_json

RecipeT = TypeVar("RecipeT", bound=Recipe)
ModelT = TypeVar("ModelT", bound=nn.Module)


def stored_recipe(checkpoint: Checkpoint, kind: type[RecipeT]) -> RecipeT:
    """The recipe that a model was trained by.

    Raises:
        CheckpointError: It is damaged, or for another task than ``model.json`` says.
    """
    where = f"{checkpoint.path}/recipe.yaml"
    recipe = recipe_from_resolved(checkpoint.recipe, source=where)
    if not isinstance(recipe, kind):
        raise CheckpointError(f"{where}: a recipe for the task {recipe.task}, unlike {checkpoint.path}/model.json")
    return recipe


def stored_tokenizer(checkpoint: Checkpoint, name: str) -> Tokenizer:
    """A tokenizer of a model.

    Args:
        checkpoint: The model.
        name: Its file name.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    text = checkpoint.tokenizers.get(name)
    if text is None:
        raise CheckpointError(f"{checkpoint.path}: {name} is missing")
    try:
        return tokenizer_from_json(text)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}/{name}: damaged tokenizer: {error}") from error


class _NothingDrawn(TorchFunctionMode):
    """Inside, tensors are not filled with random numbers: on the meta device that would import PyTorch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call it, unless it draws."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", None) in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build_to_fit(checkpoint: Checkpoint, build: Callable[[], ModelT]) -> ModelT:
    """Build a model and give it the stored weights.

    Args:
        checkpoint: The weights.
        build: Makes the model that recipe and tokenizers describe.

    Raises:
        CheckpointError: The weights are those of another model.
    """
    # Without memory first: a damaged recipe may describe a model larger than the machine.
    with torch.device("meta"), _NothingDrawn():
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    for name in dict.fromkeys([*expected, *checkpoint.weights]):
        shape = expected.get(name)
        found = tuple(checkpoint.weights[name].shape) if name in checkpoint.weights else None
        if shape != found:
            raise CheckpointError(
                f"{checkpoint.path}: its weights do not fit its recipe "
                f"({name} is {found or 'missing'}, where the recipe's model has {shape or 'none'})"
            )
    model = build()
    model.load_state_dict(checkpoint.weights)
    return model
