"""Kernels in C for what a training step does, and where they apply."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.runs import INTEGERS, Precision
from llama_scale.training.compiling import telling_refusals
from llama_scale.training.environment import has_bf16
from llama_scale.training.kernels.library import Absent, Library, library
from llama_scale.training.kernels.step import KernelGradients
from llama_scale.training.model import Llama

SPREAD = Absent("its weights are spread over processes", "train it in one process")


class Gradients(Protocol):
    """Adds `share` times the gradients of a model's objective to its weights' `grad`; gives the mean loss.

    `name` says what computes, for a run's record; `loss` gives the sum of losses in nats.
    """

    @property
    def name(self) -> str: ...
    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float, share: float) -> Tensor: ...
    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor: ...


@frozen(kw_only=False)
class TorchGradients:
    """By torch, on any device."""

    model: Llama

    @property
    def name(self) -> str:
        """What computes, for a run's record."""
        return "torch, compiled" if self.model.compiled else "torch"

    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float, share: float) -> Tensor:
        """Add gradients; gives the mean loss."""
        with self._compiling():
            objective, loss = self.model.objective(tokens_BT, targets_BT, z_loss)
            (objective * share).backward()
        return loss.detach()

    @torch.no_grad()
    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The sum of losses in nats."""
        with self._compiling():
            return self.model.loss(tokens_BT, targets_BT, reduction="sum")

    def _compiling(self) -> AbstractContextManager[None]:
        return telling_refusals() if self.model.compiled else nullcontext()


def gradients_of(model: Llama, precision: Precision = "f32", *, sequences: int | None = None) -> Gradients:
    """By kernels where they compute this model on this machine, else by torch.

    `sequences` are those that go through the model at once. Raises InputError where `precision` is one that
    only kernels have, and they don't.
    """
    found, threads = _kernels_for(model), torch.get_num_threads()
    if isinstance(found, Absent):
        if precision in INTEGERS:
            raise _without_kernels(precision, found)
        return TorchGradients(model)
    busy = min(threads, sequences or threads) if found.multiplies or precision in INTEGERS else 1
    if precision not in INTEGERS and busy < threads:  # torch's products keep all of them busy
        return TorchGradients(model)
    return KernelGradients(model, found, precision if precision in INTEGERS else "f32", threads=busy)


def check_precision(precision: Precision, device: torch.device, *, processes: int = 1) -> None:
    """Raises InputError for a precision that a run of `processes` cannot have on `device` here."""
    if precision == "bf16" and not has_bf16(device):
        raise InputError(
            f"training.precision is bf16, which {torch.cuda.get_device_name(device)} does not compute in",
            hint="set training.precision to f32, or use a card of 2020 or later",
        )
    if precision not in INTEGERS:
        return
    found = SPREAD if processes > 1 else used_on(device)
    if isinstance(found, Absent):
        raise _without_kernels(precision, found)


def _without_kernels(precision: Precision, why: Absent) -> InputError:
    return InputError(
        f"training.precision is {precision}, which only C kernels compute, and here they don't: {why.reason}",
        hint=f"{why.fix}, or set training.precision to f32",
    )


def _kernels_for(model: Llama) -> Library | Absent:
    weights = list(model.parameters())
    if any(weight.dtype != torch.float32 for weight in weights):
        return Absent("its weights are not of 32 bits", "hold them in 32 bits")
    if any(type(weight) is not torch.nn.Parameter for weight in weights):
        return SPREAD
    if model.compiled:
        return Absent("torch compiles the model", "compile nothing")
    if model.recompute != "none":
        return Absent(
            f"they keep what recompute = {model.recompute} would compute again", "recompute nothing"
        )
    return used_on(weights[0].device)


def used_on(device: torch.device) -> Library | Absent:
    """The kernels for runs in f32 and in integers on `device`, or why torch does everything."""
    if device.type != "cpu":
        return Absent(f"{device.type} has kernels of its own", "train on a CPU (--device cpu)")
    return library()
