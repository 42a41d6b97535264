"""One hypothesis a sentence: greedy search and sampling, where nothing moves between rows and finished rows leave.

Legend: B sentences in the batch, V vocabulary, T tokens so far.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seqkit.decoding.gaps import close_gaps
from seqkit.decoding.hypotheses import NO_TOKEN, Hypothesis, Trellis, score_dtype
from seqkit.decoding.model import AutoregressiveModel
from seqkit.decoding.penalties import Penalties
from seqkit.decoding.requests import check_sentences
from seqkit.decoding.sampling import SamplingRule, sample_next
from seqkit.decoding.score_keeper import ScoreKeeper
from seqkit.decoding.token_limits import TokenLimits
from seqkit.decoding.top_tokens import log_normalizer, top_tokens, widen


@torch.inference_mode()
def sample_search(
    model: AutoregressiveModel,
    source: Any,
    batch_size: int,
    rule: SamplingRule,
    *,
    generators: Sequence[torch.Generator],
    bos_id: int,
    eos_id: int,
    max_lengths: Sequence[int],
    device: torch.device,
    forbidden_ids: Sequence[int] = (),
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefixes: Sequence[Sequence[int]] | None = None,
    source_lengths: Sequence[int] | None = None,
    with_attention: bool = False,
) -> list[Hypothesis]:
    """Draw one output for each sentence, token by token, until its end token or its longest length.

    The score of an output is its log-probability under the model itself: before temperature, truncation and limits.

    Args:
        model: Any autoregressive model.
        source: What it reads; one row a sentence.
        batch_size: B.
        rule: How to choose tokens.
        generators: One a sentence (``row_generators``), so that an output does not depend on its neighbours.
        bos_id: The start token.
        eos_id: The end token.
        max_lengths: Most predictions of each sentence, the end token counted.
        device: Where the model is.
        forbidden_ids: Tokens that are never drawn.
        min_length: Fewest tokens, the end token not counted.
        no_repeat_ngram: No n-gram of this length occurs twice; 0: no limit.
        prefixes: Tokens that each output must begin with.
        source_lengths: Real source positions of each sentence, where they are padded.
        with_attention: Return the attention, where the model has any.

    Raises:
        SentenceError: A prefix cannot be had.
    """
    assert len(generators) == batch_size, "one generator a sentence"
    check_sentences(eos_id=eos_id, max_lengths=max_lengths, prefixes=prefixes)

    def draw(logits_BV: Tensor, sentence_B: Tensor) -> tuple[Tensor, Tensor]:
        token_B = sample_next(logits_BV, rule, [generators[sentence] for sentence in sentence_B.tolist()]).token_B
        return token_B, logits_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)

    limits = TokenLimits(
        eos_id=eos_id,
        forbidden_ids=forbidden_ids,
        min_length=min_length,
        no_repeat_ngram=no_repeat_ngram,
        prefixes=prefixes,
        device=device,
    )
    return follow_one_path(
        model,
        source,
        batch_size,
        draw,
        limits,
        Penalties(),
        bos_id=bos_id,
        eos_id=eos_id,
        max_lengths=max_lengths,
        device=device,
        source_lengths=source_lengths,
        with_attention=with_attention,
    )


def likeliest(logits_BV: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's likeliest token, the lowest id of equals, and its logit: the choice of greedy search."""
    logit_B1, token_B1 = top_tokens(logits_BV, 1)
    return token_B1.squeeze(1), logit_B1.squeeze(1)


