"""Streams, rows S1 to S9 of the command-line contract: what comes in on stdin and what goes out on stdout."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from commandline import REAL, ForkServer, InProcess, Tiny, clean_environment, wait_until

from seqkit.cli import streams
from seqkit.errors import UsageError


def test_s1_stdout_holds_results_only(tiny: Tiny, seqkit: InProcess) -> None:
    trained = seqkit("train", tiny.recipe, "--set", "train.max_steps=2")
    assert trained.out.count("\n") == 1 and Path(trained.out.rstrip("\n")).is_dir()
    assert "valid" in trained.err
    sampled = seqkit("sample", "--prompt", "the", "--length", 4)
    assert sampled.code == 0 and sampled.out.startswith("the") and "model " in sampled.err
    scored = seqkit("evaluate")
    assert scored.out.split()[0] == "loss" and "model " not in scored.out
    wrong = seqkit("evaluate", "nothing.txt")
    assert wrong.out == "" and wrong.code == 2


def test_s2_a_dash_or_nothing_is_stdin(tiny: Tiny, seqkit: InProcess) -> None:
    text = tiny.text.read_bytes()
    from_file = seqkit("evaluate", "--model", tiny.run, tiny.text)
    from_stdin = seqkit("evaluate", "--model", tiny.run, "-", stdin=text)
    assert from_file.code == 0 and from_file.out == from_stdin.out
    per_line = seqkit("evaluate", "--model", tiny.run, "--per-line", stdin=text)
    assert per_line.out.count("\n") == 60
    assert per_line.out == seqkit("evaluate", "--model", tiny.run, "--per-line", "-", stdin=text).out
    assert per_line.out == seqkit("evaluate", "--model", tiny.run, "--per-line", tiny.text).out
    both = seqkit("evaluate", "--model", tiny.run, "--per-line", tiny.text, "-", stdin=b"one more\n")
    assert both.out.startswith(per_line.out) and both.out.count("\n") == 61
    prompted = seqkit("sample", "--model", tiny.run, "--prompt-file", "-", stdin=b"the cat\nsat")
    assert prompted.out.startswith("the cat\nsat")


@pytest.mark.parametrize("extra", [(), ("--per-line",)])
def test_s2_a_second_dash_is_refused(tiny: Tiny, seqkit: InProcess, extra: tuple[str, ...]) -> None:
    done = seqkit("evaluate", "--model", tiny.run, "-", "-", *extra, stdin=b"the\n")
    assert done.code == 2 and done.out == ""
    assert "stdin" in done.error_line


def test_s3_a_terminal_is_not_waited_on(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    with Path(os.ttyname(terminal)).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UsageError, match="no input"), streams.open_input(None):
            pass
        assert not streams.stdin_is_piped()
    os.close(main)


def test_s4_lines_out_are_lines_in(tiny: Tiny, seqkit: InProcess) -> None:
    lines = [
        "the cat",
        "",
        "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
        "tabs\tand\rreturns\r",
        "",
        "snow \u2603 man",
        "x" * 700,
    ]
    for end in ("\n", ""):
        stdin = ("\n".join(lines) + end).encode()
        done = seqkit("evaluate", "--model", tiny.run, "--per-line", "--batch-size", 3, stdin=stdin)
        assert done.code == 0
        rows = done.out.split("\n")
        assert len(rows) == len(lines) + 1 and rows[-1] == ""
        assert [bool(row) for row in rows[:-1]] == [bool(line) for line in lines]
        told = seqkit("evaluate", "--model", tiny.run, "--per-line", "--json", stdin=stdin)
        objects = [json.loads(row) for row in told.out.removesuffix("\n").split("\n")]
        assert [one["input"] for one in objects] == lines
        assert all({"input", "output", "score"} <= one.keys() for one in objects)
        for row, one in zip(rows, objects, strict=False):
            if row:
                score, num_tokens = row.split("\t")
                assert float(score) == pytest.approx(one["score"], rel=1e-6) and int(num_tokens) == one["num_tokens"]


def test_s4_no_line_gives_no_line(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("evaluate", "--model", tiny.run, "--per-line", stdin=b"")
    assert (done.code, done.out) == (0, "")
    assert seqkit("evaluate", "--model", tiny.run, "--per-line", stdin=b"\n\n\n").out == "\n\n\n"


def test_s4_neighbours_change_no_score(tiny: Tiny, seqkit: InProcess) -> None:
    stdin = tiny.text.read_bytes()
    alone = seqkit("evaluate", "--model", tiny.run, "--per-line", "--batch-size", 1, stdin=stdin)
    together = seqkit("evaluate", "--model", tiny.run, "--per-line", "--batch-size", 7, stdin=stdin)
    for one, other in zip(alone.out.split(), together.out.split(), strict=True):
        assert float(one) == pytest.approx(float(other), abs=2e-4)


def test_s5_each_line_is_answered_before_the_next(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ("evaluate", "--model", tiny.run, "--per-line", "--batch-size", 1)
    process = fork_server.start(*words, folder=tmp_path, stdin=fifo)
    with fifo.open("wb", buffering=0) as feed:
        for number in range(1, 4):
            feed.write(b"the cat\n")
            wait_until(lambda n=number: process.out.count("\n") == n, "an answer")
    assert process.wait().code == 0


def test_s5_endless_input_takes_flat_memory(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = fork_server.start("evaluate", "--model", tiny.run, "--per-line", folder=tmp_path, stdin=fifo)
    sizes = []
    with fifo.open("wb", buffering=0) as feed:
        for round_number in range(1, 5):
            feed.write(b"the cat sat\n" * 3200)
            wait_until(lambda n=round_number: process.out.count("\n") >= 3200 * n, "the answers")
            status = Path(f"/proc/{process.pid}/status").read_text()
            sizes.append(int(next(line for line in status.split("\n") if line.startswith("VmRSS")).split()[1]))
    assert process.wait().code == 0
    assert sizes[-1] - sizes[0] < 8_000, f"resident kB after each 3,200 lines: {sizes}"


@pytest.mark.parametrize("words", [("--per-line",), ("-",), ("bad.txt",), ("--per-line", "bad.txt")])
def test_s6_bad_bytes_name_the_line(tiny: Tiny, seqkit: InProcess, words: tuple[str, ...]) -> None:
    Path("bad.txt").write_bytes(b"the\ncat\nsa\xfft\n")
    stdin = None if "bad.txt" in words else Path("bad.txt").read_bytes()
    done = seqkit("evaluate", "--model", tiny.run, *words, stdin=stdin)
    assert done.code == 1
    name = "<stdin>" if stdin else "bad.txt"
    assert done.error_line.startswith(f"{name}:3: not UTF-8: byte 0xff")


def test_s6_bad_bytes_in_prompts_and_recipes(tiny: Tiny, seqkit: InProcess) -> None:
    for words in (("sample", "--model", tiny.run), ("sample", "--model", tiny.run, "--prompt-file", "-")):
        done = seqkit(*words, stdin=b"the\n\xe9t\xe9\n")
        assert done.code == 1 and done.error_line.startswith("<stdin>:2: not UTF-8")
    done = seqkit("sample", "--model", tiny.run, "--prompt", os.fsdecode(b"\xe9t\xe9"))
    assert done.code == 2 and "--prompt is not UTF-8" in done.error_line
    done = seqkit("train", "-", stdin=b"task: lm\nseed: \xff\n")
    assert done.code == 2 and done.error_line.startswith("<stdin>:2")


def test_s7_a_reader_that_leaves_is_no_error(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.write_bytes(b"the cat\n" * 2000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ("evaluate", "--model", tiny.run, "--per-line", "--batch-size", 4)
    process = fork_server.start(*words, folder=tmp_path, stdin=source, stdout=fifo)
    with fifo.open("rb") as reader:
        assert b"\t" in reader.readline()
    done = process.wait()
    assert (done.code, done.err) == (141, "")


@pytest.mark.parametrize("words", [["recipe", "schema"], ["--help"], ["--version"], ["recipe"]])
def test_s7_for_a_real_process(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*REAL, *words], stdout=writer, stderr=subprocess.PIPE, env=clean_environment(), check=False)
    os.close(writer)
    if words == ["recipe"]:  # its help goes to stderr, and stdout is not touched
        assert done.returncode == 2
    else:
        assert (done.returncode, done.stderr) == (141, b"")


def test_s8_a_failure_leaves_the_old_file(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("old\n")
    assert seqkit("recipe", "resolve", tiny.recipe, "--set", "model.d_model=-1", "-o", old).code == 2
    with pytest.raises(RuntimeError), streams.open_output(str(old)) as file:
        file.write("half of the new")
        raise RuntimeError
    assert old.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.yaml"]
    assert seqkit("recipe", "resolve", tiny.recipe, "-o", old).code == 0
    assert old.read_text().startswith("task: lm\n")


def test_s9_reports_are_one_object_with_full_precision(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("evaluate", "--model", tiny.run, "--json")
    assert done.out.count("\n") == 1
    facts = json.loads(done.out)
    keys = {"loss", "perplexity", "bits_per_char", "bits_per_byte", "num_tokens", "unit", "protocol", "data", "model"}
    assert keys <= facts.keys()
    assert facts["perplexity"] == pytest.approx(math.exp(facts["loss"]), rel=1e-12)
    assert len(repr(facts["loss"])) > 12
    env = json.loads(seqkit("env", "--json").out)
    assert {"seqkit", "python", "torch"} <= env.keys()


def test_s9_sample_prints_one_object_a_sample(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("sample", "--model", tiny.run, "--json", "--num-samples", 2, stdin=b"the\n\ncat \xe2\x80\xa8\n")
    objects = [json.loads(line) for line in done.out.removesuffix("\n").split("\n")]
    assert [one["input"] for one in objects] == ["the", "the", "", "", "cat \u2028", "cat \u2028"]
    for one in objects:
        assert len(one["tokens"]) == len(one["log_probs"]) == 6
        assert one["score"] == pytest.approx(math.fsum(one["log_probs"])) and one["score"] < 0
        assert isinstance(one["output"], str) and one["stopped"] is False and isinstance(one["seed"], int)


def test_a_closed_stdout_is_told_before_any_work() -> None:
    words = " ".join([*REAL, "runs", "ls"])
    done = subprocess.run(["sh", "-c", f"{words} >&-"], capture_output=True, env=clean_environment(), check=False)
    assert done.returncode == 2 and b"stdout is closed" in done.stderr and b"Traceback" not in done.stderr


def test_a_full_stdout_is_one_line(seqkit: InProcess, fork_server: ForkServer, tmp_path: Path) -> None:
    done = fork_server.start("recipe", "schema", folder=tmp_path, stdout=Path("/dev/full")).wait()
    assert done.code == 1 and "no space left" in done.error_line
