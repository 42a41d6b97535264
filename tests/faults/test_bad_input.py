"""Bad input: each fault is one clear line with the right exit code, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, ForkServer, InProcess, Tiny, snapshot

from seqkit.runs.checkpoint import read_checkpoint


def change_file(checkpoint: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint and its line in SHA256SUMS."""
    (checkpoint / name).write_bytes(content)
    sums = (checkpoint / "SHA256SUMS").read_text().split("\n")
    changed = [
        f"{hashlib.sha256(content).hexdigest()}  {name}" if line.endswith(f"  {name}") else line for line in sums
    ]
    (checkpoint / "SHA256SUMS").write_text("\n".join(changed))


@pytest.fixture
def copied_run(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny run that a test may damage."""
    return Path(shutil.copytree(tiny.run, tmp_path / "copied", symlinks=True))


def train_on(seqkit: InProcess, tiny: Tiny, folder: Path, content: bytes, *words: object) -> Done:
    """Train on a text of one's own; the run folder must not be there afterwards."""
    text = folder / "text.txt"
    text.write_bytes(content)
    done = seqkit("train", tiny.recipe_with(folder, train=f"{text}"), "--run-dir", folder / "made" / "run", *words)
    assert not (folder / "made").exists()
    assert done.out == ""
    return done


def test_a_missing_text(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    recipe = tiny.recipe_with(tmp_path, train="nothing.txt")
    done = seqkit("train", recipe, "--run-dir", tmp_path / "made" / "run")
    assert done.code == 2 and not (tmp_path / "made").exists()
    assert done.error_line == f"{recipe}:4:10: data.train: {tmp_path}/nothing.txt: no such file"


def test_an_unfetched_data_set_says_how_to_fetch_it(
    tiny: Tiny, seqkit: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe_with(tmp_path, train="catalog:multi30k/train.de")
    monkeypatch.delenv("SEQKIT_DATA_DIR", raising=False)
    done = seqkit("train", recipe)
    assert done.code == 2 and f"{recipe}:4:10: data.train: " in done.error_line
    assert "hint: seqkit data fetch multi30k" in done.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "text.txt: is empty"),
        (b"too short\n", "batch size 4 × sequence length 8 needs at least 33"),
        (b"x", "leaves no character for training"),
        (b"the cat\nsat \xc3(\n" + b"on a mat\n" * 40, "text.txt:2: not UTF-8: byte 0xc3"),
        (b"the cat\n" * 40 + b"\xe2\x82", "text.txt:41: not UTF-8: byte 0xe2: unexpected end of data"),
    ],
    ids=["empty", "short", "one character", "not UTF-8", "cut off"],
)
def test_a_text_that_cannot_be_used(tiny: Tiny, seqkit: InProcess, tmp_path: Path, content: bytes, said: str) -> None:
    done = train_on(seqkit, tiny, tmp_path, content)
    assert done.code == 1 and said in done.error_line
    assert train_on(seqkit, tiny, tmp_path, content, "--dry-run").code == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  num_layer: 2", "changed.yaml:19:3: model.num_layer: unknown key; did you mean num_layers?"),
        ("  num_layers: two", 'changed.yaml:19:15: model.num_layers: expected a whole number, found the text "two"'),
        ("  num_layers: 0", "changed.yaml:19:15: model.num_layers: must be at least 1, found 0"),
        ("  d_model: 9", "changed.yaml:19:3: model.d_model: duplicate key; first given at 18:3"),
        ("  type: lstn", "changed.yaml:19:3: model.type: duplicate key; first given at 17:3"),
    ],
)
def test_a_recipe_that_is_wrong(tiny: Tiny, seqkit: InProcess, tmp_path: Path, line: str, said: str) -> None:
    text = tiny.recipe.read_text().replace("model: {type: gru, d_model: 8}\n", "")
    (tmp_path / "changed.yaml").write_text(f"{text}model:\n  type: gru\n  d_model: 8\n{line}\n")
    done = seqkit("train", "changed.yaml", "--run-dir", "made")
    assert done.code == 2 and done.error_line.startswith(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.yaml"]


def test_all_faults_of_a_recipe_in_one_pass(seqkit: InProcess, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "task: lm\ndata: {train: builtin:hello}\nmodel: {type: gru, d_modle: 8}\ntrain: {max_steps: x, clip_norm: -1}\n"
    )
    done = seqkit("train", "r.yaml", "--set", "sample.lenght=3")
    lines = done.err.removesuffix("\n").split("\n")
    assert done.code == 2 and len(lines) == 4 and all(line.startswith("seqkit: error: ") for line in lines)
    assert [line.split(": ")[2] for line in lines] == [
        "r.yaml:3:20",
        "r.yaml:4:20",
        "r.yaml:4:34",
        "--set sample.lenght",
    ]


@pytest.mark.parametrize(
    ("place", "code"), [("a-file", 2), ("a-file/run", 2), ("a-file/deep/er/run", 2), ("/proc/run", 1)]
)
def test_a_run_folder_that_cannot_be_made(tiny: Tiny, seqkit: InProcess, tmp_path: Path, place: str, code: int) -> None:
    (tmp_path / "a-file").write_text("here already")
    done = seqkit("train", tiny.recipe, "--run-dir", place)
    assert done.code == code and done.out == "" and done.error_line.startswith(place)
    assert (tmp_path / "a-file").read_text() == "here already"
    done = seqkit("train", tiny.recipe, "--runs-dir", place)
    assert done.code == code and place in done.error_line


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Any]:
    """Mounts a small file system in memory: ``mounted("size=1m")``."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError as error:
            pytest.skip(f"no mount: {error}")
        if done.returncode:
            pytest.skip("mounting a file system is not permitted here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def test_a_read_only_file_system(tiny: Tiny, seqkit: InProcess, mounted: Any) -> None:
    place = mounted("ro,size=1m")
    done = seqkit("train", tiny.recipe, "--run-dir", place / "run")
    assert done.code == 2 and "Read-only file system" in done.error_line
    cached = seqkit("train", tiny.recipe, "--cache-dir", place, "--run-dir", "made/run")
    assert cached.code == 1 and "cannot write the cache" in cached.error_line and not Path("made").exists()


def test_a_full_disk(tiny: Tiny, seqkit: InProcess, mounted: Any) -> None:
    place = mounted("size=200k")
    words = ["train", tiny.recipe, "--run-dir", place / "run", "--set", "train.keep_last=1000"]
    words += ["--set", "train.checkpoint_every=1", "--set", "train.max_steps=40", "-q"]
    done = seqkit(*words)
    assert done.code == 1 and done.out == ""
    assert "no space left on the disk" in done.error_line and "hint: free some space" in done.err
    kept = read_checkpoint(place / "run" / "last")  # complete
    assert not [path for path in (place / "run" / "checkpoints").iterdir() if path.name.startswith(".")]
    (place / "run" / "log.txt").unlink()
    subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
    going_on = [*words[:-5], "--set", "train.checkpoint_every=1", "--set", "train.max_steps=40"]
    short = seqkit(*going_on, "--resume", "--log-format", "jsonl", "-q")
    assert short.code == 0 and kept.facts["step"] > 0


@pytest.mark.parametrize("size", [300, 1500, 4000, 9000])
def test_files_that_may_not_grow(tiny: Tiny, fork_server: ForkServer, tmp_path: Path, size: int) -> None:
    words = ["train", tiny.recipe, "--cache-dir", tiny.cache, "--run-dir", "made/run", "-q"]
    done = fork_server.start(*words, folder=tmp_path, limits={"RLIMIT_FSIZE": size}).wait()
    assert done.code == 1 and done.out == "" and "larger than the limit" in done.error_line
    run = tmp_path / "made" / "run"
    assert not list(run.glob("checkpoints/*")) and not (run / "last").is_symlink()
    if run.exists():
        again = fork_server.start(*words, "--resume", folder=tmp_path).wait()
        assert again.code == 0


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "recipe.yaml", "model.json", "SHA256SUMS"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint(seqkit: InProcess, copied_run: Path, name: str, how: str) -> None:
    path = (copied_run / "best" / name).resolve()
    content = path.read_bytes()
    middle = len(content) // 2
    path.unlink()
    if how == "cut":
        path.write_bytes(content[:middle])
    elif how == "flipped":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    for command in ("sample", "evaluate"):
        done = seqkit(command, "--model", copied_run)
        assert done.code == 1 and done.out == ""
        assert str(path.parent) in done.error_line or "copied/" in done.error_line


def test_a_damaged_train_state_stops_a_resume_and_nothing_else(tiny: Tiny, seqkit: InProcess, copied_run: Path) -> None:
    record = json.loads((copied_run / "run.json").read_text())
    record["status"] = "interrupted"
    (copied_run / "run.json").write_text(json.dumps(record))
    state = (copied_run / "last" / "train_state.safetensors").resolve()
    state.write_bytes(state.read_bytes()[:-9])
    before = snapshot(copied_run)
    done = seqkit("train", tiny.recipe, "--run-dir", copied_run, "--resume")
    assert done.code == 1 and f"{state.name}: damaged" in done.error_line
    assert snapshot(copied_run) == before
    assert seqkit("sample", "--model", copied_run).code == 0


def test_a_checkpoint_of_another_task(seqkit: InProcess, copied_run: Path) -> None:
    checkpoint = (copied_run / "best").resolve()
    facts = json.loads((checkpoint / "model.json").read_text())
    change_file(checkpoint, "model.json", json.dumps({**facts, "task": "translate"}).encode())
    for command in ("sample", "evaluate"):
        done = seqkit(command, "--model", copied_run)
        assert done.code == 2 and done.out == ""
        assert done.error_line == f"{checkpoint}: a model for the task translate, where one for lm is needed"


def test_weights_of_another_size(seqkit: InProcess, copied_run: Path) -> None:
    checkpoint = (copied_run / "best").resolve()
    recipe = (checkpoint / "recipe.yaml").read_text().replace("d_model: 8", "d_model: 9")
    change_file(checkpoint, "recipe.yaml", recipe.encode())
    done = seqkit("sample", "--model", copied_run)
    assert done.code == 1 and "its weights do not fit its recipe" in done.error_line


def test_a_recipe_of_another_version(seqkit: InProcess, copied_run: Path) -> None:
    checkpoint = (copied_run / "best").resolve()
    change_file(checkpoint, "recipe.yaml", (checkpoint / "recipe.yaml").read_bytes() + b"from_the_future: 1\n")
    done = seqkit("sample", "--model", copied_run)
    assert done.code == 1 and "from_the_future: unknown key" in done.error_line
    assert "hint: was it written by another version of seqkit?" in done.err


def test_a_folder_that_is_no_model(seqkit: InProcess, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert seqkit("sample", "--model", "folder").error_line.startswith("folder/SHA256SUMS: missing; this folder is no")
    (tmp_path / "folder" / "checkpoints").mkdir()
    assert seqkit("sample", "--model", "folder").error_line == "folder: this run has no checkpoint yet"
    (tmp_path / "file").touch()
    assert seqkit("sample", "--model", "file").error_line == "--model file: not a folder"


def test_a_prompt_with_unseen_characters_works(tiny: Tiny, seqkit: InProcess) -> None:
    done = seqkit("sample", "--model", tiny.run, "--prompt", "snow ☃ 雪", "--length", 3)
    assert done.code == 0 and done.out.startswith("snow ☃ 雪")


def test_a_tokenizer_that_refuses_unseen_characters(tiny: Tiny, seqkit: InProcess, tmp_path: Path) -> None:
    run = tmp_path / "strict"
    words = ["--set", "tokenizer.type=char", "--set", "tokenizer.unseen=error", "--run-dir", run, "-q"]
    assert seqkit("train", tiny.recipe, *words).code == 0
    done = seqkit("sample", "--model", run, "--prompt", "snow ☃")
    assert done.code == 1 and done.out == "" and "☃" in done.error_line
    done = seqkit("sample", "--model", run, stdin="the\nsnow ☃\n".encode())
    assert done.code == 1 and "<stdin>:2: " in done.error_line
    done = seqkit("evaluate", "--model", run, "--per-line", stdin="the\n\nsnow ☃\n".encode())
    assert done.code == 1 and "<stdin>:3: " in done.error_line
    done = seqkit("evaluate", "--model", run, "-", stdin="the\nsnow ☃\n".encode())
    assert done.code == 1 and "☃" in done.error_line and "/tmp" not in done.error_line


def test_control_characters_in_a_prompt_are_text(tiny: Tiny, seqkit: InProcess) -> None:
    prompt = "the\x1b[2J\x00\x07\rcat\n\u2028\ufeff"
    done = seqkit("sample", "--model", tiny.run, "--prompt", prompt, "--length", 2, "--json")
    assert done.code == 0 and json.loads(done.out)["input"] == prompt
    assert seqkit("sample", "--model", tiny.run, "--prompt", prompt, "--length", 2).out.startswith(prompt)


def test_a_run_folder_whose_name_is_not_utf8(tiny: Tiny, fork_server: ForkServer, tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xe9sum\xe9")
    words = ["train", tiny.recipe, "--cache-dir", tiny.cache, "--run-dir", name]
    process = fork_server.start(*words, folder=tmp_path, stdout=tmp_path / "out")
    assert process.wait_for_code() == 0, process.err
    assert (tmp_path / "out").read_bytes() == b"r\xe9sum\xe9\n"
    assert (tmp_path / name / "last").is_symlink()
