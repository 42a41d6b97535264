"""Transformers as CTranslate2 computes them: every kind that a recipe can name gives the numbers that ours gives.

Legend: B sentences, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqkit.errors import UsageError
from seqkit.export.ctranslate_package import import_ctranslate2
from seqkit.export.ctranslate_spec import language_model_spec, translation_spec
from seqkit.models.build import build_language_model, build_seq2seq
from seqkit.models.encoder_decoder import EncoderDecoder, SourceTokens
from seqkit.recipe.schema import TransformerLm
from seqkit.recipe.seq2seq_schema import TransformerSeq2Seq

NUM_SRC, NUM_TGT = 11, 14
SRC_NAMES = [f"s{number}" for number in range(NUM_SRC)]
TGT_NAMES = [f"t{number}" for number in range(NUM_TGT)]
UNK, BOS, EOS, SRC_EOS = 0, 1, 2, 3

KINDS: dict[str, dict[str, Any]] = {
    **{activation: {"activation": activation} for activation in ("relu", "gelu", "geglu", "swiglu")},
    **{
        f"{norm}-{positions}": {"norm": norm, "positions": positions}
        for norm in ("pre", "post")
        for positions in ("sinusoidal", "learned", "rotary")
    },
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def randomize(model: nn.Module) -> None:
    """Change every parameter, the zero biases and unit gains too, so that one in a wrong place shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def write(spec: Any, folder: Path, type_: str = "float32") -> str:
    spec.validate()
    spec.optimize(quantization=type_)
    spec.save(str(folder))
    return str(folder)


def make_translation_model(**kind: Any) -> EncoderDecoder:
    config = TransformerSeq2Seq.model_validate(
        {"type": "transformer", "num_layers": 2, "num_decoder_layers": 1, "d_model": 12, "num_heads": 3, **kind}
    )
    torch.manual_seed(2)
    model = build_seq2seq(config, NUM_SRC, NUM_TGT, is_joint=False).eval()
    randomize(model)
    return model


def write_translation_model(model: EncoderDecoder, folder: Path, **more: Any) -> str:
    spec = translation_spec(
        model,
        src_tokens=SRC_NAMES,
        tgt_tokens=TGT_NAMES,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=UNK,
        num_positions=20,
    )
    return write(spec, folder, **more)


@torch.inference_mode()
def our_log_probs(model: EncoderDecoder, src: list[int], tgt: list[int]) -> Tensor:
    """Of each target token and the end, given those before: shape (T + 1,)."""
    source = SourceTokens(torch.tensor([src]), torch.ones(1, len(src), dtype=torch.bool))
    hidden_1TD = model(source, torch.tensor([[BOS, *tgt]]))
    log_probs_TV: Tensor = model.target.output(hidden_1TD[0]).log_softmax(dim=1)
    return log_probs_TV.gather(1, torch.tensor([*tgt, EOS]).unsqueeze(1)).squeeze(1)


@every_kind
def test_translations_have_our_probabilities(kind: str, tmp_path: Path) -> None:
    model = make_translation_model(**KINDS[kind], tie_embeddings=kind != "relu")
    engine = import_ctranslate2().Translator(write_translation_model(model, tmp_path), intra_threads=1)
    # Of unequal length, so that sources and targets are padded.
    sources = [[5, 4, 9, 10, SRC_EOS], [7, SRC_EOS]]
    targets = [[13, 4], [6, 6, 12, 3, 8, 5]]
    found = engine.score_batch(
        [[SRC_NAMES[token] for token in src] for src in sources],
        [[TGT_NAMES[token] for token in tgt] for tgt in targets],
        max_input_length=0,
    )
    for result, src, tgt in zip(found, sources, targets, strict=True):
        assert result.log_probs == pytest.approx(our_log_probs(model, src, tgt).tolist(), abs=2e-5)


def test_one_vocabulary_is_shared(tmp_path: Path) -> None:
    config = TransformerSeq2Seq.model_validate({"type": "transformer", "num_layers": 1, "d_model": 8, "num_heads": 2})
    model = build_seq2seq(config, NUM_TGT, NUM_TGT, is_joint=True)
    spec = translation_spec(
        model, src_tokens=TGT_NAMES, tgt_tokens=TGT_NAMES, bos_id=BOS, eos_id=EOS, unk_id=UNK, num_positions=9
    )
    write(spec, tmp_path)
    assert (tmp_path / "shared_vocabulary.json").is_file()
    # Embeddings of both sides and the output layer are one matrix, in the file too.
    in_file = (tmp_path / "model.bin").read_bytes()
    matrix = model.target.output.weight.detach().numpy().tobytes()
    assert in_file.count(matrix) == 1


def test_the_position_after_the_last_is_there_for_scoring(tmp_path: Path) -> None:
    model = make_translation_model(positions="learned", max_positions=4)
    engine = import_ctranslate2().Translator(write_translation_model(model, tmp_path), intra_threads=1)
    src, tgt = [5, SRC_EOS], [6, 4, 7, 9]
    (result,) = engine.score_batch([[SRC_NAMES[t] for t in src]], [[TGT_NAMES[t] for t in tgt]], max_input_length=0)
    expected = our_log_probs(model, src, tgt[:-1])
    # Our own model has no position for the fifth prediction; the first three are in both.
    assert result.log_probs[:3] == pytest.approx(expected[:3].tolist(), abs=2e-5)
    assert len(result.log_probs) == 5


@pytest.mark.parametrize("type_", ["int8", "int16", "bfloat16", "float16"])
def test_other_numbers_are_close(type_: str, tmp_path: Path) -> None:
    model = make_translation_model()
    engine = import_ctranslate2().Translator(write_translation_model(model, tmp_path, type_=type_), intra_threads=1)
    src, tgt = [5, 4, 9, SRC_EOS], [13, 4, 7]
    (result,) = engine.score_batch([[SRC_NAMES[t] for t in src]], [[TGT_NAMES[t] for t in tgt]], max_input_length=0)
    expected = our_log_probs(model, src, tgt).tolist()
    assert result.log_probs == pytest.approx(expected, abs=0.5)
    assert result.log_probs != pytest.approx(expected, abs=1e-6)


@every_kind
def test_language_models_have_our_logits(kind: str, tmp_path: Path) -> None:
    config = TransformerLm.model_validate(
        {"type": "transformer", "num_layers": 2, "d_model": 12, "num_heads": 3, "context_length": 9, **KINDS[kind]}
    )
    torch.manual_seed(4)
    model = build_language_model(config, NUM_TGT).eval()
    randomize(model)
    spec = language_model_spec(model, tokens=TGT_NAMES, start_id=3, unk_id=UNK, num_positions=9)
    engine = import_ctranslate2().Generator(write(spec, tmp_path), intra_threads=1)
    rows = [[3, 5, 13, 5, 8, 2, 7, 6, 10], [3, 12, 1, 4, 5, 6, 11, 9, 2]]
    found_BTV = np.array(engine.forward_batch(rows))
    with torch.inference_mode():
        expected_BTV, _ = model(torch.tensor(rows))
    np.testing.assert_allclose(found_BTV, expected_BTV.numpy(), atol=3e-5)


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2", None)
    with pytest.raises(UsageError) as caught:
        import_ctranslate2()
    assert caught.value.message == "the package ctranslate2 is not installed"
    assert caught.value.hint == "pip install 'seqkit[ctranslate2]'"
