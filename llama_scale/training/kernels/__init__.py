"""Kernels in C for what a training step does between matrix products, and where they apply."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from llama_scale.architecture import Recompute
from llama_scale.training.kernels.library import Absent, Library, library
from llama_scale.training.kernels.step import KernelGradients
from llama_scale.training.model import Llama

__all__ = ["Absent", "Gradients", "KernelGradients", "Library", "gradients_of", "library", "used_on"]


class Gradients(Protocol):
    """Adds `share` times the gradients of a model's objective to its weights' `grad`; gives the loss."""

    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float, share: float) -> Tensor: ...


def gradients_of(model: Llama, recompute: Recompute) -> Gradients:
    """By kernels where they compute this model on this machine, else by torch."""
    weights = list(model.parameters())
    plain = all(weight.dtype == torch.float32 and type(weight) is torch.nn.Parameter for weight in weights)
    kernels = used_on(weights[0].device)
    if isinstance(kernels, Library) and plain and recompute == "none":
        return KernelGradients(model, kernels)
    return partial(_by_torch, model)


def _by_torch(model: Llama, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float, share: float) -> Tensor:
    objective, loss = model.objective(tokens_BT, targets_BT, z_loss)
    (objective * share).backward()
    return loss.detach()


def used_on(device: torch.device) -> Library | Absent:
    """The kernels for f32 runs on `device` in this process, or why torch does everything."""
    if device.type != "cpu":
        return Absent(f"{device.type} has kernels of its own", "")
    if torch.get_num_threads() != 1:
        return Absent(
            f"{torch.get_num_threads()} threads share a run", "set threads to 1 and run two at a time"
        )
    return library()
