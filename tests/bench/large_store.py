"""A very large corpus into a token store: how fast, in how much memory, and what a killed build has left to do.

The text is generated into a temporary folder. One process builds the store with its workers, and is killed with all of
them when a third of the text is done; another one goes on. What is measured is theirs, not the generator's. Memory is
the largest sum of the proportional shares (PSS) of the builder and its workers. MB are 10⁶ bytes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .processes import CALL, family_megabytes, family_of
from .sides import REPOSITORY, SEQKIT_VERSION, Series, note, print_environment, print_table, show, write_json
from .texts import count_lines

_MODULE = "tests.bench.large_store"
_KILLED_AT = 0.33
_BYTES_CHECKED = 1 << 20


def build(cache: str, kind: str, num_workers: str, *texts: str) -> dict[str, Any]:
    """Build a token store from a text, or a pair store from two, in this process.

    Returns:
        Bytes that are encoded, how many of them were before, and how many a second now; seconds of the pass that
        counts and hashes; shards and tokens of the store.
    """
    from seqkit.data.builtin import builtin_text
    from seqkit.data.pair_store import prepare_pairs
    from seqkit.data.pairs import PairPolicy, ParallelText
    from seqkit.data.readers import open_source
    from seqkit.data.sharded_ids import ShardedIds
    from seqkit.data.store import prepare_store
    from seqkit.tokenizers.registry import fit_tokenizer

    from .store import tokenizer_config

    # The large text has the words of this one.
    tokenizer = fit_tokenizer(tokenizer_config(kind), builtin_text("python-docs").blocks())
    encoded = _LastEncoding()
    logging.getLogger("seqkit").addHandler(encoded)
    logging.getLogger("seqkit").setLevel(logging.INFO)
    began = time.perf_counter()
    if len(texts) == 2:
        pairs = ParallelText(src=open_source(texts[0]), tgt=open_source(texts[1]))
        facts = {"num_lines": pairs.stats["src"].num_lines, "measure": time.perf_counter() - began}
        policy = PairPolicy(max_length=None, over_long="refuse", empty="refuse")
        tokenizers: Any = {"src": tokenizer, "tgt": tokenizer}
        store = prepare_pairs(pairs, tokenizers, policy, cache_dir=Path(cache), num_workers=int(num_workers))
        sides = [store.src.ids, store.tgt.ids]
        facts["num_pairs"] = len(store)
    else:
        source = open_source(texts[0])
        stats = source.measure()
        facts = {"measure": time.perf_counter() - began}
        sides = [prepare_store(source, tokenizer, cache_dir=Path(cache), stats=stats, num_workers=int(num_workers)).ids]
        _check_ends(tokenizer, sides[0], Path(texts[0]))
    shards = [len(ids.shards) if isinstance(ids, ShardedIds) else 1 for ids in sides]
    return {**facts, **encoded.fields, "num_shards": sum(shards), "num_tokens": sum(map(len, sides))}


class _LastEncoding(logging.Handler):
    """Keeps what was told of the encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == "encoded":
            self.fields = vars(record)["fields"]


def _check_ends(tokenizer: Any, ids: Any, text: Path) -> None:
    """Stop unless beginning and end of a store are those of its text; words alone would not give back its blanks."""
    if tokenizer.type == "word":
        return
    with text.open("rb") as file:
        beginning = file.read(_BYTES_CHECKED)
        file.seek(-_BYTES_CHECKED, os.SEEK_END)
        end = file.read()
    # To whole lines, where every tokenizer can begin and stop.
    first = tokenizer.encode(beginning[: beginning.rindex(b"\n") + 1].decode())
    last = tokenizer.encode(end[end.index(b"\n") + 1 :].decode())
    if ids[: len(first)].tolist() != first or ids[len(ids) - len(last) :].tolist() != last:
        raise SystemExit("the store does not hold its text")


def generate_target(path: Path, src: Path) -> None:
    """Write a text of as many lines, with the words of each in the opposite order."""
    with src.open("rb") as lines, path.open("wb") as file:
        file.writelines(b" ".join(line[:-1].split(b" ")[::-1]) + b"\n" for line in lines)


