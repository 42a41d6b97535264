"""``seqkit bpe encode`` and ``decode`` as a shell sees them, and how they find their tokenizer."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bpe_examples import ODD_LINES, TEXT
from commandline import REAL, Done, ForkServer, InProcess, Tiny, clean_environment, wait_until


@pytest.fixture
def bpe(bpe_examples: Path) -> Path:
    return bpe_examples / "bpe.json"


@pytest.fixture
def low(bpe_examples: Path) -> Path:
    return bpe_examples / "low.json"


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("ids", [(), ("--ids",)])
@pytest.mark.parametrize("batch", [(), ("--batch-size", 1), ("--batch-size", 4)])
def test_s4_decode_undoes_encode_line_by_line(
    seqkit: InProcess, bpe: Path, end: str, ids: tuple[str, ...], batch: tuple[object, ...]
) -> None:
    text = ("\n".join(ODD_LINES) + end).encode()
    encoded = seqkit("bpe", "encode", "--tokenizer", bpe, *ids, *batch, stdin=text)
    assert (encoded.code, encoded.err) == (0, "")
    rows = encoded.out.split("\n")
    assert len(rows) == len(ODD_LINES) + bool(end)
    assert [bool(row) for row in rows[: len(ODD_LINES)]] == [bool(line) for line in ODD_LINES]
    if ids:
        assert re.fullmatch(r"[0-9 \n]*", encoded.out)
    decoded = seqkit("bpe", "decode", "--tokenizer", bpe, *ids, *batch, stdin=encoded.out.encode())
    assert (decoded.code, decoded.out.encode()) == (0, text)


def test_no_line_gives_no_line(seqkit: InProcess, bpe: Path) -> None:
    for name in ("encode", "decode"):
        assert seqkit("bpe", name, "--tokenizer", bpe, stdin=b"") == Done(0, "", "")
        assert seqkit("bpe", name, "--tokenizer", bpe, stdin=b"\n\n") == Done(0, "\n\n", "")


def test_encode_writes_pieces_and_ids(seqkit: InProcess, low: Path) -> None:
    pieces = seqkit("bpe", "encode", "--tokenizer", low, stdin=b"lowest newest\n")
    assert pieces.out == "lo@@ w@@ est newest\n"
    ids = seqkit("bpe", "encode", "--tokenizer", low, "--ids", stdin=b"lowest newest\n")
    listed = dict(
        line.split("\t") for line in seqkit("bpe", "inspect", "--tokenizer", low, "--vocabulary").out.split("\n")[:-1]
    )
    assert [listed[number] for number in ids.out.split()] == ["lo", "w", "est</w>", "newest</w>"]


def test_s9_one_object_a_line(seqkit: InProcess, bpe: Path, low: Path) -> None:
    for end in ("\n", ""):
        stdin = ("\n".join(ODD_LINES) + "x" + end).encode()
        told = objects(seqkit("bpe", "encode", "--tokenizer", bpe, "--json", stdin=stdin).out)
        assert [one["input"] for one in told] == [*ODD_LINES[:-1], ODD_LINES[-1] + "x"]
        written = seqkit("bpe", "encode", "--tokenizer", bpe, stdin=stdin).out.removesuffix("\n").split("\n")
        assert [" ".join(one["output"]) for one in told] == written
        assert told[0]["output"] == told[0]["ids"] == []
        assert all(len(one["output"]) == len(one["ids"]) for one in told)
        ids = "\n".join(" ".join(map(str, one["ids"])) for one in told) + end
        back = seqkit("bpe", "decode", "--tokenizer", bpe, "--ids", "--json", stdin=ids.encode())
        assert [one["output"] for one in objects(back.out)] == [one["input"] for one in told]
        assert [one["input"] for one in objects(back.out)] == ids.removesuffix("\n").split("\n")
    spaced = objects(seqkit("bpe", "encode", "--tokenizer", low, "--json", stdin=b" low \n").out)[0]
    assert spaced["output"] == ["", "low", ""] and len(spaced["ids"]) == 3


@pytest.mark.parametrize("ids", [(), ("--ids",), ("--json",)])
def test_dropout_follows_from_seed_and_line_alone(seqkit: InProcess, bpe: Path, ids: tuple[str, ...]) -> None:
    text = ("\n".join(ODD_LINES * 3) + "\n").encode()
    words = ["bpe", "encode", "--tokenizer", bpe, *ids, "--dropout", 0.3]
    first = seqkit(*words, "--seed", 1, stdin=text)
    assert first.code == 0, first.err
    for more in (("--batch-size", 1), ("--batch-size", 7), ("--workers", 2, "--batch-size", 5)):
        assert seqkit(*words, "--seed", 1, *more, stdin=text).out == first.out
    assert seqkit(*words, "--seed", 2, stdin=text).out != first.out
    lines = first.out.split("\n")
    assert lines[1] != lines[1 + len(ODD_LINES)], "the same line is cut in another way each time"
    unended = seqkit(*words, "--seed", 1, stdin=text.removesuffix(b"\n"))
    assert unended.out.removesuffix("\n") == first.out.removesuffix("\n")
    if ids != ("--json",):
        assert seqkit("bpe", "decode", "--tokenizer", bpe, *ids, stdin=first.out.encode()).out.encode() == text


def test_dropout_of_all_and_of_none(seqkit: InProcess, bpe: Path, low: Path) -> None:
    text = b"The lower cat\n"
    plain = seqkit("bpe", "encode", "--tokenizer", bpe, stdin=text).out
    assert seqkit("bpe", "encode", "--tokenizer", bpe, "--dropout", 0, stdin=text).out == plain
    assert seqkit("bpe", "encode", "--tokenizer", low, "--dropout", 1, stdin=b"lower\n").out == "l@@ o@@ w@@ e@@ r\n"


def test_dropout_writes_unseen_characters_as_encode_does(seqkit: InProcess, low: Path) -> None:
    for text in ("low x lowx xlow\n", "  x \n\nxx y\n"):
        words = ["bpe", "encode", "--tokenizer", low]
        plain = seqkit(*words, stdin=text.encode()).out
        dropped = seqkit(*words, "--dropout", 1e-9, "--seed", 1, stdin=text.encode()).out
        assert dropped == plain and "<unk>@@" in dropped


def test_dropout_tells_its_seed_with_v(seqkit: InProcess, bpe: Path) -> None:
    words = ["bpe", "encode", "--tokenizer", bpe, "--dropout", 0.5]
    done = seqkit(*words, "-v", stdin=TEXT.encode())
    seed = re.search(r"^seed (\d+)$", done.err, flags=re.M)
    assert seed is not None
    assert seqkit(*words, "--seed", seed[1], stdin=TEXT.encode()).out == done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "--seed", "1"], "--seed does nothing without --dropout"),
        (["encode", "--dropout", "1.5"], "must be at most 1"),
        (["encode", "--ids", "--json"], "leave --ids out"),
        (["encode", "--batch-size", "0"], "must be at least 1"),
        (["encode", "--workers", "0"], "must be at least 1"),
        (["encode", "nothing.txt"], "nothing.txt: no such file"),
        (["decode", "nothing.txt"], "nothing.txt: no such file"),
        (["encode", "--tokeniser", "x"], "did you mean --tokenizer?"),
        (["encdoe"], "did you mean 'encode'?"),
    ],
)
def test_2_for_a_wrong_request(seqkit: InProcess, bpe: Path, words: list[str], message: str) -> None:
    done = seqkit("bpe", *words, "--tokenizer", bpe, stdin=b"a\n")
    assert (done.code, done.out) == (2, "") and message in done.error_line


def test_s2_s6_files_and_bad_bytes(seqkit: InProcess, bpe: Path) -> None:
    Path("in.txt").write_text(TEXT)
    Path("in.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    words = ["bpe", "encode", "--tokenizer", bpe]
    expected = seqkit(*words, stdin=TEXT.encode()).out
    for source in ("in.txt", "in.txt.gz"):
        assert seqkit(*words, source).out == expected
    assert seqkit(*words, "-", "-o", "out", stdin=TEXT.encode()).out == ""
    assert Path("out").read_text() == expected
    Path("in.txt").write_bytes(TEXT.encode() * 300 + b"caf\xe9\nmore\n")
    number = TEXT.count("\n") * 300 + 1
    done = seqkit(*words, "in.txt")
    assert done.code == 1 and done.error_line.startswith(f"in.txt:{number}: not UTF-8: byte 0xe9")
    assert done.out == expected * 300
    done = seqkit(*words, "in.txt", "-o", "out")
    assert done.code == 1 and Path("out").read_text() == expected
    assert sorted(path.name for path in Path().iterdir()) == ["in.txt", "in.txt.gz", "out", "stdin"]


@pytest.mark.parametrize(
    ("words", "line", "message"),
    [
        (["--ids"], "7 999999", "token id 999999 is outside the vocabulary of 330"),
        (["--ids"], "-1", "token id -1 is outside the vocabulary"),
        (["--ids"], "7 seven", "'seven' is not a token id"),
        (["--ids"], "7\t8", r"'7\t8' is not a token id"),
        ([], "▁ nosuchpiece", "'nosuchpiece' is not a piece of this tokenizer"),
    ],
)
def test_decode_names_the_line_that_makes_no_sense(
    seqkit: InProcess, bpe: Path, words: list[str], line: str, message: str
) -> None:
    good = "7 8 9\n\n" if words else "▁ a\n\n"
    for before in (0, 5):
        stdin = (good * before + line + "\n" + good).encode()
        done = seqkit("bpe", "decode", "--tokenizer", bpe, *words, stdin=stdin)
        assert done.code == 1 and message in done.error_line
        assert done.error_line.startswith(f"<stdin>:{2 * before + 1}: ")
        assert done.out.count("\n") == 2 * before


def test_decode_keeps_lines_whatever_the_ids_are(seqkit: InProcess, bpe: Path) -> None:
    vocabulary = dict(
        line.split("\t")[::-1]
        for line in seqkit("bpe", "inspect", "--tokenizer", bpe, "--vocabulary").out.split("\n")[:-1]
    )
    ids = " ".join(vocabulary[piece] for piece in ("</s>", "<pad>", "<0x0A>", "<0xFF>", "<s>"))
    done = seqkit("bpe", "decode", "--tokenizer", bpe, "--ids", stdin=f"{ids}\n{ids}".encode())
    assert done.code == 0 and done.out.count("\n") == 1 and "\ufffd" in done.out


# Which tokenizer


def test_the_tokenizer_is_found_and_named(
    seqkit: InProcess, bpe: Path, low: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*words: object) -> Done:
        return seqkit("bpe", "encode", *words, stdin=b"lowest\n")

    with_bpe, with_low = encode("--tokenizer", bpe).out, encode("--tokenizer", low).out
    assert with_bpe != with_low
    nothing = encode()
    assert (nothing.code, nothing.out) == (2, "") and nothing.error_line.startswith("no tokenizer")
    assert "hint: name one with --tokenizer or SEQKIT_TOKENIZER" in nothing.err

    runs = tmp_path / "runs" / "some"
    for name, tokenizer, end in (("old", bpe, "2026-01-01"), ("new", low, "2026-02-01"), ("char", None, "2026-03-01")):
        shutil.copytree(tiny.run, runs / name, symlinks=True)
        record = json.loads((runs / name / "run.json").read_text())
        (runs / name / "run.json").write_text(json.dumps({**record, "end": end}))
        for file in (runs / name).glob("checkpoints/*/tokenizer.json"):
            if tokenizer is not None:
                shutil.copyfile(tokenizer, file)
    newest = encode()
    assert (newest.out, newest.err) == (with_low, f"tokenizer {runs / 'new'} (newest run)\n")
    assert encode("--runs-dir", "nowhere").code == 2
    assert encode("--tokenizer", runs / "old").out == with_bpe
    assert encode("--tokenizer", runs / "old" / "last").out == with_bpe
    shutil.copyfile(bpe, "tokenizer.json")
    here = encode()
    assert (here.out, here.err) == (with_bpe, "tokenizer tokenizer.json (in this folder)\n")
    monkeypatch.setenv("SEQKIT_TOKENIZER", str(low))
    named = encode()
    assert (named.out, named.err) == (with_low, f"tokenizer {low} (SEQKIT_TOKENIZER)\n")
    assert encode("--tokenizer", bpe) == Done(0, with_bpe, "")
    assert encode("-q") == Done(0, with_low, "")
    assert f"tokenizer {bpe} (--tokenizer)\n" == encode("--tokenizer", bpe, "-v").err


def test_a_missing_or_foreign_tokenizer_is_one_line(seqkit: InProcess, tiny: Tiny, tmp_path: Path) -> None:
    Path("hf.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}')
    Path("codes").write_text("#version: 0.2\nl o\n")
    Path("noise").write_bytes(bytes(range(256)))
    Path("other.json").write_text('{"a": 1}')
    Path("damaged.json").write_text('{"seqkit_tokenizer": 1, "type": "bpe"}')
    Path("empty").mkdir()
    for name, code, message in (
        ("nothing.json", 2, "nothing.json: no such tokenizer file or model folder"),
        ("empty", 2, "empty: no tokenizer.json in it"),
        (tiny.run, 1, "a tokenizer of type char, but this command needs one of type bpe"),
        ("hf.json", 1, "hf.json: not a tokenizer of seqkit but one of huggingface"),
        ("codes", 1, "codes: not a tokenizer of seqkit but one of subword-nmt"),
        ("noise", 1, "noise: damaged tokenizer: not UTF-8"),
        ("other.json", 1, "other.json: damaged tokenizer: no seqkit_tokenizer in it"),
        ("damaged.json", 1, "damaged.json: damaged tokenizer: the fields must be"),
    ):
        for command in ("encode", "decode", "inspect"):
            done = seqkit("bpe", command, "--tokenizer", name, stdin=b"a\n")
            assert (done.code, done.out) == (code, ""), (name, done)
            assert message in done.error_line
        if name in ("hf.json", "codes"):
            assert f"hint: seqkit bpe convert {name} --from" in done.err


# Streams


@pytest.mark.parametrize("batch", [(), ("--batch-size", 1), ("--workers", 2)])
def test_s5_each_line_is_answered_before_the_next(
    fork_server: ForkServer, bpe: Path, tmp_path: Path, batch: tuple[object, ...]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = fork_server.start("bpe", "encode", "--tokenizer", bpe, *batch, folder=tmp_path, stdin=fifo)
    with fifo.open("wb", buffering=0) as feed:
        for number in range(1, 6):
            feed.write(b"the c")
            feed.write(b"at\nthe")
            wait_until(lambda n=number: process.out.count("\n") == n, "an answer")
    assert process.wait() == Done(0, process.out, "")
    assert process.out.count("\n") == 5 and not process.out.endswith("\n")


def test_s3_a_terminal_is_not_waited_on(fork_server: ForkServer, bpe: Path, tmp_path: Path) -> None:
    main, side = os.openpty()
    for words in (
        ("encode", "--tokenizer", bpe),
        ("decode", "--tokenizer", bpe),
        ("learn", "-o", "t", "--num-merges", 1),
    ):
        done = fork_server.start("bpe", *words, folder=tmp_path, stdin=Path(os.ttyname(side))).wait()
        assert done.code == 2 and done.error_line.startswith("no input")
    os.close(main)
    os.close(side)


@pytest.mark.parametrize("workers", [1, 2])
def test_s7_a_reader_that_leaves_is_no_error(fork_server: ForkServer, bpe: Path, tmp_path: Path, workers: int) -> None:
    source, fifo = tmp_path / "many", tmp_path / "fifo"
    source.write_bytes(TEXT.encode() * 10_000)
    os.mkfifo(fifo)
    words = ("bpe", "encode", "--tokenizer", bpe, "--workers", workers)
    process = fork_server.start(*words, folder=tmp_path, stdin=source, stdout=fifo)
    with fifo.open("rb") as reader:
        assert reader.readline().startswith("▁The".encode()[:3])
    assert process.wait() == Done(141, "", "")


def shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which ``seqkit`` is the program itself."""
    program = f'seqkit() {{ "{sys.executable}" -m seqkit "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", program + script],
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_the_pipeline_of_the_manual(bpe_examples: Path) -> None:
    script = (
        "set -o pipefail\nyes 'a line' | head -200000 > lines\n"
        "seqkit bpe encode < lines | seqkit bpe decode | cmp - lines && echo same\n"
        "seqkit bpe encode --ids < lines | seqkit bpe decode --ids | cmp - lines && echo same\n"
        "yes 'a line' | seqkit bpe encode | head -1\necho ${PIPESTATUS[@]}"
    )
    done = shell(
        script, bpe_examples, SEQKIT_TOKENIZER=str(bpe_examples / "bpe.json"), LC_ALL="C", SEQKIT_LOG_FORMAT="text"
    )
    *same, line, codes = done.stdout.decode().removesuffix("\n").split("\n")
    assert same == ["same", "same"] and codes == "141 141 0" and line.startswith("▁")
    assert b"rror" not in done.stderr


