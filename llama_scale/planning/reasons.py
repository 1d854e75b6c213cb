"""Why this plan: what the model is, what it costs and saves, how sure we are, what holds it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from llama_scale.costs import CostUnit, Lifetime
from llama_scale.costs.constants import shipped_calibration
from llama_scale.costs.serving_formulas import token_prices
from llama_scale.laws import Range
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.quantisation import CAVEAT, QuantisedLaw
from llama_scale.planning.sensitivity import FORM
from llama_scale.quantities import (
    Quantity,
    format_count,
    format_fraction,
    format_number,
    format_quantity,
    format_seconds,
    format_usd,
)

if TYPE_CHECKING:
    from llama_scale.planning.offer import Offer
    from llama_scale.planning.values import BestOnAverage, Intervals, Limit, Plan

MOST_MOVING = 3  # inputs of the sensitivity table that the answer names


class Reason(NamedTuple):
    """One line of explanation under a heading of one or two words."""

    heading: str
    text: str


def reasons(plan: Plan) -> list[Reason]:
    """The reasons, in the order in which a reader asks for them."""
    return [
        *_about_the_model(plan),
        *_about_the_choice(plan),
        *_about_limits(plan),
        *_about_certainty(plan),
    ]


def format_cost(cost: Lifetime, unit: CostUnit, part: str = "total") -> str:
    """One part of a cost (`train`, `serve` or `total`) to 3 digits; a dash where it is not known."""
    value = getattr(cost, f"{part}_{unit}")
    return "-" if value is None else amount(value, unit)


def amount(value: float, unit: CostUnit) -> str:
    """A cost in its unit, to 3 digits."""
    return format_quantity(Quantity(value=float(f"{value:.3g}"), kind=unit))


def _about_the_model(plan: Plan) -> Iterator[Reason]:
    shape = plan.shape
    size, miss = format_count(shape.parameters.total, 4), f"{100 * plan.gap.parameters:+.1f}%"
    grouped = "" if shape.kv_heads == shape.heads else f" ({shape.kv_heads} for keys and values)"
    yield Reason(
        "shape",
        f"{shape.layers} layers of width {shape.width:,}, {shape.heads} heads of {shape.head_size}{grouped}, "
        f"hidden {shape.hidden:,}, vocabulary {shape.vocabulary:,}, context {shape.context:,}: {size} "
        f"parameters, {miss} of the unrounded, {_dearer(plan.gap.cost)}",
    )
    if plan.kv_choice:
        yield Reason("KV heads", plan.kv_choice.reason)
    if plan.family:
        yield Reason("family", "; ".join(f"{near.name} {_near(near.excess, plan)}" for near in plan.family))
    yield Reason("train", _training(plan))
    if plan.recipe:
        yield Reason("recipe", "; ".join((plan.recipe.text, *plan.recipe.warnings)))
    if plan.recommended.lifetime.serve_flops:
        yield Reason("serve", _serving(plan))
    deployment = plan.request.economics.deployment
    if deployment is not None and "serving_benchmarks" in plan.request.given:
        fitted, ours = deployment.calibration, shipped_calibration()
        yield Reason("rates", f"{fitted.summary}: {fitted.description}; ours: {ours.description}")


def _dearer(share: float) -> str:
    """How the buildable model compares with the continuum; only where FLOPs are exact may it be cheaper."""
    percent = format_fraction(abs(share), 2)
    return f"{percent} dearer for its loss" if share >= 0 else f"{percent} cheaper than the continuum"


def _near(excess: float, plan: Plan) -> str:
    """How another shape compares: in loss on a budget, in cost at a loss."""
    if excess != excess:
        return "is beyond the budget" if plan.compute_optimal_on_budget else "cannot reach it"
    if plan.compute_optimal_on_budget is not None:
        return f"loss {excess:+.2g}" if abs(excess) > 5e-6 else "as good"
    return f"costs {100 * excess:+.2g}%" if abs(excess) > 5e-5 else "costs as much"


def _training(plan: Plan) -> str:
    cost, report, demand = plan.recommended.lifetime, plan.training, plan.request.economics.demand
    chip = plan.request.economics.training.rental.accelerator.name
    times = f" {demand.trainings} times" if demand.trainings > 1 else ""
    other = format_cost(cost, "flops" if plan.request.unit == "usd" else "usd", "train")
    text = f"{other},{times} {format_cost(cost, 'gpu_hours', 'train')} of {chip}"
    if report is None:
        return text
    if report.days is not None and report.accelerators is not None:
        text += f": {format_number(report.days, 3)} days on {report.accelerators:,}"
    if report.energy_mwh is not None and report.co2_tonnes is not None:
        text += f"; {format_number(report.energy_mwh, 3)} MWh, {format_number(report.co2_tonnes, 3)} t CO2"
    if report.layouts:
        return f"{text}; {report.layouts[0].text}"
    if report.note:
        return f"{text}; {report.note}"
    return f"{text}; {report.fewest_accelerators:,} hold it" if report.fewest_accelerators else text


def _serving(plan: Plan) -> str:
    request, model = plan.request, plan.recommended
    other = format_cost(model.lifetime, "flops" if request.unit == "usd" else "usd", "serve")
    text = f"{other}, {format_cost(model.lifetime, 'gpu_hours', 'serve')}"
    served, rental = model.throughput, request.economics.serving.rental
    if served is None:
        return f"{text} at constant MFUs"
    first, following = served.time_to_first_token_seconds, served.time_per_output_token_seconds
    text += (
        f" on {float(served.accelerators):g} x {rental.accelerator.name} a copy: "
        f"{format_number(float(served.batch), 2)} answers at a time, first token in "
        f"{format_seconds(float(first))}, then {format_seconds(float(following))} each"
    )
    if rental.price_usd_per_hour is not None:
        prices = token_prices(served, rental.price_usd_per_hour)
        read, written, million = (format_usd(float(price), 2) for price in prices)
        text += f"; {million} a million tokens (read {read}, written {written})"
    if plan.fleet is not None:
        text += (
            f"; {plan.fleet:,.0f} accelerators answer {format_number(request.request_rate or 0)} requests/s"
        )
    return text


def _about_the_choice(plan: Plan) -> Iterator[Reason]:
    demand = plan.request.economics.demand
    if demand.serve_tokens:
        yield _saving(plan)
    ranges = [
        f"{format_count(near.low)} to {format_count(near.high)} for +{format_fraction(near.excess)}"
        for near in plan.flatness
    ]
    yield Reason("flat", f"same loss: {', '.join(ranges)} cost")
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


def _saving(plan: Plan) -> Reason:
    model, rival = plan.recommended, plan.compute_optimal
    if plan.saving.share != plan.saving.share:
        return Reason("saves", "the compute-optimal model of the same loss cannot be served so at all")
    usd = "" if plan.saving.usd is None else f" ({amount(plan.saving.usd, 'usd')})"
    fewer = format_fraction(1 - model.parameters / rival.parameters)
    more = format_fraction(model.lifetime.train_flops / rival.lifetime.train_flops - 1)
    return Reason(
        "saves",
        f"{format_fraction(plan.saving.share)} of the lifetime cost{usd} against the Chinchilla model of the "
        f"same loss: {fewer} fewer parameters, for {more} more training FLOPs",
    )


def _retraining(plan: Plan) -> str:
    """The models that follow each other, in tokens that each serves."""
    each = plan.request.economics.demand.retrain_months
    served = [format_count(part.serve_tokens) for part in plan.generations]
    shown = served if len(served) <= 4 else [*served[:2], "...", served[-1]]
    return (
        f"every {each} months: {len(served)} models of this size, serving {', '.join(shown)} tokens; costs "
        "above are of all of them"
    )


def _epochs(plan: Plan, epochs: float) -> str:
    unique = format_count(plan.request.unique_tokens or 0)
    if epochs <= 1:
        return f"{unique} unique tokens are enough: {format_fraction(epochs)} of them are used"
    law = plan.request.law
    law = law.trained if isinstance(law, QuantisedLaw) else law
    assert isinstance(law, RepeatedDataLaw), "epochs are of few data"
    worth = format_count(float(law.effective_tokens(plan.recommended.tokens)))
    return f"{format_number(epochs)} over {unique} unique tokens, worth {worth} seen once (Muennighoff 2023)"


def _quantised(plan: Plan) -> str:
    penalty, model = plan.request.penalty, plan.recommended
    assert penalty is not None
    added = float(penalty.loss(model.parameters, model.tokens))
    if not added:
        return "weights of 16 bits lose nothing"
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
    return f"{text} ({low} to {high} with {format_fraction(plan.request.level)})"


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
        named = " and ".join(f"the {limit.name}" for limit in binding)
        default = (
            ", our default: give yours with --budget" if any(limit.is_default for limit in binding) else ""
        )
        yield Reason("binds", f"{named}{default}{_split(plan)}")
    if slack := [_slack(limit) for limit in plan.limits if not limit.binding]:
        yield Reason("slack", "; ".join(slack))


def _slack(limit: Limit) -> str:
    value = limit.limit.value if isinstance(limit.limit, Quantity) else limit.limit
    return f"{format_fraction(limit.used / value)} of the {limit.name} is used"


def _split(plan: Plan) -> str:
    """How the cost divides between training and serving."""
    cost, unit = plan.recommended.lifetime, plan.request.unit
    training = getattr(cost, f"train_{unit}")
    if not plan.request.economics.demand.serve_tokens or training is None:
        return ""
    share = training / cost.total(unit)
    serving = format_fraction(1 - share, 2)
    return f". Training takes {format_fraction(share, 2)} of the cost, serving {serving}"


def _about_certainty(plan: Plan) -> Iterator[Reason]:
    if plan.intervals is None:
        note = plan.request.fit.draws_note or "no model reaches the target under any draw of the law"
        yield Reason("interval", f"none: {note}")
    else:
        yield _interval(plan, plan.intervals)
    if plan.other_laws and any(factor != 1 for factor in plan.extrapolation.values()):
        yield Reason("other laws", _others(plan))
    if moved := plan.sensitivity[:MOST_MOVING]:
        inputs = [
            f"{row.input} {row.low.label} to {row.high.label}: {amount(row.low.usd, 'usd')} to "
            f"{amount(row.high.usd, 'usd')}"
            for row in moved
        ]
        yield Reason("bill moves", "; ".join(inputs))
    if plan.regret is not None:
        yield Reason("demand", _regret(plan))


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
    said = [
        f"{case.label} {format_count(case.parameters)} on {format_count(case.tokens)}"
        for case in cases
        if case.label != plan.request.fit.law.form
    ]
    return f"; its own runs under another form: {', '.join(said)}" if said else ""


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
        f"{format_fraction(spread.level)} of {spread.draws:,} draws of the law put the optimum at "
        f"{parameters} parameters on {tokens} tokens{_cost_interval(plan, spread)}"
    )
    if loss := spread.ranges.get("loss_nats"):
        text += f"; a run of the recommended model should land at a loss of {loss.low:.3f} to {loss.high:.3f}"
    if plan.best_on_average:
        text += f". {_average(plan, plan.best_on_average)}"
    return Reason("interval", text)


def _average(plan: Plan, best: BestOnAverage) -> str:
    if best.advantage is None:
        return (
            f"On average over the draws {format_count(best.parameters)} parameters cost least; the "
            f"recommended size never reaches the loss under {format_fraction(best.unreached, 2)} of them"
        )
    if best.parameters == plan.recommended.parameters or best.advantage <= 0:
        return "On average over the draws the recommended size is best too"
    by = f"{format_fraction(best.advantage, 2)} of the expected cost"
    if plan.compute_optimal_on_budget is not None:
        by = f"{best.advantage:.1g} nats of expected loss"
    return f"On average over the draws {format_count(best.parameters)} parameters are best, by {by}"


def _cost_interval(plan: Plan, spread: Intervals) -> str:
    """The interval of the cost, where the loss and not the cost is fixed."""
    unit = plan.request.unit
    if plan.compute_optimal_on_budget is not None or f"total_{unit}" not in spread.ranges:
        return ""
    return f", cost {_range(spread.ranges[f'total_{unit}'], lambda cost: amount(cost, unit))}"


def _range(limits: Range, form: Callable[[float], str]) -> str:
    return f"{form(limits.low)} to {form(limits.high)}"
