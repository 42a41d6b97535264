"""``seqkit bpe inspect`` and ``convert``, as a shell sees them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commandline import InProcess


@pytest.fixture
def bpe(bpe_examples: Path) -> Path:
    return bpe_examples / "bpe.json"


@pytest.fixture
def low(bpe_examples: Path) -> Path:
    return bpe_examples / "low.json"


def test_inspect_shows_the_tokenizer(seqkit: InProcess, low: Path) -> None:
    done = seqkit("bpe", "inspect", "--tokenizer", low, "--merges", 2)
    assert (done.code, done.err) == (0, "")
    told = dict(re.findall(r"^ *(\S.*?)  +(.+)$", done.out, flags=re.M))
    assert (told["type"], told["pieces"], told["merges"], told["alphabet"]) == ("bpe", "28", "10", "10 characters")
    assert done.out.endswith("first 2 of 10 merges\n  1  e s       es\n  2  es t</w>  est</w>\n")
    facts = json.loads(seqkit("bpe", "inspect", "--tokenizer", low, "--json").out)
    assert facts["merges"][:2] == [["e", "s"], ["es", "t</w>"]] and facts["text"] is None
    parts = len(facts["special_tokens"]) + facts["num_bytes"] + facts["num_symbols"] + facts["num_merged"]
    assert parts == facts["vocab_size"] == 28
    rows = seqkit("bpe", "inspect", "--tokenizer", low, "--vocabulary").out.removesuffix("\n").split("\n")
    assert rows[:4] == ["0\t<pad>", "1\t<unk>", "2\t<s>", "3\t</s>"] and len(rows) == 28
    listed = json.loads(seqkit("bpe", "inspect", "--tokenizer", low, "--vocabulary", "--json").out)
    assert [f"{number}\t{piece}" for number, piece in enumerate(listed["pieces"])] == rows


def test_inspect_traces_the_merging_of_a_word(seqkit: InProcess, low: Path) -> None:
    words = [part for word in ("lowest", "lower") for part in ("--word", word)]
    done = seqkit("bpe", "inspect", "--tokenizer", low, *words)
    assert done.out == (
        "lowest\n"
        "  l o w e s t</w>\n"
        "  l o w es t</w>   e + s, merge 1\n"
        "  l o w est</w>    es + t</w>, merge 2\n"
        "  lo w est</w>     l + o, merge 3\n"
        "lower\n"
        "  l o w e r</w>\n"
        "  lo w e r</w>   l + o, merge 3\n"
    )
    lowest, lower = json.loads(seqkit("bpe", "inspect", "--tokenizer", low, *words, "--json").out)["words"]
    assert lowest["pieces"] == ["lo", "w", "est</w>"] and lower["word"] == "lower"
    assert lowest["steps"][1] == {"symbols": ["l", "o", "w", "es", "t</w>"], "merge": ["e", "s"], "rank": 1}
    for wrong in ("", "two words", "a\nb"):
        assert seqkit("bpe", "inspect", "--tokenizer", low, "--word", wrong).code == 2


def test_inspect_measures_a_text(seqkit: InProcess, low: Path, bpe: Path) -> None:
    text = b"low lower\n\nnewest  xx\nlow"
    facts = json.loads(seqkit("bpe", "inspect", "--tokenizer", low, "--json", stdin=text).out)["text"]
    # low | lo w e r | newest, the empty word, two <unk> | low
    expected = {
        "num_lines": 4,
        "num_words": 5,
        "num_tokens": 10,
        "num_chars": 19,
        "num_unknown": 2,
        "num_bytes": 0,
        "num_pieces_used": 8,
    }
    assert {key: facts[key] for key in expected} == expected
    assert (facts["tokens_per_word"], facts["coverage"]) == (2.0, 17 / 19)
    assert [one["piece"] for one in facts["longest"]][:2] == ["newest</w>", "low</w>"]
    assert facts["rarest"][0]["count"] == 1 and {"piece": "low</w>", "count": 2} in [
        {"piece": one["piece"], "count": one["count"]} for one in facts["rarest"]
    ]
    Path("a").write_bytes(text)
    Path("b").write_bytes(b"\xe2\x98\x83 low\n")
    done = seqkit("bpe", "inspect", "--tokenizer", bpe, "a", "b", "--top", 2)
    told = dict(re.findall(r"^(\S.*?)  +(.+)$", done.out, flags=re.M))
    assert told["lines"] == "5" and told["words"].startswith("7 ")
    assert told["bytes"].startswith("5 tokens"), "three of the snow man, two of the xx"
    assert done.out.count(" ×  ") == 4
    both = seqkit("bpe", "inspect", "--tokenizer", bpe, "a", "-", "--json", stdin=Path("b").read_bytes())
    assert json.loads(both.out)["text"]["num_words"] == 7


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--word", "a", "--vocabulary"], 2, "one of them"),
        (["text", "--word", "a"], 2, "one of them"),
        (["-", "-"], 2, "stdin can be read only once"),
        (["nothing.txt"], 2, "nothing.txt: no such file"),
        (["-"], 1, "the text has no word"),
    ],
)
def test_inspect_refuses_in_one_line(seqkit: InProcess, low: Path, words: list[str], code: int, message: str) -> None:
    done = seqkit("bpe", "inspect", "--tokenizer", low, *words, stdin=b"\n \n")
    assert (done.code, done.out) == (code, "") and message in done.error_line


def test_inspect_paints_no_terminal(seqkit: InProcess, bpe: Path) -> None:
    done = seqkit("bpe", "inspect", "--tokenizer", bpe, "--word", "a\033[2Jb\u2028c")
    assert done.code == 0 and "\033" not in done.out and "\u2028" not in done.out


# Conversion


def test_convert_from_subword_nmt_and_back(seqkit: InProcess) -> None:
    codes = "#version: 0.2\ne s\nes t</w>\nl o\n"
    Path("codes").write_text(codes)
    Path("vocab").write_text("est</w> 9\nlo@@ 7\n")
    done = seqkit("bpe", "convert", "codes", "-o", "t.json")
    assert (done.code, done.out) == (0, "t.json\n") and "3 merges from subword-nmt to seqkit" in done.err
    encoded = seqkit("bpe", "encode", "--tokenizer", "t.json", stdin="lowest Öl,\n".encode())
    assert encoded.out == "lo@@ w@@ est Ö@@ l@@ ,\n"
    assert seqkit("bpe", "decode", "--tokenizer", "t.json", stdin=encoded.out.encode()).out == "lowest Öl,\n"
    dropped = seqkit("bpe", "encode", "--tokenizer", "t.json", "--dropout", 1, stdin="lowest Öl,\n".encode())
    assert dropped.out == "l@@ o@@ w@@ e@@ s@@ t Ö@@ l@@ ,\n"
    back = seqkit("bpe", "convert", "t.json", "--to", "subword-nmt", "-o", "again", "--write-vocabulary", "words")
    assert (back.code, back.out) == (0, "words\nagain\n") and Path("again").read_text() == codes
    assert "lo@@ 1" in Path("words").read_text().split("\n")
    Path("text").write_text("lo lost lost\n")
    counted = seqkit("bpe", "convert", "t.json", "--to", "subword-nmt", "-o", "-", *_counting("text"))
    assert (counted.out, counted.code) == (codes, 0)
    assert "lo@@ 2" in Path("words").read_text().split("\n")
    with_ids = seqkit("bpe", "convert", "codes", "--vocabulary", "words", "-o", "ids.json")
    assert with_ids.code == 0, with_ids.err


def _counting(text: str) -> list[str]:
    return ["--write-vocabulary", "words", "--count-in", text]


def test_convert_to_hugging_face_and_back(seqkit: InProcess, bpe: Path) -> None:
    done = seqkit("bpe", "convert", bpe, "--to", "huggingface", "-o", "hf.json")
    assert (done.code, done.out) == (0, "hf.json\n")
    assert seqkit("bpe", "convert", "hf.json", "-o", "t.json").code == 0
    assert Path("t.json").read_text() == bpe.read_text()
    assert seqkit("bpe", "convert", "hf.json", "--from", "huggingface", "--to", "seqkit", "-o", "-").out == (
        bpe.read_text()
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["BPE"], 2, "give --output FILE"),
        (["BPE", "-o", "x"], 2, "is seqkit's own: say what to make of it"),
        (["BPE", "-o", "x", "--to", "seqkit"], 2, "is of seqkit already"),
        (["BPE", "-o", "x", "--to", "subword-nmt"], 2, "which knows no boundary start"),
        (["BPE", "-o", "x", "--to", "huggingface", "--vocabulary", "v"], 2, "--vocabulary is for codes of subword-nmt"),
        (["BPE", "-o", "x", "--to", "huggingface", "--write-vocabulary", "v"], 2, "needs --to subword-nmt"),
        (["BPE", "-o", "x", "--to", "subword-nmt", "--count-in", "v"], 2, "--count-in needs --write-vocabulary"),
        (["nothing", "-o", "x"], 2, "nothing: no such tokenizer file"),
        (["noise", "-o", "x"], 2, "noise: neither a tokenizer.json nor codes of subword-nmt"),
        (["noise", "-o", "x", "--from", "subword-nmt"], 1, "noise: line 1: expected '#version: 0.2'"),
        (["codes", "-o", "x"], 1, "codes: line 3: expected two pieces"),
        (["codes", "-o", "x", "--vocabulary", "nothing"], 2, "nothing: no such file"),
        (["hf.json", "-o", "x"], 1, "hf.json: "),
        (["BPE", "-o", "x", "--to", "hugingface"], 2, "'hugingface' is not one of"),
    ],
)
def test_convert_refuses_in_one_line(seqkit: InProcess, bpe: Path, words: list[str], code: int, message: str) -> None:
    Path("noise").write_text("a b\n")
    Path("codes").write_text("#version: 0.2\na b\nc\n")
    Path("hf.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "ignore_merges": true}}')
    done = seqkit("bpe", "convert", *[str(bpe) if word == "BPE" else word for word in words])
    assert (done.code, done.out) == (code, "") and message in done.error_line
    assert not Path("x").exists()
