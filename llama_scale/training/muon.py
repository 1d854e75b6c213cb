"""Muon (Jordan et al. 2024): momentum made orthogonal, for the matrices inside the blocks.

Updates are scaled by .2 sqrt(longer side), which gives them the size of AdamW's: rate and weight decay mean
the same for both (Liu et al. 2025, arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A quintic whose iterates push every singular value to about one (Jordan's blog post of 2024-12).
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SIZE_OF_ADAMW = 0.2


class Muon:
    """Momentum in one flat buffer; matrices of one shape are made orthogonal together, in `dtype`."""

    def __init__(
        self, weights: Tensor, shapes: Sequence[torch.Size], *, momentum: float, dtype: torch.dtype
    ) -> None:
        self.momentum, self.dtype = momentum, dtype
        self.buffer = torch.zeros_like(weights, requires_grad=False)
        self._places: dict[torch.Size, list[tuple[int, int]]] = {}
        start = 0
        for shape in shapes:
            self._places.setdefault(shape, []).append((start, start + shape.numel()))
            start += shape.numel()

    def step(self, weights: Tensor, gradient: Tensor, *, rate: float, weight_decay: float) -> None:
        """Move `weights` (flat) against `gradient` (flat, left changed)."""
        self.buffer.mul_(self.momentum).add_(gradient)
        update = gradient.add_(self.buffer, alpha=self.momentum)  # Nesterov's
        weights.mul_(1 - rate * weight_decay)
        for shape, places in self._places.items():
            matrices = torch.stack([update[start:end].view(shape) for start, end in places])
            scale = SIZE_OF_ADAMW * math.sqrt(max(shape))
            for (start, end), matrix in zip(places, orthogonal(matrices, self.dtype), strict=True):
                weights[start:end].view(shape).sub_(matrix, alpha=rate * scale)


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T of each of [n, rows, columns], by Newton-Schulz in `dtype`: singular values from .7 to 1.2.

    bf16 does, as Jordan has it; by data sheets a GPU's 32 bits are more than ten times as slow.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
