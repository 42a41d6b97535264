"""``seqkit bpe learn``, as a shell sees it; and completion of all ``bpe`` commands."""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bpe_examples import TEXT
from commandline import ForkServer, InProcess, Tiny

from seqkit.cli import app


def test_learn_prints_the_path_and_says_what_was_learned(seqkit: InProcess, bpe_examples: Path) -> None:
    done = seqkit("bpe", "learn", bpe_examples / "text", "-o", "new.json", "--vocab-size", 330)
    assert (done.code, done.out) == (0, "new.json\n")
    assert re.search(r"learned \d+ merges in .* s: 330 pieces .* from 100 words, 20 of them different", done.err)
    assert Path("new.json").read_bytes() == (bpe_examples / "bpe.json").read_bytes()
    assert seqkit("bpe", "learn", bpe_examples / "text", "-o", "new.json", "--vocab-size", 330, "-q").err == ""
    told = seqkit("bpe", "learn", bpe_examples / "text", "-o", "new.json", "--vocab-size", 330, "--json")
    facts = json.loads(told.out)
    assert (facts["path"], facts["vocab_size"], facts["num_words"]) == ("new.json", 330, 100)
    record = seqkit(
        "bpe", "learn", bpe_examples / "text", "-o", "-", "--num-merges", 3, "--log-format", "jsonl"
    ).records[-1]
    assert (record["event"], record["num_merges"]) == ("learned", 3)


def test_learn_reads_files_globs_gzip_pipes_and_stdin_alike(
    seqkit: InProcess, bpe_examples: Path, tmp_path: Path
) -> None:
    text = (bpe_examples / "text").read_bytes()
    half = text.index(b"\n", len(text) // 2) + 1
    (tmp_path / "a.txt").write_bytes(text[:half])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text[half:]))
    (tmp_path / "b.txt").write_bytes(text[half:])
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    expected = (bpe_examples / "bpe.json").read_text()

    def learn(*corpus: str, stdin: bytes | None = None) -> str:
        done = seqkit("bpe", "learn", *corpus, "-o", "-", "--vocab-size", 330, stdin=stdin)
        assert done.code == 0, done.err
        return str(done.out)

    assert learn(stdin=text) == expected
    assert learn("-", stdin=text) == expected
    assert learn("a.txt", "b.txt.gz") == expected
    assert learn("b.txt", "a.txt") == expected
    assert learn("[ab].txt") == expected
    assert learn("a.txt", "-", stdin=text[half:]) == expected
    feeder = threading.Thread(target=lambda: fifo.write_bytes(text[half:]))
    feeder.start()
    assert learn("a.txt", "fifo") == expected
    feeder.join()


def test_learn_takes_named_corpora(seqkit: InProcess) -> None:
    done = seqkit("bpe", "learn", "builtin:hello", "-o", "hello.json", "--num-merges", 2, "--min-frequency", 1)
    assert done.code == 0, done.err
    assert json.loads(Path("hello.json").read_text())["merges"] == ["e l", "h el"]
    wrong = seqkit("bpe", "learn", "builtin:hallo", "-o", "hello.json", "--num-merges", 2)
    assert wrong.code == 2 and "did you mean builtin:hello?" in wrong.error_line


def test_learn_options(seqkit: InProcess, bpe_examples: Path) -> None:
    words = ["--num-merges", 5, "--min-frequency", 3, "--special-token", "<2de>", "--special-token", "<2fr>"]
    words += ["--boundary", "end", "--split", "blanks", "--normalization", "nfkc", "--unseen", "unk"]
    done = seqkit("bpe", "learn", bpe_examples / "text", "-o", "t.json", *words, "--character-coverage", 0.9)
    assert done.code == 0, done.err
    facts = json.loads(seqkit("bpe", "inspect", "--tokenizer", "t.json", "--json").out)
    told = {key: facts[key] for key in ("num_merges", "boundary", "split", "normalization", "unseen", "num_bytes")}
    assert told == {
        "num_merges": 5,
        "boundary": "end",
        "split": "blanks",
        "normalization": "nfkc",
        "unseen": "unk",
        "num_bytes": 0,
    }
    assert facts["special_tokens"][-2:] == ["<2de>", "<2fr>"]
    all_of_them = seqkit("bpe", "learn", bpe_examples / "text", "-o", "-", *words).out
    assert len(json.loads(all_of_them)["pieces"]) > facts["vocab_size"]


RECIPE = """\
task: lm
data: {train: builtin:hello}
tokenizer: {type: bpe, vocab_size: 300, boundary: end, min_frequency: 1}
model: {type: gru, d_model: 8}
train: {max_steps: 1}
"""


def test_r11_learn_takes_the_recipe_section_and_a_flag_wins(seqkit: InProcess, bpe_examples: Path) -> None:
    Path("r.yaml").write_text(RECIPE)

    def learn(*words: object) -> dict[str, Any]:
        done = seqkit("bpe", "learn", bpe_examples / "text", "-o", "-", "--recipe", "r.yaml", *words)
        assert done.code == 0, done.err
        fields: dict[str, Any] = json.loads(done.out)
        return fields

    own = learn()
    assert (len(own["pieces"]), own["boundary"]) == (300, "end")
    assert len(learn("--vocab-size", 310)["pieces"]) == 310
    merged = learn("--num-merges", 7, "--boundary", "start")
    assert (len(merged["merges"]), merged["boundary"]) == (7, "start")


