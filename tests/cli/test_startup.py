"""Start-up and cron with real processes: rows U1 to U3, C1, C5 and S6 of the command-line contract."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import REAL, Tiny, clean_environment

from seqkit.cli import app

LIGHT = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["sample", "--help"],
    ["evaluate", "--help"],
    ["score", "--help"],
    ["bpe", "--help"],
    ["recipe", "--help"],
    ["recipe", "ls"],
    ["recipe", "validate", "hello"],
    ["recipe", "validate", "bad.yaml"],
    ["recipe", "schema"],
    ["runs", "ls"],
    ["data", "ls"],
    ["train", "nothing.yaml"],
    ["train", "hello", "--set", "model.d_modle=3"],
]


class Completer:
    """What TAB offers, by the protocol that bash speaks."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._patch = patch

    def __call__(self, words: str) -> list[str]:
        """The offers for the last of ``words``."""
        for name, value in protocol(words).items():
            self._patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            app.run([])
        captured = self._capture.readouterr()
        assert (ended.value.code, captured.err) == (0, "")
        return [line for line in captured.out.split("\n") if line]


def protocol(words: str) -> dict[str, str]:
    return {"_SEQKIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}


def test_u1_what_needs_no_torch_does_not_load_it(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("task: lm\nmodel: {type: gru, num_layer: 2}\n")
    code = (
        "import json, os, sys\n"
        "from seqkit.cli.app import run\n"
        f"for words in json.loads({json.dumps(LIGHT)!r}):\n"
        "    run(words)\n"
        "    assert 'torch' not in sys.modules, words\n"
        "    assert 'rich' not in sys.modules, words\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)


def waited_for_a_core_s(process: str) -> float:
    """Seconds for which a process was ready to run but another one had the core; 0 where the kernel does not tell."""
    told = Path(f"/proc/{process}/schedstat")
    return int(told.read_text().split()[1]) / 1e9 if told.exists() else 0.0


def test_u2_help_is_quick() -> None:
    times: list[float] = []
    # The best of several, without the wait for a core: other work on the machine is not ours.
    while not times or (min(times) >= 0.5 and len(times) < 5):
        before, began = waited_for_a_core_s("self"), time.perf_counter()
        with subprocess.Popen([*REAL, "--help"], stdout=subprocess.PIPE, env=clean_environment()) as process:
            assert process.stdout is not None
            assert process.stdout.read().startswith(b"Usage: seqkit")
            # Its numbers stay readable until somebody takes its exit code.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - began
            waited = waited_for_a_core_s("self") - before + waited_for_a_core_s(str(process.pid))
        assert process.returncode == 0
        times.append(seconds - waited)
    assert min(times) < 0.5, times


def test_u3_tab_completes_commands_flags_recipes_and_keys(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    complete = Completer(capfd, monkeypatch)
    assert complete("seqkit tr") == ["train", "translate"]
    assert set(complete("seqkit train --run")) == {"--run-dir", "--runs-dir"}
    assert "hello" in complete("seqkit train hel")
    assert complete("seqkit train mi") == ["mine.yaml"]
    assert "model.num_layers=" in complete("seqkit train hello --set model.num")
    assert complete("seqkit train hello --set model.type=l") == ["model.type=lstm"]
    assert complete("seqkit nosuchcommand --x") == []


def test_u3_completion_prints_nothing_else(tmp_path: Path) -> None:
    environment = {**clean_environment(), **protocol("seqkit sam")}
    done = subprocess.run(REAL, env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"sample\n", b"")


def test_u3_completion_is_installed_in_the_home_folder_alone(tmp_path: Path) -> None:
    environment = {**clean_environment(), "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    # Typer finds the shell by its parent process.
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    seqkit = f"{sys.executable} -m seqkit"
    done = subprocess.run([bash, "-c", f"{seqkit} --install-completion; exit $?"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    installed = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "_SEQKIT_COMPLETE=complete_bash" in installed


BARE = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""What cron gives: no HOME, no terminal, the C locale; and Python kept from switching to UTF-8 by itself."""


@pytest.mark.slow
def test_c1_cron_trains_the_same_weights_in_silence(tiny: Tiny, tmp_path: Path) -> None:
    words = ["train", str(tiny.recipe), "--run-dir", "run", "--resume", "--cache-dir", "cache", "-q"]
    done = subprocess.run([*REAL, *words], env=BARE, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"run\n", b"")
    weights = tmp_path / "run" / "last" / "model.safetensors"
    assert weights.read_bytes() == (tiny.run / "last" / "model.safetensors").read_bytes()


def test_c1_s6_cron_gives_utf8_both_ways(tiny: Tiny, tmp_path: Path) -> None:
    lines = "the cat\n\nsnow \u2603 \u2028 man\n".encode()
    words = ["evaluate", "--model", str(tiny.run), "--per-line", "--json"]
    done = subprocess.run([*REAL, *words], env=BARE, cwd=tmp_path, input=lines, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    told = [json.loads(line) for line in done.stdout.decode("utf-8").removesuffix("\n").split("\n")]
    assert [one["input"] for one in told] == ["the cat", "", "snow \u2603 \u2028 man"]


def test_c1_the_program_by_its_name(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("seqkit")
    if not script.exists():
        pytest.skip("the console script is not installed beside this Python")
    by_name, by_module = (
        subprocess.run([*words, "recipe", "nonsense"], env=BARE, cwd=tmp_path, capture_output=True)
        for words in ([str(script)], REAL)
    )
    assert by_name.returncode == by_module.returncode == 2
    assert (by_name.stdout, by_name.stderr) == (by_module.stdout, by_module.stderr)
    assert b"hint: seqkit recipe --help" in by_name.stderr


@pytest.mark.slow
def test_c5_training_touches_no_network(tiny: Tiny, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "def deny(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        print('NETWORK', event, arguments, file=sys.stderr)\n"
        "sys.addaudithook(deny)\n"
        "from seqkit.cli.app import run\n"
        f"code = run(['train', {str(tiny.recipe)!r}, '-q', '--set', 'train.max_steps=1', '--cache-dir', 'cache'])\n"
        "sys.exit(code or run(['data', 'ls']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=dict(os.environ))
    assert done.returncode == 0 and b"NETWORK" not in done.stderr
