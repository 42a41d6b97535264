"""``seqkit translate`` and bad input: each fault is one clear line, and what could be translated before it was."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest
import torch
from commandline import Done, ForkServer, InProcess, Tiny
from tiny_pairs import TinyPairs, train_tiny_pairs

from seqkit.runs.checkpoint import read_checkpoint, write_checkpoint


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


@pytest.fixture(scope="module")
def other_alphabet(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    """A model whose source tokenizer refuses what training did not have, with other ids on the target side."""
    folder = tmp_path_factory.mktemp("other_alphabet")
    target = 'target_tokenizer={"type": "word"}'
    return train_tiny_pairs(fork_server, folder, "tokenizer.unseen=error", target, "train.max_steps=2")


# Files beside the input.


@pytest.mark.parametrize("option", ["--prefix", "--constraint"])
@pytest.mark.parametrize("kind", ["files", "stdin from a file", "gzip", "pipes"])
@pytest.mark.parametrize("num_beside", [1, 5])
def test_unequal_files_are_told_with_both_counts(
    seqkit: InProcess,
    tiny_pairs: TinyPairs,
    fork_server: ForkServer,
    tmp_path: Path,
    option: str,
    kind: str,
    num_beside: int,
) -> None:
    source = write_lines(tmp_path / "x.src", "be c", "ae cd", "be c")
    beside = write_lines(tmp_path / "beside", *["B"] * num_beside)
    counts = f"{num_beside} lines but {source if kind in ('files', 'gzip') else '<stdin>'} has 3"
    words: list[object] = ["translate", "--model", tiny_pairs.run, option]
    match kind:
        case "files":
            done = seqkit(*words, beside, source)
        case "stdin from a file":
            done = seqkit(*words, beside, stdin=source.read_bytes())
        case "gzip":
            packed = beside.with_suffix(".gz")
            packed.write_bytes(gzip.compress(beside.read_bytes()))
            done = seqkit(*words, packed, source)
        case "pipes":
            fifo = tmp_path / "fifo"
            os.mkfifo(fifo)
            process = fork_server.start(*words, beside, folder=tmp_path, stdin=fifo)
            with fifo.open("wb", buffering=0) as feed:
                feed.write(source.read_bytes())
            done = process.wait()
    assert done.code == 1
    assert counts in done.error_line
    # Where lines can be counted nothing is translated; otherwise what has its line beside it was.
    translated = 0 if kind in ("files", "stdin from a file") else min(num_beside, 3)
    assert done.out.count("\n") == translated


def test_a_last_line_beside_needs_no_end(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    beside = tmp_path / "prefixes"
    beside.write_bytes(b"\nDD")
    done = seqkit("translate", "--model", tiny_pairs.run, "--prefix", beside, stdin=b"be c\nbe c")
    assert done.code == 0
    first, second = done.out.split("\n")
    assert first == "BE C" and second.startswith("DD")


def test_both_files_beside_are_read_in_step(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    prefixes = write_lines(tmp_path / "prefixes", "A", "B", "C", "D", "E")
    constraints = write_lines(tmp_path / "terms", "AA", "BB", "CC", "DD", "EE")
    words = ("--prefix", prefixes, "--constraint", constraints, "--batch-size", 2)
    done = seqkit("translate", "--model", tiny_pairs.run, *words, stdin=b"be c\n" * 5)
    assert done.code == 0
    for letter, text in zip("ABCDE", done.out.split("\n"), strict=False):
        assert text.startswith(letter) and 2 * letter in text


@pytest.mark.parametrize("option", ["--prefix", "--constraint"])
def test_bad_bytes_beside_name_file_and_line(
    seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path, option: str
) -> None:
    beside = tmp_path / "beside"
    beside.write_bytes(b"B\nC\xff\n")
    done = seqkit("translate", "--model", tiny_pairs.run, option, beside, stdin=b"be c\nbe c\n")
    assert done.code == 1 and done.error_line.startswith(f"{beside}:2: not UTF-8")
    beside = tmp_path / "beside.gz"
    beside.write_bytes(gzip.compress(b"B\nC\n")[:-9])
    done = seqkit("translate", "--model", tiny_pairs.run, option, beside, stdin=b"be c\nbe c\n")
    assert done.code == 1 and "damaged gzip file" in done.error_line
    done = seqkit("translate", "--model", tiny_pairs.run, option, tmp_path, stdin=b"be c\n")
    assert done.code == 1 and "is a folder" in done.error_line


# Lines.


def test_bad_bytes_name_the_line_after_those_before(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    prefixes = write_lines(tmp_path / "prefixes", "D", "DD", "DDD", "DDDD")
    stdin = b"be c\nbe c\nb\xe9 c\nbe c\n"
    for words in ((), ("--json",), ("--prefix", prefixes)):
        done = seqkit("translate", "--model", tiny_pairs.run, *words, stdin=stdin)
        assert done.code == 1 and done.out.count("\n") == 2
        assert done.error_line.startswith("<stdin>:3: not UTF-8: byte 0xe9")
    old = write_lines(tmp_path / "x.hyp", "old")
    assert seqkit("translate", "--model", tiny_pairs.run, "-o", old, stdin=stdin).code == 1
    assert old.read_text() == "old\n"


def test_an_unknown_script_is_a_warning_that_names_the_line(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    done = seqkit("translate", "--model", tiny_pairs.run, "-q", stdin="be c\nпривет\nbe ж\n".encode())
    assert done.code == 0 and done.out.count("\n") == 3
    assert done.err == (
        "seqkit: warning: <stdin>:2: 6 of 6 characters were not in the training text; "
        "is this the language that the model translates from?\n"
    )
    told = seqkit("translate", "--model", tiny_pairs.run, "--log-format", "jsonl", stdin="привет\n".encode())
    (warning,) = [record for record in told.records if record["level"] == "warning"]
    assert (warning["event"], warning["input"], warning["line"]) == ("line", "<stdin>", 1)


def test_a_tokenizer_that_refuses_characters_names_the_line(
    seqkit: InProcess, other_alphabet: TinyPairs, tmp_path: Path
) -> None:
    model = other_alphabet.run
    done = seqkit("translate", "--model", model, "--max-length", 3, stdin="be c\nпривет\nbe c\n".encode())
    assert done.code == 1 and done.out.count("\n") == 1
    assert done.error_line == "<stdin>:2: character 'п' (U+043F) is not in the vocabulary"
    done = seqkit("translate", "--model", model, "--text", "Ж")
    assert done.code == 1 and done.error_line.startswith("--text: character 'Ж'")
    # What the target side does not know can be forced, but not be hoped for.
    words = ("--model", model, "--max-length", 3, "--text", "be c")
    assert seqkit("translate", *words, "--prefix-text", "Zyx").out.startswith("Zyx")
    done = seqkit("translate", *words, "--constraint-text", "Zyx")
    assert done.code == 1
    assert "the constraint 'Zyx' cannot be met: it is not made of what is in the model's target vocabulary" in (
        done.error_line
    )


IMPOSSIBLE: list[tuple[list[object], str]] = [
    (["--constraint-text", "DDDD", "--max-length", 3], "the constraints cannot be met: they need 4 tokens"),
    (["--constraint-text", "DED", "--no-repeat-ngram", 1], "the constraints cannot be met: number 1 repeats 1 tokens"),
    (["--prefix-text", "DDDD", "--max-length", 3], "the prefix has 4 tokens, more than the longest output of 3"),
]


@pytest.mark.parametrize(("words", "message"), IMPOSSIBLE, ids=["length", "ngram", "prefix"])
def test_what_cannot_be_had_is_one_line(
    seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path, words: list[object], message: str
) -> None:
    done = seqkit("translate", "--model", tiny_pairs.run, *words, "--text", "be c")
    assert (done.code, done.out) == (1, "") and done.error_line.startswith(f"--text: {message}")
    option, text, *limits = words
    beside = write_lines(tmp_path / "beside", "", str(text), "")
    by_line = [str(option).removesuffix("-text"), beside, *limits]
    done = seqkit("translate", "--model", tiny_pairs.run, *by_line, stdin=b"be c\nbe c\nbe c\n")
    assert done.code == 1 and done.out.count("\n") == 1
    assert done.error_line.startswith(f"<stdin>:2: {message}")


def test_what_has_no_line_end_must_not_fill_the_memory(
    seqkit: InProcess, tiny_pairs: TinyPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqkit.cli.line_filter.MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr("seqkit.cli.line_filter.BLOCK_BYTES", 1 << 16)
    done = seqkit("translate", "--model", tiny_pairs.run, stdin=b"be c\n" + b"a" * (3 << 20))
    assert done.code == 1 and "<stdin>:2: more than 1,048,576 bytes without a line end" in done.error_line


# Models.


def translate_with(seqkit: InProcess, model: Path, *words: object) -> Done:
    return seqkit("translate", "--model", model, *words, stdin=b"be c\n")


def test_a_model_of_another_task(seqkit: InProcess, tiny: Tiny, tiny_pairs: TinyPairs) -> None:
    done = translate_with(seqkit, tiny.run)
    assert done.code == 2 and done.out == "" and "lm" in done.error_line and "seq2seq" in done.error_line
    done = translate_with(seqkit, tiny_pairs.run, "--ensemble", tiny.run)
    assert done.code == 2 and str(tiny.run) in done.error_line and "seq2seq" in done.error_line


def test_no_model(seqkit: InProcess, tmp_path: Path) -> None:
    done = seqkit("translate", stdin=b"be c\n")
    assert done.code == 2 and "no model found: no finished run of the task seq2seq" in done.error_line
    done = translate_with(seqkit, tmp_path / "nothing")
    assert done.code == 2 and "no such folder" in done.error_line


def test_models_with_other_tokens_do_not_go_together(
    seqkit: InProcess, tiny_pairs: TinyPairs, other_alphabet: TinyPairs
) -> None:
    done = translate_with(seqkit, tiny_pairs.run, "--ensemble", other_alphabet.run)
    assert done.code == 2 and done.error_line.startswith(f"{other_alphabet.run}: its source vocabulary (")
    assert f"is not that of {tiny_pairs.run} (" in done.error_line


def damaged(model: Path, folder: Path) -> Path:
    """A copy of a run's best checkpoint, to be damaged."""
    copy = folder / "copy"
    shutil.copytree((model / "best").resolve(), copy)
    return copy


