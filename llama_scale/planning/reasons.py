"""Why this plan: what the model is, what it costs and saves, how sure we are, what holds it back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llama_scale.laws import Range
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.batches import trained_of
from llama_scale.planning.described import Reason, described
from llama_scale.planning.quantisation import CAVEAT
from llama_scale.planning.sensitivity import FORM, Case
from llama_scale.planning.sentence import amount
from llama_scale.quantities import (
    Quantity,
    counted,
    format_count,
    format_fraction,
    format_level,
    format_number,
    format_split,
)

if TYPE_CHECKING:
    from llama_scale.planning.offer import Offer
    from llama_scale.planning.values import BestOnAverage, Intervals, Limit, Plan, PlannedModel

NOTHING = 1e-3  # a share of the cost that is rounding to a shape
MOST_MOVING = 3  # inputs of the sensitivity table that the answer names


def reasons(plan: Plan) -> list[Reason]:
    """The reasons, in the order in which a reader asks for them."""
    return [
        *described(plan),
        *_about_the_choice(plan),
        *_about_limits(plan),
        *_about_certainty(plan),
    ]


def _about_the_choice(plan: Plan) -> Iterator[Reason]:
    demand = plan.request.economics.demand
    if demand.serve_tokens:
        yield _saving(plan)
    yield Reason("flat", _flat(plan))
    if plan.offer is not None:
        yield Reason("buy?", _buying(plan, plan.offer))
    if plan.generations:
        yield Reason("retrains", _retraining(plan))
    if plan.epochs is not None:
        yield Reason("epochs", _epochs(plan, plan.epochs))
    if plan.request.penalty is not None:
        yield Reason("quantised", _quantised(plan))
    if plan.score is not None and plan.request.fit.downstream is not None:
        yield Reason("score", _score(plan))


def _flat(plan: Plan) -> str:
    """Which other sizes reach the same loss at little more cost."""
    widest = plan.flatness[-1]
    if widest.high < widest.low * 1.01:
        return "no other size reaches this loss within the limits"
    ranges = [
        f"{format_count(near.low)} to {format_count(near.high)} for +{format_fraction(near.excess)}"
        for near in plan.flatness
    ]
    if widest.low <= 1.01 * plan.optimum.parameters and plan.optimum.parameters <= 1.01 * widest.high:
        return f"same loss: {', '.join(ranges)} cost"
    return f"other sizes reach the same loss for less: {', '.join(ranges)} over the least cost"


def _saving(plan: Plan) -> Reason:
    model, rival = plan.recommended, plan.compute_optimal
    if rival.parameters != rival.parameters:
        return Reason("saves", "no compute-optimal model of the same loss is known")
    if plan.saving.share != plan.saving.share:
        return Reason("saves", "the compute-optimal model of the same loss cannot be served so at all")
    if abs(plan.saving.share) < NOTHING:
        return Reason("saves", "nothing against the Chinchilla model of equal loss: it is that model")
    if plan.saving.share < 0:
        more = format_fraction(1 - 1 / (1 - plan.saving.share))
        why = "is beyond a limit" if _is_beyond_limits(plan, rival) else "is of no shape that can be built"
        return Reason("saves", f"nothing: the Chinchilla model of equal loss, {more} cheaper, {why}")
    fewer = format_fraction(1 - model.parameters / rival.parameters)
    more = format_fraction(model.lifetime.train_flops / rival.lifetime.train_flops - 1)
    return Reason(
        "saves",
        f"{format_fraction(plan.saving.share)} of the lifetime {_saved(plan)} against the Chinchilla model "
        f"of equal loss: {fewer} fewer parameters, {more} more training",
    )


def _is_beyond_limits(plan: Plan, model: PlannedModel) -> bool:
    limits, trainings = plan.request.limits, plan.request.economics.demand.trainings
    return model.parameters > limits.parameters or model.lifetime.train_flops / trainings > limits.train_flops


def _saved(plan: Plan) -> str:
    """What the saving is a share of, and the dollars, which need not be saved in the same proportion."""
    unit, usd = plan.request.unit, plan.saving.usd
    if unit == "usd":
        return f"cost ({amount(usd or 0.0, 'usd')})"
    named = "FLOPs" if unit == "flops" else "GPU-hours"
    if usd is None:
        return named
    return f"{named}, and {amount(usd, 'usd')}," if usd >= 0 else f"{named}, at {amount(-usd, 'usd')} more,"


def _retraining(plan: Plan) -> str:
    """The models that follow each other, in tokens that each serves."""
    each = plan.request.economics.demand.retrain_months
    served = [format_count(part.serve_tokens) for part in plan.generations]
    shown = served if len(served) <= 4 else [*served[:2], "...", served[-1]]
    models = f"{counted(len(served), 'model')} of this size"
    return f"every {each} months: {models}, serving {', '.join(shown)} tokens; costs above are of all of them"


def _epochs(plan: Plan, epochs: float) -> str:
    unique = format_count(plan.request.unique_tokens or 0)
    if epochs <= 1:
        return f"{unique} unique tokens are enough: {format_fraction(epochs)} of them are used"
    law = trained_of(plan.request.law)
    assert isinstance(law, RepeatedDataLaw), "epochs are of few data"
    worth = format_count(float(law.effective_tokens(plan.recommended.tokens)))
    by = "Muennighoff 2023" if plan.request.fit.repetition is None else "by the law's own runs"
    return f"{format_number(epochs)} over {unique} unique tokens, worth {worth} seen once ({by})"


def _quantised(plan: Plan) -> str:
    penalty, model = plan.request.penalty, plan.recommended
    assert penalty is not None
    added = float(penalty.loss(model.parameters, model.tokens))
    rival = float(penalty.loss(plan.compute_optimal.parameters, plan.compute_optimal.tokens))
    return (
        f"weights of {penalty.bits:g} bits add {added:.3f} nats, counted above ({rival:.3f} to the "
        f"Chinchilla model of the same loss: over-training costs here). {CAVEAT[0].upper()}{CAVEAT[1:]}"
    )


def _score(plan: Plan) -> str:
    score, downstream = plan.score, plan.request.fit.downstream
    assert score is not None
    assert downstream is not None
    text = f"{format_fraction(float(score.score))} on {downstream.task}"
    if score.low is None or score.high is None:
        return text
    low, high = (format_fraction(float(end)) for end in (score.low, score.high))
    return f"{text} ({low} to {high} with {format_level(plan.request.level)})"


def _buying(plan: Plan, bought: Offer) -> str:
    """Whether to have a model off the shelf instead, at what loss and from which demand."""
    unit = plan.request.unit
    gap = f"{abs(bought.loss_advantage):.3f} {'above' if bought.loss_advantage > 0 else 'below'} this plan's"
    met, total = bought.own_is_cheaper, amount(bought.total, unit)
    text = (
        f"{bought.name} off the shelf: a loss of {bought.loss_nats:.3f} by the law, {gap}; {total} to serve, "
        f"against {amount(bought.own_total, unit)} in all"
    )
    if met.serve_tokens is None:
        return f"{text}; {'training' if met.verdict == 'always' else 'buying'} is cheaper at every demand"
    sides = ("below", "above") if met.verdict == "from" else ("above", "below")
    meeting = format_count(met.serve_tokens)
    return f"{text}; buying is cheaper {sides[0]} {meeting} served tokens, this plan {sides[1]}"


def _about_limits(plan: Plan) -> Iterator[Reason]:
    binding = [limit for limit in plan.limits if limit.binding]
    if binding:
        named = " and ".join(
            f"the {limit.name}{', our default (yours: --budget)' if limit.is_default else ''}"
            for limit in binding
        )
        yield Reason("binds", f"{named}{_split(plan)}")
    if slack := [_slack(limit) for limit in plan.limits if not limit.binding]:
        yield Reason("slack", "; ".join(slack))


def _slack(limit: Limit) -> str:
    value = limit.limit.value if isinstance(limit.limit, Quantity) else limit.limit
    if limit.name.startswith("time ") and limit.used > 0.99 * value:
        return f"the {limit.name} is met by smaller batches"
    return f"{format_fraction(limit.used / value)} of the {limit.name} is used"


def _split(plan: Plan) -> str:
    """How the cost divides between training and serving."""
    cost, unit = plan.recommended.lifetime, plan.request.unit
    training = getattr(cost, f"train_{unit}")
    if not plan.request.economics.demand.serve_tokens or training is None:
        return ""
    trained, served = format_split(training / cost.total(unit))
    return f". Training takes {trained} of the cost, serving {served}"


def _about_certainty(plan: Plan) -> Iterator[Reason]:
    if plan.intervals is None:
        yield Reason("interval", f"none: {plan.why_no_intervals}")
    else:
        yield _interval(plan, plan.intervals)
    if plan.other_laws and any(factor != 1 for factor in plan.extrapolation.values()):
        yield Reason("other laws", _others(plan))
    if moved := plan.sensitivity[:MOST_MOVING]:
        inputs = [
            f"{row.input} {row.low.label} to {row.high.label}: {_bill(row.low.usd)} to {_bill(row.high.usd)}"
            for row in moved
        ]
        yield Reason("bill moves", "; ".join(inputs))
    if plan.regret is not None:
        yield Reason("demand", _regret(plan))


def _bill(usd: float) -> str:
    """Dollars, unless the plan's quality cannot be had then."""
    return "impossible" if math.isnan(usd) else amount(usd, "usd")


