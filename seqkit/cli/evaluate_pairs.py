"""``seqkit evaluate`` of a translation model: its loss on sentence pairs, and the scores of its translations."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqkit.cli.line_translator import warn_of_line
from seqkit.cli.model_options import merge_options
from seqkit.cli.streams import flush_stdout, write_result
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

    from seqkit.data.pairs import ParallelText
    from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq
    from seqkit.tokenizers.sentences import SentenceVocabulary


def evaluate_pairs(
    path: Path,
    data: list[str],
    split: Literal["train", "valid", "test"],
    device: torch.device,
    cache_dir: Path,
    *,
    beam: int | None,
    per_line: bool,
    batch_size: int,
    precision: Literal["fp32", "bf16"],
    recipe: str | None,
    json_output: bool,
) -> None:
    """Score pairs and print the result.

    Args:
        path: The model folder.
        data: The source and the target text; empty: a split of the recipe's data.
        split: Which, where ``data`` is empty.
        device: Where to compute.
        cache_dir: Where encoded pairs are kept.
        beam: What ``--beam`` says; 0 translates nothing.
        per_line: Print the log-probability of each pair instead.
        batch_size: Of ``per_line``: pairs read, scored and answered together.
        precision: Arithmetic of matrix products.
        recipe: What ``--recipe`` names.
        json_output: Machine-readable output.

    Raises:
        UsageError: Not two texts were given, or a flag does nothing.
        DataError: The texts have different numbers of lines, or a line is more than the model takes.
    """
    from seqkit.data.pair_corpora import open_pairs
    from seqkit.data.pairs import ParallelText
    from seqkit.data.readers import open_source
    from seqkit.tasks.seq2seq_predictor import load_seq2seq
    from seqkit.training.precision import autocast

    if data and len(data) != 2:
        raise UsageError(f"a translation model is evaluated on SRC and TGT, two texts, not {len(data)}")
    if "-" in data:
        raise UsageError("`-`: pairs come from two files, not from stdin")
    if per_line and beam is not None:
        raise UsageError("--beam does nothing with --per-line, which translates nothing")
    loaded = load_seq2seq(path, device)
    flags: dict[str, object] = {"beam": beam}
    options = merge_options(loaded.recipe.evaluate, recipe, "evaluate", flags)
    text = (
        ParallelText(src=open_source(data[0]), tgt=open_source(data[1]))
        if data
        else open_pairs(loaded.recipe.data, split)
    )
    with autocast(precision, device):
        if per_line:
            _score_lines(loaded, text, batch_size, json_output=json_output)
        else:
            _report(loaded, text, " ".join(data) or split, options.beam, cache_dir, json_output=json_output)


def _report(
    loaded: LoadedSeq2Seq, text: ParallelText, name: str, beam: int, cache_dir: Path, *, json_output: bool
) -> None:
    """Loss over all pairs; BLEU, chrF and exact matches of the translations of all lines."""
    import numpy as np

    from seqkit.data.pair_corpora import prepare_pair_split
    from seqkit.metrics.exact_match import exact_match
    from seqkit.metrics.translation import Bleu, Chrf, score_corpus
    from seqkit.tasks.seq2seq import pair_scores

    tokenizers = {"src": loaded.src.tokenizer, "tgt": loaded.tgt.tokenizer}
    num_workers = loaded.recipe.data.workers
    store = prepare_pair_split(text, tokenizers, cache_dir, num_workers=num_workers)  # type: ignore[arg-type]
    longer_P = np.maximum(store.src.lengths(), store.tgt.lengths())
    if longer_P.max() > (most := _most_tokens(loaded)):
        first = int(np.argmax(longer_P > most))
        raise _beyond_positions(text, int(store.line_numbers[first]) + 1, int(longer_P[first]), most)
    scores = pair_scores(loaded.model, store, loaded.src, loaded.tgt)
    found, exact = [], 0.0
    if beam:
        lines = list(text.lines())
        hypotheses = _translate(loaded, [src for src, _ in lines], beam, text.src.name)
        references = [tgt for _, tgt in lines]
        found = [score_corpus(metric, hypotheses, [references]) for metric in (Bleu(), Chrf())]
        exact = exact_match(hypotheses, references)
    unit = loaded.tgt.tokenizer.unit
    counts = store.counts
    if json_output:
        facts = {
            **scores,
            "unit": unit,
            **{score.name: score.value for score in found},
            **({"exact_match": exact} if beam else {}),
            "signatures": {score.name: score.signature for score in found},
            "beam": beam,
            "num_pairs": counts.num_pairs,
            "num_left_out": counts.num_lines - counts.num_pairs,
            "data": name,
            "sha256": store.sha256,
            "model": str(loaded.path),
            "step": loaded.facts.get("step"),
        }
        write_result(json.dumps(facts, ensure_ascii=False))
        return
    write_result(f"loss        {scores['loss']:.4f} nats/{unit}")
    write_result(f"perplexity  {scores['perplexity']:.3f} per {unit}")
    for score in found:
        write_result(f"{score.name:<10}  {score.value:.1f}  {score.signature}")
    if beam:
        write_result(f"exact       {exact:.1f} % of the lines")
        write_result(f"beam        {beam}")
    write_result(f"pairs       {counts.num_pairs:,} ({scores['num_tokens']:,} target {unit}s)")
    if counts.num_lines > counts.num_pairs:
        write_result(f"left out    {counts.num_lines - counts.num_pairs:,} with an empty side (of the loss)")


def _translate(loaded: LoadedSeq2Seq, lines: list[str], beam: int, name: str) -> list[str]:
    """The best translation of each line; what is to be said of a line is a warning."""
    from seqkit.decoding.requests import check_rule
    from seqkit.tasks.cpu_search import layout_for, processes_for
    from seqkit.tasks.torch_search import torch_translator
    from seqkit.tasks.translation_ensemble import joined_model
    from seqkit.tasks.translation_requests import SourceLimits
    from seqkit.tasks.translator import beam_rule
    from seqkit.training.device import model_device

    options = loaded.recipe.translate.model_copy(update={"beam": beam})
    check_rule(beam_rule(options, 1), vocab_size=loaded.tgt.vocab_size)
    device, limits = model_device(loaded.model), SourceLimits.of([loaded.recipe])
    translator = torch_translator(
        joined_model([loaded], layout_for(device)),
        loaded.src,
        loaded.tgt,
        options,
        device,
        limits=limits,
        num_processes=processes_for(device),
    )
    requests = translator.reader.read(lines)
    for number, request in enumerate(requests, start=1):
        for remark in request.remarks:
            warn_of_line(name, number, remark)
    return [translations[0].text for translations in translator.translate(requests)]


def _most_tokens(loaded: LoadedSeq2Seq) -> float:
    """Tokens of a side that the model has positions for."""
    from seqkit.tasks.translation_requests import SourceLimits

    longest = SourceLimits.of([loaded.recipe]).longest_possible
    return math.inf if longest is None else longest


def _beyond_positions(text: ParallelText, line: int, num_tokens: int, most: float) -> DataError:
    return DataError(
        f"{text.src.name} and {text.tgt.name}, line {line:,}: {num_tokens:,} tokens, more than the {most:,} that the "
        "model has positions for"
    )


def _score_lines(loaded: LoadedSeq2Seq, text: ParallelText, batch_size: int, *, json_output: bool) -> None:
    """Print the log-probability and the number of tokens of each target line given its source, in order."""
    from seqkit.tasks.seq2seq import score_pairs

    most = _most_tokens(loaded)
    pairs = enumerate(text.lines(), start=1)
    while batch := list(islice(pairs, batch_size)):
        ids = []
        for number, (src, tgt) in batch:
            ids.append(
                (_encode(loaded.src, text.src.name, number, src), _encode(loaded.tgt, text.tgt.name, number, tgt))
            )
            if (num_tokens := max(map(len, ids[-1]))) > most:
                raise _beyond_positions(text, number, num_tokens, most)
        for (_, (src, tgt)), (log_prob, num_tokens) in zip(
            batch, score_pairs(loaded.model, ids, loaded.src, loaded.tgt), strict=True
        ):
            if json_output:
                facts = {"input": src, "output": tgt, "score": log_prob, "num_tokens": num_tokens}
                write_result(json.dumps(facts, ensure_ascii=False))
            else:
                write_result(f"{log_prob:.6f}\t{num_tokens}" if src or tgt else "")
        flush_stdout()


def _encode(vocabulary: SentenceVocabulary, name: str, number: int, line: str) -> list[int]:
    """The tokens of a line; DataError names it."""
    try:
        return vocabulary.tokenizer.encode(line)
    except DataError as error:
        raise DataError(error.message, path=name, line=number, hint=error.hint) from None
