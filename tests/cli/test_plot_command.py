"""``seqkit plot``: what it draws, where to, and what it refuses (S1, S8, S9, T1, T2, T4, U1)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commandline import ForkServer, InProcess, Tiny, clean_environment
from tiny_pairs import TinyPairs

from seqkit.cli.run_names import run_labels
from seqkit.runs.metrics_log import MetricsLog


def write_run(folder: Path, *, values: list[float], tokenizer: str = "bpe") -> Path:
    """What ``plot curves`` reads of a run."""
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(f"task: lm\ntokenizer: {{type: {tokenizer}}}\n")
    with MetricsLog(folder / "metrics.jsonl") as log:
        for number, value in enumerate(values, start=1):
            log.report(step=10 * number, epoch=0.1, split="train", loss=value, num_tokens=100 * number, elapsed=6.0)
        log.report(
            step=10 * len(values), epoch=0.1, split="valid", loss=values[-1], num_tokens=5, bleu=12.5, elapsed=6.0
        )
    return folder


@pytest.fixture
def two_runs(seqkit: InProcess, tmp_path: Path) -> tuple[Path, Path]:
    """Two small runs beside each other."""
    return write_run(tmp_path / "a", values=[3.0, 2.0, 1.5]), write_run(tmp_path / "b", values=[3.5, 2.5])


def facts(seqkit: InProcess, *words: object) -> dict[str, Any]:
    done = seqkit("plot", *words, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


# Curves.


def test_curves_in_a_pipe(seqkit: InProcess, two_runs: tuple[Path, Path]) -> None:
    done = seqkit("plot", "curves", "a", "b")
    assert (done.code, done.err) == (0, "")
    lines = done.out.removesuffix("\n").split("\n")
    assert lines[0] == "loss (nats per piece)" and max(map(len, lines)) <= 80 and "\033" not in done.out
    assert [line.split()[:3] for line in lines[-4:]] == [
        ["a", "a", "training"], ["A", "a", "validation"], ["b", "b", "training"], ["B", "b", "validation"],
    ]  # fmt: skip


def test_curves_as_numbers(seqkit: InProcess, two_runs: tuple[Path, Path]) -> None:
    told = facts(seqkit, "curves", "a", "b", "--metric", "bleu,loss", "--x", "tokens")
    assert told["x"] == "tokens"
    assert [(run["run_dir"], run["label"], run["unit"]) for run in told["runs"]] == [
        ("a", "a", "piece"),
        ("b", "b", "piece"),
    ]
    curves = {(one["run"], one["metric"], one["split"]): one for one in told["curves"]}
    assert list(curves) == [(0, "bleu", "valid"), (1, "bleu", "valid"), (0, "loss", "train"), (0, "loss", "valid"),
                            (1, "loss", "train"), (1, "loss", "valid")]  # fmt: skip
    train, valid = curves[0, "loss", "train"], curves[0, "loss", "valid"]
    assert (train["step"], train["x"], train["y"]) == ([10, 20, 30], [100, 200, 300], [3.0, 2.0, 1.5])
    assert (valid["step"], valid["x"], valid["y"]) == ([30], [300], [1.5])


def test_one_split_and_own_labels(seqkit: InProcess, two_runs: tuple[Path, Path]) -> None:
    told = facts(seqkit, "curves", "a", "b", "--split", "valid", "--label", "LSTM", "--label", "GRU\033[2J")
    assert [one["split"] for one in told["curves"]] == ["valid", "valid"]
    assert [run["label"] for run in told["runs"]] == ["LSTM", "GRU\\x1b[2J"], "no label moves the cursor"


def test_a_run_that_still_trains(seqkit: InProcess, two_runs: tuple[Path, Path]) -> None:
    with (two_runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00.000Z", "step": 40, "sp')
    assert facts(seqkit, "curves", "a")["curves"][0]["step"] == [10, 20, 30]
    (two_runs[1] / "metrics.jsonl").write_text("")
    done = seqkit("plot", "curves", "a", "b")
    assert done.code == 0 and done.err == "seqkit: warning: b: nothing to draw of loss\n"
    done = seqkit("plot", "curves", "b")
    assert (done.code, done.out, done.error_line) == (1, "", "b: no reports yet")


def test_a_real_run_by_its_name(seqkit: InProcess, tiny: Tiny) -> None:
    told = facts(seqkit, "curves", tiny.run.name, "--runs-dir", tiny.runs)
    assert [run["label"] for run in told["runs"]] == ["tiny"] and told["runs"][0]["unit"] == "character"
    (train, valid) = told["curves"]
    assert train["step"][-1] == valid["step"][-1] == 12 and all(value > 0 for value in train["y"] + valid["y"])


def test_curves_in_a_file(seqkit: InProcess, two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = seqkit("plot", "curves", "a", "b", "-o", "c.svg", "--metric", "loss", "--metric", "bleu", "--log-x")
    assert (done.code, done.out, done.err) == (0, "", "c.svg written\n")
    picture = (tmp_path / "c.svg").read_text()
    for text in ("loss (nats per piece)", "BLEU", "training", "validation"):
        assert f">{text}<" in picture, text
    told = seqkit("plot", "curves", "a", "-o", "c.svg", "--json", "-q")
    assert told.err == "" and json.loads(told.out)["curves"] and (tmp_path / "c.svg").read_text() != picture


def test_runs_that_count_different_tokens(seqkit: InProcess, two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    write_run(tmp_path / "chars", values=[2.0], tokenizer="char")
    done = seqkit("plot", "curves", "a", "chars")
    assert "a token is a character or a piece" in done.err and done.out.startswith("loss (nats per token)\n")
    assert seqkit("plot", "curves", "a", "chars", "--metric", "bleu").err == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a", "nosuch"], 2, "nosuch: no such run"),
        (["a", "./a"], 2, "./a: this run is named twice"),
        (["a", "--metric", "blue"], 2, "--metric blue: no run has logged that; did you mean bleu?"),
        (["a", "--metric", "bleu", "--split", "train"], 2, "no run has a value of it of the split train by step"),
        (["a", "b", "--label", "x"], 2, "--label is given 1 times for 2 runs"),
        (["a", "--x", "mile"], 2, "'mile' is not one of"),
        (["a", "-o", "c.jpgx"], 2, "c.jpgx: a name that ends in .jpgx says no picture format"),
        (["a", "-o", "no/c.png"], 2, "no: no such folder"),
        (["a", "-o", "-", "--json"], 2, "--json and -o - both write to stdout"),
        (["a", "--metrik", "loss"], 2, "no such option: --metrik; did you mean --metric?"),
    ],
)
def test_curves_that_cannot_be(
    seqkit: InProcess, two_runs: tuple[Path, Path], tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    before = sorted(tmp_path.iterdir())
    done = seqkit("plot", "curves", *words)
    assert (done.code, done.out) == (code, "") and said in done.error_line
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_log(seqkit: InProcess, two_runs: tuple[Path, Path]) -> None:
    (two_runs[0] / "metrics.jsonl").write_text("{}\n")
    done = seqkit("plot", "curves", "a")
    assert (done.code, done.error_line) == (1, "a/metrics.jsonl:1: not a line of a metrics log")


def test_labels_are_never_alike() -> None:
    paths = [Path("x/gru/20261120T101500Z-k3x7"), Path("y/gru/20261120T101500Z-k3x7"), Path("gru"), Path("z/gru")]
    labels = run_labels(paths)
    assert len(set(labels)) == len(paths), labels


def test_t4_colours_in_a_terminal_alone(fork_server: ForkServer, tmp_path: Path) -> None:
    write_run(tmp_path / "a", values=[3.0, 2.0, 1.5])
    settings: list[tuple[list[str], dict[str, str], bool]] = [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"TERM": "dumb"}, False),
        (["--no-color"], {}, False),
    ]
    for words, env, is_colored in settings:
        main, side = os.openpty()
        drawing = fork_server.start(
            "plot", "curves", "a", *words, folder=tmp_path, env=env, stdout=Path(os.ttyname(side))
        )
        # All of it fits into the terminal's buffer.
        while (code := fork_server.poll(drawing.pid)) is None:
            time.sleep(0.01)
        written = os.read(main, 1 << 16)
        os.close(side)
        os.close(main)
        assert code == 0 and b"validation" in written
        assert (b"\033[" in written) == is_colored


# Attention.

SENTENCE = "abc de"


def test_attention_as_numbers(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    told = facts(seqkit, "attention", "--model", tiny_pairs.run, "--text", SENTENCE, "--head", "all")
    assert (told["attention"], told["num_layers"], told["num_heads"]) == ("source", 1, 2)
    (sentence,) = told["sentences"]
    translated = seqkit("translate", "--model", tiny_pairs.run, "--text", SENTENCE)
    assert sentence["text"] == SENTENCE and sentence["is_own_translation"]
    assert sentence["target"] + "\n" == translated.out
    assert sentence["columns"] == [*SENTENCE, "</s>"] and sentence["rows"] == [*sentence["target"], "</s>"]
    assert [(one["layer"], one["head"]) for one in sentence["maps"]] == [(1, 1), (1, 2)]
    for one in sentence["maps"]:
        assert len(one["weights"]) == len(sentence["rows"])
        for row in one["weights"]:
            assert len(row) == len(sentence["columns"]) and sum(row) == pytest.approx(1.0, abs=1e-5)


def test_attention_agrees_with_the_alignments_of_a_translation(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    # The last layer, the mean of its heads, while search goes on.
    words = ("--model", tiny_pairs.run, "--text", SENTENCE)
    translated = json.loads(seqkit("translate", *words, "--json", "--alignments", "soft").out)
    (sentence,) = facts(seqkit, "attention", *words)["sentences"]
    searched = translated["hypotheses"][0]["alignment"]
    for ours, theirs in zip(sentence["maps"][0]["weights"], searched, strict=False):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_attention_to_a_given_target(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    words = ("attention", "--model", tiny_pairs.run, "--text", SENTENCE, "--target", "ED")
    (sentence,) = facts(seqkit, *words)["sentences"]
    assert not sentence["is_own_translation"] and sentence["rows"] == ["E", "D", "</s>"]
    done = seqkit("plot", *words)
    assert (done.code, done.err) == (0, "")
    lines = done.out.removesuffix("\n").split("\n")
    assert lines[0] == "mean of 2 heads: target (rows) × source (columns)"
    assert [line.split()[0] for line in lines[-4:-1]] == ["E", "D", "</s>"] and "␣" in done.out
    assert max(map(len, lines)) <= 80 and "\033" not in done.out


def test_self_attention_of_two_sentences_side_by_side(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    words = ("--model", tiny_pairs.run, "--text", "abc", "--text", "dde", "--head", 2)
    encoder = facts(seqkit, "attention", *words, "--self", "encoder")
    assert [one["rows"] for one in encoder["sentences"]] == [[*"abc", "</s>"], [*"dde", "</s>"]]
    assert all(one["rows"] == one["columns"] and one["target"] is None for one in encoder["sentences"])
    decoder = facts(seqkit, "attention", *words, "--self", "decoder", "--target", "A", "--target", "DD")
    assert [one["rows"] for one in decoder["sentences"]] == [["<s>", "A"], ["<s>", "D", "D"]]
    weights = decoder["sentences"][1]["maps"][0]["weights"]
    assert weights[0] == [1.0, 0.0, 0.0] and weights[1][2] == 0.0
    done = seqkit("plot", "attention", *words, "--self", "encoder", "-o", "two.svg")
    assert (done.code, done.out, done.err) == (0, "", "two.svg written\n")
    picture = (tmp_path / "two.svg").read_text()
    assert picture.count(">head 2<") == 2 and picture.count(">attended to<") == 2


def test_the_translation_is_told(seqkit: InProcess, tiny_pairs: TinyPairs) -> None:
    words = ("plot", "attention", "--text", "aa", "-o", "a.png")
    done = seqkit(*words, "--runs-dir", tiny_pairs.runs)
    assert done.code == 0 and "(newest run)" in done.err and "aa → " in done.err
    assert seqkit(*words, "--model", tiny_pairs.run, "-q").err == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--text", "a", "--layer", "2"], 2, "--layer 2: this attention has 1 layer"),
        (["--text", "a", "--head", "3"], 2, "--head 3: this attention has 2 heads"),
        (["--text", "a", "--head", "0"], 2, "--head 0: expected a number from 1 on, all or mean"),
        (["--text", "a", "--layer", "top"], 2, "--layer top: expected a number from 1 on, all or mean"),
        (["--text", "a", "--self", "encodr"], 2, "'encodr' is not one of 'encoder', 'decoder'"),
        (["--text", "a", "--text", "b", "--target", "A"], 2, "--target is given 1 times for 2 times --text"),
        (["--text", "a", "--self", "encoder", "--target", "A"], 2, "--target does nothing with --self encoder"),
        (["--text", " "], 2, "--text is blank"),
        (["--text", "a\nb"], 2, "--text takes one line"),
        (["--text", "a", "-o", "a.gif"], 2, "a.gif: a name that ends in .gif says no picture format"),
        ([], 2, "missing option '--text'"),
    ],
)
def test_attention_that_cannot_be(
    seqkit: InProcess, tiny_pairs: TinyPairs, words: list[str], code: int, said: str
) -> None:
    done = seqkit("plot", "attention", "--model", tiny_pairs.run, *words)
    assert (done.code, done.out) == (code, "") and said in done.error_line


def test_a_model_of_another_task(seqkit: InProcess, tiny: Tiny) -> None:
    done = seqkit("plot", "attention", "--model", tiny.run, "--text", "a")
    assert (done.code, done.out) == (2, "") and "lm" in done.error_line


def test_a_model_without_attention(seqkit: InProcess, tiny_pairs: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    # Recurrent models, one of which sees the source by its last state alone, in place of the one in the folder.
    from seqkit.models.encoder_decoder import EncoderDecoder
    from seqkit.models.recurrent_decoder import RecurrentDecoder
    from seqkit.models.recurrent_encoder import RecurrentEncoder
    from seqkit.tasks import seq2seq_predictor

    def load(attention: Any) -> None:
        def loaded(path: Path, device: Any) -> Any:
            found = real(path, device)
            encoder = RecurrentEncoder(found.src.vocab_size, 6, cell="gru")
            decoder = RecurrentDecoder(found.tgt.vocab_size, 6, cell="gru", attention=attention)
            model = EncoderDecoder(encoder, decoder).eval()
            return seq2seq_predictor.LoadedSeq2Seq(model, found.src, found.tgt, found.recipe, found.path, found.facts)

        monkeypatch.setattr(seq2seq_predictor, "load_seq2seq", loaded)

    real = seq2seq_predictor.load_seq2seq
    words = ("attention", "--model", tiny_pairs.run, "--text", SENTENCE)
    load("none")
    done = seqkit("plot", *words)
    assert (done.code, done.out) == (2, "") and "has no attention to its source" in done.error_line
    load("general")
    (sentence,) = facts(seqkit, *words, "--layer", "all", "--head", "all")["sentences"]
    (only,) = sentence["maps"]
    assert all(sum(row) == pytest.approx(1.0, abs=1e-5) for row in only["weights"])
    done = seqkit("plot", *words, "--self", "encoder")
    assert "has no self-attention in its encoder" in done.error_line and "hint: without --self" in done.err


def test_a_picture_replaces_another_only_whole(seqkit: InProcess, tiny_pairs: TinyPairs, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_pairs.run / "last", damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    done = seqkit("plot", "attention", "--model", damaged, "--text", "a", "-o", "a.png")
    assert done.code == 1 and (tmp_path / "a.png").read_bytes() == b"old"
    assert not list(tmp_path.glob(".a.png*"))


# Lengths.


@pytest.fixture
def translations(seqkit: InProcess, tmp_path: Path) -> Path:
    """A reference and two systems."""
    lines = [" ".join(["the cat sat on a mat and saw one dog run by".split()[n % 7]] * (1 + n % 13)) for n in range(40)]
    (tmp_path / "ref.en").write_text("".join(f"{line}.\n" for line in lines))
    (tmp_path / "one.hyp").write_text("".join(f"{line} now.\n" for line in lines))
    (tmp_path / "two.hyp").write_text("".join(f"{line}.\n" for line in lines))
    return tmp_path


def test_lengths_are_those_of_score(seqkit: InProcess, translations: Path) -> None:
    words = ("ref.en", "one.hyp", "two.hyp", "--length-bounds", "5,10", "--metric", "bleu", "chrf")
    scored = json.loads(seqkit("score", *words, "--by-length", "--json").out)
    assert facts(seqkit, "lengths", *words) == scored
    drawn = seqkit("plot", "lengths", *words)
    told = seqkit("score", *words, "--plot", "-")
    assert drawn.code == 0 and told.out.endswith(drawn.out)
    assert drawn.out.startswith("BLEU by reference length in words\n") and "chrF2 by" in drawn.out


def test_lengths_in_a_file_are_the_picture_of_score(seqkit: InProcess, translations: Path) -> None:
    done = seqkit("plot", "lengths", "ref.en", "one.hyp", "two.hyp", "-o", "a.pdf", "--source", "two.hyp")
    assert (done.code, done.out, done.err) == (0, "", "a.pdf written\n")
    seqkit("score", "ref.en", "one.hyp", "two.hyp", "--plot", "b.pdf", "--source", "two.hyp")
    assert (translations / "a.pdf").read_bytes() == (translations / "b.pdf").read_bytes()


def test_lengths_from_a_pipe_with_a_recipes_settings(
    seqkit: InProcess, translations: Path, tiny_pairs: TinyPairs
) -> None:
    piped = (translations / "one.hyp").read_bytes()
    done = seqkit("plot", "lengths", "ref.en", stdin=piped)
    assert done.code == 0 and "<stdin>" in done.out and ">30" in done.out
    recipe = translations / "by_letters.yaml"
    recipe.write_text(tiny_pairs.recipe.read_text() + "score: {length_unit: characters, bootstrap: true}\n")
    done = seqkit("plot", "lengths", "ref.en", "--recipe", recipe, stdin=piped)
    assert done.code == 0 and done.out.startswith("BLEU by reference length in characters\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ref.en", "none.hyp"], 2, "none.hyp: no such file"),
        (["ref.en", "one.hyp", "-o", "x"], 2, "a name without an extension"),
        (["ref.en", "one.hyp", "--metric", "blue"], 2, "metric"),
        (["ref.en", "one.hyp", "--metric", "chrf", "--lowercase"], 2, "--lowercase changes bleu"),
        (["ref.en", "one.hyp", "--length-bounds", "a"], 2, "--length-bounds: expected whole numbers"),
    ],
)
def test_lengths_that_cannot_be(seqkit: InProcess, translations: Path, words: list[str], code: int, said: str) -> None:
    done = seqkit("plot", "lengths", *words)
    assert (done.code, done.out) == (code, "") and said in done.error_line


# The command.


def test_t2_the_nearest_command(seqkit: InProcess) -> None:
    done = seqkit("plot", "atention")
    assert (done.code, done.error_line) == (2, "no such command 'atention'; did you mean 'attention'?")


@pytest.mark.parametrize("name", ["curves", "attention", "lengths"])
def test_t1_help_has_examples(seqkit: InProcess, name: str) -> None:
    done = seqkit("plot", name, "--help")
    assert (
        (done.code, done.err) == (0, "") and "Examples:\n" in done.out and done.out.count(f"  seqkit plot {name} ") >= 2
    )


def test_u1_neither_torch_nor_matplotlib_without_need(tmp_path: Path) -> None:
    write_run(tmp_path / "a", values=[2.0, 1.0])
    code = (
        "import sys\n"
        "from seqkit.cli.app import run\n"
        "for words in (['--help'], ['curves', '--help'], ['attention', '--help'], ['curves', 'a'],\n"
        "              ['curves', 'a', '--json']):\n"
        "    assert run(['plot', *words]) == 0, words\n"
        "    heavy = {'torch', 'matplotlib', 'rich', 'sacrebleu'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
        "assert run(['plot', 'curves', 'a', '-o', 'a.png']) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr.decode()
