"""Every formula of a plan, with its numbers put in and its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llama_scale.costs import Formula
from llama_scale.costs.roofline import served_shape
from llama_scale.costs.serving_formulas import explain_serving
from llama_scale.laws import ScalingLaw
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.batches import trained_of
from llama_scale.planning.described import not_served
from llama_scale.planning.optimum import NO_LIMITS
from llama_scale.planning.quantisation import BY_BITS, BY_PARAMETERS, BY_TOKENS, COEFFICIENT, QuantisedLaw
from llama_scale.planning.quantisation import SOURCE as QUANTISATION_SOURCE
from llama_scale.quantities import format_count, format_flops, format_gpu_hours, format_number, format_usd

if TYPE_CHECKING:
    from llama_scale.planning.values import Plan


def explain(plan: Plan) -> list[Formula]:
    """The formulas behind the recommended model, in the order in which they are used."""
    formulas = [
        *_demand(plan),
        *_loss(plan),
        _condition(plan),
        *_flops(plan),
        *plan.training.formulas(),
        *_serving(plan),
        *_serving_cost(plan),
        *plan.recipe.formulas(),
    ]
    return [formula._replace(numbers=formula.numbers.replace("e+", "e")) for formula in formulas]


def _demand(plan: Plan) -> Iterator[Formula]:
    demand = plan.request.economics.demand
    if demand.spread is not None:
        spread = demand.spread
        yield Formula(
            "expected demand",
            "sqrt(low high) exp(s^2 / 2), s = log(high / low) / 3.29",
            f"sqrt({spread.low:.4g} x {spread.high:.4g}) x exp({spread.log_deviation:.3g}^2 / 2) = "
            f"{format_count(spread.mean, 4)} tokens",
            "log-normal with 90 % of it between the ends; costs are linear in it, so its mean decides",
        )
    elif demand.serve_tokens and plan.request.given.keys() & {"requests", "samples", "growth"}:
        yield Formula(
            "tokens served",
            "requests x (read + samples x written)",
            f"{demand.requests:.4g} x ({demand.input_tokens:g} + {demand.samples} x "
            f"{demand.output_tokens:g}) = {format_count(demand.serve_tokens, 4)}",
            "each prompt is read once",
        )


def _loss(plan: Plan) -> Iterator[Formula]:
    law, model = plan.request.law, plan.recommended
    trained = trained_of(law)
    n, d = model.parameters, model.tokens
    if isinstance(trained, RepeatedDataLaw):
        yield _repeated(trained, d)
        n, d = float(trained.effective_parameters(n)), float(trained.effective_tokens(d))
    yield _loss_of(plan, n, d)
    if isinstance(law, QuantisedLaw):
        penalty = float(law.penalty.loss(model.parameters, model.tokens))
        yield Formula(
            "quantisation",
            "k D^b / (N^a P^c), added to the loss",
            f"{COEFFICIENT} x {model.tokens:.4g}^{BY_TOKENS} / ({model.parameters:.4g}^{BY_PARAMETERS} x "
            f"{law.penalty.bits:g}^{BY_BITS}) = {penalty:.4f}: {model.loss_nats:.4f} as served",
            QUANTISATION_SOURCE,
        )


def _repeated(law: RepeatedDataLaw, tokens: float) -> Formula:
    unique, decay = float(law.unique_tokens), float(law.repetition.tokens_decay)
    again = max(0.0, tokens / unique - 1)
    return Formula(
        "repeated data",
        "D' = U + U R* (1 - exp(-(D / U - 1) / R*))",
        f"{unique:.4g} + {unique:.4g} x {decay:.4g} x (1 - exp(-{again:.4g} / {decay:.4g})) = "
        f"{float(law.effective_tokens(tokens)):.4g}",
        "Muennighoff et al. 2023, arXiv 2305.16264, section 3.1; N' alike",
    )


def _loss_of(plan: Plan, n: float, d: float) -> Formula:
    law = plan.request.fit.law
    e, a, b, alpha, beta, k = (float(v) for v in (law.E, law.A, law.B, law.alpha, law.beta, law.k))
    by_size, by_data, loss = a * n**-alpha, b * d**-beta, float(law.loss(n, d))
    terms = f"{a:.5g} x {n:.4g}^-{alpha:.4g} + {b:.5g} x {d:.4g}^-{beta:.4g}"
    if not law.has_outer_power:
        formula = "E + A N^-alpha + B D^-beta"
        numbers = f"{e:.5g} + {terms} = {e:.4f} + {by_size:.4f} + {by_data:.4f} = {loss:.4f}"
    else:
        formula = "E + (A N^-alpha + B D^-beta)^k"
        numbers = f"{e:.5g} + ({terms})^{k:.4g} = {e:.4f} + {loss - e:.4f} = {loss:.4f}"
    return Formula("loss", formula, numbers, plan.request.fit.source)


def _condition(plan: Plan) -> Formula:
    request, best = plan.request, plan.optimum
    numbers = f"N = {best.parameters:.4g}, D = {best.tokens:.4g}"
    if request.flops == "exact":
        formula = "least over a continuum of LLaMA shapes, by a grid refined around its lowest point"
        return Formula("optimum", formula, numbers, "our own; the nearest shape is then counted exactly")
    problem = request.problem()
    if problem.serving.needs_shapes or not isinstance(problem.law, ScalingLaw) or request.limits != NO_LIMITS:
        formula = "train rate x 6 N D + T x cost per token of N: least over all N, on a refined grid"
        return Formula("optimum", formula, numbers, "our own: no condition in closed form with these costs")
    idle = problem.serving_in_training_tokens
    numbers = f"S = {format_number(float(idle), 4)} tokens; {numbers}"
    if request.has_target:
        room = "(loss - E)^(1/k)" if request.fit.law.has_outer_power else "loss - E"
        return Formula(
            "optimum",
            f"(1 + beta/alpha) B D^-beta + (beta B S / alpha) D^(-beta-1) = {room}, with "
            "S = T x serve rate / (3 x train rate); N from the law",
            numbers,
            "Sardana & Frankle 2024, arXiv 2401.00448 (there S = T/3: FLOPs cost alike)",
        )
    return Formula(
        "optimum",
        "alpha A N^-alpha D / (D + S) = beta B D^-beta on N (D + S) = budget / (6 x train rate), with "
        "S = T x serve rate / (3 x train rate)",
        numbers,
        "its dual: first-order condition of the lowest loss; S = 0 is Hoffmann et al. 2022, equation 4",
    )


def _flops(plan: Plan) -> list[Formula]:
    model, demand = plan.recommended, plan.request.economics.demand
    cost, times = model.lifetime, f"{demand.trainings} x " if demand.trainings > 1 else ""
    n, d, t = (format_count(value, 4) for value in (model.parameters, model.tokens, demand.serve_tokens))
    train, serve = format_flops(cost.train_flops, 4), format_flops(cost.serve_flops, 4)
    if plan.request.flops == "6nd":
        source = "Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022"
        return [
            Formula("training FLOPs", "6 N D", f"{times}6 x {n} x {d} = {train}", source),
            Formula("serving FLOPs", "2 N T", f"2 x {n} x {t} = {serve}", source),
        ]
    attended = plan.request.attended_tokens
    trained, served = (
        plan.shape.forward_flops_per_token(tokens) for tokens in (plan.request.context, attended)
    )
    source = "PaLM, arXiv 2204.02311, appendix B, for this shape"
    return [
        Formula(
            "training FLOPs",
            "3 (2 x matrix weights + 4 L d context) D",
            f"{times}3 x {trained:.4g} x {d} = {train}",
            source,
        ),
        Formula(
            "serving FLOPs",
            "(2 x matrix weights + 4 L d attended) T",
            f"{served:.4g} x {t} = {serve}",
            f"the same for the {attended:,.0f} tokens that a served one attends to on average",
        ),
    ]


def _serving(plan: Plan) -> Iterator[Formula]:
    """The roofline of the recommended shape, or what keeps it from being served."""
    deployment = plan.request.economics.deployment
    if error := not_served(plan):
        formula = "weights and one request within memory, one answer at a time within the limits on latency"
        yield Formula("serving", formula, error.message, error.hint)
    elif deployment is not None and plan.recommended.throughput is not None:
        yield from explain_serving(deployment, served_shape(plan.shape))


def _serving_cost(plan: Plan) -> Iterator[Formula]:
    cost, economics = plan.recommended.lifetime, plan.request.economics
    serving, demand, served = economics.serving, economics.demand, plan.recommended.throughput
    if not cost.serve_flops or cost.serve_gpu_hours is None:
        return
    hours = format_gpu_hours(cost.serve_gpu_hours, 4)
    if served is not None:
        yield Formula(
            "serving GPU-hours",
            "T x accelerator-seconds of a token / 3600",
            f"{demand.serve_tokens:.4g} x {float(served.accelerator_seconds_per_token):.4g} / 3600 = {hours}",
            "the roofline above",
        )
    else:
        share, peak = demand.input_share, serving.rental.peak_flops_per_hour / 3600
        yield Formula(
            "serving GPU-hours",
            "FLOPs x (read / MFU read + written / MFU written) / (peak x utilisation x 3600)",
            f"{cost.serve_flops:.4g} x ({share:g} / {serving.prefill_mfu:g} + {1 - share:g} / "
            f"{serving.decode_mfu:g}) / ({peak:.4g} x {serving.utilisation:g} x 3600) = {hours}",
            "Sardana & Frankle 2024, section 4, with an MFU for each phase",
        )
    price = serving.rental.price_usd_per_hour
    if cost.serve_usd is None or price is None:
        return
    factor, discounted = demand.serve_factor, demand.months is not None and demand.discount > 0
    worth = f" x {factor:.4g}" if discounted else ""
    yield Formula(
        "serving dollars",
        "GPU-hours x price" + (" x what a dollar of each month is worth today" if discounted else ""),
        f"{cost.serve_gpu_hours:.4g} x ${price:g}{worth} = {format_usd(cost.serve_usd, 4)}",
        serving.rental.price_source,
    )
    if discounted:
        yield Formula(
            "discounting",
            "sum over months m of (share of the tokens in m) (1 + rate)^(-(m + 1/2) / 12)",
            f"{demand.months} months at {demand.discount:.3g} a year, growth {demand.growth:.3g} a month: "
            f"{factor:.4g}",
            "net present value, a month's bill paid in its middle; training is paid when it starts",
        )
