"""Several processes that train one model, each on a device of its own, on PyTorch's engine (DDP, FSDP2).

Every process makes the same batches in the same order and takes its rows of each: process r of N the rows r, r + N,
and so on. Gradients are summed over all rows and divided by all target tokens, so that N processes make the steps of
one, to rounding. The leader, process 0, alone keeps time, validates, writes and speaks; before each step it tells the
others, the followers, to go on, and they do nothing without being told. What does not depend on the number of
processes (weights, optimizer, carried state, data position) is saved as one process saves it, so that a run may go on
with any number.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.nn.parallel import DistributedDataParallel

from seqkit.errors import UsageError
from seqkit.runs.tensor_tree import put_together, take_apart
from seqkit.training.loop import Batch, LossSum, Objective
from seqkit.training.meeting import Meeting
from seqkit.training.prepared import Prepared
from seqkit.training.processes import Place
from seqkit.training.sharding import WholeModel, gathered, gathered_weights, shard, sharded_like
from seqkit.training.state import Progress, TrainState

Parallel = Literal["ddp", "fsdp"]

_DRAWS = 3
"""Sets a follower's draws apart from what else of a run is drawn from its seed and a step."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SIGNS_BEFORE_TIMEOUT = 5
"""How often in ``timeout_s`` the leader says that it is still at something else, such as an evaluation."""


class _Order(IntEnum):
    """What the leader tells the followers to do."""

    STEP = 1
    WAIT = 2
    GATHER_STATE = 3
    GATHER_WEIGHTS = 4
    END = 5


@dataclass(frozen=True)
class _StandIn:
    """A row of another process, for one that has none of a small batch: all must compute, but it counts nothing."""

    batch: Any

    @property
    def starts_fresh(self) -> bool:
        """As the batch."""
        return bool(self.batch.starts_fresh)

    @property
    def num_rows(self) -> int:
        """One, which cannot be divided."""
        return 1

    @property
    def num_tokens(self) -> int:
        """Nothing counts."""
        return 0

    def every(self, step: int, first: int) -> Batch:
        """Never asked of one row."""
        raise AssertionError("a stand-in has one row")


