"""Scaling laws: loss as a function of parameters N and tokens D, and the Fit that carries one between stages.

A law's constants may be numbers, or arrays of one shape: then it is a batch of draws, and every
method broadcasts over them. Nothing here needs more than numpy, so a plan starts quickly.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError
from llama_scale.files import write_atomically

T = TypeVar("T", bound=str)
Numbers = float | NDArray[np.float64]
FlopsAccounting = Literal["6nd", "exact"]
ACCOUNTINGS: tuple[FlopsAccounting, ...] = get_args(FlopsAccounting)

DEFAULT_LAW = "besiroglu-2024"
DEFAULT_LEVEL = 0.9
DATA = Path(__file__).parent / "data"
NOISE_STRATA = 33  # quantiles of the normal that stand for the noise of a new run, at each draw
DRAW_DIGITS = 10  # significant digits of a draw in a file: losses keep 9


class Allocation(NamedTuple):
    """How a training budget is split: N parameters, D tokens."""

    parameters: Numbers
    tokens: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ChinchillaLaw:
    """L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, eq. 2), in nats per token."""

    form: ClassVar[str] = "chinchilla"

    E: Numbers
    A: Numbers
    B: Numbers
    alpha: Numbers
    beta: Numbers

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Predicted loss of N parameters trained on D tokens."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def tokens_for_loss(self, loss: ArrayLike, parameters: ArrayLike) -> Numbers:
        """Tokens that bring N parameters to `loss`; nan where no number of tokens does."""
        room = np.asarray(loss, float) - self.E - self.A * np.asarray(parameters, float) ** -self.alpha
        return (np.where(room > 0, room, np.nan) / self.B) ** (-1 / self.beta)

    def parameters_for_loss(self, loss: ArrayLike, tokens: ArrayLike) -> Numbers:
        """Parameters that reach `loss` on D tokens; nan where no number of parameters does."""
        room = np.asarray(loss, float) - self.E - self.B * np.asarray(tokens, float) ** -self.beta
        return (np.where(room > 0, room, np.nan) / self.A) ** (-1 / self.alpha)

    def compute_optimum(self, train_flops: ArrayLike) -> Allocation:
        """The split of C = 6ND that minimises the loss (Hoffmann et al. 2022, eq. 4)."""
        nd = np.asarray(train_flops, float) / 6
        balance = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = balance * nd**self.exponent_a
        return Allocation(parameters, nd / parameters)

    @property
    def exponent_a(self) -> Numbers:
        """The exponent a in N_opt = G (C/6)^a; tokens grow as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def constants(self) -> dict[str, Numbers]:
        """The constants by name, in the order in which they are printed."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def at(self, index: int | slice | NDArray[np.intp]) -> Self:
        """The draw, or batch of draws, at `index`."""
        return type(self)(**{name: np.asarray(value)[index] for name, value in self.constants.items()})


class Range(NamedTuple):
    """The smallest and largest value that was observed."""

    low: float
    high: float

    def beyond(self, value: float) -> float:
        """1 inside the range, value / high above it, value / low (less than 1) below it."""
        if value > self.high:
            return value / self.high
        return value / self.low if value < self.low else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Where the runs behind a law lie, parameters in its convention; None where the source doesn't say."""

    train_flops: Range | None = None
    parameters: Range | None = None
    tokens: Range | None = None
    tokens_per_parameter: Range | None = None

    def extrapolation(self, *, parameters: float, tokens: float, train_flops: float) -> dict[str, float]:
        """How far a run lies beyond each known range, by name, as `Range.beyond` counts it."""
        values = {
            "train_flops": train_flops,
            "parameters": parameters,
            "tokens": tokens,
            "tokens_per_parameter": tokens / parameters,
        }
        ranges = {name: getattr(self, name) for name in values}
        return {name: ranges[name].beyond(value) for name, value in values.items() if ranges[name]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The loss of a run that has not been trained, and where one such run should land with chance `level`.

    `low` and `high` are None for a law without draws: an interval is never invented.
    """

    loss: Numbers
    low: Numbers | None
    high: Numbers | None
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The compute-optimal split of a budget; intervals are those of the law's draws, None without them."""

    parameters: float
    tokens: float
    loss: float
    parameters_interval: Range | None
    tokens_interval: Range | None
    loss_interval: Range | None
    level: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """A law, how sure we are of it, and what it was fitted on: what the fitting stage hands to the planner.

    `draws` is a batch of laws, each as plausible as its frequency, or None with the reason in
    `draws_note`. `noise` is the relative standard deviation of one new run about the true law, and
    `noise_draws` the same for each draw. `interval_factor` widens predictive intervals where
    backtests showed them too narrow. `evidence` is the rest of `fit --json`: objective,
    standard_errors, intervals, diagnostics, selection, backtest, provenance.
    """

    name: str
    law: ChinchillaLaw
    convention: ParameterConvention
    source: str
    flops_accounting: FlopsAccounting = "6nd"
    support: Support = Support()
    draws: ChinchillaLaw | None = None
    draws_note: str = ""
    noise: float = 0.0
    noise_draws: NDArray[np.float64] | None = None
    interval_factor: float = 1.0
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def predict(
        self, parameters: ArrayLike, tokens: ArrayLike, *, level: float = DEFAULT_LEVEL
    ) -> Prediction:
        """Loss of a new run of N parameters on D tokens; its interval holds law draws and a run's own noise.

        Arguments broadcast; N is counted by `convention`.
        """
        loss = self.law.loss(parameters, tokens)
        if self.draws is None:
            return Prediction(loss=loss, low=None, high=None, level=level)
        n, d = np.broadcast_arrays(np.asarray(parameters, float), np.asarray(tokens, float))
        centres = np.log(self.draws.loss(n[..., None], d[..., None]))
        noise = np.broadcast_to(self.noise if self.noise_draws is None else self.noise_draws, centres.shape)
        outcomes = (centres[..., None] + noise[..., None] * _normal_strata()).reshape(*n.shape, -1)
        tails = _tails(outcomes, level)
        low, high = loss * np.exp(self.interval_factor * (tails - np.log(loss)))
        return Prediction(loss=loss, low=low, high=high, level=level)

    def optimum(self, train_flops: float, *, level: float = DEFAULT_LEVEL) -> Optimum:
        """The split of C = 6ND that minimises the loss, and how sure the law is of it."""
        parameters, tokens = self.law.compute_optimum(train_flops)
        ranges: list[Range | None] = [None, None, None]
        if self.draws is not None:
            split = self.draws.compute_optimum(train_flops)
            values = (split.parameters, split.tokens, self.draws.loss(*split))
            ranges = [central_range(value, level) for value in values]
        return Optimum(
            parameters=float(parameters),
            tokens=float(tokens),
            loss=float(self.law.loss(parameters, tokens)),
            parameters_interval=ranges[0],
            tokens_interval=ranges[1],
            loss_interval=ranges[2],
            level=level,
        )


def central_range(values: ArrayLike, level: float = DEFAULT_LEVEL) -> Range:
    """The middle `level` of a sample, equal tails cut."""
    low, high = _tails(np.ravel(np.asarray(values, float)), level)
    return Range(float(low), float(high))


def _tails(values: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """The two quantiles that cut equal tails off the last axis, interpolated linearly.

    As np.quantile does, whose first call imports numpy.ma: 50 ms that a cold plan has no use for.
    """
    ordered = np.sort(values, axis=-1)
    places = np.array([(1 - level) / 2, (1 + level) / 2]) * (values.shape[-1] - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, values.shape[-1] - 1)
    tails = ordered[..., below] + (places - below) * (ordered[..., above] - ordered[..., below])
    return np.moveaxis(tails, -1, 0)


@cache
def _normal_strata() -> NDArray[np.float64]:
    from statistics import NormalDist

    steps = (np.arange(NOISE_STRATA) + 0.5) / NOISE_STRATA
    return np.array([NormalDist().inv_cdf(float(step)) for step in steps])


# --- files -----------------------------------------------------------------------------------------


def fit_to_json(fit: Fit, *, draws: bool = True) -> dict[str, Any]:
    """The JSON object of a fit: what `fit --json` prints, and with `draws` what a fit file holds."""
    result: dict[str, Any] = {
        "schema": 1,
        "name": fit.name,
        "form": fit.law.form,
        "parameters": {name: float(value) for name, value in fit.law.constants.items()},
        "parameter_convention": fit.convention,
        "flops_accounting": fit.flops_accounting,
        "exponent_a": float(fit.law.exponent_a),
        **fit.evidence,
        "noise": fit.noise,
        "interval_factor": fit.interval_factor,
        "support": {name: list(value) if value else None for name, value in asdict(fit.support).items()},
        "source": fit.source,
        "draws_note": fit.draws_note,
    }
    if draws and fit.draws is not None:
        columns = {**fit.draws.constants, **({} if fit.noise_draws is None else {"noise": fit.noise_draws})}
        result["draws"] = {
            name: [float(f"{value:.{DRAW_DIGITS}g}") for value in np.ravel(column)]
            for name, column in columns.items()
        }
    return result


def write_fit(path: Path | str, fit: Fit, *, overwrite: bool = False) -> Path:
    """Write a fit file whole or not at all; an existing file is kept unless `overwrite`.

    Raises InputError where the file exists, StoreError where it cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already", hint="pass --force to replace it, or another --output")
    text = json.dumps(fit_to_json(fit), allow_nan=False, indent=None) + "\n"
    write_atomically(target, text)
    return target


def read_fit(path: Path | str) -> Fit:
    """Read a fit file; one InputError says what is wrong with a file that is torn or no fit at all."""
    source = Path(path)
    hint = f"write it again with `llama-scale fit SOURCE --output {source} --force`"
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        return _fit_from_json(content, default_name=source.stem)
    except OSError as error:
        problem = (error.strerror or "cannot be read").lower()
        hint = f"check the path, or name a published law: {', '.join(published_names())}"
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        problem = f"not JSON, or cut short ({error})"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        problem = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
    raise InputError(f"{source} is not a fit that can be read: {problem}", hint=hint)


def _fit_from_json(content: Any, *, default_name: str) -> Fit:
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    if content.get("schema") != 1:
        raise ValueError(f"schema is {content.get('schema')!r}, but 1 is the one known here")
    if content.get("form") != ChinchillaLaw.form:
        raise ValueError(f"form is {content.get('form')!r}, but only {ChinchillaLaw.form!r} is known here")
    known = {f.name for f in fields(Fit)}
    known |= {"schema", "form", "parameters", "parameter_convention", "exponent_a"}
    draws, noise_draws = _draws_from_json(content.get("draws"))
    noise, factor = float(content.get("noise", 0.0)), float(content.get("interval_factor", 1.0))
    if not (0 <= noise < math.inf and 0 < factor < math.inf):
        raise ValueError("noise and interval_factor must be finite and positive")
    return Fit(
        name=str(content.get("name", default_name)),
        law=_checked_law(content["parameters"]),
        convention=_one_of("parameter_convention", content["parameter_convention"], CONVENTIONS),
        flops_accounting=_one_of("flops_accounting", content.get("flops_accounting", "6nd"), ACCOUNTINGS),
        source=str(content.get("source", "")),
        support=_support(content.get("support") or {}),
        draws=draws,
        draws_note=str(content.get("draws_note", "")),
        noise=noise,
        noise_draws=noise_draws,
        interval_factor=factor,
        evidence={key: value for key, value in content.items() if key not in known},
    )


def _draws_from_json(columns: Any) -> tuple[ChinchillaLaw | None, NDArray[np.float64] | None]:
    if columns is None:
        return None, None
    if not columns:
        raise ValueError("draws are empty")
    arrays = {name: np.asarray(columns[name], float) for name in columns}
    if {array.shape for array in arrays.values()} != {(len(next(iter(columns.values()))),)}:
        raise ValueError("draws must be lists of one length")
    noise = arrays.pop("noise", None)
    if noise is not None and not (np.isfinite(noise) & (noise >= 0)).all():
        raise ValueError("the noise of a draw must be finite and not negative")
    return _checked_law(arrays), noise


def _checked_law(constants: Mapping[str, Any]) -> ChinchillaLaw:
    """A law from named constants; ValueError names those that are missing, unknown, or impossible."""
    names = [f.name for f in fields(ChinchillaLaw)]
    missing, unknown = set(names) - set(constants), set(constants) - set(names)
    if missing or unknown:
        parts = [f"without {', '.join(sorted(missing))}"] if missing else []
        parts += [f"with unknown {', '.join(sorted(unknown))}"] if unknown else []
        raise ValueError(f"a law needs {', '.join(names)}, found one {' and '.join(parts)}")
    for name in names:
        value = np.asarray(constants[name], float)
        floor_ok = (value >= 0) if name in "EAB" else (value > 0)
        if not (np.isfinite(value) & floor_ok).all():
            raise ValueError(f"{name} must be finite and {'not negative' if name in 'EAB' else 'positive'}")
    values = {name: np.asarray(constants[name], float) for name in names}
    return ChinchillaLaw(**{name: float(v) if v.ndim == 0 else v for name, v in values.items()})


def _one_of(name: str, value: object, options: tuple[T, ...]) -> T:
    if value not in options:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(options)}")
    return cast(T, value)


def _support(ranges: Mapping[str, Any]) -> Support:
    names = [f.name for f in fields(Support)]
    values = {name: ranges[name] for name in names if ranges.get(name) is not None}
    return Support(**{name: Range(float(low), float(high)) for name, (low, high) in values.items()})


# --- names on the command line ---------------------------------------------------------------------


@cache
def _library() -> dict[str, dict[str, Any]]:
    with open(DATA / "laws.toml", "rb") as file:
        return tomllib.load(file)


def published_names() -> tuple[str, ...]:
    """Names of the published laws, the default one first."""
    return tuple(sorted(_library(), key=lambda name: (name != DEFAULT_LAW, name)))


@cache
def published(name: str = DEFAULT_LAW) -> Fit:
    """A published law by name, with our draws of it where the runs behind it are public."""
    if name not in _library():
        raise _unknown_law(name)
    entry = _library()[name]
    draws = _draws_from_csv(DATA / "draws" / entry["draws"]) if "draws" in entry else None
    return Fit(
        name=name,
        law=_checked_law(entry["parameters"]),
        convention=entry["convention"],
        flops_accounting=entry.get("flops_accounting", "6nd"),
        source=entry["source"],
        support=_support(entry.get("support", {})),
        draws=draws,
        draws_note=entry["draws_note"],
        noise=entry.get("noise", 0.0),
        interval_factor=entry.get("interval_factor", 1.0),
        evidence={"provenance": {"published": entry["source"], "note": entry["note"]}},
    )


def _draws_from_csv(path: Path) -> ChinchillaLaw:
    """Draws shipped with the package: `#` comments, one header line, one draw a line."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    columns = np.array(",".join(lines[1:]).split(","), float).reshape(len(lines) - 1, -1).T
    return _checked_law(dict(zip(lines[0].split(","), columns, strict=True)))


def parse_law_line(text: str) -> Fit:
    """A law from its constants: `E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283`.

    `convention=matmul` may be among them; N counts total parameters otherwise.
    """
    try:
        pairs = dict(part.split("=", 1) for part in text.replace(" ", "").split(",") if part)
        convention: ParameterConvention = _one_of("convention", pairs.pop("convention", "total"), CONVENTIONS)
        law = _checked_law({name: float(value) for name, value in pairs.items()})
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


def resolve_law(text: str) -> Fit:
    """The law that a user names: a published one, a fit's file, or constants on the line.

    Raises InputError naming the nearest published laws.
    """
    if text in _library():
        return published(text)
    path = Path(text).expanduser()
    if path.is_file():
        return read_fit(path)
    if "=" in text:
        return parse_law_line(text)
    if path.suffix == ".json" or len(path.parts) > 1:
        return read_fit(path)
    raise _unknown_law(text)


def _unknown_law(text: str) -> InputError:
    from difflib import get_close_matches

    near = get_close_matches(text.lower(), published_names(), n=3, cutoff=0.4) or published_names()
    return InputError(
        f"{text!r} is no published law, and no file of that name exists",
        hint=f"use {' or '.join(near)}, the path of a fit's JSON, or E=..,A=..,B=..,alpha=..,beta=..",
    )
