"""What repeated data are worth, and what a loss scores, as a fit file holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.laws.downstream import Downstream, Sigmoid
from llama_scale.laws.forms import ScalingLaw
from llama_scale.laws.repeated import Repetition

DECAYS = tuple(f.name for f in fields(Repetition))
CURVE = tuple(f.name for f in fields(Sigmoid))
Arrays = Mapping[str, NDArray[np.float64]]
DRAW_DIGITS = 10  # significant digits of a draw in a file: losses keep 9


def rounded_columns(columns: Mapping[str, Any]) -> dict[str, list[float]]:
    """Draws by name, as lists."""
    return {
        name: [float(f"{value:.{DRAW_DIGITS}g}") for value in np.ravel(column)]
        for name, column in columns.items()
    }


def checked_repetition(decays: Mapping[str, Any]) -> Repetition:
    """The decays of repeated data; ValueError names one that is missing or impossible."""
    values = arrays_of(decays, DECAYS)
    for name, value in values.items():
        if not (np.isfinite(value) & (value > 0)).all():
            raise ValueError(f"{name} must be finite and positive")
    return Repetition(**numbers_of(values))


def repetition_draws_from_json(columns: Any, draws: ScalingLaw | None) -> Repetition | None:
    """Draws of the decays, as many as of the law where it has draws too."""
    if columns is None:
        return None
    arrays = columns_of("repetition_draws", columns, DECAYS)
    if draws is not None and np.size(draws.E) != len(arrays[DECAYS[0]]):
        raise ValueError("draws and repetition_draws must be of one length")
    return checked_repetition(arrays)


def downstream_to_json(downstream: Downstream, *, draws: bool) -> dict[str, Any]:
    """A score's sigmoid as one JSON object."""
    result: dict[str, Any] = {
        "task": downstream.task,
        **{name: float(value) for name, value in asdict(downstream.sigmoid).items()},
        "losses": list(downstream.losses),
        "models": downstream.models,
        "noise": downstream.noise,
        "interval_factor": downstream.interval_factor,
        "source": downstream.source,
        **downstream.evidence,
    }
    if draws and downstream.draws is not None:
        result["draws"] = rounded_columns(asdict(downstream.draws))
    return result


def downstream_from_json(content: Any) -> Downstream | None:
    """The same, read back; ValueError says which value cannot be."""
    if content is None:
        return None
    if not isinstance(content, dict):
        raise ValueError("downstream must be an object")
    low, high = (float(value) for value in content["losses"])
    noise, factor = float(content["noise"]), float(content.get("interval_factor", 1.0))
    if not (0 < low <= high < np.inf and 0 <= noise < np.inf and 0 < factor < np.inf):
        raise ValueError("downstream's losses, noise and interval_factor must be finite and positive")
    columns = content.get("draws")
    known = {f.name for f in fields(Downstream)} | set(CURVE)
    return Downstream(
        task=str(content["task"]),
        sigmoid=_checked_sigmoid(arrays_of(content, CURVE)),
        losses=(low, high),
        models=int(content["models"]),
        noise=noise,
        draws=None if columns is None else _checked_sigmoid(columns_of("downstream's draws", columns, CURVE)),
        interval_factor=factor,
        source=str(content.get("source", "")),
        evidence={key: value for key, value in content.items() if key not in known},
    )


def _checked_sigmoid(values: Arrays) -> Sigmoid:
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ValueError(f"downstream's {name} must be finite")
    if not ((values["steepness"] > 0) & (values["ceiling"] > values["floor"])).all():
        raise ValueError("downstream's steepness must be positive, and its ceiling above its floor")
    return Sigmoid(**numbers_of(values))


def columns_of(what: str, columns: Any, names: Iterable[str]) -> Arrays:
    """Draws by name; ValueError unless they are lists of one length, and not empty."""
    if not isinstance(columns, Mapping):
        raise ValueError(f"{what} must be lists by name")
    arrays = arrays_of(columns, names)
    shapes = {array.shape for array in arrays.values()}
    if shapes <= {(0,)}:
        raise ValueError(f"{what} are empty")
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"{what} must be lists of one length")
    return arrays


def arrays_of(constants: Any, names: Iterable[str]) -> Arrays:
    """Constants by name, as arrays."""
    return {name: np.asarray(constants[name], float) for name in names}


def numbers_of(values: Arrays) -> dict[str, Any]:
    """The same, a float where an array holds but one number."""
    return {name: float(value) if value.ndim == 0 else value for name, value in values.items()}
