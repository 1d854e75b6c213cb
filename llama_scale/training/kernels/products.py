"""Matrix products (`products_f32.c`, `products_integers.c`), as calls to be made later."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from llama_scale.training.kernels.library import Library

Sizes = tuple[int, int, int]  # m, n and k of a product [m, n] = [m, k] [k, n]
Numbers = Literal["f32", "i16", "i8"]  # what is multiplied; operands and results are of 32-bit floats
NUMBERS: tuple[Numbers, ...] = get_args(Numbers)


def product_scratch(library: Library, products: Iterable[Sizes], *numbers: Numbers) -> Tensor:
    """Memory for the copies of the operands of any one of these products at a time."""
    scratch = [getattr(library.functions, f"{kind}_product_scratch") for kind in numbers]
    return torch.empty(max(needed(*sizes) for sizes in products for needed in scratch))


def product(
    library: Library,
    c: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    numbers: Numbers = "f32",
    scratch: Tensor,
    add: bool = False,
) -> partial[Any]:
    """c [m, n] = a [m, k] b [k, n], or c += a b, of 32-bit floats; rows of c and rows or columns of a and b
    are contiguous.
    """
    assert 1 in a.stride() and 1 in b.stride() and 1 in (c.stride(1), c.shape[1])
    if numbers == "f32" and not library.multiplies:
        return partial(torch.addmm, c, a, b, out=c) if add else partial(torch.mm, a, b, out=c)
    m, k, n = *a.shape, b.shape[1]
    into, steps = (c, c.stride(0)), (a, *a.stride(), b, *b.stride())
    return library.call(f"{numbers}_product", *into, *steps, m, n, k, int(add), scratch)
