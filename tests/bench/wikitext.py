"""WikiText-2, word level, equal time: a plain loop with long-published settings beside the recipe ``lstm_wikitext2``.

The plain loop follows the description of PyTorch's example ``word_language_model``: LSTM of 2 × 200 units, tied,
dropout 0.2, embedding uniform in ±0.1, SGD with learning rate 20, quartered whenever the validation loss does not
improve on the best, gradient norm clipped to 0.25, 20 columns, 35 steps, state carried, fp32. It is validated at
the end of each epoch; on a small machine the budget may end before the first, so ``--valid-every-minutes`` gives
it more chances to lower its rate. The other side is the command line, ``seqkit train lstm_wikitext2``.

Both sides read the same token ids and have the same minutes, validation included, set-up not. What is validated
after the budget has ended (by either) only chooses between the last weights and the best of before. Then both best
models are scored alike: the whole validation set as one stream with the state carried, in fp32.

Legend: T time, B columns, L length of a column, D width, V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqkit.data.corpora import prepare_split
from seqkit.data.store import TokenStore
from seqkit.decoding.model import SequenceModel
from seqkit.decoding.scoring import score_stream
from seqkit.recipe.loading import load_recipe
from seqkit.recipe.schema import LmRecipe
from seqkit.tasks.lm import prepare_lm
from seqkit.training.device import set_up_cpu

from .equal_time import Outcome, evaluate_run, outcome_series, spending_cells, spending_header, train_recipe
from .matmul import matmul_rates, reference_line
from .sides import add_json_option, note, package_version, print_environment, print_table, write_json

_RECIPE = "lstm_wikitext2"
_SEED = 1111
_WIDTH, _NUM_LAYERS, _DROPOUT = 200, 2, 0.2
_NUM_COLUMNS, _NUM_VALID_COLUMNS, _LENGTH = 20, 10, 35
_LEARNING_RATE, _CUT, _CLIP_NORM, _INIT = 20.0, 4.0, 0.25, 0.1

LstmState = tuple[Tensor, Tensor]


class PlainModel(nn.Module):
    """Embedding, two LSTM layers, output layer with the embedding's weights; time first."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(_DROPOUT)
        self.embedding = nn.Embedding(vocab_size, _WIDTH)
        self.lstm = nn.LSTM(_WIDTH, _WIDTH, _NUM_LAYERS, dropout=_DROPOUT)
        self.output = nn.Linear(_WIDTH, vocab_size)
        self.output.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -_INIT, _INIT)
        nn.init.zeros_(self.output.bias)

    def forward(self, ids_TB: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """Logits of shape (T, B, V) and the last state."""
        y_TBD, state = self.lstm(self.dropout(self.embedding(ids_TB)), state)
        return self.output(self.dropout(y_TBD)), state


class BatchFirst(nn.Module):
    """A plain model as the scoring function calls it: batch first."""

    def __init__(self, model: PlainModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """Logits of shape (B, T, V) and the last state."""
        logits_TBV, state = self.model(ids_BT.T, state)
        return logits_TBV.transpose(0, 1), state


def in_columns(store: TokenStore, num_columns: int) -> Tensor:
    """The ids of a store in columns, shape (L, B); what does not fill a row is dropped."""
    ids = torch.from_numpy(store.ids.astype("int64"))
    length = len(ids) // num_columns
    return ids[: length * num_columns].view(num_columns, length).T.contiguous()


@torch.no_grad()
def validate(model: PlainModel, ids_LB: Tensor) -> float:
    """Nats per token over the columns, state carried."""
    model.eval()
    state: LstmState | None = None
    total = 0.0
    for first in range(0, len(ids_LB) - 1, _LENGTH):
        last = min(first + _LENGTH, len(ids_LB) - 1)
        logits_TBV, state = model(ids_LB[first:last], state)
        targets_TB = ids_LB[first + 1 : last + 1]
        total += float(F.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten(), reduction="sum"))
    model.train()
    return total / ids_LB[1:].numel()


def train_plain(
    train_ids: Tensor, valid_ids: Tensor, vocab_size: int, *, minutes: float, valid_every_minutes: float | None
) -> tuple[PlainModel, Outcome]:
    """The plain loop.

    Args:
        train_ids: Shape (L, B).
        valid_ids: Shape (L, B).
        vocab_size: V.
        minutes: The budget.
        valid_every_minutes: Minutes between validations; ``None``: one at the end of each epoch.

    Returns:
        The model with the weights of its best validation, and what it took.
    """
    torch.manual_seed(_SEED)
    model = PlainModel(vocab_size).train()
    parameters = list(model.parameters())
    outcome = Outcome(
        version=package_version("torch"), settings=f"SGD, fp32, validated every {valid_every_minutes or 'epoch'}"
    )
    if valid_every_minutes is not None:
        outcome.settings += " min"
    learning_rate = _LEARNING_RATE
    best_loss = math.inf
    best_weights: dict[str, Tensor] = {}
    state: LstmState | None = None
    position = validated_step = 0
    began = time.monotonic()
    last_validation = began

    def take_validation() -> bool:
        """Measure; keep the weights if they are the best; return whether they are."""
        nonlocal best_loss, best_weights, validated_step
        validated_step = outcome.steps
        loss = validate(model, valid_ids)
        outcome.validations.append({"elapsed": time.monotonic() - began, "loss": loss})
        note(f"plain loop: {time.monotonic() - began:.0f} s, step {outcome.steps:,}, valid {loss:.4f} nats")
        if loss >= best_loss:
            return False
        best_loss, best_weights = loss, copy.deepcopy(model.state_dict())
        return True

    while time.monotonic() - began < 60 * minutes:
        length = min(_LENGTH, len(train_ids) - 1 - position)
        targets_TB = train_ids[position + 1 : position + 1 + length]
        logits_TBV, state = model(train_ids[position : position + length], state)
        loss = F.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-learning_rate)
        state = (state[0].detach(), state[1].detach())
        outcome.steps += 1
        outcome.num_tokens += targets_TB.numel()
        position += length
        is_epoch_over = position >= len(train_ids) - 1
        if is_epoch_over:
            position, state = 0, None
        now = time.monotonic()
        is_due = is_epoch_over if valid_every_minutes is None else now - last_validation >= 60 * valid_every_minutes
        if is_due and now - began < 60 * minutes:
            if not take_validation():
                learning_rate /= _CUT
            last_validation = time.monotonic()
            outcome.valid_seconds += last_validation - now
    ended = time.monotonic()
    outcome.seconds = ended - began
    if outcome.steps > validated_step:
        take_validation()
    outcome.valid_seconds_after = time.monotonic() - ended
    model.load_state_dict(best_weights)
    return model, outcome


