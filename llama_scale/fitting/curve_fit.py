"""`fit --form multi-power`: a law of the loss curve for each model, how far to trust it, what it predicts.

A predicted final loss may stand for a run that was not trained to its end: `predicted_rows` gives such
points to Approach 3, each named as predicted. They are never mixed with measured ones unasked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.curve_sources import curves_of_store, curves_of_table, schedule_of
from llama_scale.fitting.curves import DEFAULT_DELTA, Curve, CurveError, CurveFit, error_of, fit_curves
from llama_scale.fitting.filters import parse_filters
from llama_scale.fitting.rows import Exclusion, Row, Rows
from llama_scale.fitting.settings import Settings
from llama_scale.frozen import frozen
from llama_scale.laws.curves import MultiPowerLaw
from llama_scale.version import code_version

MOST_LEFT_OUT = 12  # curves of one model: with more, leaving each out in turn is not worth its time


@frozen
class FutureSchedule:
    """A schedule to predict: its kind, its length in steps, and the share of the peak that it ends at."""

    kind: str
    steps: float
    final_fraction: float


@frozen
class FuturePrediction:
    """The loss at the end of a schedule that nobody ran, and how far beyond the longest curve it lies."""

    schedule: FutureSchedule
    loss_nats: float
    beyond: float


@frozen(eq=False)
class ModelCurves:
    """One model: its law, the law's errors on the curves fitted and on those only tested, and predictions.

    `left_out` are errors on each fitted curve of a law that never saw it; None where the others alone
    identify none.
    """

    model: str
    parameters: float | None
    fit: CurveFit
    fitted: tuple[CurveError, ...]
    tested: tuple[CurveError, ...]
    left_out: tuple[CurveError, ...] | None
    predictions: tuple[FuturePrediction, ...]
    curves: tuple[Curve, ...]


@frozen(eq=False)
class CurveLaws:
    """Laws of loss curves by model, in order of size, with what was left out."""

    models: tuple[ModelCurves, ...]
    sources: tuple[str, ...]
    delta: float
    exclusions: tuple[Exclusion, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `fit --form multi-power --json`."""
        return {
            "schema": 1,
            "form": "multi-power",
            "models": [_model_json(model) for model in self.models],
            "delta": self.delta,
            "exclusions": [asdict(exclusion) for exclusion in self.exclusions],
            "warnings": list(self.warnings),
            "provenance": {"sources": list(self.sources), "llama_scale": code_version()},
        }


def gather_curves(
    sources: str | Path | Sequence[str | Path], *, where: str | Sequence[str] | None = ()
) -> tuple[list[Curve], list[Exclusion]]:
    """All curves of some CSV files and run stores."""
    filters = parse_filters(where)
    curves: list[Curve] = []
    left: list[Exclusion] = []
    for source in (paths := _paths(sources)):
        if not source.exists():
            raise InputError(
                f"there is no run store or CSV at {str(source)!r}",
                hint="check the path, or make runs with `llama-scale sweep`",
            )
        if source.is_dir() and filters:
            raise InputError(
                f"--where filters rows of a CSV, but {source} is a run store",
                hint="leave --where out, or name the curves to fit with --fit-on",
            )
        found, out = curves_of_store(source) if source.is_dir() else curves_of_table(source, where=filters)
        curves += found
        left += out
    if not curves:
        raise UnidentifiedError(
            f"no loss curve in {', '.join(map(str, paths))}",
            hint="a CSV of curves has columns run, step, lr and loss, a row a logged step",
        )
    return curves, left


def _paths(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]


