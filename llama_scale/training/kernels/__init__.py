"""Kernels in C for what a training step does between matrix products, and where they apply."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from llama_scale.architecture import Recompute
from llama_scale.training.kernels.library import Absent, Library, library
from llama_scale.training.kernels.step import KernelObjective
from llama_scale.training.model import Llama

__all__ = ["Absent", "KernelObjective", "Library", "Objective", "library", "objective_of", "used_on"]


class Objective(Protocol):
    """What training descends, to be differentiated, and the loss in nats per token."""

    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float) -> tuple[Tensor, Tensor]: ...


def objective_of(model: Llama, recompute: Recompute) -> Objective:
    """The kernels' objective where they compute this model on this machine, else torch's own."""
    weights = list(model.parameters())
    plain = all(weight.dtype == torch.float32 and type(weight) is torch.nn.Parameter for weight in weights)
    kernels = used_on(weights[0].device)
    if isinstance(kernels, Library) and plain and recompute == "none":
        return KernelObjective(model, kernels)
    return model.objective


def used_on(device: torch.device) -> Library | Absent:
    """The kernels for f32 runs on `device` in this process, or why torch does everything."""
    if device.type != "cpu":
        return Absent(f"{device.type} has kernels of its own", "")
    if torch.get_num_threads() != 1:
        return Absent(
            f"{torch.get_num_threads()} threads share a run", "set threads to 1 and run two at a time"
        )
    return library()
