"""torch.compile: what lies between products becomes few kernels, for some tens of seconds at a run's start.

Of a block alone, whose code all blocks share, not of the model: that takes as many times as long as there are
blocks, and saves no more than a residual sum a block.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from llama_scale.errors import InputError

if TYPE_CHECKING:
    from llama_scale.training.model import Llama


def compile_parts(model: Llama) -> None:
    """Have the blocks and the loss compiled when they are first called, once for each shape of a batch."""
    # Past some number of shapes, those of a worker's earlier models among them, torch would compile no more.
    torch.compiler.reset()
    # What it advises on recomputed parts is for who writes a model, and would tear the view of a run.
    logging.getLogger("torch._higher_order_ops").setLevel(logging.ERROR)
    model.losses = torch.compile(model.losses, dynamic=False)
    for block in model.blocks:
        # Not `block.compile()`, which takes in the hooks by which FSDP gathers and scatters weights.
        block.forward = torch.compile(block.forward, dynamic=False)


def refusal_of(error: BaseException) -> InputError | None:
    """What to say where torch could not compile; None for any other error."""
    from torch._dynamo.exc import BackendCompilerFailed  # slow to import, and of compiled runs alone

    if not isinstance(error, BackendCompilerFailed):
        return None
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return InputError(
        f"training.compile is true, but torch can compile nothing here: {said}",
        hint="install gcc or clang with headers (and Triton for a GPU), or set training.compile = false",
    )