def test_c1_cron_gives_utf8_both_ways(bpe_examples: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [*REAL, "bpe", "encode", "--tokenizer", str(bpe_examples / "bpe.json")]
    lines = "snow \u2603 \u2028 man\n\nMäuse".encode()
    done = subprocess.run(command, env=environment, cwd=bpe_examples, input=lines, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    back = subprocess.run(
        [*command[:-3], "decode", *command[-2:]],
        env=environment,
        cwd=bpe_examples,
        input=done.stdout,
        capture_output=True,
    )
    assert (back.returncode, back.stdout, back.stderr) == (0, lines, b"")


def test_u1_no_bpe_command_loads_torch(bpe_examples: Path, tmp_path: Path) -> None:
    for name in ("text", "bpe.json"):
        shutil.copyfile(bpe_examples / name, tmp_path / name)
    commands = [
        ["--help"],
        ["learn", "text", "-o", "again.json", "--num-merges", "3"],
        ["encode", "text", "-o", "encoded"],
        ["encode", "text", "-o", "dropped", "--dropout", "0.1"],
        ["decode", "encoded", "-o", "decoded"],
        ["inspect"],
        ["inspect", "text"],
        ["convert", "bpe.json", "-o", "hf.json", "--to", "huggingface"],
    ]
    code = (
        "import json, sys\n"
        "from seqkit.cli.app import run\n"
        f"for words in json.loads({json.dumps(commands)!r}):\n"
        "    assert run(['bpe', *words]) == 0, words\n"
        "    assert 'torch' not in sys.modules, words\n"
        "    assert 'rich' not in sys.modules, words\n"
    )
    environment = {**clean_environment(), "SEQKIT_TOKENIZER": "bpe.json"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "decoded").read_text() == TEXT
