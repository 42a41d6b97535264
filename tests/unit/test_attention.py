"""Attention and Transformer layers against their equations: the same outputs, weights and gradients."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import reference_transformer as reference
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.models import attention
from seqkit.models.attention import (
    CrossAttention,
    SelfAttention,
    attend,
    attend_without_weights,
    causal_bias,
    padding_bias,
)
from seqkit.models.dropout import SequenceDropout
from seqkit.models.memory import Memory
from seqkit.models.positions import RotaryPositions
from seqkit.models.transformer import TransformerStack
from seqkit.models.transformer_decoder import TransformerDecoder

B, H, T, S, K, D, M, V = 2, 3, 5, 7, 4, 12, 10, 11
D_FEED_FORWARD = 8
NO_DROPOUT = SequenceDropout(0.0)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(module: nn.Module) -> Any:
    """The module in float64 with every parameter, gains and biases included, random."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


@pytest.mark.parametrize("is_causal", [False, True])
def test_attend_is_equation_1(is_causal: bool) -> None:
    q, k, v = random(B, H, T, K), random(B, H, S, K, seed=1), random(B, H, S, K, seed=2)
    bias = causal_bias(T, S, q.device) if is_causal else None
    output_BHTK, weights_BHTS = attend(q, k, v, bias, NO_DROPOUT)
    assert output_BHTK.shape == (B, H, T, K) and weights_BHTS.shape == (B, H, T, S)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                last = S - T + t + 1 if is_causal else S
                expected_K, expected_S = reference.attention(q[b, h, t], list(k[b, h, :last]), list(v[b, h, :last]))
                torch.testing.assert_close(output_BHTK[b, h, t], expected_K)
                torch.testing.assert_close(weights_BHTS[b, h, t, :last], expected_S)
                assert not weights_BHTS[b, h, t, last:].any()


@pytest.mark.parametrize("bias", [None, "causal", "padding"])
def test_the_fused_kernel_computes_the_same(bias: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [random(B, H, T, K), random(B, H, S, K, seed=1), random(B, H, S, K, seed=2)]
    q, k, v = (tensor.requires_grad_() for tensor in tensors)
    mask_BS = torch.tensor([[True] * 3 + [False] * 4, [True] * S])
    given = {None: None, "causal": causal_bias(T, S, q.device), "padding": padding_bias(mask_BS)}[bias]
    upstream = random(B, H, T, K, seed=3)
    fused = Mock(wraps=F.scaled_dot_product_attention)
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    found = []
    for fewest in (10**9, 0):
        monkeypatch.setattr(attention, "_FUSED_SCORES", fewest)
        output = attend_without_weights(q, k, v, given, NO_DROPOUT)
        found.append((output, *torch.autograd.grad((output * upstream).sum(), [q, k, v])))
        assert fused.call_count == (fewest == 0)
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain)


def test_dropout_of_weights_is_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FUSED_SCORES", 0)
    q, k, v = random(B, H, T, K), random(B, H, S, K, seed=1), random(B, H, S, K, seed=2)
    dropout = SequenceDropout(0.5)
    torch.manual_seed(3)
    one, other = attend_without_weights(q, k, v, None, dropout), attend_without_weights(q, k, v, None, dropout)
    assert not torch.allclose(one, other)
    still = attend_without_weights(q, k, v, None, dropout.eval())
    torch.testing.assert_close(still, attend(q, k, v, None, NO_DROPOUT)[0])


