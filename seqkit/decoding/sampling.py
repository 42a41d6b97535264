"""Drawing tokens from a model, one at a time.

Legend: B rows, V vocabulary, K tokens kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkit.decoding.model import SequenceModel, State

_PROMPT_TOKENS_AT_ONCE = 256
"""A long prompt is read in parts, so that memory stays flat."""


@dataclass(frozen=True, kw_only=True)
class SamplingRule:
    """How the next token is chosen from the logits."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token (the first of equals)."""
    top_k: int | None = None
    """Keep the k most likely tokens."""
    top_p: float | None = None
    """Keep the fewest tokens whose probabilities sum to at least p (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Keep tokens at least ``min_p`` times as likely as the likeliest (Nguyen et al. 2024)."""


@dataclass(frozen=True)
class DrawnTokens:
    """One token for each row, and how likely the model itself found it."""

    token_B: Tensor
    """Token ids, int64."""
    log_prob_B: Tensor
    """Natural log-probability under the model, before temperature and truncation; float32."""


def sample_next(logits_BV: Tensor, rule: SamplingRule, generators: list[torch.Generator]) -> DrawnTokens:
    """Choose the next token of each row.

    Args:
        logits_BV: Unnormalised log-probabilities.
        rule: How to choose.
        generators: One a row, so that a row's draws do not depend on the rows beside it.

    Returns:
        The tokens and their log-probabilities.
    """
    log_probs_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    if rule.temperature == 0:
        token_B = log_probs_BV.argmax(dim=-1)
    else:
        kept_BV = truncate(log_probs_BV / rule.temperature, rule)
        probs_BV = torch.softmax(kept_BV, dim=-1)
        # The exponential race: argmax of p / e, e exponential, is a draw from p and needs one pass.
        race_BV = torch.stack(
            [
                torch.empty_like(probs_V).exponential_(generator=g)
                for probs_V, g in zip(probs_BV, generators, strict=True)
            ]
        )
        token_B = (probs_BV / race_BV).argmax(dim=-1)
    return DrawnTokens(token_B, log_probs_BV.gather(1, token_B.unsqueeze(1)).squeeze(1))


def truncate(scores_BV: Tensor, rule: SamplingRule) -> Tensor:
    """Set the scores of tokens that the rule excludes to minus infinity; the likeliest always stays.

    Args:
        scores_BV: Log-probabilities after temperature, up to a constant a row.
        rule: top_k is applied first, then top_p, then min_p, each on what the one before left.
    """
    if rule.top_k is not None and rule.top_k < scores_BV.size(1):
        # By index, not by the k-th score: several tokens may have that score, in bf16 easily.
        kept_BK = scores_BV.topk(rule.top_k, dim=-1).indices
        drop_BV = torch.ones_like(scores_BV, dtype=torch.bool).scatter(1, kept_BK, False)
        scores_BV = scores_BV.masked_fill(drop_BV, -torch.inf)
    if rule.top_p is not None and rule.top_p < 1:
        sorted_BV, order_BV = scores_BV.sort(dim=-1, descending=True, stable=True)
        probs_BV = sorted_BV.softmax(dim=-1)
        before_BV = probs_BV.cumsum(dim=-1) - probs_BV
        drop_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= rule.top_p)
        scores_BV = scores_BV.masked_fill(drop_BV, -torch.inf)
    if rule.min_p is not None:
        floor_B1 = scores_BV.max(dim=-1, keepdim=True).values + torch.tensor(rule.min_p).log()
        scores_BV = scores_BV.masked_fill(scores_BV < floor_B1, -torch.inf)
    return scores_BV


def row_generators(seed: int, num_rows: int, *, device: torch.device, first_row: int = 0) -> list[torch.Generator]:
    """One generator a row, each seeded by (seed, row), so that a batch of samples equals samples one by one."""
    # A large odd factor keeps neighbouring seeds from sharing rows; manual_seed takes any 64-bit number.
    mixed = [(seed * 0x9E3779B97F4A7C15 + row) % 2**63 for row in range(first_row, first_row + num_rows)]
    return [torch.Generator(device=device).manual_seed(number) for number in mixed]


@torch.inference_mode()
def read_prompt(
    model: SequenceModel, prompt_ids: list[int], batch_size: int, device: torch.device
) -> tuple[Tensor, State]:
    """Feed a prompt to ``batch_size`` equal rows.

    Args:
        model: Any model that runs over whole sequences.
        prompt_ids: At least one token; at most the model's context, where that is limited.
        batch_size: Rows.
        device: Where the model is.

    Returns:
        Logits for the first new token, shape (B, V), and the state.
    """
    assert prompt_ids, "a prompt has at least its start token"
    state = model.initial_state(None, 1)
    logits_1TV = torch.empty(0)
    for first in range(0, len(prompt_ids), _PROMPT_TOKENS_AT_ONCE):
        part_1T = torch.tensor([prompt_ids[first : first + _PROMPT_TOKENS_AT_ONCE]], device=device)
        logits_1TV, state = model(part_1T, state)
    rows = torch.zeros(batch_size, dtype=torch.long, device=device)
    return logits_1TV[:, -1].index_select(0, rows), model.reorder(state, rows)


@torch.inference_mode()
def generate(
    model: SequenceModel,
    prompt_ids: list[int],
    *,
    length: int,
    rule: SamplingRule,
    generators: list[torch.Generator],
    device: torch.device,
) -> Iterator[DrawnTokens]:
    """Yield ``length`` new tokens for each row after the same prompt; one row for each generator.

    The caller may stop early. Nothing is computed for tokens that nobody asks for.
    """
    logits_BV, state = read_prompt(model, prompt_ids, len(generators), device)
    for remaining in range(length, 0, -1):
        drawn = sample_next(logits_BV, rule, generators)
        yield drawn
        if remaining > 1:
            logits_BV, state = model.step(state, drawn.token_B)
