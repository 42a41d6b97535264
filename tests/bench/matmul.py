"""The machine's own matrix-product rate in fp32 and bf16: the limit for arithmetic, beside which others are read."""

from __future__ import annotations

import argparse
import time

import torch

from .sides import Series, add_json_option, print_environment, print_series, run_alternately, write_json

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_gflops(dtype: torch.dtype, *, size: int, seconds: float, device: torch.device) -> float:
    """GFLOP/s of square products, 2 · size³ operations each, made one after the other for about ``seconds``."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    _wait_for(device)
    num_products = 0
    began = time.perf_counter()
    while True:
        for _ in range(1 if device.type == "cpu" else 50):
            torch.mm(a, b, out=out)
            num_products += 1
        _wait_for(device)
        spent = time.perf_counter() - began
        if spent >= seconds:
            return 2 * size**3 * num_products / spent / 1e9


def matmul_rates(
    *, size: int = 2048, seconds: float = 0.5, rounds: int = 3, device: torch.device | None = None
) -> list[Series]:
    """GFLOP/s in fp32 and in bf16, alternating, with the threads that torch is set to."""
    place = device or torch.device("cpu")

    def make_run(dtype: torch.dtype) -> float:
        return matmul_gflops(dtype, size=size, seconds=seconds, device=place)

    sides = {f"matmul {name}": (lambda dtype=dtype: make_run(dtype)) for name, dtype in _DTYPES.items()}
    return run_alternately(sides, rounds=rounds, unit="GFLOP/s", num_warmups=0)


def reference_line(rates: list[Series]) -> str:
    """The rates in one line, for other benchmarks to print."""
    return "matrix products of this machine: " + ", ".join(
        f"{side.name.removeprefix('matmul ')} {side.median:,.0f} GFLOP/s" for side in rates
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.matmul", description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the matrices (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs a side (%(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    rates = matmul_rates(size=options.size, seconds=options.seconds, rounds=options.rounds, device=options.device)
    print_environment()
    print_series(rates)
    speedup = rates[1].median / rates[0].median
    print(f"bf16 is {speedup:.2f} × fp32")
    settings = {"size": options.size, "seconds": options.seconds, "device": str(options.device)}
    write_json(options.json, "matmul", settings=settings, sides=rates, results={"bf16_speedup": speedup})


if __name__ == "__main__":
    main()