def test_a_damaged_model(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    model = damaged(tiny_pairs.run, tmp_path)
    (model / "tokenizer.src.json").unlink()
    done = translate_with(seqkit, model)
    assert done.code == 1 and "tokenizer.src.json" in done.error_line


@pytest.mark.parametrize("words", [(), ("--beam", 1), ("--sample", "--seed", 1)], ids=["beam", "greedy", "sample"])
def test_weights_that_are_no_numbers(
    seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path, words: tuple[object, ...]
) -> None:
    good = read_checkpoint(tiny_pairs.run, train_state=False)
    weights = {name: torch.full_like(tensor, torch.nan) for name, tensor in good.weights.items()}
    parts = {"tokenizers": good.tokenizers, "recipe": good.recipe, "facts": good.facts}
    model = write_checkpoint(tmp_path, 1, weights=weights, **parts)  # type: ignore[arg-type]
    done = translate_with(seqkit, model, *words)
    assert (done.code, done.out) == (1, "")
    assert "the model's scores are not numbers" in done.error_line


def test_a_full_disk_is_one_line(tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.src", "be c")
    words = ("translate", "-q", "--model", tiny_pairs.run, source)
    done = fork_server.start(*words, folder=tmp_path, stdout=Path("/dev/full")).wait()
    assert done.code == 1 and "no space left" in done.error_line
