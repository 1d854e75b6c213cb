"""Laws by name: the published ones of data/laws.toml, with draws, and whatever a user calls a law."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError
from llama_scale.files import at_home, shipped_tables
from llama_scale.hardware import name_key
from llama_scale.laws.files import checked_law, one_of, read_fit, support_of
from llama_scale.laws.fits import Fit
from llama_scale.laws.shipped import columns_of

DEFAULT_LAW = "besiroglu-2024"


@cache
def _library() -> dict[str, dict[str, Any]]:
    return shipped_tables("laws.toml")


def published_names() -> tuple[str, ...]:
    """Names of the published laws, the default one first."""
    return tuple(sorted(_library(), key=lambda name: (name != DEFAULT_LAW, name)))


@cache
def _by_key() -> dict[str, str]:
    """Published laws by every name that is as good as theirs, as it is compared."""
    return {
        name_key(word): name
        for name, entry in _library().items()
        for word in (name, *entry.get("aliases", ()))
    }


def published_name(text: str) -> str | None:
    """The published law that is meant, compared as accelerators and models are: `Besiroglu 2024` will do."""
    return text if text in _library() else _by_key().get(name_key(text))


@cache
def published(name: str = DEFAULT_LAW) -> Fit:
    """A published law by name, with our draws of it where the runs behind it are public."""
    if name not in _library():
        raise _unknown_law(name)
    entry = _library()[name]
    draws = checked_law(columns_of(entry["draws"])) if "draws" in entry else None
    return Fit(
        name=name,
        law=checked_law(entry["parameters"]),
        convention=entry["convention"],
        flops_accounting=entry.get("flops_accounting", "6nd"),
        source=entry["source"],
        support=support_of(entry.get("support", {})),
        draws=draws,
        draws_note=entry["draws_note"],
        noise=entry.get("noise", 0.0),
        interval_factor=entry.get("interval_factor", 1.0),
        evidence={
            "provenance": {
                "published": entry["source"],
                **{name: entry[name] for name in ("note", "runs") if name in entry},
            },
            "other_forms": entry.get("other_forms", {}),
        },
    )


def parse_law_line(text: str) -> Fit:
    """A law from its constants: `E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283`.

    `k=.2` makes it the Skaling form. `convention=matmul` may be among them; N counts total parameters
    otherwise.
    """
    try:
        pairs = _constants(text)
        convention: ParameterConvention = one_of("convention", pairs.pop("convention", "total"), CONVENTIONS)
        law = checked_law({name: float(value) for name, value in pairs.items()})
    except ValueError as error:
        raise InputError(
            f"cannot read the law {text!r}: {error}",
            hint="write it as E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283",
        ) from error
    return Fit(
        name="constants",
        law=law,
        convention=convention,
        source="constants on the command line",
        draws_note="constants alone carry no uncertainty: pass a fit's file for intervals",
    )


def _constants(text: str) -> dict[str, str]:
    """What each name is set to; ValueError for a part that sets nothing, and for a name set twice."""
    found: dict[str, str] = {}
    for part in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*=\s*", "=", text))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is no constant")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = value
    return found


def resolve_law(text: str) -> Fit:
    """The law that a user names: a published one, a fit's file, or constants on the line.

    A file is preferred to a law that is not quite called so. Raises InputError naming the nearest laws.
    """
    if text in _library():
        return published(text)
    if not text.strip():
        raise _unknown_law(text)
    path = at_home(text)
    if path.is_file():
        return read_fit(path)
    if "=" in text:
        return parse_law_line(text)
    if name := published_name(text):
        return published(name)
    if path.exists():
        return read_fit(path)  # a folder: it says so
    if path.suffix == ".json" or len(path.parts) > 1:
        raise InputError(
            f"there is no fit at {text}: no such file",
            hint=f"check the path, or name a published law: {', '.join(published_names())}",
        )
    raise _unknown_law(text)


def _unknown_law(text: str) -> InputError:
    from difflib import get_close_matches

    near = get_close_matches(text.lower(), published_names(), n=3, cutoff=0.4) or published_names()
    return InputError(
        f"{text!r} is no published law, and no file of that name exists",
        hint=f"use {' or '.join(near)}, the path of a fit's JSON, or E=..,A=..,B=..,alpha=..,beta=..",
    )
