"""The other sides of ``tests.bench.bpe`` as programs: ``python -m tests.bench.bpe_peers SIDE ARGUMENTS…``.

Each imports only what it needs, so that its whole process can be timed. Encoders read stdin and write stdout, block
by block, in flat memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

_BLOCK_BYTES = 1 << 22


def learn_with_tokenizers(output: str, vocab_size: str, *files: str) -> None:
    """The BPE trainer of the tokenizers library on files, words divided at whitespace."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=int(vocab_size), special_tokens=["<unk>"], show_progress=False)
    tokenizer.train(list(files), trainer)
    tokenizer.save(output)


def learn_with_sentencepiece(output: str, vocab_size: str, *files: str) -> None:
    """SentencePiece's BPE trainer on files."""
    sentencepiece: Any = import_module("sentencepiece")

    sentencepiece.SentencePieceTrainer.train(
        input=list(files), model_prefix=output, vocab_size=int(vocab_size), model_type="bpe", minloglevel=2
    )


def encode_with_sentencepiece(model: str, num_threads: str, dropout: str) -> None:
    """SentencePiece's encoder from stdin to stdout.

    Args:
        model: Made by ``learn_with_sentencepiece``.
        num_threads: For the lines of a block.
        dropout: Probability of BPE-dropout; 0 for none.
    """
    sentencepiece: Any = import_module("sentencepiece")

    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    options: dict[str, object] = {"out_type": str, "num_threads": int(num_threads)}
    if float(dropout):
        options |= {"enable_sampling": True, "alpha": float(dropout), "nbest_size": -1}
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while lines := source.readlines(_BLOCK_BYTES):
        texts = b"".join(lines).decode("utf-8").removesuffix("\n").split("\n")
        pieces = processor.encode(texts, **options)
        sink.write(("\n".join(map(" ".join, pieces)) + "\n").encode("utf-8"))


SIDES: dict[str, Callable[..., None]] = {
    "tokenizers-learn": learn_with_tokenizers,
    "sentencepiece-learn": learn_with_sentencepiece,
    "sentencepiece-encode": encode_with_sentencepiece,
}
"""The programs in this file."""


if __name__ == "__main__":
    SIDES[sys.argv[1]](*sys.argv[2:])
