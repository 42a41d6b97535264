"""``python -m seqkit`` and the console script ``seqkit``: the same program."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with the code that the README's table promises."""
    from seqkit.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
