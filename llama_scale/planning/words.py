"""A plan in words and rows, for the terminal and for notebooks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import NamedTuple

from llama_scale.costs import CostUnit, Economics, Lifetime, Rental
from llama_scale.laws import Range
from llama_scale.planning.request import Request
from llama_scale.planning.values import BestOnAverage, Intervals, Plan, PlannedModel
from llama_scale.quantities import (
    Quantity,
    format_count,
    format_fraction,
    format_number,
    format_quantity,
    format_usd_per_hour,
)

UNIT_NAMES: dict[CostUnit, str] = {"flops": "FLOPs", "usd": "dollars", "gpu_hours": "GPU-hours"}
COLUMNS = ("model", "params", "tokens", "D/N", "loss", "train", "serve", "total")
RECOMMENDED_ROW = 0


class Reason(NamedTuple):
    """One line of explanation under a heading of one or two words."""

    heading: str
    text: str


def sentence(plan: Plan) -> str:
    """The answer: what to train, what it reaches, and for what it is the best."""
    model, request = plan.recommended, plan.request
    demand = request.economics.demand.serve_tokens
    what = f"Train {format_count(model.parameters)} parameters on {format_count(model.tokens)} tokens"
    purpose = f"training and serving {format_count(demand)} tokens" if demand else "training alone"
    total = format_cost(model.lifetime, request.unit)
    if plan.compute_optimal_on_budget is None:
        goal = f"matches {request.match.name} at" if request.match else "reaches"
        return f"{what}: the cheapest that {goal} a loss of {model.loss_nats:.3f}, {total} for {purpose}."
    default = "" if "budget" in request.given else " (our default budget)"
    return f"{what}: a loss of {model.loss_nats:.3f}, the lowest that {total}{default} buy for {purpose}."


def format_cost(cost: Lifetime, unit: CostUnit, part: str = "total") -> str:
    """One part of a cost (`train`, `serve` or `total`) to 3 digits; a dash for dollars without a price."""
    value = getattr(cost, f"{part}_{unit}")
    return "-" if value is None else amount(value, unit)


def amount(value: float, unit: CostUnit) -> str:
    """A cost in its unit, to 3 digits."""
    return format_quantity(Quantity(value=float(f"{value:.3g}"), kind=unit))


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The models side by side, the recommended one first; costs in the unit of the objective."""
    named = [("recommended", plan.recommended), ("unrounded", plan.optimum)]
    if plan.request.economics.demand.serve_tokens or abs(plan.saving.share) > 1e-3:
        named.append(("equal loss *", plan.compute_optimal))
        if plan.compute_optimal_on_budget is not None:
            named.append(("equal cost *", plan.compute_optimal_on_budget))
    return [_row(name, model, plan.request.unit) for name, model in named]


def _row(name: str, model: PlannedModel, unit: CostUnit) -> tuple[str, ...]:
    costs = [format_cost(model.lifetime, unit, part) for part in ("train", "serve", "total")]
    bare = [cost.removesuffix(" FLOPs").removesuffix(" GPU-hours") for cost in costs]
    return (
        name,
        format_count(model.parameters),
        format_count(model.tokens),
        format_number(model.tokens_per_parameter),
        f"{model.loss_nats:.4f}",
        *bare,
    )


def reasons(plan: Plan) -> list[Reason]:
    """Why this model: its shape, what it saves, how flat the optimum is, how sure we are, what binds."""
    return [*_about_the_model(plan), *_about_the_choice(plan), *_about_certainty(plan)]


def _about_the_model(plan: Plan) -> Iterator[Reason]:
    shape, cost, request = plan.shape, plan.recommended.lifetime, plan.request
    size, miss = format_count(shape.parameters.total, 4), f"{100 * plan.gap.parameters:+.1f}%"
    yield Reason(
        "shape",
        f"{shape.layers} layers of width {shape.width:,}, {shape.heads} heads of {shape.head_size}, SwiGLU "
        f"hidden {shape.hidden:,}, vocabulary {shape.vocabulary:,}: {size} parameters in all. Rounding to "
        f"it: {miss} parameters, {_dearer(plan.gap.cost)}",
    )
    other = "flops" if request.unit != "flops" else "usd"
    train, serve = (format_cost(cost, other, part) for part in ("train", "serve"))
    hours, serve_hours = (format_cost(cost, "gpu_hours", part) for part in ("train", "serve"))
    chip = request.economics.training.rental.accelerator.name
    served = f", {serve} to serve ({serve_hours})" if cost.serve_flops else ""
    yield Reason("also", f"{train} to train ({hours} of {chip}){served}")


