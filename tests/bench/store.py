"""Large corpora: how fast a token store is built, and whether memory stays flat as the text grows.

The text is generated: the words of ``builtin:python-docs`` in ever new order. Everything is measured in processes
of their own, once for the large text and once for one of 1 MB; the difference of their peaks is what the size of
the text costs. Mapped file pages count as memory here, although the system may take them back at any time.
MB are 10⁶ bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .large_store import measure_large, report_large
from .processes import call_in_new_process, peak_megabytes
from .sides import (
    SEQKIT_VERSION,
    Series,
    add_json_option,
    note,
    print_environment,
    print_table,
    show,
    write_json,
)

if TYPE_CHECKING:
    from seqkit.recipe.tokenizer_schema import TokenizerConfig

_SEED = 1
_SMALL_MB = 1.0
_VALID_MB = 0.1
_WORDS_IN_LINE = 12
_MODULE = "tests.bench.store"

_RECIPE = """\
task: lm
seed: 1
data: {{train: {train}, valid: {valid}}}
tokenizer: {{type: char}}
model: {{type: lstm, d_model: 64}}
train: {{max_steps: {steps}, batch_size: 32, sequence_length: 64, precision: fp32, threads: {threads}}}
"""


def generate_text(path: Path, megabytes: float, *, is_ascii: bool) -> None:
    """Write a text of shuffled words, the same for the same size.

    Args:
        path: The file to write.
        megabytes: Its size, to a line.
        is_ascii: Leave out words with other characters, of which the corpus has a few in every block.
    """
    from seqkit.data.builtin import builtin_text

    words = "".join(builtin_text("python-docs").blocks()).split()
    if is_ascii:
        words = [word for word in words if word.isascii()]
    num_lines = len(words) // _WORDS_IN_LINE
    pool = np.array(words, dtype=object)
    generator = np.random.Generator(np.random.PCG64(_SEED))
    num_bytes = 0
    with path.open("wb") as file:
        while True:
            shuffled = pool[generator.permutation(len(pool))][: num_lines * _WORDS_IN_LINE]
            lines = shuffled.reshape(num_lines, _WORDS_IN_LINE).tolist()
            block = "".join([" ".join(line) + "\n" for line in lines]).encode("utf-8")
            room = int(megabytes * 1e6) - num_bytes
            if len(block) >= room:
                file.write(block[: block.rfind(b"\n", 0, room) + 1])
                return
            num_bytes += file.write(block)


def time_building(text: str, cache: str, kind: str, num_workers: str) -> dict[str, float]:
    """Measure, fit and encode a text step by step in this process, and encode it again with several.

    Returns:
        Seconds of each step, bytes and characters of the text, and the peak memory: of this process, and of the
        largest of the others.
    """
    from seqkit.data.readers import open_source
    from seqkit.data.store import prepare_store
    from seqkit.tokenizers.registry import fit_tokenizer

    source = open_source(text)
    times = [time.perf_counter()]
    stats = source.measure()
    times.append(time.perf_counter())
    tokenizer = fit_tokenizer(tokenizer_config(kind), source.blocks())
    times.append(time.perf_counter())
    store = prepare_store(source, tokenizer, cache_dir=Path(cache), stats=stats, num_workers=1)
    times.append(time.perf_counter())
    # Both at once would need the room twice.
    shutil.rmtree(store.path)
    began = time.perf_counter()
    prepare_store(source, tokenizer, cache_dir=Path(cache), stats=stats, num_workers=int(num_workers))
    encode_together = time.perf_counter() - began
    seconds = dict(zip(("measure", "fit", "encode"), np.diff(times).tolist(), strict=True))
    return {
        **seconds,
        "together": times[-1] - times[0],
        "encode_together": encode_together,
        "worker_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6,
        "num_bytes": stats.num_bytes,
        "num_chars": stats.num_chars,
        **_peaks(),
    }


def tokenizer_config(kind: str) -> TokenizerConfig:
    """How the benchmark fits each kind of tokenizer."""
    from seqkit.recipe.tokenizer_schema import BpeTokenizer, ByteTokenizer, CharTokenizer, WordTokenizer

    match kind:
        case "bpe":
            return BpeTokenizer(type="bpe", vocab_size=8000)
        case "byte":
            return ByteTokenizer(type="byte")
        case "word":
            return WordTokenizer(type="word")
    return CharTokenizer(type="char")


def time_corpora(text: str, cache: str, kind: str, num_workers: str) -> dict[str, float]:
    """All that ``seqkit train`` does with a text before the first step: seconds and peak memory."""
    from seqkit.data.corpora import prepare_text_corpora
    from seqkit.recipe.schema import TextData

    began = time.perf_counter()
    prepare_text_corpora(TextData(train=text, workers=int(num_workers)), tokenizer_config(kind), Path(cache))
    return {"together": time.perf_counter() - began, **_peaks()}


def train(recipe: str, folder: str) -> dict[str, Any]:
    """``seqkit train`` in this process: seconds, tokens/s of its last report, and peak memory."""
    from seqkit.cli.app import run
    from seqkit.runs.metrics_log import read_metrics

    run_dir = Path(folder) / "run"
    began = time.perf_counter()
    code = run(["train", recipe, "--run-dir", str(run_dir), "--cache-dir", str(Path(folder) / "cache"), "-q"])
    seconds = time.perf_counter() - began
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["split"] == "train"]
    return {
        "exit_code": code,
        "seconds": seconds,
        "tokens_per_second": rows[-1]["tokens_per_second"],
        **_peaks(),
    }


def _peaks() -> dict[str, float]:
    """Peak memory in MB, by the kernel's own mark for this program, and as ``getrusage`` has it."""
    return {
        "peak_mb": peak_megabytes(),
        "ru_maxrss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def _in_fresh_folder(function: str, text: Path, work: Path, kind: str, num_workers: int) -> dict[str, Any]:
    """``time_building`` or ``time_corpora`` in a new process with an empty cache, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=work) as cache:
        return call_in_new_process(_MODULE, function, str(text), cache, kind, str(num_workers))


def lm_recipe(text: Path, valid: Path, *, steps: int, threads: int | None) -> str:
    """A small LSTM on the characters of a text, as YAML."""
    return _RECIPE.format(
        train=json.dumps(str(text)), valid=json.dumps(str(valid)), steps=steps, threads=threads or "null"
    )


def train_in_new_process(recipe: str, work: Path) -> dict[str, Any]:
    """``train`` on a recipe, given as YAML, with an empty cache that is deleted afterwards.

    Raises:
        SystemExit: The training failed.
    """
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe, encoding="utf-8")
        result = call_in_new_process(_MODULE, "train", str(path), folder)
    if result["exit_code"]:
        raise SystemExit(f"seqkit train ended with {result['exit_code']}")
    return result


def main() -> None:
    """Generate, build, train, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store", description=__doc__.split("\n\n")[0])
    parser.add_argument("--mb", type=float, default=1000.0, help="size of the text (%(default)s)")
    parser.add_argument("--ascii", action="store_true", help="leave out words with other characters")
    parser.add_argument("--tokenizer", choices=["char", "byte", "word", "bpe"], default="char", help="(%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that encode (%(default)s)"
    )
    parser.add_argument("--train", action="store_true", help="also train on it, and on 1 MB, and compare the memory")
    parser.add_argument("--steps", type=int, default=50, help="of that training (%(default)s)")
    parser.add_argument("--threads", type=int, help="for its arithmetic (one a core)")
    parser.add_argument("--dir", type=Path, help="where to keep the text meanwhile; needs about three times --mb")
    parser.add_argument(
        "--gigabytes",
        type=float,
        help="instead: build from so much, kill the builder on the way, go on (needs about twice that in --dir)",
    )
    parser.add_argument("--pairs", action="store_true", help="with --gigabytes: sentence pairs, half of it each side")
    add_json_option(parser)
    options = parser.parse_args()
    if options.pairs and options.gigabytes is None:
        parser.error("--pairs goes with --gigabytes")
    if options.gigabytes is not None:
        facts = measure_large(
            options.gigabytes,
            tokenizer=options.tokenizer,
            num_workers=options.workers,
            folder=options.dir,
            is_pairs=options.pairs,
        )
        settings = {name: getattr(options, name) for name in ("gigabytes", "pairs", "tokenizer", "workers")}
        report_large(facts, settings=settings, json_path=options.json)
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="seqkit-bench-", dir=options.dir) as name:
        work = Path(name)
        texts = {"large": work / "large.txt", "small": work / "small.txt"}
        note(f"generating {options.mb:g} MB")
        generate_text(texts["large"], options.mb, is_ascii=options.ascii)
        generate_text(texts["small"], _SMALL_MB, is_ascii=options.ascii)
        valid = work / "valid.txt"
        generate_text(valid, _VALID_MB, is_ascii=options.ascii)
        how = (options.tokenizer, options.workers)
        for size, text in texts.items():
            note(f"building from the {size} text")
            results[f"steps_{size}"] = _in_fresh_folder("time_building", text, work, *how)
            results[f"corpora_{size}"] = _in_fresh_folder(
                "time_corpora", text, work, options.tokenizer, options.workers
            )
            if options.train:
                note(f"training on the {size} text")
                recipe = lm_recipe(text, valid, steps=options.steps, threads=options.threads)
                results[f"train_{size}"] = train_in_new_process(recipe, work)
    print_environment()
    _print_results(results, *how, has_training=options.train)
    settings = {"mb": options.mb, "ascii": options.ascii, "steps": options.steps, "threads": options.threads}
    settings |= {"tokenizer": options.tokenizer, "workers": options.workers}
    sides = _series(results, options.mb, f"{options.tokenizer} tokenizer, {options.workers} processes")
    write_json(options.json, "store", settings=settings, sides=sides, results=results)


