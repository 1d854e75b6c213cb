"""Weights and gradients in flat buffers, so that clip, step and zero are a few vector operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llama_scale.runs import OptimizerConfig


class FlatAdamW:
    """AdamW over a module whose weights and gradients become views of two flat buffers.

    On a CPU a small model spends as long in per-tensor optimiser calls as in its matrix products;
    flat, the whole update is one fused call. Norm weights lie in a buffer of their own: they are not decayed.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        parameters = list(module.parameters())
        decayed = [p for p in parameters if p.ndim >= 2]
        others = [p for p in parameters if p.ndim < 2]
        flat = [_flatten(group) for group in (decayed, others)]
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

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, ready for torch.save."""
        return {
            "weights": [g["params"][0].detach() for g in self._adamw.param_groups],
            "adamw": self._adamw.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for group, saved in zip(self._adamw.param_groups, state["weights"], strict=True):
                group["params"][0].copy_(saved)
        self._adamw.load_state_dict(state["adamw"])


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