def test_r11_a_recipe_with_nothing_to_learn(seqkit: InProcess, tiny: Tiny, bpe_examples: Path) -> None:
    words = ["bpe", "learn", bpe_examples / "text", "-o", "t.json", "--recipe"]
    done = seqkit(*words, tiny.recipe)
    assert done.code == 2 and "is of type char, not bpe" in done.error_line
    made = RECIPE.replace("vocab_size: 300, boundary: end, min_frequency: 1", f"path: {bpe_examples / 'bpe.json'}")
    Path("made.yaml").write_text(made)
    done = seqkit(*words, "made.yaml")
    assert done.code == 2 and "tokenizer.path" in done.error_line
    assert not Path("t.json").exists()


@pytest.mark.parametrize(
    ("words", "stdin", "code", "message"),
    [
        (["-o", "t.json"], TEXT, 2, "give --vocab-size or --num-merges"),
        (["--num-merges", "3"], TEXT, 2, "give --output FILE"),
        (["-o", "t.json", "--vocab-size", "9", "--num-merges", "3"], TEXT, 2, "not both"),
        (["-o", "t.json", "--vocab-size", "0"], TEXT, 2, "must be at least 1"),
        (["-o", "no/t.json", "--vocab-size", "400"], TEXT, 2, "no such folder no"),
        (["-o", "-", "--json", "--vocab-size", "400"], TEXT, 2, "both want stdout"),
        (["-o", "t.json", "--num-merges", "3", "--character-coverage", "1.5"], TEXT, 2, "--character-coverage: must"),
        (["-o", "t.json", "--num-merges", "3", "--special-token", "a b"], TEXT, 2, "--special-tokens: "),
        (["-o", "t.json", "--num-merges", "3", "--boundary", "sideways"], TEXT, 2, "'sideways' is not one of"),
        (["-o", "t.json", "--num-merges", "3"], "", 1, "no word to learn from"),
        (["-o", "t.json", "--num-merges", "3"], "\n  \n", 1, "no word to learn from"),
        (["-o", "t.json", "--num-merges", "3", "nothing.txt"], TEXT, 2, "nothing.txt: no such file"),
        (["-o", "t.json", "--num-merges", "3", "*.nothing"], TEXT, 2, "*.nothing: no file matches"),
        (["-o", "t.json", "--num-merges", "3", "."], TEXT, 1, ".: is a folder"),
        (["-o", "t.json", "--num-merges", "3", "-", "-"], TEXT, 2, "stdin can be read only once"),
        (["-o", "t.json", "--recipe", "-"], TEXT, 2, "stdin cannot be both the recipe and the text"),
    ],
)
def test_learn_refuses_in_one_line(seqkit: InProcess, words: list[str], stdin: str, code: int, message: str) -> None:
    done = seqkit("bpe", "learn", *words, stdin=stdin.encode())
    assert (done.code, done.out) == (code, "") and message in done.error_line
    assert not Path("t.json").exists()


def test_t3_learn_shows_a_live_line_in_a_terminal_alone(
    fork_server: ForkServer, bpe_examples: Path, tmp_path: Path
) -> None:
    main, side = os.openpty()
    words = ("bpe", "learn", bpe_examples / "text", "-o", "t.json", "--vocab-size", 9999)
    done = fork_server.start(*words, folder=tmp_path, stderr=Path(os.ttyname(side))).wait()
    os.close(side)
    told = b""
    with suppress(OSError):
        while piece := os.read(main, 65536):
            told += piece
    os.close(main)
    assert (done.code, done.out) == (0, "t.json\n")
    shown = told.decode()
    assert "\033[?25l" in shown and shown.rindex("\033[?25h") > shown.rindex("\033[?25l"), "the cursor is back"
    assert "merging" in shown and "different words" in shown
    plain = re.sub(r"\033\[[0-9;?]*[a-zA-Z]|\s", "", shown)
    assert "seqkit:warning:" in plain and "(min_frequency)" in plain


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("bpe enc", ["encode"]),
        ("bpe learn --boundary s", ["start"]),
        ("bpe learn --normalization nf", ["nfc", "nfkc"]),
        ("bpe learn --recipe hel", ["hello"]),
        ("bpe convert x --to h", ["huggingface"]),
        ("bpe encode --tok", ["--tokenizer"]),
    ],
)
def test_u3_tab_completes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, offers: list[str]
) -> None:
    monkeypatch.setenv("_SEQKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"seqkit {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    with pytest.raises(SystemExit):
        app.run([])
    captured = capfd.readouterr()
    assert (captured.out.split(), captured.err) == (offers, "")


def test_learn_names_the_smallest_vocabulary_that_works(seqkit: InProcess, bpe_examples: Path) -> None:
    done = seqkit("bpe", "learn", bpe_examples / "text", "-o", "t.json", "--vocab-size", 100)
    assert (done.code, done.out) == (2, "")
    smallest = re.search(r"make (\d+), the smallest that works", done.error_line)
    assert smallest is not None
    for size, code in ((int(smallest[1]) - 1, 2), (int(smallest[1]), 0)):
        assert seqkit("bpe", "learn", bpe_examples / "text", "-o", "t.json", "--vocab-size", size).code == code


def test_learn_names_the_line_of_a_bad_byte(seqkit: InProcess) -> None:
    Path("bad.txt").write_bytes(b"one\ntwo\nthr\xff\xffee\n")
    words = ["-o", "t.json", "--num-merges", 3]
    done = seqkit("bpe", "learn", "bad.txt", *words)
    assert done.code == 1 and done.error_line.startswith("bad.txt:3: not UTF-8: byte 0xff")
    done = seqkit("bpe", "learn", *words, stdin=Path("bad.txt").read_bytes())
    assert done.code == 1 and done.error_line.startswith("<stdin>:3: not UTF-8")
    Path("bad.gz").write_bytes(gzip.compress(TEXT.encode())[:-9])
    done = seqkit("bpe", "learn", "bad.gz", *words)
    assert done.code == 1 and "damaged gzip" in done.error_line and not Path("t.json").exists()
