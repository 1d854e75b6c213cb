"""Published models that a plan can be asked to match (`data/reference_models.toml`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError
from llama_scale.hardware import name_key, nearest_names_hint

_FILE = Path(__file__).parent.parent / "data" / "reference_models.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceModel:
    """A model as its paper describes it: `parameters` is the nominal count, `total` the exact one."""

    name: str
    parameters: float
    total: int
    embedding: int
    tied: bool
    tokens: float
    context: int
    source: str
    aliases: tuple[str, ...] = ()

    def count(self, convention: ParameterConvention) -> float:
        """Parameters as a law of that convention counts them; the nominal count for `total`."""
        if convention == "total":
            return self.parameters
        if convention == "matmul":
            return float(self.total - (0 if self.tied else self.embedding))
        return float(self.total - self.embedding * (1 if self.tied else 2))


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
    import tomllib

    entries = tomllib.loads(_FILE.read_text(encoding="utf-8"))["model"]
    return tuple(ReferenceModel(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries)
