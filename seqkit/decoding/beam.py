r"""Beam search: the W most likely hypotheses of each sentence, extended side by side.

In each step the candidates of a sentence are all tokens after all its live hypotheses, ordered by log-probability; of
equals the lower beam first, then the lower token id. Of the W best candidates, those with the end token are finished
and scored; the W best of the others live on. So a finished hypothesis costs no beam. Penalties decide among what has
finished, not what lives on, since live hypotheses have one length. An output of the longest length is cut: of the W
best candidates of its last step all are taken, those without the end token as unfinished, and ranked by the same
score.

A sentence is final when no live hypothesis can still enter its ``num_best`` best, by the bound in ``penalties.py``;
an equal score found later does not enter. With a patience it is final too once that many times W hypotheses have ended
(Kasai et al. 2022, "Beam Decoding with Controlled Patience"), though a better one may come. With one beam the search
is greedy: there is nothing beside the path that takes the likeliest token, so it is final when that path ends,
whatever the penalty.

Legend: B sentences in the batch, W beams (1 in the first step), N = B · W rows with row = sentence · W + beam,
K candidates of a row, Y = W · K of a sentence, C the best of those, V vocabulary, T tokens so far, F finished.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.decoding.constraints import LexicalConstraints, Progress, share_out
from seqkit.decoding.gaps import close_gaps
from seqkit.decoding.hypotheses import NO_TOKEN, Hypothesis, Trellis, score_dtype
from seqkit.decoding.model import AutoregressiveModel, PendingLogits, PendingModel
from seqkit.decoding.requests import BeamRule, check_sentences
from seqkit.decoding.score_keeper import ScoreKeeper
from seqkit.decoding.single_path import follow_one_path, likeliest
from seqkit.decoding.token_limits import TokenLimits
from seqkit.decoding.top_tokens import log_normalizer, top_tokens, widen


@torch.inference_mode()
def beam_search(
    model: AutoregressiveModel,
    source: Any,
    batch_size: int,
    rule: BeamRule,
    *,
    bos_id: int,
    eos_id: int,
    max_lengths: Sequence[int],
    device: torch.device,
    forbidden_ids: Sequence[int] = (),
    prefixes: Sequence[Sequence[int]] | None = None,
    constraints: Sequence[Sequence[Sequence[int]]] | None = None,
    source_lengths: Sequence[int] | None = None,
    with_attention: bool = False,
) -> list[list[Hypothesis]]:
    """Find the best outputs of each sentence.

    Args:
        model: Any autoregressive model.
        source: What it reads; one row a sentence.
        batch_size: B.
        rule: How to search and score; see also ``check_rule``.
        bos_id: The start token.
        eos_id: The end token.
        max_lengths: Most predictions of each sentence. The end token counts, as in the penalties.
        device: Where the model is.
        forbidden_ids: Tokens that are never chosen, such as padding and the start token.
        prefixes: Tokens that each output must begin with. They may be forbidden ones, and count in the score.
        constraints: For each sentence any number of token sequences that must occur in its outputs. An output ends
            only when they do. Where they could not be met within the longest output, the best that was found is
            returned with ``meets_constraints`` false.
        source_lengths: Real source positions of each sentence, where they are padded.
        with_attention: Return the attention, where the model has any.

    Returns:
        For each sentence at most ``num_best`` hypotheses, best first; at least one.

    Raises:
        SentenceError: A prefix or constraint cannot be had, as ``check_sentences`` finds.
        UsageError: There is a coverage penalty, but the model has no attention.
    """
    check_sentences(
        eos_id=eos_id,
        max_lengths=max_lengths,
        no_repeat_ngram=rule.no_repeat_ngram,
        forbidden_ids=forbidden_ids,
        prefixes=prefixes,
        constraints=constraints,
    )
    if batch_size == 0:
        return []
    limits = TokenLimits(
        eos_id=eos_id,
        forbidden_ids=forbidden_ids,
        min_length=rule.min_length,
        no_repeat_ngram=rule.no_repeat_ngram,
        prefixes=prefixes,
        device=device,
    )
    is_constrained = constraints is not None and any(constraints)
    if rule.beam_size == 1 and not is_constrained:
        outputs = follow_one_path(
            model,
            source,
            batch_size,
            likeliest,
            limits,
            rule,
            bos_id=bos_id,
            eos_id=eos_id,
            max_lengths=max_lengths,
            device=device,
            source_lengths=source_lengths,
            with_attention=with_attention,
        )
        return [[output] for output in outputs]
    trellis = Trellis(batch_size, device)
    keeper = ScoreKeeper(
        model, rule, trellis, source_lengths=source_lengths, with_attention=with_attention, device=device
    )
    lexical = LexicalConstraints(constraints, device) if constraints is not None and is_constrained else None
    search = _LiveBeams(rule, limits, lexical, trellis, keeper, eos_id=eos_id, max_lengths=max_lengths, device=device)
    state = model.initial_state(source, batch_size)
    token_N = torch.full((batch_size,), bos_id, device=device)
    take_step = model.pending_step if isinstance(model, PendingModel) else model.step
    for step in itertools.count():
        logits, state = take_step(state, token_N)
        keeper.look(state)
        row_N, token_N = search.advance(logits, step)
        if row_N.size(0) == 0:
            break
        state = model.reorder(state, row_N)
    return trellis.read(rule.num_best, eos_id=eos_id, source_lengths=source_lengths, with_attention=with_attention)


@dataclass(frozen=True)
class _Candidates:
    """The best extensions of each sentence's hypotheses, in the order in which the beam takes them."""

    log_prob_BC: Tensor
    row_BC: Tensor
    """The row that is extended."""
    token_BC: Tensor
    progress_BC: Progress | None

    def first(self, count: int) -> _Candidates:
        progress_BC = self.progress_BC[:, :count] if self.progress_BC is not None else None
        return _Candidates(self.log_prob_BC[:, :count], self.row_BC[:, :count], self.token_BC[:, :count], progress_BC)

    def pick(self, column_BM: Tensor) -> _Candidates:
        progress_BC = self.progress_BC.pick(column_BM) if self.progress_BC is not None else None
        log_prob_BM, row_BM, token_BM = (
            field_BC.gather(1, column_BM) for field_BC in (self.log_prob_BC, self.row_BC, self.token_BC)
        )
        return _Candidates(log_prob_BM, row_BM, token_BM, progress_BC)


