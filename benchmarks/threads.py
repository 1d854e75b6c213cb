"""What a second thread saves: loss and gradients by the kernels on one thread and on more, and by torch.

    python benchmarks/threads.py [--threads 2] [--rounds 30]

Milliseconds by the clock, the least of the rounds, in which all take turns; nothing else may run beside it.
Sizes are those of `train_step.py` and the smallest and largest of the default sweep's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from train_step import CPU_SIZES

from llama_scale.architecture import ModelConfig
from llama_scale.training.kernels import Absent, KernelGradients, Library, TorchGradients, library
from llama_scale.training.kernels.products import NUMBERS
from llama_scale.training.model import Llama
from llama_scale.training.scaling import initialise

VOCABULARY, CONTEXT = 256, 256


def shapes() -> Iterator[tuple[str, ModelConfig, int]]:
    """Name, model and sequences a step."""
    for width in (16, 80):
        heads = width // 16
        model = ModelConfig(
            layers=2,
            width=width,
            heads=heads,
            kv_heads=heads,
            head_size=16,
            hidden=3 * width,
            vocabulary=1024,
            context=64,
            qk_norm=True,
        )
        yield f"2x{width}", model, 8
    for size in CPU_SIZES:
        yield size.name, size.model(VOCABULARY, CONTEXT), size.sequences


def ways(kernels: Library, model: Llama, threads: int) -> dict[str, tuple[int, Callable[..., Any]]]:
    """Each with the threads that torch has meanwhile."""
    ours = partial(KernelGradients, model, kernels)
    return {
        **{n: (1, ours(n)) for n in NUMBERS},
        **{f"{n} x {threads}": (1, ours(n, threads=threads)) for n in NUMBERS},
        "torch": (1, TorchGradients(model)),
        f"torch x {threads}": (threads, TorchGradients(model)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    kernels = library()
    if isinstance(kernels, Absent):
        sys.exit(f"no kernels: {kernels.reason}; {kernels.fix}")
    for name, shape, sequences in shapes():
        model = Llama(shape)
        initialise(model, 0, 0.7)
        ids = torch.randint(shape.vocabulary, (sequences, shape.context + 1))
        contestants = ways(kernels, model, asked.threads)
        least = dict.fromkeys(contestants, float("inf"))
        for _ in range(asked.rounds):
            for who, (threads, add_gradients) in contestants.items():
                torch.set_num_threads(threads)
                began = time.perf_counter()
                add_gradients(ids[:, :-1], ids[:, 1:], 0.0, 1.0)
                least[who] = min(least[who], time.perf_counter() - began)
        print(f"{name}: " + ", ".join(f"{who} {1e3 * took:.2f}" for who, took in least.items()), flush=True)


if __name__ == "__main__":
    main()