def fit_curve_laws(
    sources: str | Path | Sequence[str | Path],
    *,
    where: str | Sequence[str] | None = (),
    fit_on: str | Sequence[str] = (),
    delta: float | None = None,
    future: Sequence[FutureSchedule] = (),
) -> CurveLaws:
    """A multi-power law for each model of the sources.

    `fit_on` names the curves to fit, by run or by the end of its name: the others are only tested.
    Raises InputError for a delta that is none, UnidentifiedError where no model has the curves that it takes.
    """
    curves, left = gather_curves(sources, where=where)
    wanted = Settings(delta=delta).delta or DEFAULT_DELTA
    by_model: dict[str, list[Curve]] = {}
    for curve in curves:
        by_model.setdefault(curve.model, []).append(curve)
    fit_on = [fit_on] if isinstance(fit_on, str) else fit_on
    _check_names(fit_on, curves)
    models, failures = [], []
    for name, group in by_model.items():
        try:
            models.append(_fit_model(name, group, fit_on, wanted, future))
        except UnidentifiedError as error:
            failures.append(error)
            left += [Exclusion(run=curve.name, reason=error.message) for curve in group]
    if not models:
        raise failures[0]
    models.sort(key=lambda model: (model.parameters or 0.0, model.model))
    warnings = [text for model in models for text in _warnings(model)]
    return CurveLaws(
        models=tuple(models),
        sources=tuple(map(str, _paths(sources))),
        delta=wanted,
        exclusions=tuple(left),
        warnings=tuple(warnings),
    )


def _is_named(curve: Curve, names: Sequence[str]) -> bool:
    return not names or any(curve.name == name or curve.name.endswith(f"_{name}") for name in names)


def _check_names(names: Sequence[str], curves: Sequence[Curve]) -> None:
    for name in names:
        if not any(_is_named(curve, [name]) for curve in curves):
            from difflib import get_close_matches

            known = sorted({curve.name for curve in curves})
            near = get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
            raise InputError(f"there is no curve {name!r} to fit on", hint=f"use {' or '.join(near)}")


def _fit_model(
    name: str,
    curves: Sequence[Curve],
    fit_on: Sequence[str],
    delta: float,
    future: Sequence[FutureSchedule],
) -> ModelCurves:
    train = [curve for curve in curves if _is_named(curve, fit_on)]
    if not train:
        raise UnidentifiedError(f"none of the curves of {name} is among those to fit", hint="check --fit-on")
    found = fit_curves(train, delta=delta)
    return ModelCurves(
        model=name,
        parameters=curves[0].parameters,
        fit=found,
        fitted=tuple(error_of(found.law, curve) for curve in train),
        tested=tuple(error_of(found.law, curve) for curve in curves if not _is_named(curve, fit_on)),
        left_out=_left_out(train, found.law, delta),
        predictions=tuple(predict_future(found.law, train, schedule) for schedule in future),
        curves=tuple(train),
    )


def _left_out(train: Sequence[Curve], law: MultiPowerLaw, delta: float) -> tuple[CurveError, ...] | None:
    """Errors on each curve of a law of the others, which descends from the law of all."""
    if not 2 < len(train) <= MOST_LEFT_OUT:
        return None
    errors = []
    for index, curve in enumerate(train):
        others = [*train[:index], *train[index + 1 :]]
        try:
            errors.append(error_of(fit_curves(others, delta=delta, start=law).law, curve))
        except UnidentifiedError:
            continue
    return tuple(errors) or None


def predict_future(law: MultiPowerLaw, curves: Sequence[Curve], schedule: FutureSchedule) -> FuturePrediction:
    """The loss where a schedule ends, of the peak rate and the warm-up that a model's curves had."""
    peak = max(curve.rates.peak for curve in curves)
    first = curves[0].rates
    rates = schedule_of(
        schedule.kind,
        schedule.steps,
        peak=peak,
        warmup_steps=float(first.steps[0]),
        final_fraction=schedule.final_fraction,
        warmup_sum=first.warmup_sum,
    )
    longest = max(float(curve.steps[-1]) for curve in curves)
    return FuturePrediction(
        schedule=schedule, loss_nats=law.final_loss(rates), beyond=schedule.steps / longest
    )


