"""Models that exist: the published ones (`data/reference_models.toml`), and those of a user's own TOML."""

from __future__ import annotations

from functools import cache

from llama_scale.architecture import (
    LLAMA_CONTEXT,
    LLAMA_VOCABULARY,
    ModelConfig,
    ParameterConvention,
    llama,
    nearest_shape,
    usual_head_size,
)
from llama_scale.costs.roofline import ServedShape
from llama_scale.errors import InputError
from llama_scale.files import at_home, shipped_tables
from llama_scale.frozen import frozen
from llama_scale.hardware import name_key, nearest_names_hint
from llama_scale.quantities import format_count

FARTHEST_COUNT = 0.1  # how far a nominal number may be from the shape's own: GPT-3's 6.7B has 6.65B


@frozen
class ReferenceModel:
    """A model as its paper describes it: `parameters` is the nominal count, `total` the exact one.

    `embedding` counts the input table, `tied` says whether the output head shares it, `open` whether anyone
    can download the weights. `assumed_shape` marks a shape that nobody gave: a LLaMA's of that size.
    """

    name: str
    parameters: float
    total: int
    embedding: int
    tied: bool
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    tokens: float
    context: int
    source: str
    open: bool = False
    assumed_shape: bool = False
    aliases: tuple[str, ...] = ()

    def count(self, convention: ParameterConvention) -> float:
        """Parameters as a law of that convention counts them; the nominal count for `total`."""
        if convention == "total":
            return self.parameters
        if convention == "matmul":
            return float(self.active)
        return float(self.total - self.embedding * (1 if self.tied else 2))

    @property
    def active(self) -> int:
        """Parameters that multiply every token: all but input tables that are nothing else.

        A tied table multiplies as the output head; learned positions, counted with it, do not.
        """
        head = self.vocabulary * self.width if self.tied else 0
        return self.total - self.embedding + head

    @property
    def matrix_weights(self) -> int:
        """Those of them in matrices, which FLOPs count: all but gains of norms, taken for a LLaMA's."""
        return self.active - (2 * self.layers + 1) * self.width

    @property
    def query_width(self) -> int:
        """Heads x head size."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """KV heads x head size."""
        return self.kv_heads * self.head_size

    @property
    def shared_kv_heads(self) -> int | None:
        """KV heads of a `Geometry` that caches as much of a token; None where each head has its own."""
        if self.kv_width == self.query_width:
            return None
        return max(1, round(self.kv_width / usual_head_size(self.query_width)))

    @property
    def served_shape(self) -> ServedShape:
        """What serving asks of its shape."""
        return ServedShape(
            weights=float(self.total),
            active_weights=float(self.matrix_weights),
            layers=float(self.layers),
            query_width=float(self.query_width),
            kv_width=float(self.kv_width),
        )

    def forward_flops_per_token(self, context: float) -> float:
        """2 x weights + 4 L q T, attention over the whole context, as PaLM's appendix B counts it."""
        return 2.0 * self.matrix_weights + 4.0 * self.layers * self.query_width * context


@frozen
class ShapeFile:
    """The shape in a user's TOML; what is left out is what LLaMA would have."""

    layers: int
    width: int
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    hidden: int | None = None
    vocabulary: int = LLAMA_VOCABULARY
    tied_head: bool = False

    def config(self, context: int) -> ModelConfig:
        """The whole shape; raises InputError where it cannot be built."""
        heads = self.heads or max(1, self.width // (self.head_size or 128))
        given = {
            "kv_heads": self.kv_heads,
            "head_size": self.head_size,
            "hidden": self.hidden,
            "vocabulary": self.vocabulary,
            "context": context,
            "tied_head": self.tied_head,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        return llama(self.layers, self.width, heads=heads, **fields)


@frozen
class ModelFile:
    """A user's own model: tokens seen in training, and its parameters or its shape."""

    tokens: float
    name: str | None = None
    parameters: float | None = None
    shape: ShapeFile | None = None
    context: int = LLAMA_CONTEXT
    source: str = "your file"

    def __post_init__(self) -> None:
        if self.parameters is None and self.shape is None:
            raise InputError(
                "neither parameters nor a shape is given",
                hint='add parameters = "7B", or a table [shape] with layers and width',
            )
        for name, value, least, example in (
            ("tokens", self.tokens, 1.0, "2T"),
            ("parameters", self.parameters, 1e4, "7B"),
        ):
            if value is not None and not least <= value <= 1e18:
                raise InputError(
                    f"{name} = {value:g} is out of all proportion", hint=f'write {name} = "{example}"'
                )
        if self.name is not None and not (self.name.strip() and self.name.isprintable()):
            raise InputError(f"name = {self.name!r} cannot be shown", hint='write it like name = "ours"')

    def model(self, fallback_name: str) -> ReferenceModel:
        """The model that the file describes; without a shape, that of a LLaMA of its size."""
        shape = (
            self.shape.config(self.context)
            if self.shape is not None
            else nearest_shape(self.parameters or 0.0, context=self.context)
        )
        total = shape.parameters.total if self.parameters is None else round(self.parameters)
        if abs(total / shape.parameters.total - 1) > FARTHEST_COUNT and self.shape is not None:
            raise InputError(
                f"parameters = {total:g}, but [shape] has {format_count(shape.parameters.total)}",
                hint="leave parameters out, or correct the shape",
            )
        return ReferenceModel(
            name=self.name or fallback_name,
            parameters=float(total),
            total=total,
            embedding=shape.vocabulary * shape.width,
            tied=shape.tied_head,
            layers=shape.layers,
            width=shape.width,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            hidden=shape.hidden,
            vocabulary=shape.vocabulary,
            tokens=self.tokens,
            context=self.context,
            source=self.source,
            assumed_shape=self.shape is None,
        )


def find_model(text: str) -> ReferenceModel:
    """A published model by its name, or a user's own by the path of its TOML.

    Raises InputError with the nearest names, or with every problem of the file at once.
    """
    path = at_home(text)
    if path.suffix == ".toml" or path.is_file():
        from llama_scale.config import load_toml

        described = load_toml(path, ModelFile)
        try:
            return described.model(path.stem)
        except InputError as error:
            raise InputError(f"{path}: {error.message}", hint=error.hint) from error
    return reference_model(text)


def reference_model(name: str) -> ReferenceModel:
    """The published model of this name or alias.

    Raises InputError with the nearest names.

    >>> reference_model("LLaMA 13B").tokens
    1000000000000.0
    """
    known = {name_key(word): model for model in reference_models() for word in (model.name, *model.aliases)}
    if found := known.get(name_key(name)):
        return found
    raise InputError(f"unknown model '{name}'", hint=nearest_names_hint(name, reference_names()))


def reference_names() -> tuple[str, ...]:
    """Names of every published model that we know."""
    return tuple(model.name for model in reference_models())


@cache
def reference_models() -> tuple[ReferenceModel, ...]:
    """Every model of `data/reference_models.toml`."""
    entries = shipped_tables("reference_models.toml")["model"]
    return tuple(ReferenceModel(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries)