class _Step(nn.Module):
    """A model with its loss as one module, which PyTorch's engines can wrap: they act where it is called."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Any, carry: Any, spent: float) -> tuple[Tensor, LossSum]:
        """The loss with its graph, and the whole result; FSDP looks for tensors in the outermost tuple only."""
        loss = self._objective(self.model, batch, carry, spent)
        return loss.nats, loss


class Team:
    """The processes that train one model together, as one of them sees them.

    Args:
        place: Which one this is.
        meeting: Where they met.
        device: Where this one trains.
        parallel: ``ddp``: each has the whole model; ``fsdp``: each has a part of it.
        seed: Of the run.
        timeout_s: How long to wait for a process that does not answer.
    """

    def __init__(
        self, place: Place, meeting: Meeting, device: torch.device, *, parallel: Parallel, seed: int, timeout_s: float
    ) -> None:
        self.rank = place.rank
        self.size = place.size
        self.is_leader = place.is_leader
        self.meeting = meeting
        self.device = device
        self.shards = parallel == "fsdp"
        self.own_signal: Callable[[], int | None] = lambda: None
        """Tells the number of the signal that this process received; replaced by the caller."""
        self.stop_signal: int | None = None
        """Of the leader: a signal that some process received."""
        self.exit_code: int | None = None
        """Of a follower: what the leader exits with, once it has said so."""
        self._seed = seed
        self._objective: Objective | None = None
        self._step: nn.Module | None = None
        self._sums_by_hand = False
        self._whole: WholeModel | None = None
        self._last_sign = time.monotonic()
        self._sign_every_s = min(5.0, timeout_s / _SIGNS_BEFORE_TIMEOUT)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("collectives", meeting.store),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=timeout_s),
        )

    # Before training

    def shard(self, model: nn.Module, prepared: Prepared) -> None:
        """Divide the model's weights among the processes (``fsdp``); they come to the device.

        The leader validates and saves with a second model, which is whole.
        """
        self._step = _Step(model, prepared.loss)
        shard(self._step, self.device, self.size)
        if self.is_leader:
            self._whole = WholeModel(prepared.build_model, self.device)

    def replicate(self, model: nn.Module, objective: Objective, *, sums_by_hand: bool) -> None:
        """Give every process the leader's weights, and have gradients summed as they are made (``ddp``).

        Args:
            model: On the device.
            objective: The loss.
            sums_by_hand: Gradients are summed after the backward pass instead: where a parameter may have none in a
                step, or threads find them for slices of a batch.
        """
        self._objective = objective
        self._sums_by_hand = sums_by_hand
        if sums_by_hand:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)
            return
        self._step = DistributedDataParallel(
            _Step(model, objective), broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def optimizer_state(self, optimizer: torch.optim.Optimizer, tree: dict[str, Any]) -> dict[str, Any]:
        """A saved optimizer state as this process needs it."""
        return sharded_like(optimizer, tree) if self.shards else tree

    def rows_of(self, carry: Any) -> Any:
        """This process's rows of a hidden state that was carried for the whole batch."""
        return _map_tensors(carry, lambda tensor: tensor[self.rank :: self.size].contiguous())

    def share_tree(self, tree: Any) -> Any:
        """The leader's nested value with tensors, in every process.

        Args:
            tree: Of the leader; what :func:`seqkit.runs.tensor_tree.take_apart` takes.

        Returns:
            An equal one, its tensors on the CPU.
        """
        header = b""
        tensors: dict[str, Tensor] = {}
        if self.is_leader:
            note, tensors = take_apart(tree)
            shapes = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()}
            header = json.dumps([note, shapes]).encode()
        length = torch.tensor([len(header)])
        dist.broadcast(length, 0)
        text = torch.empty(int(length), dtype=torch.uint8)
        if self.is_leader:
            text.copy_(torch.frombuffer(bytearray(header), dtype=torch.uint8))
        dist.broadcast(text, 0)
        if self.is_leader:
            for tensor in tensors.values():
                _broadcast_bytes(tensor.cpu().contiguous())
            return tree
        note, shapes = json.loads(text.numpy().tobytes())
        for name, (dtype, shape) in shapes.items():
            tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            _broadcast_bytes(tensors[name])
        return put_together(note, tensors)

    # Around a step

    def agree_to_step(self, state: TrainState, *, wants_to: bool) -> bool:
        """Whether all make another step: the leader says so, with its clock; followers do what it asks until then.

        Args:
            state: Of the run; a follower's progress takes over what only the leader knows.
            wants_to: Of the leader: whether its budget goes on.
        """
        progress = state.progress
        if self.is_leader:
            if wants_to:
                self._command(_Order.STEP, progress.elapsed, progress.plateau_factor)
            return wants_to
        while True:
            order, first, second = self._command(_Order.WAIT)
            match order:
                case _Order.STEP:
                    progress.elapsed, progress.plateau_factor = first, second
                    self._seed_draws(progress)
                    return True
                case _Order.WAIT:
                    self._share_signals()
                case _Order.GATHER_STATE:
                    self._gather_state(state)
                case _Order.GATHER_WEIGHTS:
                    gathered_weights(state.model, keeps=False)
                case _Order.END:
                    self.exit_code = int(first)
                    return False

    def share(self, batch: Any) -> Any:
        """This process's rows of a batch."""
        if self.rank < batch.num_rows:
            return batch.every(self.size, self.rank)
        return _StandIn(batch.every(batch.num_rows, 0))

    def loss(self, model: nn.Module, batch: Any, carry: Any, spent: float) -> LossSum:
        """The objective of this process's rows, called so that gradients come to be summed."""
        is_real = not isinstance(batch, _StandIn)
        rows = batch if is_real else batch.batch
        if self._sums_by_hand:
            assert self._objective is not None
            loss = self._objective(model, rows, carry, spent)
        else:
            assert self._step is not None
            nats, loss = self._step(rows, carry, spent)
            loss = replace(loss, nats=nats)
        if is_real:
            return loss
        reported = None if loss.reported is None else loss.reported * 0
        return replace(loss, nats=loss.nats * 0, num_tokens=0, reported=reported)

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """A context for a forward and backward pass; only after the last one of a step gradients are summed."""
        if isinstance(self._step, DistributedDataParallel) and not is_last:
            return self._step.no_sync()
        if self.shards:
            assert self._step is not None
            self._step.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        return nullcontext()

    def add_up(self, parts: Sequence[LossSum], parameters: Sequence[nn.Parameter]) -> LossSum:
        """The loss and the tokens of all processes, where each has its own parts.

        Afterwards every process has the gradient of the sum over all rows, divided by the number of processes.
        """
        if self._sums_by_hand:
            self._sum_gradients(parameters)
        nats = sum(float((part.nats if part.reported is None else part.reported).detach()) for part in parts)
        own_signal = self.own_signal()
        received = [float(own_signal == number) for number in _SIGNALS]
        sums = torch.tensor([nats, sum(part.num_tokens for part in parts), *received], dtype=torch.float64)
        dist.all_reduce(sums)
        self._note_signals(sums[2:])
        return LossSum(sums[0], int(sums[1]), carry=parts[-1].carry)

    def clip_norm(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """Scale the gradients down to a global norm, which is returned as it was before."""
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.shards:
            norm = norm.full_tensor()  # type: ignore[attr-defined]
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return float(norm)

    # Between two steps, by the leader

    def wait_for_all(self) -> None:
        """Wait until every follower waits for orders."""
        self._command(_Order.WAIT)
        self._share_signals()

    def keep_waiting(self) -> None:
        """Show the followers that the leader is still at work, if the last sign is some seconds old."""
        if time.monotonic() - self._last_sign >= self._sign_every_s:
            self.wait_for_all()

    def whole_state(self, state: TrainState) -> dict[str, Any]:
        """The optimizer's state and the carried one as one process would have them."""
        if not self.shards and state.carry is None:
            return {}
        self._command(_Order.GATHER_STATE)
        return self._gather_state(state)

    @contextmanager
    def whole_model(self, state: TrainState) -> Iterator[nn.Module]:
        """A model that needs no other process, with the weights of now (``fsdp``)."""
        assert self._whole is not None
        self._command(_Order.GATHER_WEIGHTS)
        yield self._whole.holding(gathered_weights(state.model, keeps=True))

    def end(self, exit_code: int) -> None:
        """Send the followers home.

        Args:
            exit_code: What all exit with.
        """
        self._command(_Order.END, float(exit_code))

    def close(self) -> None:
        """Let go of the engine, then of the connections.

        The end of a process group waits for its threads, which may need the interpreter to free a last tensor. As a
        Python object it lets go of the interpreter meanwhile; but DDP's reducer, were it the last to hold the group,
        would not, and the process would wait for ever.
        """
        self._step = None
        if dist.is_initialized():
            dist.destroy_process_group()

    # Inner workings

    def _command(self, order: _Order, first: float = 0.0, second: float = 0.0) -> tuple[_Order, float, float]:
        """Send an order; of a follower: wait for one and return it."""
        message = torch.tensor([order, first, second], dtype=torch.float64)
        dist.broadcast(message, 0)
        self._last_sign = time.monotonic()
        number, first, second = message.tolist()
        return _Order(int(number)), first, second

    def _share_signals(self) -> None:
        """Tell the leader of the signals that followers have received."""
        own_signal = self.own_signal()
        received = torch.tensor([float(own_signal == number) for number in _SIGNALS])
        dist.all_reduce(received)
        self._note_signals(received)

    def _note_signals(self, received: Tensor) -> None:
        """Keep the first signal that any process received, of the leader: it stops the run."""
        if self.is_leader and self.stop_signal is None:
            self.stop_signal = next((number for number, count in zip(_SIGNALS, received, strict=True) if count), None)

    def _seed_draws(self, progress: Progress) -> None:
        """Have this follower draw other numbers than the others: a function of seed, step and rank alone.

        The leader draws as one process does, and its random state is saved; so nothing of a follower need be.
        """
        sequence = np.random.SeedSequence((self._seed, progress.step, self.rank), spawn_key=(_DRAWS,))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def _sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean of the processes' gradients; a parameter without one in any process stays without."""
        is_used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        dist.all_reduce(is_used, dist.ReduceOp.MAX)
        for parameter, used in zip(parameters, is_used.tolist(), strict=True):
            if used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat.div_(self.size)
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def _gather_state(self, state: TrainState) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        if self.shards:
            tree["optimizer"] = gathered(state.optimizer.state_dict(), keeps=self.is_leader)
        if state.carry is not None:
            tree["carry"] = _map_tensors(state.carry, self._gather_rows)
        return tree

    def _gather_rows(self, mine: Tensor) -> Tensor:
        """The rows of all processes, in the order of the batch."""
        mine = mine.detach().cpu()
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(mine)
        dist.all_reduce(counts)
        # As bytes, of which others add zeros: a sum of any type that changes no bit.
        bytes_of_mine = mine.contiguous().view(torch.uint8)
        whole = bytes_of_mine.new_zeros(int(counts.sum()), *bytes_of_mine.shape[1:])
        whole[self.rank :: self.size] = bytes_of_mine
        dist.all_reduce(whole)
        return whole.view(mine.dtype)


def team_device(device: torch.device, *, rank: int, size: int) -> torch.device:
    """The device of one of several processes: the CPU, which they share, or a GPU each.

    Args:
        device: What the user asked for, as one process would take it.
        rank: The number of this process on its machine.
        size: How many processes its machine has.

    Raises:
        UsageError: It names a single GPU, or there are too few, or of a kind that cannot work together.
    """
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UsageError(f"several processes cannot train on {device.type}", hint="use --device cpu or cuda")
    if device.index is not None:
        raise UsageError(f"device {device} is one GPU, where {size} processes need one each", hint="use --device cuda")
    found = torch.cuda.device_count()
    if size > found:
        raise UsageError(
            f"{size} processes on this machine, but it has {found} CUDA device{'s' if found > 1 else ''}",
            hint="start one process a GPU, or use --device cpu",
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _broadcast_bytes(tensor: Tensor) -> None:
    """Fill a tensor on the CPU with the leader's, whatever its type."""
    if tensor.numel():
        dist.broadcast(tensor.view(-1).view(torch.uint8), 0)


def _map_tensors(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(_map_tensors(part, function) for part in tree)
    return tree