def _series(results: dict[str, Any], megabytes: float, how: str) -> list[Series]:
    """The sides for the table: speed on the large text and memory on both, of one run."""
    large = results["steps_large"]
    found = {"large text, building": ("MB/s", large["num_bytes"] / 1e6 / large["together"])}
    for size in ("large", "small"):
        found[f"{size} text, train's whole preparation, peak memory"] = ("MB", results[f"corpora_{size}"]["peak_mb"])
        if f"train_{size}" in results:
            found[f"{size} text, training"] = ("characters/s", results[f"train_{size}"]["tokens_per_second"])
            found[f"{size} text, training, peak memory"] = ("MB", results[f"train_{size}"]["peak_mb"])
    sizes = {"large": megabytes, "small": _SMALL_MB}
    return [
        Series(
            name=name,
            unit=unit,
            values=(value,),
            version=SEQKIT_VERSION,
            settings=f"{how}, {sizes[name.split()[0]]:,g} MB of text",
        )
        for name, (unit, value) in found.items()
    ]


def _print_results(results: dict[str, Any], tokenizer: str, num_workers: int, *, has_training: bool) -> None:
    large = results["steps_large"]
    megabytes = large["num_bytes"] / 1e6
    print(f"{tokenizer} tokenizer, {megabytes:,.0f} MB, {large['num_chars']:,} characters")
    names = {
        "measure": "measure and hash",
        "fit": "fit the tokenizer",
        "encode": "encode and write, 1 process",
        "together": "all three",
        "encode_together": f"encode and write, {num_workers} processes",
    }
    rows = [[shown, show(large[key]), show(megabytes / large[key])] for key, shown in names.items()]
    whole = results["corpora_large"]["together"]
    rows.append(
        [
            f"train's whole preparation, {num_workers} processes",
            show(whole),
            show(megabytes / whole),
        ]
    )
    print_table(["step", "seconds", "MB/s"], rows)
    kinds = {"steps": "all three steps", "corpora": "train's whole preparation"}
    if has_training:
        kinds["train"] = "seqkit train"
    rows = []
    for kind, shown in kinds.items():
        peaks = [results[f"{kind}_{size}"]["peak_mb"] for size in ("large", "small")]
        rows.append([shown, *map(show, peaks), show(peaks[0] - peaks[1])])
    print()
    print_table(["peak memory, MB", f"{megabytes:,.0f} MB text", "1 MB text", "difference"], rows)
    print(f"largest process of the {num_workers} that encoded: {show(large['worker_peak_mb'])} MB")
    if has_training:
        rates = ", ".join(
            f"{size} text {show(results[f'train_{size}']['tokens_per_second'])}" for size in ("large", "small")
        )
        print(f"training, characters/s: {rates}")


if __name__ == "__main__":
    main()
