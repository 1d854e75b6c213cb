"""torch.compile: what lies between products becomes few kernels, for some tens of seconds at a run's start.

Of a block alone, whose code all blocks share, not of the model: that takes as many times as long as there are
blocks, and saves no more than a residual sum a block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from llama_scale.errors import InputError
from llama_scale.training.micro_batch import is_out_of_memory

Function = TypeVar("Function", bound=Callable[..., Any])
# Of batches, past which torch compiles no more, as it would from 8 on: micro-batches, what is left of a step,
# evaluations, and all of them again whenever memory ran out.
SHAPES = 64


def start_compiling() -> None:
    """Forget what was compiled for other models, and how often: a worker trains one after another."""
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = SHAPES
    # What it advises on recomputed parts is for who writes a model, and would tear the view of a run.
    logging.getLogger("torch._higher_order_ops").setLevel(logging.ERROR)


def compiled_part(function: Function) -> Function:
    """`function`, compiled when it is first called, once for each shape of a batch.

    Not a module, whose hooks would be taken in, such as those by which FSDP gathers and scatters weights; nor
    a method of one, which would keep its weights beyond their run, until garbage is collected.
    """
    return cast(Function, torch.compile(function, dynamic=False))


@contextmanager
def telling_refusals() -> Iterator[None]:
    """Where torch cannot compile what runs in this block, for want of Triton too, InputError is raised.

    Memory that ran out meanwhile is raised as the allocator did: half as many sequences may compile.
    """
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # slow to import, and of compiled runs alone

        if not isinstance(error, TorchDynamoException):
            raise
        cause = getattr(error, "inner_exception", error)
        if is_out_of_memory(cause):
            raise cause from error
        said = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise InputError(
            f"training.compile is true, but torch can compile nothing here: {said}",
            hint="install gcc or clang with headers (and Triton for a GPU), or set training.compile = false",
        ) from error
