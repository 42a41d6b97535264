"""``seqkit export``: what it writes, that it writes all or nothing, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import ForkServer, InProcess, Tiny, snapshot
from tiny_pairs import TinyPairs

from seqkit.runs.export_folder import read_export
from seqkit.tasks.lm_predictor import load_lm

TO = ("--to", "ctranslate2")


@pytest.fixture(scope="module")
def gpt(fork_server: ForkServer, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny Transformer language model."""
    folder = tmp_path_factory.mktemp("gpt")
    model = "model={type: transformer, num_layers: 1, d_model: 8, num_heads: 2}"
    words = ["train", tiny.recipe, "--set", model, "--runs-dir", folder / "runs", "--cache-dir", tiny.cache]
    done = fork_server.start(*words, folder=folder).wait()
    assert done.code == 0, done.err
    return Path(done.out.removesuffix("\n"))


def test_the_folder_is_complete_and_says_what_it_was_made_from(
    seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path
) -> None:
    before = snapshot(tiny_pairs.run)
    done = seqkit("export", tiny_pairs.run, *TO, "-o", "out")
    assert (done.code, done.out) == (0, "out\n"), done.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"model.bin", "config.json", "source_vocabulary.json", "target_vocabulary.json", "recipe.yaml"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
    export = read_export(tmp_path / "out")
    best = (tiny_pairs.run / "best").resolve()
    assert export.recipe == (best / "recipe.yaml").read_text()
    sides = ("tokenizer.src.json", "tokenizer.tgt.json")
    assert export.tokenizers == {name: (best / name).read_text() for name in sides}
    told = export.facts["export"]
    assert (told["to"], told["type"], told["source"]) == ("ctranslate2", "float32", str(best))
    assert told["source_sha256"] == hashlib.sha256((best / "model.safetensors").read_bytes()).hexdigest()
    assert export.facts["step"] == json.loads((best / "model.json").read_text())["step"]
    # As everywhere, the sums can be checked without seqkit.
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert snapshot(tiny_pairs.run) == before


def test_json_and_types(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    sizes = {}
    for type_ in ("float32", "int8", "bfloat16"):
        done = seqkit("export", tiny_pairs.run, *TO, "-o", type_, "--type", type_, "--json")
        assert done.code == 0, done.err
        told = json.loads(done.out)
        assert (told["path"], told["task"], told["export"]["type"]) == (type_, "seq2seq", type_)
        sizes[type_] = (tmp_path / type_ / "model.bin").stat().st_size
    assert sizes["int8"] < sizes["float32"] and sizes["bfloat16"] < sizes["float32"]


def test_only_an_export_is_replaced_and_only_when_told(
    seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path
) -> None:
    words = ("export", tiny_pairs.run, *TO, "-o", "out")
    assert seqkit(*words).code == 0
    before = snapshot(tmp_path / "out")
    again = seqkit(*words)
    assert again.code == 2 and again.error_line.endswith("/out: an export is there already")
    assert "--force" in again.err and snapshot(tmp_path / "out") == before
    assert seqkit(*words, "--type", "int8", "--force").code == 0
    assert read_export(tmp_path / "out").facts["export"]["type"] == "int8"
    # A checkpoint is no export; nothing but its owner removes it.
    copy = tmp_path / "checkpoint"
    shutil.copytree((tiny_pairs.run / "best").resolve(), copy)
    kept = snapshot(copy)
    for more in ((), ("--force",)):
        refused = seqkit("export", tiny_pairs.run, *TO, "-o", copy, *more)
        assert refused.code == 2
        assert refused.error_line.endswith("/checkpoint: this folder is not empty and holds no export")
    assert snapshot(copy) == kept


def test_it_appears_whole_or_not_at_all(
    seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seqkit("export", tiny_pairs.run, *TO, "-o", "out").code == 0
    before = snapshot(tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("seqkit.runs.listed_files.list_files", full)
    for name in ("out", "new"):
        done = seqkit("export", tiny_pairs.run, *TO, "-o", name, "--force")
        assert done.code == 1 and "no space left on the disk" in done.error_line
    assert snapshot(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_language_model_predicts_the_same(seqkit: InProcess, gpt: Path, tmp_path: Path) -> None:
    import ctranslate2

    assert seqkit("export", gpt, *TO, "-o", "out").code == 0
    loaded = load_lm(gpt, torch.device("cpu"))
    engine = ctranslate2.Generator(str(tmp_path / "out"), intra_threads=1)
    ids = [loaded.tokenizer.start_id, *loaded.tokenizer.encode("the cat")][: loaded.model.context_length]
    names = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert len(names) == len(set(names)) == loaded.tokenizer.vocab_size
    by_name = np.array(engine.forward_batch([[names[token] for token in ids]], return_log_probs=True))
    with torch.inference_mode():
        logits_1TV, _ = loaded.model(torch.tensor([ids]))
    np.testing.assert_allclose(by_name, logits_1TV.log_softmax(dim=2).numpy(), atol=2e-5)


def test_what_has_no_counterpart_is_refused_by_name(seqkit: InProcess, tiny: Tiny, tmp_path: Path) -> None:
    done = seqkit("export", tiny.run, *TO, "-o", "out")
    assert done.code == 2
    assert done.error_line.endswith("CTranslate2 runs Transformers, and this is a recurrent model (gru)")
    assert not (tmp_path / "out").exists()


def test_words_that_are_wrong(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    run: Any = tiny_pairs.run
    (tmp_path / "file").write_text("")
    for words, message in [
        ((run, "-o", "x"), "for which engine? give --to ctranslate2"),
        ((run, *TO), "where should the export go? give --output FOLDER"),
        ((run, *TO, "-o", "x", "--type", "int7"), "--type int7: must be one of float32, int8, int8_float32, "),
        (("nowhere", *TO, "-o", "x"), "nowhere: no such folder"),
        ((run, *TO, "-o", "no/x"), "no: no such folder"),
        ((run, *TO, "-o", "file"), "file: a file, where an export folder should be"),
    ]:
        done = seqkit("export", *words)
        assert done.code == 2 and message in done.error_line, done.err
    assert "did you mean int8?" in seqkit("export", run, *TO, "-o", "x", "--type", "int7").error_line
    assert not (tmp_path / "x").exists()


def test_an_export_is_no_checkpoint(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    assert seqkit("export", tiny_pairs.run, *TO, "-o", "out").code == 0
    for words in (
        ("translate", "--model", "out", "--text", "abc"),
        ("export", "out", *TO, "-o", "again"),
        ("evaluate", "--model", "out"),
    ):
        done = seqkit(*words)
        assert done.code == 2 and "an export for another engine, where a checkpoint is needed" in done.error_line
        assert "--engine ctranslate2" in done.err


def test_without_the_package(seqkit: InProcess, tiny_pairs: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    for words in (
        ("export", tiny_pairs.run, *TO, "-o", "out"),
        ("translate", "--model", tiny_pairs.run, "--engine", "ctranslate2", "--text", "abc"),
    ):
        done = seqkit(*words)
        assert (done.code, done.error_line) == (2, "the package ctranslate2 is not installed")
        assert "hint: pip install 'seqkit[ctranslate2]'" in done.err