@pytest.mark.parametrize("is_rotary", [False, True])
def test_self_attention(is_rotary: bool) -> None:
    module: SelfAttention = randomized(SelfAttention(D, H, rotary=RotaryPositions(D // H) if is_rotary else None))
    x_BTD = random(B, T, D)
    weights: list[Tensor] = []
    found_BTD = module(x_BTD, causal_bias(T, T, x_BTD.device), None, weights)
    torch.testing.assert_close(module(x_BTD, causal_bias(T, T, x_BTD.device)), found_BTD)
    for b in range(B):
        expected_TD, expected_HTT = reference.multi_head(
            x_BTD[b],
            x_BTD[b],
            reference.parts(module.query_key_value, 3),
            module.output,
            num_heads=H,
            sees=lambda t, s: s <= t,
            turn=reference.rotary if is_rotary else None,
        )
        # The angles of rotary positions are of fp32.
        torch.testing.assert_close(found_BTD[b], expected_TD, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights[0][b], expected_HTT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows_per_source", [1, 3])
def test_attention_to_a_memory_with_padding(rows_per_source: int) -> None:
    module: CrossAttention = randomized(CrossAttention(D, M, H))
    length = T if rows_per_source == 1 else 1
    x_NTD = random(B * rows_per_source, length, D)
    memory_BSM = random(B, S, M, seed=1)
    mask_BS = torch.tensor([[True] * 3 + [False] * 4, [True] * S])
    weights: list[Tensor] = []
    found_NTD = module(x_NTD, module.project_memory(memory_BSM), padding_bias(mask_BS), weights)
    projections = [(module.query.weight, module.query.bias), *reference.parts(module.key_value, 2)]
    for n in range(B * rows_per_source):
        b, w = divmod(n, rows_per_source)
        num_real = int(mask_BS[b].sum())
        expected_TD, expected_HTS = reference.multi_head(
            x_NTD[n],
            memory_BSM[b, :num_real],
            projections,
            module.output,
            num_heads=H,
            sees=lambda t, s: True,
        )
        torch.testing.assert_close(found_NTD[n], expected_TD)
        queries = slice(None) if rows_per_source == 1 else slice(w, w + 1)
        torch.testing.assert_close(weights[0][b][:, queries, :num_real], expected_HTS)
        assert not weights[0][b][:, queries, num_real:].any()


def assert_close_gradient(name: str, found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3, msg=lambda text: f"{name}: {text}")
    assert wanted.any(), name


LAYERS = [
    ("sinusoidal", "pre", "relu", False),
    ("learned", "post", "gelu", False),
    ("rotary", "pre", "geglu", False),
    ("rotary", "post", "swiglu", True),
    ("sinusoidal", "post", "relu", True),
    ("learned", "pre", "swiglu", True),
]


@pytest.mark.parametrize(("positions", "norm", "activation", "has_memory"), LAYERS)
def test_a_decoder_is_its_equations(positions: Any, norm: Any, activation: Any, has_memory: bool) -> None:
    stack = TransformerStack(
        2,
        D,
        H,
        D_FEED_FORWARD,
        d_memory=M if has_memory else None,
        activation=activation,
        norm=norm,
        positions=positions,
        max_positions=T,
    )
    model: TransformerDecoder = randomized(TransformerDecoder(V, stack, ties_embeddings=norm == "post"))
    ids_BT = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(8))
    memory_BSM, mask_BS = random(B, S, M, seed=1), torch.tensor([[True] * 3 + [False] * 4, [True] * S])
    own: list[Tensor] = []
    other: list[Tensor] = []
    if has_memory:
        memory = Memory(memory_BSM, mask_BS, memory_BSM.mean(dim=1))
        hidden_BTD = model.attended_hidden(ids_BT, memory, self_weights=own, memory_weights=other)
        logits_BTV = model.output(hidden_BTD)
    else:
        logits_BTV = model(ids_BT)[0]
    expected = []
    for b in range(B):
        real_SM = memory_BSM[b, mask_BS[b]] if has_memory else None
        logits_TV, own_weights, other_weights = reference.decoder(
            model, ids_BT[b].tolist(), positions=positions, memory_SM=real_SM
        )
        expected.append(logits_TV)
        for found, wanted in zip(own, own_weights, strict=has_memory):
            torch.testing.assert_close(found[b], wanted, atol=1e-5, rtol=1e-5)
        for found, wanted in zip(other, other_weights, strict=True):
            torch.testing.assert_close(found[b][:, :, : wanted.size(2)], wanted, atol=1e-5, rtol=1e-5)
    expected_BTV = torch.stack(expected)
    # Positions are tables of fp32.
    torch.testing.assert_close(logits_BTV, expected_BTV, atol=1e-4, rtol=1e-4)
    upstream = random(B, T, V, seed=9)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad((logits_BTV * upstream).sum(), list(parameters.values()))
    wanted_gradients = torch.autograd.grad((expected_BTV * upstream).sum(), list(parameters.values()))
    for name, gradient, wanted in zip(parameters, gradients, wanted_gradients, strict=True):
        assert_close_gradient(name, gradient, wanted)


def test_the_future_does_not_leak_by_gradients() -> None:
    stack = TransformerStack(3, D, H, D_FEED_FORWARD, positions="rotary")
    model: TransformerDecoder = randomized(TransformerDecoder(V, stack))
    ids_BT = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(8))
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    logits_BTV, _ = model(ids_BT)
    for t in range(T):
        (gradient_BTD,) = torch.autograd.grad(logits_BTV[:, t].exp().sum(), embedded, retain_graph=True)
        reaches_BT = gradient_BTD.ne(0).any(dim=-1)
        assert reaches_BT.tolist() == [[s <= t for s in range(T)]] * B


@pytest.mark.parametrize("num_layers", [2, 12])
@torch.no_grad()
def test_initial_branches_add_little_to_the_embedding_however_many_they_are(num_layers: int) -> None:
    torch.manual_seed(0)
    model = TransformerDecoder(V, TransformerStack(num_layers, 64, 4, 256, positions="rotary"))
    ends: list[Tensor] = []
    model.stack.norm.register_forward_hook(lambda module, inputs, output: ends.append(inputs[0]))
    ids_BT = torch.randint(V, (B, 50))
    logits_BTV, _ = model(ids_BT)
    embedded_BTD = model.embedding(ids_BT) * 64**0.5
    assert embedded_BTD.pow(2).mean().item() == pytest.approx(1, abs=0.2)
    assert (ends[0] - embedded_BTD).pow(2).mean().item() < 1
    # Unit vectors into a layer of deviation 1/√D: logits of deviation one, nearly the uniform distribution.
    assert logits_BTV.std().item() == pytest.approx(1, abs=0.2)


def test_each_part_of_a_joint_projection_is_initialised_by_itself() -> None:
    torch.manual_seed(0)
    stack = TransformerStack(1, 64, 4, 256, d_memory=32, norm="post", activation="geglu")
    stack.reset_parameters()
    # Uniform in ±√(6 / (inputs + outputs)), Glorot and Bengio 2010, for each matrix of the paper.
    expected = {
        "self_attention.query_key_value": 6 / 128,
        "self_attention.output": 6 / 128,
        "memory_attention.query": 6 / 128,
        "memory_attention.key_value": 6 / (32 + 64),
        "memory_attention.output": 6 / 128,
        "feed_forward.input": 6 / (64 + 256),
        "feed_forward.output": 6 / (64 + 256),
    }
    for name, square in expected.items():
        weight, bias = (stack.get_parameter(f"layers.0.{name}.{kind}") for kind in ("weight", "bias"))
        assert weight.abs().max().item() == pytest.approx(square**0.5, rel=0.01), name
        assert not bias.any()
