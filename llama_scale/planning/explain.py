"""Every formula of a plan, with its numbers put in and its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llama_scale.costs import Rental
from llama_scale.laws import ScalingLaw
from llama_scale.planning.optimum import NO_LIMITS
from llama_scale.quantities import format_count, format_flops, format_gpu_hours, format_number, format_usd

if TYPE_CHECKING:
    from llama_scale.planning.values import Plan


class Formula(NamedTuple):
    """What is computed, the formula, the formula with numbers, and where it comes from."""

    name: str
    formula: str
    numbers: str
    source: str


def explain(plan: Plan) -> list[Formula]:
    """The formulas behind the recommended model, in the order in which they are used."""
    formulas = [_loss(plan), _condition(plan), *_flops(plan), *_hours(plan), *_dollars(plan)]
    return [formula._replace(numbers=formula.numbers.replace("e+", "e")) for formula in formulas]


def _loss(plan: Plan) -> Formula:
    law, model = plan.request.fit.law, plan.recommended
    e, a, b, alpha, beta, k = (float(v) for v in (law.E, law.A, law.B, law.alpha, law.beta, law.k))
    by_size, by_data = a * model.parameters**-alpha, b * model.tokens**-beta
    terms = f"{a:.5g} x {model.parameters:.4g}^-{alpha:.4g} + {b:.5g} x {model.tokens:.4g}^-{beta:.4g}"
    if not law.has_outer_power:
        formula = "E + A N^-alpha + B D^-beta"
        numbers = f"{e:.5g} + {terms} = {e:.4f} + {by_size:.4f} + {by_data:.4f} = {model.loss_nats:.4f}"
    else:
        formula = "E + (A N^-alpha + B D^-beta)^k"
        numbers = f"{e:.5g} + ({terms})^{k:.4g} = {e:.4f} + {model.loss_nats - e:.4f} = {model.loss_nats:.4f}"
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
    if plan.compute_optimal_on_budget is None:
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
    model, cost = plan.recommended, plan.recommended.lifetime
    served = plan.request.economics.demand.serve_tokens
    n, d, t = (format_count(value, 4) for value in (model.parameters, model.tokens, served))
    train, serve = format_flops(cost.train_flops, 4), format_flops(cost.serve_flops, 4)
    if plan.request.flops == "6nd":
        source = "Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022"
        return [
            Formula("training FLOPs", "6 N D", f"6 x {n} x {d} = {train}", source),
            Formula("serving FLOPs", "2 N T", f"2 x {n} x {t} = {serve}", source),
        ]
    a_token = plan.shape.forward_flops_per_token(plan.request.context)
    source = "PaLM, arXiv 2204.02311, appendix B, for this shape"
    return [
        Formula(
            "training FLOPs",
            "3 (2 x matrix weights + 4 L d context) D",
            f"3 x {a_token:.4g} x {d} = {train}",
            source,
        ),
        Formula(
            "serving FLOPs",
            "(2 x matrix weights + 4 L d context) T",
            f"{a_token:.4g} x {t} = {serve}",
            source,
        ),
    ]


def _hours(plan: Plan) -> list[Formula]:
    cost, economics = plan.recommended.lifetime, plan.request.economics
    training, serving = economics.training, economics.serving
    formulas = [
        Formula(
            "training GPU-hours",
            "FLOPs / (peak x MFU x goodput x 3600)",
            f"{cost.train_flops:.4g} / ({_peak(training.rental)} x {training.mfu:g} x {training.goodput:g} "
            f"x 3600) = {format_gpu_hours(cost.train_gpu_hours, 4)}",
            "MFU as PaLM (appendix B) defines it",
        )
    ]
    if cost.serve_flops:
        share = economics.demand.input_share
        formulas.append(
            Formula(
                "serving GPU-hours",
                "FLOPs x (read / MFU read + written / MFU written) / (peak x utilisation x 3600)",
                f"{cost.serve_flops:.4g} x ({share:g} / {serving.prefill_mfu:g} + {1 - share:g} / "
                f"{serving.decode_mfu:g}) / ({_peak(serving.rental)} x {serving.utilisation:g} x 3600) "
                f"= {format_gpu_hours(cost.serve_gpu_hours, 4)}",
                "Sardana & Frankle 2024, section 4, with an MFU for each phase",
            )
        )
    return formulas


def _dollars(plan: Plan) -> list[Formula]:
    cost, economics = plan.recommended.lifetime, plan.request.economics
    formulas = []
    for name, hours, usd, hired in (
        ("training dollars", cost.train_gpu_hours, cost.train_usd, economics.training.rental),
        ("serving dollars", cost.serve_gpu_hours, cost.serve_usd, economics.serving.rental),
    ):
        if usd and hired.price_usd_per_hour is not None:
            numbers = f"{hours:.4g} x ${hired.price_usd_per_hour:g} = {format_usd(usd, 4)}"
            formulas.append(Formula(name, "GPU-hours x price", numbers, hired.price_source))
    return formulas


def _peak(hired: Rental) -> str:
    return f"{hired.accelerator.peak(hired.precision):.4g}"
