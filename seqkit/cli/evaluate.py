"""``seqkit evaluate``: how well a model predicts a text, or translates one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli.command import Json, command
from seqkit.cli.model_options import (
    Device,
    ModelPath,
    RecipeSection,
    RunsDir,
    Threads,
    choose_device,
    choose_model,
    merge_options,
)
from seqkit.cli.streams import flush_stdout, stdin_is_piped, write_result
from seqkit.errors import DataError, UsageError
from seqkit.leftovers import scratch_folder

if TYPE_CHECKING:
    from seqkit.data.store import TokenStore
    from seqkit.tasks.lm_predictor import LoadedLm, TextProtocol

_EXAMPLES = """\
seqkit evaluate                                   # the newest run, its recipe's validation text
seqkit evaluate --model runs/best --split test --json
seqkit evaluate catalog:wikitext-2/test --model runs/wt2
seqkit evaluate --window 256 --reset-state        # windows from an empty context, as nanoGPT measures
seqkit evaluate --per-line < sentences.txt"""


_LINES_AT_ONCE = 32
_PAIRS_AT_ONCE = 256
"""Divided again by length when they are scored."""


class Split(StrEnum):
    """A part of the recipe's data."""

    train = "train"
    valid = "valid"
    test = "test"


class EvaluationPrecision(StrEnum):
    """Arithmetic of the matrix products."""

    fp32 = "fp32"
    bf16 = "bf16"


def register(app: typer.Typer) -> None:
    """Add ``evaluate`` to the command tree."""

    @command(app, "evaluate", examples=_EXAMPLES)
    def evaluate(
        data: Annotated[
            list[str] | None,
            typer.Argument(metavar="DATA", help="Files, builtin:NAME, catalog:NAME/SPLIT, or - for stdin."),
        ] = None,
        model: ModelPath = None,
        split: Annotated[Split | None, typer.Option("--split", help="A part of the recipe's data (valid).")] = None,
        window: Annotated[int | None, typer.Option("--window", min=1, help="Tokens read at once.")] = None,
        reset_state: Annotated[
            bool | None,
            typer.Option("--reset-state/--carry-state", help="Begin each window from an empty state or context."),
        ] = None,
        per_line: Annotated[
            bool, typer.Option("--per-line", help="Score each line by itself: log-probability TAB tokens.")
        ] = False,
        batch_size: Annotated[
            int | None,
            typer.Option(
                "--batch-size", min=1, help="Of --per-line: lines or pairs answered together (32; 256 pairs)."
            ),
        ] = None,
        beam: Annotated[
            int | None, typer.Option("--beam", min=0, help="Beam of a translation model's BLEU and chrF (5); 0: none.")
        ] = None,
        precision: Annotated[
            EvaluationPrecision, typer.Option("--precision", help="Arithmetic of matrix products.")
        ] = EvaluationPrecision.fp32,
        recipe: RecipeSection = None,
        runs_dir: RunsDir = None,
        cache_dir: Annotated[
            Path | None, typer.Option("--cache-dir", envvar="SEQKIT_CACHE_DIR", help="Where token stores are kept.")
        ] = None,
        device: Device = "auto",
        threads: Threads = None,
        json_output: Json = False,
    ) -> None:
        """Score a text under a language model, or pairs of texts under a translation model.

        Prints the loss in nats per token, perplexity, and bits per character and byte. DATA: by default the
        validation text of the model's recipe. The whole text is one stream with the state carried; a
        Transformer, which has none, reads windows as wide as its context that overlap by half. --window and
        --reset-state say otherwise. Of a translation model DATA is SRC TGT, and BLEU and chrF of its translations
        are printed too, and how many of them equal their reference.
        """
        if data and split is not None:
            raise UsageError("give DATA or --split, not both")
        if batch_size is not None and not per_line:
            raise UsageError("--batch-size does nothing without --per-line")
        if data and data.count("-") > 1:
            raise UsageError("`-` twice: stdin can be read only once")
        path = choose_model(("lm", "seq2seq"), model, runs_dir)
        from seqkit.runs.checkpoint import read_task
        from seqkit.runs.places import cache_dir as cache_place

        place = choose_device(device, threads)
        if read_task(path) == "seq2seq":
            if window is not None or reset_state is not None:
                raise UsageError("--window and --reset-state are for language models; this one translates")
            from seqkit.cli.evaluate_pairs import evaluate_pairs

            evaluate_pairs(
                path,
                data or [],
                split.value if split is not None else "valid",
                place,
                cache_place(cache_dir),
                beam=beam,
                per_line=per_line,
                batch_size=batch_size or _PAIRS_AT_ONCE,
                precision=precision.value,
                recipe=recipe,
                json_output=json_output,
            )
            return
        if beam is not None:
            raise UsageError("--beam is for translation models; this one is a language model")
        if per_line and (window is not None or reset_state is not None):
            raise UsageError(
                "--per-line scores each line from an empty state; --window and --reset-state are for texts"
            )
        from seqkit.tasks.lm_predictor import load_lm, text_protocol
        from seqkit.training.precision import autocast

        loaded = load_lm(path, place)
        flags: dict[str, object] = {"window": window, "reset_state": reset_state}
        options = merge_options(loaded.recipe.evaluate, recipe, "evaluate", flags)
        if options.reset_state and options.window is None and loaded.model.context_length is None:
            raise UsageError("--reset-state needs --window: how many tokens before the state is reset?")
        protocol = text_protocol(loaded.model, window=options.window, reset_state=options.reset_state)
        with ExitStack() as stack:
            stack.enter_context(autocast(precision.value, place))
            if per_line:
                _score_lines(
                    loaded, _lines(loaded, data or [], split), batch_size or _LINES_AT_ONCE, json_output=json_output
                )
                return
            store = _open_store(loaded, data or [], split or Split.valid, cache_place(cache_dir), stack)
            if store.num_tokens < 2:
                raise DataError("a text of one token has nothing to predict; at least 2 are needed")
            name = " ".join(data) if data else (split or Split.valid).value
            _report(loaded, store, protocol, name, json_output=json_output)


