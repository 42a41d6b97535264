"""Whether a run that goes on has the texts and tokenizers that it began with.

A recipe names files; what is in them may have changed since. Training would go on all the same, and no figure of such
a run could be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqkit.errors import UsageError
from seqkit.runs.checkpoint import Checkpoint
from seqkit.training.prepared import Prepared

_SHOWN_DIGITS = 12


def check_same_inputs(prepared: Prepared, checkpoint: Checkpoint, run_dir: Path) -> None:
    """Compare the data and the tokenizers with those of the checkpoint that the run goes on from.

    Args:
        prepared: The task with its data, as they are now.
        checkpoint: Its facts say what they were.
        run_dir: The run, for the message.

    Raises:
        UsageError: They are others; the message names each text that changed.
    """
    before, now = _digests(checkpoint.facts.get("data")), _digests(prepared.facts()["data"])
    # A text of which a part is held out for validation is one text under two names.
    changed: dict[tuple[str | None, str], str] = {}
    for name, digest in now.items():
        if before.get(name) != digest:
            changed.setdefault((before.get(name), digest), name)
    if changed:
        told = ", ".join(
            f"{name} (SHA-256 was {_short(old)}, is {_short(new)})" for (old, new), name in changed.items()
        )
        raise UsageError(
            f"{run_dir}: the text has changed since this run began: {told}",
            hint="put it back as it was, or start another run with another --run-dir",
        )
    if dict(prepared.tokenizer_files) != checkpoint.tokenizers:
        raise UsageError(
            f"{run_dir}: the tokenizer is no longer the one that this run began with",
            hint="put the file that tokenizer.path names back as it was",
        )


def _digests(data: Any) -> dict[str, str]:
    """Recipe keys (``data.train``, or ``data.train.src``) to the SHA-256 of their texts, from a model's facts."""
    digests: dict[str, str] = {}
    for part, facts in data.items() if isinstance(data, Mapping) else ():
        found = facts.get("sha256") if isinstance(facts, Mapping) else None
        sides = found.items() if isinstance(found, Mapping) else [(None, found)]
        for side, digest in sides:
            digests[f"data.{part}" if side is None else f"data.{part}.{side}"] = str(digest)
    return digests


def _short(digest: str | None) -> str:
    return "not known" if digest is None else f"{digest[:_SHOWN_DIGITS]}…"
