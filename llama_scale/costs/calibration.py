"""Fits the roofline's constants to measured serving rates, and measures how well they predict other rows.

The seconds that a request takes are a sum of six terms, each a known amount (of FLOPs, bytes, layers) times
1 / share or seconds. Robust least squares (pseudo-Huber) on the logarithm of the rate, by Levenberg-Marquardt
steps in coordinates without bounds: log-odds of shares, logarithms of seconds. A guess with a spread steadies
each constant: what physics allows for the shipped constants, the shipped constants for a user's own rows;
so a constant that the rows say nothing about stays where it was.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs.constants import CONSTANTS, Accuracy, Calibration, shipped_calibration
from llama_scale.costs.measurements import Measurements
from llama_scale.costs.rate_tables import read_measurements
from llama_scale.costs.roofline import Array, batch_in_memory, phases, seconds_per_answer
from llama_scale.errors import UnidentifiedError
from llama_scale.laws.spread import median
from llama_scale.quantities import counted

LEAST_ROWS = 6  # as many as there are constants
TENSOR_DEGREES = (1.0, 2.0, 4.0, 8.0)  # tried where a row does not say; the fastest counts
LONGEST_STEP = 2.0  # in log-odds or logarithms
NOISE = 0.15  # of the logarithm of a rate, at first; then what the rows themselves scatter
LEAST_NOISE = 1e-4
WORST_FIT, WORST_UNSEEN = 0.5, 1.0  # median errors, on the rows and held out, beyond which none are believed
FARTHEST_RATES = 30.0  # times above or below ours: slower than any engine, by a wrong unit
ENGINE_SPREAD = 1.5  # from one serving engine to another, in log-odds or logarithms
MOST_STEPS = 60
ROUNDS = 4
WITHIN = 1.3


class Guess(NamedTuple):
    """Where constants are expected: values, and standard deviations in the coordinates of the fit."""

    values: Array
    spreads: Array


PHYSICS = Guess(
    np.array([constant.guess for constant in CONSTANTS.values()]),
    np.array([constant.spread for constant in CONSTANTS.values()]),
)
_SHARES = np.array([constant.is_share for constant in CONSTANTS.values()])


def calibrate_from_csv(path: Path | str) -> Calibration:
    """Our calibration, moved to a user's own measurements.

    Raises InputError naming bad lines, UnidentifiedError where fewer than LEAST_ROWS rows are left that
    differ in more than their rate, where no constants that physics allows come near them, or where they say
    too little of rows that are held out.
    """
    table = read_measurements(Path(path))
    rows = len(table.measurements)
    if table.setups < LEAST_ROWS:
        left = f" ({len(table.left_out)} left out: {table.left_out[0]})" if table.left_out else ""
        alike = "" if rows == table.setups else f", of which only {table.setups} differ in what was measured"
        raise UnidentifiedError(
            f"{Path(path).name} holds {counted(rows, 'usable row')}{left}{alike},"
            f" but six constants need {LEAST_ROWS}",
            hint="measure more batch sizes, lengths and models, or leave --serving-benchmarks out",
        )
    found = calibrate(table.measurements, guess_from(shipped_calibration()))
    _refuse_unbelievable(found, table.measurements, Path(path).name)
    return replace(found, left_out=table.left_out, source=f"measurements of {Path(path).name}")


def _refuse_unbelievable(found: Calibration, measurements: Measurements, name: str) -> None:
    """Raises UnidentifiedError for rates that are far from ours, from any, or from each other."""
    ours = shipped_calibration()
    if _typical_factor(ours, measurements) > FARTHEST_RATES:
        raise _bad_rates(ours, measurements, name)
    if found.accuracy[0].median_error > WORST_FIT:
        raise _bad_rates(found, measurements, name)
    worst = max(found.accuracy, key=lambda figure: figure.median_error)
    if worst.median_error > WORST_UNSEEN:
        raise UnidentifiedError(
            f"the rates of {name} do not say what others would be: a median of "
            f"{worst.median_error + 1:.3g} times off with {worst.held_out} held out",
            hint="measure more models, lengths and batches on one engine, or leave --serving-benchmarks out",
        )


def _typical_factor(calibration: Calibration, measurements: Measurements) -> float:
    """The median of how many times rates are above or below what is predicted."""
    return float(
        np.exp(median(np.abs(np.log(predicted_rates(calibration, measurements) / measurements.rate))))
    )


def _bad_rates(expected: Calibration, measurements: Measurements, name: str) -> UnidentifiedError:
    """The error for rows that these constants come nowhere near, naming the worst."""
    predicted = predicted_rates(expected, measurements)
    worst = int(np.argmax(np.abs(np.log(predicted / measurements.rate))))
    return UnidentifiedError(
        f"the rates of {name} are a median of {_typical_factor(expected, measurements):.3g} times off what "
        f"the accelerators would do: {measurements.names[worst]} gives {measurements.rate[worst]:.4g} "
        f"tokens/s, where about {predicted[worst]:.4g} are expected",
        hint="rates are output tokens a second of all n_accel together; check lengths, batch and weight_bits",
    )


def calibrate(measurements: Measurements, guess: Guess = PHYSICS) -> Calibration:
    """The constants of these rows, their spread, and how far off they are on rows that they did not see."""
    constants = fit(measurements, guess)
    found = calibration_of(constants)
    errors = np.log(predicted_rates(found, measurements) / measurements.rate)
    return replace(
        found,
        spread=dict(zip(CONSTANTS, _spread(measurements, guess, constants).tolist(), strict=True)),
        accuracy=(accuracy(errors, "nothing"), *_held_out(measurements, guess)),
        rows=len(measurements),
    )


def calibration_of(constants: Array) -> Calibration:
    """Constants in the order of CONSTANTS, by name."""
    named: dict[str, Any] = dict(zip(CONSTANTS, map(float, constants), strict=True))
    return Calibration(**named)


def guess_from(calibration: Calibration) -> Guess:
    """A calibration as a guess for rows of another engine, which may be far slower."""
    return Guess(np.array(list(calibration.constants.values())), np.maximum(PHYSICS.spreads, ENGINE_SPREAD))


def predicted_rates(calibration: Calibration, measurements: Measurements) -> Array:
    """Output tokens a second of all the accelerators of each row."""
    return _rates(_terms(measurements), np.array(list(calibration.constants.values())))


def accuracy(errors: Array, held_out: str) -> Accuracy:
    """The figures of errors, given as log(predicted / measured)."""
    sizes = np.abs(errors)
    within = float((sizes <= np.log(WITHIN)).mean())
    return Accuracy(held_out, len(sizes), float(np.expm1(median(sizes))), within)


def held_out_errors(measurements: Measurements, groups: NDArray[np.str_], guess: Guess = PHYSICS) -> Array:
    """log(predicted / measured) of each row by the constants of all other groups."""
    errors = np.empty(len(measurements))
    for group in sorted(set(groups.tolist())):
        test = groups == group
        unseen = measurements.only(test)
        constants = calibration_of(fit(measurements.only(~test), guess))
        errors[test] = np.log(predicted_rates(constants, unseen) / unseen.rate)
    return errors


def fit(measurements: Measurements, guess: Guess = PHYSICS) -> Array:
    """The constants, in the order of CONSTANTS; the scatter of the rows is estimated along with them."""
    terms, measured = _terms(measurements), np.log(measurements.rate)
    constants, noise = guess.values, NOISE
    for _ in range(ROUNDS):
        constants = _minimum(_Problem(terms, measured, guess, noise), constants)
        noise = max(LEAST_NOISE, 1.48 * median(np.abs(np.log(_rates(terms, constants)) - measured)))
    return constants


class _Problem(NamedTuple):
    """Terms (way of spreading a copy, row, constant) and the rest of a weighted least-squares problem."""

    terms: Array
    measured: Array
    guess: Guess
    noise: float

    def residuals(self, point: Array) -> tuple[Array, Array]:
        """Errors of the rows, then of the constants against their guess, over their spreads; and slopes."""
        constants = _bounded(point)
        by_term = self._fastest(constants)
        seconds = by_term.sum(axis=1)
        guessed = (point - _free(self.guess.values)) / self.guess.spreads
        # a share divides its term and a second multiplies it; d share / d log-odds = share (1 - share)
        signs = np.where(_SHARES, constants - 1, 1.0)
        rows = -(np.log(seconds) + self.measured) / self.noise
        slopes = -(by_term / seconds[:, None]) * signs / self.noise
        return np.concatenate([rows, guessed]), np.vstack([slopes, np.diag(1 / self.guess.spreads)])

    def loss(self, residuals: Array) -> float:
        """Pseudo-Huber of the rows, squares of the guesses."""
        rows = len(self.measured)
        robust = 2 * (np.sqrt(1 + residuals[:rows] ** 2) - 1)
        return float(robust.sum() + (residuals[rows:] ** 2).sum())

    def weights(self, residuals: Array) -> Array:
        """Of the squares that have the slope of the loss."""
        rows = len(self.measured)
        return np.concatenate([1 / np.sqrt(1 + residuals[:rows] ** 2), np.ones(len(residuals) - rows)])

    def _fastest(self, constants: Array) -> Array:
        """Seconds by term of the fastest way to spread each row's copies."""
        seconds = self.terms * _factors(constants)
        best = seconds.sum(axis=2).argmin(axis=0)
        return np.take_along_axis(seconds, best[None, :, None], axis=0)[0]


