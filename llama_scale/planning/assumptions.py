"""What a plan takes for granted, each with its source, its age and the option that changes it."""

from __future__ import annotations

from collections.abc import Iterator

from llama_scale.costs import (
    DEFAULT_DECODE_MFU,
    DEFAULT_INPUT_SHARE,
    DEFAULT_PREFILL_MFU,
    DEFAULT_UTILISATION,
    Assumption,
    Default,
    Demand,
    Rental,
)
from llama_scale.costs.serving import Deployment
from llama_scale.costs.training import DEFAULT_CARBON, DEFAULT_PUE
from llama_scale.planning.reading import option
from llama_scale.planning.request import Request
from llama_scale.planning.shapes import QUALITY_FLOOR, SOURCE
from llama_scale.quantities import (
    format_count,
    format_flops_per_second,
    format_fraction,
    format_number,
    format_quantity,
    format_usd_per_hour,
)

COUNTINGS = {
    "6nd": ("6ND to train, 2NT to serve", "the papers' approximation (Kaplan et al. 2020, section 2.1)"),
    "exact": (
        "the shape's matrix products; attention over the whole context and 3 x forward to train, over what "
        "requests hold to serve",
        "PaLM (arXiv 2204.02311, appendix B)",
    ),
}


def assumptions(request: Request) -> tuple[Assumption, ...]:
    """Every input of the plan that its asker might want to change."""
    return (*_question(request), *_training(request), *_serving(request))


def _question(request: Request) -> Iterator[Assumption]:
    fit, given = request.fit, request.given
    yield Assumption(
        name="law",
        value=f"{fit.name} ({fit.law.form} form; N counts {fit.convention.replace('_', '-')} parameters)",
        source=fit.source,
        option="--law",
        is_default="law" not in given,
    )
    if request.budget is not None:
        yield Assumption(
            name="total budget",
            value=format_quantity(request.budget),
            source="yours" if "budget" in given else "a frontier-sized default, to have an answer",
            option="--budget",
            is_default="budget" not in given,
        )
    if match := request.match:
        size, seen = format_count(match.count(fit.convention)), format_count(match.tokens)
        yield Assumption(
            name="model to match",
            value=f"{match.name}, {size} parameters on {seen} tokens, as if trained on the law's data",
            source=match.source,
            option="--match",
        )
    counting, source = COUNTINGS[request.flops]
    yield Assumption(
        name="FLOPs", value=counting, source=source, option="--flops", is_default="flops" not in given
    )
    yield Assumption(
        name="shape",
        value=f"LLaMA, vocabulary {request.vocabulary:,}, context {request.context:,}",
        source="Touvron et al. 2023 (arXiv 2302.13971)",
        option="--vocabulary, --context",
        is_default=not given.keys() & {"vocabulary", "context"},
    )
    if request.kv_heads is not None:
        chosen = (
            f"{request.kv_heads}, the cheapest to serve of {QUALITY_FLOOR} or more, hidden layer wider for it"
        )
        yield Assumption(
            name="KV heads",
            value=f"{request.kv_heads}" if "kv_heads" in given else chosen,
            source="given" if "kv_heads" in given else SOURCE,
            option="--kv-heads",
            is_default="kv_heads" not in given,
        )


def _training(request: Request) -> Iterator[Assumption]:
    training = request.economics.training
    yield from _rental(request, training.rental, "training", "")
    yield _share(request, "training MFU", training.mfu, request.mfu_default, "mfu")
    yield _share(request, "goodput", training.goodput, request.goodput_default, "goodput")
    if request.recompute is not None:
        yield Assumption(
            name="recomputed",
            value=f"{request.recompute}: {format_fraction(training.recomputed, 2)} more FLOPs, and hours",
            source="Korthikanti et al. 2022, arXiv 2205.05198",
            option="--recompute",
        )
    yield _dated(request, "power overhead", f"PUE {request.pue:g}", DEFAULT_PUE, "pue")
    yield _dated(request, "CO2", f"{request.carbon:g} kg a kWh", DEFAULT_CARBON, "carbon")


def _serving(request: Request) -> Iterator[Assumption]:
    serving, demand = request.economics.serving, request.economics.demand
    if demand.serve_tokens == 0:
        return
    yield from _requests(request)
    yield from _rental(request, serving.rental, "serving", "serve_")
    if request.economics.deployment is None:
        yield _share(request, "serving MFU, read", serving.prefill_mfu, DEFAULT_PREFILL_MFU, "serve_mfu")
        yield _share(request, "serving MFU, written", serving.decode_mfu, DEFAULT_DECODE_MFU, "serve_mfu")
    else:
        yield from _roofline(request, request.economics.deployment)
    yield _share(request, "serving utilisation", serving.utilisation, DEFAULT_UTILISATION, "utilisation")


