"""How to fit: what is pinned, what backtests choose, what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from llama_scale.checked import known_word
from llama_scale.config import nearest
from llama_scale.errors import InputError, shown
from llama_scale.fitting.candidates import DELTAS, POWERS, Candidate
from llama_scale.fitting.doubts import MOST
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.selection import AUTO_FORMS, Asked
from llama_scale.fitting.solver import DEFAULT_DELTA
from llama_scale.fitting.uncertainty import Resampling
from llama_scale.frozen import frozen
from llama_scale.laws import DEFAULT_LEVEL, FORMS, LEAST_DRAWS, FormName, least_draws
from llama_scale.quantities import format_level

AUTO = "auto"
TRUNK_DELTA = 1e-2
DEFAULT_DRAWS = 1000
MOST_DRAWS = 100_000  # of 240 runs they take 50 s and .6 GB
MOST_POWER = 2.0
EXAMPLES = {"draws": 1000, "seed": 0, "delta": 1e-3, "weights": 0.5, "level": 0.9}
MAY_BE_NONE = ("delta", "weights", "form", "resampling")
WORDS: dict[str, tuple[str, ...]] = {  # of which each is one
    "form": (AUTO, *FORMS),
    "direction": get_args(Asked),
    "resampling": get_args(Resampling),
}


@frozen
class Settings:
    """How to fit.

    `form` None, or "auto", means that forward backtests choose among forms, and among Huber deltas and
    weights where these are None (`selection`). A named form means delta 1e-3 and no weights by compute unless
    they are given: `weights` is the power of C / Cmax. Where it is None runs also weigh by the noise of
    seeds, if repeats measure it (`seeds`); 0 is no weights at all. `direction` is where the question lies,
    `resampling` None what `choose_resampling` says. `backtest` calibrates intervals, `protocol` tests all of
    it on the farthest fifth of the runs besides, `profile` adds profile intervals and SciPy's opinion.
    """

    form: str | None = None
    delta: float | None = None
    weights: float | None = None
    direction: Asked = "auto"
    draws: int = DEFAULT_DRAWS
    level: float = DEFAULT_LEVEL
    seed: int = 0
    resampling: Resampling | None = None
    budgets: tuple[float, ...] = ()
    backtest: bool = True
    protocol: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        _check_kinds(self)
        object.__setattr__(self, "budgets", tuple(map(float, self.budgets)))  # an array has no truth value
        for name, choices in WORDS.items():
            word = known_word(getattr(self, name), choices)
            object.__setattr__(self, name, word)
            if word not in choices and not (word is None and name in MAY_BE_NONE):
                raise InputError(f"there is no {name} {word!r}", hint=f"use --{name} {' or '.join(choices)}")
        if self.delta is not None and not 0 < self.delta < np.inf:
            raise InputError(f"delta is {self.delta:g}, but must be positive", hint="use --delta 1e-3")
        if self.weights is not None and not 0 <= self.weights <= MOST_POWER:
            raise InputError(
                f"weights are (C/Cmax)^{self.weights:g}, but the power must lie between 0 and {MOST_POWER:g}",
                hint="use --weights none or --weights 0.5",
            )
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level:g}, but must lie between 0 and 1", hint="use --level 0.9")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, but must not be negative", hint="use --seed 0")
        for budget in self.budgets:
            if not 0 < budget < MOST:
                raise InputError(
                    f"no law has an optimum at {budget:g} FLOPs", hint="use a budget such as --budget 1e24"
                )
        if self.draws:
            _check_draws(self.draws, self.level)

    def check_resampling(self, observations: Observations) -> None:
        """Raises InputError where whole budgets or trunks are to be drawn, and the runs name none."""
        for method, missing, column in (
            ("budgets", not np.isfinite(observations.budgets).any(), "budget"),
            ("runs", not observations.shares_trunks, "family"),
        ):
            if self.resampling == method and missing:
                raise InputError(
                    f"the runs name no {column}, so that resampling {method} would draw single rows",
                    hint=f"add a column {column!r}, or use --resampling rows or model",
                )

    @property
    def named_form(self) -> FormName | None:
        """The form that the user wants; None where it is to be chosen."""
        return next((name for name in FORMS if name == self.form), None)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What these settings leave to choose from."""
        named, by_noise = self.named_form, self.weights is None
        forms = AUTO_FORMS if named is None else (named,)
        deltas, powers = (DELTAS, POWERS) if named is None else ((DEFAULT_DELTA,), (0.0,))
        deltas = deltas if self.delta is None else (self.delta,)
        powers = powers if self.weights is None else (self.weights,)
        return tuple(
            Candidate(form=form, delta=delta, power=power, by_noise=by_noise)
            for form, delta, power in product(forms, deltas, powers)
        )

    def default_for(self, observations: Observations) -> Candidate:
        """What is fitted where nothing can be compared.

        Chinchilla's form with no weights; delta 1e-2 where runs share trunks, whose noise is near normal:
        1e-3 threw away a sixth of the precision on synthetic sweeps of that design.
        """
        delta = TRUNK_DELTA if observations.shares_trunks else DEFAULT_DELTA
        wanted = [one for one in self.candidates if one.power == (self.weights or 0.0)]
        return min(wanted, key=lambda one: (one.form != "chinchilla", abs(one.delta - delta)))


