"""From a size, a width or a list of layers to a LLaMA that can be built: the one way for sweeps and runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llama_scale.architecture import (
    ModelConfig,
    ParameterConvention,
    aspect_ratio,
    nearest_shape,
    usual_hidden,
)
from llama_scale.checked import Checked, all_of
from llama_scale.errors import InputError
from llama_scale.frozen import frozen

HEAD_SIZES = (128, 64, 32, 16, 8)
MOST_HEADS = 1024  # of a width that is searched
TOO_LARGE = 1e18  # of anything that is counted: a typing error


@frozen
class ShapeSpec(Checked):
    """What models of several sizes share; what is left out follows the LLaMA family.

    `aspect_ratio` is width over layers, `hidden_ratio` the SwiGLU hidden size over the width. Sizes are
    counted in `sizes_count` parameters: "total", as models are named.
    """

    layers: int | None = None
    aspect_ratio: float | None = None
    head_size: int | None = None
    kv_heads: int | None = None
    hidden_ratio: float | None = None
    context: int = 2_048
    tied_head: bool = False
    qk_norm: bool = False
    sizes_count: ParameterConvention = "total"

    def problems(self) -> Iterator[InputError]:
        names = ("layers", "aspect_ratio", "head_size", "kv_heads", "hidden_ratio", "context")
        yield from _unlikely(self, "shape.", names)
        if self.layers is not None and self.aspect_ratio is not None:
            yield InputError(
                "shape.layers and shape.aspect_ratio both say how deep a model is",
                hint="leave one of them out",
            )


@frozen
class ExplicitShape(Checked):
    """One model by its layers and width; what is left out comes from the `ShapeSpec`."""

    layers: int
    width: int
    heads: int | None = None
    kv_heads: int | None = None
    hidden: int | None = None

    def problems(self) -> Iterator[InputError]:
        return _unlikely(self, "", ("layers", "width", "heads", "kv_heads", "hidden"))


def _unlikely(value: object, table: str, names: Iterable[str]) -> Iterator[InputError]:
    """A problem for each of the numbers that is given and that no model has."""
    for name in names:
        number = getattr(value, name, None)  # a field that could not be read is told elsewhere
        if number is not None and not 0 < number < TOO_LARGE:
            yield InputError(
                f"{table}{name} is {number:g}, but must be more than 0 and below {TOO_LARGE:g}",
                hint=f"correct {table}{name}, or leave it out",
            )


def models_named(
    shape: ShapeSpec,
    *,
    vocabulary: int,
    widths: Iterable[int | None] = (),
    sizes: Iterable[float | None] = (),
    shapes: Iterable[ExplicitShape | None] = (),
) -> list[ModelConfig]:
    """The models of all these names, each once; None names none. Raises InputError with all problems."""
    makers = [
        *(lambda w=w: model_of_width(w, shape, vocabulary=vocabulary) for w in widths if w is not None),
        *(lambda s=s: model_of_size(s, shape, vocabulary=vocabulary) for s in sizes if s is not None),
        *(lambda s=s: model_of_shape(s, shape, vocabulary=vocabulary) for s in shapes if s is not None),
    ]
    return list(dict.fromkeys(all_of(makers)))


def model_of_width(width: int, shape: ShapeSpec, *, vocabulary: int) -> ModelConfig:
    """The model of one width; raises InputError if no model is so wide, or heads of the size do not fill it.

    >>> model_of_width(4096, ShapeSpec(layers=32), vocabulary=32_000).parameters.total
    6738415616
    """
    if not 1 <= width < TOO_LARGE:
        raise InputError(f"a model cannot be {width:g} wide", hint="ask for a width such as 512")
    head_size = shape.head_size or next((size for size in HEAD_SIZES if width % size == 0), None)
    if head_size is None:
        least = HEAD_SIZES[-1]
        nearest = max(1, round(width / least)) * least
        raise InputError(
            f"no usual head size divides the width {width}: {least} is the smallest",
            hint=f"use a width of {nearest}, or set shape.head_size to an even divisor",
        )
    if width % head_size:
        raise InputError(
            f"the width {width} is not a multiple of shape.head_size = {head_size}",
            hint=f"use {max(1, width // head_size) * head_size} or another multiple",
        )
    layers = shape.layers or max(1, round(width / (shape.aspect_ratio or _usual_aspect(width))))
    return _build(layers, width, width // head_size, shape, vocabulary)


def model_of_shape(wanted: ExplicitShape, shape: ShapeSpec, *, vocabulary: int) -> ModelConfig:
    """The model of these layers and this width; raises InputError where it cannot be built."""
    if wanted.heads is not None and wanted.width % wanted.heads:
        raise InputError(
            f"{wanted.heads} heads do not divide a width of {wanted.width}",
            hint="use a number of heads that divides the width",
        )
    head_size = shape.head_size if wanted.heads is None else wanted.width // wanted.heads
    spec = replace(
        shape,
        layers=wanted.layers,
        aspect_ratio=None,
        head_size=head_size,
        kv_heads=wanted.kv_heads or shape.kv_heads,
    )
    model = model_of_width(wanted.width, spec, vocabulary=vocabulary)
    return replace(model, hidden=wanted.hidden) if wanted.hidden else model


def model_of_size(parameters: float, shape: ShapeSpec, *, vocabulary: int) -> ModelConfig:
    """The buildable model nearest to so many parameters, counted as `shape.sizes_count` says.

    Where the spec leaves layers, heads and hidden size open it is `nearest_shape`'s. Raises InputError where
    no model comes within a factor of 1.5, and the size of the nearest one.

    >>> model_of_size(6.74e9, ShapeSpec(), vocabulary=32_000).width
    4096
    """
    if not 0 < parameters < TOO_LARGE:
        raise InputError(f"a model cannot have {parameters:g} parameters", hint="ask for a size such as 10M")
    if shape.layers or shape.aspect_ratio or shape.head_size or shape.hidden_ratio:
        candidates = list(_candidates(parameters, shape, vocabulary))
        found = min(candidates, key=lambda m: _oddness(m, parameters, shape), default=None)
    else:
        found = _family_member(parameters, shape, vocabulary)
    reached = found.parameters.by(shape.sizes_count) if found else 0
    if found is None or not 1 / 1.5 < reached / parameters < 1.5:
        nearest = f"; the nearest has {reached:,}" if reached else ""
        raise InputError(
            f"no model of about {parameters:,.0f} parameters has this shape and a vocabulary of "
            f"{vocabulary:,}{nearest}",
            hint="ask for another size, a smaller vocabulary, or leave more of [shape] open",
        )
    return found


def _family_member(parameters: float, shape: ShapeSpec, vocabulary: int) -> ModelConfig:
    # Of a tied head the total counts one table, which is what `matmul` counts of an untied one.
    tied = shape.tied_head and shape.sizes_count == "total"
    found = nearest_shape(
        parameters,
        convention="matmul" if tied else shape.sizes_count,
        vocabulary=vocabulary,
        context=shape.context,
        kv_heads=shape.kv_heads,
    )
    return replace(found, tied_head=shape.tied_head, qk_norm=shape.qk_norm)


def _candidates(parameters: float, shape: ShapeSpec, vocabulary: int) -> Iterator[ModelConfig]:
    """Models of every width that heads fill, of the depths that come near, until they grow too large."""
    aspect = shape.aspect_ratio or aspect_ratio(parameters)
    head_size = shape.head_size or _family_member(parameters, shape, vocabulary).head_size
    for heads in range(1, MOST_HEADS + 1):
        width = heads * head_size
        around = {max(1, math.floor(width / aspect) + extra) for extra in (-1, 0, 1, 2)}
        depths = {shape.layers} if shape.layers else around
        if shape.kv_heads and heads % shape.kv_heads:
            continue
        models = [_build(layers, width, heads, shape, vocabulary) for layers in sorted(depths)]
        yield from models
        if models[0].parameters.by(shape.sizes_count) > 2 * parameters:
            return


def _oddness(model: ModelConfig, parameters: float, shape: ShapeSpec) -> float:
    """How far a model is from the wish: missed parameters, and a little for an aspect off the asked."""
    missed = abs(math.log(model.parameters.by(shape.sizes_count) / parameters))
    aspect = shape.aspect_ratio or (None if shape.layers else aspect_ratio(parameters))
    return missed + (0.1 * abs(math.log(model.width / model.layers / aspect)) if aspect else 0.0)


def _build(layers: int, width: int, heads: int, shape: ShapeSpec, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=shape.kv_heads or heads,
        head_size=width // heads,
        hidden=round(width * shape.hidden_ratio) if shape.hidden_ratio else usual_hidden(width),
        vocabulary=vocabulary,
        context=shape.context,
        tied_head=shape.tied_head,
        qk_norm=shape.qk_norm,
    )


def _usual_aspect(width: int) -> float:
    """The family's width over layers, for a width: where 12 w^3 / aspect parameters have that aspect."""
    ratio = 128.0
    for _ in range(8):
        ratio = aspect_ratio(12 * width**3 / ratio)
    return ratio
