"""Reading a model is quick: finding out its shapes imports nothing of PyTorch's compiler."""

from __future__ import annotations

import subprocess
import sys

SHAPES = """
import sys
from types import SimpleNamespace
import torch
from pydantic import TypeAdapter
from seqkit.errors import CheckpointError
from seqkit.models.build import build_language_model, build_seq2seq
from seqkit.recipe.schema import LmModel
from seqkit.recipe.seq2seq_schema import Seq2SeqModel
from seqkit.tasks.stored_model import build_to_fit

LM_TRANSFORMER = {"type": "transformer", "num_heads": 2, "context_length": 16}

def check(build):
    weights = build().state_dict()
    found = build_to_fit(SimpleNamespace(path="there", weights=weights), build)
    assert all(torch.equal(weights[name], tensor) for name, tensor in found.state_dict().items())
    weights.popitem()
    try:
        build_to_fit(SimpleNamespace(path="there", weights=weights), build)
    except CheckpointError as error:
        assert "do not fit" in str(error)
    else:
        raise AssertionError(build)

for fields in ({"type": "rnn"}, {"type": "lstm"}, {"type": "gru"}, LM_TRANSFORMER):
    config = TypeAdapter(LmModel).validate_python({"d_model": 8, **fields})
    check(lambda: build_language_model(config, 20))
for fields in (
    {"type": "gru", "attention": "additive"},
    {"type": "lstm", "attention": "none"},
    {"type": "transformer", "num_heads": 2},
    {"type": "transformer", "num_heads": 2, "positions": "rotary"},
):
    config = TypeAdapter(Seq2SeqModel).validate_python({"d_model": 8, **fields})
    check(lambda: build_seq2seq(config, 20, 20, is_joint=True))
print(*sorted({"sympy", "torch._dynamo"} & set(sys.modules)))
"""


def test_shapes_are_found_without_a_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
