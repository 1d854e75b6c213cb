"""The rate that MFU is measured against: an accelerator's dated figure, or this CPU's own matrix product."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_scale import quantities
from llama_scale.errors import InputError, StoreError
from llama_scale.files import cache_folder, parse_json, write_atomically
from llama_scale.frozen import frozen
from llama_scale.hardware import Accelerator, accelerator, accelerator_of_device
from llama_scale.runs import INTEGERS, Precision
from llama_scale.training.environment import cpu_facts
from llama_scale.training.kernels import Library, used_on
from llama_scale.training.kernels.products import Numbers, product, product_scratch
from llama_scale.training.kernels.turns import together
from llama_scale.training.optimizer import DTYPES

SIZES = (512, 1024)  # of square matrices; which one a CPU multiplies fastest depends on its caches
TRIES = 6
# From two matrices to a call that multiplies them, and how many times at once.
Multiplier = Callable[[Tensor, Tensor], tuple[Callable[[], Any], int]]


@frozen
class Peak:
    """Operations/s that nothing exceeds, and where the figure comes from, in words."""

    flops_per_second: float
    source: str


def peak_of(device: torch.device, *, precision: Precision = "f32", wanted: str | None = None) -> Peak | None:
    """The peak of one device; None for an accelerator that no table names and for what it cannot compute.

    `wanted` is an accelerator's name or a rate ("990 TFLOP/s") and goes before everything. Raises InputError
    where it is neither.
    """
    if wanted is not None:
        return stated_peak(wanted)
    if device.type == "cuda":
        chip = accelerator_of_device(torch.cuda.get_device_name(device))
        return chip and _of(chip)
    if device.type == "cpu":
        return _measured_here(precision)
    return None


def stated_peak(wanted: str) -> Peak:
    """The peak of an accelerator's name, some of which are numbers (4090), or a rate.

    Raises InputError where it is neither.
    """
    try:
        return _of(accelerator(wanted))
    except InputError:
        if not wanted.lstrip(" +-.")[:1].isdigit():
            raise
    rate = quantities.parse_flops_per_second(wanted)
    if rate <= 0:
        raise InputError(
            f"a peak of {wanted} is no rate to measure against",
            hint='write it like "990 TFLOP/s", or name an accelerator such as H100-SXM',
        )
    return Peak(flops_per_second=rate, source="as given")


def _of(chip: Accelerator) -> Peak:
    precision = chip.trains_in
    return Peak(flops_per_second=chip.peak(precision), source=f"{chip.name}, {precision} dense")


def _measured_here(precision: Precision) -> Peak | None:
    """Measured once for a CPU, its threads and what multiplies there, then read from the user's cache.

    In 8 bits that of products in 8 alone, which are a part of a step's. None in integers without kernels.
    """
    kernels, count = used_on(torch.device("cpu")), torch.get_num_threads()
    if precision != "bf16" and isinstance(kernels, Library) and (precision in INTEGERS or kernels.multiplies):
        name, multiplier = f"kernels {kernels.name}", partial(_by_kernels, kernels, precision, count)
    elif precision in INTEGERS:
        return None
    else:
        name, multiplier = f"torch {torch.__version__}", _by_torch
    cpu = cpu_facts().get("model name") or platform.processor() or platform.machine()
    key = f"{cpu}, {quantities.counted(count, 'thread')}, {precision}, {name}"
    known = _read_cache()
    if key not in known:
        rate = _matrix_product_rate(multiplier, DTYPES[precision])
        source = f"{key}, measured {datetime.date.today().isoformat()}"
        known[key] = Peak(flops_per_second=rate, source=source)
        with suppress(StoreError):  # a cache that cannot be written is measured again
            plain = {key: asdict(peak) for key, peak in known.items()}
            write_atomically(_cache_file(), json.dumps(plain, indent=1))
    return known[key]


def _matrix_product_rate(multiplier: Multiplier, dtype: torch.dtype) -> float:
    """The best of a few square products, about a second in all; anything that disturbs makes it lower."""
    best = 0.0
    for size in SIZES:
        multiply, count = multiplier(*(torch.randn(size, size).to(dtype) for _ in range(2)))
        for _ in range(TRIES):
            began = time.perf_counter()
            multiply()
            best = max(best, 2.0 * size**3 * count / (time.perf_counter() - began))
    return best


def _by_torch(left: Tensor, right: Tensor) -> tuple[Callable[[], Any], int]:
    return partial(torch.mm, left, right), 1


def _by_kernels(
    kernels: Library, numbers: Numbers, threads: int, left: Tensor, right: Tensor
) -> tuple[Callable[[], Any], int]:
    """One on each thread, as a step has them."""
    size = len(left)

    def call() -> partial[Any]:
        scratch = product_scratch(kernels, [(size, size, size)], numbers)
        return product(kernels, torch.empty_like(left), left, right, numbers=numbers, scratch=scratch)

    return partial(together, ThreadPoolExecutor(threads), [call() for _ in range(threads)]), threads


def _read_cache() -> dict[str, Peak]:
    """What was measured before; entries that are not ours are left out."""
    try:
        content = parse_json(_cache_file().read_text())
        return {key: _checked(entry) for key, entry in content.items()}
    except (StoreError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _checked(entry: dict[str, Any]) -> Peak:
    rate, source = float(entry["flops_per_second"]), str(entry["source"])
    if not 0 < rate < float("inf"):
        raise ValueError("not a rate")
    return Peak(flops_per_second=rate, source=source)


def _cache_file() -> Path:
    return cache_folder() / "peaks.json"
