"""``seqkit sample``: prompts, lengths, seeds, stop strings, streaming, and the recipe's section (R11)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import Forked, ForkServer, InProcess, Tiny, wait_until


@pytest.fixture
def sample(tiny: Tiny, seqkit: InProcess) -> Any:
    """Runs ``sample`` with the tiny model."""
    return lambda *words, **more: seqkit("sample", "--model", tiny.run, *words, **more)


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.removesuffix("\n").split("\n")]


def test_a_seed_repeats_and_another_differs(sample: Any) -> None:
    one = sample("--seed", 3, "--length", 40)
    assert one.code == 0 and one.out == sample("--seed", 3, "--length", 40).out
    assert one.out != sample("--seed", 4, "--length", 40).out
    assert sample("--length", 40).out != sample("--length", 40).out


def test_temperature_0_ignores_the_seed(sample: Any) -> None:
    outs = {sample("--seed", seed, "--temperature", 0, "--length", 20).out for seed in range(3)}
    assert len(outs) == 1
    assert outs == {sample("--seed", 9, "--top-k", 1, "--length", 20).out}


def test_the_text_output_is_the_prompt_and_what_follows(sample: Any) -> None:
    told = objects(sample("--seed", 5, "--prompt", "the cat", "--json").out)[0]
    assert sample("--seed", 5, "--prompt", "the cat").out == "the cat" + told["output"] + "\n"
    assert sample("--seed", 5, "--prompt", "the cat", "--no-echo").out == told["output"] + "\n"
    Path("prompt.txt").write_text("the cat")
    assert objects(sample("--seed", 5, "--prompt-file", "prompt.txt", "--json").out) == [told]
    assert objects(sample("--seed", 5, "--json", stdin=b"the cat\n").out) == [told]


def test_length_counts_new_tokens(sample: Any) -> None:
    for length in (1, 7, 30):
        told = objects(sample("--length", length, "--prompt", "a prompt longer than that", "--json").out)[0]
        assert len(told["tokens"]) == length == len(told["log_probs"])


def test_samples_do_not_depend_on_how_many_are_drawn(sample: Any) -> None:
    many = objects(sample("--seed", 1, "--num-samples", 20, "--json").out)
    few = objects(sample("--seed", 1, "--num-samples", 2, "--json").out)
    assert len(many) == 20
    assert [one["tokens"] for one in many[:2]] == [one["tokens"] for one in few]
    assert len({tuple(one["tokens"]) for one in many}) > 10
    text = sample("--seed", 1, "--num-samples", 2, "--prompt", "the ").out
    told = objects(sample("--seed", 1, "--num-samples", 2, "--prompt", "the ", "--json").out)
    assert text == "\n\n".join("the " + one["output"] for one in told) + "\n"


def test_stop_strings(sample: Any) -> None:
    free = objects(sample("--seed", 2, "--length", 60, "--json").out)[0]["output"]
    word = free[10:12]
    told = objects(sample("--seed", 2, "--length", 60, "--stop", word, "--stop", "never there", "--json").out)[0]
    assert told["stopped"] is True and told["output"] == free[: free.index(word)]
    assert sample("--seed", 2, "--length", 60, "--stop", word).out == told["output"] + "\n"
    none = objects(sample("--seed", 2, "--length", 60, "--stop", "never there", "--json").out)[0]
    assert none["stopped"] is False and none["output"] == free


def test_stop_strings_read_escapes(sample: Any) -> None:
    free = objects(sample("--seed", 2, "--length", 300, "--json").out)[0]["output"]
    assert "\n" in free
    assert sample("--seed", 2, "--length", 300, "--stop", r"\n").out == free[: free.index("\n")] + "\n"


def test_a_blank_prompt_line_is_a_prompt(sample: Any) -> None:
    told = objects(sample("--json", stdin=b"\n\nthe\n").out)
    assert [one["input"] for one in told] == ["", "", "the"]
    assert sample(stdin=b"").out == ""


def test_tokens_are_flushed_as_they_are_drawn(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    words = ["sample", "--model", tiny.run, "--length", 100_000_000, "--prompt", "the "]
    process: Forked = fork_server.start(*words, folder=tmp_path)
    wait_until(lambda: len(process.out) > 6, "the first characters")
    assert process.is_running()


def test_r11_flag_then_recipe_then_the_models_own(tiny: Tiny, sample: Any, tmp_path: Path) -> None:
    def length(*words: object) -> int:
        return len(objects(sample("--json", *words).out)[0]["tokens"])

    assert length() == 6, "the model's own recipe"
    other = tiny.recipe_with(tmp_path, sample="{length: 11, temperature: 0}")
    assert length("--recipe", other) == 11
    assert length("--recipe", other, "--length", 3) == 3
    assert sample("--recipe", other).out == sample("--length", 11, "--temperature", 0).out
    wrong = tiny.recipe_with(tmp_path, sample="{lenght: 11}")
    done = sample("--recipe", wrong)
    assert done.code == 2 and "sample.lenght: unknown key; did you mean length?" in done.error_line
