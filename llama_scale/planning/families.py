"""Continua of models: what a LLaMA of any size counts, costs a token, and looks like to who serves it.

A family turns one coordinate, which grows as the logarithm of the size, into parameters and FLOPs per
token. Layers and width follow from the aspect ratio of the LLaMA family; they need not be whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import (
    LLAMA_CONTEXT,
    LLAMA_VOCABULARY,
    ModelConfig,
    ParameterConvention,
    aspect_ratio,
)
from llama_scale.costs.serving import ServedShape, served_shape
from llama_scale.laws import Numbers

Array = NDArray[np.float64]

SMALLEST_MODEL, LARGEST_MODEL = 1e4, 1e15  # parameters: what we would call a model
LOG_SIZES = math.log(SMALLEST_MODEL) - 3, math.log(LARGEST_MODEL) + 3  # coordinates that are searched
HEAD_SIZE = 128
TABLES: dict[ParameterConvention, int] = {"total": 2, "matmul": 1, "non_embedding": 0}


class Sizes(NamedTuple):
    """Models by their parameters, in the law's convention, what a token costs in FLOPs, and their shape.

    `shape` is None where a continuum was not asked for it.
    """

    parameters: Numbers
    train_flops_per_token: Numbers
    serve_flops_per_token: Numbers
    shape: ServedShape | None = None


class Family(Protocol):
    """A continuum of models along a coordinate that grows as the logarithm of their size."""

    @property
    def convention(self) -> ParameterConvention:
        """How `Sizes.parameters` are counted."""
        ...

    def sizes(self, coordinate: Numbers, *, shaped: bool = False) -> Sizes:
        """The models at `coordinate`, with what serving asks of their shape if `shaped`."""
        ...

    def size_of(self, shape: ModelConfig) -> Sizes:
        """One real shape, counted as the family counts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How the layers of the continuum are made: the tables' vocabulary, and heads that share keys.

    `kv_heads` of 128 numbers each hold the keys and values; None is one for each head.
    """

    vocabulary: int = LLAMA_VOCABULARY
    kv_heads: int | None = None

    def body(self, parameters: Numbers, convention: ParameterConvention) -> Numbers:
        """Logarithm of the weights of the layers of a model of so many parameters."""
        log_body = _log_bodies()
        width, layers = _proportions(log_body)
        counts = _counted(np.exp(log_body), width, layers, TABLES[convention] * self.vocabulary)
        return np.interp(np.log(parameters), np.log(counts), log_body)

    def shape(self, log_body: Numbers) -> ServedShape:
        """What serving asks of models whose layers hold exp(log_body) weights."""
        body = np.exp(log_body)
        width, layers = _proportions(log_body)
        cached = width if self.kv_heads is None else np.minimum(width, self.kv_heads * HEAD_SIZE)
        return ServedShape(
            weights=_counted(body, width, layers, 2 * self.vocabulary),
            active_weights=body + self.vocabulary * width,
            layers=layers,
            query_width=width,
            kv_width=cached,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SixNDFamily:
    """FLOPs as the papers count them: 6N a token of training, 2N a token served, with the N of the law."""

    convention: ParameterConvention = "total"
    geometry: Geometry = Geometry()

    def sizes(self, coordinate: Numbers, *, shaped: bool = False) -> Sizes:
        """The coordinate is log N."""
        parameters = np.exp(coordinate)
        shape = self.geometry.shape(self.geometry.body(parameters, self.convention)) if shaped else None
        return Sizes(parameters, 6 * parameters, 2 * parameters, shape)

    def size_of(self, shape: ModelConfig) -> Sizes:
        """6N and 2N with the shape's N in the law's convention."""
        parameters = float(shape.parameters.by(self.convention))
        return Sizes(parameters, 6 * parameters, 2 * parameters, served_shape(shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFamily:
    """FLOPs of a LLaMA's own matrix products, its layers and width made continuous.

    The body's 12 L d^2 weights are the coordinate (their logarithm); L and d follow from the family's
    aspect ratio, and the counts and FLOPs from L, d, the vocabulary V and the context T: tables of V d,
    norms of 2 L d + d, attention of 4 L d T FLOPs a token. SwiGLU's hidden size is 8/3 d, unrounded.
    """

    convention: ParameterConvention
    vocabulary: int = LLAMA_VOCABULARY
    context: int = LLAMA_CONTEXT
    geometry: Geometry = field(default=Geometry())

    def sizes(self, coordinate: Numbers, *, shaped: bool = False) -> Sizes:
        """The coordinate is the logarithm of the body's weights."""
        body = np.exp(coordinate)
        width, layers = _proportions(coordinate)
        parameters = _counted(body, width, layers, TABLES[self.convention] * self.vocabulary)
        products = 2 * (body + self.vocabulary * width) + 4 * layers * width * self.context
        return Sizes(parameters, 3 * products, products, self.geometry.shape(coordinate) if shaped else None)

    def size_of(self, shape: ModelConfig) -> Sizes:
        """The shape's exact counts."""
        return Sizes(
            float(shape.parameters.by(self.convention)),
            float(shape.train_flops_per_token(self.context)),
            float(shape.forward_flops_per_token(self.context)),
            served_shape(shape),
        )


def coordinate_of(family: Family, parameters: Numbers) -> Numbers:
    """Where on the continuum a model of so many parameters is."""
    if type(family) is SixNDFamily:
        return np.log(parameters)
    x = _log_bodies()
    return np.interp(np.log(parameters), np.log(family.sizes(x).parameters), x)


def _counted(body: Numbers, width: Numbers, layers: Numbers, tables: int) -> Numbers:
    """Parameters: the matrices of the layers, norms, and tables of so many rows."""
    return body + (2 * layers + 1 + tables) * width


def _proportions(log_body: Numbers) -> tuple[Numbers, Numbers]:
    """Width and layers of models whose layers hold exp(log_body) weights."""
    ratio = np.interp(log_body, _log_bodies(), _aspect_ratios())
    width = (np.exp(log_body) * ratio / 12) ** (1 / 3)
    return width, width / ratio


@cache
def _log_bodies() -> Array:
    """Logarithms of the layers' weights, densely enough to interpolate between."""
    return np.linspace(LOG_SIZES[0] - 4, LOG_SIZES[1], 1024)


@cache
def _aspect_ratios() -> Array:
    """Width over layers at each of these."""
    return np.array([aspect_ratio(math.exp(x)) for x in _log_bodies()])
