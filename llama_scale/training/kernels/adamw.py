"""AdamW over flat buffers: clip, update and clear in one pass over memory, for which torch takes three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from llama_scale.training.kernels.library import Library
from llama_scale.training.kernels.turns import together

PIECE = 1 << 20  # numbers that a thread takes at a time; sums are by pieces however many threads there are
FEW = 4  # pieces: sharing out fewer takes what it saves


class FlatAdamW:
    """Loshchilov & Hutter 2019 on `threads` threads, for the flat 32-bit buffers of a CPU."""

    def __init__(self, library: Library, threads: int) -> None:
        self._library, self.name = library, library.name
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of all gradients as one."""
        pieces = [piece for gradient in gradients for piece in gradient.split(PIECE)]
        sums = torch.zeros(len(pieces), dtype=torch.float64)
        self._all(
            [
                self._library.call("sum_of_squares", total, piece, len(piece))
                for total, piece in zip(sums, pieces, strict=True)
            ]
        )
        return sums.sum().sqrt().float()

    def step(
        self,
        buffers: Sequence[Tensor],
        *,
        scale: float,
        rate: float,
        decay: float,
        betas: tuple[float, float],
        epsilon: float,
        steps: int,
    ) -> None:
        """Take step number `steps`, from 1; gradients count `scale` times, and are cleared.

        `buffers` are weights, gradients, and the moving means of gradients and of their squares.
        """
        mean_left, square_left = (1 - beta**steps for beta in betas)  # of their bias, corrected as in Adam
        factors = (scale, 1 - rate * decay, rate / mean_left, *betas, square_left**-0.5, epsilon)
        self._all(
            [
                self._library.call("adamw", *pieces, len(pieces[0]), *map(float, factors))
                for pieces in zip(*(buffer.split(PIECE) for buffer in buffers), strict=True)
            ]
        )

    def _all(self, calls: Sequence[Callable[[], Any]]) -> None:
        if self._pool is not None and len(calls) >= FEW:
            together(self._pool, calls)
            return
        for call in calls:
            call()
