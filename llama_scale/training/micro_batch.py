"""How many sequences go through the model at once: what memory holds, half of it if that was too many."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from llama_scale.costs.memory import ACTIVATION_BYTES, LOGIT_BYTES, layer_activation_bytes
from llama_scale.runs import RunConfig

# How allocators besides torch's own for GPUs say that they have no more.
REFUSED = (
    "DefaultCPUAllocator: not enough memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# Shares of the free memory that a micro-batch may take by our estimate: a machine's is others' too.
USABLE_SHARE = {"cuda": 0.85, "cpu": 0.4}
F32_LOGIT_BYTES = 12  # logits, log-probabilities and gradient


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on an accelerator or here."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in REFUSED
    )


def first_micro_batch(config: RunConfig, device: torch.device, *, processes: int = 1) -> int:
    """Sequences to try first: a process's share of a step, halved until it seems to fit in what is free."""
    sequences = -(-config.sequences_per_step // processes)
    if config.micro_batch is not None:
        return min(config.micro_batch, sequences)
    usable = USABLE_SHARE.get(device.type, 1.0) * free_bytes(device)
    while sequences > 1 and sequences * sequence_bytes(config) > usable:
        sequences = halved(sequences)
    return sequences


def halved(sequences: int) -> int:
    """Half as many, at least one."""
    return -(-sequences // 2)


def sequence_bytes(config: RunConfig) -> float:
    """Bytes that the forward pass of one sequence keeps for the backward pass, logits included."""
    model = config.model
    # fused attention keeps no scores, so nothing recomputed is `selective` in the costs' words
    kept = layer_activation_bytes(model, "full" if config.recompute == "full" else "selective")
    wide = config.precision != "bf16"
    layers = model.layers * kept * (4 / ACTIVATION_BYTES if wide else 1)
    return model.context * (layers + model.vocabulary * (F32_LOGIT_BYTES if wide else LOGIT_BYTES))


def free_bytes(device: torch.device) -> float:
    """Memory of `device` that nobody uses; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _free_pages()


def _free_pages() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")
