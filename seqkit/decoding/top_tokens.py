"""The likeliest tokens of each row, with ties in a fixed order; written for speed on a CPU.

Log-softmax does not change the order of a row's tokens, so the search takes the best logits first and subtracts the
normaliser from those few alone.

Legend: N rows, V vocabulary, K tokens kept, G groups of tokens, X tokens looked at, R rows in a part.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FEW = 2**15
"""With fewer logits than this, the simplest way is the fastest."""
_IN_CACHE = 2**18
"""A pass over this many fp32 logits (1 MiB) finds most of them still in cache."""
_GROUP = 64
"""Neighbouring tokens in a group: what one vectorised maximum takes in at once."""
_SPARE_GROUPS = 2
"""Groups looked at beyond the K needed, so that equal logits (frequent in bf16) seldom need a second look."""


def widen(logits_NV: Tensor) -> Tensor:
    """Logits in float32, or float64 where they come so: sums over a vocabulary need it."""
    return logits_NV if logits_NV.dtype in {torch.float32, torch.float64} else logits_NV.float()


def log_normalizer(logits_NV: Tensor) -> Tensor:
    """What log-softmax subtracts from each row: log Σ exp(logits), shape (N,)."""
    if logits_NV.device.type != "cpu" or logits_NV.numel() < _FEW:
        return logits_NV.logsumexp(dim=1)
    # Two passes in cache instead of six. Logits are seldom so large or small that their exponentials leave float32.
    rows = max(1, _IN_CACHE // logits_NV.size(1))
    if logits_NV.size(0) <= rows:
        sum_N = logits_NV.exp().sum(dim=1)
    else:
        exp_RV = torch.empty_like(logits_NV[:rows])
        sum_N = torch.cat([torch.exp(part, out=exp_RV[: part.size(0)]).sum(dim=1) for part in logits_NV.split(rows)])
    sums = sum_N.tolist()
    return sum_N.log() if min(sums) > 1e-20 and max(sums) < 1e30 else logits_NV.logsumexp(dim=1)


def top_tokens(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of each row and their token ids, best first, of equals the lower id first.

    ``torch.topk`` leaves the order of equals open, and on a CPU it takes nearly as long as the matrix product that
    made the logits. So there the vocabulary is cut into groups of neighbours; the maxima of all groups are one
    vectorised pass, and only the groups with the largest maxima are looked into.

    Args:
        logits_NV: float32 or float64.
        k: K; at most V are returned.

    Returns:
        Logits and ids (int64), both (N, min(K, V)). The order of ids among logits of minus infinity is open.
    """
    vocab_size = logits_NV.size(1)
    k = min(k, vocab_size)
    num_groups = vocab_size // _GROUP
    if logits_NV.device.type == "cpu" and logits_NV.numel() >= _FEW and num_groups > 4 * k:
        return _top_by_groups(logits_NV, k, num_groups)
    top_NK, token_NK = logits_NV.topk(min(k + 1, vocab_size), dim=1)
    if _has_ties(top_NK):
        return _top_in_order(logits_NV, k)
    return top_NK[:, :k], token_NK[:, :k]


def _top_by_groups(logits_NV: Tensor, k: int, num_groups: int) -> tuple[Tensor, Tensor]:
    num_rows, vocab_size = logits_NV.shape
    num_chosen, in_groups = k + _SPARE_GROUPS, num_groups * _GROUP
    has_rest = in_groups < vocab_size
    maxima_NG = (logits_NV[:, :in_groups] if has_rest else logits_NV).view(num_rows, num_groups, _GROUP).amax(dim=2)
    best_NG, group_NG = maxima_NG.topk(num_chosen + 1, dim=1)
    first_NG1 = group_NG[:, :num_chosen].unsqueeze(2) * _GROUP
    id_NX = (first_NG1 + torch.arange(_GROUP, device=logits_NV.device)).flatten(1)
    if has_rest:
        # The few tokens at the end that fill no group are always looked at.
        rest_X = torch.arange(in_groups, vocab_size, device=logits_NV.device)
        id_NX = torch.cat([id_NX, rest_X.expand(num_rows, -1)], dim=1)
    value_NX = logits_NV.gather(1, id_NX)
    top_NK, place_NK = value_NX.topk(k + 1, dim=1)
    if not _has_ties(top_NK):
        # More than k groups were looked into, so what was left out is at most as good as number k + 1.
        return top_NK[:, :k], id_NX.gather(1, place_NK[:, :k])
    top_NK, token_NK = _top_in_order(value_NX, k, id_NX)
    # Every token left out is at most as good as the best group left out. If that equals the k-th token, one with a
    # lower id may be among them.
    outside_N = best_NG[:, num_chosen]
    is_open_N = (outside_N >= top_NK[:, -1]) & (outside_N > -torch.inf)
    if bool(is_open_N.any()):
        top_NK[is_open_N], token_NK[is_open_N] = _top_in_order(logits_NV[is_open_N], k)
    return top_NK, token_NK


def _has_ties(top_NK: Tensor) -> bool:
    """Whether two neighbours are equal; values of minus infinity are no tie that matters, and their difference NaN."""
    return not bool(torch.diff(top_NK).all())


def _top_in_order(values_NX: Tensor, k: int, id_NX: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their ids (their columns, if not given); of equals the lowest id first."""
    num_columns = values_NX.size(1)
    size = min(k + 1, num_columns)
    top_NK, index_NK = values_NX.topk(size, dim=1)
    while size < num_columns and bool((top_NK[:, k - 1] - top_NK[:, -1]).eq(0).any()):
        size = min(4 * size, num_columns)
        top_NK, index_NK = values_NX.topk(size, dim=1)
    token_NK, order_NK = (index_NK if id_NX is None else id_NX.gather(1, index_NK)).sort(dim=1)
    top_NK, by_value_NK = torch.sort(top_NK.gather(1, order_NK), dim=1, descending=True, stable=True)
    return top_NK[:, :k], token_NK.gather(1, by_value_NK)[:, :k]
