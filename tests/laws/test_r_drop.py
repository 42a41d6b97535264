"""R-Drop: the chunked loss and its gradient are those of the formula, written plainly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_pairs import pairs_recipe
from tiny_runs import run_training
from torch import Tensor, nn

from seqkit.data.pair_batching import pair_batch
from seqkit.errors import InterruptedRunError, RecipeError
from seqkit.models import r_drop
from seqkit.models.r_drop import r_drop_cross_entropy
from seqkit.recipe.loading import load_recipe
from seqkit.tasks.registry import prepare
from seqkit.tasks.seq2seq import PreparedSeq2Seq, pair_loss

N, D, V = 11, 5, 7


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    # 4 rows a chunk: two whole chunks and one of 3.
    monkeypatch.setattr(r_drop, "_LOGITS_PER_CHUNK", 4 * V)
    monkeypatch.setattr(r_drop, "_FEWEST_ROWS", 1)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((2, N, D), (V, D), (V,))
    )
    return hidden, weight, bias, torch.randint(V, (N,), generator=generator)


def plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, alpha: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    one, two = F.linear(hidden, weight, bias).log_softmax(-1)
    ce = [F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing) for logits in (one, two)]
    kl = F.kl_div(one, two, log_target=True, reduction="sum") + F.kl_div(two, one, log_target=True, reduction="sum")
    nats = (F.nll_loss(one, target, reduction="sum") + F.nll_loss(two, target, reduction="sum")) / 2
    return (ce[0] + ce[1]) / 2 + alpha * kl / 4, nats.detach()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("alpha", [0.25, 5.0])
@pytest.mark.parametrize("has_bias", [True, False])
def test_loss_and_gradients_are_those_of_the_formula(alpha: float, smoothing: float, has_bias: bool) -> None:
    hidden, weight, bias, target = inputs()
    given = [hidden, weight, bias] if has_bias else [hidden, weight]
    used = bias if has_bias else None
    loss, nats = r_drop_cross_entropy(hidden, weight, used, target, alpha=alpha, label_smoothing=smoothing)
    wanted, wanted_nats = plain(hidden, weight, used, target, alpha, smoothing)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(nats, wanted_nats)
    assert not nats.requires_grad
    # Scaled, as the mean over tokens scales it.
    for one, other in zip(torch.autograd.grad(loss / 7, given), torch.autograd.grad(wanted / 7, given), strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_is_the_slope() -> None:
    given = inputs()
    target = given[-1]
    generator = torch.Generator().manual_seed(8)
    directions = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in given[:3]]

    def loss_at(distance: float) -> Tensor:
        hidden, weight, bias = (tensor + distance * way for tensor, way in zip(given[:3], directions, strict=True))
        return r_drop_cross_entropy(hidden, weight, bias, target, alpha=2.0, label_smoothing=0.1)[0]

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    gradients = torch.autograd.grad(loss_at(0.0), given[:3])
    expected = sum((gradient * way).sum() for gradient, way in zip(gradients, directions, strict=True))
    torch.testing.assert_close(slope.detach(), expected, rtol=1e-6, atol=1e-6)


def test_equal_passes_are_plain_cross_entropy() -> None:
    hidden, weight, bias, target = inputs()
    same = hidden[:1].expand(2, -1, -1)
    loss, nats = r_drop_cross_entropy(same, weight, bias, target, alpha=9.0)
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(hidden[0], weight, bias), target, reduction="sum"))
    torch.testing.assert_close(nats, loss.detach())
    # So different passes must have been told apart: there the divergence counts.
    assert plain(hidden, weight, bias, target, 9.0, 0.0)[0] > plain(hidden, weight, bias, target, 0.0, 0.0)[0] + 1


def test_in_bf16_it_is_the_formula_to_rounding() -> None:
    hidden, weight, bias, target = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nats = r_drop_cross_entropy(hidden, weight, bias, target, alpha=1.0)
    wanted, wanted_nats = plain(hidden, weight, bias, target, 1.0, 0.0)
    assert loss.dtype == nats.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0.02)
    torch.testing.assert_close(nats, wanted_nats, rtol=0.02, atol=0.02)
    given = [hidden, weight, bias]
    for one, other in zip(torch.autograd.grad(loss, given), torch.autograd.grad(wanted, given), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.08)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[[200.0, -200.0]], [[-200.0, 200.0]]], requires_grad=True)
    loss, _ = r_drop_cross_entropy(hidden, torch.eye(2), None, torch.tensor([0]), alpha=5.0)
    (gradient,) = torch.autograd.grad(loss, [hidden])
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())


def task(folder: Path, **train: object) -> PreparedSeq2Seq:
    recipe = pairs_recipe(folder, model={"dropout": 0.4}, train={"max_steps": 6, **train})
    made = prepare(recipe, folder / "cache", seed=1)
    assert isinstance(made, PreparedSeq2Seq)
    return made


def test_a_batch_goes_twice_through_encoder_and_decoder(tmp_path: Path) -> None:
    made = task(tmp_path, r_drop=2.0, label_smoothing=0.1)
    torch.manual_seed(5)
    model = made.build_model()
    seen: list[tuple[int, ...]] = []
    for part in (model.encoder, model.decoder.get_submodule("stack")):
        part.register_forward_hook(lambda module, given, result: seen.append(given[0].shape))
    batch = made.batches.batch(0, 0)
    num_pairs, num_tokens = len(batch.src_PS), int(batch.tgt_mask_PT.sum())
    loss = made.loss(model.train(), batch, None, 0.5)
    assert [shape[0] for shape in seen] == [2 * num_pairs, 2 * num_pairs]
    assert loss.num_tokens == num_tokens
    # Without dropout both passes are the same, and it is the plain loss of the pairs once.
    model.eval()
    with_r_drop = made.loss(model, batch, None, 0.5)
    smoothed, nats, _ = pair_loss(model, batch, label_smoothing=0.1)
    torch.testing.assert_close(with_r_drop.nats, smoothed)
    assert with_r_drop.reported is not None
    torch.testing.assert_close(with_r_drop.reported, nats)
    # With it they differ, and that costs.
    reported = made.loss(model.train(), batch, None, 0.5).reported
    assert reported is not None and float(loss.nats.detach()) > float(reported)


def test_padding_counts_for_nothing(tmp_path: Path) -> None:
    made = task(tmp_path, r_drop=2.0)
    torch.manual_seed(5)
    model = made.build_model()
    model.eval()
    store = made.corpora.train
    order = store.tgt.lengths().argsort()
    chosen = order[[0, -1]]
    eos = (made.src.eos_id, made.tgt.eos_id)

    def loss_of(rows: object) -> Tensor:
        batch = pair_batch((store.src, store.tgt), rows, bos_id=made.tgt.bos_id, eos_ids=eos)  # type: ignore[arg-type]
        return pair_loss(model, batch, r_drop=2.0)[0]

    together = loss_of(chosen)
    torch.testing.assert_close(together, loss_of(chosen[:1]) + loss_of(chosen[1:]), rtol=1e-4, atol=1e-4)


def test_training_with_r_drop_learns_and_resumes_to_the_bit(tmp_path: Path) -> None:
    train = {"max_steps": 6, "r_drop": 1.0, "accumulate": 2, "optimizer": {"type": "adam", "lr": 0.01}}
    recipe = pairs_recipe(tmp_path, model={"dropout": 0.2}, train=train)
    whole, _ = run_training(recipe, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        run_training(recipe, tmp_path / "parts", stop_at=3)
    torch.manual_seed(1)
    parts, _ = run_training(recipe, tmp_path / "parts", resume=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, parts.model.state_dict()[name]), name
    assert isinstance(whole.model, nn.Module)
    plain_state, _ = run_training(
        recipe.model_copy(update={"train": recipe.train.model_copy(update={"r_drop": None})}), tmp_path / "plain"
    )
    assert not torch.equal(plain_state.model.state_dict()[name], weight)


def test_r_drop_without_dropout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = "{src: builtin:hello, tgt: builtin:hello}"
    path.write_text(
        f"task: seq2seq\ndata: {{train: {text}, valid: {text}}}\ntokenizer: {{type: char}}\n"
        "model: {type: transformer, dropout: 0}\ntrain: {max_steps: 1}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path), overrides=["train.r_drop=5"])
    assert caught.value.messages == [
        "--set train.r_drop: draws together what dropout makes differ, but the model has none"
    ]
    assert load_recipe(str(path), overrides=["train.r_drop=5", "model.attention_dropout=0.1"]).recipe.train is not None
