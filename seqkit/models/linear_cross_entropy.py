"""Output layer and cross-entropy in one, without ever holding all logits.

For a large vocabulary the logits are the largest tensor of a training step, and passing over them again and again
costs as much as the matrix products. Here a few rows at a time go all the way to their gradients while their
logits are still in the processor's cache. The same idea has been used for large vocabularies on GPUs (Wijmans et
al. 2024, "Cut Your Losses"; Hsu et al. 2024, "Liger Kernel").

Legend: N target tokens, R rows of one chunk, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LOGITS_PER_CHUNK = 2**22
"""Logits of one chunk: 16 MiB in fp32, near what a cache holds."""
_FEWEST_ROWS = 64
"""Rows of a chunk at least: products of fewer run far below the machine's rate."""
_SMALL_VOCABULARY = 1024
"""Below this, PyTorch's own two steps are at least as fast."""


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``softmax(hidden @ weight.T + bias)``, summed over the tokens.

    Products run in the autocast type where autocast is on; softmax, loss and the sums of gradients in fp32.

    Args:
        hidden_ND: What the output layer reads; real tokens only.
        weight_VD: Its matrix.
        bias_V: Its bias, if it has one.
        target_N: The right tokens, int64.
        label_smoothing: ε: the target distribution is (1 - ε) on the right token and ε spread evenly over all
            (Szegedy et al. 2016).

    Returns:
        The loss to minimise, smoothed, in nats, with gradient; and the negative log-likelihood of the right
        tokens, in nats, without. Without smoothing the two are equal.
    """
    vocab_size = weight_VD.size(0)
    if vocab_size < _SMALL_VOCABULARY or not torch.is_grad_enabled():
        return _in_two_steps(hidden_ND, weight_VD, bias_V, target_N, label_smoothing)
    loss, nats = _ChunkedLinearCrossEntropy.apply(hidden_ND, weight_VD, bias_V, target_N, label_smoothing)  # type: ignore[no-untyped-call]
    return loss, nats


def _in_two_steps(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The plain way: all logits, then the loss."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V).float()
    nats = F.cross_entropy(logits_NV, target_N, reduction="sum")
    if not label_smoothing:
        return nats, nats.detach()
    even = (torch.logsumexp(logits_NV, dim=1) - logits_NV.mean(dim=1)).sum()
    return (1 - label_smoothing) * nats + label_smoothing * even, nats.detach()


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Makes the gradients in the forward pass, chunk by chunk; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        vocab_size = weight_VD.size(0)
        rows = max(_FEWEST_ROWS, _LOGITS_PER_CHUNK // vocab_size)
        with torch.autocast(device, enabled=False):
            h_ND, w_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
            b_V = None if bias_V is None else bias_V.float()
            grad_hidden_ND = torch.empty_like(h_ND, dtype=torch.float32)
            grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
            grad_bias_V = torch.zeros(vocab_size, device=h_ND.device)
            # In fp64: what is summed is reported, and compared over any split of a batch.
            nats = torch.zeros((), dtype=torch.float64, device=h_ND.device)
            log_sums = torch.zeros_like(nats)
            for first in range(0, len(h_ND), rows):
                part = slice(first, first + rows)
                logits_RV = (h_ND[part] @ w_VD.T).float()
                if b_V is not None:
                    # Not by ``F.linear``: it writes the bias to all rows first, for as long as the product takes.
                    logits_RV += b_V
                target_logit_R1 = logits_RV.gather(1, target_N[part, None])
                max_R1 = logits_RV.amax(dim=1, keepdim=True)
                # The softmax without its division: dividing the narrow factors of the products below is cheaper.
                exp_RV = logits_RV.sub_(max_R1).exp_()
                sum_R1 = exp_RV.sum(dim=1, keepdim=True)
                log_sum_R1 = sum_R1.log() + max_R1
                log_sums += log_sum_R1.sum(dtype=torch.float64)
                nats += (log_sum_R1 - target_logit_R1).sum(dtype=torch.float64)
                grad_bias_V += sum_R1.reciprocal().flatten() @ exp_RV
                e_RV = exp_RV.to(dtype)
                grad_hidden_ND[part] = (e_RV @ w_VD) / sum_R1
                scaled_RD = (h_ND[part].float() / sum_R1).to(dtype)
                if dtype == torch.float32:
                    grad_weight_VD.addmm_(e_RV.T, scaled_RD)
                else:
                    grad_weight_VD += e_RV.T @ scaled_RD
            # So far the softmax; now minus the target distribution: 1 - ε on the right tokens, ε spread evenly.
            right = 1 - smoothing
            h_ND, w_VD = h_ND.float(), w_VD.float()
            grad_hidden_ND.sub_(w_VD[target_N], alpha=right)
            grad_weight_VD.index_add_(0, target_N, h_ND, alpha=-right)
            grad_bias_V.index_add_(0, target_N, torch.full((len(h_ND),), -right, device=h_ND.device))
            loss = nats
            if smoothing:
                mean_D, sum_D = w_VD.mean(dim=0), h_ND.sum(dim=0)
                mean_logits = h_ND.double().sum(dim=0) @ mean_D.double()
                if b_V is not None:
                    mean_logits += len(h_ND) * b_V.double().mean()
                loss = right * nats + smoothing * (log_sums - mean_logits)
                grad_hidden_ND.sub_(mean_D, alpha=smoothing)
                grad_weight_VD.sub_(sum_D, alpha=smoothing / vocab_size)
                grad_bias_V.sub_(smoothing * len(h_ND) / vocab_size)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD, None if bias_V is None else grad_bias_V)
        ctx.dtypes = (hidden_ND.dtype, weight_VD.dtype)
        nats_float = nats.float()
        ctx.mark_non_differentiable(nats_float)
        return loss.float(), nats_float

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nats: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        # In place: nobody else has them, and a second backward pass through the same graph is refused by autograd.
        grads = [
            None if grad is None else grad.mul_(grad_loss) for grad in (grad_hidden_ND, grad_weight_VD, grad_bias_V)
        ]
        assert grads[0] is not None
        assert grads[1] is not None
        return grads[0].to(hidden_dtype), grads[1].to(weight_dtype), grads[2], None, None
