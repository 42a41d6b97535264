"""``data.train`` with several weighted corpora: what the schema takes, how faults are told, what is trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commandline import InProcess
from tiny_pairs import pairs_recipe, write_tiny_pairs
from tiny_runs import tiny_recipe

from seqkit.data.corpora import prepare_split
from seqkit.data.pair_corpora import open_pairs
from seqkit.data.readers import open_source
from seqkit.errors import DataError, UsageError
from seqkit.recipe.loading import RecipeText, differing_keys, examine, recipe_from_resolved, resolve_recipe_text
from seqkit.recipe.schema import LmRecipe
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe
from seqkit.tasks.lm import prepare_lm
from seqkit.tasks.seq2seq import prepare_seq2seq
from seqkit.training.resuming import check_same_inputs

RECIPE = """\
task: lm
data:
  train:
    - {{source: {a}, weight: 2}}
    - source: [{b}, {c}]
  valid: {a}
{more}
model: {{type: transformer, d_model: 8, num_heads: 2, num_layers: 1}}
train: {{max_steps: 3, batch_size: 2, sequence_length: 5, precision: fp32, slices: 1, sample_length: 0}}
"""


def examined(text: str) -> list[str]:
    found = examine(RecipeText(name="r", source="r.yaml", path=None, text=text.encode()))
    return [str(fault) for fault in found.faults]


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.txt" for name in "abc"}
    for name, size in zip("abc", (90, 40, 23), strict=True):
        paths[name].write_text((f"{name}xyz " * size)[:size])
    return paths


def lm_mixture(texts: dict[str, Path], **data: Any) -> LmRecipe:
    train = [{"source": str(texts["a"]), "weight": 2.0}, {"source": [str(texts["b"]), str(texts["c"])]}]
    return tiny_recipe(
        texts["a"],
        model={"type": "lstm", "output_bias": "unigram"},
        train={"max_steps": 3, "bptt": "stride"},
        data={"train": train, "valid": str(texts["a"]), **data},
        tokenizer={"type": "char"},
    )


def test_a_recipe_resolves_to_itself(tmp_path: Path, texts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", str(tmp_path))
    text = RECIPE.format(a="a.txt", b='"${PLACE}/b.txt"', c="builtin:hello", more="  mix_temperature: 0.7")
    found = examine(RecipeText(name="r", source="r.yaml", path=None, text=text.encode()))
    assert not found.faults and isinstance(found.recipe, LmRecipe)
    data = found.recipe.data
    assert data.is_mixture and data.mix_temperature == 0.7 and data.valid_fraction is None
    assert [(corpus.source, corpus.weight) for corpus in data.corpora] == [
        (str(texts["a"]), 2.0),
        ([str(texts["b"]), "builtin:hello"], 1.0),
    ]
    resolved = resolve_recipe_text(found.recipe)
    assert recipe_from_resolved(resolved) == found.recipe
    assert resolve_recipe_text(recipe_from_resolved(resolved)) == resolved
    other = found.recipe.model_copy(update={"data": data.model_copy(update={"train": "x.txt"})})
    (changed,) = differing_keys(found.recipe, other)
    assert changed.startswith("data.train: [{source: /") and changed.endswith(" -> x.txt") and "\n" not in changed


@pytest.mark.parametrize(
    ("train", "more", "fault"),
    [
        ("[{source: a, wieght: 2}]", "", "data.train.0.wieght: unknown key; did you mean weight?"),
        ("[{source: a}, {weight: 2}]", "", "data.train.1.source: missing key"),
        ("[{source: a, weight: 0}]", "", "data.train.0.weight: must be above 0, found 0"),
        ("[{source: a, weight: much}]", "", 'data.train.0.weight: expected a number, found the text "much"'),
        ("[{source: a}, b]", "", "data.train: lists names, which are joined, beside mappings, which are mixed"),
        ("3", "", "data.train: expected text or a list of texts or a list of mappings, found the number 3"),
        ("[a, b]", ", mix_temperature: 2", "data.mix_temperature: is for a mixture"),
        ("[{source: a}]", ", mix_temperature: 0", "data.mix_temperature: must be above 0, found 0"),
    ],
)
def test_faults_of_a_text_mixture(train: str, more: str, fault: str) -> None:
    text = (
        f"task: lm\ndata: {{train: {train}, valid: v{more}}}\nmodel: {{type: transformer}}\ntrain: {{max_steps: 1}}\n"
    )
    (found,) = examined(text)
    assert fault in found and found.startswith("r.yaml:2:")


def test_what_a_mixture_does_not_go_with() -> None:
    head = "task: lm\ndata: {train: [{source: a}, {source: b}]"
    (found,) = examined(f"{head}}}\nmodel: {{type: transformer}}\ntrain: {{max_steps: 1}}\n")
    assert "data.valid: missing key: of a mixture nothing is held out" in found
    (found,) = examined(f"{head}, valid: v}}\nmodel: {{type: lstm}}\ntrain: {{max_steps: 1}}\n")
    assert "train.bptt: truncated carries state through one text" in found
    dropout = "tokenizer: {type: bpe, num_merges: 5, dropout: 0.1}\n"
    (found,) = examined(f"{head}, valid: v}}\n{dropout}model: {{type: transformer}}\ntrain: {{max_steps: 1}}\n")
    assert "tokenizer.dropout: is for one text" in found


@pytest.mark.parametrize(
    ("train", "more", "fault"),
    [
        ("[{src: a, tgt: b, wieght: 2}]", "", "data.train.0.wieght: unknown key; did you mean weight?"),
        ("[{src: a, tgt: b}, {src: a}]", "", "data.train.1.tgt: missing key"),
        ("{src: a}", "", "data.train.tgt: missing key"),
        ("{src: a, tgt: b, weight: 2}", "", "data.train.weight: unknown key"),
        ("[]", "", "data.train: lists no parallel text"),
        ("{src: a, tgt: b}", ", mix_temperature: 2", "data.mix_temperature: is for a mixture"),
    ],
)
def test_faults_of_a_mixture_of_pairs(train: str, more: str, fault: str) -> None:
    data = f"data: {{train: {train}, valid: {{src: a, tgt: b}}{more}}}\n"
    (found,) = examined(
        f"task: seq2seq\n{data}tokenizer: {{type: char}}\nmodel: {{type: lstm}}\ntrain: {{max_steps: 1}}\n"
    )
    assert fault in found and found.startswith("r.yaml:2:")


def test_a_text_mixture_is_prepared(texts: dict[str, Path], tmp_path: Path) -> None:
    prepared = prepare_lm(lm_mixture(texts), tmp_path / "cache", seed=3)
    corpora = prepared.corpora
    assert corpora.mixture is not None and corpora.mixture.sizes == (90, 63)
    assert corpora.mixture.shares == pytest.approx((180 / 243, 63 / 243))
    assert "a.txt 74.1 %" in prepared.describe_data() and "153 train / 90 validation" in prepared.describe_data()
    # The tokenizer knows the characters of all corpora, and the bias counts them as often as they come.
    assert set("abcxyz ") <= set(corpora.tokenizer.decode(list(range(7))))
    counts = corpora.train_counts(corpora.tokenizer.vocab_size)
    own = [corpora.tokenizer.encode(name)[0] for name in "abc"]
    expected = np.array([18, 8, 5]) * np.array([180, 63, 63]) / 243 * 153 / np.array([90, 63, 63])
    assert counts[own].tolist() == np.rint(expected).tolist()
    assert bool(prepared.build_model().output.bias.isfinite().all())
    facts = prepared.facts()["data"]["train"]
    assert facts["num_tokens"] == 153
    assert [each["name"] for each in facts["corpora"]] == [str(texts["a"]), f"{texts['b']}, {texts['c']}"]
    assert facts["sha256"] == {str(number): each["sha256"] for number, each in enumerate(facts["corpora"])}
    assert facts["corpora"][0]["sha256"] == open_source(str(texts["a"])).measure().sha256


def test_one_corpus_by_itself_is_all_of_it(texts: dict[str, Path], tmp_path: Path) -> None:
    recipe = lm_mixture(texts, train=[{"source": str(texts["a"]), "weight": 5}])
    prepared = prepare_lm(recipe, tmp_path / "cache", seed=3)
    assert prepared.corpora.mixture is not None and prepared.corpora.mixture.repeats() == [1.0]


def test_a_mixture_has_no_score_of_its_own(texts: dict[str, Path], tmp_path: Path) -> None:
    recipe = lm_mixture(texts)
    tokenizer = prepare_lm(recipe, tmp_path / "cache", seed=3).corpora.tokenizer
    with pytest.raises(DataError, match=r"^data\.train: the training text is a mixture"):
        prepare_split(recipe.data, "train", tokenizer, tmp_path / "cache")
    assert prepare_split(recipe.data, "valid", tokenizer, tmp_path / "cache").num_tokens == 90


def pair_mixture(folder: Path, *, tokenizer: dict[str, Any] | None = None, **data: Any) -> Seq2SeqRecipe:
    """The tiny pairs, and the same again in small, of which three times as much comes."""
    write_tiny_pairs(folder)
    for side in ("src", "tgt"):
        lines = (folder / f"tiny.{side}").read_text().splitlines(keepends=True)
        (folder / f"few.{side}").write_text("".join(lines[:9]))
    train = [
        {"src": str(folder / "tiny.src"), "tgt": str(folder / "tiny.tgt")},
        {"src": str(folder / "few.src"), "tgt": str(folder / "few.tgt"), "weight": 3.0},
    ]
    valid = {"src": str(folder / "tiny.src"), "tgt": str(folder / "tiny.tgt")}
    return pairs_recipe(
        folder,
        model={},
        train={"max_steps": 3},
        data={"train": train, "valid": valid, **data},
        tokenizer=tokenizer or {"type": "char"},
    )


@pytest.mark.parametrize("tokenizer", [{"type": "char"}, {"type": "bpe", "num_merges": 9, "dropout": 0.4}])
def test_a_mixture_of_pairs_is_prepared(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    recipe = pair_mixture(tmp_path, tokenizer=tokenizer)
    prepared = prepare_seq2seq(recipe, tmp_path / "cache", seed=3)
    corpora, batches = prepared.corpora, prepared.batches
    first, second = map(len, corpora.train_stores)
    assert second == 9 and len(corpora.train) == first + second
    assert corpora.mixture is not None
    share = 27 / (27 + first)
    assert corpora.mixture.shares == pytest.approx((1 - share, share))
    assert "mixture" in prepared.describe_data()
    facts = prepared.facts()["data"]["train"]
    assert facts["num_pairs"] == first + second and set(facts["sha256"]) == {"0.src", "0.tgt", "1.src", "1.tgt"}
    taken = [int(batch.num_rows) for batch in (batches.batch(0, index) for index in range(batches.num_batches(0)))]
    assert sum(taken) == first + second
    chosen = [0, 0]
    for epoch in range(4):
        assert batches._choose is not None
        numbers = batches._choose(epoch)
        chosen[0] += int((numbers < first).sum())
        chosen[1] += int((numbers >= first).sum())
        fresh = prepare_seq2seq(recipe, tmp_path / "cache", seed=3).batches
        index = batches.num_batches(epoch) - 1
        assert fresh.batch(epoch, index).src_PS.tolist() == batches.batch(epoch, index).src_PS.tolist()
    assert chosen[1] == pytest.approx(share * sum(chosen), abs=4)


def test_texts_of_a_mixture_draw_their_own_segmentations(tmp_path: Path) -> None:
    recipe = pair_mixture(tmp_path, tokenizer={"type": "bpe", "num_merges": 9, "dropout": 0.5})
    train = recipe.data.train
    assert isinstance(train, list)
    twice = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": [train[0], train[0]]})})
    prepared = prepare_seq2seq(twice, tmp_path / "cache", seed=3)
    src, _ = prepared.batches._sentences(0)
    half = len(src) // 2
    same = [src[number].tolist() == src[number + half].tolist() for number in range(half)]
    assert not all(same)
    decode = prepared.corpora.tokenizers["src"].decode
    assert all(decode(src[number].tolist()) == decode(src[number + half].tolist()) for number in range(half))


def test_a_mixture_of_pairs_is_no_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.train: the training pairs are a mixture"):
        open_pairs(pair_mixture(tmp_path).data, "train")


def test_train_says_what_it_mixes_and_names_what_is_missing(
    seqkit: InProcess, texts: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(RECIPE.format(**texts, more="  mix_temperature: 3"))
    done = seqkit("train", recipe, "--run-dir", tmp_path / "run", "--cache-dir", tmp_path / "cache")
    assert done.code == 0
    assert "a mixture of " in done.err and "a.txt" in done.err
    recipe.write_text(RECIPE.format(a=texts["a"], b=texts["b"], c=tmp_path / "gone.txt", more=""))
    done = seqkit("train", recipe, "--dry-run")
    assert done.code == 2
    assert "mixed.yaml:5:15: data.train.1.source" in done.error_line and "gone.txt: no such file" in done.error_line


def test_a_changed_corpus_is_named_on_resume(texts: dict[str, Path], tmp_path: Path) -> None:
    prepared = prepare_lm(lm_mixture(texts), tmp_path / "cache", seed=3)

    before: Any = SimpleNamespace(facts=prepared.facts(), tokenizers=dict(prepared.tokenizer_files))
    check_same_inputs(prepared, before, tmp_path)
    texts["c"].write_text("cxyz zyx")
    changed = prepare_lm(lm_mixture(texts), tmp_path / "cache", seed=3)
    with pytest.raises(UsageError, match=r"the text has changed since this run began: data\.train\.1 "):
        check_same_inputs(changed, before, tmp_path)
