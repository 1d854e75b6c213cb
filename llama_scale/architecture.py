"""The shape of a LLaMA: exact parameter counts, FLOPs per token and cache bytes, without torch.

Symbols in formulas: L layers, d width, q = heads x head size, k = KV heads x head size,
f hidden size of SwiGLU, V vocabulary, T context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from llama_scale.errors import InputError
from llama_scale.frozen import frozen

ParameterConvention = Literal["total", "non_embedding", "matmul"]
CONVENTIONS: tuple[ParameterConvention, ...] = get_args(ParameterConvention)
# Activation checkpointing: what the backward pass computes again rather than keeps.
Recompute = Literal["none", "selective", "full"]
RECOMPUTE_MODES: tuple[Recompute, ...] = get_args(Recompute)

LLAMA_VOCABULARY = 32_000  # Touvron et al. 2023, section 2.1
LLAMA_CONTEXT = 2_048
USUAL_HEAD_SIZES = {0: 8, 96: 16, 192: 32, 384: 64, 1024: 128}  # from a width on: six heads, or eight of 128
FINE = 0.001  # in log N: sizes whose nearest shapes are listed
HIDDEN_MULTIPLE = 256  # LLaMA's released code rounds 2/3 x 4d up to a multiple of this
WIDE = 65_536  # four times LLaMA 3.1 405B: from here on the widths that are tried lie farther apart


@frozen
class ParameterCounts:
    """Parameters of one model under each convention.

    `total` counts everything once; `non_embedding` leaves out the input embedding and the output
    head; `matmul` leaves out the input embedding alone (a tied head still multiplies).
    """

    total: int
    non_embedding: int
    matmul: int

    def by(self, convention: ParameterConvention) -> int:
        return {"total": self.total, "non_embedding": self.non_embedding, "matmul": self.matmul}[convention]


@frozen
class ModelConfig:
    """The shape of one LLaMA (Touvron et al. 2023, section 2.2): everything that fixes its weights' sizes.

    >>> LLAMA_7B.parameters.total
    6738415616
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int = LLAMA_VOCABULARY
    context: int = LLAMA_CONTEXT
    tied_head: bool = False
    qk_norm: bool = False
    norm_epsilon: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        sizes = ("layers", "width", "heads", "kv_heads", "head_size", "hidden", "vocabulary", "context")
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(
                    f"model.{name} is {getattr(self, name)}, but must be at least 1",
                    hint=f"set model.{name} to a positive whole number",
                )
        if self.heads % self.kv_heads:
            raise InputError(
                f"model.kv_heads is {self.kv_heads}, which does not divide model.heads ({self.heads})",
                hint=f"use a divisor of {self.heads}: {', '.join(map(str, _divisors(self.heads)))}",
            )
        if self.head_size % 2:
            raise InputError(
                f"model.head_size is {self.head_size}, but rotary embeddings turn pairs of numbers",
                hint=f"use an even head size, such as {self.head_size + 1}",
            )

    @property
    def parameters(self) -> ParameterCounts:
        """Exact counts, norms included."""
        norms = 2 * self.width + (2 * self.head_size if self.qk_norm else 0)
        table = self.vocabulary * self.width
        body = self.matrix_weights - table + self.layers * norms + self.width
        return ParameterCounts(
            total=body + table * (1 if self.tied_head else 2),
            non_embedding=body,
            matmul=body + table,
        )

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied by: `matmul` parameters less the norms."""
        attention = 2 * self.width * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.hidden) + self.vocabulary * self.width

    def forward_flops_per_token(self, context: float | None = None) -> float:
        """FLOPs of the matrix products of one token's forward pass: 2 x weights + 4 L q T.

        Attention is counted over the whole context, as PaLM (appendix B) and torch's FlopCounterMode do.
        """
        length = self.context if context is None else context
        return 2 * self.matrix_weights + 4 * self.layers * self.heads * self.head_size * length

    def train_flops_per_token(self, context: float | None = None) -> float:
        """FLOPs of forward and backward: the backward pass has two products for each forward one."""
        return 3 * self.forward_flops_per_token(context)

    def kv_cache_bytes_per_token(self, bytes_per_value: float = 2.0) -> float:
        """Bytes that one token of context holds in the key-value cache: 2 L k bytes."""
        return 2 * self.layers * self.kv_heads * self.head_size * bytes_per_value


def llama_hidden(width: int, multiple: int = HIDDEN_MULTIPLE) -> int:
    """SwiGLU's hidden size as LLaMA chooses it: 2/3 x 4 width, rounded up to `multiple`."""
    return multiple * math.ceil(int(8 * width / 3) / multiple)


def usual_hidden(width: int) -> int:
    """That size, rounded more finely in models so narrow that 256 would distort them."""
    return llama_hidden(width, HIDDEN_MULTIPLE if width >= 768 else 16)


