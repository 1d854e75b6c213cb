"""Which input moves the bill most: each at its low and its high, the question asked anew.

Everything that changes is a factor on the cost of training, on the cost of serving, or on the demand, or it
is another law: so that all of it is two searches over a batch, as quick as one plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from llama_scale.costs import CostUnit
from llama_scale.laws import Fit, Numbers, ScalingLaw, published, published_names
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.batches import Law, stacked
from llama_scale.planning.families import Array
from llama_scale.planning.optimum import Limits, Problem, best, lowest_cost
from llama_scale.planning.quantisation import QuantisedLaw
from llama_scale.planning.request import Request
from llama_scale.quantities import format_count, format_fraction, format_usd_per_hour

FORM = "form of the law"
DEMAND_FACTOR = 3.0  # how far a demand that nobody knows is tried, each way
GIVEN_PRICE_FACTOR = 1.25  # and a price that the asker gave
MFU_SPREAD = 0.30, 0.55  # whole runs of PaLM (30 %) and the best steady rates, where no spread is published
UTILISATION_SPREAD = 0.3, 1.0  # a fleet that follows a day's demand, and one that never idles


class Split(NamedTuple):
    """The plan's own N and D."""

    parameters: float
    tokens: float


class Change(NamedTuple):
    """An input at another value: factors on prices, on hours and on the demand, or another law."""

    label: str
    price_train: float = 1.0
    price_serve: float = 1.0
    hours_train: float = 1.0
    hours_serve: float = 1.0
    demand: float = 1.0
    law: ScalingLaw | None = None

    def factors(self, unit: CostUnit) -> tuple[float, float]:
        """On training and on serving, in `unit`."""
        if unit == "flops":
            return 1.0, self.demand
        train, serve = self.hours_train, self.hours_serve * self.demand
        return (train, serve) if unit == "gpu_hours" else (train * self.price_train, serve * self.price_serve)


class Case(NamedTuple):
    """The answer with one input changed; `usd` is the least that reaches the plan's own quality.

    `other_law` is whether it is that of a law other than the plan's.
    """

    label: str
    other_law: bool
    parameters: float
    tokens: float
    loss_nats: float
    usd: float


