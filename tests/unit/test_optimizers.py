"""Optimizers: one or two updates against the papers' formulas, and what weight decay acts on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkit.models.build import build_language_model, build_seq2seq
from seqkit.recipe.schema import LstmModel, TransformerLm
from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq
from seqkit.recipe.training_schema import Adam, AdamW, Muon, Optimizer, RmsProp, Sgd
from seqkit.training.muon import Muon as MuonOptimizer
from seqkit.training.muon import orthogonalized
from seqkit.training.optimizers import build_optimizer, set_learning_rate

CPU = torch.device("cpu")


class Weighted(nn.Module):
    """A matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.matrix = nn.Parameter(torch.randn(3, 5, generator=generator))
        self.vector = nn.Parameter(torch.randn(7, generator=generator))


def gradients(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {"matrix": torch.randn(3, 5, generator=generator), "vector": torch.randn(7, generator=generator)}


def run(config: Optimizer, num_steps: int) -> dict[str, Tensor]:
    """The weights after updates with known gradients."""
    model = Weighted()
    optimizer = build_optimizer(config, model, CPU)
    for step in range(num_steps):
        for name, gradient in gradients(step).items():
            model.get_parameter(name).grad = gradient.clone()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def expected_sgd(w: Tensor, g: list[Tensor], config: Sgd, decay: float) -> Tensor:
    """v ← μ v + g + λ w; w ← w - lr v, or with Nesterov's form w ← w - lr (g + λ w + μ v)."""
    v = torch.zeros_like(w)
    for gradient in g:
        total = gradient + decay * w
        v = config.momentum * v + total
        w = w - config.lr * (total + config.momentum * v if config.nesterov else v)
    return w


def expected_adam(w: Tensor, g: list[Tensor], config: Adam, decay: float) -> Tensor:
    """Kingma and Ba 2015, algorithm 1; w ← w - lr λ w first, as Loshchilov and Hutter 2019 decouple it."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, gradient in enumerate(g, start=1):
        w = w - config.lr * decay * w
        m = config.beta1 * m + (1 - config.beta1) * gradient
        v = config.beta2 * v + (1 - config.beta2) * gradient**2
        m_hat, v_hat = m / (1 - config.beta1**t), v / (1 - config.beta2**t)
        w = w - config.lr * m_hat / (v_hat.sqrt() + config.eps)
    return w


def expected_rmsprop(w: Tensor, g: list[Tensor], config: RmsProp) -> Tensor:
    """s ← α s + (1 - α) g²; w ← w - lr g / (√s + ε)."""
    s = torch.zeros_like(w)
    for gradient in g:
        s = config.alpha * s + (1 - config.alpha) * gradient**2
        w = w - config.lr * gradient / (s.sqrt() + config.eps)
    return w


@pytest.mark.parametrize(
    "config",
    [
        Sgd(type="sgd", lr=0.3),
        Sgd(type="sgd", lr=0.3, weight_decay=0.2),
        Sgd(type="sgd", lr=0.3, momentum=0.7, weight_decay=0.2),
        Sgd(type="sgd", lr=0.3, momentum=0.7, nesterov=True, weight_decay=0.2),
        Adam(type="adam", lr=0.3, beta1=0.8, beta2=0.95, eps=0.1),
        AdamW(type="adamw", lr=0.3, beta1=0.8, beta2=0.95, eps=0.1, weight_decay=0.2),
        RmsProp(type="rmsprop", lr=0.3, alpha=0.8, eps=0.1),
    ],
    ids=lambda config: f"{config.type}-{getattr(config, 'momentum', '')}-{getattr(config, 'weight_decay', '')}",
)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_updates_are_those_of_the_formulas(config: Optimizer, num_steps: int) -> None:
    before = dict(Weighted().named_parameters())
    for name, found in run(config, num_steps).items():
        w = before[name].detach().double()
        g = [gradients(step)[name].double() for step in range(num_steps)]
        decay = getattr(config, "weight_decay", 0.0) if name == "matrix" else 0.0
        match config:
            case Sgd():
                expected = expected_sgd(w, g, config, decay)
            case Adam():
                expected = expected_adam(w, g, config, decay)
            case RmsProp():
                expected = expected_rmsprop(w, g, config)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [Adam(type="adam", lr=0.5), AdamW(type="adamw", lr=0.5, weight_decay=0.0)])
def test_the_first_step_of_adam_is_the_learning_rate(config: Optimizer) -> None:
    before = Weighted().vector.detach()
    moved = before - run(config, 1)["vector"]
    torch.testing.assert_close(moved, 0.5 * gradients(0)["vector"].sign(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_weight_decay_acts_on_matrices_only_and_on_each_once(ties: bool) -> None:
    config = LstmModel(
        type="lstm", num_layers=2, d_model=5, d_embedding=3, tie_embeddings=ties, initial_state="learned"
    )
    model = build_language_model(config, 7)
    optimizer = build_optimizer(AdamW(type="adamw", weight_decay=0.1), model, CPU)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed: dict[str, float] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in decayed, "a parameter is updated once a step"
            decayed[names[id(parameter)]] = group["weight_decay"]
    assert decayed.keys() == set(names.values()), "no parameter is left out"
    weights = {name for name in decayed if "weight" in name}
    assert len(weights) == 6
    assert {name for name, decay in decayed.items() if decay == 0.1} == weights
    assert {name for name, decay in decayed.items() if decay == 0.0} == decayed.keys() - weights
    assert "stack.initial" in decayed


def test_frozen_parameters_are_left_out() -> None:
    model = Weighted()
    model.matrix.requires_grad_(False)
    optimizer = build_optimizer(AdamW(type="adamw"), model, CPU)
    assert [parameter.shape for group in optimizer.param_groups for parameter in group["params"]] == [(7,)]


@pytest.mark.parametrize("config", [Sgd(type="sgd"), Adam(type="adam"), AdamW(type="adamw"), RmsProp(type="rmsprop")])
def test_the_learning_rate_holds_for_every_group(config: Any) -> None:
    model = Weighted()
    optimizer = build_optimizer(config, model, CPU)
    assert [group["lr"] for group in optimizer.param_groups] == [config.lr, config.lr]
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_a_changed_learning_rate_is_used() -> None:
    model = Weighted()
    before = model.vector.detach().clone()
    optimizer = build_optimizer(Sgd(type="sgd", lr=1.0), model, CPU)
    for rate in (0.5, 0.25):
        set_learning_rate(optimizer, rate)
        model.vector.grad = torch.ones(7)
        optimizer.step()
    torch.testing.assert_close(before - model.vector.detach(), torch.full((7,), 0.75))
    assert math.isclose(optimizer.param_groups[0]["lr"], 0.25)


def test_orthogonalized_keeps_the_directions_and_evens_out_the_singular_values() -> None:
    x_MRC = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x_MRC, full_matrices=False)
    for x, y, is_tall in ((x_MRC, orthogonalized(x_MRC, 5), False), (x_MRC.mT, orthogonalized(x_MRC.mT, 5), True)):
        assert y.shape == x.shape
        y = y.mT if is_tall else y
        inner = u.mT @ y @ vh.mT
        singular = inner.diagonal(dim1=1, dim2=2)
        assert bool(((singular > 0.65) & (singular < 1.25)).all())
        torch.testing.assert_close(inner, torch.diag_embed(singular), atol=1e-9, rtol=0)


def test_muon_updates_matrices_by_its_formula_and_vectors_as_adamw() -> None:
    config = Muon(type="muon", lr=0.3, momentum=0.8, weight_decay=0.2, beta1=0.8, beta2=0.95, eps=0.1, adam_lr=0.1)
    found = run(config, 3)
    before = dict(Weighted().named_parameters())
    w, m = before["matrix"].detach().double(), torch.zeros(3, 5, dtype=torch.float64)
    for step in range(3):
        g = gradients(step)["matrix"].double()
        m = 0.8 * m + 0.2 * g
        update = orthogonalized((0.8 * m + 0.2 * g)[None], 5)[0]
        w = w - 0.3 * (0.2 * w + 0.2 * math.sqrt(5) * update)
    torch.testing.assert_close(found["matrix"].double(), w, atol=1e-5, rtol=1e-5)
    adam = Adam(type="adam", lr=0.1, beta1=0.8, beta2=0.95, eps=0.1)
    g_of_vector = [gradients(step)["vector"].double() for step in range(3)]
    expected = expected_adam(before["vector"].detach().double(), g_of_vector, adam, 0.0)
    torch.testing.assert_close(found["vector"].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_muon_leaves_embeddings_and_the_output_layer_to_adamw(ties: bool) -> None:
    lm = build_language_model(
        TransformerLm(type="transformer", num_layers=1, d_model=8, num_heads=2, context_length=5), 7
    )
    lstm = build_language_model(LstmModel(type="lstm", d_model=5, d_embedding=3, tie_embeddings=ties), 7)
    seq2seq_config = TransformerSeq2Seq(type="transformer", num_layers=1, d_model=8, num_heads=2, tie_embeddings=ties)
    for model in (lm, lstm, build_seq2seq(seq2seq_config, 7, 9, is_joint=False)):
        optimizer = build_optimizer(Muon(type="muon"), model, CPU)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
        assert sorted(name for group in groups for name in group) == sorted(names.values()), "each parameter once"
        at_the_ends = {name for name, p in model.named_parameters() if p.dim() == 2 and (7 in p.shape or 9 in p.shape)}
        vectors = {name for name, p in model.named_parameters() if p.dim() == 1}
        assert set(groups[-2]) == at_the_ends
        assert set(groups[-1]) == vectors
        for group, inside in zip(optimizer.param_groups[:-2], groups[:-2], strict=True):
            for name in inside:
                blocks = {"query_key_value": 3, ".key_value": 2, "weight_ih": 4, "weight_hh": 4}
                assert group["num_blocks"] == max(n if part in name else 1 for part, n in blocks.items())


def test_muon_makes_each_block_orthogonal_by_itself() -> None:
    blocks = nn.Parameter(torch.zeros(6, 5))
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(6))
    group = {"params": [blocks], "weight_decay": 0.0, "orthogonalizes": True, "num_blocks": 3}
    optimizer = MuonOptimizer([group], lr=0.5, momentum=0.9, num_iterations=5, betas=(0.9, 0.99), eps=1e-8, fused=False)
    blocks.grad = gradient
    optimizer.step()
    update = 0.2 * math.sqrt(5) * orthogonalized(gradient.view(3, 2, 5), 5)
    torch.testing.assert_close(blocks.detach(), -0.5 * update.view(6, 5), atol=1e-5, rtol=1e-4)


def test_muon_learning_rates_keep_their_ratio() -> None:
    model = Weighted()
    optimizer = build_optimizer(Muon(type="muon", lr=0.4, adam_lr=0.1), model, CPU)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1]
    set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, pytest.approx(0.05)]