def llama(layers: int, width: int, *, heads: int | None = None, **others: int | float | bool) -> ModelConfig:
    """A LLaMA of the paper's proportions: head size 128 unless `heads` is given, no grouped queries.

    Raises InputError for heads that do not divide the width, and for what `ModelConfig` refuses.
    """
    head_count = heads if heads is not None else max(1, width // 128)
    if head_count < 1 or (width % head_count and "head_size" not in others):
        raise InputError(
            f"{head_count} heads do not divide a width of {width}",
            hint=f"use a divisor of {width}, another width, or name head_size too",
        )
    proportions = {"kv_heads": head_count, "head_size": width // head_count, "hidden": llama_hidden(width)}
    fields = proportions | others
    return ModelConfig(layers=layers, width=width, heads=head_count, **fields)  # pyright: ignore[reportArgumentType]


LLAMA_7B = llama(32, 4096)
LLAMA_13B = llama(40, 5120)
LLAMA_33B = llama(60, 6656)
LLAMA_65B = llama(80, 8192)


def nearest_shape(
    parameters: float,
    *,
    convention: ParameterConvention = "total",
    vocabulary: int = LLAMA_VOCABULARY,
    context: int = LLAMA_CONTEXT,
    kv_heads: int | None = None,
) -> ModelConfig:
    """A LLaMA that people would build, with about `parameters` parameters: within 3 % from 100M on.

    Width is a whole number of heads of size 128 (64 or less in models below 100M), heads come in fours,
    better eights, once the width reaches 2,048, layers in even numbers where that costs little, and
    width / layers stays near the family's (128 at 7B and 13B, 102 at 65B). The four LLaMA sizes come
    back exactly. With `kv_heads`, heads are a multiple of it and share that many keys and values, and the
    hidden size is wider by what they save. Raises InputError where no shape has such heads.

    >>> nearest_shape(6.74e9) == LLAMA_7B
    True
    """
    shapes = list(_ladder(parameters, parameters, convention, vocabulary, context, kv_heads))
    if not shapes:
        usual = _ladder(parameters, parameters, convention, vocabulary, context)
        heads = max(shape.heads for shape in usual)
        raise InputError(
            f"no LLaMA of about {parameters:.3g} parameters has a multiple of {kv_heads} heads",
            hint=f"ask for fewer KV heads: a power of two up to {1 << (heads.bit_length() - 1)}",
        )
    return _least_odd([_candidate(shape, convention) for shape in shapes], parameters)


def nearest_shapes(
    low: float,
    high: float,
    *,
    convention: ParameterConvention = "total",
    vocabulary: int = LLAMA_VOCABULARY,
    context: int = LLAMA_CONTEXT,
    kv_heads: int | None = None,
) -> tuple[ModelConfig, ...]:
    """Every shape that is the nearest to sizes from `low` to `high`, which are a few percent apart.

    Empty where none has such heads. One that is the nearest to less than 0.1 % of a size may be left out.

    >>> [shape.layers for shape in nearest_shapes(6.6e9, 6.9e9)]
    [32, 26]
    """
    shapes = _ladder(low, high, convention, vocabulary, context, kv_heads)
    candidates = [_candidate(shape, convention) for shape in shapes]
    if not candidates:
        return ()
    steps = max(1, math.ceil(math.log(high / low) / FINE))
    sizes = (low * (high / low) ** (step / steps) for step in range(steps + 1))
    return tuple(dict.fromkeys(_least_odd(candidates, size) for size in sizes))


def with_kv_heads(shape: ModelConfig, kv_heads: int, *, widen: bool = True) -> ModelConfig:
    """`shape` with that many KV heads (Ainslie et al. 2023, arXiv 2305.13245).

    `widen` gives what grouping saves to the hidden size, 2 d h (K - K') parameters a layer, so that the
    model stays about as large: as Llama 2 did for its 70B (arXiv 2307.09288, appendix A.2.1). Raises
    InputError where `kv_heads` does not divide the heads.

    >>> with_kv_heads(LLAMA_7B, 8).hidden, with_kv_heads(LLAMA_7B, 8).parameters.total
    (13056, 6738415616)
    """
    freed = 2 * shape.head_size * (shape.kv_heads - kv_heads) / 3 if widen else 0.0
    multiple = _hidden_step(shape)
    return replace(shape, kv_heads=kv_heads, hidden=shape.hidden + multiple * round(freed / multiple))


def widenings(shape: ModelConfig) -> tuple[ModelConfig, ...]:
    """`shape` with every hidden layer from its own to one that is a tenth wider.

    >>> [wider.hidden for wider in widenings(LLAMA_7B)]
    [11008, 11264, 11520, 11776, 12032]
    """
    widths = range(shape.hidden, int(1.1 * shape.hidden) + 1, _hidden_step(shape))
    return tuple(replace(shape, hidden=hidden) for hidden in widths)


def _hidden_step(shape: ModelConfig) -> int:
    return HIDDEN_MULTIPLE if shape.hidden % HIDDEN_MULTIPLE == 0 else 16


def grouped_query_choices(shape: ModelConfig, *, widen: bool = True) -> tuple[ModelConfig, ...]:
    """`shape` with each number of KV heads that divides its heads, most first."""
    return tuple(with_kv_heads(shape, count, widen=widen) for count in reversed(_divisors(shape.heads)))


def aspect_ratio(parameters: float) -> float:
    """Width over layers: 128 at 7B and 13B, 102 at 65B in the family; less below 7B (64 at 150M)."""
    if parameters >= 13e9:
        return max(96.0, 128 - 26 * math.log(parameters / 13e9) / math.log(5))
    return min(128.0, max(16.0, 128 * (parameters / 6.7e9) ** 0.18))


def usual_head_size(width: float) -> int:
    """Numbers of a head in a LLaMA of about that width: 128, and fewer where there would be too few heads."""
    return next(size for least, size in reversed(USUAL_HEAD_SIZES.items()) if width >= least)


def _ladder(
    low: float,
    high: float,
    convention: ParameterConvention,
    vocabulary: int,
    context: int,
    kv_heads: int | None = None,
) -> Iterator[ModelConfig]:
    """Shapes around the widths that hold sizes from `low` to `high` at the family's aspect ratio."""
    tables = {"total": 2, "matmul": 1, "non_embedding": 0}[convention] * vocabulary
    narrowest, widest = (_usual_width(size, tables) for size in (low, high))
    for step, head_size in dict.fromkeys(map(_step_of_widths, (narrowest, widest))):
        for count in range(max(1, math.floor(0.75 * narrowest / step)), math.ceil(1.3 * widest / step) + 2):
            width = count * step
            heads = width // head_size
            if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
                continue
            hidden = usual_hidden(width)
            a_layer = 4 * width**2 + 3 * width * hidden + 2 * width
            fewest, most = (math.floor((size - tables * width) / a_layer) for size in (low, high))
            for layers in range(max(1, fewest - 1), max(1, most + 2) + 1):
                yield _rung(layers, width, heads, kv_heads or heads, hidden, vocabulary, context)


def _usual_width(parameters: float, tables: int) -> float:
    """The width at which layers of the family's aspect ratio and tables of so many rows hold a size."""
    ratio = aspect_ratio(parameters)
    low, high = 1e-3, 1e9
    for _ in range(60):  # bisection of the logarithm
        middle = math.sqrt(low * high)
        too_narrow = 12 * middle**3 / ratio + tables * middle < parameters
        low, high = (middle, high) if too_narrow else (low, middle)
    return high


def _step_of_widths(usual: float) -> tuple[int, int]:
    """What widths about a usual one are multiples of, and the size of their heads.

    No closer than 0.8 % from WIDE on: at 1e14 parameters there would be thousands of widths, of no use.
    """
    head_size = usual_head_size(usual)
    doublings = max(0, math.floor(math.log2(usual / WIDE)) + 1)
    return head_size * (4 if usual >= 2048 else 1) << doublings, head_size


@lru_cache(maxsize=4096)  # who looks for the best of many sizes meets each shape again and again
def _rung(
    layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int, context: int
) -> ModelConfig:
    plain = llama(layers, width, heads=heads, hidden=hidden, vocabulary=vocabulary, context=context)
    return with_kv_heads(plain, kv_heads)


class _Candidate(NamedTuple):
    """A shape with what makes it odd: logarithms of its size and of width over layers, uneven numbers."""

    shape: ModelConfig
    size: float
    stretch: float
    uneven: float


def _candidate(shape: ModelConfig, convention: ParameterConvention) -> _Candidate:
    uneven_heads = 0.3 if shape.width >= 1024 and shape.heads % (8 if shape.width >= 2048 else 2) else 0.0
    uneven_layers = 1.2 if shape.layers % 2 else 0.1 if shape.layers % 4 else 0.0
    return _Candidate(
        shape,
        math.log(shape.parameters.by(convention)),
        math.log(shape.width / shape.layers),
        uneven_heads + uneven_layers,
    )


def _least_odd(candidates: Sequence[_Candidate], parameters: float) -> ModelConfig:
    """The shape least unlike the wish: a log of 0.01 missed counts 0.3, of 0.02 1.2, more if ill-shaped."""
    wanted, proportions = math.log(parameters), math.log(aspect_ratio(parameters))
    near = [one for one in candidates if abs(one.size - wanted) < 0.03] if parameters >= 1e8 else ()
    return min(
        near or candidates,
        key=lambda one: 3000 * (one.size - wanted) ** 2 + 8 * (one.stretch - proportions) ** 2 + one.uneven,
    ).shape


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
