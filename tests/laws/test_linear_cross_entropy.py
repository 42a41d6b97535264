"""The chunked output layer and loss equals the plain one: values, gradients, any chunking, any split of a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.models import linear_cross_entropy as module
from seqkit.models.linear_cross_entropy import linear_cross_entropy

N, D, V = 7, 3, 11


@pytest.fixture(autouse=True)
def _chunk_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    # No vocabulary is small, and a chunk is one row unless a test says otherwise.
    monkeypatch.setattr(module, "_SMALL_VOCABULARY", 0)
    monkeypatch.setattr(module, "_LOGITS_PER_CHUNK", 1)
    monkeypatch.setattr(module, "_FEWEST_ROWS", 2)


def inputs(*, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).requires_grad_()

    return draw(N, D), draw(V, D), draw(V), torch.randint(V, (N,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), target, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_equals_the_plain_loss_and_its_gradients(
    smoothing: float, has_bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FEWEST_ROWS", rows)
    hidden, weight, bias, target = inputs()
    arguments = (hidden, weight, bias if has_bias else None, target)
    wanted = torch.autograd.grad(plain(*arguments, smoothing) * 0.7, [t for t in arguments[:3] if t is not None])
    loss, nats = linear_cross_entropy(*arguments, label_smoothing=smoothing)
    torch.testing.assert_close(loss, plain(*arguments, smoothing))
    torch.testing.assert_close(nats, plain(*arguments, 0.0).detach())
    assert not nats.requires_grad
    got = torch.autograd.grad(loss * 0.7, [t for t in arguments[:3] if t is not None])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_the_plain_way_smooths_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL_VOCABULARY", V + 1)
    arguments = inputs()
    loss, nats = linear_cross_entropy(*arguments, label_smoothing=0.2)
    torch.testing.assert_close(loss, plain(*arguments, 0.2))
    torch.testing.assert_close(nats, plain(*arguments, 0.0).detach())


def test_without_gradients_the_value_is_the_same() -> None:
    arguments = inputs()
    with torch.no_grad():
        loss, nats = linear_cross_entropy(*arguments, label_smoothing=0.1)
    torch.testing.assert_close(loss, plain(*arguments, 0.1).detach())
    torch.testing.assert_close(nats, plain(*arguments, 0.0).detach())


def test_huge_logits_stay_finite() -> None:
    arguments = inputs(scale=300.0)
    loss, _ = linear_cross_entropy(*arguments)
    torch.testing.assert_close(loss, plain(*arguments, 0.0))
    gradients = torch.autograd.grad(loss, arguments[:3])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_split_batch_adds_up() -> None:
    hidden, weight, bias, target = inputs()
    whole, _ = linear_cross_entropy(hidden, weight, bias, target)
    parts = [linear_cross_entropy(hidden[s], weight, bias, target[s])[0] for s in (slice(0, 3), slice(3, N))]
    torch.testing.assert_close(sum(parts), whole)


def test_in_bf16_it_is_the_plain_loss_to_rounding() -> None:
    hidden, weight, bias, target = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = linear_cross_entropy(hidden, weight, bias, target)
    gradients = torch.autograd.grad(loss, [hidden, weight, bias])
    wanted = torch.autograd.grad(plain(hidden, weight, bias, target, 0.0), [hidden, weight, bias])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(hidden, weight, bias, target, 0.0), rtol=0.02, atol=0.02)
    for one, other in zip(gradients, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_a_tied_matrix_gets_the_gradients_of_both_uses() -> None:
    _, weight, bias, target = inputs()
    hidden = torch.tanh(F.embedding(target.flip(0), weight))
    loss, _ = linear_cross_entropy(hidden, weight, bias, target)
    (got,) = torch.autograd.grad(loss, [weight], retain_graph=True)
    again = torch.tanh(F.embedding(target.flip(0), weight))
    (wanted,) = torch.autograd.grad(plain(again, weight, bias, target, 0.0), [weight])
    torch.testing.assert_close(got, wanted)
