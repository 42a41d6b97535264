"""``seqkit score``: sacreBLEU's numbers, what is read, what is printed, what is refused (S2, S6, S9, S11, R11, U1)."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import REAL, InProcess, clean_environment

import seqkit as package
from seqkit.data.builtin import builtin_text
from seqkit.metrics.translation import Bleu, Chrf, Ter
from seqkit.recipe.schema import ScoreOptions

WORDS = "the a cat dog sat ran on under mat tree and saw one two (small) big , never".split()
REFERENCE = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 17)).capitalize() + "." for n in range(60)]
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"


def without_words(fraction: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(word for word in line.split() if rng.random() > fraction) for line in REFERENCE]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A reference, two systems, another reference and a source, each of 60 lines."""
    write(tmp_path / "ref.en", REFERENCE)
    write(tmp_path / "lstm.hyp", without_words(0.3, 1))
    write(tmp_path / "transformer.hyp", without_words(0.15, 2))
    write(tmp_path / "ref2.en", without_words(0.1, 3))
    write(tmp_path / "src.de", [" ".join(["wort"] * (n % 40)) for n in range(60)])
    return tmp_path


def write(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode())


def facts(seqkit: InProcess, *words: object, **more: Any) -> dict[str, Any]:
    done = seqkit("score", "--json", *words, **more)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def scores(seqkit: InProcess, *words: object, **more: Any) -> dict[str, float]:
    """The scores of one system by metric, in full precision."""
    (system,) = facts(seqkit, *words, **more)["systems"]
    return {key: one["score"] for key, one in system["scores"].items()}


def bleu(seqkit: InProcess, *words: object, **more: Any) -> float:
    return scores(seqkit, *words, **more)["bleu"]


def sacrebleu(*words: object) -> str:
    """What sacreBLEU's program prints."""
    done = subprocess.run(
        [sys.executable, "-m", "sacrebleu", *map(str, words)],
        capture_output=True,
        env={**clean_environment(), "SACREBLEU_SEED": "12345"},
        check=True,
    )
    return done.stdout.decode()


# The numbers.


def test_the_program_prints_the_same_digits(seqkit: InProcess, files: Path) -> None:
    theirs = json.loads(sacrebleu("ref.en", "ref2.en", "-i", "lstm.hyp", "-m", "bleu", "chrf", "ter", "-w", 13))
    assert [one["name"] for one in theirs] == ["BLEU", "chrF2", "TER"]
    (system,) = facts(seqkit, "ref.en", "lstm.hyp", "--ref", "ref2.en", "--metric", "bleu", "chrf", "ter")["systems"]
    for one in theirs:
        ours = system["scores"][one["name"].lower().removesuffix("2")]
        assert ours["signature"] == one["signature"] and ours["name"] == one["name"]
        assert float(f"{ours['score']:.13f}") == one["score"]


def test_the_program_prints_the_same_digits_with_other_settings(seqkit: InProcess, tmp_path: Path) -> None:
    # Trailing blanks, carriage returns, blank lines and U+2028, which both programs must read alike.
    ref = ["The cat\u2028sat . \r", "", " A dog\tran ", "\u00dcber \u5317\u4eac\u3002", "one two three four five"]
    hyp = ["the cat\u2028sat.", "x", "A dog ran \u3000", "\u00fcber \u5317\u4eac.", "one two three five \r"]
    write(tmp_path / "r.txt", ref)
    write(tmp_path / "h.txt", hyp)
    flags = ["--chrf-word-order", 2, "--chrf-whitespace", "--chrf-beta", 3, "--ter-normalized", "--ter-asian-support"]
    theirs = sacrebleu(
        "r.txt", "-i", "h.txt", "-m", "bleu", "chrf", "ter", "-w", 13, "-tok", "zh", "-lc", "-s", "floor", *flags
    )
    (system,) = facts(
        seqkit, "r.txt", "h.txt", "--metric=bleu,chrf,ter", "--tokenize", "zh", "--lowercase", "--smooth-method",
        "floor", *flags,
    )["systems"]  # fmt: skip
    for one, ours in zip(json.loads(theirs), system["scores"].values(), strict=True):
        assert ours["signature"] == one["signature"]
        assert float(f"{ours['score']:.13f}") == one["score"]


def test_the_program_prints_the_same_sentence_scores(seqkit: InProcess, files: Path) -> None:
    theirs = sacrebleu("ref.en", "-i", "lstm.hyp", "--sentence-level", "--score-only", "-w", 10)
    done = seqkit("score", "ref.en", "lstm.hyp", "--by-sentence", "--score-only", "--width", 10)
    assert done.out == theirs and done.out.count("\n") == 60


