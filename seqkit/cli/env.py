"""``seqkit env``: the versions and devices that a bug report needs."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import typer

import seqkit
from seqkit.cli.command import Json, command
from seqkit.cli.streams import write_result


def register(app: typer.Typer) -> None:
    """Add ``env`` to the command tree."""

    @command(app, "env", examples="seqkit env\nseqkit env --json")
    def env(json_output: Json = False) -> None:
        """Print versions, devices and folders: what a bug report needs."""
        facts = collect_facts()
        if json_output:
            write_result(json.dumps(facts, ensure_ascii=False))
            return
        width = max(map(len, facts))
        for key, value in facts.items():
            write_result(f"{key:<{width}}  {value}")


def collect_facts() -> dict[str, Any]:
    """Versions of seqkit, Python and torch, the devices torch sees, and where files are kept."""
    import torch

    from seqkit.kernels.compiling import compiled_steps
    from seqkit.runs.places import cache_dir, data_dirs, runs_dir

    compiled = compiled_steps(cache_dir(None))
    facts: dict[str, Any] = {
        "seqkit": seqkit.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "compiled_steps": compiled.remark,
        "cuda": torch.version.cuda,
        "devices": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "cpu only",
        "runs_dir": str(runs_dir(None)),
        "cache_dir": str(cache_dir(None)),
        "data_dirs": ", ".join(map(str, data_dirs())),
    }
    return facts