def _others(plan: Plan) -> str:
    """The smallest and the largest that other laws would train, and other forms of this law's own runs."""
    ranked = sorted(plan.other_laws, key=lambda other: other.parameters)
    ends = [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked
    answers = [
        f"{other.law} {format_count(other.parameters)} on {format_count(other.tokens)}" for other in ends
    ]
    between = f" ({len(ranked) - 2} between)" if len(ranked) > 2 else ""
    return f"{' to '.join(answers)}{between}{_other_forms(plan)}"


def _other_forms(plan: Plan) -> str:
    """What the same runs say under another form."""
    row = next((row for row in plan.sensitivity if row.input == FORM), None)
    cases = [] if row is None else [row.low, row.high]
    said = [f"{case.label} {_split_of(case)}" for case in cases if case.other_law]
    return f"; its own runs under another form: {', '.join(said)}" if said else ""


def _split_of(case: Case) -> str:
    if math.isnan(case.tokens):
        return "none"
    return f"{format_count(case.parameters)} on {format_count(case.tokens)}"


def _regret(plan: Plan) -> str:
    table = plan.regret
    assert table is not None
    spread = plan.request.economics.demand.spread
    assert spread is not None
    worst = max(next(row for row in table.rows if row.demand == "mean").regrets)
    return (
        f"unknown, 90% from {format_count(spread.low)} to {format_count(spread.high)}: planned for its mean, "
        f"{format_count(spread.mean)}, which costs least on average; at most {format_fraction(worst, 2)} "
        "over the best plan for any of these demands"
    )


def _interval(plan: Plan, spread: Intervals) -> Reason:
    parameters = _range(spread.ranges["parameters"], format_count)
    tokens = _range(spread.ranges["tokens"], format_count)
    text = (
        f"{format_level(spread.level)} of {spread.draws:,} draws of the law put the optimum at "
        f"{parameters} parameters, {tokens} tokens{_cost_interval(plan, spread)}"
    )
    if loss := spread.ranges.get("loss_nats"):
        text += f"; one run should land at {loss.low:.3f} to {loss.high:.3f}"
    if plan.best_on_average:
        text += f"; {_average(plan, plan.best_on_average)}"
    return Reason("interval", text)


def _average(plan: Plan, best: BestOnAverage) -> str:
    if best.advantage is None:
        return (
            f"{format_count(best.parameters)} parameters cost least on average; the "
            f"recommended size never reaches the loss under {format_fraction(best.unreached, 2)} of them"
        )
    if best.parameters == plan.recommended.parameters or best.advantage <= 0:
        return "the recommended is best on average"
    by = f"{format_fraction(best.advantage, 2)} of the expected cost"
    if plan.compute_optimal_on_budget is not None:
        by = f"{best.advantage:.1g} nats of expected loss"
    return f"{format_count(best.parameters)} parameters are best on average, by {by}"


def _cost_interval(plan: Plan, spread: Intervals) -> str:
    """The interval of the cost, where the loss and not the cost is fixed."""
    unit = plan.request.unit
    if plan.compute_optimal_on_budget is not None or f"total_{unit}" not in spread.ranges:
        return ""
    return f", cost {_range(spread.ranges[f'total_{unit}'], lambda cost: amount(cost, unit))}"


def _range(limits: Range, form: Callable[[float], str]) -> str:
    return f"{form(limits.low)} to {form(limits.high)}"