@pytest.mark.parametrize(("flag", "theirs"), [("--bootstrap", "bs"), ("--approximate-randomization", "ar")])
def test_the_program_prints_the_same_significance(seqkit: InProcess, files: Path, flag: str, theirs: str) -> None:
    words = ("ref.en", "-i", "lstm.hyp", "transformer.hyp", f"--paired-{theirs}", f"--paired-{theirs}-n", 200)
    expected = json.loads(sacrebleu(*words))
    told = facts(seqkit, "ref.en", "lstm.hyp", "transformer.hyp", flag, "--samples", 200)
    assert len(told["systems"]) == len(expected) == 2
    for system, one in zip(told["systems"], expected, strict=True):
        ours = system["scores"]["bleu"]
        interval = ours["interval"] or {"mean": None, "half_width": None}
        wanted = one["BLEU"]
        assert (ours["score"], ours["p_value"], interval["mean"], interval["half_width"]) == (
            wanted["score"], wanted["p_value"], wanted["mean"], wanted["ci"],
        )  # fmt: skip
    assert told["test"]["baseline"] == "lstm" and told["test"]["num_samples"] == 200


def test_one_systems_interval(seqkit: InProcess, files: Path) -> None:
    expected = json.loads(sacrebleu("ref.en", "-i", "lstm.hyp", "--confidence", "--confidence-n", 100, "-w", 9))
    ours = facts(seqkit, "ref.en", "lstm.hyp", "--bootstrap", "--samples", 100)["systems"][0]["scores"]["bleu"]
    assert ours["p_value"] is None and ours["signature"] == expected["signature"]
    assert float(f"{ours['interval']['mean']:.9f}") == expected["confidence_mean"]
    assert float(f"{ours['interval']['half_width']:.9f}") == expected["confidence_var"]
    shown = seqkit("score", "ref.en", "lstm.hyp", "--bootstrap", "--samples", 100).out
    mean, half = ours["interval"]["mean"], ours["interval"]["half_width"]
    assert shown.startswith(f"BLEU  {ours['score']:.1f} ({mean:.1f} ± {half:.1f})  nrefs:1|bs:100|seed:12345|")


def test_the_seed_changes_the_draws(seqkit: InProcess, files: Path) -> None:
    words = ("ref.en", "lstm.hyp", "--bootstrap", "--samples", 50)
    assert facts(seqkit, *words, "--seed", 12345) == facts(seqkit, *words)
    other = facts(seqkit, *words, "--seed", 7)
    assert other["systems"] != facts(seqkit, *words)["systems"] and other["test"]["seed"] == 7


def test_defaults_are_sacrebleus_in_flags_and_library() -> None:
    defaults = ScoreOptions()
    assert (defaults.tokenize, defaults.smooth_method) == (Bleu().tokenize, Bleu().smooth_method)
    assert (defaults.chrf_char_order, defaults.chrf_word_order, defaults.chrf_beta) == (
        Chrf().char_order, Chrf().word_order, Chrf().beta,
    )  # fmt: skip
    assert not any((Bleu().lowercase, Chrf().lowercase, Chrf().whitespace, Chrf().eps_smoothing))
    assert not any((Ter().normalized, Ter().no_punct, Ter().asian_support, Ter().case_sensitive))


# What is printed.


def test_s11_the_score_with_its_signature(seqkit: InProcess, files: Path) -> None:
    done = seqkit("score", "ref.en", "lstm.hyp", "--metric", "bleu", "chrf")
    assert (done.code, done.err) == (0, "")
    told = facts(seqkit, "ref.en", "lstm.hyp", "--metric", "bleu,chrf")["systems"][0]["scores"]
    assert done.out.split("\n") == [
        f"BLEU   {told['bleu']['score']:.1f}  {told['bleu']['signature']}",
        f"chrF2  {told['chrf']['score']:.1f}  {told['chrf']['signature']}",
        "",
    ]
    assert told["bleu"]["signature"].startswith(SIGNATURE)


