"""A tiny translation model, trained on words that become capitals, and recipes to make others like it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline import ForkServer

from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe

NUM_PAIRS = 40

TINY_PAIRS_RECIPE = """\
task: seq2seq
seed: 3
data:
  train: {src: SRC, tgt: TGT}
  valid: {src: SRC, tgt: TGT}
  max_length: 24
tokenizer: {type: char}
model: {type: transformer, num_layers: 1, d_model: 16, num_heads: 2, dropout: 0.0}
train:
  max_steps: 120
  batch_size: 16
  optimizer: {type: adam, lr: 0.01}
  precision: fp32
  evaluate_every: 60
  validate_translations: 4
  threads: 1
  device: cpu
translate: {beam: 3}
"""


@dataclass(frozen=True)
class TinyPairs:
    """A small parallel text, a recipe for it, and a run that was trained with it; not to be changed."""

    folder: Path
    src: Path
    tgt: Path
    recipe: Path
    cache: Path
    runs: Path
    run: Path

    @property
    def lines(self) -> list[str]:
        """The source sentences."""
        return self.src.read_text().removesuffix("\n").split("\n")

    @property
    def references(self) -> list[str]:
        """Their translations."""
        return self.tgt.read_text().removesuffix("\n").split("\n")


def tiny_sentences(num_lines: int = NUM_PAIRS, seed: int = 0) -> list[str]:
    """Words of the letters a to e; the same every time."""
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choices("abcde", k=rng.randint(1, 3))) for _ in range(rng.randint(1, 3)))
        for _ in range(num_lines)
    ]


def write_tiny_pairs(folder: Path, num_lines: int = NUM_PAIRS) -> tuple[Path, Path]:
    """Write the two sides of the tiny parallel text."""
    src, tgt = folder / "tiny.src", folder / "tiny.tgt"
    lines = tiny_sentences(num_lines)
    src.write_text("".join(f"{line}\n" for line in lines))
    tgt.write_text("".join(f"{line.upper()}\n" for line in lines))
    return src, tgt


def train_tiny_pairs(fork_server: ForkServer, folder: Path, *overrides: str) -> TinyPairs:
    """Train a tiny translation model in ``folder``; ``overrides`` are ``KEY=VALUE``, as for ``--set``."""
    src, tgt = write_tiny_pairs(folder)
    recipe, runs, cache = folder / "tiny_pairs.yaml", folder / "runs", folder / "cache"
    recipe.write_text(TINY_PAIRS_RECIPE.replace("SRC", str(src)).replace("TGT", str(tgt)))
    settings = [word for override in overrides for word in ("--set", override)]
    words = ["train", recipe, "--runs-dir", runs, "--cache-dir", cache, *settings]
    done = fork_server.start(*words, folder=folder).wait()
    assert done.code == 0, done.err
    run = Path(done.out.removesuffix("\n"))
    return TinyPairs(folder=folder, src=src, tgt=tgt, recipe=recipe, cache=cache, runs=runs, run=run)


def pairs_recipe(folder: Path, *, model: dict[str, Any], train: dict[str, Any], **sections: Any) -> Seq2SeqRecipe:
    """A recipe that trains and validates on a text in ``folder``, in fp32 on the CPU, for ``tiny_runs.run_training``.

    Args:
        folder: Where ``tiny.src`` and ``tiny.tgt`` lie; they are written if they are missing.
        model: Its ``model`` section: a Transformer of width 8 but for what it says; the whole section if it has a type.
        train: Its ``train`` section; no translations, batches of 7 pairs unless it says otherwise.
        **sections: More of the recipe; characters unless ``tokenizer`` says otherwise.
    """
    src, tgt = folder / "tiny.src", folder / "tiny.tgt"
    if not src.exists():
        write_tiny_pairs(folder)
    text = {"src": str(src), "tgt": str(tgt)}
    transformer = {"type": "transformer", "num_layers": 1, "d_model": 8, "num_heads": 2}
    defaults = {"precision": "fp32", "device": "cpu", "sample_length": 0, "validate_translations": 0}
    if "batch_tokens" not in train:
        defaults["batch_size"] = 7
    return Seq2SeqRecipe.model_validate(
        {
            "task": "seq2seq",
            "seed": 11,
            "data": {"train": text, "valid": text},
            "tokenizer": {"type": "char"},
            "model": model if "type" in model else {**transformer, **model},
            "train": {**defaults, **train},
            **sections,
        }
    )
