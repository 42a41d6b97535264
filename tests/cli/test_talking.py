"""Talking, rows T1 to T8: help, suggestions, progress, colours, levels, JSON lines, versions."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import pytest
from commandline import Done, ForkServer, InProcess, Tiny, clean_environment

import seqkit as package

COMMANDS = [
    [],
    ["train"],
    ["sample"],
    ["evaluate"],
    ["score"],
    ["bpe"],
    ["bpe", "learn"],
    ["bpe", "encode"],
    ["bpe", "decode"],
    ["bpe", "inspect"],
    ["bpe", "convert"],
    ["recipe"],
    ["recipe", "ls"],
    ["recipe", "show"],
    ["recipe", "cp"],
    ["recipe", "validate"],
    ["recipe", "resolve"],
    ["recipe", "schema"],
    ["runs"],
    ["runs", "ls"],
    ["runs", "show"],
    ["data"],
    ["data", "ls"],
    ["data", "fetch"],
    ["data", "path"],
    ["env"],
]
GROUPS = [[], ["recipe"], ["runs"], ["data"], ["train"], ["score"], ["bpe"]]
ESCAPE = "\033"


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_t1_help_is_on_stdout_with_examples(seqkit: InProcess, words: list[str], flag: str) -> None:
    done = seqkit(*words, flag)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: " + " ".join(["seqkit", *words]))
    examples = done.out.partition("Examples:\n")[2].strip().split("\n")
    assert examples[0], "no examples"
    assert all("seqkit" in line for line in examples)
    assert ESCAPE not in done.out


@pytest.mark.parametrize("words", GROUPS, ids=" ".join)
def test_t1_no_arguments_is_help_on_stderr(seqkit: InProcess, words: list[str]) -> None:
    done = seqkit(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: seqkit") and "Examples:" in done.err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["trian", "x"], "train"),
        (["recipe", "valdate"], "validate"),
        (["runs", "lss"], "ls"),
        (["train", "x", "--resum"], "--resume"),
        (["train", "x", "--jso"], "--json"),
        (["train", "x", "--dry"], "--dry-run"),
        (["train", "x", "--run-dri", "d"], "--run-dir"),
        (["--versio"], "--version"),
        (["sample", "--temp", "1"], "--temperature"),
        (["sample", "--temprature", "1"], "--temperature"),
        (["evaluate", "--perline"], "--per-line"),
        (["evaluate", "--js"], ""),
        (["train", "TINY", "--set", "model.d_modle=4"], "d_model"),
        (["train", "TINY", "--set", "train.sequence_lenght=4"], "sequence_length"),
        (["train", "TINY", "--set", "model.type=lstn"], "lstm"),
        (["train", "TINX"], "tiny.yaml"),
        (["train", "hallo"], "hello"),
        (["recipe", "show", "hallo"], "hello"),
        (["runs", "show", "tiny/NAMF"], "tiny/NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_t2_a_typo_names_the_nearest_and_runs_nothing(
    tiny: Tiny, seqkit: InProcess, tmp_path: Path, words: list[str], near: str
) -> None:
    swaps = {
        "TINY": str(tiny.recipe),
        "TINX": str(tiny.folder / "tinx.yaml"),
        "tiny/NAMF": f"tiny/{tiny.run.name[:-1]}#",
    }
    near = near.replace("NAME", tiny.run.name)
    words = [swaps.get(word, word) for word in words]
    if words[0] == "runs" and len(words) > 2:
        words += ["--runs-dir", str(tiny.runs)]
    done = seqkit(*words)
    assert done.code == 2 and done.out == ""
    message = done.error_line + done.err.partition("hint: ")[2]
    if near:
        assert re.search(r"did you mean '?\S*" + re.escape(near) + r"'?\?", message), message
    assert not (tmp_path / "runs").exists()


def test_t2_no_flag_may_be_abbreviated(tiny: Tiny, seqkit: InProcess) -> None:
    for words in (["env", "--jso"], ["runs", "ls", "--runs", "x"], ["sample", "--len", "3", "--model", tiny.run]):
        done = seqkit(*words)
        assert done.code == 2 and "no such option" in done.error_line


def train_in(
    fork_server: ForkServer, tiny: Tiny, folder: Path, *words: object, env: dict[str, str] | None = None, terminal: bool
) -> Done:
    """Train with stderr a pseudo-terminal, or a file; return what was written."""
    settings = {"SEQKIT_CACHE_DIR": str(tiny.cache), "SEQKIT_RUNS_DIR": str(folder / "runs"), **(env or {})}
    command = ["train", tiny.recipe, "--set", "train.max_steps=12", *words]
    if not terminal:
        return fork_server.start(*command, folder=folder, env=settings).wait()
    main, side = os.openpty()
    process = fork_server.start(*command, folder=folder, env=settings, stderr=Path(os.ttyname(side)))
    os.set_blocking(main, True)
    pieces: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                return
            if not piece:
                return
            pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    done = process.wait()
    os.close(side)
    reader.join()
    os.close(main)
    return Done(done.code, done.out, b"".join(pieces).decode().replace("\r\n", "\n"))


def test_t3_a_terminal_gets_a_live_bar_and_stdout_only_the_folder(
    fork_server: ForkServer, tiny: Tiny, tmp_path: Path
) -> None:
    done = train_in(fork_server, tiny, tmp_path, "--set", "train.max_steps=150", terminal=True)
    assert done.code == 0, done.err
    assert "\033[?25l" in done.err and "\033[?25h" in done.err, "the cursor is hidden and shown again"
    frames = re.split(r"[\r\n]|\033\[2K", re.sub(r"\033\[[0-9;]*m", "", done.err))
    assert max(len(frame) for frame in frames if "━" in frame) <= 80
    assert "━" in done.err and re.search(r"step \d+", done.err) and "left" in done.err
    assert done.out.count("\n") == 1 and (Path(done.out.rstrip("\n")) / "run.json").is_file()


@pytest.mark.parametrize(
    ("terminal", "words", "env"),
    [
        (False, [], {}),
        (False, [], {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "true"}),
        (True, [], {"TERM": "dumb"}),
        (True, ["-q"], {}),
        (True, ["--log-format", "jsonl"], {}),
    ],
    ids=["file", "forced colour", "dumb", "quiet", "jsonl"],
)
def test_t3_no_bar_and_no_escape_codes(
    fork_server: ForkServer, tiny: Tiny, tmp_path: Path, terminal: bool, words: list[str], env: dict[str, str]
) -> None:
    done = train_in(fork_server, tiny, tmp_path, *words, env=env, terminal=terminal)
    assert done.code == 0 and ESCAPE not in done.err and "━" not in done.err
    if words == ["-q"]:
        assert done.err == ""
    elif not words:
        steps = [int(step) for step in re.findall(r"^step (\d+) +\d+ %  train", done.err, flags=re.M)]
        assert steps == list(range(2, 13, 2)), "a line every train.log_every steps"


def test_t3_log_every_can_be_a_flag(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("train", tiny.recipe, "--log-every", 6)
    assert re.findall(r"^step (\d+) +\d+ %  train", done.err, flags=re.M) == ["6", "12"]


@pytest.mark.parametrize(
    ("words", "env"), [([], {"NO_COLOR": "1"}), (["--no-color"], {})], ids=["NO_COLOR", "--no-color"]
)
def test_t4_a_bar_without_colours(
    fork_server: ForkServer, tiny: Tiny, tmp_path: Path, words: list[str], env: dict[str, str]
) -> None:
    done = train_in(fork_server, tiny, tmp_path, *words, "--set", "train.max_steps=40", env=env, terminal=True)
    assert done.code == 0 and re.findall(r"\033\[[0-9;]*m", done.err) == []


def test_t4_errors_are_red_in_a_terminal_alone(fork_server: ForkServer, tiny: Tiny, tmp_path: Path) -> None:
    wrong = ["--set", "model.d_model=0"]
    assert "\033[31merror:" in train_in(fork_server, tiny, tmp_path, *wrong, terminal=True).err
    plain = [
        train_in(fork_server, tiny, tmp_path, *wrong, terminal=False),
        train_in(fork_server, tiny, tmp_path, *wrong, "--no-color", terminal=True),
        train_in(fork_server, tiny, tmp_path, *wrong, env={"NO_COLOR": "1"}, terminal=True),
        train_in(fork_server, tiny, tmp_path, *wrong, env={"TERM": "dumb"}, terminal=True),
    ]
    assert [(done.code, ESCAPE in done.err) for done in plain] == [(2, False)] * 4


def test_t5_levels(tiny: Tiny, seqkit: InProcess) -> None:
    words = ["train", tiny.recipe]
    assert seqkit(*words, "-q").err == "" == seqkit("-q", *words).err
    default = seqkit(*words).err
    assert "valid" in default and "done in" in default and "saved" not in default
    verbose = seqkit(*words, "-v").err
    assert "saved " in verbose
    assert "saved " in seqkit("-v", *words).err
    debug = seqkit(*words, "-vv")
    assert debug.code == 0 and "saved " in debug.err
    for quiet in (
        ["sample", "--model", tiny.run, "-q"],
        ["evaluate", "--runs-dir", tiny.runs, "-q"],
        ["runs", "ls", "-q"],
    ):
        assert seqkit(*quiet).err == ""


def test_t5_sample_tells_its_seed_with_v(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("sample", "--model", tiny.run, "-v")
    seed = re.search(r"^seed (\d+)$", done.err, flags=re.M)
    assert seed is not None and "(--model)" in done.err
    assert seqkit("sample", "--model", tiny.run, "--seed", seed[1]).out == done.out


def test_t6_each_line_of_stderr_is_an_object(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("train", tiny.recipe, "--log-format", "jsonl")
    assert done.code == 0
    for record in done.records:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
        assert record["level"] in ("debug", "verbose", "info", "warning", "error")
        assert record["event"] and record["message"]
    events = [record["event"] for record in done.records]
    assert {"start", "step", "evaluation", "sample", "done"} <= set(events)
    step = next(record for record in done.records if record["event"] == "step")
    assert step["step"] == 2 and isinstance(step["loss"], float) and isinstance(step["learning_rate"], float)


def test_t6_errors_too_wherever_they_arise(tiny: Tiny, seqkit: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (
        ["train", tiny.recipe, "--set", "model.x=1", "--set", "train.y=2", "--log-format", "jsonl"],
        ["--log-format=jsonl", "evaluate", "--model", tiny.run, "nothing.txt"],
        ["--log-format", "jsonl", "trian"],
        ["train", "--log-format", "jsonl", "--bogus"],
    ):
        done = seqkit(*words)
        (record,) = [record for record in done.records if record["level"] == "error"]
        assert done.code == 2 == record["exit_code"] and record["event"] == "error" and record["errors"]
    monkeypatch.setenv("SEQKIT_LOG_FORMAT", "jsonl")
    assert seqkit("runs", "lss").records[0]["level"] == "error"
    assert seqkit("runs", "ls").records[0]["message"].startswith("no runs under")


def test_t6_a_flag_wins_over_the_environment(seqkit: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQKIT_LOG_FORMAT", "jsonl")
    for words in (["--log-format", "text", "runs", "ls"], ["runs", "ls", "--log-format", "text"]):
        assert seqkit(*words).err.startswith("no runs under")


def test_t7_nothing_is_overwritten_without_force(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    for extra in ((), ("--resume",)):
        done = seqkit("train", tiny.recipe, "--run-dir", full, *extra)
        assert done.code == 2 and "not empty" in done.error_line
        assert [path.name for path in full.iterdir()] == ["thesis.tex"]


def test_t8_versions(seqkit: InProcess) -> None:
    assert seqkit("--version") == Done(0, f"seqkit {package.__version__}\n", "")
    told = seqkit("env").out
    facts = json.loads(seqkit("env", "--json").out)
    for key in ("seqkit", "python", "torch", "devices", "threads"):
        assert re.search(rf"^{key} +{re.escape(str(facts[key]))}$", told, flags=re.M)


def test_a_message_cannot_paint_the_terminal(seqkit: InProcess) -> None:
    done = seqkit("evaluate", "--model", "no\033[2Jsuch\nmodel")
    assert done.code == 2 and ESCAPE not in done.err
    assert done.error_line == r"--model no\x1b[2Jsuch\nmodel: no such folder"


def test_the_environment_of_the_tests_is_clean() -> None:
    assert not [name for name in clean_environment() if name.startswith("SEQKIT_")]
