"""The machine's own matrix-product rate in fp32 and bf16: the limit for arithmetic, beside which others are read.

Of large square matrices; and, for benchmarks of a model, of the products that its training step consists of.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from seqkit.training.device import describe_device

from .operations import Product
from .sides import (
    Series,
    Side,
    add_json_option,
    compare,
    package_version,
    print_environment,
    print_series,
    run_alternately,
    write_json,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def square_gflops(dtype: torch.dtype, *, size: int, seconds: float, device: torch.device) -> float:
    """GFLOP/s of square products, 2 · size³ operations each, made one after the other for about ``seconds``."""
    a, b = (_numbers(1, size, size, dtype=dtype, device=device)[0] for _ in range(2))
    out = torch.empty_like(a)
    product = Product(size, size, size, num=1 if device.type == "cpu" else 50)

    def multiply() -> None:
        for _ in range(product.num):
            torch.mm(a, b, out=out)

    return _gflops(multiply, product.operations, seconds=seconds, device=device)


def step_gflops(products: Sequence[Product], dtype: torch.dtype, *, seconds: float, device: torch.device) -> float:
    """GFLOP/s of all matrix products of a training step: each of the forward pass, and the two that its gradients need.

    Results go to memory that is there already, and nothing else is done between two products.

    Args:
        products: Of the forward pass.
        dtype: Of the matrices.
        seconds: About how long.
        device: Where.
    """
    multiplications: list[Callable[[], object]] = []
    for product, count in Counter(products).items():
        make = partial(_numbers, product.num, dtype=dtype, device=device)
        # As a linear layer has them: y = x wᵀ, and from the gradient of y that of x and that of w.
        x, w = make(product.rows, product.inner), make(product.columns, product.inner)
        y, grad_x, grad_w = make(product.rows, product.columns), torch.empty_like(x), torch.empty_like(w)
        factors = [(x, w.mT, y), (y, w, grad_x), (y.mT, x, grad_w)]
        multiplications += count * [partial(_multiply, *three) for three in factors]

    def run_step() -> None:
        for multiply in multiplications:
            multiply()

    num_operations = 3 * sum(product.operations for product in products)
    return _gflops(run_step, num_operations, seconds=seconds, device=device)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if len(a) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def _numbers(num: int, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, rows, columns, generator=generator).to(device, dtype)


def _gflops(run: Callable[[], None], num_operations: int, *, seconds: float, device: torch.device) -> float:
    run()
    _wait_for(device)
    num_runs = 0
    began = time.perf_counter()
    while True:
        run()
        num_runs += 1
        _wait_for(device)
        spent = time.perf_counter() - began
        if spent >= seconds:
            return num_operations * num_runs / spent / 1e9


def square_sides(*, size: int = 2048, seconds: float = 0.5, device: torch.device | None = None) -> dict[str, Side]:
    """Square products in fp32 and in bf16, with the threads that torch is set to."""
    place = device or torch.device("cpu")
    return {
        f"matmul {name}": Side(
            run=partial(square_gflops, dtype, size=size, seconds=seconds, device=place),
            unit="GFLOP/s",
            version=package_version("torch"),
            settings=f"{size} × {size}, {name}, {describe_device(place)}",
        )
        for name, dtype in DTYPES.items()
    }


def step_sides(products: Sequence[Product], *, seconds: float, device: torch.device) -> dict[str, Side]:
    """All products of a model's training step in fp32 and in bf16, with the threads that torch is set to."""
    return {
        f"its products {name}": Side(
            run=partial(step_gflops, products, dtype, seconds=seconds, device=device),
            unit="GFLOP/s",
            version=package_version("torch"),
            settings=f"the {3 * len(products)} matrix products of a step alone, {name}, {describe_device(device)}",
        )
        for name, dtype in DTYPES.items()
    }


def matmul_rates(*, device: torch.device | None = None, rounds: int = 3) -> list[Series]:
    """GFLOP/s of square products, alternating, for benchmarks to print beside their own figures."""
    return run_alternately(square_sides(device=device), rounds=rounds, num_warmups=0)


def reference_line(rates: Sequence[Series]) -> str:
    """The rates in one line, for other benchmarks to print."""
    return "matrix products of this machine: " + ", ".join(
        f"{side.name.removeprefix('matmul ')} {side.median:,.0f} GFLOP/s" for side in rates
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.matmul", description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the matrices (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs a side (%(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    sides = square_sides(size=options.size, seconds=options.seconds, device=options.device)
    rates = run_alternately(sides, rounds=options.rounds)
    print_environment()
    print_series(rates)
    speedup = compare(rates[1], rates[0])
    print(speedup)
    settings = {"size": options.size, "seconds": options.seconds, "device": describe_device(options.device)}
    write_json(options.json, "matmul", settings=settings, sides=rates, ratios=[speedup], results={})


if __name__ == "__main__":
    main()
