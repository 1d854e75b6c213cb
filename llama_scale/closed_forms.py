"""Parameters and FLOPs per token of published models by the closed form of each family (`data/shapes.toml`).

Four forms: LLaMA's; GPT-3's (learned positions, biases, tied head); PaLM's (multi-query attention, parallel
blocks with one norm, tied head); Gopher's, which Chinchilla shares (relative positions, tied head, norms
that only scale). In the formulas: L layers, d width, H heads, K KV heads, h head size, f hidden, V
vocabulary, T context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal, get_args

from llama_scale.architecture import ModelConfig, ParameterCounts
from llama_scale.errors import InputError
from llama_scale.files import shipped_tables
from llama_scale.frozen import frozen
from llama_scale.hardware import name_key, nearest_names_hint

Form = Literal["llama", "gpt-3", "palm", "gopher"]
FORMS: tuple[Form, ...] = get_args(Form)


@frozen
class ClosedForm:
    """A published shape and how to count it; `printed` is the count that its source prints.

    >>> closed_form("PaLM-540B").parameters.total
    540356474880
    """

    name: str
    form: Form
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    context: int
    tied: bool
    printed: float
    tokens: float
    source: str
    learning_rate: float | None = None
    batch_tokens: float | None = None
    aliases: tuple[str, ...] = ()
    note: str | None = None

    @property
    def query_width(self) -> int:
        """H h, which PaLM 540B makes narrower than its width."""
        return self.heads * self.head_size

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied by, the output head among them."""
        return self.layers * _LAYER_WEIGHTS[self.form](self) + self.vocabulary * self.width

    @property
    def parameters(self) -> ParameterCounts:
        """Exact counts; learned positions are an input embedding, relative ones belong to the body."""
        body = self.layers * (_LAYER_WEIGHTS[self.form](self) + _LAYER_VECTORS[self.form](self))
        body += self.width * (2 if self.form == "gpt-3" else 1)  # the last norm
        table = self.vocabulary * self.width
        positions = self.context * self.width if self.form == "gpt-3" else 0
        return ParameterCounts(
            total=body + positions + table * (1 if self.tied else 2),
            non_embedding=body,
            matmul=body + table,
        )

    def attention_flops_per_token(self, context: int | None = None) -> int:
        """Training FLOPs of scores and weighted sums of one token: 12 L H h T (PaLM, appendix B)."""
        return 12 * self.layers * self.query_width * (self.context if context is None else context)

    def forward_flops_per_token(self, context: int | None = None) -> int:
        """FLOPs of the matrix products of one token's forward pass, attention over the whole context."""
        return self.train_flops_per_token(context) // 3

    def train_flops_per_token(self, context: int | None = None) -> int:
        """FLOPs of forward and backward of one token: 6 x matrix weights + 12 L H h T."""
        return 6 * self.matrix_weights + self.attention_flops_per_token(context)

    @property
    def shape(self) -> ModelConfig | None:
        """The same as a LLaMA that can be built; None for another family."""
        if self.form != "llama":
            return None
        return ModelConfig(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_size=self.head_size,
            hidden=self.hidden,
            vocabulary=self.vocabulary,
            context=self.context,
            tied_head=self.tied,
        )


def closed_form(name: str) -> ClosedForm:
    """The published shape of this name or alias.

    Raises InputError with the nearest names.

    >>> closed_form("gpt-3").parameters.total
    174604259328
    """
    known = {name_key(word): shape for shape in closed_forms() for word in (shape.name, *shape.aliases)}
    if found := known.get(name_key(name)):
        return found
    raise InputError(
        f"unknown model '{name}'", hint=nearest_names_hint(name, (shape.name for shape in closed_forms()))
    )


@cache
def closed_forms() -> tuple[ClosedForm, ...]:
    """Every published shape that we know, LLaMA's family first."""
    entries = shipped_tables("shapes.toml")["model"]
    return tuple(ClosedForm(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries)


def nearest_llamas(parameters: float, count: int = 2) -> tuple[ClosedForm, ...]:
    """The `count` sizes of LLaMA, Llama 2 and Llama 3 that are nearest `parameters` in all, smallest first.

    Nearest by ratio; of equally sized generations the oldest.

    >>> [shape.name for shape in nearest_llamas(9e9)]
    ['llama-7b', 'llama-3.1-8b']
    """

    def distance(shape: ClosedForm) -> float:
        return abs(math.log(shape.parameters.total / parameters))

    family: dict[tuple[int, ...], ClosedForm] = {}
    for shape in closed_forms():
        if shape.form == "llama":  # Llama 2 kept LLaMA's 7B and 13B
            family.setdefault((shape.layers, shape.width, shape.kv_heads, shape.vocabulary), shape)
    nearest = sorted(family.values(), key=distance)[:count]
    return tuple(sorted(nearest, key=lambda shape: shape.parameters.total))


def _llama_layer(shape: ClosedForm) -> int:
    """2 d H h + 2 d K h + 3 d f."""
    d, attention = shape.width, (shape.heads + shape.kv_heads) * shape.head_size
    return 2 * d * attention + 3 * d * shape.hidden


def _gpt_layer(shape: ClosedForm) -> int:
    """4 d^2 + 2 d f."""
    return 4 * shape.width * shape.query_width + 2 * shape.width * shape.hidden


_LAYER_WEIGHTS: Mapping[Form, Callable[[ClosedForm], int]] = {
    "llama": _llama_layer,
    "gpt-3": _gpt_layer,
    "palm": _llama_layer,  # K = 1
    "gopher": lambda shape: _gpt_layer(shape) + shape.width**2,  # the projection of relative positions
}
_LAYER_VECTORS: Mapping[Form, Callable[[ClosedForm], int]] = {
    "llama": lambda shape: 2 * shape.width,
    # biases of four projections and of the two halves of the feed-forward layer; two norms with shift
    "gpt-3": lambda shape: 4 * shape.width + (shape.hidden + shape.width) + 4 * shape.width,
    "palm": lambda shape: shape.width,
    "gopher": lambda shape: 2 * shape.width,
}
