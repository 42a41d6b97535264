"""From ``steps.c`` to a library for the very machine: the compiler that is at hand, and a cache of what it made."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqkit.atomic import atomic_write

_SOURCE = Path(__file__).with_name("steps.c")
_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
)
"""None of them assumes that all numbers are finite, or that sums may be taken in another order than is written."""
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 120
"""A compiler that takes longer is taken for broken; it is a matter of one second."""


_known: dict[str, Compiled] = {}
"""By fingerprint, what this process has found or made."""


@dataclass(frozen=True)
class Compiled:
    """The library, if there is one."""

    library: ctypes.CDLL | None
    remark: str
    """Where it is, or why there is none; one line."""


def compiled_steps(cache: Path) -> Compiled:
    """The library of ``steps.c``, compiled if that was not done on this machine before.

    Args:
        cache: Folder where it is kept. Where it cannot be written to, each process compiles for itself.
    """
    if os.environ.get("SEQKIT_KERNELS") == "off":
        return Compiled(None, "switched off by SEQKIT_KERNELS")
    compiler = _compiler()
    if not compiler:
        named = os.environ.get("CC")
        return Compiled(
            None, f"CC is {named}, which is not there" if named else "there is no C compiler (cc, gcc or clang)"
        )
    fingerprint = _fingerprint(compiler)
    if fingerprint not in _known:
        folder = cache / "kernels"
        _known[fingerprint] = _found(folder, fingerprint) or _made(compiler, folder, fingerprint)
    return _known[fingerprint]


def _found(folder: Path, fingerprint: str) -> Compiled | None:
    """A library that was compiled before, if it is what its name says: to load half of one would end the process."""
    for path in folder.glob(f"steps-{fingerprint}-*.so"):
        try:
            if path.name == _name(fingerprint, path.read_bytes()):
                return Compiled(ctypes.CDLL(str(path)), str(path))
        except OSError:
            continue
    return None


def _made(compiler: Sequence[str], folder: Path, fingerprint: str) -> Compiled:
    with tempfile.TemporaryDirectory(prefix="seqkit-") as temporary:
        made = Path(temporary) / "steps.so"
        command = [*compiler, *_FLAGS, str(_SOURCE), "-o", str(made), "-lm"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
            )
            if done.returncode != 0:
                told = " ".join((done.stderr.strip().splitlines() or ["no message"])[0].split())
                return Compiled(None, f"{compiler[0]} fails: {told}")
            library = made.read_bytes()
            path = folder / _name(fingerprint, library)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as file:
                    file.write(library)
                return Compiled(ctypes.CDLL(str(path)), str(path))
            except OSError:
                # It cannot be written there, or what is there cannot be run.
                return Compiled(ctypes.CDLL(str(made)), "compiled for this process alone")
        except (OSError, subprocess.TimeoutExpired) as error:
            return Compiled(None, f"{compiler[0]} fails: {' '.join(str(error).split())}")


def _name(fingerprint: str, library: bytes) -> str:
    return f"steps-{fingerprint}-{hashlib.sha256(library).hexdigest()[:16]}.so"


def _compiler() -> list[str]:
    """``CC``, with its options, if it is set, or the first one found; empty if there is none."""
    named = os.environ.get("CC")
    for name, *options in [shlex.split(named)] if named and named.strip() else [[name] for name in _COMPILERS]:
        if found := shutil.which(name):
            return [found, *options]
    return []


def _fingerprint(compiler: Sequence[str]) -> str:
    """Of all that the library depends on; a folder may be shared by machines."""
    known = os.stat(os.path.realpath(compiler[0]))  # noqa: PTH116 - a pair of numbers of one file
    parts = [
        *_FLAGS,
        os.path.realpath(compiler[0]),
        *compiler[1:],
        str(known.st_size),
        str(known.st_mtime_ns),
        platform.machine(),
        _cpu(),
    ]
    return hashlib.sha256("\0".join(parts).encode() + _SOURCE.read_bytes()).hexdigest()[:16]


def _cpu() -> str:
    """What the processor is and can do, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )
