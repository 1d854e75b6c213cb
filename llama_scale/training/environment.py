"""What a run ran on, for its record."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy
import torch

from llama_scale.errors import InputError
from llama_scale.version import code_version


def software(device: torch.device, kernels: str) -> dict[str, str | int]:
    """Versions, device, threads, and which kernels compute a training step."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "llama_scale": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "kernels": kernels,
    }


def cpu_facts() -> dict[str, str]:
    """What Linux says of this CPU, such as its `model name` and `flags`; nothing elsewhere."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def threads_here() -> int:
    """Threads that torch uses in this process."""
    return torch.get_num_threads()


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads in this block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_named(name: str) -> torch.device:
    """The device that `name` means on any machine, be there one here or not.

    Raises InputError for a name that torch does not know and a kind that nothing here was tried on.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"there is no device called {name!r}", hint="use cpu, cuda or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"nothing trains on a device of type {device.type}", hint="use cpu, cuda or auto")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether `device` computes in bf16, be it slowly on a CPU; cards of before 2020 only emulate it."""
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):  # torch asks the card in use
        return torch.cuda.is_bf16_supported(including_emulation=False)


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises InputError for what `device_named` refuses, and for CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = device_named(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device here",
            hint="use --device cpu, or install a driver and a CUDA build of torch",
        )
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(
            f"device {name!r} was asked for, but torch finds {count} here",
            hint=f"use cuda:0 to cuda:{count - 1}, or cuda",
        )
    return device
