"""The benchmarks of the suite, by name: what each shows, and how it is run in full and for a quick try.

A member is a program of its own, ``python -m tests.bench.MODULE --json FILE``: it starts with nothing in memory that
another one left. A quick try only shows that it runs: its sizes are so small that its numbers mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

_TINY = ("model.d_model=32", "tokenizer.vocab_size=400")
_TINY_PAIRS = (*_TINY, "train.batch_tokens=256")
_TINY_TRANSFORMER = (*_TINY_PAIRS, "model.num_layers=1", "model.d_feed_forward=64")
_ADAMW = ("train.batch_tokens=4096", "train.optimizer={type: adamw, lr: 1e-3}")


def _set(*changes: str) -> tuple[str, ...]:
    return tuple(word for change in changes for word in ("--set", change))


@dataclass(frozen=True, kw_only=True)
class Member:
    """One benchmark."""

    name: str
    shows: str
    module: str
    """Of this package."""
    arguments: tuple[str, ...] = ()
    """In full."""
    quick: tuple[str, ...]
    """After those, for a quick try."""


_QUICK_TRAINING = ("--steps", "3", "--rounds", "2", "--check-steps", "2")
_QUICK_PRODUCTS = ("--matmul-seconds", "0.01")
_NO_TRANSLATIONS = ("train.validate_translations=0", "train.best_by=loss")
_QUICK_MODEL = ("--rounds", "1", *_set(*_TINY_TRANSFORMER, "train.max_steps=2", *_NO_TRANSLATIONS))

MEMBERS = (
    Member(
        name="matmul",
        shows="the machine's own matrix-product rate, fp32 and bf16",
        module="matmul",
        quick=("--size", "64", "--seconds", "0.01", "--rounds", "2"),
    ),
    Member(
        name="training_transformer",
        shows="training a translation Transformer: seqkit, torch.nn.Transformer, and the machine's matrix rate",
        module="training",
        quick=(*_QUICK_TRAINING, *_QUICK_PRODUCTS, *_set(*_TINY_TRANSFORMER)),
    ),
    Member(
        name="training_recurrent",
        shows="training recurrent translation with attention: seqkit and nn.LSTM",
        module="training",
        arguments=("--recipe", "tests/bench/lstm_multi30k.yaml"),
        quick=(*_QUICK_TRAINING, *_set(*_TINY_PAIRS)),
    ),
    Member(
        name="gpu",
        shows="training a translation Transformer on a GPU: bf16, fused attention, with and without torch.compile",
        module="training",
        arguments=("--device", "cuda", "--compile", "inductor", "--steps", "100"),
        quick=(*_QUICK_TRAINING, *_QUICK_PRODUCTS, *_set(*_TINY_TRANSFORMER)),
    ),
    Member(
        name="overhead_lstm",
        shows="seqkit train beside a bare loop that does the same, an LSTM language model",
        module="overhead",
        quick=(*_QUICK_TRAINING, *_set("model.d_model=32")),
    ),
    Member(
        name="overhead_transformer",
        shows="seqkit train beside a bare loop that does the same, a translation Transformer",
        module="overhead",
        arguments=("--recipe", "tests/bench/transformer_multi30k.yaml", "--steps", "20", *_set(*_ADAMW)),
        quick=(*_QUICK_TRAINING, *_set(*_TINY_TRANSFORMER)),
    ),
    Member(
        name="decoding",
        shows="translation: seqkit's engine, CTranslate2 through seqkit, and CTranslate2 alone, with the same weights",
        module="decoding",
        quick=("--lines", "4", "--single", "2", *_QUICK_MODEL),
    ),
    Member(
        name="growth_lines",
        shows="translation time and memory as the number of lines grows",
        module="growth_lines",
        quick=("--sizes", "1", "20", *_QUICK_MODEL),
    ),
    Member(
        name="growth_search",
        shows="decoding cost of a sentence as its length and the beam grow",
        module="growth_search",
        quick=("--lengths", "4", "8", "--beams", "1", "2", "--sentences", "2", *_QUICK_MODEL),
    ),
    Member(
        name="growth_corpus",
        shows="training speed as the corpus grows",
        module="growth_corpus",
        quick=("--mb", "0.2", "--pairs", "100", "--steps", "51", "--rounds", "1"),
    ),
    Member(
        name="bpe",
        shows="byte-pair encoding beside subword-nmt, SentencePiece and tokenizers",
        module="bpe",
        quick=("--vocab-size", "400", "--megabytes", "0.1", "--beginning-megabytes", "0.1", "--rounds", "1"),
    ),
    Member(
        name="store",
        shows="building token stores of large texts in flat memory",
        module="store",
        arguments=("--train",),
        quick=("--mb", "2", "--steps", "2"),
    ),
    Member(
        name="startup",
        shows="start-up of commands, and where the time of the first token goes",
        module="startup",
        quick=("--runs", "1"),
    ),
    Member(
        name="wikitext",
        shows="WikiText-2 at equal time: lstm_wikitext2 and a plain loop",
        module="wikitext",
        arguments=("--test", "--valid-every-minutes", "2.5"),
        quick=("--minutes", "0.02", *_set("model.d_model=16", "train.evaluate_every=1000")),
    ),
    Member(
        name="gpt",
        shows="Tiny Shakespeare at equal time: gpt_shakespeare, lstm_shakespeare and nanoGPT's CPU setting",
        module="gpt",
        quick=("--iterations", "4", "--minutes", "0.01", *_set("model.num_layers=1", "model.d_model=32")),
    ),
)
"""In the order they are run."""