class Sensitivity(NamedTuple):
    """One input, its low and its high case, and the dollars between them (by which inputs are sorted)."""

    input: str
    low: Case
    high: Case
    source: str

    @property
    def moved_usd(self) -> float:
        """How far the bill moves between the two."""
        return abs(self.high.usd - self.low.usd)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the dollars moved among them."""
        return {
            "input": self.input,
            "low": self.low._asdict(),
            "high": self.high._asdict(),
            "moved_usd": self.moved_usd,
            "source": self.source,
        }


class Input(NamedTuple):
    """An input, its changes, and where its spread comes from."""

    name: str
    changes: tuple[Change, ...]
    source: str


def sensitivities(
    request: Request, problem: Problem, parameters: float, tokens: float
) -> tuple[Sensitivity, ...]:
    """Every input's low and high, most dollars moved first; none where dollars have no price.

    `parameters` and `tokens` are the plan's own, in the law's convention. Where no answer exists at a
    changed value (a budget that no longer serves the demand), its numbers are nan.
    """
    if "usd" not in request.economics.units:
        return ()
    asked = list(inputs(request, problem))
    changes = [change for entry in asked for change in entry.changes]
    together = [changes] if math.isinf(request.limits.train_flops) else [[change] for change in changes]
    ours = Split(parameters, tokens)
    cases = iter([case for part in together for case in _cases(request, problem, part, ours)])
    found = []
    for entry in asked:
        mine = sorted((next(cases) for _ in entry.changes), key=lambda case: _or_most(case.usd))
        found.append(Sensitivity(entry.name, mine[0], mine[-1], entry.source))
    return tuple(sorted(found, key=lambda one: -_or_most(one.moved_usd)))


def inputs(request: Request, problem: Problem) -> Iterator[Input]:
    """The inputs that a plan depends on, each with the values that it may well have."""
    economics, serves = request.economics, bool(np.any(problem.serve_tokens))
    yield from _prices(request, serves)
    mfu = economics.training.mfu
    low, high, source = _mfu_spread(request)
    changes = tuple(Change(format_fraction(value), hours_train=mfu / value) for value in (low, high))
    yield Input("training MFU", changes, source)
    if serves:
        used = economics.serving.utilisation
        ends = min(UTILISATION_SPREAD[0], used), max(UTILISATION_SPREAD[1], used)
        changes = tuple(Change(format_fraction(value), hours_serve=used / value) for value in ends)
        yield Input("utilisation", changes, "a fleet that follows the day's demand, and one always full")
        demand = float(np.asarray(problem.serve_tokens))
        changes = tuple(
            Change(format_count(demand * factor), demand=factor)
            for factor in (1 / DEMAND_FACTOR, DEMAND_FACTOR)
        )
        yield Input("demand", changes, f"{DEMAND_FACTOR:g} times less, and {DEMAND_FACTOR:g} times more")
        yield from _roofline(request)
    if forms := _other_forms(request.fit):
        yield Input(FORM, forms, "the law's runs, fitted under other forms too")
    if laws := _other_laws(request.fit):
        yield Input("law", laws, "the published laws that count parameters alike")


def _roofline(request: Request) -> Iterator[Input]:
    """What the serving model itself may err by, as it did on models that it was not fitted on."""
    deployment = request.economics.deployment
    if deployment is None or not deployment.calibration.accuracy:
        return
    error = max(accuracy.median_error for accuracy in deployment.calibration.accuracy)
    changes = (  # an error is a factor: as much too slow as too fast
        Change(f"-{format_fraction(error / (1 + error))}", hours_serve=1 / (1 + error)),
        Change(f"+{format_fraction(error)}", hours_serve=1 + error),
    )
    yield Input("serving model", changes, "the roofline's median error on rates that it was not fitted on")


def _prices(request: Request, serves: bool) -> Iterator[Input]:
    training, serving = request.economics.training.rental, request.economics.serving.rental
    one = training.accelerator is serving.accelerator and (
        training.price_usd_per_hour == serving.price_usd_per_hour
    )
    hired = [("price", training, True, serves)] if one or not serves else []
    if not hired:
        hired = [("training price", training, True, False), ("serving price", serving, False, True)]
    for name, rental, trains, does_serve in hired:
        price, quoted = rental.price_usd_per_hour or 1.0, rental.accelerator.price
        ends, source = (price / GIVEN_PRICE_FACTOR, price * GIVEN_PRICE_FACTOR), "a quarter each way"
        if rental.price_source != "given" and quoted and quoted.low and quoted.high:
            ends, source = (quoted.low, quoted.high), f"quotes of {quoted.date}: {quoted.source}"
        changes = tuple(
            Change(
                format_usd_per_hour(end),
                price_train=end / price if trains else 1.0,
                price_serve=end / price if does_serve else 1.0,
            )
            for end in ends
        )
        yield Input(name, changes, source)


def _mfu_spread(request: Request) -> tuple[float, float, str]:
    from llama_scale.costs.efficiency import mfu_spread

    training = request.economics.training
    published_spread = mfu_spread(training.rental.accelerator, training.rental.precision)
    if published_spread is None:
        (low, high), source = MFU_SPREAD, "PaLM's whole run, and the best steady rates published"
    else:
        low, high, source = published_spread
    return min(low, training.mfu), max(high, training.mfu), source


def _other_forms(fit: Fit) -> tuple[Change, ...]:
    found = fit.evidence.get("other_forms") or {}
    others = [Change(name, law=ScalingLaw(**constants)) for name, constants in found.items()]
    ours = fit.law.form
    label = f"{ours} (the law's own)" if ours in found else ours
    return (Change(label), *others) if others else ()


def _other_laws(fit: Fit) -> tuple[Change, ...]:
    fits = [published(name) for name in published_names() if name != fit.name]
    others = [Change(other.name, law=other.law) for other in fits if other.convention == fit.convention]
    return (Change(fit.name), *others) if others else ()


def _cases(request: Request, problem: Problem, changes: list[Change], ours: Split) -> list[Case]:
    """The question asked anew under every change, and the dollars that the plan's quality then costs."""
    law = _batch_of_laws(problem.law, changes)
    train, serve = _factors(changes, request.unit)
    objective = request.objective(law)
    objective = objective._replace(limits=_limits(objective.limits, changes))
    if objective.fixed == "budget":
        objective = objective._replace(value=objective.value / train)
    elif (
        request.match is None
    ):  # a loss is another quality under another law: there, that of the plan's model
        others = np.array([change.law is not None for change in changes])
        value = np.where(others, law.loss(ours.parameters, ours.tokens), objective.value)
        objective = objective._replace(value=value)
    answer = best(_scaled(problem, law, serve / train), objective)
    loss = law.loss(answer.sizes.parameters, answer.tokens)
    in_usd = problem if request.unit == "usd" else request.in_unit("usd").problem().on(problem.family)
    usd = _dollars(in_usd, objective.limits, changes, ours)
    columns = answer.sizes.parameters, answer.tokens, loss, usd
    rows = zip(*(np.broadcast_to(column, len(changes)) for column in columns), strict=True)
    return [
        Case(change.label, change.law is not None, *map(float, row))
        for change, row in zip(changes, rows, strict=True)
    ]


def _limits(limits: Limits, changes: list[Change]) -> Limits:
    """A deadline allows more FLOPs at a better MFU; with a deadline, changes come one by one."""
    if math.isinf(limits.train_flops):
        return limits
    return limits._replace(train_flops=limits.train_flops / changes[0].hours_train)


def _dollars(problem: Problem, limits: Limits, changes: list[Change], ours: Split) -> Numbers:
    """The least dollars that reach what the plan's model reaches, were each change so."""
    law = _batch_of_laws(problem.law, changes)
    train, serve = _factors(changes, "usd")
    asked = _scaled(problem, law, serve / train)
    loss = law.loss(ours.parameters, ours.tokens) * (1 + 1e-12)
    return train * asked.cost(*lowest_cost(asked, loss, limits))


def _factors(changes: list[Change], unit: CostUnit) -> tuple[Array, Array]:
    train, serve = zip(*(change.factors(unit) for change in changes), strict=True)
    return np.array(train), np.array(serve)


def _scaled(problem: Problem, law: Law, factor: Numbers) -> Problem:
    """The problem under another law, in which serving costs `factor` times as much against training."""
    return replace(problem, law=law, serve_tokens=problem.serve_tokens * factor)


def _batch_of_laws(law: Law, changes: list[Change]) -> Law:
    """The problem's law with a batch of constants: its own, but where a change names others."""
    return stacked([law if change.law is None else _with_constants(law, change.law) for change in changes])


def _with_constants(law: Law, constants: ScalingLaw) -> Law:
    """The same kind of law with other constants inside."""
    if isinstance(law, ScalingLaw):
        return constants
    if isinstance(law, RepeatedDataLaw):
        return replace(law, law=constants)
    inner = _with_constants(law.trained, constants)
    assert not isinstance(inner, QuantisedLaw), "weights are quantised once"
    return replace(law, trained=inner)


def _or_most(value: float) -> float:
    """A value to sort by: what is impossible counts as the most."""
    return float("inf") if np.isnan(value) else value