def _dearer(share: float) -> str:
    """How the buildable model compares with the continuum; only where FLOPs are exact may it be cheaper."""
    percent = format_fraction(abs(share), 2)
    return f"{percent} dearer for its loss" if share >= 0 else f"{percent} cheaper than the continuum"


def _about_the_choice(plan: Plan) -> Iterator[Reason]:
    if plan.request.economics.demand.serve_tokens:
        yield _saving(plan)
    ranges = [
        f"{format_count(near.low)} to {format_count(near.high)} parameters cost at most "
        f"{format_fraction(near.excess)} more"
        for near in plan.flatness
    ]
    yield Reason("flat", f"at the same loss {', '.join(ranges)}")
    for limit in plan.limits:
        if limit.binding:
            default = ", our default: give yours with --budget" if limit.is_default else ""
            yield Reason("binds", f"the {limit.name}{default}{_split(plan)}")
        elif isinstance(limit.limit, Quantity):
            share = format_fraction(limit.used / limit.limit.value)
            yield Reason("slack", f"{share} of the {limit.name} is used")


def _saving(plan: Plan) -> Reason:
    model, rival = plan.recommended, plan.compute_optimal
    usd = "" if plan.saving.usd is None else f" ({amount(plan.saving.usd, 'usd')})"
    fewer = format_fraction(1 - model.parameters / rival.parameters)
    more = format_fraction(model.lifetime.train_flops / rival.lifetime.train_flops - 1)
    return Reason(
        "saves",
        f"{format_fraction(plan.saving.share)} of the lifetime cost{usd} against Chinchilla (least training "
        f"compute) at the same loss: {fewer} fewer parameters to serve, for {more} more training FLOPs",
    )


def _split(plan: Plan) -> str:
    """How the cost divides between training and serving."""
    if not plan.request.economics.demand.serve_tokens:
        return ""
    cost, unit = plan.recommended.lifetime, plan.request.unit
    training = getattr(cost, f"train_{unit}") / cost.total(unit)
    serving = format_fraction(1 - training, 2)
    return f". Training takes {format_fraction(training, 2)} of the cost, serving {serving}"


def _about_certainty(plan: Plan) -> Iterator[Reason]:
    if plan.intervals is None:
        note = plan.request.fit.draws_note or "no model reaches the target under any draw of the law"
        yield Reason("interval", f"none: {note}")
    else:
        yield _interval(plan, plan.intervals)
    if plan.best_on_average:
        yield Reason("on average", _average(plan, plan.best_on_average))
    if plan.other_laws and any(factor != 1 for factor in plan.extrapolation.values()):
        answers = [
            f"{other.law} {format_count(other.parameters)} on {format_count(other.tokens)}"
            for other in plan.other_laws
        ]
        yield Reason("other laws", "; ".join(answers))


def _interval(plan: Plan, spread: Intervals) -> Reason:
    parameters = _range(spread.ranges["parameters"], format_count)
    tokens = _range(spread.ranges["tokens"], format_count)
    text = (
        f"{format_fraction(spread.level)} of {spread.draws:,} draws of the law put the optimum at "
        f"{parameters} parameters on {tokens} tokens{_cost_interval(plan, spread)}"
    )
    if loss := spread.ranges.get("loss_nats"):
        text += f"; a run of the recommended model should land at a loss of {loss.low:.3f} to {loss.high:.3f}"
    return Reason("interval", text)


def _average(plan: Plan, best: BestOnAverage) -> str:
    if best.advantage is None:
        return (
            f"{format_count(best.parameters)} parameters have the lowest expected cost over the draws; the "
            f"recommended size never reaches the loss under {format_fraction(best.unreached, 2)} of them"
        )
    if best.parameters == plan.recommended.parameters or best.advantage <= 0:
        return "the recommended size is the best in expectation over the draws too"
    by = f"{format_fraction(best.advantage, 2)} of the expected cost"
    if plan.compute_optimal_on_budget is not None:
        by = f"{best.advantage:.1g} nats of expected loss"
    return f"{format_count(best.parameters)} parameters are the best in expectation over the draws, by {by}"


def _cost_interval(plan: Plan, spread: Intervals) -> str:
    """The interval of the cost, where the loss and not the cost is fixed."""
    if plan.compute_optimal_on_budget is not None:
        return ""
    unit = plan.request.unit
    return f", cost {_range(spread.ranges[f'total_{unit}'], lambda cost: amount(cost, unit))}"


def _range(limits: Range, form: Callable[[float], str]) -> str:
    return f"{form(limits.low)} to {form(limits.high)}"


