"""Texts for the tests of ``seqkit bpe``, and tokenizers learned from them."""

from __future__ import annotations

from pathlib import Path

from commandline import ForkServer

DICTIONARY = "low low low low low lower lower " + "newest " * 6 + "widest widest widest\n"
"""The example of Sennrich et al. (2016)."""

TEXT = "The cat sat on the mat. Die Katze saß auf der Matte, 24 Mäuse sahen zu!\nlow lower newest widest\n" * 5

ODD_LINES = [
    "",
    "The cat sat",
    " leading, trailing and  double ",
    " ",
    "   ",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "tab\tand\rreturn\r",
    "\x00nul\x00",
    "e\u0301 combining, Z\u0335\u0321a\u0334l\u0336g\u0337o\u0335",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 emoji \U0001f1e9\U0001f1ea",
    "שלום עולם مرحبا",
    "▁ literal ▁mark <unk> </s> <0x41> @@ a@@ </w>",
    "",
    "\ufeffbom",
    "low" * 200,
]


def make_examples(folder: Path, fork_server: ForkServer) -> None:
    """Write ``text`` with its tokenizer ``bpe.json`` of 330 pieces, and ``dictionary`` with its ``low.json``."""
    (folder / "text").write_text(TEXT)
    (folder / "dictionary").write_text(DICTIONARY)
    for words in (
        ("text", "-o", "bpe.json", "--vocab-size", 330),
        ("dictionary", "-o", "low.json", "--num-merges", 10, "--boundary", "end", "--unseen", "unk"),
    ):
        done = fork_server.start("bpe", "learn", *words, folder=folder).wait()
        assert done.code == 0, done.err
