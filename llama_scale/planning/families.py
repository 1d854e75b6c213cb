"""Continua of models: what a LLaMA of any size counts, costs a token, and looks like to who serves it.

A family turns one coordinate, which grows as the logarithm of the size, into parameters and FLOPs per
token. Layers and width follow from the aspect ratio of the LLaMA family; they need not be whole.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import (
    LLAMA_CONTEXT,
    LLAMA_VOCABULARY,
    USUAL_HEAD_SIZES,
    ModelConfig,
    ParameterConvention,
    aspect_ratio,
)
from llama_scale.costs.demand import DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS
from llama_scale.costs.roofline import ServedShape, Traffic, served_shape
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers

Array = NDArray[np.float64]

SMALLEST_MODEL, LARGEST_MODEL = 1e4, 1e15  # parameters: what we would call a model
LOG_SIZES = math.log(SMALLEST_MODEL) - 3, math.log(LARGEST_MODEL) + 3  # coordinates that are searched
TABLES: dict[ParameterConvention, int] = {"total": 2, "matmul": 1, "non_embedding": 0}


class Sizes(NamedTuple):
    """Models by their parameters, in the law's convention, what a token costs in FLOPs, and their shape.

    `shape` is None where a continuum was not asked for it.
    """

    parameters: Numbers
    train_flops_per_token: Numbers
    serve_flops_per_token: Numbers
    shape: ServedShape | None = None


@frozen
class Geometry:
    """How the layers of the continuum are made: the tables' vocabulary, and heads that share keys.

    `kv_heads` of `head_size` numbers each hold the keys and values; None is one for each head, and heads of
    the size that is usual at a width. `stretch` multiplies the width over the layers of the LLaMA family, and
    a layer has `layer_weights` x width^2 weights: so a continuum can be laid through a real shape, which
    rounds them all.
    """

    vocabulary: int = LLAMA_VOCABULARY
    kv_heads: int | None = None
    head_size: int | None = None
    stretch: float = 1.0
    layer_weights: float = 12.0

    def through(self, shape: ModelConfig) -> Geometry:
        """The geometry of the continuum on which a real shape lies."""
        body = shape.matrix_weights - shape.vocabulary * shape.width
        usual = float(np.interp(math.log(body), _log_bodies(), _aspect_ratios()))
        return replace(
            self,
            head_size=shape.head_size,
            stretch=shape.width / shape.layers / usual,
            layer_weights=body / (shape.layers * shape.width**2),
        )

    def proportions(self, log_body: Numbers) -> tuple[Numbers, Numbers]:
        """Width and layers of models whose layers hold exp(log_body) weights."""
        ratio = self.stretch * np.interp(log_body, _log_bodies(), _aspect_ratios())
        width = (np.exp(log_body) * ratio / self.layer_weights) ** (1 / 3)
        return width, width / ratio

    def counts(self, log_body: Numbers, tables: int) -> Numbers:
        """Parameters: the matrices of the layers, norms, and so many tables of the vocabulary."""
        width, layers = self.proportions(log_body)
        return np.exp(log_body) + (2 * layers + 1 + tables * self.vocabulary) * width

    def body(self, parameters: Numbers, convention: ParameterConvention) -> Numbers:
        """Logarithm of the weights of the layers of a model of so many parameters."""
        nodes, tables, wanted = _log_bodies(), TABLES[convention], np.log(parameters)
        logs = np.log(self.counts(nodes, tables))
        x = np.interp(wanted, logs, nodes)
        slope = np.interp(wanted, logs[:-1], np.diff(logs) / (nodes[1] - nodes[0]))
        for _ in range(2):  # what interpolation leaves, 1e-5, becomes rounding
            x = x - (np.log(self.counts(x, tables)) - wanted) / slope
        return x

    def recounted(
        self, parameters: Numbers, given: ParameterConvention, wanted: ParameterConvention
    ) -> Numbers:
        """Parameters of models of so many by one convention, by another."""
        if given == wanted:
            return parameters
        return self.counts(self.body(parameters, given), TABLES[wanted])

    def shape(self, log_body: Numbers) -> ServedShape:
        """What serving asks of models whose layers hold exp(log_body) weights."""
        width, layers = self.proportions(log_body)
        return ServedShape(
            weights=self.counts(log_body, TABLES["total"]),
            active_weights=np.exp(log_body) + self.vocabulary * width,
            layers=layers,
            query_width=width,
            kv_width=self._cached(width),
        )

    def _cached(self, width: Numbers) -> Numbers:
        """Numbers of a token's keys, or of its values, that a layer holds."""
        if self.kv_heads is None:
            return width
        heads_of = _usual_head_sizes(width) if self.head_size is None else self.head_size
        return np.minimum(width, self.kv_heads * heads_of)


