"""Damaged recipes, tokenizers and model folders: a clear error or a result, never a traceback, a hang or code run."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import InProcess, Tiny
from conftest import Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutate_bytes, mutated_json_bytes
from tiny_pairs import TinyPairs

from seqkit.errors import CheckpointError
from seqkit.recipe.library import shipped_recipes
from seqkit.recipe.loading import RecipeText, examine
from seqkit.runs.tensor_tree import load_tree, save_tree
from seqkit.tokenizers.registry import tokenizer_from_json

seeds = st.integers(0, 2**32)
MOST_GROWTH_KIB = 400_000


def fuzzed(num_examples: int) -> Callable[..., Any]:
    """A property of many seeds, whose fixtures are made once."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        check = settings(
            max_examples=num_examples, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
        )
        return check(given(seed=seeds)(test))

    return decorate


@pytest.fixture(autouse=True)
def _no_memory_blow_up() -> Any:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB


def assert_told(seqkit: InProcess, *words: object, stdin: bytes | None = None) -> int:
    """Run a command line: it works, or tells in lines that begin as they should what does not."""
    done = seqkit(*words, stdin=stdin)
    assert done.code in (0, 1, 2), done.err
    assert "Traceback" not in done.err and "error: unexpected: " not in done.err, (words, done.err)
    assert (done.code == 0) == ("seqkit: error: " not in done.err), done.err
    return done.code


def set_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a model folder, and its line in SHA256SUMS: damage that no sum finds."""
    (folder / name).write_bytes(content)
    lines = (folder / "SHA256SUMS").read_text().split("\n")
    new = f"{hashlib.sha256(content).hexdigest()}  {name}"
    (folder / "SHA256SUMS").write_text("\n".join(new if line.endswith(f"  {name}") else line for line in lines))


@pytest.mark.parametrize("num_examples", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_recipes(tally: Tally, num_examples: int) -> None:
    texts = [recipe.read() for recipe in shipped_recipes()]

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        text = mutate_bytes(rng.choice(texts), rng)
        examination = examine(RecipeText(name="r", source="r.yaml", path=None, text=text))
        assert (examination.recipe is None) == bool(examination.faults)
        assert all("\n" not in str(fault) for fault in examination.faults)

    check()
    tally("recipes fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_overrides(tiny: Tiny, seqkit: InProcess, tally: Tally, num_examples: int) -> None:
    keys = [
        "model.d_model",
        "train",
        "train.optimizer.lr",
        "data.train.0",
        "tokenizer",
        "seed",
        "sample.stop",
        "",
        "a..b",
    ]

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        override = mutate_bytes(f"{rng.choice(keys)}={rng.choice(VALUES)}".encode(), rng).decode("utf-8", "replace")
        assert_told(seqkit, "recipe", "resolve", tiny.recipe, "--set", override)

    check()
    tally("overrides fuzzed", num_examples)


VALUES = ["1", "[1, 2]", "{type: sgd, lr: 1}", "null", "1e-4", "text", "{a: {b: [c]}}", "&a [*a]", "!!int 3"]


@pytest.mark.parametrize("num_examples", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_tokenizers(tiny: Tiny, tiny_pairs: TinyPairs, bpe_examples: Path, tally: Tally, num_examples: int) -> None:
    files = [tiny.run / "last" / "tokenizer.json", tiny_pairs.run / "last" / "tokenizer.src.json"]
    files = [file for file in files if file.exists()]
    texts = [path.read_bytes() for path in (*files, bpe_examples / "bpe.json", bpe_examples / "low.json")]
    texts += [b'{"seqkit_tokenizer": 1, "type": "byte"}']

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        text = mutated_json_bytes(rng.choice(texts), rng).decode("utf-8", "replace")
        try:
            tokenizer = tokenizer_from_json(text)
        except ValueError as error:
            assert "\n" not in str(error)
            return
        try:
            ids = tokenizer.encode("low lower ☃\n")
        except ValueError:
            # Characters that it does not know and refuses.
            return
        assert isinstance(tokenizer.decode(ids), str)

    check()
    tally("tokenizer files fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_model_folders(tiny: Tiny, tmp_path: Path, seqkit: InProcess, tally: Tally, num_examples: int) -> None:
    original = (tiny.run / "last").resolve()
    names = ["model.json", "tokenizer.json", "recipe.yaml", "model.safetensors", "SHA256SUMS"]
    commands = [("sample", "--length", 2), ("evaluate", tiny.text, "--batch-size", 4, "--per-line")]

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        folder = Path(shutil.copytree(original, tmp_path / "model"))
        try:
            name = rng.choice(names)
            content = (folder / name).read_bytes()
            if name == "model.safetensors":
                content = damaged_tensors(content, rng)
            else:
                content = mutated_json_bytes(content, rng) if name.endswith(".json") else mutate_bytes(content, rng)
            set_file(folder, name, content) if name != "SHA256SUMS" else (folder / name).write_bytes(content)
            assert_told(seqkit, *rng.choice(commands), "--model", folder)
        finally:
            shutil.rmtree(folder)

    check()
    tally("model folders fuzzed", num_examples)


def damaged_tensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with damage in its header, whose length is then put right or not."""
    (length,) = struct.unpack("<Q", content[:8])
    header = mutated_json_bytes(content[8 : 8 + length], rng)
    told = rng.choice([len(header), len(header), len(header), 2**63, 0, length + 1])
    return struct.pack("<Q", told) + header + content[8 + length :]


