"""What the plain loop can train on sentence pairs: a plain model, or seqkit's own.

Legend: P pairs, S source length, T target length, D width, N real target tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqkit.data.pair_batching import PairBatch
from seqkit.models.encoder_decoder import EncoderDecoder
from seqkit.recipe.seq2seq_schema import Seq2SeqRecipe

from .plain_recurrent import PlainRecurrent
from .plain_transformer import PlainTransformer
from .training_sides import Workload, batches_in_order, initial_model


class PairLearner:
    """A plain model on seqkit's own batches of sentence pairs; output layer and loss take real target tokens only.

    Args:
        model: What it is called with and gives is in ``PlainTransformer``.
        work: Whose batches and label smoothing.
    """

    def __init__(self, model: PlainTransformer | PlainRecurrent, work: Workload) -> None:
        assert isinstance(work.recipe, Seq2SeqRecipe)
        self.model = model.to(work.device).train()
        self._batches = batches_in_order(work.prepared.batches)
        self._device = work.device
        self._label_smoothing = work.recipe.train.label_smoothing

    def loss(self, step: int) -> tuple[Tensor, int]:
        """As of ``Learner``; the steps come in order."""
        batch: PairBatch = next(self._batches)
        put = self._put
        src_mask_PS = None if batch.src_mask_PS.all() else put(torch.from_numpy(batch.src_mask_PS))
        target_N = put(torch.from_numpy(batch.targets_PT[batch.tgt_mask_PT]))
        inputs_PT = put(torch.from_numpy(batch.inputs_PT))
        hidden_PTD = self.model(put(torch.from_numpy(batch.src_PS)), src_mask_PS, inputs_PT)
        logits_NV = self.model.output(hidden_PTD[put(torch.from_numpy(batch.tgt_mask_PT))])
        return F.cross_entropy(logits_NV, target_N, label_smoothing=self._label_smoothing), len(target_N)

    def _put(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)


class BlocksLearner:
    """seqkit's own model and loss in the plain loop, to see what ``seqkit train`` costs beyond them.

    Args:
        work: A translation model.
    """

    def __init__(self, work: Workload) -> None:
        self.model = initial_model(work, EncoderDecoder).to(work.device).train()
        self._prepared = work.prepared
        self._batches = batches_in_order(work.prepared.batches)

    def loss(self, step: int) -> tuple[Tensor, int]:
        """As of ``Learner``; the steps come in order."""
        loss = self._prepared.loss(self.model, next(self._batches), None, 0.0)
        return loss.nats / loss.num_tokens, loss.num_tokens