def test_s11_only_the_number(seqkit: InProcess, files: Path) -> None:
    full = bleu(seqkit, "ref.en", "lstm.hyp")
    assert seqkit("score", "ref.en", "lstm.hyp", "--score-only").out == f"{full:.1f}\n"
    assert seqkit("score", "ref.en", "lstm.hyp", "--score-only", "-w", 7).out == f"{full:.7f}\n"
    done = seqkit("score", "ref.en", "lstm.hyp", "transformer.hyp", "--score-only", "--metric", "bleu", "ter")
    rows = [line.split("\t") for line in done.out.removesuffix("\n").split("\n")]
    assert [len(row) for row in rows] == [2, 2] and rows[0][0] == f"{full:.1f}"
    done = seqkit("score", "ref.en", "lstm.hyp", "transformer.hyp", "--score-only", "--by-sentence")
    rows = [line.split("\t") for line in done.out.removesuffix("\n").split("\n")]
    assert len(rows) == 60 and {len(row) for row in rows} == {2}


def test_s9_one_object_with_parts_signatures_and_versions(seqkit: InProcess, files: Path) -> None:
    import sacrebleu as library

    told = facts(seqkit, "ref.en", "lstm.hyp", "transformer.hyp", "--metric", "bleu", "chrf++", "ter")
    assert told["references"] == ["ref.en"] and told["num_sentences"] == 60 and told["source"] is None
    assert told["versions"] == {"seqkit": package.__version__, "sacrebleu": library.__version__}
    assert [(one["name"], one["file"]) for one in told["systems"]] == [
        ("lstm", "lstm.hyp"), ("transformer", "transformer.hyp"),
    ]  # fmt: skip
    one = told["systems"][0]["scores"]
    assert list(one) == ["bleu", "chrf++", "ter"] and one["chrf++"]["name"] == "chrF2++"
    assert len(one["bleu"]["parts"]["precisions"]) == 4
    assert one["bleu"]["parts"]["ratio"] == one["bleu"]["parts"]["hyp_len"] / one["bleu"]["parts"]["ref_len"]
    assert one["ter"]["score"] == 100 * one["ter"]["parts"]["num_edits"] / one["ter"]["parts"]["ref_len"]
    assert not {"by_length", "sentences", "p_value"} & one["bleu"].keys() and "test" not in told


def test_several_systems_in_rows(seqkit: InProcess, files: Path) -> None:
    words = ("ref.en", "lstm.hyp", "transformer.hyp", "--metric", "bleu", "ter", "--bootstrap", "--samples", 100)
    lines = seqkit("score", *words).out.split("\n")
    assert lines[0].split() == ["BLEU", "TER"]
    assert lines[1].startswith("lstm ") and "p =" not in lines[1] and lines[1].count("±") == 2
    assert lines[2].startswith("transformer ") and lines[2].count("p = 0.") == 2
    told = facts(seqkit, *words)["systems"][1]["scores"]
    assert f"p = {told['ter']['p_value']:.4f}" in lines[2]
    assert lines[3] == "" and "lstm" in lines[4] and "100 samples" in lines[4] and "95 %" in lines[5]
    assert lines[6].startswith("BLEU  nrefs:1|bs:100|seed:12345|") and lines[7].startswith("TER   nrefs:1|bs:100|")


def test_systems_whose_files_have_one_name(seqkit: InProcess, files: Path) -> None:
    for name in ("a", "b"):
        (files / name).mkdir()
        write(files / name / "out.hyp", without_words(0.2, ord(name)))
    done = seqkit("score", "ref.en", "a/out.hyp", "b/out.hyp")
    assert [line.split()[0] for line in done.out.split("\n")[1:3]] == ["a/out.hyp", "b/out.hyp"]


def test_scores_by_length(seqkit: InProcess, files: Path) -> None:
    words = ("ref.en", "lstm.hyp", "transformer.hyp", "--by-length", "--source", "src.de")
    told = facts(seqkit, *words)
    assert told["lengths"] | {"buckets": None} == {"unit": "words", "of": "source", "file": "src.de", "buckets": None}
    # Lengths 0 to 39 and again 0 to 19.
    assert [(one["label"], one["num_sentences"]) for one in told["lengths"]["buckets"]] == [
        ("≤10", 22), ("11–20", 19), ("21–30", 10), (">30", 9),
    ]  # fmt: skip
    lines = seqkit("score", *words).out.split("\n")
    assert lines[0].split() == ["BLEU", "≤10", "11–20", "21–30", ">30", "all"]
    for line, system in zip(lines[1:3], told["systems"], strict=True):
        one = system["scores"]["bleu"]
        cells = [f"{bucket['score']:.1f}" for bucket in one["by_length"]] + [f"{one['score']:.1f}"]
        assert line.split() == [system["name"], *cells]
    assert lines[3].split() == ["sentences", "22", "19", "10", "9", "60"]
    assert "source length in words (src.de)" in lines[5]
    # A bucket scores like files of its lines alone.
    inside = [n for n in range(60) if n % 40 > 30]
    write(files / "part.ref", [REFERENCE[n] for n in inside])
    write(files / "part.hyp", [without_words(0.3, 1)[n] for n in inside])
    assert told["systems"][0]["scores"]["bleu"]["by_length"][3]["score"] == bleu(seqkit, "part.ref", "part.hyp")


