"""Scheduled sampling and dropout of the recurrent decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pairs import pairs_recipe
from torch import Tensor, nn

from seqkit.models.dropout import SequenceDropout
from seqkit.models.encoder_decoder import SourceTokens
from seqkit.models.memory import Memory
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.scheduled_sampling import with_own_tokens
from seqkit.tasks.seq2seq import PreparedSeq2Seq, pair_loss, prepare_seq2seq

V, D, B, S, T = 11, 8, 5, 4, 7
BOS = 10
FEEDINGS = ["none", "hidden", "context"]


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def build(rows: int = B, **options: Any) -> tuple[RecurrentDecoder, Memory]:
    """A decoder whose predictions are neither all alike nor certain, and what it attends to."""
    decoder = RecurrentDecoder(V, D, cell="gru", num_layers=2, attention="additive", **options).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.7, generator=generator)
    values_BSM = torch.randn(rows, S, D, dtype=torch.float64, generator=generator)
    return decoder, Memory(values_BSM, torch.ones(rows, S, dtype=torch.bool), values_BSM.mean(dim=1))


def targets(rows: int = B, steps: int = T) -> Tensor:
    ids_BT = torch.randint(BOS, (rows, steps), generator=torch.Generator().manual_seed(4))
    ids_BT[:, 0] = BOS
    return ids_BT


@pytest.mark.parametrize("feeding", FEEDINGS)
@torch.no_grad()
def test_with_probability_one_the_decoder_reads_its_greedy_output(feeding: str) -> None:
    decoder, memory = build(feeding=feeding)
    state, token_N = decoder.initial_state(memory, B), torch.full((B,), BOS)
    greedy = [token_N]
    for _ in range(T - 1):
        logits_NV, state = decoder.step(state, token_N)
        token_N = logits_NV.argmax(dim=1)
        greedy.append(token_N)
    greedy_BT = torch.stack(greedy, dim=1)
    assert not torch.equal(greedy_BT, targets())
    own_BT = with_own_tokens(decoder, targets(), decoder.initial_state(memory, B), probability=1.0)
    assert torch.equal(own_BT, greedy_BT)
    hidden_BTR = decoder.attended_hidden(targets(), memory, feed_own_probability=1.0)
    torch.testing.assert_close(hidden_BTR, decoder.attended_hidden(greedy_BT, memory))


@torch.no_grad()
def test_with_probability_zero_nothing_changes_and_nothing_is_drawn() -> None:
    decoder, memory = build()
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    hidden_BTR = decoder.attended_hidden(targets(), memory, feed_own_probability=0.0, generator=generator)
    assert torch.equal(hidden_BTR, decoder.attended_hidden(targets(), memory))
    assert torch.equal(generator.get_state(), before)


@torch.no_grad()
def test_the_chance_holds_for_every_token_but_the_first_and_follows_the_generator() -> None:
    rows = 600
    decoder, memory = build(rows)
    # Always predicts token 7, which the targets do not have.
    decoder.output.bias[7] = 1e6
    ids_BT = targets(rows)
    ids_BT[ids_BT == 7] = 8

    def mixed(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        state = decoder.initial_state(memory, rows)
        return with_own_tokens(decoder, ids_BT, state, probability=0.3, generator=generator)

    own_BT = mixed(5)
    is_own_BT = own_BT == 7
    assert torch.equal(own_BT[~is_own_BT], ids_BT[~is_own_BT])
    assert not is_own_BT[:, 0].any()
    # Five standard deviations of a mean of 600 Bernoulli draws.
    assert (is_own_BT[:, 1:].double().mean(dim=0) - 0.3).abs().max() < 5 * (0.21 / rows) ** 0.5
    assert torch.equal(mixed(5), own_BT) and not torch.equal(mixed(6), own_BT)
    assert ids_BT[:, 0].eq(BOS).all(), "the targets themselves are as they were"


@torch.no_grad()
def test_own_tokens_are_drawn_from_the_distribution() -> None:
    rows = 4000
    decoder, memory = build(1)
    memory = Memory(
        memory.values_BSM.expand(rows, -1, -1),
        torch.ones(rows, S, dtype=torch.bool),
        memory.summary_BM.expand(rows, -1),
    )
    decoder.output.bias[3] = -torch.inf
    ids_BT = targets(1, 2).expand(rows, -1)
    own_BT = with_own_tokens(
        decoder,
        ids_BT,
        decoder.initial_state(memory, rows),
        probability=1.0,
        draws=True,
        generator=torch.Generator().manual_seed(2),
    )
    logits_NV, _ = decoder.step(decoder.initial_state(memory, rows), ids_BT[:, 0])
    expected_V = logits_NV[0].softmax(dim=0)
    found_V = own_BT[:, 1].bincount(minlength=V) / rows
    assert found_V[3] == 0
    assert ((found_V - expected_V).abs() < 5 * (expected_V * (1 - expected_V) / rows).sqrt() + 1e-12).all()


@pytest.mark.parametrize("feeding", FEEDINGS)
def test_gradients_are_those_of_the_tokens_that_were_read(feeding: str) -> None:
    decoder, memory = build(feeding=feeding)
    state = decoder.initial_state(memory, B)
    own_BT = with_own_tokens(decoder, targets(), state, probability=0.5, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(own_BT, targets())
    losses = [
        decoder.attended_hidden(
            targets(), memory, feed_own_probability=0.5, generator=torch.Generator().manual_seed(1)
        ),
        decoder.attended_hidden(own_BT, memory),
    ]
    parameters = [parameter for name, parameter in decoder.named_parameters() if "output" not in name]
    found, expected = (torch.autograd.grad(loss.square().sum(), parameters) for loss in losses)
    torch.testing.assert_close(found, expected)


class FixedDropout(nn.Module):
    """Multiplies by the same mask each time, instead of a random one."""

    probability = 0.5

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mask_BTD = 2.0 * torch.randint(2, (B, T, D), generator=generator).double()

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD * self.mask_BTD


@pytest.mark.parametrize("is_residual", [False, True])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "gru_reset_before"])
def test_dropout_in_the_loop_stands_where_it_stands_in_whole_sequences(cell: Any, is_residual: bool) -> None:
    torch.manual_seed(1)
    decoder = RecurrentDecoder(V, D, cell=cell, num_layers=2, attention="dot", is_residual=is_residual).double()
    _, memory = build()
    decoder.stack.dropout = FixedDropout(1)  # type: ignore[assignment]
    x_NTE = decoder.embedding(targets())
    state = decoder.initial_state(memory, B)
    at_once, in_steps = decoder._all_at_once(x_NTE, state), decoder._step_by_step(x_NTE, state)
    torch.testing.assert_close(in_steps[0], at_once[0])
    torch.testing.assert_close(in_steps[1], at_once[1])
    torch.testing.assert_close(in_steps[2].layers, at_once[2].layers)
    decoder.eval()
    masked, plain = at_once[0], decoder._step_by_step(x_NTE, state)[0]
    assert (masked - plain).abs().max() > 1e-3, "no mask in the loop outside training"


@pytest.mark.parametrize("is_variational", [False, True], ids=["plain", "variational"])
@pytest.mark.parametrize("feeding", FEEDINGS)
def test_dropout_stands_on_the_embedding_between_layers_and_before_the_output(
    feeding: str, is_variational: bool
) -> None:
    torch.manual_seed(10)
    decoder, memory = build(feeding=feeding, dropout=0.5, embedding_dropout=0.5, is_variational=is_variational)
    masks: list[Tensor] = []

    def note_mask(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert (inputs[0] != 0).all() and inputs[0].shape[:2] == (B, T)
        masks.append(output != 0)

    for module in decoder.modules():
        if isinstance(module, SequenceDropout):
            module.register_forward_hook(note_mask)
    hidden_BTR = decoder.attended_hidden(targets(), memory)
    assert len(masks) == 3
    for mask_BTD in masks:
        assert 0 < mask_BTD.double().mean() < 1
        assert bool((mask_BTD == mask_BTD[:, :1]).all()) == is_variational
    assert torch.equal(hidden_BTR != 0, masks[-1])
    decoder.eval()
    random_state = torch.get_rng_state()
    assert torch.equal(decoder.attended_hidden(targets(), memory), decoder.attended_hidden(targets(), memory))
    assert torch.equal(torch.get_rng_state(), random_state)


def prepared_with(folder: Path, **sampling: Any) -> PreparedSeq2Seq:
    model = {"type": "gru", "d_model": 8, "dropout": 0.0}
    recipe = pairs_recipe(folder, model=model, train={"max_steps": 4, "scheduled_sampling": sampling or None})
    return prepare_seq2seq(recipe, folder / "cache", seed=1)


def test_in_training_the_chance_rises_with_what_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, bool]] = []

    def note(decoder: Any, ids_BT: Tensor, state: Any, *, probability: float, draws: bool, generator: Any) -> Tensor:
        assert generator is None, "from the global random state, which checkpoints keep"
        asked.append((probability, draws))
        return ids_BT

    monkeypatch.setattr("seqkit.models.recurrent_decoder.with_own_tokens", note)
    for own_token in ("likeliest", "drawn"):
        prepared = prepared_with(tmp_path, probability=0.8, own_token=own_token)
        model, batch = prepared.build_model(), prepared.batches.batch(0, 0)
        for spent in (0.0, 0.25, 1.0):
            prepared.loss(model, batch, None, spent)
    # Nothing is asked for before anything is spent.
    assert asked == [(0.2, False), (0.8, False), (0.2, True), (0.8, True)]


def test_in_training_the_targets_stay_what_is_to_be_predicted(tmp_path: Path) -> None:
    plain, sampled = prepared_with(tmp_path), prepared_with(tmp_path, probability=1.0)
    torch.manual_seed(2)
    model = sampled.build_model().double()
    batch = sampled.batches.batch(0, 0)
    with torch.no_grad():
        loss, expected = sampled.loss(model, batch, None, 1.0), pair_loss(model, batch)
        # With the model's own output as input, by hand.
        source_ids, source_mask = torch.from_numpy(batch.src_PS), torch.from_numpy(batch.src_mask_PS)
        memory = model.encode(SourceTokens(source_ids, source_mask))
        inputs_PT = torch.from_numpy(batch.inputs_PT)
        assert isinstance(model.decoder, RecurrentDecoder)
        own_PT = with_own_tokens(
            model.decoder, inputs_PT, model.decoder.initial_state(memory, len(inputs_PT)), probability=1.0
        )
        log_prob_PTV = model.target.output(model.decoder.attended_hidden(own_PT, memory)).log_softmax(dim=2)
        nats_PT = -log_prob_PTV.gather(2, torch.from_numpy(batch.targets_PT).unsqueeze(2)).squeeze(2)
        by_hand = nats_PT[torch.from_numpy(batch.tgt_mask_PT)].sum()
    assert loss.nats.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert loss.num_tokens == expected[2] == int(batch.tgt_mask_PT.sum())
    assert abs(loss.nats.item() - expected[0].item()) > 1e-3
    # Neither without the option nor in validation.
    assert plain.loss(model, batch, None, 1.0).nats.item() == pytest.approx(expected[0].item(), rel=1e-6)
    model.eval()
    assert sampled.evaluate(model, lambda: None) == plain.evaluate(model, lambda: None)
