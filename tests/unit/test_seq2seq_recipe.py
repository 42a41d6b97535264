"""What a translation recipe settles by its recurrent model, and what it refuses, at the key that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqkit.errors import RecipeError
from seqkit.models.build import build_seq2seq
from seqkit.models.recurrent_decoder import RecurrentDecoder
from seqkit.models.recurrent_encoder import RecurrentEncoder
from seqkit.recipe.loading import load_recipe, resolve_recipe_text
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe

RNN = """\
task: seq2seq
data:
  train: {src: a.src, tgt: a.tgt}
  valid: {src: b.src, tgt: b.tgt}
tokenizer: {type: char}
model:
  type: lstm
  d_model: 16
train:
  max_steps: 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def resolved(text: str, *overrides: str) -> dict[str, Any]:
    """The resolved recipe, whose own resolution has the same bytes."""
    Path("r.yaml").write_text(text)
    once = resolve_recipe_text(load_recipe("r.yaml", overrides=overrides).recipe)
    Path("resolved.yaml").write_text(once)
    assert resolve_recipe_text(load_recipe("resolved.yaml").recipe) == once
    values: dict[str, Any] = yaml.safe_load(once)
    return values


def messages(text: str, *overrides: str) -> list[str]:
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", overrides=overrides)
    return caught.value.messages


@pytest.mark.parametrize(
    ("attention", "feeding"), [("dot", "hidden"), ("general", "hidden"), ("additive", "context"), ("none", "context")]
)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_what_is_fed_depends_on_the_attention_unless_it_is_said(cell: str, attention: str, feeding: str) -> None:
    text = RNN.replace("lstm", cell)
    assert resolved(text, f"model.attention={attention}")["model"]["feeding"] == feeding
    assert resolved(text, f"model.attention={attention}", "model.feeding=null")["model"]["feeding"] == feeding
    assert resolved(text, f"model.attention={attention}", "model.feeding=none")["model"]["feeding"] == "none"