@pytest.mark.parametrize("num_examples", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_train_states(tiny: Tiny, tmp_path: Path, tally: Tally, num_examples: int) -> None:
    content = (tiny.run / "last" / "train_state.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    path = tmp_path / "state"

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            path.write_bytes(damaged_tensors(content, rng))
        else:
            note = mutated_json_bytes(header["__metadata__"]["seqkit"].encode(), rng).decode("utf-8", "replace")
            changed = json.dumps({**header, "__metadata__": {"seqkit": note}}).encode()
            path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])
        try:
            load_tree(path)
        except CheckpointError as error:
            assert "\n" not in error.message

    check()
    tally("train states fuzzed", num_examples)


@pytest.mark.parametrize("num_examples", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_resumes_from_a_strange_state(
    tiny: Tiny, tmp_path: Path, seqkit: InProcess, tally: Tally, num_examples: int
) -> None:
    tree = load_tree(tiny.run / "last" / "train_state.safetensors")
    record = json.loads((tiny.run / "run.json").read_text())
    record["status"] = "interrupted"
    step = (tiny.run / "last").resolve().name

    @fuzzed(num_examples)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        run = Path(shutil.copytree(tiny.run, tmp_path / "run", symlinks=True))
        try:
            (run / "run.json").write_text(json.dumps(record))
            folder = run / "checkpoints" / step
            if rng.random() < 0.7:
                part = rng.choice(["progress", "progress", "progress", "optimizer", "torch_random_state", "precision"])
                # Of an optimizer's own numbers nobody but it knows what they must be.
                new = rng.choice(ODD) if part == "optimizer" else strange(tree[part], rng)
                changed = {**tree, part: new}
                save_tree(tmp_path / "state", changed)
                set_file(folder, "train_state.safetensors", (tmp_path / "state").read_bytes())
            else:
                content = (folder / "model.json").read_bytes()
                set_file(folder, "model.json", mutated_json_bytes(content, rng))
            assert_told(seqkit, "train", tiny.recipe, "--run-dir", run, "--resume", "--cache-dir", tiny.cache, "-q")
        finally:
            shutil.rmtree(run)

    check()
    tally("train states fuzzed", num_examples)


def strange(value: Any, rng: random.Random) -> Any:
    """Another value in place of one in a train state."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return {**value, key: strange(value[key], rng)}
    return rng.choice(ODD)


ODD: list[Any] = [None, -1, 3, "x", [], {}, 0.5, 2**62, (1,), True]
