"""How likely a model finds given text: forced scoring over streams, windows and single lines.

Legend: B rows, T time, V vocabulary. All sums are in nats (natural logarithm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.decoding.model import SequenceModel

_LOGITS_IN_MEMORY = 2**24
"""At most this many logits are held at once (64 MiB in fp32)."""


class TokenIds(Protocol):
    """Ids that are indexed as an array of one axis is; they need not lie in memory, nor in one file."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, positions: npt.NDArray[np.int64], /) -> np.ndarray:
        """The ids at some positions, in the same shape."""
        ...


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
    ids_N: TokenIds,
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
        total += _nats(logits_BTV, targets_BT, mask_BT).sum()
        count += int(is_scored_BT.sum())
    assert count == num_scored, "every token but the first is scored once"
    return ScoreSum(float(total), count)


@torch.inference_mode()
def score_windows(
    model: SequenceModel,
    ids_N: TokenIds,
    *,
    window: int,
    device: torch.device,
    vocab_size: int,
    overlaps: bool = False,
    tokens_at_once: int | None = None,
    on_part: Callable[[], None] | None = None,
) -> ScoreSum:
    """Score every token but the first in windows that each begin from an empty state.

    Window i reads tokens i·W … i·W + W - 1 and predicts the token after each of them; the last window may be
    shorter. This is how nanoGPT measures, with all windows instead of a random few. Windows that overlap begin every
    W / 2 tokens and score what the one before did not reach, so that a token is predicted after half a window of
    context or more, unless fewer tokens stand before it.

    Args:
        model: Any model that runs over whole sequences.
        ids_N: Token ids; may be memory-mapped.
        window: W.
        device: Where the model is.
        vocab_size: V, to bound the logits held in memory.
        overlaps: Whether windows overlap by half.
        tokens_at_once: Tokens of the windows that run side by side, at most, but one window always; ``None``: 256
            windows, or what fits in memory.
        on_part: Called between two batches of windows; may raise to stop.

    Returns:
        The sum over N - 1 tokens.
    """
    num_scored = len(ids_N) - 1
    spans = _windows(num_scored, window, window // 2 if overlaps else 0)
    nats = _score_spans(model, ids_N, spans, device, vocab_size, tokens_at_once, on_part)
    return ScoreSum(float(nats.sum()), num_scored)


@torch.inference_mode()
def score_lines(
    model: SequenceModel,
    lines: list[list[int]],
    *,
    start_id: int,
    end_ids: list[int],
    device: torch.device,
    vocab_size: int,
    window: int | None = None,
    tokens_at_once: int | None = None,
) -> list[ScoreSum]:
    """Score each line by itself, side by side: its tokens and the line end, from an empty state.

    Args:
        model: Any model that runs over whole sequences.
        lines: Token ids of each line, without its end.
        start_id: What stands before the first token; not scored.
        end_ids: What stands after the last.
        device: Where the model is.
        vocab_size: V, to bound the logits held in memory.
        window: Most tokens that the model reads at once; a longer line is scored in windows that overlap by half,
            as in ``score_windows``. ``None``: its state is carried along the line.
        tokens_at_once: As in ``score_windows``; for windows only.

    Returns:
        One sum a line, in order.
    """
    rows = [[start_id, *line, *end_ids] for line in lines]
    if window is not None:
        nats = _score_rows_in_windows(model, rows, window, device, vocab_size, tokens_at_once)
        return [ScoreSum(float(sum_), len(row) - 1) for sum_, row in zip(nats, rows, strict=True)]
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
        is_real_BT = torch.arange(first + 1, last + 1, device=device) < length_B.unsqueeze(1)
        nats_B += _nats(logits_BTV, targets_BT, is_real_BT).sum(dim=1)
    return [ScoreSum(nats, len(row) - 1) for nats, row in zip(nats_B.tolist(), rows, strict=True)]


def _score_rows_in_windows(
    model: SequenceModel,
    rows: list[list[int]],
    window: int,
    device: torch.device,
    vocab_size: int,
    tokens_at_once: int | None,
) -> npt.NDArray[np.float64]:
    """The sum of each row, all of them end to end as one text, of which no window spans two."""
    ids_N = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
    starts = np.cumsum([0, *map(len, rows)])
    spans = [_windows(len(row) - 1, window, window // 2) + start for row, start in zip(rows, starts, strict=False)]
    nats = _score_spans(model, ids_N, np.concatenate(spans), device, vocab_size, tokens_at_once, None)
    row_of_span = np.repeat(np.arange(len(rows)), [len(of_row) for of_row in spans])
    sums: npt.NDArray[np.float64] = np.zeros(len(rows))
    np.add.at(sums, row_of_span, nats)
    return sums


def _windows(num_scored: int, window: int, overlap: int) -> npt.NDArray[np.int64]:
    """Windows over a text of ``num_scored`` + 1 tokens: rows of begin, first, end.

    A window reads tokens begin … end - 1, of which the predictions after first … end - 1 are scored.

    >>> _windows(10, 4, 0).tolist()
    [[0, 0, 4], [4, 4, 8], [8, 8, 10]]
    >>> _windows(10, 4, 2).tolist()
    [[0, 0, 4], [2, 4, 6], [4, 6, 8], [6, 8, 10]]
    """
    firsts = np.arange(min(window, num_scored), num_scored, window - overlap)
    ends = np.minimum(firsts + window - overlap, num_scored)
    # The last window reaches back as far as the others where they overlap; else it is short.
    begins = ends - window if overlap else firsts
    later = np.stack([begins, firsts, ends], axis=1)
    first = [[0, 0, min(window, num_scored)]] if num_scored else []
    return np.concatenate([np.array(first, dtype=np.int64).reshape(-1, 3), later])


def _score_spans(
    model: SequenceModel,
    ids_N: TokenIds,
    spans: npt.NDArray[np.int64],
    device: torch.device,
    vocab_size: int,
    tokens_at_once: int | None,
    on_part: Callable[[], None] | None,
) -> npt.NDArray[np.float64]:
    """The nats of each window that ``_windows`` lays out; those of one length run side by side."""
    widths = spans[:, 2] - spans[:, 0]
    order = np.argsort(-widths, kind="stable")
    nats = np.zeros(len(spans))
    done = 0
    while done < len(order):
        if on_part is not None:
            on_part()
        width = int(widths[order[done]])
        most = 256 if tokens_at_once is None else tokens_at_once // width
        batch = order[done : done + max(1, min(most, _LOGITS_IN_MEMORY // (width * vocab_size)))]
        begin_B1, first_B1, end_B1 = (spans[batch, column, None] for column in range(3))
        position_BT = begin_B1 + np.arange(width)
        is_scored_BT = (position_BT >= first_B1) & (position_BT < end_B1)
        # Windows that have ended read on at their last token; what they read is not scored.
        position_BT = np.minimum(position_BT, end_B1 - 1)
        logits_BTV, _ = model(_to_tensor(ids_N[position_BT], device), None)
        mask_BT = torch.from_numpy(is_scored_BT).to(device)
        nats_BT = _nats(logits_BTV, _to_tensor(ids_N[position_BT + 1], device), mask_BT)
        nats[batch] = nats_BT.sum(dim=1).cpu().numpy()
        done += len(batch)
    return nats


def _nats(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Negative log-probabilities in fp64, shape (B, T); 0 where the mask is False."""
    nats_N = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none")
    return nats_N.view_as(targets_BT).double().masked_fill(~mask_BT, 0.0)


def _to_tensor(ids: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(device)