def test_lengths_are_the_references_without_a_source(seqkit: InProcess, files: Path) -> None:
    told = facts(seqkit, "ref.en", "lstm.hyp", "--by-length", "--length-bounds", "3,1000")
    assert told["lengths"]["of"] == "reference" and told["lengths"]["file"] == "ref.en"
    buckets = told["lengths"]["buckets"]
    assert [one["num_sentences"] for one in buckets] == [12, 48, 0]
    assert told["systems"][0]["scores"]["bleu"]["by_length"][2] is None
    assert "–" in seqkit("score", "ref.en", "lstm.hyp", "--by-length", "--length-bounds", "3,1000").out.split("\n")[1]
    told = facts(seqkit, "ref.en", "lstm.hyp", "--by-length", "--length-unit", "characters", "--length-bounds", "20")
    expected = sum(len(line) <= 20 for line in REFERENCE)
    assert [one["num_sentences"] for one in told["lengths"]["buckets"]] == [expected, 60 - expected]


def test_every_sentence(seqkit: InProcess, files: Path) -> None:
    told = facts(seqkit, "ref.en", "lstm.hyp", "--by-sentence", "--metric", "bleu", "ter")
    one = told["systems"][0]["scores"]
    assert len(one["bleu"]["sentences"]) == len(one["ter"]["sentences"]) == 60
    assert "eff:yes" in one["bleu"]["sentence_signature"] and "eff:no" in one["bleu"]["signature"]
    done = seqkit("score", "ref.en", "lstm.hyp", "--by-sentence", "--metric", "bleu", "ter")
    rows = [line.split() for line in done.out.split("\n")]
    assert rows[0] == ["line", "BLEU", "TER"]
    for number in (1, 60):
        values = [f"{one[key]['sentences'][number - 1]:.1f}" for key in ("bleu", "ter")]
        assert rows[number] == [str(number), *values]
    assert [row[0] for row in rows[62:65]] == ["BLEU", "TER", "sentence"]
    assert rows[64][-1] == one["bleu"]["sentence_signature"]


def test_the_largest_losses_between_two_systems(seqkit: InProcess, files: Path) -> None:
    words = ("ref.en", "transformer.hyp", "lstm.hyp", "--worst", 3, "--source", "src.de")
    told = facts(seqkit, *words, "--by-sentence")
    better, worse = (one["scores"]["bleu"]["sentences"] for one in told["systems"])
    losses = [before - after for before, after in zip(better, worse, strict=True)]
    order = sorted(range(60), key=lambda n: -losses[n])[:3]
    assert [one["line"] for one in told["worst"]] == [n + 1 for n in order] and losses[order[2]] > 0
    first = told["worst"][0]
    assert first["references"] == [REFERENCE[order[0]]]
    assert first["systems"][1] == {
        "name": "lstm", "output": without_words(0.3, 1)[order[0]], "score": worse[order[0]],
    }  # fmt: skip
    lines = seqkit("score", *words).out.split("\n")
    was, now = better[order[0]], worse[order[0]]
    assert lines[0] == f"line {order[0] + 1}  BLEU {was:.1f} → {now:.1f}  ({now - was:+.1f})"
    assert [line.split()[0] for line in lines[1:5]] == ["source", "reference", "transformer", "lstm"]
    assert sum(line.startswith("line ") for line in lines) == 3
    # Of one system, its worst; with TER, where high is bad.
    told = facts(seqkit, "ref.en", "lstm.hyp", "--worst", 2, "--metric", "ter", "--by-sentence")
    values = told["systems"][0]["scores"]["ter"]["sentences"]
    assert [one["systems"][0]["score"] for one in told["worst"]] == sorted(values, reverse=True)[:2]


def test_no_loss_to_list(seqkit: InProcess, files: Path) -> None:
    done = seqkit("score", "ref.en", "lstm.hyp", "ref.en", "--worst", 5)
    assert done.out.startswith("no sentence on which ref scores worse than lstm\n")


