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
from llama_scale.runs import Precision
from llama_scale.training.kernels import Library, product, product_scratch, used_on
from llama_scale.training.kernels.products import Numbers
from llama_scale.training.kernels.turns import together
from llama_scale.training.optimizer import DTYPES

SIZES = (512, 1024)  # of square matrices; which one a CPU multiplies fastest depends on its caches
TRIES = 6


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

    None in i16 without its kernels.
    """
    kernels = used_on(torch.device("cpu")) if precision != "bf16" else None
    count = torch.get_num_threads()
    multiplier, products_of = f"torch {torch.__version__}", _by_torch
    numbers: Numbers = "i16" if precision == "i16" else "f32"
    if isinstance(kernels, Library) and (numbers == "i16" or kernels.multiplies):
        multiplier, products_of = f"kernels {kernels.name}", partial(_by_kernels, kernels, numbers, count)
    elif precision == "i16":
        return None
    threads = quantities.counted(count, "thread")
    key = f"{_cpu_name()}, {threads}, {precision}, {multiplier}"
    cached = _read_cache()
    if key not in cached:
        rate = _matrix_product_rate(products_of, DTYPES[precision])
        found = {"flops_per_second": rate, "source": f"{key}, measured {datetime.date.today().isoformat()}"}
        with suppress(StoreError):  # a cache that cannot be written is measured again
            write_atomically(_cache_file(), json.dumps({**cached, key: found}, indent=1))
        return Peak(flops_per_second=rate, source=found["source"])
    return Peak(**cached[key])


@frozen
class Products:
    """A call that computes `count` products at once."""

    multiply: Callable[[], Any]
    count: int = 1


def _matrix_product_rate(products_of: Callable[[Tensor, Tensor], Products], dtype: torch.dtype) -> float:
    """The best of a few square products, about a second in all; anything that disturbs makes it lower."""
    best = 0.0
    for size in SIZES:
        products = products_of(*(torch.randn(size, size).to(dtype) for _ in range(2)))
        for _ in range(TRIES):
            began = time.perf_counter()
            products.multiply()
            best = max(best, 2.0 * size**3 * products.count / (time.perf_counter() - began))
    return best


def _by_torch(left: Tensor, right: Tensor) -> Products:
    return Products(multiply=partial(torch.mm, left, right))


def _by_kernels(kernels: Library, numbers: Numbers, threads: int, left: Tensor, right: Tensor) -> Products:
    """One on each thread, as a step has them."""
    sizes, pool = (len(left), len(left), len(left)), ThreadPoolExecutor(threads)
    calls = [
        product(
            kernels,
            torch.empty_like(left),
            left,
            right,
            numbers=numbers,
            scratch=product_scratch(kernels, [sizes], numbers),
        )
        for _ in range(threads)
    ]
    return Products(multiply=partial(together, pool, calls), count=threads)


def _read_cache() -> dict[str, dict[str, Any]]:
    """What was measured before; entries that are not ours are left out."""
    try:
        content = parse_json(_cache_file().read_text())
        return {key: asdict(_checked(entry)) for key, entry in content.items()}
    except (StoreError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _checked(entry: dict[str, Any]) -> Peak:
    rate, source = float(entry["flops_per_second"]), str(entry["source"])
    if not 0 < rate < float("inf"):
        raise ValueError("not a rate")
    return Peak(flops_per_second=rate, source=source)


def _cache_file() -> Path:
    return cache_folder() / "peaks.json"


def _cpu_name() -> str:
    """The CPU's own name where the system says it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