class _LiveBeams:
    """The live hypotheses of all sentences that are not final yet, without what the model keeps of them."""

    def __init__(
        self,
        rule: BeamRule,
        limits: TokenLimits,
        lexical: LexicalConstraints | None,
        trellis: Trellis,
        keeper: ScoreKeeper,
        *,
        eos_id: int,
        max_lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        batch_size = len(max_lengths)
        dtype = score_dtype(device)
        self._rule = rule
        self._limits = limits
        self._lexical = lexical
        self._trellis = trellis
        self._keeper = keeper
        self._eos_id = eos_id
        self._width = 1
        self._sentence_B = torch.arange(batch_size, device=device)
        self._first_row_B1 = self._sentence_B.unsqueeze(1)
        self._row_multiples_B1 = self._first_row_B1 * rule.beam_size
        self._max_length_B1 = torch.tensor(max_lengths, device=device).unsqueeze(1)
        self._first_limit = min(max_lengths)
        # lp(M), the divisor in the bound on what a live hypothesis can still reach.
        divisors = [[rule.divisor(max_length)] for max_length in max_lengths]
        self._bound_divisor_B1 = torch.tensor(divisors, dtype=dtype, device=device)
        self._best_BF = torch.full((batch_size, rule.num_best), -torch.inf, dtype=dtype, device=device)
        self._num_ended_B1 = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        self._has_ended = False
        self._log_prob_N = torch.zeros(batch_size, dtype=dtype, device=device)
        self._progress_N = lexical.start() if lexical is not None else None
        self._history_NT = torch.empty(batch_size, 0, dtype=torch.long, device=device) if limits.needs_history else None

    def advance(self, logits: Tensor | PendingLogits, step: int) -> tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            logits: Of the next tokens, shape (N, V).
            step: T.

        Returns:
            The rows that go on, in their new order, and the token of each; empty when every sentence is final.
        """
        beam_size = self._rule.beam_size
        candidates = self._candidates(logits, step)
        is_end_BC = candidates.token_BC == self._eos_id
        has_end = bool(is_end_BC[:, :beam_size].any())
        is_last_B1 = self._max_length_B1 == step + 1 if step + 1 >= self._first_limit else None
        if has_end or is_last_B1 is not None:
            is_ending_BW = is_end_BC[:, :beam_size]
            if is_last_B1 is not None:
                is_ending_BW = is_ending_BW | is_last_B1
            self._end(candidates.first(beam_size), is_ending_BW, step + 1)
        if self._lexical is not None or self._limits.may_leave_nothing(step):
            self._end_stuck(candidates.log_prob_BC[:, :1] == -torch.inf, step)
        if has_end:
            # Sorted by the claim that it ends, stably: the others first.
            live = candidates.pick(torch.sort(is_end_BC, dim=1, stable=True).indices[:, :beam_size])
        else:
            live = candidates.first(beam_size)
        live = self._leave(live, is_last_B1)

        self._width = beam_size
        self._first_row_B1 = self._row_multiples_B1[: live.row_BC.size(0)]
        row_N, token_N = live.row_BC.flatten(), live.token_BC.flatten()
        self._log_prob_N = live.log_prob_BC.flatten()
        self._progress_N = live.progress_BC.reshape(-1) if live.progress_BC is not None else None
        if self._history_NT is not None:
            self._history_NT = torch.cat([self._history_NT[row_N], token_N.unsqueeze(1)], dim=1)
        self._trellis.grow(row_N, token_N, self._log_prob_N)
        self._keeper.reorder(row_N)
        return row_N, token_N

    def _candidates(self, logits: Tensor | PendingLogits, step: int) -> _Candidates:
        """The 2W best extensions of each sentence: a row has one end token, so at least W of them go on."""
        num_sentences, count = self._sentence_B.size(0), 2 * self._rule.beam_size
        log_prob_NK, token_NK = self._extensions(logits, step)
        log_prob_BY, token_BY = log_prob_NK.reshape(num_sentences, -1), token_NK.reshape(num_sentences, -1)
        progress_BC = None
        if self._lexical is None or self._progress_N is None:
            log_prob_BY, place_BY = torch.sort(log_prob_BY, dim=1, descending=True, stable=True)
            log_prob_BC, place_BC = log_prob_BY[:, :count], place_BY[:, :count]
        else:
            progress_BY = self._lexical.advance(self._progress_N[:, None], token_NK).reshape(num_sentences, -1)
            place_BC = share_out(log_prob_BY, self._lexical.bank(progress_BY), self._lexical.num_banks)[:, :count]
            log_prob_BC, progress_BC = log_prob_BY.gather(1, place_BC), progress_BY.pick(place_BC)
        row_BC = place_BC // token_NK.size(1) + self._first_row_B1
        return _Candidates(log_prob_BC, row_BC, token_BY.gather(1, place_BC), progress_BC)

    def _extensions(self, logits: Tensor | PendingLogits, step: int) -> tuple[Tensor, Tensor]:
        """The best extensions of each row: log-probabilities and tokens, both (N, K), in the order of ties."""
        beam_size = self._rule.beam_size
        forced_N = self._limits.forced(step, self._sentence_B, self._width)
        if not isinstance(logits, Tensor):
            if forced_N is None and self._lexical is None and self._history_NT is None:
                normalizer_N, top_NK, token_NK = logits.best(beam_size + 1, self._limits.blocked_ids(step))
                return self._filled(top_NK - normalizer_N.unsqueeze(1), token_NK)
            logits = logits.all()
        logits_NV = widen(logits)
        normalizer_N1 = log_normalizer(logits_NV).unsqueeze(1)
        if forced_N is not None:
            is_forced_N1 = (forced_N >= 0).unsqueeze(1)
            forced_N1 = forced_N.clamp(min=0).unsqueeze(1)
            forced_logit_N1 = logits_NV.gather(1, forced_N1)
        self._limits.block_(logits_NV, step, self._history_NT)
        if self._lexical is not None and self._progress_N is not None:
            logits_NV[:, self._eos_id].masked_fill_(~self._lexical.is_met(self._progress_N), -torch.inf)
        # Of one row, the sentence needs no more than W tokens and the end token.
        top_NK, token_NK = top_tokens(logits_NV, beam_size + 1)
        if self._lexical is not None and self._progress_N is not None:
            wanted_NC, is_wanted_NC = self._lexical.next_tokens(self._progress_N)
            is_there_NC = (wanted_NC.unsqueeze(2) == token_NK.unsqueeze(1)).any(dim=2)
            wanted_top_NC = logits_NV.gather(1, wanted_NC).masked_fill(is_there_NC | ~is_wanted_NC, -torch.inf)
            top_NK, token_NK = torch.cat([top_NK, wanted_top_NC], dim=1), torch.cat([token_NK, wanted_NC], dim=1)
        if forced_N is not None:
            top_NK = top_NK.masked_fill(is_forced_N1, -torch.inf)
            top_NK[:, :1] = torch.where(is_forced_N1, forced_logit_N1, top_NK[:, :1])
            token_NK = torch.cat([torch.where(is_forced_N1, forced_N1, token_NK[:, :1]), token_NK[:, 1:]], dim=1)
        return self._filled(top_NK - normalizer_N1, token_NK)

    def _filled(self, log_prob_NK: Tensor, token_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of whole hypotheses, and enough of them, from those of single tokens."""
        missing = -(-2 * self._rule.beam_size // self._width) - token_NK.size(1)
        if missing > 0:
            # In the first step, or with a tiny vocabulary: fill up with dead candidates, not the end token.
            log_prob_NK = F.pad(log_prob_NK, (0, missing), value=-torch.inf)
            token_NK = F.pad(token_NK, (0, missing), value=int(self._eos_id == 0))
        return log_prob_NK + self._log_prob_N.unsqueeze(1), token_NK

    def _end(self, candidates: _Candidates, is_ending_BC: Tensor, length: int) -> None:
        """Score the candidates that end, note them, and keep each sentence's best scores."""
        score_BC = self._keeper.score(candidates.log_prob_BC, length, candidates.row_BC)
        score_BC = score_BC.masked_fill(~is_ending_BC, -torch.inf)
        if self._rule.num_to_end is not None:
            self._num_ended_B1 += (score_BC > -torch.inf).sum(dim=1, keepdim=True)
        meets_BC = None
        if self._lexical is not None and candidates.progress_BC is not None:
            meets_BC = self._lexical.is_met(candidates.progress_BC)
        self._trellis.end(
            self._sentence_B, candidates.row_BC, candidates.token_BC, candidates.log_prob_BC, score_BC, meets_BC
        )
        self._best_BF = torch.cat([self._best_BF, score_BC], dim=1).topk(self._best_BF.size(1), dim=1).values
        self._has_ended = True

    def _end_stuck(self, is_stuck_B1: Tensor, step: int) -> None:
        """Where no token is allowed and nothing has ended, end the live hypotheses as they are."""
        is_stuck_B1 = is_stuck_B1 & (self._best_BF[:, :1] == -torch.inf)
        if not bool(is_stuck_B1.any()):
            return
        num_sentences = self._sentence_B.size(0)
        log_prob_BW = self._log_prob_N.view(num_sentences, -1)
        row_BW = self._first_row_B1 + torch.arange(self._width, device=log_prob_BW.device)
        progress_BW = self._progress_N.reshape(num_sentences, -1) if self._progress_N is not None else None
        stuck = _Candidates(log_prob_BW, row_BW, torch.full_like(row_BW, NO_TOKEN), progress_BW)
        self._end(stuck, is_stuck_B1.expand_as(row_BW), step)

    def _leave(self, live: _Candidates, is_last_B1: Tensor | None) -> _Candidates:
        """Let the sentences that are final leave; see the bound in ``penalties.py``."""
        if not self._has_ended:
            return live
        bound_B1 = live.log_prob_BC.amax(dim=1, keepdim=True) / self._bound_divisor_B1
        is_final_B1 = self._best_BF[:, -1:] >= bound_B1
        if self._rule.num_to_end is not None:
            is_final_B1 = is_final_B1 | (self._num_ended_B1 >= self._rule.num_to_end)
        if is_last_B1 is not None:
            is_final_B1 = is_final_B1 | is_last_B1
        if self._rule.beam_size == 1:
            is_final_B1 = is_final_B1 | (self._best_BF > -torch.inf)
        if not bool(is_final_B1.any()):
            return live
        stays_M = close_gaps(is_final_B1.squeeze(1).logical_not())
        self._sentence_B = self._sentence_B[stays_M]
        self._max_length_B1 = self._max_length_B1[stays_M]
        self._bound_divisor_B1 = self._bound_divisor_B1[stays_M]
        self._best_BF, self._num_ended_B1 = self._best_BF[stays_M], self._num_ended_B1[stays_M]
        progress_BC = live.progress_BC[stays_M] if live.progress_BC is not None else None
        return _Candidates(live.log_prob_BC[stays_M], live.row_BC[stays_M], live.token_BC[stays_M], progress_BC)
