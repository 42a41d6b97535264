"""``seqkit translate --engine ctranslate2``: the contract of the command, by the other engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, ForkServer, InProcess
from tiny_pairs import TinyPairs, tiny_sentences, train_tiny_pairs

LINES = [*tiny_sentences(60, seed=9), "", "  ", "abcde abcde abc"]


@pytest.fixture(scope="module")
def trained(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    """A model that has learned its task, so that beams are not full of near ties."""
    settings = ["train.max_steps=400", "model.d_model=32", "model.num_layers=2"]
    return train_tiny_pairs(fork_server, tmp_path_factory.mktemp("trained"), *settings)


class Engines:
    """Runs ``seqkit translate`` by one engine or the other."""

    def __init__(self, seqkit: InProcess, model: Path) -> None:
        self._seqkit = seqkit
        self._model = model

    def run(self, engine: str, *words: object, lines: list[str] = LINES, model: Path | None = None) -> Done:
        stdin = "".join(f"{line}\n" for line in lines).encode()
        at = model or self._model
        return self._seqkit("translate", "--model", at, "--engine", engine, "--threads", 1, *words, stdin=stdin)

    def both(self, *words: object, lines: list[str] = LINES) -> tuple[list[str], list[str]]:
        """Output lines of the torch engine and of the other."""
        done = [self.run(engine, *words, lines=lines) for engine in ("torch", "ctranslate2")]
        for one in done:
            assert one.code == 0, one.err
        ours, theirs = (one.out.removesuffix("\n").split("\n") for one in done)
        assert len(ours) == len(theirs) == len(lines)
        return ours, theirs


@pytest.fixture
def engines(seqkit: InProcess, trained: TinyPairs) -> Engines:
    return Engines(seqkit, trained.run)


def assert_alike(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same keys with the same values, numbers to rounding."""
    assert ours.keys() == theirs.keys()
    for key, expected in ours.items():
        if isinstance(expected, float):
            assert theirs[key] == pytest.approx(expected, abs=1e-4), key
        elif key == "hypotheses":
            assert len(theirs[key]) == len(expected)
            for one, other in zip(expected, theirs[key], strict=True):
                assert_alike(one, other)
        elif key == "alignment" and expected and isinstance(expected[0], list):
            for one, other in zip(expected, theirs[key], strict=True):
                assert other == pytest.approx(one, abs=1e-4)
        else:
            assert theirs[key] == expected, key


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--beam", 5, "--length-penalty", "average", "--alpha", 0.7),
        ("--length-penalty", "none"),
        ("--beam", 1),
        ("--beam", 1, "--coverage-penalty", 0.1),
        ("--beam", 1, "--min-length", 3, "--no-repeat-ngram", 2, "--prefix-text", "AB"),
        ("--batch-size", 7, "--batch-tokens", 30),
        ("--deterministic",),
        ("--max-length", 4),
        ("--max-length-ratio", 0.1, "--long", "split"),
    ],
)
def test_both_engines_write_the_same(engines: Engines, words: tuple[object, ...]) -> None:
    ours, theirs = engines.both("--json", *words)
    pairs = [(json.loads(one), json.loads(other)) for one, other in zip(ours, theirs, strict=True)]
    for expected, found in pairs:
        assert_alike(expected, found)
    assert [one["input"] for one, _ in pairs] == LINES