def predicted_rows(
    laws: CurveLaws, futures: Sequence[FutureSchedule], *, convention: ParameterConvention
) -> Rows:
    """Predicted final losses of each model at some schedules, as rows that a law can be fitted on.

    Only models whose size and tokens a step are known give any. Each is named as predicted, with the
    source; rows beyond the longest curve of a model by more than half are left out, and listed.
    """
    rows: list[Row] = []
    left: list[Exclusion] = []
    for model in laws.models:
        for schedule in futures:
            tokens = _tokens(model, schedule)
            name = f"{model.model} {schedule.kind}:{schedule.steps:g} (predicted)"
            if model.parameters is None or tokens is None:
                left.append(Exclusion(run=name, reason="its size or its tokens a step are not known"))
                continue
            found = predict_future(model.fit.law, model.curves, schedule)
            if found.beyond > 1.5:
                left.append(Exclusion(run=name, reason=f"{found.beyond:.2g} times its longest curve"))
                continue
            rows.append(
                Row(
                    name=name,
                    place=f"{name}, by the law of its loss curves",
                    parameters=model.parameters,
                    tokens=tokens,
                    loss=found.loss_nats,
                    family=model.model,
                )
            )
    source = f"predicted from curves of {', '.join(laws.sources)}"
    return Rows(
        source=source,
        rows=tuple(rows),
        convention=convention,
        exclusions=tuple(left),
        warnings=(f"{len(rows)} losses are predicted by multi-power laws of loss curves, not measured",),
    )


def _tokens(model: ModelCurves, schedule: FutureSchedule) -> float | None:
    """Tokens of a schedule; None where the curves don't say how many a step takes."""
    per_step = model.curves[0].tokens_per_step
    return None if per_step is None else schedule.steps * per_step


def _warnings(model: ModelCurves) -> list[str]:
    found = []
    if model.fit.at_bound:
        lie, them = ("lies", "it") if len(model.fit.at_bound) == 1 else ("lie", "them")
        names = " and ".join(model.fit.at_bound)
        found.append(
            f"{model.model}: {names} {lie} on a bound: these curves do not identify"
            f" {them}; more curves whose learning rate falls by different amounts would"
        )
    if model.fit.starts > 1 and model.fit.agreed == 1:
        found.append(f"{model.model}: the starts disagree, 1 of {model.fit.starts} reached the law shown")
    for guess in model.predictions:
        if guess.beyond > 3:
            found.append(
                f"{model.model}: {guess.schedule.kind}:{guess.schedule.steps:g} is {guess.beyond:.2g} times"
                " the longest curve fitted: curves that went 3 times as far were missed by up to .8 %"
            )
    return found


def _model_json(model: ModelCurves) -> dict[str, Any]:
    def errors(group: Sequence[CurveError] | None) -> dict[str, Any] | None:
        if not group:
            return None
        return {
            "mean": float(np.mean([error.mean for error in group])),
            "worst": float(np.mean([error.worst for error in group])),
            "worst_of_all": max(error.worst for error in group),
            "curves": [asdict(error) for error in group],
        }

    law: Mapping[str, float] = asdict(model.fit.law)
    return {
        "model": model.model,
        "size": model.parameters,
        "parameters": dict(law),
        "objective": model.fit.objective,
        "n_observations": model.fit.points,
        "starts": model.fit.starts,
        "starts_agreed": model.fit.agreed,
        "at_bound": list(model.fit.at_bound),
        "fitted": errors(model.fitted),
        "tested": errors(model.tested),
        "left_out": errors(model.left_out),
        "predictions": [
            {
                **asdict(guess.schedule),
                "parameters": model.parameters,
                "tokens": _tokens(model, guess.schedule),
                "loss_nats": guess.loss_nats,
                "beyond": guess.beyond,
                "predicted": True,
            }
            for guess in model.predictions
        ],
    }
