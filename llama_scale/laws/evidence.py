"""What a fit's file says beside its law, as far as plans and pictures read it: its shape is checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What one value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


class Maybe(NamedTuple):
    """A shape that may be null, or missing."""

    shape: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", _is_number)
POSITIVE = Kind("a positive number", lambda value: _is_number(value) and value > 0)
ENDS = Kind(
    "two positive numbers",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(POSITIVE.holds, value)),
)
# A mapping names what it must hold (it may hold more), a list the shape of each of its members.
SHAPES: Mapping[str, Any] = {
    "diagnostics": {"at_bound": Maybe([TEXT])},
    "selection": {
        "heard": Maybe(NUMBER),
        "candidates": Maybe(
            [
                {
                    "form": TEXT,
                    "delta": NUMBER,
                    "weights": TEXT,
                    "mean_error": NUMBER,
                    "weight": NUMBER,
                    "chosen": FLAG,
                }
            ]
        ),
    },
    "backtest": {
        "protocol": Maybe(
            [
                {
                    "direction": TEXT,
                    "factor": POSITIVE,
                    "fitted_runs": NUMBER,
                    "held_out_runs": NUMBER,
                    "mean_error": NUMBER,
                    "chosen": {"heard": Maybe(NUMBER)},
                    "coverage": Maybe(NUMBER),
                    "level": NUMBER,
                    "candidates": [{"mean_error": NUMBER, "chosen": FLAG}],
                }
            ]
        )
    },
    "approaches": [
        {
            "approach": NUMBER,
            "optima": Maybe(
                [
                    {
                        "train_flops": POSITIVE,
                        "parameters": POSITIVE,
                        "tokens": POSITIVE,
                        "parameters_interval": Maybe(ENDS),
                        "tokens_interval": Maybe(ENDS),
                    }
                ]
            ),
        }
    ],
}


def number_heard(selection: Mapping[str, Any]) -> int:
    """How many candidates make the law of a fit; 1 where its file does not say, as older ones do not."""
    return int(selection.get("heard") or 1)


def check_evidence(found: Mapping[str, Any]) -> None:
    """Raises ValueError that names the first place whose value no fit would have written."""
    for name, shape in SHAPES.items():
        _check(found.get(name), Maybe(shape), name)


def _check(value: Any, shape: Any, place: str) -> None:
    if isinstance(shape, Maybe):
        if value is not None:
            _check(value, shape.shape, place)
    elif isinstance(shape, Kind):
        if not shape.holds(value):
            raise ValueError(f"{place} is {value!r:.40}, but must be {shape.words}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{place} must be a list")
        for index, member in enumerate(value):
            _check(member, shape[0], f"{place}[{index}]")
    else:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a table")
        for name, part in shape.items():
            _check(value.get(name), part, f"{place}.{name}")
