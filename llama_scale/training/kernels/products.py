"""Matrix products by 16-bit integers (`products.c`), as calls to be made later."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llama_scale.training.kernels.library import Library

Sizes = tuple[int, int, int]  # m, n and k of a product [m, n] = [m, k] [k, n]


def integer_scratch(library: Library, products: Iterable[Sizes]) -> Tensor:
    """Memory for the copies of the operands of any one of these products at a time."""
    needed = max(library.functions.integer_product_scratch(*sizes) for sizes in products)
    return torch.empty(needed, dtype=torch.int32)


def integer_product(
    library: Library, c: Tensor, a: Tensor, b: Tensor, *, scratch: Tensor, add: bool = False
) -> partial[Any]:
    """c [m, n] = a [m, k] b [k, n], or c += a b, of 32-bit floats; rows of c and rows or columns of a and b
    are contiguous.
    """
    assert 1 in a.stride() and 1 in b.stride() and 1 in (c.stride(1), c.shape[1])
    m, k, n = *a.shape, b.shape[1]
    into, steps = (c, c.stride(0)), (a, *a.stride(), b, *b.stride())
    return library.call("integer_product", *into, *steps, m, n, k, int(add), scratch)
