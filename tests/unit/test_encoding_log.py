"""The lines that tell how far the encoding of a large text is."""

from __future__ import annotations

import pytest

from seqkit.cli import progress
from seqkit.cli.progress import EncodingLog


def test_it_tells_progress_and_speed_and_begins_anew_with_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    told: list[str] = []
    monkeypatch.setattr("seqkit.cli.progress.logger.info", lambda message, *values, **_: told.append(message % values))
    log = EncodingLog()
    step = progress._ENCODING_INTERVAL
    # A build that goes on begins with what was done before, which this process did not encode.
    for seconds, num_bytes in [(0, 500_000_000), (step / 2, 510_000_000), (step / 2, 500_000_000 + int(step * 3e6))]:
        now += seconds
        log(num_bytes)
    now += step
    log(1_000_000)
    now += step
    log(1_000_000 + int(step * 2e6))
    assert told == [
        f"encoded {500 + step * 3:,.0f} MB of text (3.0 MB/s)",
        f"encoded {1 + step * 2:,.0f} MB of text (2.0 MB/s)",
    ]
