"""How many sequences go through the model at once: what memory holds, half of it if that was too many."""

from __future__ import annotations

import torch

from llama_scale import quantities
from llama_scale.costs.memory import ACTIVATION_BYTES, layer_activation_bytes
from llama_scale.errors import InputError
from llama_scale.runs import RunConfig
from llama_scale.training.free_memory import free_memory_bytes

# How allocators besides torch's own for GPUs say that they have no more.
REFUSED = (
    "DefaultCPUAllocator: not enough memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
# Shares of the free memory that a micro-batch may take by our estimate: a machine's is others' too.
USABLE_SHARE = {"cuda": 0.85, "cpu": 0.4}
# Of a logit in any precision: its log-probability, the gradient of that and its own, all of 32 bits.
LOGIT_BYTES = 12


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
    width = 1 if config.precision == "bf16" else 4 / ACTIVATION_BYTES
    return model.context * (model.layers * kept * width + model.vocabulary * LOGIT_BYTES)


def state_bytes(config: RunConfig) -> float:
    """Bytes of weights, gradients and moments while one process trains: the least that a model takes."""
    moments = 4 if config.optimizer.kind == "muon" else 8  # most of Muon's weights have one
    copies = 4 if config.precision == "bf16" else 0  # of weights and of a micro-batch's gradients
    return (8 + moments + copies) * config.model.parameters.total


def check_model_fits(config: RunConfig, device: torch.device) -> None:
    """Raises InputError for a model that one process cannot hold: the system would end it without a word."""
    free = free_bytes(device)
    if state_bytes(config) > free:
        raise model_too_large(config, device, f"but {quantities.format_bytes(free)} are free")


def model_too_large(config: RunConfig, device: torch.device, why: str) -> InputError:
    """The refusal of a model whose weights, gradients and moments find no room."""
    parameters, needed = config.model.parameters.total, quantities.format_bytes(state_bytes(config))
    return InputError(
        f"a model of {quantities.format_count(parameters)} parameters does not fit in the memory of "
        f"{device}: weights, gradients and moments take {needed}, {why}",
        hint="train a smaller model, or share this one out among processes with torchrun",
    )


def free_bytes(device: torch.device) -> float:
    """Memory of `device` that nobody uses; infinite where the system does not say."""
    if device.type != "cuda":
        return free_memory_bytes()
    torch.cuda.empty_cache()  # which torch keeps of models that this process trained before
    return torch.cuda.mem_get_info(device)[0]
