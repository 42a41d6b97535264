"""The moving average of the weights: its formula, taking turns with the weights, and going on from a saved state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seqkit.models.build import build_language_model
from seqkit.recipe.schema import GruModel
from seqkit.training.averaging import WeightAverage


def set_weights(model: nn.Module, number: int) -> dict[str, Tensor]:
    """Give the model the weights of a known step, and return them."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return copied(model)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def averages(model: nn.Module, average: WeightAverage) -> dict[str, Tensor]:
    with average.swapped_in():
        return copied(model)


def small_model() -> nn.Module:
    torch.manual_seed(2)
    return build_language_model(GruModel(type="gru", d_model=5, tie_embeddings=True), 7)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("decay", [0.15, 0.3, 0.999])
def test_the_average_follows_its_formula(decay: float) -> None:
    model = small_model()
    expected = {name: tensor.double() for name, tensor in set_weights(model, 0).items()}
    average = WeightAverage(model, decay)
    for n in range(9):
        weights = set_weights(model, n + 1)
        average.update()
        # 1/10, 2/11, 3/12, ... until the decay itself is reached.
        d = min(decay, (1 + n) / (10 + n))
        expected = {name: d * expected[name] + (1 - d) * weights[name].double() for name in expected}
        for name, found in averages(model, average).items():
            torch.testing.assert_close(found.double(), expected[name], atol=1e-5, rtol=1e-5)
        assert_same(copied(model), weights)
    assert average.num_updates == 9


def test_before_the_first_update_it_is_the_weights() -> None:
    model = small_model()
    first = copied(model)
    average = WeightAverage(model, 0.9)
    set_weights(model, 3)
    assert_same(averages(model, average), first)


def test_after_an_error_the_model_has_its_own_weights_again() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    weights = set_weights(model, 3)
    with pytest.raises(KeyError, match="inside"), average.swapped_in():
        assert not torch.equal(next(model.parameters()), weights["embedding.weight"])
        raise KeyError("inside")
    assert_same(copied(model), weights)


def test_swapping_moves_no_number() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    weights = set_weights(model, 3)
    average.update()
    first = averages(model, average)
    for _ in range(5):
        assert_same(averages(model, average), first)
    assert_same(copied(model), weights)


def test_the_optimizer_goes_on_with_the_weights_after_a_swap() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    weights = set_weights(model, 3)
    averages(model, average)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_same(copied(model), {name: tensor - 1 for name, tensor in weights.items()})


def test_a_saved_state_goes_on_the_same() -> None:
    model = small_model()
    average = WeightAverage(model, 0.7)
    for number in range(4):
        set_weights(model, number)
        average.update()
    saved = average.state_dict()
    saved = {**saved, "averages": [tensor.clone() for tensor in saved["averages"]]}  # type: ignore[union-attr]
    # The model of a resumed run holds the weights being trained; its average is read back.
    other_model = small_model()
    other = WeightAverage(other_model, 0.7)
    other.load_state_dict(saved)
    for number in range(4, 7):
        for one, its_average in ((model, average), (other_model, other)):
            set_weights(one, number)
            its_average.update()
    assert other.num_updates == average.num_updates == 7
    assert_same(averages(other_model, other), averages(model, average))


def test_a_state_of_another_model_is_refused() -> None:
    average = WeightAverage(small_model(), 0.7)
    saved = average.state_dict()
    with pytest.raises(ValueError, match=r"zip\(\)"):
        average.load_state_dict({**saved, "averages": saved["averages"][:-1]})  # type: ignore[index]
