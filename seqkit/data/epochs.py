"""A language model's training text encoded anew for each epoch, as BPE-dropout asks.

The ids of an epoch are a function of text, tokenizer, seed and epoch, so a run that resumes meets the same ones. They
lie in a temporary file in the cache, memory-mapped, so that memory stays flat. The file has no name: it is gone with
the process, however that ends.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqkit.data.ahead import MadeAhead
from seqkit.data.batching import BatchOrder, LmBatch
from seqkit.data.store_folder import cannot_write
from seqkit.data.stretches import Stretch
from seqkit.errors import DataError
from seqkit.tokenizers.base import TokenArray, whole_tokens
from seqkit.tokenizers.bpe_dropout import BpeDropout

_STREAM = 1
"""Sets these draws apart from what else of a run is drawn from its seed and an epoch."""

_PIECE_CHARACTERS = 1 << 17
"""Characters encoded at a time; between two pieces a thread asks whether it is still wanted."""


@dataclass(frozen=True, kw_only=True)
class ReencodedText:
    """A stretch of text whose token ids are drawn anew for each epoch."""

    stretch: Stretch
    dropout: BpeDropout
    seed: int
    cache_dir: Path
    """The ids lie beside its token stores; made if missing."""

    def ids(self, epoch: int, is_wanted: Callable[[], bool]) -> TokenArray | None:
        """Encode the text for one epoch.

        Args:
            epoch: 0-based.
            is_wanted: Asked now and then whether to go on.

        Returns:
            The ids, shape (tokens,), memory-mapped and read-only; None if they were not wanted.

        Raises:
            DataError: The text has changed, or cannot be read any more; or the cache cannot be written.
        """
        folder = self.cache_dir / "stores"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                num_tokens = 0
                for ids in self._encoded(epoch):
                    if not is_wanted():
                        return None
                    file.write(ids.data)
                    num_tokens += len(ids)
                file.flush()
                # The map outlives the file's handle.
                return np.memmap(file, dtype=self.dropout.tokenizer.dtype, mode="r", shape=(num_tokens,))
        except OSError as error:
            raise cannot_write(folder, error) from error

    def _encoded(self, epoch: int) -> Iterator[TokenArray]:
        sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(_STREAM,))
        rng = np.random.Generator(np.random.PCG64(sequence))
        for text in whole_tokens(self._pieces(), self.dropout.tokenizer.last_boundary):
            yield self.dropout.encode_array(text, rng)

    def _pieces(self) -> Iterator[str]:
        """The stretch in short pieces; the whole text is hashed on the way, since a file may change in a long run."""
        stretch = self.stretch
        digest = hashlib.sha256()
        position = 0
        for block in stretch.source.blocks():
            digest.update(block.encode("utf-8"))
            wanted = block[max(0, stretch.start - position) : max(0, stretch.end - position)]
            position += len(block)
            for first in range(0, len(wanted), _PIECE_CHARACTERS):
                yield wanted[first : first + _PIECE_CHARACTERS]
        if digest.hexdigest() != stretch.stats.sha256:
            raise DataError(
                "changed while it was being trained on", path=stretch.source.name, hint="put the old text back"
            )


class ReencodedBatches:
    """Batches over a text that is encoded anew for each epoch; epochs differ in their number of batches.

    See ``seqkit.data.batching.BatchOrder``. Both methods raise what ``ReencodedText.ids`` and ``lay_out`` raise.

    Args:
        text: The text.
        lay_out: From the ids of an epoch to its batches.
        num_epochs: Epochs of the whole training, where that is known.
    """

    def __init__(
        self, text: ReencodedText, lay_out: Callable[[TokenArray], BatchOrder], *, num_epochs: float | None = None
    ) -> None:
        def make(epoch: int, is_wanted: Callable[[], bool]) -> BatchOrder | None:
            ids = text.ids(epoch, is_wanted)
            return lay_out(ids) if ids is not None else None

        self._orders: MadeAhead[BatchOrder] = MadeAhead(make, num_epochs=num_epochs)

    def num_batches(self, epoch: int) -> int:
        """See ``BatchOrder.num_batches``; the text is encoded for the epoch if that was not done yet."""
        return self._orders.get(epoch).num_batches(epoch)

    def batch(self, epoch: int, index: int) -> LmBatch:
        """See ``BatchOrder.batch``."""
        order = self._orders.get(epoch)
        # Not from the first batch on: many a run is a short trial, and to encode a large text takes minutes.
        if 4 * (index + 1) >= order.num_batches(epoch):
            self._orders.prepare(epoch + 1)
        return order.batch(epoch, index)
