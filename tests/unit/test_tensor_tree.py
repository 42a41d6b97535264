"""Trees of values and tensors come back equal and of the same types, or the file is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from seqkit.errors import CheckpointError
from seqkit.runs.tensor_tree import load_tree, save_tree

torch.set_num_threads(1)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert [type(key) for key in found] == [type(key) for key in expected]
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found.hex() == expected.hex()
    else:
        assert found == expected


def round_trip(tmp_path: Path, tree: Any) -> Any:
    path = tmp_path / "tree.safetensors"
    save_tree(path, tree)
    return load_tree(path)


def trees() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5)
    keys = st.integers() | st.text(max_size=4)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=8,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees())
def test_any_plain_tree_comes_back(tmp_path: Path, tree: Any) -> None:
    assert_same(round_trip(tmp_path, tree), tree)


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        10**5000,
        math.inf,
        -math.inf,
        math.nan,
        -0.0,
        5e-324,
        0.1,
        "",
        "\ud800",
        "a\0b",
        {},
        [],
        (),
    ],
    ids=lambda value: type(value).__name__,
)
def test_extreme_values_come_back(tmp_path: Path, value: Any) -> None:
    assert_same(round_trip(tmp_path, {"x": [value]}), {"x": [value]})


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint64, torch.bool),
        torch.float8_e4m3fn,
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (3, 5)], ids=str)
def test_every_tensor_type_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape) * 3).to(dtype)
    assert_same(round_trip(tmp_path, [tensor]), [tensor])


def test_tensors_that_share_memory_come_back(tmp_path: Path) -> None:
    block = torch.arange(30.0).reshape(5, 6)
    tree = {"all": block, "same": block, "t": block.t(), "row": block[2], "expanded": block[:1].expand(4, 6)}
    loaded = round_trip(tmp_path, tree)
    for name, tensor in tree.items():
        assert torch.equal(loaded[name], tensor)
    assert loaded["same"] is loaded["all"]
    loaded["row"] += 1
    assert torch.equal(loaded["all"], block)


def test_a_shared_tensor_of_a_foreign_type_comes_back_once(tmp_path: Path) -> None:
    tensor = torch.ones(3, dtype=torch.complex128)
    loaded = round_trip(tmp_path, [tensor, tensor])
    assert_same(loaded, [tensor, tensor])
    assert loaded[0] is loaded[1]


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_an_optimizer_goes_on_exactly(tmp_path: Path, name: str) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 5)
        optimizers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.99)),
            "sgd": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            "rmsprop": torch.optim.RMSprop(model.parameters(), lr=0.1),
        }
        return model, optimizers[name]

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = build()
    step(model, optimizer)
    saved = {
        "model": OrderedDict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    loaded = round_trip(tmp_path, saved)
    assert_same(loaded["optimizer"], saved["optimizer"])
    assert_same(loaded["rng"], saved["rng"])

    other, other_optimizer = build()
    other.load_state_dict(loaded["model"])
    other_optimizer.load_state_dict(loaded["optimizer"])
    step(model, optimizer)
    step(other, other_optimizer)
    assert_same(dict(other.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"a": [1, object()]}, r"tree\['a'\]\[1\] is a builtins.object"),
        ({"a": {1.5: 2}}, r"tree\['a'\] has the key 1.5"),
        ({True: 2}, "tree has the key True"),
        ([b"bytes"], r"tree\[0\] is a builtins.bytes"),
        ([torch.ones(2).to_sparse()], "only dense"),
        ([torch.ones(2, device="meta")], "only dense"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path: Path, tree: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        save_tree(tmp_path / "tree", tree)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        "{}",
        '{"format":"weights 1","aliases":{}}',
        '{"format":"tensor tree 1","tree":{"tensor":"7"}}',
        '{"format":"tensor tree 1","tree":{"bytes":"0","dtype":"load","shape":[1]}}',
        '{"format":"tensor tree 1","tree":{"bytes":"0","dtype":"complex128","shape":[1]}}',
        '{"format":"tensor tree 1","tree":{"dict":[[[],1]]}}',
        '{"format":"tensor tree 1","tree":{"pickle":"x"}}',
        json.dumps({"format": "tensor tree 1", "tree": {"int": 5}}),
        '{"format":"tensor tree 1","tree":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=lambda note: note[:60],
)
def test_a_foreign_skeleton_is_refused(tmp_path: Path, note: str) -> None:
    path = tmp_path / "tree.safetensors"
    save_file({"0": torch.ones(3)}, path, metadata={"seqkit": note})
    with pytest.raises(CheckpointError, match=r"^\S*tree\.safetensors: ") as caught:
        load_tree(path)
    assert "\n" not in caught.value.message


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"0": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="not written by seqkit"):
        load_tree(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_tree(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tree(tmp_path)


def test_equal_trees_give_equal_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from seqkit.runs.tensor_tree import save_tree;"
        "save_tree(Path(sys.argv[1]), {'a': torch.ones(3), 'b': (1, torch.zeros(2, dtype=torch.int64))})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "one")], check=True)
    save_tree(tmp_path / "two", {"a": torch.ones(3), "b": (1, torch.zeros(2, dtype=torch.int64))})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