@torch.inference_mode()
def score_plain(model: PlainModel, store: TokenStore, vocab_size: int) -> float:
    """Perplexity of the whole store as one stream."""
    # Scoring calls a model and no more; the plain one has no other of its methods.
    scored = cast(SequenceModel, BatchFirst(model).eval())
    total = score_stream(scored, store.ids, device=torch.device("cpu"), vocab_size=vocab_size)
    return math.exp(total.nats / total.num_tokens)


def main() -> None:
    """Train both, score both, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.wikitext", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="for each side (%(default)s)")
    parser.add_argument("--valid-every-minutes", type=float, metavar="M", help="of the plain loop (each epoch)")
    parser.add_argument("--order", choices=["plain,seqkit", "seqkit,plain"], default="plain,seqkit")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; repeatable")
    parser.add_argument("--threads", type=int, help="for arithmetic, on both sides (one a core)")
    parser.add_argument("--test", action="store_true", help="score the test set too")
    add_json_option(parser)
    options = parser.parse_args()
    set_up_cpu(options.threads)
    splits = ["valid", "test"] if options.test else ["valid"]
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        work, cache = Path(name), Path(name) / "cache"
        recipe = load_recipe(_RECIPE, overrides=options.set).recipe
        assert isinstance(recipe, LmRecipe)
        corpora = prepare_lm(recipe, cache, seed=0).corpora
        vocab_size = corpora.tokenizer.vocab_size
        rates = matmul_rates()
        for side in options.order.split(","):
            note(f"{side}: {options.minutes:g} min")
            if side == "seqkit":
                run_dir = work / "run"
                outcome = train_recipe(
                    _RECIPE,
                    run_dir,
                    cache,
                    minutes=options.minutes,
                    overrides=options.set,
                    threads=options.threads,
                )
                for split in splits:
                    scores = evaluate_run(run_dir, cache, "--split", split, threads=options.threads)
                    outcome.scores[split] = scores["perplexity"]
                outcomes[side] = outcome
                continue
            model, outcome = train_plain(
                in_columns(corpora.train, _NUM_COLUMNS),
                in_columns(corpora.valid, _NUM_VALID_COLUMNS),
                vocab_size,
                minutes=options.minutes,
                valid_every_minutes=options.valid_every_minutes,
            )
            for split in splits:
                store = prepare_split(recipe.data, "test" if split == "test" else "valid", corpora.tokenizer, cache)
                outcome.scores[split] = score_plain(model, store, vocab_size)
            outcomes[side] = outcome
    ratios = {split: outcomes["seqkit"].scores[split] / outcomes["plain"].scores[split] for split in splits}
    print_environment()
    _print_outcomes(outcomes, splits, vocab_size)
    for split, ratio in ratios.items():
        print(f"{split} perplexity, seqkit / plain: {ratio:.3f}")
    speedup = outcomes["seqkit"].tokens_per_second / outcomes["plain"].tokens_per_second
    print(f"tokens/s, seqkit / plain: {speedup:.2f}")
    print(reference_line(rates))
    write_json(
        options.json,
        "wikitext",
        settings={
            "minutes": options.minutes,
            "valid_every_minutes": options.valid_every_minutes,
            "order": options.order,
            "overrides": options.set,
        },
        sides=[*outcome_series(outcomes, dict.fromkeys(splits, "perplexity"), rate_unit="tokens/s"), *rates],
        results={
            **{side: outcome.as_dict() for side, outcome in outcomes.items()},
            "perplexity_ratio": ratios,
            "speed_ratio": speedup,
        },
    )


def _print_outcomes(outcomes: dict[str, Outcome], splits: list[str], vocab_size: int) -> None:
    print(f"WikiText-2, {vocab_size:,} words")
    for side, outcome in outcomes.items():
        print(f"{side}: {outcome.settings}")
    rows = [
        [side, *(f"{outcome.scores[split]:.2f}" for split in splits), *spending_cells(outcome)]
        for side, outcome in outcomes.items()
    ]
    print_table(["side", *(f"{split} perplexity" for split in splits), *spending_header("tokens")], rows)


if __name__ == "__main__":
    main()
