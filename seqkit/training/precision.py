"""Arithmetic of the matrix products: fp32, bf16 or fp16 autocast, and the probe that chooses."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from seqkit.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]

_FEWEST_TURNS = 3
"""Of the probe, whatever they cost: the first one only warms caches up."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products run in ``precision``; weights stay in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


@dataclass(frozen=True)
class PrecisionChoice:
    """What the probe chose, and why."""

    precision: Precision
    speedup: float
    """How many times faster a training step was in bf16 than in fp32; on a CPU by the wall clock or by processor time,
    whichever says less."""
    seconds: float
    """What the probe cost."""


def probe_precision(
    model: nn.Module,
    run_step: Callable[[Precision], None],
    device: torch.device,
    *,
    budget_seconds: float = 2.0,
    worthwhile: float = 1.1,
) -> PrecisionChoice:
    """Time real training steps in fp32 and in bf16, alternating, and choose the faster.

    On a CPU both clocks must agree: beside other work, a step may take longer because it waited, and a run keeps the
    precision that it began with.

    The model's gradients are cleared and the random state restored, so training is as if nothing had happened.

    Args:
        model: The model about to be trained.
        run_step: Runs forward and backward on a real batch in the given precision.
        device: Where the model is.
        budget_seconds: Stop measuring after about this long.
        worthwhile: bf16 must be at least this much faster to be chosen.
    """
    began = time.perf_counter()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return PrecisionChoice("fp32", 0.0, 0.0)
    devices = [device] if device.type == "cuda" else []
    clocks = (time.perf_counter, time.process_time) if device.type == "cpu" else (time.perf_counter,)
    times: dict[Precision, list[list[float]]] = {"fp32": [], "bf16": []}
    with torch.random.fork_rng(devices=devices):
        try:
            while len(times["bf16"]) < _FEWEST_TURNS or time.perf_counter() - began < budget_seconds:
                for precision, seconds in times.items():
                    starts = [clock() for clock in clocks]
                    run_step(precision)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    seconds.append([clock() - start for clock, start in zip(clocks, starts, strict=True)])
                if len(times["bf16"]) >= 8:
                    break
        except RuntimeError:
            # A kernel that this machine lacks in bf16: fp32 always works.
            return PrecisionChoice("fp32", 0.0, time.perf_counter() - began)
        finally:
            model.zero_grad(set_to_none=True)
    # By each clock the fastest of each: the first run of each warms caches up, and noise only ever adds time.
    fp32, bf16 = ([min(of_clock) for of_clock in zip(*times[kind][1:], strict=True)] for kind in times)
    # A clock too coarse for such steps says nothing.
    speedup = min((slow / fast for slow, fast in zip(fp32, bf16, strict=True) if slow > 0 and fast > 0), default=1.0)
    chosen: Precision = "bf16" if speedup >= worthwhile else "fp32"
    return PrecisionChoice(chosen, speedup, time.perf_counter() - began)


def sharded_precision(device: torch.device) -> Precision:
    """What ``auto`` means where no process has a whole model to probe with: bf16 on a GPU that has it, else fp32."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def require_precision(
    model: nn.Module, run_step: Callable[[Precision], None], precision: Precision, device: torch.device
) -> None:
    """Check that a precision the user asked for works here, by one step that leaves no trace.

    Raises:
        UsageError: PyTorch has no kernel for it on this device.
    """
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run_step(precision)
    except RuntimeError as error:
        raise UsageError(
            f"precision {precision} does not work for this model on {device} ({str(error).splitlines()[0]})",
            hint="use train.precision auto, bf16 or fp32",
        ) from None
    finally:
        model.zero_grad(set_to_none=True)