def _open_store(loaded: LoadedLm, data: list[str], split: Split, cache: Path, stack: ExitStack) -> TokenStore:
    """Encode the text to score: named sources, stdin (through a temporary file), or a part of the recipe's data."""
    from seqkit.data.corpora import prepare_split
    from seqkit.data.readers import open_source
    from seqkit.data.store import prepare_store

    if not data:
        return prepare_split(loaded.recipe.data, split.value, loaded.tokenizer, cache)
    if "-" in data:
        folder = stack.enter_context(scratch_folder("evaluate"))
        size = _spool_stdin(folder / "stdin")
        if data == ["-"] and size == 0:
            raise DataError("is empty", path="<stdin>")
        data = [str(folder / "stdin") if name == "-" else name for name in data]
        cache = folder
    return prepare_store(open_source(data), loaded.tokenizer, cache_dir=cache)


def _spool_stdin(path: Path) -> int:
    """Copy stdin to a file, because a text is read more than once; returns its size in bytes.

    Raises:
        DataError: A line is not UTF-8; the line is named.
    """
    from seqkit.data.readers import checked_utf8

    with path.open("wb") as file:
        for raw in checked_utf8(sys.stdin.buffer, "<stdin>"):
            file.write(raw)
        return file.tell()


def _report(loaded: LoadedLm, store: TokenStore, protocol: TextProtocol, name: str, *, json_output: bool) -> None:
    from seqkit.tasks.lm_predictor import evaluate_store

    score = evaluate_store(loaded.model, loaded.tokenizer, store, protocol)
    unit = loaded.tokenizer.unit
    if json_output:
        facts = {
            **score.as_dict(),
            "unit": unit,
            "num_unknown": store.num_unknown,
            "protocol": protocol.words,
            "window": protocol.window,
            "stride": protocol.stride,
            "data": name,
            "sha256": store.sha256,
            "model": str(loaded.path),
            "step": loaded.facts.get("step"),
        }
        write_result(json.dumps(facts, ensure_ascii=False))
        return
    write_result(f"loss           {score.loss:.4f} nats/{unit}")
    write_result(f"perplexity     {score.perplexity:.3f} per {unit}")
    write_result(f"bits per char  {score.bits_per_char:.4f}")
    write_result(f"bits per byte  {score.bits_per_byte:.4f}")
    write_result(f"tokens         {score.num_tokens:,} ({score.num_chars:,} characters, {score.num_bytes:,} bytes)")
    if loaded.tokenizer.unk_id is not None:
        write_result(f"unknown        {store.num_unknown:,} ({100 * store.num_unknown / store.num_tokens:.2f} %)")
    write_result(f"protocol       {protocol.words}")


def _lines(loaded: LoadedLm, data: list[str], split: Split | None) -> Iterator[tuple[str, list[int]]]:
    """The lines to score and their tokens: stdin's, the named sources', or those of a part of the recipe's data."""
    from seqkit.data.corpora import split_blocks
    from seqkit.data.readers import iter_lines, lines_of, open_source

    if not data and split is None and stdin_is_piped():
        data = ["-"]
    if not data:
        part = split or Split.valid
        blocks = split_blocks(loaded.recipe.data, part.value, loaded.tokenizer)
        return _encoded(loaded, lines_of(blocks), part.value)
    sources = [None if name == "-" else open_source(name) for name in data]
    return chain.from_iterable(
        _encoded(loaded, iter_lines(sys.stdin.buffer, "<stdin>"), "<stdin>")
        if source is None
        else _encoded(loaded, lines_of(source.blocks()), source.name)
        for source in sources
    )


def _encoded(loaded: LoadedLm, lines: Iterator[str], name: str) -> Iterator[tuple[str, list[int]]]:
    """Each line with its tokens.

    Raises:
        DataError: A line has a character that the tokenizer refuses; the line is named.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield line, loaded.tokenizer.encode(line)
        except DataError as error:
            raise DataError(error.message, path=name, line=number, hint=error.hint) from None


def _score_lines(
    loaded: LoadedLm,
    lines: Iterator[tuple[str, list[int]]],
    batch_size: int,
    *,
    json_output: bool,
) -> None:
    """Print one result a line, in order, as soon as its batch is done."""
    from seqkit.tasks.lm_predictor import evaluate_lines

    end_ids = _line_end(loaded)
    while batch := list(islice(lines, batch_size)):
        sums = evaluate_lines(loaded.model, loaded.tokenizer, [ids for _, ids in batch], end_ids)
        for (line, _), total in zip(batch, sums, strict=True):
            if json_output:
                facts = {"input": line, "output": None, "score": -total.nats, "num_tokens": total.num_tokens}
                write_result(json.dumps(facts, ensure_ascii=False))
            else:
                write_result(f"{-total.nats:.6f}\t{total.num_tokens}" if line else "")
        flush_stdout()


def _line_end(loaded: LoadedLm) -> list[int]:
    """How the model's tokenizer spells a line end; nothing, where it cannot."""
    try:
        return loaded.tokenizer.encode("\n")
    except DataError:
        return []
