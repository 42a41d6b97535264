"""From ``steps.c`` to a library for the very machine: the compiler that is at hand, and a cache of what it made."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Compiled:
    """The library, if there is one."""

    library: ctypes.CDLL | None
    remark: str
    """Where it is, or why there is none; one line."""


@functools.cache
def compiled_steps(cache: Path) -> Compiled:
    """The library of ``steps.c``, compiled if that was not done on this machine before.

    Args:
        cache: Folder where it is kept. Where it cannot be written to, each process compiles for itself.
    """
    if os.environ.get("SEQKIT_KERNELS") == "off":
        return Compiled(None, "switched off by SEQKIT_KERNELS")
    compiler = _compiler()
    if compiler is None:
        return Compiled(None, "there is no C compiler (cc, gcc or clang)")
    path = cache / "kernels" / f"steps-{_fingerprint(compiler)}.so"
    try:
        return Compiled(ctypes.CDLL(str(path)), str(path))
    except OSError:
        # Not there yet, or cut short.
        pass
    with tempfile.TemporaryDirectory(prefix="seqkit-") as folder:
        made = Path(folder) / path.name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(made), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            if done.returncode != 0:
                told = " ".join((done.stderr.strip().splitlines() or ["no message"])[0].split())
                return Compiled(None, f"{compiler} fails: {told}")
            return _published(made, path)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Compiled(None, f"{compiler} fails: {error}")


def _published(made: Path, path: Path) -> Compiled:
    """Load a library that was just made, from its place in the cache if it can be put there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under a name of its own first: others may be looking for it.
        whole = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(made, whole)
        whole.replace(path)
    except OSError:
        return Compiled(ctypes.CDLL(str(made)), "compiled for this process alone")
    return Compiled(ctypes.CDLL(str(path)), str(path))


def _compiler() -> str | None:
    """``CC`` if it is set, or the first one found."""
    named = os.environ.get("CC")
    return next((found for name in ([named] if named else _COMPILERS) if (found := shutil.which(name))), None)


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on; a folder may be shared by machines."""
    known = os.stat(os.path.realpath(compiler))  # noqa: PTH116 - a pair of numbers of one file
    parts = [
        *_FLAGS,
        os.path.realpath(compiler),
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