def _minimum(problem: _Problem, start: Array) -> Array:
    """Levenberg-Marquardt from `start`."""
    point, damping = _free(start), 1e-3
    residuals, slopes = problem.residuals(point)
    for _ in range(MOST_STEPS):
        weights = problem.weights(residuals)
        gradient, curvature = slopes.T @ (weights * residuals), (slopes.T * weights) @ slopes
        scale = np.diag(np.diag(curvature) + 1e-9)
        step = np.clip(np.linalg.solve(curvature + damping * scale, -gradient), -LONGEST_STEP, LONGEST_STEP)
        tried, tried_slopes = problem.residuals(point + step)
        if problem.loss(tried) <= problem.loss(residuals):
            point, residuals, slopes, damping = point + step, tried, tried_slopes, damping / 5
            if np.abs(step).max() < 1e-7:
                break
        elif damping > 1e10:
            break
        else:
            damping = max(damping, 1e-9) * 8
    return _bounded(point)


def _terms(measurements: Measurements) -> Array:
    """Seconds of all accelerators for each output token, by way to spread a copy, row and constant.

    Each is what the roofline says with that constant at 1 and the others silent. Where a row says how its
    copies are spread, every way is that one; where it does not, those that do not fit take for ever.
    """
    asked = measurements.engine.tensor
    ways = [
        np.where(np.isnan(asked), degree, asked)
        for degree in TENSOR_DEGREES[: None if np.isnan(asked).any() else 1]
    ]
    silent = np.where(_SHARES, np.inf, 0.0)
    alone = [calibration_of(np.where(one, 1.0, silent)) for one in np.eye(len(CONSTANTS), dtype=bool)]
    return np.stack([np.stack([_seconds(one, measurements, way) for one in alone], axis=-1) for way in ways])