@torch.inference_mode()
def follow_one_path(
    model: AutoregressiveModel,
    source: Any,
    batch_size: int,
    choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    limits: TokenLimits,
    penalties: Penalties,
    *,
    bos_id: int,
    eos_id: int,
    max_lengths: Sequence[int],
    device: torch.device,
    source_lengths: Sequence[int] | None = None,
    with_attention: bool = False,
) -> list[Hypothesis]:
    """Extend one hypothesis a sentence until each has ended.

    Args:
        model: Any autoregressive model.
        source: What it reads; one row a sentence.
        batch_size: B.
        choose: Takes logits of shape (B, V), in which tokens that may not come are minus infinity, and the sentences
            of the rows; returns each row's token and its logit.
        limits: Which tokens may come.
        penalties: How to score.
        bos_id: The start token.
        eos_id: The end token.
        max_lengths: Most predictions of each sentence, the end token counted.
        device: Where the model is.
        source_lengths: Real source positions of each sentence.
        with_attention: Return the attention, where the model has any.
    """
    if batch_size == 0:
        return []
    trellis = Trellis(batch_size, device)
    keeper = ScoreKeeper(
        model, penalties, trellis, source_lengths=source_lengths, with_attention=with_attention, device=device
    )
    sentence_B = torch.arange(batch_size, device=device)
    max_length_B = torch.tensor(max_lengths, device=device)
    first_limit = min(max_lengths)
    token_B = torch.full((batch_size,), bos_id, device=device)
    log_prob_B = torch.zeros(batch_size, dtype=score_dtype(device), device=device)
    history_BT = torch.empty(batch_size, 0, dtype=torch.long, device=device) if limits.needs_history else None
    state = model.initial_state(source, batch_size)

    def end(row_B: Tensor, token_B: Tensor, log_prob_B: Tensor, length: int) -> None:
        score_B = keeper.score(log_prob_B[row_B], length, row_B)
        row_B1, token_B1, log_prob_B1, score_B1 = (
            column.unsqueeze(1) for column in (row_B, token_B[row_B], log_prob_B[row_B], score_B)
        )
        trellis.end(sentence_B[row_B], row_B1, token_B1, log_prob_B1, score_B1)

    for step in itertools.count():
        logits_BV, state = model.step(state, token_B)
        logits_BV = widen(logits_BV)
        keeper.look(state)
        normalizer_B = log_normalizer(logits_BV)
        forced_B = limits.forced(step, sentence_B)
        if forced_B is not None:
            forced_logit_B = logits_BV.gather(1, forced_B.clamp(min=0).unsqueeze(1)).squeeze(1)
        limits.block_(logits_BV, step, history_BT)
        token_B, logit_B = choose(logits_BV, sentence_B)
        if forced_B is not None:
            token_B = torch.where(forced_B >= 0, forced_B, token_B)
            logit_B = torch.where(forced_B >= 0, forced_logit_B, logit_B)
        before_B, log_prob_B = log_prob_B, log_prob_B + (logit_B - normalizer_B)

        is_ending_B = token_B == eos_id
        if step + 1 >= first_limit:
            is_ending_B |= max_length_B == step + 1
        if limits.may_leave_nothing(step):
            is_stuck_B = log_prob_B == -torch.inf
            if bool(is_stuck_B.any()):
                (stuck_M,) = is_stuck_B.nonzero(as_tuple=True)
                end(stuck_M, torch.full_like(token_B, NO_TOKEN), before_B, step)
                is_ending_B |= is_stuck_B
        parent_B = torch.arange(token_B.size(0), device=device)
        if bool(is_ending_B.any()):
            (ending_M,) = (is_ending_B & (log_prob_B != -torch.inf)).nonzero(as_tuple=True)
            end(ending_M, token_B, log_prob_B, step + 1)
            parent_B = close_gaps(is_ending_B.logical_not())
            if parent_B.size(0) == 0:
                break
            sentence_B, max_length_B = sentence_B[parent_B], max_length_B[parent_B]
            token_B, log_prob_B = token_B[parent_B], log_prob_B[parent_B]
            state = model.reorder(state, parent_B)
            keeper.reorder(parent_B)
        trellis.grow(parent_B, token_B, log_prob_B)
        if history_BT is not None:
            history_BT = torch.cat([history_BT[parent_B], token_B.unsqueeze(1)], dim=1)
    outputs = trellis.read(1, eos_id=eos_id, source_lengths=source_lengths, with_attention=with_attention)
    return [output for (output,) in outputs]