# Drawings.


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("A.PDF", b"%PDF")])
def test_a_picture_by_its_extension(seqkit: InProcess, files: Path, name: str, start: bytes) -> None:
    words = ("score", "ref.en", "lstm.hyp", "transformer.hyp", "--plot", name, "--metric", "bleu", "ter")
    done = seqkit(*words)
    assert done.code == 0 and f"{name} written" in done.err and "≤10" in done.out
    first = (files / name).read_bytes()
    assert first.startswith(start)
    seqkit(*words)
    assert (files / name).read_bytes() == first, "the same picture is the same bytes"


def test_what_a_picture_shows(seqkit: InProcess, files: Path) -> None:
    (files / "lstm.hyp").rename(files / "$x$ & y.hyp")
    words = ("ref.en", "$x$ & y.hyp", "transformer.hyp", "--plot", "a.svg", "--length-bounds", "5,10")
    assert seqkit("score", *words).code == 0
    picture = (files / "a.svg").read_text()
    shortest = sum(len(line.split()) <= 5 for line in REFERENCE)
    for text in ("$x$ &amp; y", "transformer", "BLEU", "≤5", "6–10", f"n={shortest}", "reference length in words"):
        assert f"{text}<" in picture or f">{text}" in picture, text


def test_bars_in_the_terminal(seqkit: InProcess, files: Path) -> None:
    done = seqkit("score", "ref.en", "lstm.hyp", "transformer.hyp", "--plot", "-")
    table, _, bars = done.out.partition("BLEU by reference length in words\n")
    assert "sentences" in table
    rows = bars.removesuffix("\n").split("\n")
    assert len(rows) == 8 and rows[0].startswith("≤10 ") and "lstm" in rows[0] and "transformer" in rows[1]
    longest = max(rows, key=lambda row: row.count("█"))
    assert float(longest.split()[-1]) == max(float(row.split()[-1]) for row in rows if not row.endswith("–"))
    assert max(map(len, rows)) <= 80


def test_a_picture_that_cannot_be(seqkit: InProcess, files: Path) -> None:
    for name, said in (
        ("a.jpgx", ".jpgx"),
        ("picture", "without an extension"),
        ("none/a.png", "none: no such folder"),
    ):
        done = seqkit("score", "ref.en", "lstm.hyp", "--plot", name)
        assert (done.code, done.out) == (2, "") and said in done.error_line
    assert not list(files.glob("a.*"))


# What is read.


def test_s2_stdin_is_the_system(seqkit: InProcess, files: Path) -> None:
    text = (files / "lstm.hyp").read_bytes()
    expected = seqkit("score", "ref.en", "lstm.hyp").out
    assert seqkit("score", "ref.en", stdin=text).out == expected
    assert seqkit("score", "ref.en", "-", stdin=text).out == expected
    assert seqkit("score", "-", "lstm.hyp", stdin=(files / "ref.en").read_bytes()).out == expected
    told = facts(seqkit, "ref.en", "transformer.hyp", "-", stdin=text)
    assert told["systems"][1]["file"] == "<stdin>"


@pytest.mark.parametrize(
    "words",
    [
        ("-", "-"),
        ("-",),
        ("ref.en", "-", "-"),
        ("ref.en", "--ref", "-"),
        ("ref.en", "-", "--by-length", "--source", "-"),
    ],
)
def test_s2_stdin_is_read_once(seqkit: InProcess, files: Path, words: tuple[str, ...]) -> None:
    done = seqkit("score", *words, stdin=b"x\n")
    assert (done.code, done.out) == (2, "") and "stdin can be read only once" in done.error_line


def test_more_references(seqkit: InProcess, files: Path) -> None:
    one = bleu(seqkit, "ref2.en", "lstm.hyp")
    two = facts(seqkit, "ref2.en", "lstm.hyp", "--ref", "ref.en")
    assert two["references"] == ["ref2.en", "ref.en"]
    found = two["systems"][0]["scores"]["bleu"]
    assert found["signature"].startswith("nrefs:2|") and found["score"] > one
    assert bleu(seqkit, "ref2.en", "lstm.hyp", "--ref", "ref.en", "--ref", "ref2.en") == found["score"]


@pytest.mark.parametrize(
    "words",
    [
        ["--metric", "bleu", "ter"],
        ["--metric", "bleu,ter"],
        ["--metric", "bleu", "--metric", "ter"],
        ["--metric=bleu", "ter"],
        ["--metric", "BLEU,Ter"],
        ["--metric", "bleu", "--metric", "bleu", "ter"],
    ],
    ids=" ".join,
)
def test_several_metrics_in_every_form(seqkit: InProcess, files: Path, words: list[str]) -> None:
    for line in ([*words, "ref.en", "lstm.hyp"], ["ref.en", *words, "lstm.hyp"], ["ref.en", "lstm.hyp", *words]):
        assert list(scores(seqkit, *line)) == ["bleu", "ter"]