def assumed(request: Request) -> str:
    """What is taken for granted, in one sentence."""
    economics = request.economics
    counting = "6ND + 2NT" if request.flops == "6nd" else "the shape's own FLOPs"
    match = f", {request.match.name} as if trained on the law's data" if request.match else ""
    training = economics.training
    trained = (
        f"trained on {_hired(training.rental)}, MFU {format_fraction(training.mfu)}, goodput "
        f"{format_fraction(training.goodput)}"
    )
    served = _served(economics) if economics.demand.serve_tokens else ""
    return f"law {request.fit.name}, {counting}{match}; {trained}{served}"


def _served(economics: Economics) -> str:
    serving, read = economics.serving, format_fraction(economics.demand.input_share)
    where = "the same" if serving.rental == economics.training.rental else _hired(serving.rental)
    return (
        f"; served on {where}, {read} of the tokens read at MFU {format_fraction(serving.prefill_mfu)}, "
        f"the rest written at {format_fraction(serving.decode_mfu)}, utilisation "
        f"{format_fraction(serving.utilisation)}"
    )


def _hired(hired: Rental) -> str:
    price = hired.price_usd_per_hour
    dated = f" ({hired.price_date})" if hired.price_date else ""
    cost = "" if price is None else f" at {format_usd_per_hour(price)}{dated}"
    return f"{hired.accelerator.name} in {hired.precision}{cost}"


def command(plan: Plan) -> str:
    """The command that asks for this plan again, its law, budget and way of counting written out."""
    request = plan.request
    words = dict(request.given)
    words["law"] = law_words(request)
    if request.budget is not None:
        words["budget"] = request.budget
    words |= {"flops": request.flops}
    parts = ["llama-scale plan"]
    order = ("serve_tokens", "budget", "target_loss", "match")
    for name in (*order, *(name for name in words if name not in order)):
        if name in words:
            parts.append(f"--{name.replace('_', '-')} {shlex.quote(plain_word(words[name]))}")
    return " ".join(parts)


def plain_word(value: object) -> str:
    """A value as an option takes it, exact."""
    if isinstance(value, Quantity):
        number = _shortest(value.value)
        return {"flops": number, "usd": f"${number}", "gpu_hours": f"{number} GPU-hours"}[value.kind]
    if isinstance(value, tuple):
        return "/".join(plain_word(part) for part in value)
    return _shortest(value) if isinstance(value, float) else str(value)


def _shortest(value: float) -> str:
    """The shortest text that reads back as `value`: 1e12, not 1000000000000.0."""
    mantissa, _, exponent = f"{value!r}".partition("e")
    if exponent or abs(value) < 1e5:
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if exponent else mantissa.removesuffix(".0")
    digits = f"{value:.0f}" if value == int(value) else mantissa
    stripped = digits.rstrip("0")
    if value != int(value) or len(digits) - len(stripped) < 3:
        return digits
    power = len(digits) - 1
    rest = stripped[1:]
    return f"{stripped[0]}{'.' + rest if rest else ''}e{power}"


def law_words(request: Request) -> str:
    """The law as the option takes it; a Fit made in Python is written as its constants."""
    fit, text = request.fit, request.law_text
    if fit.name != text or not fit.source.startswith("fit in memory"):
        return text
    return ",".join(f"{name}={float(value)!r}" for name, value in fit.law.constants.items())


def next_steps(plan: Plan, *, explained: bool = False) -> list[str]:
    """What to ask next."""
    given, steps = plan.request.given, []
    if "law" not in given:
        steps.append("your own law: llama-scale sweep, then plan --law runs/fits/<name>.json")
    if not given.keys() & {"budget", "target_loss", "match"}:
        steps.append("your question: --budget '$2M', --budget '1M GPU-hours', --match llama-13b")
    if not explained:
        steps.append("formulas and sources: the same command with --explain")
    return steps


def markdown(plan: Plan) -> str:
    """The answer, the table and the reasons in Markdown."""
    table = rows(plan)
    header = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    marked = [
        tuple(f"**{cell.strip()}**" for cell in row) if index == RECOMMENDED_ROW else row
        for index, row in enumerate(table)
    ]
    body = "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in marked)
    lines = "\n".join(f"- *{reason.heading}*: {reason.text}." for reason in reasons(plan))
    cautions = "".join(f"\n- **warning**: {warning}." for warning in plan.warnings)
    costs = f"Costs in {UNIT_NAMES[plan.request.unit]}."
    return f"**{sentence(plan)}**\n\n{header}\n{body}\n\n{costs}\n\n{lines}{cautions}\n\n`{command(plan)}`\n"
