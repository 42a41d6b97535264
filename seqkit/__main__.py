"""``python -m seqkit`` and the console script ``seqkit``: the same program."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def be_a_good_neighbour() -> None:
    """Let idle OpenMP threads sleep soon instead of spinning; must run before torch is loaded.

    By default libgomp's threads spin for milliseconds at every barrier. Beside another busy process on the same cores
    that made training several times slower; alone it gains nothing. A user's own setting wins.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def leave_plugins_out() -> None:
    """Keep pydantic from asking every installed package for plugins: it takes time, and runs code nobody asked for."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def look_for_garbage_less_often() -> None:
    """Raise the collector's first threshold from hundreds of new objects to tens of thousands.

    Most of what starting up and counting words make stays for good; looking for cycles among it again and again took a
    tenth of a second of every command.
    """
    gc.set_threshold(50_000, 20, 20)


def main() -> NoReturn:
    """Run the command line and exit with the code that the README's table promises."""
    be_a_good_neighbour()
    leave_plugins_out()
    look_for_garbage_less_often()
    from seqkit.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
