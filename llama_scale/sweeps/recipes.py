"""Recipes by name or path: the TOML files under sweeps/, which ship inside the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from llama_scale.config import load_toml, nearest
from llama_scale.errors import InputError
from llama_scale.sweeps.spec import SweepSpec


def recipe_names() -> list[str]:
    """The recipes that ship with llama-scale."""
    return sorted(path.name.removesuffix(".toml") for path in _recipes() if path.name.endswith(".toml"))


def find_recipe(name: str) -> Path:
    """The path of a recipe by name, or `name` itself if it is a file; raises InputError for neither."""
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    for path in _recipes():
        if path.name == f"{name}.toml":
            return Path(str(path))
    close = nearest(name, recipe_names())
    meant = f"did you mean {close[0]}? " if close else ""
    raise InputError(
        f"there is no recipe called {name!r}",
        hint=f"{meant}use one of {', '.join(recipe_names())}, or the path of a TOML file",
    )


def load_recipe(name: str, overrides: Sequence[str] = ()) -> SweepSpec:
    """What a recipe says; raises InputError that names all that is wrong with it at once."""
    return load_toml(find_recipe(name), SweepSpec, overrides=overrides)


def _recipes() -> Iterator[Path]:
    return (Path(str(path)) for path in resources.files("llama_scale").joinpath("data/sweeps").iterdir())
