"""Activation checkpointing: memory of the backward pass against products computed twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from llama_scale.architecture import Recompute

_aten = torch.ops.aten
# What costs more to compute again than to keep: products, and attention by whichever kernel.
PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]


def recomputed(mode: Recompute, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`part(*inputs)`, keeping for the backward pass what `mode` says.

    `none` keeps everything, `full` the inputs alone; `selective` also keeps the products and computes norms,
    rotations and SwiGLU's gate again, which cost few FLOPs (Korthikanti et al. 2022, arXiv 2205.05198).
    """
    if mode == "none" or not torch.is_grad_enabled():
        return part(*inputs)
    if mode == "full":
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
    return checkpoint(
        part, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=_keeping_products
    )


def _keeping_products() -> Any:
    return create_selective_checkpoint_contexts(PRODUCTS)