def test_defaults_are_those_of_the_family() -> None:
    found = resolved(RNN.replace("  d_model: 16\n", ""))["model"]
    assert (found["d_model"], found["bidirectional"], found["attention"], found["feeding"]) == (
        512,
        True,
        "general",
        "hidden",
    )
    assert "num_heads" not in found and "output_bias" not in found
    assert resolved(RNN.replace("lstm", "transformer"))["model"]["num_heads"] == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.reverse_source=true"],
            "--set model.reverse_source: is for an encoder that reads one way: set bidirectional: false",
        ),
        (
            ["model.d_model=15"],
            "--set model.d_model: must be even for the halves of a bidirectional encoder, found 15",
        ),
        (
            ["model.attention=none", "model.feeding=hidden"],
            "--set model.feeding: hidden returns what attention found, but attention is none",
        ),
        (
            ["model.attention=none", "model.feeding=none", "model.bridge=zero"],
            "--set model.bridge: zero, without attention and feeding, would show the decoder no source",
        ),
        (
            ["model.bridge=copy", "model.num_layers=2", "model.num_decoder_layers=1"],
            "--set model.bridge: copy needs as many layers in the encoder as in the decoder, found 2 and 1",
        ),
        (["model.d_attention=8"], "--set model.d_attention: is for additive attention, not for general"),
        (["model.num_heads=2"], "--set model.num_heads: not a key of type lstm; it belongs to type transformer"),
        (["model.reset_gate=before"], "--set model.reset_gate: not a key of type lstm; it belongs to type gru"),
        (
            ["model.attention=bahdanau"],
            '--set model.attention: expected one of none, dot, general, additive; found the text "bahdanau"',
        ),
        (
            ["model.type=gtu"],
            '--set model.type: expected one of transformer, rnn, lstm, gru; found the text "gtu"; did',
        ),
        (
            ["train.scheduled_sampling={probability: 1.5}"],
            "--set train.scheduled_sampling.probability: must be at most 1, found 1.5",
        ),
        (["train.scheduled_sampling={}"], "train.scheduled_sampling.probability: missing key"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_key(overrides: list[str], message: str) -> None:
    (found,) = messages(RNN, *overrides)
    assert message in found


@pytest.mark.parametrize(
    "settings",
    [
        ["model.bidirectional=false", "model.d_model=15", "model.reverse_source=true"],
        ["model.attention=additive", "model.d_attention=5", "model.feeding=hidden"],
        ["model.attention=none", "model.feeding=none"],
        ["model.bridge=copy", "model.num_layers=2"],
        ["model.bridge=zero"],
        ["model.num_layers=3", "model.num_decoder_layers=1"],
    ],
)
def test_what_fits_is_built(settings: list[str]) -> None:
    resolved(RNN, *settings)
    recipe = load_recipe("resolved.yaml").recipe
    assert isinstance(recipe, Seq2SeqRecipe)
    build_seq2seq(recipe.model, 7, 5, is_joint=False)


def test_scheduled_sampling_is_refused_for_a_transformer() -> None:
    assert messages(RNN.replace("lstm", "transformer") + "  scheduled_sampling: {probability: 0.2}\n") == [
        "r.yaml:11:3: train.scheduled_sampling: is for recurrent models; a transformer reads all targets at once"
    ]


def built(*overrides: str, is_joint: bool = False) -> tuple[RecurrentEncoder, RecurrentDecoder]:
    Path("r.yaml").write_text(RNN)
    recipe = load_recipe("r.yaml", overrides=overrides).recipe
    assert isinstance(recipe, Seq2SeqRecipe)
    model = build_seq2seq(recipe.model, 7, 7 if is_joint else 5, is_joint=is_joint)
    assert isinstance(model.encoder, RecurrentEncoder) and isinstance(model.decoder, RecurrentDecoder)
    return model.encoder, model.decoder


def test_a_recipe_gets_what_it_names() -> None:
    encoder, decoder = built(
        "model.num_layers=2",
        "model.num_decoder_layers=3",
        "model.d_embedding=6",
        "model.attention=additive",
        "model.d_attention=9",
        "model.bridge=zero",
        "model.dropout=0.3",
        "model.embedding_dropout=0.1",
        "model.variational_dropout=true",
        "model.residual=true",
        "model.forget_bias=2",
    )
    assert len(encoder.layers) == 2 and len(decoder.stack.layers) == 3
    assert encoder.directions == (False, True)
    assert encoder.embedding.weight.shape == (7, 6) and decoder.embedding.weight.shape == (5, 6)
    attention = decoder.source_attention
    assert attention is not None and attention.score == "additive" and attention.vector.shape == (9,)
    assert (decoder.feeding, decoder.bridge, encoder.keeps_states) == ("context", "zero", False)
    assert encoder.is_residual and decoder.stack.is_residual
    for module in (encoder, decoder):
        assert (module.dropout.probability, module.embedding_dropout.probability) == (0.3, 0.1)
        assert module.dropout.is_variational and module.embedding_dropout.is_variational
    assert decoder.stack.dropout.probability == 0.3 and decoder.stack.dropout.is_variational
    assert (decoder.stack.layers[2].get_parameter("bias_ih_l0")[16:32] == 2).all()
    assert (encoder.layers[1][0].layers[0].get_parameter("bias_ih_l0")[8:16] == 2).all()  # type: ignore[index]

    encoder, decoder = built("model.bidirectional=false", "model.reverse_source=true", "model.bridge=copy")
    assert encoder.directions == (True,) and encoder.keeps_states and decoder.bridge == "copy"
    encoder, decoder = built("model.type=gru", "model.reset_gate=before", "model.attention=none")
    assert decoder.stack.cell == "gru_reset_before" and decoder.source_attention is None
    encoder, decoder = built("model.type=rnn", "model.nonlinearity=relu", "model.recurrent_init=uniform")
    assert decoder.stack.cell == "rnn_relu"
    assert decoder.stack.layers[0].get_parameter("weight_hh_l0").abs().max() <= 16**-0.5


def test_embeddings_are_shared_where_the_tokenizer_is_and_tied_where_that_is_asked() -> None:
    encoder, decoder = built(is_joint=True)
    assert encoder.embedding is decoder.embedding
    assert decoder.output.weight is not decoder.embedding.weight
    encoder, decoder = built("model.share_embeddings=false", is_joint=True)
    assert encoder.embedding is not decoder.embedding
    encoder, decoder = built("model.tie_embeddings=true", is_joint=True)
    assert encoder.embedding.weight is decoder.output.weight


def test_validation_of_a_recipe_needs_no_torch() -> None:
    Path("r.yaml").write_text(RNN)
    code = (
        "import sys; from seqkit.recipe.loading import load_recipe; "
        "print(load_recipe('r.yaml').recipe.model.feeding, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "hidden False\n"
