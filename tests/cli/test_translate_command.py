"""``seqkit translate``: the line contract, what is asked of translations, formats, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, ForkServer, InProcess, wait_until
from tiny_pairs import TinyPairs, train_tiny_pairs


class Translate:
    """Runs ``seqkit translate`` with the tiny model."""

    def __init__(self, seqkit: InProcess, model: Path) -> None:
        self._seqkit = seqkit
        self._model = model

    def __call__(self, *words: object, lines: list[str] | None = None, stdin: bytes | None = None) -> Done:
        if lines is not None:
            stdin = "".join(f"{line}\n" for line in lines).encode()
        return self._seqkit("translate", "--model", self._model, *words, stdin=stdin)

    def lines(self, *words: object, lines: list[str]) -> list[str]:
        """Output lines of a run that succeeds."""
        done = self(*words, lines=lines)
        assert done.code == 0, done.err
        assert done.out.endswith("\n") or not done.out
        return done.out.removesuffix("\n").split("\n") if done.out else []

    def objects(self, *words: object, lines: list[str]) -> list[dict[str, Any]]:
        """The objects of a run with ``--json``."""
        return [json.loads(line) for line in self.lines("--json", *words, lines=lines)]


@pytest.fixture
def translate(seqkit: InProcess, tiny_pairs: TinyPairs) -> Translate:
    return Translate(seqkit, tiny_pairs.run)


@pytest.fixture(scope="module")
def learned(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    """A model that knows twelve positions."""
    folder = tmp_path_factory.mktemp("learned")
    settings = ["model.positions=learned", "model.max_positions=12", "data.max_length=10", "train.max_steps=60"]
    return train_tiny_pairs(fork_server, folder, *settings, "seed=4")


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


# The line contract.


def test_it_translates(translate: Translate, tiny_pairs: TinyPairs) -> None:
    found = translate.lines(lines=tiny_pairs.lines)
    right = sum(one == other for one, other in zip(found, tiny_pairs.references, strict=True))
    # A model of 120 steps is no good one; but one that looked at other lines would get none.
    assert right >= len(found) // 3
    assert found[tiny_pairs.lines.index("be c")] == "BE C"


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("words", [(), ("--batch-size", 2), ("--deterministic",), ("--beam", 1)])
def test_lines_out_are_lines_in(translate: Translate, end: str, words: tuple[object, ...]) -> None:
    lines = [
        "abc",
        "",
        "a\u2028b\u2029c\x85d",
        "   ",
        "tab\tand\rreturn\r",
        "\x00\x01\x7f\x1b[2J",
        "",
        "Ж" * 7,
        "be c",
        "",
    ]
    done = translate(*words, stdin=("\n".join(lines) + end).encode())
    assert done.code == 0, done.err
    # Ten lines of which the last is blank: without its end there is no tenth line.
    rows = done.out.split("\n")
    assert len(rows) == len(lines) + bool(end)
    for line, row in zip(lines, rows, strict=False):
        assert bool(row) == bool(line.strip()), line
    assert rows[lines.index("be c")] == "BE C"


def test_a_last_line_without_an_end_gets_none(translate: Translate) -> None:
    assert translate(stdin=b"be c\nbe c").out == "BE C\nBE C"
    assert translate("--json", stdin=b"be c").out.endswith("}\n")
    assert translate(stdin=b"").out == ""
    assert translate(stdin=b"\n\n\n").out == "\n\n\n"


def test_input_and_output_files(translate: Translate, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.src", "be c", "", "ae cd")
    from_stdin = translate(stdin=source.read_bytes())
    assert translate(source).out == translate("-", stdin=source.read_bytes()).out == from_stdin.out
    for words in ((source,), ("--text", "be c")):
        done = translate(*words, "-o", tmp_path / "x.hyp")
        assert (done.code, done.out) == (0, "")
        assert (tmp_path / "x.hyp").read_text() == (from_stdin.out if words == (source,) else "BE C\n")


def test_text_is_one_line(translate: Translate) -> None:
    assert translate("--text", "be c").out == "BE C\n"
    assert translate("--text", "").out == "\n"
    assert json.loads(translate("--text", "be c", "--json").out)["output"] == "BE C"


def test_three_thousand_lines_keep_their_order(translate: Translate, tiny_pairs: TinyPairs) -> None:
    distinct = [*tiny_pairs.lines, "", "a" * 23, "d d d d d"]
    words = ("--beam", 1, "--max-length", 8)
    expected = dict(zip(distinct, translate.lines(*words, lines=distinct), strict=True))
    lines = [distinct[(7 * n * n + n) % len(distinct)] for n in range(3000)]
    assert translate.lines(*words, lines=lines) == [expected[line] for line in lines]


@pytest.mark.parametrize("words", [(), ("--deterministic",), ("--sample", "--seed", 5)])
def test_threads_change_no_translation(translate: Translate, tiny_pairs: TinyPairs, words: tuple[object, ...]) -> None:
    # Small batches, so that there are several to share out.
    budget = () if "--deterministic" in words else ("--batch-tokens", 20)
    found = [translate.objects(*words, *budget, "--threads", n, lines=tiny_pairs.lines) for n in (1, 2)]
    for one, other in zip(*found, strict=True):
        assert one["output"] == other["output"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("num_words", "told"),
    [
        (128, "384 tokens, more than the 24 of the longest training sentence; translated whole"),
        (129, "387 tokens, more than the 24 of the longest training sentence; translated in 17 parts"),
        (1667, "5,001 tokens, more than the 24 of the longest training sentence; translated in 209 parts"),
    ],
)
def test_a_line_far_longer_than_training_saw(translate: Translate, num_words: int, told: str) -> None:
    done = translate("--beam", 1, "--max-length", 9, lines=["be c", "ab " * num_words, "be c"])
    assert done.code == 0
    first, huge, last = done.out.removesuffix("\n").split("\n")
    # At most nine tokens of each part, and a blank between two.
    assert first == last == "BE C" and 0 < len(huge) <= (9 if "whole" in told else 10 * num_words)
    assert done.err.count("warning") == 1 and f"<stdin>:2: {told}" in done.err


def test_the_first_output_comes_before_the_input_ends(
    tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = fork_server.start("translate", "--model", tiny_pairs.run, folder=tmp_path, stdin=fifo)
    with fifo.open("wb", buffering=0) as feed:
        for number in range(1, 4):
            feed.write(b"be c\n")
            wait_until(lambda n=number: process.out == "BE C\n" * n, "an answer")
    assert process.wait().code == 0


def test_an_answer_does_not_wait_for_the_rest_of_the_next_line(
    tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ("translate", "--model", tiny_pairs.run, "--batch-size", 2, "--threads", 2)
    process = fork_server.start(*words, folder=tmp_path, stdin=fifo)
    with fifo.open("wb", buffering=0) as feed:
        feed.write(b"be c\nae cd\nbe c\nbe")
        wait_until(lambda: process.out.count("\n") == 3, "all whole lines")
        feed.write(b" c\n\xff\nbe c\n")
        wait_until(lambda: process.out.count("\n") == 4, "the line before the bad one")
    done = process.wait()
    assert done.code == 1 and done.error_line.startswith("<stdin>:5: not UTF-8")
    assert done.out.split("\n")[2:] == ["BE C", "BE C", ""]


def test_memory_stays_flat(tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ("translate", "--model", tiny_pairs.run, "--beam", 1, "--max-length", 6)
    process = fork_server.start(*words, folder=tmp_path, stdin=fifo)
    sizes = []
    with fifo.open("wb", buffering=0) as feed:
        for round_number in range(1, 5):
            feed.write(b"be c\nae cd\n\n" * 300)
            wait_until(lambda n=round_number: process.out.count("\n") >= 900 * n, "the answers")
            status = Path(f"/proc/{process.pid}/status").read_text()
            sizes.append(int(next(line for line in status.split("\n") if line.startswith("VmRSS")).split()[1]))
    assert process.wait().code == 0
    assert sizes[-1] - sizes[0] < 8_000, f"resident kB after each 900 lines: {sizes}"


def test_a_reader_that_leaves_is_no_error(tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "many", *["be c"] * 2000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ("translate", "-q", "--model", tiny_pairs.run, "--batch-size", 4)
    process = fork_server.start(*words, folder=tmp_path, stdin=source, stdout=fifo)
    with fifo.open("rb") as reader:
        assert reader.readline() == b"BE C\n"
    assert (process.wait().code, process.err) == (141, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_old_output(
    tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path, number: signal.Signals
) -> None:
    fifo, output = tmp_path / "fifo", write_lines(tmp_path / "x.hyp", "old")
    os.mkfifo(fifo)
    words = ("translate", "--model", tiny_pairs.run, "-o", output)
    process = fork_server.start(*words, folder=tmp_path, stdin=fifo)
    with fifo.open("wb", buffering=0) as feed:
        feed.write(b"be c\n")
        wait_until(lambda: len(list(tmp_path.glob("*x.hyp*"))) == 2, "the temporary neighbour")
        process.send(number)
        done = process.wait()
    assert done.code == 128 + number
    assert done.error_line == f"stopped by {number.name}"
    assert output.read_text() == "old\n" and len(list(tmp_path.glob("*x.hyp*"))) == 1


def test_a_terminal_is_not_waited_on(tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path) -> None:
    main, side = os.openpty()
    terminal = Path(os.ttyname(side))
    done = fork_server.start("translate", "--model", tiny_pairs.run, folder=tmp_path, stdin=terminal).wait()
    os.close(main)
    os.close(side)
    assert done.code == 2 and "no input" in done.error_line and "--interactive" in done.err


# Scores and formats.


def test_json_tells_everything(translate: Translate) -> None:
    objects = translate.objects("--n-best", 3, lines=["be c", "", "ae cd"])
    assert [one["input"] for one in objects] == ["be c", "", "ae cd"]
    for one in objects:
        assert list(one)[:3] == ["input", "output", "score"]
        best = one["hypotheses"][0]
        assert (best["output"], best["score"]) == (one["output"], one["score"])
        scores = [hypothesis["score"] for hypothesis in one["hypotheses"]]
        assert scores == sorted(scores, reverse=True)
    assert len(objects[0]["hypotheses"]) == 3 and len({one["output"] for one in objects[0]["hypotheses"]}) == 3
    assert objects[1]["output"] == "" and objects[1]["score"] == 0.0
    first = objects[0]["hypotheses"][0]
    assert first["is_finished"] is True and first["num_tokens"] == 4 and first["log_prob"] < 0
    # Wu et al. 2016's penalty with alpha 1 over four tokens and the end.
    assert first["score"] == pytest.approx(first["log_prob"] / ((5 + 5) / 6))
    assert len(repr(first["score"])) > 10


def test_scores_are_those_of_forced_scoring(translate: Translate, seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    lines = tiny_pairs.lines[:12]
    found = translate("--scores", "--length-penalty", "none", lines=lines)
    rows = [row.split("\t") for row in found.out.removesuffix("\n").split("\n")]
    src, tgt = write_lines(Path("x.src"), *lines), write_lines(Path("x.tgt"), *(text for _, text in rows))
    scored = seqkit("evaluate", "--model", tiny_pairs.run, "--per-line", src, tgt)
    for (score, text), line in zip(rows, scored.out.removesuffix("\n").split("\n"), strict=True):
        log_prob, num_tokens = line.split("\t")
        assert float(score) == pytest.approx(float(log_prob), abs=2e-5)
        assert int(num_tokens) == len(text) + 1


def test_scores_of_a_blank_line_are_none(translate: Translate) -> None:
    found = translate.lines("--scores", "--alignments", "hard", lines=["", "be c"])
    assert found[0] == "" and re.fullmatch(r"-\d\.\d{6}\tBE C\t\d-0 \d-1 \d-2 \d-3", found[1])


def test_a_narrower_search_finds_nothing_better(translate: Translate, tiny_pairs: TinyPairs) -> None:
    words = ("--length-penalty", "none", "--json")
    greedy, wide = (translate.objects("--beam", beam, *words, lines=tiny_pairs.lines) for beam in (1, 8))
    better = [one["score"] - other["score"] for one, other in zip(wide, greedy, strict=True)]
    assert min(better) > -1e-5 and max(better) > 0.1


def test_lengths_are_kept_to(translate: Translate) -> None:
    lines = ["be c", "a", "eee ddd"]
    assert all(len(text) >= 9 for text in translate.lines("--min-length", 9, "--max-length", 30, lines=lines))
    assert all(len(text) <= 2 for text in translate.lines("--max-length", 2, lines=lines))
    # Ten tokens more than the ratio gives.
    by_ratio = translate.lines("--max-length-ratio", 0.1, "--min-length", 40, lines=lines)
    assert [len(text) for text in by_ratio] == [10, 10, 10]
    for text in translate.lines("--no-repeat-ngram", 1, "--max-length", 30, lines=lines):
        assert len(set(text)) == len(text)


def test_alignments(translate: Translate) -> None:
    (soft,) = translate.objects("--alignments", "soft", lines=["be c"])
    (best,) = soft["hypotheses"]
    assert soft["source_tokens"] == ["b", "e", " ", "c", "</s>"] and best["target_tokens"] == ["B", "E", " ", "C"]
    assert [len(row) for row in best["alignment"]] == [5] * 4
    assert [sum(row) for row in best["alignment"]] == pytest.approx([1.0] * 4, abs=1e-5)
    assert all(weight >= 0 for row in best["alignment"] for weight in row)
    (hard,) = translate.objects("--alignments", "hard", lines=["be c"])
    positions = hard["hypotheses"][0]["alignment"]
    assert positions == [row.index(max(row[:4])) for row in best["alignment"]]
    assert hard["source_tokens"] == ["b", "e", " ", "c"]
    pairs = " ".join(f"{source}-{target}" for target, source in enumerate(positions))
    assert translate.lines("--alignments", "hard", lines=["be c"]) == [f"BE C\t{pairs}"]


def test_attention_does_not_see_padding(translate: Translate) -> None:
    lines = ["be c", "eee ddd ccc", "a"]
    together = translate.objects("--alignments", "soft", lines=lines)
    for line, one in zip(lines, together, strict=True):
        (alone,) = translate.objects("--alignments", "soft", lines=[line])
        rows, expected = one["hypotheses"][0]["alignment"], alone["hypotheses"][0]["alignment"]
        assert [len(row) for row in rows] == [len(line) + 1] * len(one["output"])
        for row, other in zip(rows, expected, strict=True):
            assert row == pytest.approx(other, abs=1e-5)


# Prefixes and constraints.


def test_prefixes_by_line(translate: Translate, tmp_path: Path) -> None:
    lines = ["be c", "be c", "", "ae cd", "be c"]
    prefixes = write_lines(tmp_path / "prefixes", "D", "", "", "EEE ", "Ж")
    found = translate.lines("--prefix", prefixes, lines=lines)
    plain = translate.lines(lines=lines)
    for number, prefix in enumerate(prefixes.read_text().split("\n")[:-1]):
        assert found[number].startswith(prefix)
    assert (found[1], found[2]) == (plain[1], "")
    assert found == translate.lines("--prefix", prefixes, "--batch-size", 2, lines=lines)
    assert found == translate.lines("--prefix", prefixes, "--deterministic", lines=lines)


def test_a_prefix_for_all_lines(translate: Translate) -> None:
    found = translate.lines("--prefix-text", "DD", lines=["be c", "ae cd"])
    assert all(text.startswith("DD") for text in found)
    assert translate("--text", "be c", "--prefix-text", "DD").out == found[0] + "\n"


def test_a_forced_prefix_counts_in_the_score(translate: Translate) -> None:
    (free,) = translate.objects("--length-penalty", "none", lines=["be c"])
    (forced,) = translate.objects("--length-penalty", "none", "--prefix-text", "BE", lines=["be c"])
    assert forced["output"] == free["output"] == "BE C"
    assert forced["score"] == pytest.approx(free["score"], abs=1e-5)


def test_constraints_by_line(translate: Translate, tmp_path: Path) -> None:
    lines = ["be c", "be c", "ae cd", "ae cd", ""]
    constraints = write_lines(tmp_path / "terms", "DD\tA", "", " EB ", "\tC\tC\t", "")
    done = translate("--json", "--constraint", constraints, lines=lines)
    objects = [json.loads(line) for line in done.out.split("\n")[:-1]]
    found = [one["output"] for one in objects]
    assert "DD" in found[0] and "A" in found[0] and "EB" in found[2] and found[3].count("C") >= 2
    assert found[1] == translate.lines(lines=["be c"])[0] and found[4] == ""
    assert [one["hypotheses"][0].get("meets_constraints") for one in objects] == [True, None, True, True, None]
    assert "warning" not in done.err
    for words in (("--batch-size", 1), ("--deterministic",), ("--beam", 1)):
        more = translate.lines("--constraint", constraints, *words, lines=lines)
        assert "DD" in more[0] and "A" in more[0] and more[3].count("C") >= 2
        assert words == ("--beam", 1) or more == found


def test_constraints_for_all_lines(translate: Translate) -> None:
    words = ("--constraint-text", "DD", "--constraint-text", "A\tCC")
    for text in translate.lines(*words, lines=["be c", "ae cd"]):
        assert "DD" in text and "A" in text and "CC" in text
    assert "DD" in translate("--text", "be c", *words).out


def test_a_constraint_that_was_not_met_is_told(translate: Translate) -> None:
    # Each could be had, but not both where no letter may come twice; only search finds that out.
    words = ("--constraint-text", "AB", "--constraint-text", "BA", "--no-repeat-ngram", 1, "--json")
    done = translate(*words, lines=["", "be c"])
    assert done.code == 0
    blank, told = (json.loads(line) for line in done.out.split("\n")[:-1])
    assert blank["hypotheses"][0]["meets_constraints"] is told["hypotheses"][0]["meets_constraints"] is False
    assert done.err.split("\n")[:-1] == [
        "seqkit: warning: <stdin>:1: the line is blank, so nothing is made of its prefix or constraints",
        "seqkit: warning: <stdin>:2: the translation does not contain all that it must",
    ]


def test_a_prefix_and_constraints_of_a_short_line_get_room(translate: Translate) -> None:
    found = translate.lines("--prefix-text", "ABCDE ABCDE ABCDE ABCDE", "--constraint-text", "EDCBA", lines=["a"])
    assert found[0].startswith("ABCDE ABCDE ABCDE ABCDE") and "EDCBA" in found[0]


# Sampling.


def test_samples_repeat_by_seed_and_do_not_depend_on_their_batch(translate: Translate, tiny_pairs: TinyPairs) -> None:
    lines = tiny_pairs.lines[:20]
    words = ("--sample", "--temperature", 1.5, "--seed", 5)
    found = translate.lines(*words, lines=lines)
    assert found == translate.lines(*words, lines=lines)
    assert found == translate.lines(*words, "--batch-size", 3, lines=lines)
    assert found == translate.lines(*words, "--batch-tokens", 30, lines=lines)
    assert found == translate.lines(*words, "--deterministic", lines=lines)
    assert found != translate.lines("--sample", "--temperature", 1.5, "--seed", 6, lines=lines)
    # The same line has draws of its own in each place.
    assert len(set(translate.lines(*words, lines=["be c"] * 20))) > 5


def test_every_line_of_hot_samples_stays_one_line(translate: Translate) -> None:
    # A model that draws evenly would write a line end soon, if it might.
    done = translate("--sample", "--temperature", 100, "--seed", 1, lines=["be c"] * 60)
    assert done.code == 0 and done.out.count("\n") == 60


def test_cold_samples_are_greedy(translate: Translate, tiny_pairs: TinyPairs) -> None:
    greedy = translate.lines("--beam", 1, lines=tiny_pairs.lines)
    assert translate.lines("--sample", "--temperature", 0, lines=tiny_pairs.lines) == greedy
    assert translate.lines("--sample", "--top-k", 1, lines=tiny_pairs.lines) == greedy
    assert translate.lines("--sample", "--top-p", 0.001, lines=tiny_pairs.lines) == greedy
    assert translate.lines("--sample", "--min-p", 1, lines=tiny_pairs.lines) == greedy


def test_a_sample_tells_its_seed(translate: Translate) -> None:
    (drawn,) = translate.objects("--sample", lines=["be c"])
    (again,) = translate.objects("--sample", "--seed", drawn["seed"], lines=["be c"])
    assert again == drawn and drawn["score"] == drawn["hypotheses"][0]["log_prob"]
    told = translate("--sample", "--seed", 9, "-v", lines=["be c"])
    assert "seed 9" in told.err


def test_prefixes_and_limits_hold_for_samples(translate: Translate) -> None:
    words = ("--sample", "--seed", 1, "--prefix-text", "DEC", "--min-length", 6, "--max-length", 8)
    for text in translate.lines(*words, lines=["be c"] * 8):
        assert text.startswith("DEC") and 6 <= len(text) <= 8


# Several models.


def test_an_ensemble_of_a_model_with_itself_is_the_model(translate: Translate, tiny_pairs: TinyPairs) -> None:
    plain = translate.objects(lines=tiny_pairs.lines)
    twice = translate.objects("--ensemble", tiny_pairs.run, lines=tiny_pairs.lines)
    for one, other in zip(plain, twice, strict=True):
        assert one["output"] == other["output"] and one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_an_ensemble_differs_from_its_models(translate: Translate, tiny_pairs: TinyPairs, learned: TinyPairs) -> None:
    lines = [line for line in tiny_pairs.lines if len(line) < 8]
    one = translate.objects("--length-penalty", "none", "--beam", 1, lines=lines)
    both = translate.objects(
        "--length-penalty", "none", "--beam", 1, "--ensemble", learned.run, "--alignments", "soft", lines=lines
    )
    assert [facts["score"] for facts in one] != [facts["score"] for facts in both]
    # The positions that all of them know are the limit.
    refused = translate("--ensemble", learned.run, "--max-length", 13, lines=["a"])
    assert refused.code == 2 and "--max-length 13: the model has 12 positions" in refused.error_line


# Long lines.


def test_long_lines_are_split_where_positions_end(seqkit: InProcess, learned: TinyPairs) -> None:
    translate = Translate(seqkit, learned.run)
    lines = ["be c", "ab cd. eb ac. bbb", "abcde" * 6, "a" * 11]
    done = translate("--json", lines=lines)
    assert done.code == 0, done.err
    objects = [json.loads(line) for line in done.out.split("\n")[:-1]]
    # Ten tokens were the most in training; eleven with the end are possible.
    assert [one.get("num_parts", 1) for one in objects] == [1, 3, 3, 1]
    warnings = [line for line in done.err.split("\n") if "warning" in line]
    assert len(warnings) == 3
    assert "<stdin>:2: 19 tokens, more than the 10 of the longest training sentence; translated in 3 parts" in done.err
    assert "<stdin>:4: 11 tokens, more than the 10 of the longest training sentence; translated whole" in done.err
    parts = [translate.objects(lines=[part])[0] for part in ("ab cd.", "eb ac.", "bbb")]
    assert objects[1]["output"] == " ".join(part["output"] for part in parts)
    assert objects[1]["score"] == pytest.approx(sum(part["score"] for part in parts), abs=1e-5)


def test_splitting_always_and_never(translate: Translate, tiny_pairs: TinyPairs) -> None:
    line = "be c. " * 7
    split = translate("--long", "split", lines=["be c", line, "be c"])
    assert split.code == 0 and split.out.count("\n") == 3
    assert "<stdin>:2: 49 tokens, more than the 24 of the longest training sentence; translated in 3 parts" in split.err
    whole = translate("--long", "translate", lines=["be c", line, "be c"])
    assert "translated whole" in whole.err
    refused = translate("--long", "refuse", lines=["be c", line, "be c"])
    assert (refused.code, refused.out) == (1, "BE C\n")
    assert refused.error_line == "<stdin>:2: 49 tokens, more than the 24 of the longest training sentence"


def test_parts_of_a_line_are_aligned_and_sampled_apart(translate: Translate) -> None:
    line = "be c. ae cd. " * 4
    words = ("--long", "split")
    (soft,) = translate.objects(*words, "--alignments", "soft", lines=[line])
    (best,) = soft["hypotheses"]
    width = len(soft["source_tokens"])
    assert {len(row) for row in best["alignment"]} == {width} and len(best["alignment"]) == len(best["target_tokens"])
    assert [sum(row) for row in best["alignment"]] == pytest.approx([1.0] * len(best["alignment"]), abs=1e-5)
    (hard,) = translate.objects(*words, "--alignments", "hard", lines=[line])
    positions = hard["hypotheses"][0]["alignment"]
    assert positions == [row.index(max(row[:-1])) for row in best["alignment"]]
    assert positions[0] < 24 <= positions[-1] < width - 1
    drawn = translate.lines(*words, "--sample", "--seed", 2, "--temperature", 2, lines=["", line])
    assert (
        drawn[1]
        == translate.lines(*words, "--sample", "--seed", 2, "--temperature", 2, "--deterministic", lines=["", line])[1]
    )


def test_a_prefix_begins_the_first_part_and_constraints_need_a_whole_line(translate: Translate) -> None:
    words = ("--long", "split", "--prefix-text", "DD")
    (text,) = translate.lines(*words, lines=["be c. " * 7])
    assert text.startswith("DD") and text.count("DD") == 1
    refused = translate("--long", "split", "--constraint-text", "DD", lines=["be c", "be c. " * 7])
    assert refused.code == 1 and refused.error_line.startswith("<stdin>:2: 49 tokens")
    assert "constraints are for lines that are translated whole" in refused.error_line


# Determinism.


def test_deterministic_output_does_not_depend_on_neighbours(translate: Translate, tiny_pairs: TinyPairs) -> None:
    lines = [*tiny_pairs.lines[:7], "abcde" * 60, *tiny_pairs.lines[7:12]]
    words = ("--deterministic", "--n-best", 2, "--alignments", "soft", "--max-length", 20)
    together = translate("--json", *words, lines=lines).out.split("\n")[:-1]
    for size in (1, 7):
        assert translate("--json", *words, "--batch-size", size, lines=lines).out.split("\n")[:-1] == together
    backwards = translate("--json", *words, lines=lines[::-1]).out.split("\n")[:-1]
    assert backwards[::-1] == together
    # It matters: side by side the last digits differ.
    beside = translate("--json", *words[1:], lines=lines).out.split("\n")[:-1]
    assert [json.loads(line)["output"] for line in beside] == [json.loads(line)["output"] for line in together]
    assert beside != together


# Options: where they come from, and what does not go together.


def test_options_of_the_model_of_a_recipe_and_of_the_flags(
    translate: Translate, tiny_pairs: TinyPairs, tmp_path: Path
) -> None:
    def options(*words: object) -> dict[str, Any]:
        done = translate("-v", *words, lines=["be c"])
        assert done.code == 0, done.err
        told: dict[str, Any] = json.loads(done.err.partition("options ")[2].split("\n")[0])
        return told

    assert options()["beam"] == 3
    assert options("--beam", 2)["beam"] == 2
    recipe = tmp_path / "other.yaml"
    text = tiny_pairs.recipe.read_text()
    recipe.write_text(text.replace("{beam: 3}", "{beam: 4, alpha: 0.5, max_length: 7}"))
    assert (options("--recipe", recipe)["beam"], options("--recipe", recipe)["alpha"]) == (4, 0.5)
    assert options("--recipe", recipe, "--beam", 2)["beam"] == 2
    assert options("--recipe", recipe, "--max-length-ratio", 3)["max_length"] is None
    assert options("--max-length", 7, "--min-length", 6)["min_length"] == 6
    recipe.write_text(text.replace("{beam: 3}", "{sample: true, seed: 4}"))
    assert options("--recipe", recipe)["sample"] is True
    assert options("--recipe", recipe, "--no-sample", "--beam", 2)["sample"] is False


REFUSED: list[tuple[list[object], str]] = [
    (["--n-best", 2], "--n-best gives several translations a line, which needs --json"),
    (["--n-best", 4, "--json"], "4 best outputs are asked for, more than the beam of 3 holds"),
    (["--beam", 500], "the beam of 500 is larger than the model's vocabulary"),
    (["--scores", "--json"], "leave --scores out"),
    (["--alignments", "soft"], "--alignments soft is a matrix a line, which needs --json"),
    (["--text", "a", "x.txt"], "give a file or --text, not both"),
    (["--text", "a\nb"], "--text takes one line"),
    (["--text", "a", "--batch-size", 2], "--batch-size does nothing with --text"),
    (["--text", "a", "--prefix", "p"], "--prefix does nothing with --text"),
    (["--text", "a", "--constraint", "p"], "--constraint does nothing with --text"),
    (["--prefix", "p", "--prefix-text", "A"], "give --prefix or --prefix-text, not both"),
    (["--constraint", "p", "--constraint-text", "A"], "give --constraint or --constraint-text, not both"),
    (["--prefix-text", "A\nB"], "--prefix-text takes one line"),
    (["--prefix", "-"], "`-` twice: stdin can be read only once"),
    (["--text", os.fsdecode(b"\xe9")], "--text is not UTF-8"),
    (["--temperature", 0.5], "--temperature does nothing without --sample"),
    (["--top-k", 2], "--top-k does nothing without --sample"),
    (["--top-p", 0.5], "--top-p does nothing without --sample"),
    (["--min-p", 0.5], "--min-p does nothing without --sample"),
    (["--seed", 2], "--seed does nothing without --sample"),
    (["--sample", "--beam", 2], "--beam does nothing with --sample"),
    (["--sample", "--length-penalty", "wu"], "--length-penalty does nothing with --sample"),
    (["--sample", "--alpha", 1], "--alpha does nothing with --sample"),
    (["--sample", "--coverage-penalty", 1], "--coverage-penalty does nothing with --sample"),
    (["--sample", "--n-best", 2, "--json"], "--n-best does nothing with --sample"),
    (["--sample", "--constraint-text", "A"], "constraints need beam search"),
    (["--length-penalty", "none", "--alpha", 1], "--alpha does nothing with --length-penalty none"),
    (["--max-length", 5, "--max-length-ratio", 2], "give --max-length or --max-length-ratio, not both"),
    (["--min-length", 5, "--max-length", 5], "min_length 5 needs a max_length above it, since that counts the end"),
    (["--deterministic", "--batch-tokens", 9], "--batch-tokens does nothing with --deterministic"),
    (["--interactive"], "--interactive needs a terminal"),
    (["--interactive", "--text", "a"], "--text does nothing with --interactive"),
    (["--interactive", "x.txt"], "a file does nothing with --interactive"),
    (["--interactive", "-o", "x"], "--output does nothing with --interactive"),
    (["--length-penalty", "wuu"], "did you mean wu?"),
    (["--long", "slit"], "did you mean split?"),
    (["--alignments", "sofd"], "sofd"),
    (["--top-p", 2, "--sample"], "--top-p"),
    (["--max-length-ratio", 0], "--max-length-ratio"),
    (["--bem", 2], "did you mean --beam?"),
    (["nothing.txt"], "nothing.txt: no such file"),
    (["--prefix", "nothing.txt"], "nothing.txt: no such file"),
    (["--ensemble", "nothing"], "--ensemble nothing: no such folder"),
]


@pytest.mark.parametrize(
    ("words", "message"), REFUSED, ids=lambda value: " ".join(map(repr, value)) if isinstance(value, list) else ""
)
def test_what_does_not_go_together_is_refused_by_name(translate: Translate, words: list[object], message: str) -> None:
    done = translate(*words, lines=["be c"])
    assert (done.code, done.out) == (2, "")
    assert message in done.error_line


def test_long_does_nothing_with_a_model_that_takes_any_length(
    seqkit: InProcess, fork_server: ForkServer, tmp_path: Path
) -> None:
    endless = train_tiny_pairs(fork_server, tmp_path, "data.max_length=null", "train.max_steps=1")
    done = Translate(seqkit, endless.run)("--long", "refuse", lines=["be c"])
    assert done.code == 2 and "--long refuse does nothing with this model" in done.error_line
    quiet = Translate(seqkit, endless.run)("-q", "--max-length", 2, lines=["be c " * 99])
    assert (quiet.code, quiet.err) == (0, "")


def test_the_newest_run_is_taken_and_named(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    done = seqkit("translate", "--runs-dir", tiny_pairs.runs, stdin=b"be c\n")
    assert (done.code, done.out) == (0, "BE C\n") and str(tiny_pairs.run) in done.err
    quiet = seqkit("translate", "-q", "--model", tiny_pairs.run / "best", stdin=b"be c\n")
    assert (quiet.code, quiet.out, quiet.err) == (0, "BE C\n", "")


def test_n5_a_checkpoint_needs_nothing_beside_it(seqkit: InProcess, fork_server: ForkServer, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    trained = train_tiny_pairs(fork_server, made, "train.max_steps=20")
    translate, lines = ("translate", "-q", "--model"), b"be c\nae cd\n"
    before = seqkit(*translate, trained.run, stdin=lines).out
    moved = tmp_path / "moved"
    (trained.run / "best").resolve().rename(moved)
    (moved / "train_state.safetensors").unlink()  # of no use to a filter
    shutil.rmtree(made)
    assert seqkit(*translate, moved, stdin=lines) == Done(0, before, "")
    assert seqkit(*translate, moved, "--ensemble", moved, stdin=lines).out == before
    pairs = write_lines(tmp_path / "x.src", "be c"), write_lines(tmp_path / "x.tgt", "BE C")
    assert seqkit("evaluate", "--model", moved, "--per-line", *pairs).out.endswith("\t5\n")


# The prompt for people.


class Terminal:
    """A pseudo-terminal that types and reads."""

    def __init__(self) -> None:
        self._main, self._side = os.openpty()
        self.name = Path(os.ttyname(self._side))
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    @property
    def seen(self) -> str:
        return b"".join(self._pieces).decode(errors="replace").replace("\r", "")

    def close(self) -> None:
        os.close(self._side)
        self._reader.join(10)
        os.close(self._main)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._main, 4096)
            except OSError:
                return
            if not piece:
                return
            self._pieces.append(piece)


@pytest.fixture
def terminal() -> Any:
    made = Terminal()
    yield made
    made.close()


def test_a_prompt_answers_line_by_line(
    tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path, terminal: Terminal
) -> None:
    words = ("translate", "--model", tiny_pairs.run, "--interactive")
    process = fork_server.start(*words, folder=tmp_path, stdin=terminal.name, stdout=terminal.name)
    wait_until(lambda: "translate> " in terminal.seen, "the prompt")
    terminal.type("be c\n")
    wait_until(lambda: "\nBE C\n" in terminal.seen, "the answer")
    wait_until(lambda: terminal.seen.endswith("translate> "), "the prompt")
    terminal.type("\n\x1b[A\n")
    wait_until(lambda: terminal.seen.count("\nBE C\n") == 2, "the answer to the line called back")
    wait_until(lambda: terminal.seen.endswith("translate> "), "the prompt")
    terminal.type("\x04")
    assert process.wait_for_code() == 0
    assert "Traceback" not in process.err + terminal.seen


def test_ctrl_c_at_the_prompt_is_130(
    tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path, terminal: Terminal
) -> None:
    words = ("translate", "--model", tiny_pairs.run, "--interactive")
    process = fork_server.start(*words, folder=tmp_path, stdin=terminal.name, stdout=terminal.name)
    wait_until(lambda: "translate> " in terminal.seen, "the prompt")
    time.sleep(0.05)
    process.send(signal.SIGINT)
    assert process.wait_for_code() == 130
    assert "Traceback" not in process.err


def test_a_prompt_with_stdout_elsewhere_keeps_results_apart(
    tiny_pairs: TinyPairs, fork_server: ForkServer, tmp_path: Path, terminal: Terminal
) -> None:
    words = (
        "translate",
        "-q",
        "--model",
        tiny_pairs.run,
        "--interactive",
        "--constraint-text",
        "DDDD",
        "--max-length",
        2,
    )
    process = fork_server.start(*words, folder=tmp_path, stdin=terminal.name)
    process.wait_for("translate> ")
    terminal.type("be c\n")
    process.wait_for("seqkit: error: <stdin>: the constraints cannot be met")
    terminal.type("\x04")
    done = process.wait()
    assert (done.code, done.out) == (0, "") and done.err.count("translate> ") == 2


@pytest.mark.usefixtures("int8_machine")
def test_in_8_bits(translate: Translate, seqkit: InProcess, fork_server: ForkServer, tmp_path: Path) -> None:
    sources = ["ab c", "", "be ce de", "d"]
    exact = translate.lines("--beam", "3", lines=sources)
    rounded = translate.lines("--beam", "3", "--engine-type", "int8", lines=sources)
    assert len(rounded) == 4 and rounded[1] == ""
    # A trained model is so sure that rounding changes nothing.
    assert rounded == exact
    scores = [one["score"] for one in translate.objects("--engine-type", "int8", lines=["be ce de"])]
    assert scores != [one["score"] for one in translate.objects(lines=["be ce de"])]
    done = translate("--engine-type", "int16", lines=sources)
    assert done.code == 2 and "seqkit's own engine computes in float32 or int8, not in int16" in done.error_line
    few = ["model={type: gru, d_model: 8}", "train.max_steps=2", "train.evaluate_every=null"]
    recurrent = train_tiny_pairs(fork_server, tmp_path, *few)
    done = seqkit("translate", "--model", recurrent.run, "--engine-type", "int8", "--text", "abc")
    assert done.code == 2 and "int8 is for Transformers; this model's decoder is recurrent" in done.error_line


def test_patience(translate: Translate) -> None:
    sources = ["ab c", "be ce de", "d"]
    proved = [one["score"] for one in translate.objects(lines=sources)]
    soon = [one["score"] for one in translate.objects("--patience", "0.4", lines=sources)]
    # What ends first is at most as good, and all of a large number of hypotheses are waited for.
    assert all(first <= best for first, best in zip(soon, proved, strict=True))
    assert [one["score"] for one in translate.objects("--patience", "40", lines=sources)] == proved
    both = translate.objects("--patience", "0.2", "--n-best", "2", lines=sources)
    assert [len(one["hypotheses"]) for one in both] == [2, 2, 2]
    for words, message in (
        (("--patience", "0"), "--patience: "),
        (("--patience", "1", "--beam", "1"), "--patience does nothing with one beam"),
        (("--patience", "1", "--sample"), "--patience does nothing with --sample"),
        (("--patience", "0.5", "--engine", "ctranslate2"), "--engine ctranslate2 has no --patience below 1"),
    ):
        done = translate(*words, lines=sources)
        assert done.code == 2 and message in done.error_line, done.err