def _requests(request: Request) -> Iterator[Assumption]:
    demand, given = request.economics.demand, request.given
    lengths = {"input_tokens", "output_tokens", "input_share"}
    times = f", {demand.samples} answers each: the prompt is read once" if demand.samples > 1 else ""
    yield Assumption(
        name="a request",
        value=f"{demand.input_tokens:g} tokens read, {demand.output_tokens:g} written{times}",
        source="given" if given.keys() & lengths else DEFAULT_INPUT_SHARE.source,
        date="" if given.keys() & lengths else DEFAULT_INPUT_SHARE.date,
        option="--input-tokens, --output-tokens",
        is_default=not given.keys() & lengths,
    )
    yield from _life(demand)


def _life(demand: Demand) -> Iterator[Assumption]:
    """How the demand is spread: over its months, over what it may be, and in the worth of later dollars."""
    if demand.months is not None:
        months = [format_count(demand.serve_tokens * demand.monthly_shares[at]) for at in (0, -1)]
        yield Assumption(
            name="life",
            value=f"{format_count(demand.serve_tokens)} tokens in {demand.months} months, {months[0]} in the "
            f"first, {months[1]} in the last",
            source="a demand is that of the whole life, unless it is given as one a month",
            option="--months, --growth",
        )
    if demand.discount:
        yield Assumption(
            name="discount",
            value=f"{format_fraction(demand.discount)} a year: a dollar of serving is worth "
            f"{format_number(demand.serve_factor)} today on average",
            source="dollars alone, paid mid-month; a training is paid when its generation starts",
            option="--discount",
        )
    if demand.spread is not None:
        low, high = (format_count(end) for end in demand.spread)
        yield Assumption(
            name="unknown demand",
            value=f"log-normal, {low} to {high} tokens its central 90%, planned for its mean",
            source="costs are linear in the demand, so that the mean is what expected cost depends on",
            option="--serve-tokens",
        )


def _roofline(request: Request, deployment: Deployment) -> Iterator[Assumption]:
    calibration, given = deployment.calibration, request.given
    errors = ", ".join(
        f"{format_fraction(found.median_error, 2)} on {found.held_out} not seen"
        for found in calibration.accuracy
        if found.held_out != "nothing"
    )
    yield Assumption(
        name="serving roofline",
        value=f"constants fitted on {calibration.rows} rates{f'; median error {errors}' if errors else ''}",
        source=calibration.source,
        date=calibration.date,
        option="--serving-benchmarks",
        is_default="serving_benchmarks" not in given,
    )
    yield Assumption(
        name="weights, cache",
        value=f"{deployment.weight_bits:g} and {deployment.kv_bits:g} bits a number",
        source="bits with their scales; what rounding adds to the loss: --quantisation-penalty",
        option="--serve-precision, --kv-bits",
        is_default=not given.keys() & {"serve_precision", "kv_bits"},
    )


def _rental(request: Request, hired: Rental, what: str, prefix: str) -> Iterator[Assumption]:
    chip = hired.accelerator
    rate = format_flops_per_second(chip.peak(hired.precision))
    unconfirmed = f"; unconfirmed: {chip.unconfirmed}" if chip.unconfirmed else ""
    yield Assumption(
        name=f"{what} chip",
        value=f"{chip.name}, {hired.precision}, {rate} dense",
        source=chip.source + unconfirmed,
        option=option(f"{prefix}accelerator"),
        is_default=not request.given.keys() & {"accelerator", f"{prefix}accelerator"},
    )
    price = hired.price_usd_per_hour
    yield Assumption(
        name=f"{what} price",
        value="none" if price is None else format_usd_per_hour(price),
        source=hired.price_source,
        date=hired.price_date,
        option=option(f"{prefix}price"),
        is_default=hired.price_source != "given",
    )


def _share(request: Request, name: str, value: float, default: Default, word: str) -> Assumption:
    return _dated(request, name, format_fraction(value), default, word)


def _dated(request: Request, name: str, value: str, default: Default, word: str) -> Assumption:
    """A value that is given, or that stands by default."""
    is_default = word not in request.given
    return Assumption(
        name=name,
        value=value,
        source=default.source if is_default else "given",
        date=default.date if is_default else "",
        option=option(word),
        is_default=is_default,
    )
