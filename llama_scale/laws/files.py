"""Fit files: one JSON object holds all of a Fit; written whole or not at all, never trusted when read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import CONVENTIONS
from llama_scale.errors import InputError
from llama_scale.files import check_new, parse_json, write_atomically
from llama_scale.laws.evidence import check_evidence
from llama_scale.laws.files_extras import (
    DECAYS,
    arrays_of,
    checked_repetition,
    columns_of,
    downstream_from_json,
    downstream_to_json,
    numbers_of,
    repetition_draws_from_json,
    rounded_columns,
)
from llama_scale.laws.fits import ACCOUNTINGS, Fit, Range, Support
from llama_scale.laws.forms import FORMS, ScalingLaw
from llama_scale.laws.repeated import REPEATED, Repetition

T = TypeVar("T", bound=str)


def fit_to_json(fit: Fit, *, draws: bool = True) -> dict[str, Any]:
    """The JSON object of a fit: what `fit --json` prints, and with `draws` what a fit file holds."""
    result: dict[str, Any] = {
        "schema": 1,
        "name": fit.name,
        "form": fit.form,
        "parameters": fit.parameters,
        "parameter_convention": fit.parameter_convention,
        "flops_accounting": fit.flops_accounting,
        "exponent_a": fit.exponent_a,
        **fit.evidence,
        "noise": fit.noise,
        "interval_factor": fit.interval_factor,
        "support": {name: list(value) if value else None for name, value in asdict(fit.support).items()},
        "source": fit.source,
        "draws_note": fit.draws_note,
    }
    if fit.downstream is not None:
        result["downstream"] = downstream_to_json(fit.downstream, draws=draws)
    if draws and fit.draws is not None:
        columns = {**fit.draws.constants, **({} if fit.noise_draws is None else {"noise": fit.noise_draws})}
        result["draws"] = rounded_columns(columns)
    if draws and fit.repetition_draws is not None:
        result["repetition_draws"] = rounded_columns(asdict(fit.repetition_draws))
    return result


def write_fit(path: Path | str, fit: Fit, *, overwrite: bool = False) -> Path:
    """Write a fit file whole or not at all; an existing file is kept unless `overwrite`.

    Raises InputError where the file exists, StoreError where it cannot be written.
    """
    target = Path(path)
    check_new(target, overwrite=overwrite, other="--output")
    text = json.dumps(fit_to_json(fit), allow_nan=False, indent=None) + "\n"
    write_atomically(target, text, other="another file")
    return target


def read_fit(path: Path | str) -> Fit:
    """Read a fit file; one InputError says what is wrong with a file that is torn or no fit at all."""
    source = Path(path)
    hint = "name a file that `llama-scale fit SOURCE --output PATH` wrote, or fit the runs anew"
    try:
        content = parse_json(source.read_text(encoding="utf-8"))
        return _fit_from_json(content, default_name=source.stem)
    except OSError as error:
        problem = (error.strerror or "cannot be read").lower()
        hint = "check the path; `llama-scale fit SOURCE --output PATH` writes a fit"
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        problem = f"not JSON, or cut short ({error})"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        problem = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
    raise InputError(f"{source} is not a fit that can be read: {problem}", hint=hint)


def is_fit(path: Path) -> bool:
    """Whether a file looks like a fit, whole or refused, and not like runs."""
    if path.suffix.lower() != ".json":
        return False
    with suppress(OSError, ValueError):
        content = parse_json(path.read_text(encoding="utf-8"))
        return isinstance(content, dict) and "form" in content and "records" not in content
    return False


def _fit_from_json(content: Any, *, default_name: str) -> Fit:
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    if content.get("schema") != 1:
        raise ValueError(f"schema is {content.get('schema')!r}, but 1 is the one known here")
    if "error" in content and "parameters" not in content:
        raise InputError(
            f"this fit was refused, so that there is no law in its file: {content['error']}",
            hint=str(content.get("hint") or "fit other runs, or name a published law"),
        )
    if content.get("form") == "multi-power":
        raise InputError(
            "this is a fit of whole loss curves, whose laws are not of parameters and tokens",
            hint="fit a law to the losses at the ends of runs: `llama-scale fit RUNS.csv`",
        )
    law, repetition = _law_from_json(content)
    known = {f.name for f in fields(Fit)}
    known |= {"schema", "form", "parameters", "parameter_convention", "exponent_a"}
    draws, noise_draws = _draws_from_json(content.get("draws"))
    noise, factor = float(content.get("noise", 0.0)), float(content.get("interval_factor", 1.0))
    if not (0 <= noise < math.inf and 0 < factor < math.inf):
        raise ValueError("noise and interval_factor must be finite and positive")
    name = str(content.get("name", default_name))
    if not name.isprintable():
        raise ValueError(f"its name, {name!r}, cannot be shown")
    return Fit(
        name=name,
        law=law,
        convention=one_of("parameter_convention", content["parameter_convention"], CONVENTIONS),
        flops_accounting=one_of("flops_accounting", content.get("flops_accounting", "6nd"), ACCOUNTINGS),
        source=str(content.get("source", "")),
        support=support_of(content.get("support") or {}),
        draws=draws,
        draws_note=_draws_note(content),
        noise=noise,
        noise_draws=noise_draws,
        interval_factor=factor,
        repetition=repetition,
        repetition_draws=repetition_draws_from_json(content.get("repetition_draws"), draws),
        downstream=downstream_from_json(content.get("downstream")),
        evidence=_evidence({key: value for key, value in content.items() if key not in known}),
    )


def _draws_note(content: Mapping[str, Any]) -> str:
    """What the draws of a file are, or why it has none: `fit --json` prints all but them."""
    note, selection = str(content.get("draws_note") or ""), content.get("selection")
    if "draws" in content or "repetition_draws" in content:
        return note
    if isinstance(selection, Mapping) and selection.get("draws"):
        return f"its draws are in {content.get('file') or 'the file that `fit` kept'}, not in what it printed"
    return note or "its file holds no draws"


def _evidence(found: dict[str, Any]) -> dict[str, Any]:
    """What else a fit says; ValueError where it is not what plans ask of it."""
    for name, constants in (found.get("other_forms") or {}).items():
        try:
            checked_law({each: float(value) for each, value in constants.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"its other form {name!r} is no law: {error}") from None
    check_evidence(found)
    return found


def _law_from_json(content: Mapping[str, Any]) -> tuple[ScalingLaw, Repetition | None]:
    """The law of the form that the file names, and what repeated data are worth where it says so."""
    constants = {name: float(value) for name, value in content["parameters"].items()}
    if content.get("form") == REPEATED:
        decays = {name: constants.pop(name) for name in DECAYS}
        return checked_law(constants), checked_repetition(decays)
    law = checked_law(constants)
    if not law.is_of(form := one_of("form", content.get("form"), FORMS)):
        raise ValueError(f"form is {form!r}, but the parameters are those of the {law.form} form")
    return law, None


def _draws_from_json(columns: Any) -> tuple[ScalingLaw | None, NDArray[np.float64] | None]:
    if columns is None:
        return None, None
    arrays = dict(columns_of("draws", columns, columns))
    noise = arrays.pop("noise", None)
    if noise is not None and not (np.isfinite(noise) & (noise >= 0)).all():
        raise ValueError("the noise of a draw must be finite and not negative")
    return checked_law(arrays), noise


def checked_law(constants: Mapping[str, Any]) -> ScalingLaw:
    """A law from named constants; ValueError names those that are missing, unknown, or impossible."""
    names = [f.name for f in fields(ScalingLaw)]
    missing, unknown = set(names) - set(constants) - {"k"}, set(constants) - set(names)
    if missing or unknown:
        parts = [f"without {', '.join(sorted(missing))}"] if missing else []
        parts += [f"with unknown {', '.join(sorted(unknown))}"] if unknown else []
        raise ValueError(
            f"a law needs {', '.join(names[:-1])} (and k, if not 1), found one {' and '.join(parts)}"
        )
    values = arrays_of(constants, constants)
    for name, value in values.items():
        # a draw may have lost a term; what is planned by may not, for it would have no optimum
        may_be_0 = name == "E" or (name in "AB" and value.ndim > 0)
        if not (np.isfinite(value) & ((value >= 0) if may_be_0 else (value > 0))).all():
            raise ValueError(f"{name} must be finite and {'not negative' if may_be_0 else 'positive'}")
    return ScalingLaw(**numbers_of(values))


def one_of(name: str, value: object, options: tuple[T, ...]) -> T:
    """The value, if it is among the options; ValueError names them."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(options)}")
    return cast(T, value)


def support_of(ranges: Mapping[str, Any]) -> Support:
    """A support from {name: [low, high]}; ranges that are missing or null stay unknown."""
    names = [f.name for f in fields(Support)]
    values = {name: ranges[name] for name in names if ranges.get(name) is not None}
    found = {name: Range(float(low), float(high)) for name, (low, high) in values.items()}
    for name, near in found.items():
        if not 0 < near.low <= near.high < math.inf:
            raise ValueError(f"support of {name} runs from {near.low:g} to {near.high:g}")
    return Support(**found)
