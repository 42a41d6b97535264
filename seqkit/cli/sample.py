"""``seqkit sample``: let a language model write."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqkit.cli import console
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
from seqkit.cli.streams import open_input, stdin_is_piped, write_result
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from seqkit.recipe.schema import SampleOptions
    from seqkit.tasks.lm_predictor import LoadedLm
    from seqkit.tokenizers.base import StreamDecoder

_EXAMPLES = """\
seqkit sample --prompt "The " --temperature 0.7 --stop '\\n\\n'
seqkit sample --length 200 --num-samples 3 --seed 1 --json
cat prompts.txt | seqkit sample --top-p 0.9 --length 80"""

_ROWS_AT_ONCE = 16
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\r": "\r"}


def register(app: typer.Typer) -> None:
    """Add ``sample`` to the command tree."""

    @command(app, "sample", examples=_EXAMPLES)
    def sample(
        prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text to go on from.")] = None,
        prompt_file: Annotated[
            str | None, typer.Option("--prompt-file", help="Take the prompt from a file; - is stdin, whole.")
        ] = None,
        model: ModelPath = None,
        length: Annotated[int | None, typer.Option("--length", "-n", min=1, help="New tokens to draw (500).")] = None,
        temperature: Annotated[
            float | None, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest token (1.0).")
        ] = None,
        top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Draw among the k likeliest.")] = None,
        top_p: Annotated[
            float | None, typer.Option("--top-p", help="Draw among the fewest that sum to p, 0 < p <= 1.")
        ] = None,
        min_p: Annotated[
            float | None, typer.Option("--min-p", help="Draw among those at least p × the likeliest, 0 < p <= 1.")
        ] = None,
        num_samples: Annotated[int | None, typer.Option("--num-samples", min=1, help="Samples a prompt (1).")] = None,
        stop: Annotated[
            list[str] | None, typer.Option("--stop", help=r"End at this string (\n and \t are read); repeatable.")
        ] = None,
        seed: Annotated[int | None, typer.Option("--seed", min=0, help="Same seed, same samples.")] = None,
        echo: Annotated[bool, typer.Option("--echo/--no-echo", help="Print the prompt before what follows it.")] = True,
        recipe: RecipeSection = None,
        runs_dir: RunsDir = None,
        device: Device = "auto",
        threads: Threads = None,
        json_output: Json = False,
    ) -> None:
        """Write text from a trained language model, token by token.

        Prompts come from --prompt, --prompt-file, or stdin, one a line; without any, the model begins afresh.
        """
        if prompt is not None and prompt_file is not None:
            raise UsageError("give --prompt or --prompt-file, not both")
        if prompt is not None and not _is_unicode(prompt):
            raise UsageError("--prompt is not UTF-8", hint="--prompt-file names the line of a bad byte")
        path = choose_model("lm", model, runs_dir)
        from seqkit.tasks.lm_predictor import load_lm

        loaded = load_lm(path, choose_device(device, threads))
        flags: dict[str, object] = {
            "length": length,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "num_samples": num_samples,
            "stop": [_unescape(text) for text in stop] if stop else None,
            "seed": seed,
        }
        options = merge_options(loaded.recipe.sample, recipe, "sample", flags)
        chosen_seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
        console.logger.log(console.VERBOSE, "seed %d", chosen_seed)
        row = 0
        for text, name, line in _prompts(prompt, prompt_file):
            _check_prompt(loaded, text, name, line)
            if row and not json_output:
                write_result("")
            _write_samples(loaded, text, options, chosen_seed, row, echo=echo, json_output=json_output)
            row += options.num_samples


@dataclass
class _Sample:
    """One sample as it grows."""

    decoder: StreamDecoder
    matcher: Any
    text: str = ""
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def push(self, token: int, log_prob: float) -> str:
        """Take a token; return the text that is now certain."""
        self.ids.append(token)
        self.log_probs.append(log_prob)
        return self._keep(self.matcher.push(self.decoder.push(token)))

    def finish(self) -> str:
        """The text still held back."""
        if self.matcher.is_stopped:
            return ""
        return self._keep(self.matcher.push(self.decoder.flush()) + self.matcher.flush())

    def _keep(self, text: str) -> str:
        self.text += text
        return text


def _write_samples(
    loaded: LoadedLm,
    prompt: str,
    options: SampleOptions,
    seed: int,
    first_row: int,
    *,
    echo: bool,
    json_output: bool,
) -> None:
    """Draw and print all samples of one prompt; a single one is printed as it is drawn."""
    from seqkit.decoding.sampling import SamplingRule
    from seqkit.decoding.stopping import StopMatcher
    from seqkit.tasks.lm_predictor import draw_samples

    rule = SamplingRule(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p)
    streams = options.num_samples == 1 and not json_output
    if streams and echo:
        write_result(prompt, end="", flush=True)
    for offset in range(0, options.num_samples, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, options.num_samples - offset)
        samples = [_Sample(loaded.tokenizer.stream_decoder(), StopMatcher(options.stop)) for _ in range(rows)]
        for ids, log_probs in draw_samples(
            loaded.model,
            loaded.tokenizer,
            prompt,
            length=options.length,
            rule=rule,
            seed=seed,
            num_samples=rows,
            first_row=first_row + offset,
        ):
            for growing, token, log_prob in zip(samples, ids, log_probs, strict=True):
                if not growing.matcher.is_stopped:
                    text = growing.push(token, log_prob)
                    if streams:
                        write_result(text, end="", flush=True)
            if all(growing.matcher.is_stopped for growing in samples):
                break
        for index, done in enumerate(samples):
            rest = done.finish()
            if json_output:
                write_result(_as_json(done, prompt, seed), flush=True)
            elif streams:
                write_result(rest, flush=True)
            else:
                separator = "\n" if offset + index else ""
                write_result(separator + (prompt if echo else "") + done.text, flush=True)


def _as_json(sample: _Sample, prompt: str, seed: int) -> str:
    """One object: the text without prompt and stop string, and what each drawn token was worth to the model."""
    return json.dumps(
        {
            "input": prompt,
            "output": sample.text,
            "score": sum(sample.log_probs),
            "tokens": sample.ids,
            "log_probs": sample.log_probs,
            "stopped": sample.matcher.is_stopped,
            "seed": seed,
        },
        ensure_ascii=False,
    )


def _check_prompt(loaded: LoadedLm, text: str, name: str, line: int | None) -> None:
    """Check that the tokenizer takes a prompt, and warn if the model cannot read all of it, before anything is written.

    Raises:
        DataError: It has a character that the tokenizer refuses.
    """
    try:
        num_tokens = len(loaded.tokenizer.encode(text))
    except DataError as error:
        raise DataError(error.message, path=name, line=line, hint=error.hint) from None
    context_length = loaded.model.context_length
    if context_length is not None and num_tokens > context_length:
        console.logger.warning(
            "%s: the prompt has %s %ss, the model's context %s; only the end of the prompt is read",
            name if line is None else f"{name}:{line}",
            f"{num_tokens:,}",
            loaded.tokenizer.unit,
            f"{context_length:,}",
        )


def _prompts(prompt: str | None, prompt_file: str | None) -> Iterator[tuple[str, str, int | None]]:
    """The prompts: a flag's, a file's whole content, stdin's lines, or one empty one.

    Yields:
        The prompt, where it comes from, and its line where that has many.
    """
    from seqkit.data.readers import iter_lines, read_utf8

    if prompt is not None:
        yield prompt, "--prompt", None
    elif prompt_file is not None:
        with open_input(prompt_file) as (stream, name):
            yield read_utf8(stream, name), name, None
    elif stdin_is_piped():
        for number, line in enumerate(iter_lines(sys.stdin.buffer, "<stdin>"), start=1):
            yield line, "<stdin>", number
    else:
        yield "", "", None


def _is_unicode(text: str) -> bool:
    """Whether an argument was UTF-8; Python gives bytes that are not as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unescape(text: str) -> str:
    r"""Read \n, \t and \r in a stop string, which a shell does not.

    >>> _unescape(r"a\n\n")
    'a\n\n'
    """
    for escape, meaning in _ESCAPES.items():
        text = text.replace(escape, meaning)
    return text