def test_text_scores_and_n_best(engines: Engines) -> None:
    ours, theirs = engines.both()
    assert ours == theirs and theirs[LINES.index("")] == theirs[LINES.index("  ")] == ""
    for one, other in zip(*engines.both("--scores"), strict=True):
        assert one.split("\t")[1:] == other.split("\t")[1:]
        if one:
            assert float(one.split("\t")[0]) == pytest.approx(float(other.split("\t")[0]), abs=1e-4)
    # The best ones; what comes fourth or fifth may be what the one engine did not look for.
    for one, other in zip(*engines.both("--json", "--n-best", 5, "--beam", 5), strict=True):
        expected, found = json.loads(one), json.loads(other)
        assert_alike(expected["hypotheses"][0], (found["hypotheses"] or [{}])[0])
        scores = [hypothesis["score"] for hypothesis in found["hypotheses"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == len(expected["hypotheses"])


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_alignments(engines: Engines, kind: str) -> None:
    for one, other in zip(*engines.both("--json", "--alignments", kind), strict=True):
        assert_alike(json.loads(one), json.loads(other))


def test_long_lines_are_treated_and_named_alike(engines: Engines) -> None:
    lines = ["abc de " * 9, "be c", "e" * 40]
    for policy in ("translate", "split"):
        words = ("--long", policy, "--json")
        done = [engines.run(engine, *words, lines=lines) for engine in ("torch", "ctranslate2")]
        assert [one.code for one in done] == [0, 0]
        warned = [[line for line in one.err.split("\n") if "<stdin>:" in line] for one in done]
        assert warned[0] == warned[1] and len(warned[0]) == 2
        ours, theirs = ([json.loads(line) for line in one.out.split("\n")[:-1]] for one in done)
        assert [one.get("num_parts") for one in ours] == [one.get("num_parts") for one in theirs]
    refused = engines.run("ctranslate2", "--long", "refuse", lines=lines)
    assert refused.code == 1 and "<stdin>:1: " in refused.error_line


def test_a_checkpoint_is_exported_once_and_an_export_is_enough(
    engines: Engines, seqkit: InProcess, trained: TinyPairs, tmp_path: Path
) -> None:
    first = engines.run("ctranslate2")
    assert "exporting the model for CTranslate2 once" in first.err
    again = engines.run("ctranslate2")
    assert again.out == first.out and "exporting" not in again.err
    (cached,) = (tmp_path / "cache" / "ctranslate2").iterdir()
    assert (cached / "model.bin").is_file()
    assert seqkit("export", trained.run, "--to", "ctranslate2", "-o", tmp_path / "own").code == 0
    alone = engines.run("ctranslate2", model=tmp_path / "own")
    assert alone.out == first.out and "exporting" not in alone.err
    # Another model has another place in the cache.
    assert len(list((tmp_path / "cache" / "ctranslate2").iterdir())) == 1


def test_a_damaged_export_is_told(engines: Engines, seqkit: InProcess, trained: TinyPairs, tmp_path: Path) -> None:
    for name in ("model.bin", "recipe.yaml", "tokenizer.src.json"):
        own = tmp_path / f"of-{name}"
        assert seqkit("export", trained.run, "--to", "ctranslate2", "-o", own).code == 0
        with (own / name).open("ab") as file:
            file.write(b" ")
        done = engines.run("ctranslate2", model=own)
        assert done.code == 1 and f"{own}/{name}: damaged: its SHA-256" in done.error_line
        (own / name).unlink()
        gone = engines.run("ctranslate2", model=own)
        assert gone.code == 1 and f"{own}/" in gone.error_line


def test_int8_translates(engines: Engines, seqkit: InProcess, trained: TinyPairs, tmp_path: Path) -> None:
    full = engines.run("ctranslate2").out.split("\n")
    quantized = engines.run("ctranslate2", "--engine-type", "int8", "-v")
    assert quantized.code == 0 and "CTranslate2 computes in int8" in quantized.err
    assert sum(map(str.__eq__, full, quantized.out.split("\n"))) >= 0.9 * len(full)
    words = ("--to", "ctranslate2", "--type", "int8", "-o", tmp_path / "small")
    assert seqkit("export", trained.run, *words).code == 0
    assert engines.run("ctranslate2", model=tmp_path / "small").out == quantized.out
    back = engines.run("ctranslate2", "--engine-type", "float32", model=tmp_path / "small")
    assert back.code == 2 and back.error_line.startswith("--engine-type float32: ") and "holds int8" in back.error_line


def test_stored_numbers_that_the_machine_lacks_are_told(engines: Engines, trained: TinyPairs, tmp_path: Path) -> None:
    import ctranslate2

    able = ctranslate2.get_supported_compute_types("cpu")
    if "float16" in able:
        pytest.skip("this CPU computes in float16")
    refused = engines.run("ctranslate2", "--engine-type", "float16", "--device", "cpu")
    assert refused.code == 2
    assert "--engine-type float16: this machine's cpu does not compute with it" in refused.error_line


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--constraint-text", "A"), "constraints"),
        (("--sample",), "--sample"),
        (("--prefix-text", "A"), "--prefix"),
        (("--min-length", 2), "--min-length"),
        (("--no-repeat-ngram", 2), "--no-repeat-ngram"),
        (("--coverage-penalty", 0.2), "--coverage-penalty"),
        (("--device", "mps"), "'mps'"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(engines: Engines, words: tuple[object, ...], name: str) -> None:
    done = engines.run("ctranslate2", *words)
    assert (done.code, done.out) == (2, "")
    assert done.error_line.startswith("--engine ctranslate2") and name in done.error_line


def test_an_ensemble_is_refused(engines: Engines, trained: TinyPairs) -> None:
    done = engines.run("ctranslate2", "--ensemble", trained.run)
    assert done.code == 2 and "--ensemble" in done.error_line


def test_a_recipe_names_the_engine(engines: Engines, seqkit: InProcess, trained: TinyPairs, tmp_path: Path) -> None:
    recipe = tmp_path / "other.yaml"
    text = trained.recipe.read_text()
    recipe.write_text(text.replace("{beam: 3}", "{beam: 3, engine: ctranslate2, engine_type: int8}"))
    words = ("translate", "--model", trained.run, "--recipe", recipe, "-v", "--text", "be c")
    done = seqkit(*words)
    assert done.code == 0 and "CTranslate2 computes in int8" in done.err
    # The flag wins, and the type is of the engine that the recipe names.
    ours = seqkit(*words, "--engine", "torch")
    assert ours.code == 0 and "CTranslate2" not in ours.err
    for more, message in (
        (("--engine-type", "int16"), "seqkit's own engine computes in float32 or int8, not in int16"),
        (("--engine", "ctranslate"), "--engine: "),
        (("--engine", "ctranslate2", "--engine-type", "int7"), "--engine-type: "),
    ):
        wrong = seqkit("translate", "--model", trained.run, "--text", "be c", *more)
        assert wrong.code == 2 and message in wrong.error_line, wrong.err


def test_recurrent_models_are_refused(seqkit: InProcess, fork_server: ForkServer, tmp_path: Path) -> None:
    few = ["model={type: gru, d_model: 8}", "train.max_steps=2", "train.evaluate_every=null"]
    recurrent = train_tiny_pairs(fork_server, tmp_path, *few)
    done = seqkit("translate", "--model", recurrent.run, "--engine", "ctranslate2", "--text", "abc")
    assert done.code == 2
    assert done.error_line.endswith("CTranslate2 runs Transformers, and this is a recurrent model (gru)")


def test_an_export_translates_without_torch(seqkit: InProcess, trained: TinyPairs, tmp_path: Path) -> None:
    assert seqkit("export", trained.run, "--to", "ctranslate2", "-o", "own").code == 0
    code = "import sys\nfrom seqkit.cli.app import run\n"
    words = ["translate", "--engine", "ctranslate2", "--model", str(tmp_path / "own"), "--text", "be c"]
    code += f"code = run({words!r})\n"
    code += "assert code == 0 and 'torch' not in sys.modules, sorted(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == seqkit("translate", "--model", trained.run, "--text", "be c").out