LLAMA_GEOMETRY = Geometry()


@frozen
class SixNDFamily:
    """FLOPs as the papers count them: 6N a token of training, 2N a token served, with the N of the law."""

    convention: ParameterConvention = "total"
    geometry: Geometry = LLAMA_GEOMETRY

    def sizes(self, coordinate: Numbers, *, shaped: bool = False) -> Sizes:
        """The coordinate is log N."""
        parameters = np.exp(coordinate)
        shape = self.geometry.shape(self.geometry.body(parameters, self.convention)) if shaped else None
        return Sizes(parameters, 6 * parameters, 2 * parameters, shape)

    def size_of(self, shape: ModelConfig) -> Sizes:
        """6N and 2N with the shape's N in the law's convention."""
        parameters = float(shape.parameters.by(self.convention))
        return Sizes(parameters, 6 * parameters, 2 * parameters, served_shape(shape))


@frozen
class ExactFamily:
    """FLOPs of a LLaMA's own matrix products, its layers and width made continuous.

    The body's 12 L d^2 weights are the coordinate (their logarithm); L and d follow from the family's
    aspect ratio, and the counts and FLOPs from L, d, the vocabulary V and the tokens T that are attended to:
    tables of V d, norms of 2 L d + d, attention of 4 L d T FLOPs a token. T is the whole `context` in
    training (PaLM, appendix B), and `attended_tokens` in serving, where requests may be far shorter.
    SwiGLU's hidden size is 8/3 d, unrounded.
    """

    convention: ParameterConvention
    context: int = LLAMA_CONTEXT
    attended_tokens: float = float(Traffic(DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS).attended_tokens)
    geometry: Geometry = LLAMA_GEOMETRY

    def sizes(self, coordinate: Numbers, *, shaped: bool = False) -> Sizes:
        """The coordinate is the logarithm of the body's weights."""
        width, layers = self.geometry.proportions(coordinate)
        parameters = self.geometry.counts(coordinate, TABLES[self.convention])
        weights = np.exp(coordinate) + self.geometry.vocabulary * width
        trained, served = (
            2 * weights + 4 * layers * width * tokens for tokens in (self.context, self.attended_tokens)
        )
        return Sizes(parameters, 3 * trained, served, self.geometry.shape(coordinate) if shaped else None)

    def size_of(self, shape: ModelConfig) -> Sizes:
        """The shape's exact counts."""
        return Sizes(
            float(shape.parameters.by(self.convention)),
            float(shape.train_flops_per_token(self.context)),
            float(shape.forward_flops_per_token(self.attended_tokens)),
            served_shape(shape),
        )


Family = SixNDFamily | ExactFamily  # a coordinate that grows as the logarithm of the size gives each model


def coordinate_of(family: Family, parameters: Numbers) -> Numbers:
    """Where on the continuum a model of so many parameters is."""
    if isinstance(family, SixNDFamily):
        return np.log(parameters)
    return family.geometry.body(parameters, family.convention)


def _usual_head_sizes(width: Numbers) -> Array:
    widths, sizes = np.array(list(USUAL_HEAD_SIZES.items())).T
    return sizes[np.searchsorted(widths, width, side="right") - 1]


@cache
def _log_bodies() -> Array:
    """Logarithms of the layers' weights, densely enough to interpolate between."""
    return np.linspace(LOG_SIZES[0] - 4, LOG_SIZES[1], 1024)


@cache
def _aspect_ratios() -> Array:
    """Width over layers at each of these."""
    return np.array([aspect_ratio(math.exp(x)) for x in _log_bodies()])
