"""Rates of the matrix products of a training step: by torch and ours, of floats, bf16 and integers.

    python benchmarks/products.py [--repeats 12]

One thread; every product of a size of `train_step.py` (forward, both gradients) is multiplied in turn each
way, and the least of its times counts. Errors are against 64 bits, over the norm of the exact product.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from train_step import CPU_SIZES, Size

from llama_scale.training.kernels import Absent, Library, library
from llama_scale.training.kernels.products import NUMBERS, product, product_scratch

VOCABULARY, CONTEXT = 256, 256
Operands = tuple[Tensor, Tensor]


def products(size: Size) -> Iterator[Operands]:
    """Left and right operands as they lie in a step: y = x w^T, dx = dy w, dw = dy^T x."""
    rows, model = size.sequences * CONTEXT, size.model(VOCABULARY, CONTEXT)
    width, hidden = model.width, model.hidden
    for out, into in ((3 * width, width), (width, width), (2 * hidden, width), (width, hidden)):
        x, w, dy = torch.randn(rows, into), 0.02 * torch.randn(out, into), 1e-5 * torch.randn(rows, out)
        yield from ((x, w.t()), (dy, w), (dy.t(), x))


def ways(kernels: Library, a: Tensor, b: Tensor) -> dict[str, tuple[Callable[[], Any], Tensor]]:
    """Calls that multiply, and where each leaves its result."""
    sizes = (a.shape[0], b.shape[1], a.shape[1])
    wide, narrow = (torch.empty(sizes[:2], dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    scratch = product_scratch(kernels, [sizes], *NUMBERS)
    calls: dict[str, tuple[Callable[[], Any], Tensor]] = {
        "torch, f32": (partial(torch.mm, a, b, out=wide), wide),
        "torch, bf16": (partial(torch.mm, a.bfloat16(), b.bfloat16(), out=narrow), narrow),
    }
    for numbers in NUMBERS:
        c = torch.empty(sizes[:2])
        calls[f"ours, {numbers}"] = product(kernels, c, a, b, numbers=numbers, scratch=scratch), c
    return calls


def measure(kernels: Library, size: Size, repeats: int) -> dict[str, tuple[float, float]]:
    """Giga-operations a second of each way over all products of a size, and its largest error."""
    seconds: dict[str, float] = defaultdict(float)
    errors: dict[str, float] = defaultdict(float)
    operations = 0.0
    for a, b in products(size):
        operations += 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
        exact, calls = a.double() @ b.double(), ways(kernels, a, b)
        least = dict.fromkeys(calls, float("inf"))
        for _ in range(repeats):
            for name, (multiply, _) in calls.items():
                began = time.thread_time()
                multiply()
                least[name] = min(least[name], time.thread_time() - began)
        for name, (_, found) in calls.items():
            seconds[name] += least[name]
            error = ((found.double() - exact).norm() / exact.norm()).item()
            errors[name] = max(errors[name], error)
    return {name: (operations / seconds[name] / 1e9, errors[name]) for name in seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=12)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    kernels = library()
    if isinstance(kernels, Absent):
        raise SystemExit(f"no kernels: {kernels.reason}")
    print("| size | what | Gop/s | error |\n|---|---|---|---|")
    for size in CPU_SIZES:
        for name, (rate, error) in measure(kernels, size, repeats).items():
            print(f"| {size.name} | {name} | {rate:.0f} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