def _check_draws(draws: int, level: float) -> None:
    """Raises InputError for draws too few for an interval of this level, or more than memory may hold."""
    least = least_draws(level)
    if least > MOST_DRAWS:
        raise InputError(
            f"an interval of level {level:.12g} takes more than {MOST_DRAWS:,} draws, the most there are",
            hint="use a lower --level, such as 99%",
        )
    if draws > MOST_DRAWS:
        raise InputError(
            f"{draws:,} draws are too many: {MOST_DRAWS:,} are the most", hint="use --draws 1000"
        )
    if draws < least:
        of = f" of {format_level(level)}" if draws >= LEAST_DRAWS else ""
        raise InputError(
            f"{draws} draws make no interval{of}",
            hint=f"use --draws {max(least, DEFAULT_DRAWS)}, or --draws 0 for none",
        )


def _check_kinds(settings: Settings) -> None:
    """Raises InputError for a word that is no number where one is wanted: Python hands on anything."""
    for kind, what, names in (
        (Integral, "a whole number", ("draws", "seed")),
        (Real, "a number", ("delta", "weights", "level")),
    ):
        for name in names:
            value = getattr(settings, name)
            if not isinstance(value, kind) and not (value is None and name in MAY_BE_NONE):
                raise InputError(
                    f"{name} is {shown(value)}, but must be {what}", hint=f"write {name}={EXAMPLES[name]}"
                )
    for name in ("backtest", "protocol", "profile"):
        if not isinstance(getattr(settings, name), bool | np.bool_):
            raise InputError(
                f"{name} is {shown(getattr(settings, name))}, but must be a yes or no",
                hint=f"write {name}=True",
            )
    budgets = settings.budgets
    if not isinstance(budgets, Sequence | np.ndarray) or not all(isinstance(one, Real) for one in budgets):
        raise InputError(
            f"budgets are {shown(budgets)}, but must be FLOPs", hint="write budgets=(1e21, 1e22)"
        )


def settings_of(settings: Settings | None, words: Mapping[str, Any]) -> Settings:
    """Settings with further words; InputError names a word that is none, with the nearest."""
    if not isinstance(settings, Settings | None):
        raise InputError(f"settings are {shown(settings)}", hint="give llama_scale.fitting.Settings(...)")
    known = [f.name for f in fields(Settings)]
    for word in words:
        if word not in known:
            close = nearest(word, known)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(known)}"
            raise InputError(f"fit has no option {word!r}", hint=hint)
    return replace(settings or Settings(), **words)
