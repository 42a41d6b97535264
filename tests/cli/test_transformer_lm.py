"""A small GPT on the command line: training, ``evaluate`` and its protocols, ``sample`` beyond the context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import ForkServer, InProcess, Tiny, write_tiny_text

CONTEXT = 16
RECIPE = f"""\
task: lm
seed: 7
data:
  train: TEXT
model: {{type: transformer, num_layers: 2, d_model: 8, num_heads: 2, context_length: {CONTEXT}}}
train:
  max_steps: 12
  batch_size: 4
  sequence_length: 8
  bptt: stride
  precision: fp32
  evaluate_every: 4
  log_every: 2
  sample_length: 5
  threads: 1
  device: cpu
sample: {{length: 6}}
"""


@pytest.fixture(scope="session")
def gpt(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny Transformer, trained once for all tests."""
    folder = tmp_path_factory.mktemp("gpt")
    text, recipe = folder / "tiny.txt", folder / "gpt.yaml"
    write_tiny_text(text)
    recipe.write_text(RECIPE.replace("TEXT", str(text)))
    runs, cache = folder / "runs", folder / "cache"
    done = fork_server.start("train", recipe, "--runs-dir", runs, "--cache-dir", cache, folder=folder).wait()
    assert done.code == 0, done.err
    return Tiny(folder=folder, text=text, recipe=recipe, cache=cache, runs=runs, run=Path(done.out.removesuffix("\n")))


@pytest.fixture
def evaluate(gpt: Tiny, seqkit: InProcess) -> Any:
    return lambda *words, **more: seqkit("evaluate", "--model", gpt.run, *words, **more)


@pytest.fixture
def sample(gpt: Tiny, seqkit: InProcess) -> Any:
    return lambda *words, **more: seqkit("sample", "--model", gpt.run, *words, **more)


def facts(evaluate: Any, *words: object, **more: Any) -> dict[str, Any]:
    done = evaluate("--json", *words, **more)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def drawn(sample: Any, *words: object, **more: Any) -> dict[str, Any]:
    done = sample("--json", *words, **more)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out.split("\n")[0])
    return found


def test_the_run_says_what_it_is(gpt: Tiny) -> None:
    record = json.loads((gpt.run / "run.json").read_text())
    assert record["status"] == "completed"
    resolved = (gpt.run / "resolved.yaml").read_text()
    assert "bptt: stride" in resolved and "context_length: 16" in resolved and "reset_probability: null" in resolved


def test_each_token_has_half_a_context_by_default(gpt: Tiny, evaluate: Any) -> None:
    told = facts(evaluate)
    assert told["protocol"] == "overlapping windows of 16, each token scored once after at least 8"
    assert (told["window"], told["stride"]) == (16, 8)
    assert told["num_tokens"] == len(gpt.text.read_text()) - int(len(gpt.text.read_text()) * 0.9) - 1
    shown = evaluate().out
    assert f"loss           {told['loss']:.4f} nats/character\n" in shown
    assert f"protocol       {told['protocol']}\n" in shown


def test_windows_from_an_empty_context(gpt: Tiny, evaluate: Any) -> None:
    default, fresh = facts(evaluate, gpt.text), facts(evaluate, gpt.text, "--window", 16, "--reset-state")
    assert fresh["protocol"] == "windows of 16 from an empty context"
    assert (fresh["window"], fresh["stride"]) == (16, 16)
    assert fresh["num_tokens"] == default["num_tokens"] and fresh["loss"] != pytest.approx(default["loss"], abs=1e-6)
    # Without --window they are as wide as the context.
    assert facts(evaluate, gpt.text, "--reset-state") == fresh
    narrow = facts(evaluate, gpt.text, "--window", 5)
    assert narrow["protocol"] == "overlapping windows of 5, each token scored once after at least 2"
    assert narrow["num_tokens"] == default["num_tokens"] and narrow["loss"] != default["loss"]


