"""Scheduled sampling: in training, some of the tokens that a decoder reads are its own predictions.

Legend: B rows, T target time, R width of the readout, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seqkit.models.draws import current_generator


class SteppingDecoder(Protocol):
    """What runs step by step, with its output layer apart."""

    output: nn.Linear

    def hidden(self, ids_NT: Tensor, state: Any) -> tuple[Tensor, Any]:
        """What the output layer reads after each of ``ids_NT``, and the state after the last."""
        ...


@torch.no_grad()
def with_own_tokens(
    decoder: SteppingDecoder,
    ids_BT: Tensor,
    state: Any,
    *,
    probability: float,
    draws: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Replace some target tokens by what the decoder predicts in their place (Bengio et al. 2015, section 2.4).

    The decoder runs step by step, so a prediction depends on the predictions that were put in before it. No
    gradient flows through the choice of a token, so the loss may then be computed on the returned tokens as on any
    others, all at once where the decoder can. In training, dropout is on in both passes, with masks of their own.

    Args:
        decoder: Predicts.
        ids_BT: What it would read, the start token first.
        state: Its state before the first token.
        probability: The chance of each token but the first to be replaced.
        draws: Draw the token from the decoder's distribution, instead of taking the most probable one.
        generator: Of the chances and draws; ``None``: that of this thread on a CPU, else the global random state.

    Returns:
        Shape (B, T).
    """
    if generator is None and ids_BT.is_cpu:
        generator = current_generator()
    device = ids_BT.device if generator is None else generator.device
    is_own_BT = torch.rand(ids_BT.shape, generator=generator, device=device).to(ids_BT.device) < probability
    ids_BT = ids_BT.clone()
    for last in range(ids_BT.size(1) - 1):
        hidden_B1R, state = decoder.hidden(ids_BT[:, last : last + 1], state)
        (row_N,) = is_own_BT[:, last + 1].nonzero(as_tuple=True)
        if len(row_N) == 0:
            continue
        logits_NV = decoder.output(hidden_B1R[row_N, 0])
        if draws:
            # By the inverse of the cumulative distribution: any device, from one generator.
            cumulative_NV = logits_NV.float().softmax(dim=1).cumsum(dim=1)
            threshold_N1 = torch.rand(len(row_N), 1, generator=generator, device=device).to(ids_BT.device)
            # Of the probability that there is: rounding may leave it just below one.
            own_N = torch.searchsorted(cumulative_NV, threshold_N1 * cumulative_NV[:, -1:], right=True).squeeze(1)
            own_N = own_N.clamp_(max=logits_NV.size(1) - 1)
        else:
            own_N = logits_NV.argmax(dim=1)
        ids_BT[row_N, last + 1] = own_N
    return ids_BT
