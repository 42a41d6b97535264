"""Start-up: how long the commands that compute nothing take, whether torch is imported, and where the time of a
first sampled token goes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .processes import SEQKIT, call_in_new_process, run_command, train_model
from .sides import (
    REPOSITORY,
    SEQKIT_VERSION,
    Series,
    Side,
    add_json_option,
    note,
    package_version,
    print_environment,
    print_series,
    print_table,
    run_alternately,
    show,
    write_json,
)

_COMMANDS = (("--help",), ("--version",), ("recipe", "ls"))
_NUM_PACKAGES = 8

PHASES = {
    "interpreter": "Python itself, and this benchmark's modules",
    "command tree": "seqkit's commands, typer",
    "import torch": "and what it imports",
    "import models": "the rest that sample imports",
    "load": "recipe, tokenizer, weights",
    "first token": "one step of the model, one draw",
}
"""The stretches of ``seqkit sample --length 1``, in order."""


def imports_torch(*arguments: str) -> dict[str, bool]:
    """Run a command line in this process; whether torch is imported by the end of it."""
    from seqkit.cli.app import run

    run(list(arguments))
    return {"torch": "torch" in sys.modules}


def sample_phases(model: str, began: str) -> dict[str, float]:
    """Do what ``seqkit sample --length 1`` does, in this new process; seconds of each of ``PHASES``.

    Args:
        model: A run folder.
        began: When the process was started, on the system's monotonic clock.
    """
    times = [float(began), time.monotonic()]
    from seqkit.cli import app

    app._add_commands(["sample"])
    times.append(time.monotonic())
    import torch

    times.append(time.monotonic())
    from seqkit.decoding.sampling import SamplingRule
    from seqkit.tasks.lm_predictor import draw_samples, load_lm
    from seqkit.training.device import set_up_cpu

    times.append(time.monotonic())
    set_up_cpu(None)
    loaded = load_lm(Path(model), torch.device("cpu"))
    times.append(time.monotonic())
    drawn = draw_samples(loaded.model, loaded.tokenizer, "", length=1, rule=SamplingRule(), seed=1, num_samples=1)
    next(drawn)
    times.append(time.monotonic())
    return {name: after - before for name, before, after in zip(PHASES, times, times[1:], strict=False)}


def import_times(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds that a command line spends in imports, by top-level package, longest first.

    Args:
        arguments: The words after ``seqkit``.
    """
    command = [sys.executable, "-X", "importtime", "-m", "seqkit", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    microseconds: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        # import time: self [us] | cumulative | imported package; the first line holds these headings.
        if line.startswith("import time:"):
            own, _, package = line.removeprefix("import time:").split("|")
            if own.strip().isdigit():
                microseconds[package.strip().partition(".")[0]] += int(own)
    return {package: count / 1e6 for package, count in microseconds.most_common()}


def _print_phases(phases: Sequence[Series], whole: Series) -> None:
    """The phases, and what the whole command takes beyond them."""
    rows = [[f"{phase.name}: {PHASES[phase.name]}", show(phase.median)] for phase in phases]
    rest = whole.median - sum(phase.median for phase in phases)
    print(f"\n{whole.name}, where the time goes:")
    print_table(
        ["phase", "seconds"],
        [
            *rows,
            ["rest: options, finding the model, the end of the process", show(rest)],
            ["whole", show(whole.median)],
        ],
    )


def _print_imports(packages: dict[str, float]) -> None:
    print("\nits imports by package, each without what it imports itself (slowed by -X importtime):")
    rows = [[name, show(seconds)] for name, seconds in list(packages.items())[:_NUM_PACKAGES]]
    rest = sum(list(packages.values())[_NUM_PACKAGES:])
    print_table(["package", "seconds"], [*rows, [f"{max(0, len(packages) - _NUM_PACKAGES)} others", show(rest)]])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each command (%(default)s)")
    parser.add_argument("--model", help="a run folder to sample from (recipe hello, trained for the purpose)")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-") as name:
        if options.model is None:
            note("training hello")
        model = str(Path(options.model).resolve() if options.model else train_model("hello", Path(name)))
        sample = ("sample", "--model", model, "--prompt", "", "--length", "1", "--seed", "1")

        def timed(arguments: Sequence[str]) -> Side:
            command = [*SEQKIT, *arguments]
            return Side(run=partial(run_command, command), unit="s", version=SEQKIT_VERSION, settings="a whole process")

        sides = run_alternately(
            {
                **{" ".join(["seqkit", *arguments]): timed(arguments) for arguments in _COMMANDS},
                "seqkit sample --length 1": timed(sample),
            },
            rounds=options.runs,
        )
        torch_imported = {
            " ".join(arguments): call_in_new_process("tests.bench.startup", "imports_torch", *arguments)["torch"]
            for arguments in _COMMANDS
        }
        split = [
            call_in_new_process("tests.bench.startup", "sample_phases", model, str(time.monotonic()))
            for _ in range(options.runs)
        ]
        packages = import_times(sample)
    phases = [
        Series(
            name=phase,
            unit="s",
            values=tuple(run[phase] for run in split),
            version=f"{SEQKIT_VERSION}, {package_version('torch')}",
            settings=f"of seqkit sample --length 1: {what}",
        )
        for phase, what in PHASES.items()
    ]
    print_environment()
    print_series(sides)
    for command, is_imported in torch_imported.items():
        print(f"seqkit {command}: torch {'is' if is_imported else 'is not'} imported")
    _print_phases(phases, sides[-1])
    _print_imports(packages)
    write_json(
        options.json,
        "startup",
        settings={"runs": options.runs, "model": model},
        sides=[*sides, *phases],
        results={"imports_torch": torch_imported, "import_seconds_by_package": packages},
    )


if __name__ == "__main__":
    main()