def measure_large(
    gigabytes: float, *, tokenizer: str, num_workers: int, folder: Path | None, is_pairs: bool
) -> dict[str, Any]:
    """Generate, build, kill, go on.

    Raises:
        SystemExit: There is too little room, the text is too small to be killed on the way, or a builder failed.
    """
    from .store import generate_text

    with tempfile.TemporaryDirectory(prefix="seqkit-bench-", dir=folder) as name:
        work = Path(name)
        # The text, and a store of at most as many bytes, with some room.
        needed, free = 2.2 * gigabytes, shutil.disk_usage(work).free / 1e9
        if free < needed:
            raise SystemExit(f"{work.parent} has {free:.1f} GB free, not {needed:.1f}: name another folder with --dir")
        note(f"generating {gigabytes:g} GB")
        texts = [work / "text.txt"]
        generate_text(texts[0], 1000 * gigabytes / (2 if is_pairs else 1), is_ascii=False)
        if is_pairs:
            texts.append(work / "target.txt")
            generate_target(texts[1], texts[0])
        size = sum(text.stat().st_size for text in texts)
        words = [str(work / "cache"), tokenizer, str(num_workers), *map(str, texts)]
        note("building, to be killed")
        peaks = [_killed_on_the_way(words, work / "cache", _KILLED_AT * size)]
        num_done = sum(record["num_bytes"] for record in _records(work / "cache"))
        note(f"killed with {num_done / 1e6:,.0f} MB done; going on")
        facts, peak = _to_the_end(words)
        peaks.append(peak)
        if (facts["num_bytes_before"], facts["num_bytes"]) != (num_done, size):
            found = f"{facts['num_bytes_before']:,} of {facts['num_bytes']:,}"
            raise SystemExit(f"{num_done:,} of {size:,} bytes were done, but the builder went on from {found}")
        if is_pairs and not facts["num_pairs"] == facts["num_lines"] == count_lines(texts[0]):
            raise SystemExit("some pairs are missing")
        return {**facts, "peak_mb": max(peaks)}


def _start(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CALL, _MODULE, "build", *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def _killed_on_the_way(words: list[str], cache: Path, num_bytes: float) -> float:
    """Kill a builder and its workers when so much is done; their peak memory in MB."""
    peak = 0.0
    with _start(words) as builder:
        while sum(record["num_bytes"] for record in _records(cache)) < num_bytes:
            peak = max(peak, family_megabytes(builder.pid))
            try:
                builder.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise SystemExit("the builder was done before it could be killed: take more gigabytes")
        for process in family_of(builder.pid):
            os.kill(process, signal.SIGKILL)
    return peak


def _to_the_end(words: list[str]) -> tuple[dict[str, Any], float]:
    """What a builder returns, and the peak memory of it and its workers in MB."""
    peak = 0.0
    with _start(words) as builder:
        while True:
            peak = max(peak, family_megabytes(builder.pid))
            try:
                output, _ = builder.communicate(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue
            break
    if builder.returncode:
        raise SystemExit(f"the builder ended with {builder.returncode}")
    facts: dict[str, Any] = json.loads(output.splitlines()[-1])
    return facts, peak


def _records(cache: Path) -> Iterator[dict[str, Any]]:
    """What is written down of the chunks that are done; each file appears whole."""
    for path in cache.glob("*/.*.tmp/chunk.*.json"):
        yield json.loads(path.read_bytes())


def report_large(facts: dict[str, Any], *, settings: dict[str, Any], json_path: Path | None) -> None:
    """Print what was measured, and write it down."""
    how = f"{settings['tokenizer']} tokenizer, {settings['workers']} processes, {facts['num_bytes'] / 1e9:.3g} GB"
    megabytes = facts["num_bytes"] / 1e6
    print_environment()
    rows = [
        ["encode and write, MB/s", show(facts["bytes_per_second"] / 1e6)],
        ["count and hash, MB/s", show(megabytes / facts["measure"])],
        ["peak memory of builder and workers, MB", show(facts["peak_mb"])],
        ["done when it was killed, MB", show(facts["num_bytes_before"] / 1e6)],
        ["encoded by the one that went on, MB", show(megabytes - facts["num_bytes_before"] / 1e6)],
        ["shards", f"{facts['num_shards']:,}"],
        ["tokens", f"{facts['num_tokens']:,}"],
    ]
    print_table([how, ""], rows)
    values = {
        "large text, encoding": ("MB/s", facts["bytes_per_second"] / 1e6),
        "large text, encoding, peak memory": ("MB", facts["peak_mb"]),
    }
    sides = [
        Series(name=name, unit=unit, values=(value,), version=SEQKIT_VERSION, settings=how)
        for name, (unit, value) in values.items()
    ]
    write_json(json_path, "store", settings=settings, sides=sides, results=facts)