def test_validation_while_training_is_windows_from_an_empty_context(gpt: Tiny, evaluate: Any) -> None:
    rows = [json.loads(line) for line in (gpt.run / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["split"] == "valid"}
    told = facts(evaluate, "--reset-state")
    assert told["loss"] == pytest.approx(losses[told["step"]], rel=1e-6)


def test_a_window_wider_than_the_context_is_refused(gpt: Tiny, evaluate: Any, tmp_path: Path) -> None:
    for words in (["--window", 17], ["--window", 17, "--reset-state"]):
        done = evaluate(*words)
        assert done.code == 2
        assert done.error_line == "a window of 17 tokens is wider than the model's context of 16"
        assert "hint: --window 16, or less" in done.err
    # A recipe for another model may ask for more.
    other = tmp_path / "other.yaml"
    other.write_text(
        gpt.recipe.read_text().replace("context_length: 16", "context_length: 32") + "evaluate: {window: 20}\n"
    )
    done = evaluate("--recipe", other)
    assert done.code == 2 and "a window of 20 tokens is wider" in done.error_line


def test_lines_of_any_length_are_scored(gpt: Tiny, evaluate: Any) -> None:
    long = gpt.text.read_text().replace("\n", " ")[:100]
    done = evaluate("--per-line", "--batch-size", 2, stdin=f"the cat\n\n{long}\nthe cat\n".encode())
    assert done.code == 0, done.err
    rows = [line.split("\t") for line in done.out.removesuffix("\n").split("\n")]
    assert rows[1] == [""] and [int(rows[number][1]) for number in (0, 2, 3)] == [8, 101, 8]
    assert float(rows[0][0]) == pytest.approx(float(rows[3][0]), rel=1e-5)
    alone = evaluate("--per-line", stdin=f"{long}\n".encode()).out.split("\t")
    assert float(alone[0]) == pytest.approx(float(rows[2][0]), rel=1e-5)


def test_lines_take_no_windows(evaluate: Any) -> None:
    for words in (["--window", 4], ["--reset-state"], ["--carry-state"]):
        done = evaluate("--per-line", *words, stdin=b"a\n")
        assert done.code == 2 and "--per-line scores each line from an empty state" in done.error_line


def test_samples_of_any_length_after_prompts_of_any_length(gpt: Tiny, sample: Any) -> None:
    prompt = gpt.text.read_text().replace("\n", " ")[: 3 * CONTEXT]
    for length in (1, CONTEXT, 5 * CONTEXT):
        for words in ([], ["--prompt", "the"], ["--prompt", prompt[:CONTEXT]]):
            done = sample("--length", length, "--seed", 3, "--json", *words)
            assert done.code == 0 and done.err == "", done.err
            told = json.loads(done.out)
            assert len(told["tokens"]) == length


def test_of_a_long_prompt_the_end_is_read_and_a_warning_says_so(gpt: Tiny, sample: Any) -> None:
    prompt = gpt.text.read_text().replace("\n", " ")[: 3 * CONTEXT]
    done = sample("--length", 30, "--seed", 3, "--prompt", prompt)
    assert done.code == 0 and done.out.startswith(prompt)
    said = "the prompt has 48 characters, the model's context 16; only the end of the prompt is read"
    assert done.err == f"seqkit: warning: --prompt: {said}\n"
    whole, end = (drawn(sample, "--length", 30, "--seed", 3, "--prompt", text) for text in (prompt, prompt[-CONTEXT:]))
    assert whole["output"] == end["output"] and whole["input"] == prompt
    lines = sample("--length", 3, stdin=f"the\n{prompt}\n".encode())
    assert lines.err == f"seqkit: warning: <stdin>:2: {said}\n"


def test_a_seed_repeats_and_rows_do_not_depend_on_each_other(sample: Any) -> None:
    one = sample("--seed", 3, "--length", 40, "--num-samples", 3, "--json").out
    assert one == sample("--seed", 3, "--length", 40, "--num-samples", 3, "--json").out
    first, *_ = (json.loads(line) for line in one.splitlines())
    assert drawn(sample, "--seed", 3, "--length", 40)["tokens"] == first["tokens"]
    greedy = {drawn(sample, "--seed", seed, "--temperature", 0, "--length", 40)["output"] for seed in range(2)}
    assert len(greedy) == 1


def test_a_dry_run_and_bf16(gpt: Tiny, seqkit: InProcess, evaluate: Any) -> None:
    done = seqkit("train", gpt.recipe, "--dry-run", "--cache-dir", gpt.cache)
    assert done.code == 0 and "transformer 2×8" in done.out + done.err
    assert facts(evaluate, "--precision", "bf16")["loss"] == pytest.approx(facts(evaluate)["loss"], abs=0.02)