def test_a_file_named_like_a_metric(seqkit: InProcess, files: Path) -> None:
    (files / "ter").write_bytes((files / "lstm.hyp").read_bytes())
    assert list(scores(seqkit, "ref.en", "--metric", "bleu", "./ter")) == ["bleu"]
    assert list(scores(seqkit, "--metric", "bleu", "--", "ref.en", "ter")) == ["bleu"]
    assert list(scores(seqkit, "ref.en", "ter", "--metric", "bleu")) == ["bleu"]


def test_chrf_plus_plus_is_chrf_with_words(seqkit: InProcess, files: Path) -> None:
    plus = scores(seqkit, "ref.en", "lstm.hyp", "--metric", "chrf++")
    assert plus == scores(seqkit, "ref.en", "lstm.hyp", "--metric", "chrf", "--chrf-word-order", 2)
    both = scores(seqkit, "ref.en", "lstm.hyp", "--metric", "chrf", "chrf++")
    assert list(both) == ["chrf", "chrf++"] and both["chrf++"] == plus["chrf++"] != both["chrf"]


def test_a_made_up_text_by_its_name(seqkit: InProcess, tmp_path: Path) -> None:
    lines = list(builtin_text("numbers/test.en").blocks())
    (tmp_path / "hyp").write_text("".join(lines))
    assert bleu(seqkit, "builtin:numbers/test.en", "hyp") == pytest.approx(100.0)
    (tmp_path / "hyp").write_text("".join(lines[1:]))
    done = seqkit("score", "builtin:numbers/test.en", "hyp")
    assert done.code == 1 and done.error_line == "hyp has 499 lines but builtin:numbers/test.en has 500 lines"


