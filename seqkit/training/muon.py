"""Muon: momentum whose matrices are made orthogonal before each update (Jordan et al. 2024).

Legend: M matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al. 2024: small singular values rise fast, but end near 1 only."""

_ADAM_RMS = 0.2
"""Root mean square of an update's components, as AdamW's usually have it (Liu et al. 2025, section 2.2)."""


def orthogonalized(x_MRC: Tensor, num_iterations: int) -> Tensor:
    """The nearest matrices with singular values of about 1: U Vᵀ where x = U Σ Vᵀ, by Newton–Schulz iteration.

    Args:
        x_MRC: Any matrices, one after the other.
        num_iterations: Five bring singular values between 0.01 and 1 of the largest into [0.7, 1.2].

    Returns:
        Shape (M, R, C).
    """
    a, b, c = _QUINTIC
    is_tall = x_MRC.size(1) > x_MRC.size(2)
    # The Gram matrix of the shorter side is the smaller one.
    y = x_MRC.mT if is_tall else x_MRC
    y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(num_iterations):
        gram = y @ y.mT
        # a y + (b gram + c gram²) y, in two passes over the memory instead of six.
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    result: Tensor = y.mT if is_tall else y
    return result


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for the groups that ask for it, AdamW for the others.

    With momentum μ, gradient g and a matrix w of R × C: m ← μ m + (1 - μ) g, u ← μ m + (1 - μ) g (Nesterov's form),
    w ← w - lr (λ w + 0.2 √max(R, C) · orthogonalized(u)). The factor gives updates the size of AdamW's (Liu et al.
    2025), so that both kinds of group take one learning rate.

    Args:
        groups: As of any optimizer; those with ``orthogonalizes: True`` hold matrices only, each made of
            ``num_blocks`` matrices of one shape that stand one above the other, as the gates of an LSTM do.
        lr: Learning rate.
        momentum: μ.
        num_iterations: Of ``orthogonalized``.
        betas: Of AdamW.
        eps: Of AdamW.
        fused: Of AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        num_iterations: int,
        betas: tuple[float, float],
        eps: float,
        fused: bool,
    ) -> None:
        matrices = [group for group in groups if group.get("orthogonalizes")]
        others = [group for group in groups if not group.get("orthogonalizes")]
        # A parameter group must not be empty, so that a model of matrices alone has none to hand on.
        self._adamw = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, fused=fused) if others else None
        super().__init__(matrices + (self._adamw.param_groups if self._adamw is not None else []), {"lr": lr})
        self._momentum = momentum
        self._num_iterations = num_iterations
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = closure() if closure is not None else None
        self._update_matrices()
        if self._adamw is not None:
            self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        self._share_state()

    def _share_state(self) -> None:
        """AdamW works on this optimizer's own groups and state, so that both are saved and set as one."""
        if self._adamw is not None:
            self._adamw.param_groups = [group for group in self.param_groups if not group.get("orthogonalizes")]
            self._adamw.state = self.state

    def _update_matrices(self) -> None:
        directions: dict[torch.Size, list[tuple[dict[str, Any], Tensor, Tensor]]] = defaultdict(list)
        for group in self.param_groups:
            if not group.get("orthogonalizes"):
                continue
            for w_RC in group["params"]:
                if w_RC.grad is None:
                    continue
                state = self.state[w_RC]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(w_RC)
                momentum_RC = state["momentum_buffer"].lerp_(w_RC.grad, 1 - self._momentum)
                u_RC = w_RC.grad.lerp(momentum_RC, self._momentum)
                for block, u_of_block in zip(
                    w_RC.chunk(group["num_blocks"]), u_RC.chunk(group["num_blocks"]), strict=True
                ):
                    directions[block.shape].append((group, block, u_of_block))
        # Matrices of one shape together: small products waste most of a machine's rate.
        for shape, blocks in directions.items():
            factor = _ADAM_RMS * math.sqrt(max(shape))
            update_MRC = orthogonalized(torch.stack([u_RC for _, _, u_RC in blocks]), self._num_iterations)
            for (group, w_RC, _), update_RC in zip(blocks, update_MRC, strict=True):
                w_RC.mul_(1 - group["lr"] * group["weight_decay"]).add_(update_RC, alpha=-group["lr"] * factor)
