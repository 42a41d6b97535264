"""Which part of seqkit may import which, read from the source; and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqkit

PACKAGE = Path(seqkit.__file__).parent

# What each part may import of the others, besides itself; a new part needs a line here. Imports go downwards only:
# cli → tasks → training, decoding, metrics, diagnostics, export → models, tokenizers, data → recipe, runs → errors,
# atomic, forked, kernels → leftovers.
# Parts on one level stay apart, but for data, which encodes with tokenizers.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "leftovers": set(),
    "atomic": {"leftovers"},
    "forked": set(),
    "kernels": {"atomic"},
    "recipe": {"errors", "atomic"},
    "runs": {"errors", "atomic"},
    "tokenizers": {"errors", "atomic", "recipe"},
    "models": {"errors", "recipe"},
    "data": {"errors", "atomic", "leftovers", "forked", "recipe", "runs", "tokenizers"},
    # The core knows a model only through the protocols in decoding/model.py.
    "metrics": {"errors"},
    "decoding": {"errors"},
    "training": {"errors", "atomic", "leftovers", "recipe", "runs", "models"},
    "plots": {"errors", "atomic"},
    "diagnostics": {"errors", "models"},
    "export": {"errors", "models"},
}
MAY_IMPORT["tasks"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT |= {"__main__": {"cli"}, "__init__": set()}
# The pure core touches no file, environment, clock, stream or global random state, so it has no use for os, pathlib,
# time, sys, random, logging, ...; precise numbers come in as arguments.
PURE = {"models", "decoding", "metrics", "diagnostics"}
PURE_MAY_IMPORT = {
    "__future__",
    "collections",
    "contextlib",
    # For the generator that a thread's draws come from: dropout has no argument that could carry it.
    "contextvars",
    "dataclasses",
    "itertools",
    "math",
    "typing",
    "numpy",
    "sacrebleu",
    "statistics",
    "torch",
    "seqkit",
}

STARTS_WITHOUT_TORCH = ("recipe", "metrics", "tokenizers", "data", "plots")


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """``models`` for ``seqkit/models/cells.py``, ``errors`` for ``seqkit/errors.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere, inside functions and type-checking blocks too.

    ``from a.b import c`` gives ``a.b.c``, whether c is a module or a name in one.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def forbidden_imports(part: str, source: str) -> list[tuple[int, str]]:
    """The imports that ``part`` may not make."""
    found = []
    for line, name in imported_modules(source):
        root, *rest = name.split(".")
        # seqkit alone is the package's version, which belongs to nobody.
        if root == "seqkit" and rest and rest[0] != "__version__" and rest[0] not in MAY_IMPORT[part] | {part}:
            found.append((line, name))
    return found


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_go_downwards_only(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    assert not forbidden_imports(part, path.read_text(encoding="utf-8"))


def test_the_allowed_imports_have_no_circle() -> None:
    below: dict[str, int] = {}

    def depth(part: str, above: tuple[str, ...]) -> int:
        assert part not in above, " → ".join((*above, part))
        if part not in below:
            below[part] = 1 + max((depth(lower, (*above, part)) for lower in MAY_IMPORT[part]), default=0)
        return below[part]

    depths = {part: depth(part, ()) for part in MAY_IMPORT}
    assert depths["cli"] > depths["tasks"] > depths["training"] > depths["models"] > depths["recipe"] > depths["errors"]
    assert depths["tasks"] > depths["data"] > depths["tokenizers"] > depths["recipe"]


def test_the_rule_sees_every_way_to_import() -> None:
    source = """
import seqkit.cli.app
from seqkit import tasks
from seqkit.tokenizers import base
def later():
    from seqkit.training.loop import train_steps
from seqkit.models.cells import GruResetBefore
from seqkit.recipe.recipe_types import Recipe
from seqkit import __version__
import seqkit
"""
    assert forbidden_imports("models", source) == [
        (2, "seqkit.cli.app"),
        (3, "seqkit.tasks"),
        (4, "seqkit.tokenizers.base"),
        (6, "seqkit.training.loop.train_steps"),
    ]


@pytest.mark.parametrize("part", sorted(PURE))
def test_the_pure_core_imports_nothing_that_reaches_outside(part: str) -> None:
    files = sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        roots = {name.split(".")[0] for _, name in imported_modules(path.read_text(encoding="utf-8"))}
        assert roots <= PURE_MAY_IMPORT, path


def test_commands_recipes_metrics_tokenizers_and_data_start_without_torch() -> None:
    modules = [module_name(path) for path in source_files() if part_of(path) in STARTS_WITHOUT_TORCH]
    assert {name.split(".")[1] for name in modules} == set(STARTS_WITHOUT_TORCH)
    code = "import importlib, sys\n"
    code += "".join(f"importlib.import_module({name!r})\n" for name in ["seqkit.cli.app", *modules])
    code += "heavy = {'torch', 'matplotlib', 'sacrebleu'} & {name.split('.')[0] for name in sys.modules}\n"
    code += "print(sorted(heavy))\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_every_command_is_known_without_torch() -> None:
    # All command modules, as `seqkit --help` imports them.
    code = "import sys\nfrom seqkit.cli.app import run\ncode = run(['--help'])\n"
    code += "assert code == 0 and 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout and "sample" in done.stdout