def test_gzip_pipes_and_catalog_names(
    seqkit: InProcess, files: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bleu(seqkit, "ref.en", "lstm.hyp")
    (files / "ref.en.gz").write_bytes(gzip.compress((files / "ref.en").read_bytes()))
    assert bleu(seqkit, "ref.en.gz", "lstm.hyp") == expected
    read, fed = os.pipe()
    os.write(fed, (files / "lstm.hyp").read_bytes())
    os.close(fed)
    assert bleu(seqkit, "ref.en", f"/dev/fd/{read}") == expected
    os.close(read)
    monkeypatch.setenv("SEQKIT_DATA_DIR", str(data_dir))
    name = "catalog:multi30k/test_2016_flickr.en"
    (data_dir / "multi30k/test_2016_flickr.en").exists() or pytest.skip("no Multi30k")
    assert bleu(seqkit, name, data_dir / "multi30k/test_2016_flickr.en") == pytest.approx(100.0)


def test_s6_bytes_are_utf8_and_only_line_feeds_end_lines(seqkit: InProcess, tmp_path: Path) -> None:
    odd = "a\u2028b\x85c\x0bd\x0ce\rf\x1cg h\r\n\nsnow \u2603\n".encode()
    (tmp_path / "odd").write_bytes(odd)
    told = facts(seqkit, "odd", stdin=odd.removesuffix(b"\n"))
    assert told["num_sentences"] == 3 and told["systems"][0]["scores"]["bleu"]["score"] == pytest.approx(100.0)
    (tmp_path / "bad").write_bytes(b"one\ntwo\nth\xffee\n")
    for words, stdin, where in (
        (("odd", "bad"), None, "bad:3: not UTF-8"),
        (("bad", "odd"), None, "bad:3: not UTF-8"),
        (("odd",), b"one\nt\xe4wo\n", "<stdin>:2: not UTF-8"),
    ):
        done = seqkit("score", *words, stdin=stdin)
        assert (done.code, done.out) == (1, "") and done.error_line.startswith(where)


def test_s11_unequal_line_counts_name_both(seqkit: InProcess, files: Path) -> None:
    write(files / "short", REFERENCE[:59])
    write(files / "one", REFERENCE[:1])
    (files / "none").write_bytes(b"")
    for words, said in (
        (("ref.en", "short"), "short has 59 lines but ref.en has 60 lines"),
        (("short", "ref.en"), "ref.en has 60 lines but short has 59 lines"),
        (("ref.en", "lstm.hyp", "one"), "one has 1 line but ref.en has 60 lines"),
        (("ref.en", "lstm.hyp", "--ref", "short"), "short has 59 lines but ref.en has 60 lines"),
        (("ref.en", "lstm.hyp", "--by-length", "--source", "short"), "short has 59 lines but ref.en has 60 lines"),
        (("ref.en", "none"), "none has 0 lines but ref.en has 60 lines"),
        (("none", "none"), "none: is empty: there is nothing to score"),
    ):
        done = seqkit("score", *words)
        assert (done.code, done.out) == (1, "") and done.error_line == said


@pytest.mark.parametrize("hypotheses", [[""] * 60, REFERENCE, ["\u2603"] * 60], ids=["empty", "perfect", "disjoint"])
def test_degenerate_systems_score_quietly(seqkit: InProcess, files: Path, hypotheses: list[str]) -> None:
    write(files / "hyp", hypotheses)
    words = ("ref.en", "lstm.hyp", "hyp", "--metric", "bleu", "chrf", "ter", "--bootstrap", "--samples", 20)
    done = seqkit("score", *words, "--by-length", "--by-sentence", "-v")
    assert done.code == 0 and "Traceback" not in done.err and "nan" not in done.out
    found = facts(seqkit, *words)["systems"][1]["scores"]
    expected = {"bleu": 100.0, "chrf": 100.0, "ter": 0.0} if hypotheses == REFERENCE else {"bleu": 0.0, "chrf": 0.0}
    for key, value in expected.items():
        assert found[key]["score"] == pytest.approx(value)


# What is said.


def test_tokenized_text_is_noticed(seqkit: InProcess, tmp_path: Path) -> None:
    write(tmp_path / "ref", ["A cat."] * 120)
    write(tmp_path / "hyp", ["A cat ."] * 120)
    done = seqkit("score", "ref", "hyp")
    assert done.code == 0 and done.err.count("hyp looks tokenized") == 1
    for words in (("hyp", "ref"), ("ref", "hyp", "--metric", "chrf"), ("ref", "hyp", "--tokenize", "none")):
        assert seqkit("score", *words).err == ""


def test_equal_systems_are_noticed(seqkit: InProcess, files: Path) -> None:
    (files / "copy.hyp").write_bytes((files / "lstm.hyp").read_bytes())
    done = seqkit("score", "ref.en", "lstm.hyp", "copy.hyp", "--bootstrap", "--samples", 20)
    assert "lstm.hyp and copy.hyp have the same BLEU: p says nothing" in done.err


def test_verbose_tells_the_parts(seqkit: InProcess, files: Path) -> None:
    assert "brevity_penalty" in seqkit("score", "ref.en", "lstm.hyp", "-v").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "blue"], "did you mean bleu?"),
        (["--tokenize", "13b"], "did you mean 13a?"),
        (["--tokenize", "flores200"], "--tokenize: expected one of"),
        (["--smooth-method", "flor"], "did you mean floor?"),
        (["--smooth-value", "0.5"], "smooth_value is for smooth_method floor and add-k, not exp"),
        (["--smooth-value", "0", "--smooth-method", "floor"], "--smooth-value: must be above 0"),
        (["--chrf-beta", "0", "--metric", "chrf"], "--chrf-beta: must be at least 1"),
        (["--width", "-1"], "--width: must be at least 0"),
        (["--chrf-beta", "3"], "--chrf-beta changes chrf, which is not computed"),
        (["--chrf-word-order", "1", "--metric", "chrf++"], "--chrf-word-order changes chrf"),
        (["--ter-normalized"], "--ter-normalized changes ter"),
        (["--lowercase", "--metric", "ter"], "--lowercase changes bleu"),
        (["--bootstrap", "--approximate-randomization"], "not both"),
        (["--approximate-randomization"], "name a second HYP"),
        (["--samples", "10"], "--samples does nothing without --bootstrap"),
        (["--seed", "1"], "--seed does nothing without"),
        (["--source", "src.de"], "--source does nothing without"),
        (["--length-unit", "characters"], "--length-unit does nothing without"),
        (["--by-length", "--length-bounds", "10,x"], "--length-bounds: expected whole numbers"),
        (["--by-length", "--length-bounds", "20,10"], "length_bounds must rise, found 20, 10"),
        (["--by-length", "--length-unit", "pieces"], "--length-unit: expected one of words, characters"),
        (["--score-only", "--json"], "leave it or --json out"),
        (["--score-only", "--by-length"], "leave it or --by-length out"),
        (["--score-only", "--bootstrap"], "leave it or --bootstrap out"),
        (["--score-only", "--worst", "1"], "leave it or --worst out"),
        (["--json", "--plot", "-"], "both write to stdout"),
        (["lstm.hyp", "transformer.hyp", "--worst", "1"], "--worst compares two systems, found 3"),
        (["chrff"], "chrff: no such file"),
        (["--metrc", "bleu"], "did you mean --metric?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_requests_that_make_no_sense(seqkit: InProcess, files: Path, words: list[str], said: str) -> None:
    done = seqkit("score", "ref.en", "lstm.hyp", *words)
    assert (done.code, done.out) == (2, "") and said in done.error_line, done.err


def test_no_reference_or_no_file(seqkit: InProcess, files: Path) -> None:
    assert "'REF'" in seqkit("score", "--json").error_line
    for words in (("nothing.en", "lstm.hyp"), ("ref.en", "nothing.hyp"), ("ref.en", "lstm.hyp", "--ref", "nothing")):
        done = seqkit("score", *words)
        assert done.code == 2 and done.error_line.startswith("nothing") and "no such file" in done.error_line
    done = seqkit("score", "ref.en", files)
    assert done.code == 1 and "is a folder" in done.error_line


# Recipes.


def test_r11_a_recipes_section_and_flags_over_it(seqkit: InProcess, files: Path) -> None:
    (files / "recipe.yaml").write_text(
        "task: seq2seq\n"
        "data: {train: {src: src.de, tgt: ref.en}, valid: {src: src.de, tgt: ref.en}}\n"
        "tokenizer: {type: word}\n"
        "model: {type: transformer}\n"
        "train: {max_steps: 1}\n"
        "score: {metric: [ter, bleu], lowercase: true, width: 3, bootstrap: true, samples: 20}\n"
    )
    validated = seqkit("recipe", "validate", "recipe.yaml")
    assert validated.code == 0, validated.err
    told = facts(seqkit, "ref.en", "lstm.hyp", "--recipe", "recipe.yaml")
    found = told["systems"][0]["scores"]
    assert list(found) == ["ter", "bleu"] and "case:lc" in found["bleu"]["signature"]
    assert told["test"] == {"name": "bootstrap", "num_samples": 20, "seed": 12345, "baseline": None}
    words = ("ref.en", "lstm.hyp", "transformer.hyp", "--recipe", "recipe.yaml", "--metric", "bleu", "--cased")
    told = facts(seqkit, *words, "--approximate-randomization")
    found = told["systems"][0]["scores"]
    assert list(found) == ["bleu"] and "case:mixed" in found["bleu"]["signature"]
    assert told["test"]["name"] == "approximate randomization"
    done = seqkit("score", *words, "--score-only")
    assert all(len(line.partition(".")[2]) == 3 for line in done.out.split()), "the recipe's width"


def test_a_recipe_without_such_a_section(seqkit: InProcess, files: Path) -> None:
    done = seqkit("score", "ref.en", "lstm.hyp", "--recipe", "hello")
    assert done.code == 2 and "task lm has no such section `score`" in done.error_line


# The process.


def test_u1_no_torch_and_no_drawing_library(files: Path) -> None:
    code = (
        "import sys\n"
        "from seqkit.cli.app import run\n"
        "words = ['score', 'ref.en', 'lstm.hyp', 'transformer.hyp', '--bootstrap', '--samples', '5', '--plot', '-']\n"
        "assert run(words) == 0\n"
        "heavy = {'torch', 'matplotlib', 'rich', 'tokenizers', 'sacrebleu.sacrebleu'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=files, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_s7_a_reader_that_leaves(files: Path) -> None:
    write(files / "many", ["a b c"] * 20000)
    program = " ".join([*REAL, "score", "many", "many", "--by-sentence", "--score-only"])
    script = f"{program} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=files, capture_output=True, env=clean_environment(), check=True, text=True
    )
    assert (done.stdout, done.stderr) == ("100.0\n141\n", "")


def test_c1_any_locale(files: Path) -> None:
    write(files / "h\u00fcp", REFERENCE)
    words = [*REAL, "score", "ref.en", "h\u00fcp", "lstm.hyp", "--by-length"]
    environment = {**clean_environment(), "LC_ALL": "C"}
    done = subprocess.run(words, cwd=files, capture_output=True, env=environment, check=True)
    assert "≤10" in done.stdout.decode() and "h\u00fcp" in done.stdout.decode() and done.stderr == b""
