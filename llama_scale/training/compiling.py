"""torch.compile: what lies between products becomes few kernels, for some tens of seconds at a run's start.

Of a block alone, whose code all blocks share, not of the model: that takes as many times as long as there are
blocks, and saves no more than a residual sum a block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from llama_scale.errors import InputError

if TYPE_CHECKING:
    from llama_scale.training.model import Block, Llama


# Of batches, past which torch compiles no more, as it would from 8 on: micro-batches, what is left of a step,
# evaluations, and all of them again whenever memory ran out.
SHAPES = 64


def compile_parts(model: Llama, block_output: Callable[..., Tensor]) -> None:
    """Have the blocks and the loss compiled when they are first called, once for each shape of a batch."""
    torch.compiler.reset()  # a worker's earlier models count for nothing
    torch._dynamo.config.recompile_limit = SHAPES
    # What it advises on recomputed parts is for who writes a model, and would tear the view of a run.
    logging.getLogger("torch._higher_order_ops").setLevel(logging.ERROR)
    model.losses = torch.compile(model.losses, dynamic=False)
    # Not `block.compile()`, which takes in the hooks by which FSDP gathers and scatters weights, nor a method
    # of a block: one that holds its own keeps its weights beyond their run, until garbage is collected.
    output = torch.compile(block_output, dynamic=False)
    for block in model.blocks:
        cast("Block", block).output = output


def refusal_of(error: BaseException) -> InputError | None:
    """What to say where torch could not compile, for want of Triton too; None for any other error."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and of compiled runs alone

    if not isinstance(error, TorchDynamoException):
        return None
    cause = getattr(error, "inner_exception", error)
    said = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return InputError(
        f"training.compile is true, but torch can compile nothing here: {said}",
        hint="install gcc or clang with headers (and Triton for a GPU), or set training.compile = false",
    )
