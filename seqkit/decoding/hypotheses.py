"""What a search finds, and the back-pointers that it is read from.

While it runs, a search only notes, for each step, every live hypothesis' parent, token and log-probability, and which
candidates ended. Outputs are read backwards from there once, at the end.

Legend: N rows (live hypotheses), B sentences, C candidates of a sentence, F hypotheses read, T predictions,
S source positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from seqkit.errors import SeqkitError

NO_TOKEN = -1
"""Stands for the last token of a hypothesis that ended because none was allowed."""

_END = np.dtype(
    [
        ("sentence", np.int64),
        ("step", np.int64),
        ("parent", np.int64),
        ("token", np.int64),
        ("log_prob", np.float64),
        ("score", np.float64),
        ("meets", np.bool_),
    ]
)


def score_dtype(device: torch.device) -> torch.dtype:
    """Log-probabilities are summed in float64, so that a sum of many tokens loses nothing, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search."""

    ids: list[int]
    """Tokens, without start and end token."""
    score: float
    """Log-probability after the penalties."""
    log_prob: float
    """Natural log-probability under the model, the end token counted where there is one."""
    token_log_probs: list[float]
    """One a prediction: the tokens, then the end token where there is one; they sum to ``log_prob``."""
    is_finished: bool
    """Whether it ends with the end token, rather than cut at the longest length or where nothing was allowed."""
    meets_constraints: bool = True
    """Whether every constraint occurs in it."""
    attention: Tensor | None = field(default=None, compare=False, repr=False)
    """Weights over the source, float32 on the CPU, shape (T, S): one row a prediction, as ``token_log_probs``."""


class Trellis:
    """All hypotheses of a search as back-pointers.

    Level t holds the rows that step t feeds to the model; a node is (level, row). Level 0 is the start, one row a
    sentence. A hypothesis that ended is a node, its parent, and one token more.

    Args:
        num_sentences: B, the rows of level 0.
        device: Where the search runs.
    """

    def __init__(self, num_sentences: int, device: torch.device) -> None:
        start = torch.zeros(num_sentences, dtype=torch.long, device=device)
        self._parents = [start]
        self._tokens = [start]
        self._log_probs = [torch.zeros(num_sentences, dtype=score_dtype(device), device=device)]
        self._attention: list[Tensor] = []
        self._end_steps: list[int] = []
        self._ends: dict[str, list[Tensor]] = {name: [] for name in _END.names or () if name != "step"}

    def grow(self, parent_N: Tensor, token_N: Tensor, log_prob_N: Tensor) -> None:
        """Add a level: each row's parent in the level before, its token, and its log-probability so far."""
        self._parents.append(parent_N)
        self._tokens.append(token_N)
        self._log_probs.append(log_prob_N)

    def attend(self, attention_NS: Tensor) -> None:
        """Note where the newest level looked when it predicted its next token."""
        self._attention.append(attention_NS)

    def end(
        self,
        sentence_B: Tensor,
        parent_BC: Tensor,
        token_BC: Tensor,
        log_prob_BC: Tensor,
        score_BC: Tensor,
        meets_BC: Tensor | None = None,
    ) -> None:
        """Note hypotheses that end with one more token after the newest level.

        Args:
            sentence_B: Which sentence each row of the others belongs to.
            parent_BC: Row in the newest level.
            token_BC: The last token, or ``NO_TOKEN``.
            log_prob_BC: Log-probability with that token.
            score_BC: Score; minus infinity for a candidate that does not end.
            meets_BC: Whether it meets the constraints; ``None``: all do.
        """
        self._end_steps.append(len(self._tokens) - 1)
        meets = torch.ones_like(token_BC, dtype=torch.bool) if meets_BC is None else meets_BC
        columns = (sentence_B.unsqueeze(1), parent_BC, token_BC, log_prob_BC, score_BC, meets)
        for noted, column in zip(self._ends.values(), columns, strict=True):
            noted.append(column.expand_as(token_BC).flatten())

    def read(
        self, num_best: int, *, eos_id: int, source_lengths: Sequence[int] | None = None, with_attention: bool = False
    ) -> list[list[Hypothesis]]:
        """The outputs of each sentence, best first.

        Those that meet the constraints come before those that do not; of equal scores the one found first.

        Args:
            num_best: Most outputs of a sentence; there are fewer where fewer ended.
            eos_id: The end token.
            source_lengths: Real source positions of each sentence, to cut the attention to; ``None``: all.
            with_attention: Whether to return the attention.

        Raises:
            SeqkitError: The model gave scores that are not numbers.
        """
        ends_F = self._best_ends(num_best)
        outputs: list[list[Hypothesis]] = [[] for _ in range(len(self._tokens[0]))]
        if len(set(ends_F["sentence"].tolist())) < len(outputs) or not np.isfinite(ends_F["log_prob"]).all():
            raise SeqkitError(
                "the model's scores are not numbers (NaN)", hint="its weights may be damaged, or training diverged"
            )
        row_FT, token_FT, log_prob_FT = self._trace(ends_F)
        attention_FTS = self._gather_attention(row_FT) if with_attention and self._attention else None
        num_predictions_F = ends_F["step"] + (ends_F["token"] != NO_TOKEN)
        for index, (end, length) in enumerate(zip(ends_F, num_predictions_F.tolist(), strict=True)):
            is_finished = bool(end["token"] == eos_id)
            weights_TS = None
            if attention_FTS is not None:
                num_positions = attention_FTS.size(2) if source_lengths is None else source_lengths[end["sentence"]]
                weights_TS = attention_FTS[index, :length, :num_positions].clone()
            outputs[end["sentence"]].append(
                Hypothesis(
                    ids=token_FT[index, : length - is_finished].tolist(),
                    score=float(end["score"]),
                    log_prob=float(end["log_prob"]),
                    token_log_probs=np.diff(log_prob_FT[index, :length], prepend=0.0).tolist(),
                    is_finished=is_finished,
                    meets_constraints=bool(end["meets"]),
                    attention=weights_TS,
                )
            )
        return outputs

    def _best_ends(self, num_best: int) -> np.ndarray:
        """The ends to read, by sentence and then from best to worst."""
        sizes = [len(score) for score in self._ends["score"]]
        ends = np.empty(sum(sizes), _END)
        ends["step"] = np.repeat(self._end_steps, sizes)
        for name, columns in self._ends.items():
            # One copy off the device for each field.
            ends[name] = torch.cat(columns).cpu().numpy() if columns else []
        ends = ends[ends["score"] != -np.inf]
        # lexsort is stable, and the last key counts most.
        ends = ends[np.lexsort((-ends["score"], ~ends["meets"], ends["sentence"]))]
        place = np.arange(len(ends)) - np.searchsorted(ends["sentence"], ends["sentence"])
        best: np.ndarray = ends[place < num_best]
        return best

    def _trace(self, ends_F: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow the parents back; return, for each prediction, the row that made it, its token and log-probability.

        Log-probabilities are sums from the start. What lies after the last prediction of a hypothesis is arbitrary.
        """
        first_of_level = np.cumsum([0, *map(len, self._tokens)])
        parent, token, log_prob = (
            torch.cat(levels).cpu().numpy() for levels in (self._parents, self._tokens, self._log_probs)
        )
        longest = int(ends_F["step"].max(initial=0)) + 1
        row_FT, token_FT = (np.zeros((len(ends_F), longest), np.int64) for _ in range(2))
        log_prob_FT = np.zeros((len(ends_F), longest))
        last_F = np.arange(len(ends_F)), ends_F["step"]
        row_FT[last_F], token_FT[last_F], log_prob_FT[last_F] = (
            ends_F[name] for name in ("parent", "token", "log_prob")
        )
        for level in range(longest - 1, 0, -1):
            (on_path,) = np.nonzero(ends_F["step"] >= level)
            node = first_of_level[level] + row_FT[on_path, level]
            token_FT[on_path, level - 1] = token[node]
            log_prob_FT[on_path, level - 1] = log_prob[node]
            row_FT[on_path, level - 1] = parent[node]
        return row_FT, token_FT, log_prob_FT

    def _gather_attention(self, row_FT: np.ndarray) -> Tensor:
        """The weights behind each prediction, shape (F, T, S), float32 on the CPU."""
        num_positions = max(weights_NS.size(1) for weights_NS in self._attention)
        attention_FTS = torch.zeros(*row_FT.shape, num_positions)
        for step, row_F in enumerate(row_FT.T):
            weights_NS = self._attention[step]
            index_F = torch.from_numpy(row_F.copy()).to(weights_NS.device)
            attention_FTS[:, step, : weights_NS.size(1)] = weights_NS.index_select(0, index_F).float().cpu()
        return attention_FTS
