"""Recipes by name or path: the TOML files under sweeps/, which ship inside the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from llama_scale.config import kind_of, load_toml, nearest, read_toml
from llama_scale.errors import InputError
from llama_scale.sweeps.spec import DesignSpec, SweepSpec


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
    return load_toml(find_recipe(name), SweepSpec, overrides=overrides, read=_read)


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tables of a recipe, laid over those of its `base`: one beside it, or one that ships."""
    tables = read_toml(path)
    if "base" not in tables:
        return tables
    base = tables.pop("base")
    if not isinstance(base, str):
        raise InputError(f"{path}: base is not text", hint='name a recipe, such as base = "default"')
    beside = path.with_name(base if base.endswith(".toml") else f"{base}.toml")
    found = beside if beside.is_file() else find_recipe(base)
    if found in (path, *above):
        raise InputError(f"{path} is, by way of its base, its own base", hint="leave one of these `base` out")
    return _over(_read(found, (path, *above)), tables)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables of which `above` has the last word; one of another kind takes the place of the whole other."""
    if "kind" in above and kind_of(above, DesignSpec) != kind_of(below, DesignSpec):  # no others have kinds
        return above
    tables = (key for key in below.keys() & above.keys() if isinstance(below[key], dict))
    merged = {key: _over(below[key], above[key]) for key in tables if isinstance(above[key], dict)}
    return {**below, **above, **merged}


def _recipes() -> Iterator[Path]:
    return (Path(str(path)) for path in resources.files("llama_scale").joinpath("data/sweeps").iterdir())