def _seconds(calibration: Calibration, measurements: Measurements, tensor: Array) -> Array:
    """Seconds of all accelerators for each output token with copies of `tensor` x stages accelerators.

    Stages work side by side on parts of the batch, so that each is as fast as a copy of its own.
    """
    machine = measurements.engine._replace(tensor=tensor)
    stages = np.asarray(machine.stages)
    link = np.where(tensor == 1, np.inf, machine.link_bytes_per_second)
    machine = machine._replace(link_bytes_per_second=link)
    shape, traffic = measurements.shape, measurements.traffic
    room = batch_in_memory(machine, shape, traffic) / stages
    batch = np.minimum(room, measurements.largest_batch / stages)
    seconds = tensor * seconds_per_answer(phases(calibration, machine, shape, traffic), traffic, batch)
    possible = ~np.isnan(seconds) & (tensor * stages <= measurements.accelerators)
    return np.where(possible, seconds, np.inf) / (measurements.accelerators * traffic.output_tokens)


def _rates(terms: Array, constants: Array) -> Array:
    """Output tokens a second by the fastest way of each row."""
    return 1 / (terms * _factors(constants)).sum(axis=2).min(axis=0)


def _factors(constants: Array) -> Array:
    """What each term is multiplied by: 1 / share, or seconds."""
    return np.where(_SHARES, 1 / constants, constants)


def _held_out(measurements: Measurements, guess: Guess) -> tuple[Accuracy, ...]:
    """The error on rows of a model, of a chip, of an engine that the fit did not see; else on tenths."""
    labels = measurements.labels
    splits = {"a model": labels.model, "an accelerator": labels.accelerator, "an engine": labels.source}
    usable = {name: groups for name, groups in splits.items() if len(set(groups.tolist())) > 1}
    usable = usable or {"a tenth of the rows": _tenths(measurements)}
    return tuple(
        accuracy(held_out_errors(measurements, groups, guess), name) for name, groups in usable.items()
    )


def _spread(measurements: Measurements, guess: Guess, constants: Array) -> Array:
    """Relative standard errors: jackknife over groups of one model on one accelerator, or over tenths."""
    labels = measurements.labels
    groups = np.array([f"{m}|{a}" for m, a in zip(labels.model, labels.accelerator, strict=True)])
    if len(set(groups.tolist())) < len(CONSTANTS):
        groups = _tenths(measurements)
    names = sorted(set(groups.tolist()))
    logs = np.log([fit(measurements.only(groups != name), guess) / constants for name in names])
    return np.sqrt((len(names) - 1) * logs.var(axis=0))


def _tenths(measurements: Measurements) -> NDArray[np.str_]:
    return np.array([str(i % 10) for i in range(len(measurements))])


def _free(constants: Array) -> Array:
    """Coordinates without bounds: log-odds of shares, logarithms of seconds."""
    shares = np.clip(constants, 1e-6, 1 - 1e-6)
    return np.where(_SHARES, np.log(shares / (1 - shares)), np.log(constants))


def _bounded(point: Array) -> Array:
    """The inverse of `_free`."""
    inside = np.clip(point, -40, 40)
    return np.where(_SHARES, 1 / (1 + np.exp(-inside)), np.exp(inside))
