"""How likely a model finds given text: forced scoring over streams, windows and single lines.

Legend: B rows, T time, V vocabulary. All sums are in nats (natural logarithm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.decoding.model import SequenceModel

_LOGITS_IN_MEMORY = 2**24
"""At most this many logits are held at once (64 MiB in fp32)."""


@dataclass(frozen=True)
class ScoreSum:
    """A sum of negative log-probabilities and the number of tokens in it."""

    nats: float
    num_tokens: int

    def __add__(self, other: ScoreSum) -> ScoreSum:
        return ScoreSum(self.nats + other.nats, self.num_tokens + other.num_tokens)


@torch.inference_mode()
def score_stream(
    model: SequenceModel,
    ids_N: np.ndarray,
    *,
    device: torch.device,
    vocab_size: int,
    num_columns: int = 1,
    burn_in: int = 0,
    chunk: int | None = None,
    on_part: Callable[[], None] | None = None,
) -> ScoreSum:
    """Score every token of a stream but the first, with the state carried from token to token.

    With one column this is exact. With more, the stream is cut into equal columns that run side by side, which
    is many times faster; each column but the first begins with ``burn_in`` tokens of the column before, which
    are read but not scored, so that its state is warm.

    Args:
        model: Any model that takes a state.
        ids_N: Token ids; may be memory-mapped.
        device: Where the model is.
        vocab_size: V, to bound the logits held in memory.
        num_columns: Columns.
        burn_in: Tokens of context for each column.
        chunk: Steps to run at once; ``None``: what fits in memory. Changes nothing beyond rounding.
        on_part: Called between two parts; may raise to stop.

    Returns:
        The sum over N - 1 tokens.
    """
    num_scored = len(ids_N) - 1
    num_columns = max(1, min(num_columns, num_scored // max(1, 2 * burn_in)))
    length = -(-num_scored // num_columns)
    starts = [column * length for column in range(num_columns) if column * length < num_scored]
    begins = np.array([max(0, start - burn_in) for start in starts])
    firsts = np.array(starts)
    ends = np.minimum(firsts + length, num_scored)
    total_steps = int((ends - begins).max())
    chunk = max(1, min(chunk or 1024, _LOGITS_IN_MEMORY // (len(starts) * vocab_size)))
    state = None
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    for offset in range(0, total_steps, chunk):
        if on_part is not None:
            on_part()
        width = min(chunk, total_steps - offset)
        position_BT = begins[:, None] + offset + np.arange(width)
        is_scored_BT = (position_BT >= firsts[:, None]) & (position_BT < ends[:, None])
        # Columns that have ended read on past their end; what they read is not scored.
        position_BT = np.minimum(position_BT, num_scored - 1)
        inputs_BT = _to_tensor(ids_N[position_BT], device)
        targets_BT = _to_tensor(ids_N[position_BT + 1], device)
        mask_BT = torch.from_numpy(is_scored_BT).to(device)
        logits_BTV, state = model(inputs_BT, state)
        total += _sum_nats(logits_BTV, targets_BT, mask_BT)
        count += int(is_scored_BT.sum())
    assert count == num_scored, "every token but the first is scored once"
    return ScoreSum(float(total), count)


@torch.inference_mode()
def score_windows(
    model: SequenceModel,
    ids_N: np.ndarray,
    *,
    window: int,
    device: torch.device,
    vocab_size: int,
) -> ScoreSum:
    """Score every token but the first in windows that each begin from an empty state.

    Window i reads tokens i·W … i·W + W - 1 and predicts the W tokens after each of them; the last window may be
    shorter. This is how nanoGPT measures, with all windows instead of a random few.
    """
    num_scored = len(ids_N) - 1
    num_full = num_scored // window
    batch = max(1, min(256, _LOGITS_IN_MEMORY // (window * vocab_size)))
    total = torch.zeros((), dtype=torch.float64, device=device)
    groups: list[np.ndarray] = [
        np.arange(first, min(first + batch, num_full))[:, None] * window + np.arange(window)
        for first in range(0, num_full, batch)
    ]
    if num_full * window < num_scored:
        groups.append(np.arange(num_full * window, num_scored)[None, :])
    for position_BT in groups:
        logits_BTV, _ = model(_to_tensor(ids_N[position_BT], device), None)
        total += _sum_nats(logits_BTV, _to_tensor(ids_N[position_BT + 1], device), None)
    return ScoreSum(float(total), num_scored)


@torch.inference_mode()
def score_lines(
    model: SequenceModel,
    lines: list[list[int]],
    *,
    start_id: int,
    end_ids: list[int],
    device: torch.device,
    vocab_size: int,
) -> list[ScoreSum]:
    """Score each line by itself, side by side: its tokens and the line end, from an empty state.

    Args:
        model: Any model that takes a state.
        lines: Token ids of each line, without its end.
        start_id: What stands before the first token; not scored.
        end_ids: What stands after the last.
        device: Where the model is.
        vocab_size: V, to bound the logits held in memory.

    Returns:
        One sum a line, in order.
    """
    rows = [[start_id, *line, *end_ids] for line in lines]
    longest = max(map(len, rows))
    ids_BT = np.zeros((len(rows), longest), dtype=np.int64)
    for row_T, row in zip(ids_BT, rows, strict=True):
        row_T[: len(row)] = row
    length_B = torch.tensor([len(row) for row in rows], device=device)
    nats_B = torch.zeros(len(rows), dtype=torch.float64, device=device)
    chunk = max(1, _LOGITS_IN_MEMORY // (len(rows) * vocab_size))
    state = None
    for first in range(0, longest - 1, chunk):
        last = min(first + chunk, longest - 1)
        targets_BT = _to_tensor(ids_BT[:, first + 1 : last + 1], device)
        logits_BTV, state = model(_to_tensor(ids_BT[:, first:last], device), state)
        nats_BT = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none")
        is_real_BT = torch.arange(first + 1, last + 1, device=device) < length_B.unsqueeze(1)
        nats_B += (nats_BT.view_as(targets_BT).double() * is_real_BT).sum(dim=1)
    return [ScoreSum(nats, len(row) - 1) for nats, row in zip(nats_B.tolist(), rows, strict=True)]


def _sum_nats(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    nats = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none")
    if mask_BT is not None:
        nats = nats[mask_BT.flatten()]
    return nats.sum(dtype=torch.float64)


def _to_tensor(ids: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(device)
