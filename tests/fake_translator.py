"""A tiny attentive translator that keeps one copy of the source for all beams of a sentence, and brute force beside it.

It checks what search promises a model: a state is stepped once, and the beams of a sentence are adjacent rows, the
same number for every sentence.

Legend: N rows, B sentences, S source positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqkit.decoding.model import AutoregressiveModel
from seqkit.decoding.penalties import Penalties

PAD, BOS, EOS = 0, 1, 2


@dataclass
class FakeState:
    memory_BSD: Tensor
    is_real_BS: Tensor
    hidden_ND: Tensor
    attention_NS: Tensor
    is_stepped: bool = False


class FakeTranslator:
    """A recurrent decoder with attention, float64, with random weights.

    Args:
        vocab_size: V, of both sides.
        seed: Of the weights.
        sharpness: Factor on the logits.

    Attributes:
        rows: Rows of every step.
        sentences: Sentences of every step.
    """

    def __init__(self, vocab_size: int, seed: int, *, sharpness: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        width = 4
        self.source_VD, self.target_VD = weight(vocab_size, width), weight(vocab_size, width)
        self.recurrent_DD, self.output_DV = weight(width, width), sharpness * weight(width, vocab_size)
        self.rows: list[int] = []
        self.sentences: list[int] = []
        self.num_reorders = 0

    def initial_state(self, source: Sequence[Sequence[int]], batch_size: int) -> FakeState:
        assert len(source) == batch_size
        longest = max(map(len, source))
        ids_BS = torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in source])
        memory_BSD = self.source_VD[ids_BS] + torch.arange(longest)[:, None] / 3
        hidden_BD = torch.zeros(batch_size, memory_BSD.size(2), dtype=torch.float64)
        return FakeState(memory_BSD, ids_BS != PAD, hidden_BD, torch.zeros(ids_BS.shape, dtype=torch.float64))

    def step(self, state: FakeState, token_N: Tensor) -> tuple[Tensor, FakeState]:
        assert not state.is_stepped, "a state is stepped once"
        state.is_stepped = True
        num_sentences, num_rows = len(state.memory_BSD), len(token_N)
        self.rows.append(num_rows)
        self.sentences.append(num_sentences)
        # Into the old state's memory, as a model with a cache would.
        hidden_ND = state.hidden_ND
        hidden_ND.copy_((hidden_ND @ self.recurrent_DD + self.target_VD[token_N]).tanh())
        hidden_BWD = hidden_ND.unflatten(0, (num_sentences, -1))
        logits_BWS = hidden_BWD @ state.memory_BSD.transpose(1, 2)
        weights_BWS = logits_BWS.masked_fill(~state.is_real_BS.unsqueeze(1), -torch.inf).softmax(dim=2)
        context_ND = (weights_BWS @ state.memory_BSD).flatten(0, 1)
        after = FakeState(state.memory_BSD, state.is_real_BS, hidden_ND, weights_BWS.flatten(0, 1))
        return (hidden_ND + context_ND.tanh()) @ self.output_DV + 1.5, after

    def reorder(self, state: FakeState, index_N: Tensor) -> FakeState:
        self.num_reorders += 1
        width = len(state.hidden_ND) // len(state.memory_BSD)
        sentence_B, count_B = (index_N // width).unique_consecutive(return_counts=True)
        assert len(set(sentence_B.tolist())) == len(sentence_B), "the beams of a sentence are adjacent"
        assert len(set(count_B.tolist())) == 1, "every sentence has as many beams"
        # The remaining sentences may need fewer source positions.
        longest = int(state.is_real_BS[sentence_B].sum(dim=1).max())
        return FakeState(
            state.memory_BSD[sentence_B, :longest],
            state.is_real_BS[sentence_B, :longest],
            state.hidden_ND[index_N],
            state.attention_NS[index_N, :longest],
        )

    def attention(self, state: FakeState) -> Tensor | None:
        return state.attention_NS


@dataclass(frozen=True)
class Scored:
    """An output found without search."""

    ids: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    attention: tuple[tuple[float, ...], ...]
    is_finished: bool

    @property
    def log_prob(self) -> float:
        return math.fsum(self.token_log_probs)

    def score(self, rule: Penalties) -> float:
        """Worked out anew from the definition."""
        length = len(self.token_log_probs)
        base = {"none": 1.0, "average": float(length), "wu": (5 + length) / 6}[rule.length_penalty]
        score = self.log_prob / math.pow(base, rule.alpha)
        if rule.coverage_penalty:
            covered = [math.fsum(column) for column in zip(*self.attention, strict=True)]
            score += rule.coverage_penalty * math.fsum(math.log(min(total, 1.0)) for total in covered)
        return score


class Forced:
    """What a model says of given outputs of one sentence, found token by token without search.

    Args:
        model: Any autoregressive model.
        source: Of one sentence.
    """

    def __init__(self, model: AutoregressiveModel, source: Any) -> None:
        self._model = model
        self._source = source
        self._after: dict[tuple[int, ...], tuple[list[float], tuple[float, ...], Any]] = {}

    def log_probs(self, ids: tuple[int, ...]) -> list[float]:
        """Of each token after ``ids``."""
        return self._read(ids)[0]

    def score(self, predictions: Sequence[int]) -> Scored:
        """Of one whole output, the end token included where it has one."""
        steps = [self._read(tuple(predictions[:length])) for length in range(len(predictions))]
        log_probs = tuple(step[0][token] for step, token in zip(steps, predictions, strict=True))
        is_finished = bool(predictions) and predictions[-1] == EOS
        ids = tuple(predictions[:-1] if is_finished else predictions)
        return Scored(ids, log_probs, tuple(step[1] for step in steps), is_finished)

    def _read(self, ids: tuple[int, ...]) -> tuple[list[float], tuple[float, ...], Any]:
        if ids not in self._after:
            if ids:
                # A copy, since a state is stepped once.
                state = self._model.reorder(self._read(ids[:-1])[2], torch.tensor([0]))
            else:
                state = self._model.initial_state(self._source, 1)
            logits_1V, state = self._model.step(state, torch.tensor([ids[-1] if ids else BOS]))
            weights_1S = self._model.attention(state) if hasattr(self._model, "attention") else None
            attention = tuple(weights_1S[0].tolist()) if weights_1S is not None else ()
            self._after[ids] = logits_1V.double().log_softmax(dim=1)[0].tolist(), attention, state
        return self._after[ids]


def every_output(
    forced: Forced,
    *,
    vocab_size: int,
    max_length: int,
    may_follow: Callable[[tuple[int, ...], int], bool] = lambda ids, token: True,
) -> Iterator[Scored]:
    """Every output of at most ``max_length`` predictions; ``may_follow`` says which token may come after which."""

    def grow(ids: tuple[int, ...]) -> Iterator[Scored]:
        if may_follow(ids, EOS):
            yield forced.score([*ids, EOS])
        for token in range(EOS + 1, vocab_size):
            if may_follow(ids, token):
                if len(ids) + 1 == max_length:
                    yield forced.score([*ids, token])
                else:
                    yield from grow((*ids, token))

    yield from grow(())
