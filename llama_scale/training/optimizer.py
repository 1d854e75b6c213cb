"""Optimisers: one small protocol, and AdamW over flat buffers for the model that one process holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from llama_scale.runs import OptimizerConfig

Tensors = Mapping[str, Mapping[str, Tensor]]  # by what they are ("weights", "exp_avg", ...), then by weight
MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer(Protocol):
    """What the training loop needs of an optimiser, however its weights are laid out or spread."""

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear; returns the whole gradient's norm before clipping."""
        ...

    def tensors(self) -> Tensors:
        """The weights and all that the next step needs besides, live: what is copied in here counts."""
        ...

    def resume(self, steps: int) -> None:
        """Count on from `steps` steps taken, after `tensors` were filled from a checkpoint."""
        ...


class FlatAdamW:
    """AdamW over a module whose weights and gradients become views of two flat buffers.

    On a CPU a small model spends as long in per-tensor optimiser calls as in its matrix products;
    flat, the whole update is one fused call. Norm weights lie in a buffer of their own: they are not decayed.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        named = dict(module.named_parameters())
        decayed = {name: p for name, p in named.items() if p.ndim >= 2}
        self._groups = [decayed, {name: p for name, p in named.items() if name not in decayed}]
        flat = [_flatten(list(group.values())) for group in self._groups]
        self._gradients = [f.grad for f in flat if f.grad is not None]
        self._adamw = torch.optim.AdamW(
            [
                {"params": [flat[0]], "weight_decay": config.weight_decay},
                {"params": [flat[1]], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
        start_moments(self._adamw)

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear; returns the gradient's norm before clipping."""
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in self._gradients]))
        scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in self._gradients:
            gradient.mul_(scale)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        for gradient in self._gradients:
            gradient.zero_()
        return norm

    def tensors(self) -> Tensors:
        """Weights and moments by weight, as views of the flat buffers."""
        flat = [group["params"][0] for group in self._adamw.param_groups]
        buffers = {"weights": [f.detach() for f in flat]}
        buffers |= {moment: [self._adamw.state[f][moment] for f in flat] for moment in MOMENTS}
        return {
            what: {
                name: view
                for buffer, group in zip(pair, self._groups, strict=True)
                for name, view in _views(buffer, group).items()
            }
            for what, pair in buffers.items()
        }

    def resume(self, steps: int) -> None:
        """Count on from `steps` steps taken."""
        set_steps(self._adamw, steps)


def start_moments(adamw: torch.optim.AdamW) -> None:
    """Give AdamW its moments, of zeros, before its first step, so that a checkpoint can be read into them."""
    for group in adamw.param_groups:
        for parameter in group["params"]:
            adamw.state[parameter] = {"step": torch.zeros((), device=parameter.device)}
            adamw.state[parameter] |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}


def set_steps(adamw: torch.optim.AdamW, steps: int) -> None:
    """Set AdamW's own counts, which correct its moments' bias, to `steps`."""
    for state in adamw.state.values():
        state["step"].fill_(steps)


def _flatten(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Make `parameters` views of one new flat parameter, gradients likewise."""
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = flat.data[start:end].view_as(parameter)
        parameter.grad = flat.grad[start:end].view_as(parameter)
        start = end
    return flat


def _views(flat: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The part of a flat buffer that belongs to each parameter, in its shape."""
    sizes = [p.numel() for p in parameters.values()]
    parts = zip(parameters.items(), flat.split(sizes), strict=True)
    return {name: part.view_as(parameter) for (name, parameter), part in parts}
