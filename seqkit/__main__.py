"""``python -m seqkit`` and the console script ``seqkit``: the same program."""

from __future__ import annotations

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


def main() -> NoReturn:
    """Run the command line and exit with the code that the README's table promises."""
    be_a_good_neighbour()
    from seqkit.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
