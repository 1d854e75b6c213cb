"""Reads what is demanded and what meets it: requests and their growth, accelerators, prices, the roofline."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

from llama_scale.architecture import LLAMA_CONTEXT
from llama_scale.costs import (
    DEFAULT_ACCELERATOR,
    DEFAULT_DECODE_MFU,
    DEFAULT_PREFILL_MFU,
    DEFAULT_UTILISATION,
    CostUnit,
    Default,
    Demand,
    Economics,
    Rental,
    Serving,
    Spread,
    Training,
    missing_price,
    rental,
)
from llama_scale.costs.demand import DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS, total_of_months
from llama_scale.costs.efficiency import training_goodput, training_mfu
from llama_scale.costs.formats import WEIGHT_FORMATS, serve_in
from llama_scale.costs.serving import Deployment
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.hardware import PRECISIONS, Precision, accelerator
from llama_scale.laws import FlopsAccounting
from llama_scale.planning.reading import Words, option
from llama_scale.quantities import format_count

LARGEST_DEMAND = 1e21  # tokens: every person alive, reading ten thousand tokens a day for thirty years
LARGEST_REQUEST = 1e7  # tokens
SHORTEST_CONTEXT, LONGEST_CONTEXT = 16, 1_000_000_000
SLOWEST_TOKEN, SLOWEST_FIRST_TOKEN = 10.0, 60.0  # seconds: who means more has left a unit out
MOST_SERVING = 32  # accelerators that one copy of a model may be spread over: four nodes
BY_ROOFLINE = (
    *("time_per_output_token", "time_to_first_token", "request_rate"),
    *("serving_benchmarks", "kv_bits", "serve_accelerators"),
)
NOT_LOST = Default(1.0, "an MFU that you give counts every hour", "")


@frozen
class Supply:
    """How a question is met: its economics, the defaults behind them, and the context that requests need."""

    economics: Economics
    mfu: Default
    goodput: Default
    context: int
    weight_bits: float


def read_supply(words: Words, unit: CostUnit, flops: FlopsAccounting) -> Supply:
    """Demand, training and serving from the words.

    Raises InputError on the first that cannot be meant, or for dollars where a price is missing.
    """
    training, serving, weight_bits = _rentals(words)
    if unit != "gpu_hours":
        for hired, named in ((training, "--price"), (serving, "--serve-price")):
            if hired.price_usd_per_hour is None:
                raise missing_price(hired, named)
    demand = read_demand(words)
    _refuse_unused(words, demand)
    context = _context(words, demand)
    mfu = training_mfu(training.accelerator, accounting=flops, precision=training.precision)
    goodput = NOT_LOST if "mfu" in words.given else training_goodput(training.accelerator)
    read, written = words.read_and_written("serve_mfu", (DEFAULT_PREFILL_MFU.value, DEFAULT_DECODE_MFU.value))
    utilisation = words.fraction("utilisation", DEFAULT_UTILISATION.value)
    economics = Economics(
        training=Training(
            rental=training,
            mfu=words.fraction("mfu", mfu.value),
            goodput=words.fraction("goodput", goodput.value),
        ),
        serving=Serving(rental=serving, prefill_mfu=read, decode_mfu=written, utilisation=utilisation),
        demand=demand,
        deployment=_deployment(words, serving, weight_bits, demand, context),
    )
    return Supply(economics=economics, mfu=mfu, goodput=goodput, context=context, weight_bits=weight_bits)


def read_demand(words: Words) -> Demand:
    """What is served: tokens or requests, in all or in the first month, as one number or a range."""
    words.refuse_together("serve_tokens", "requests", why="two demands")
    months = words.whole("months", low=1, high=600)
    demand = replace(
        _request(words),
        months=months,
        growth=words.rate("growth", months=1, low=-0.9, high=1.0),
        discount=words.rate("discount", months=12, low=0.0, high=1.0),
        retrain_months=words.whole("retrain_every", low=1, high=600),
    )
    for name in ("growth", "discount", "retrain_every"):
        if name in words.given and months is None:
            raise InputError(
                f"{option(name)} says nothing without the length of the life",
                hint="add it in months, such as --months 36",
            )
    if months is not None and (demand.retrain_months or 0) > months:
        raise InputError(
            f"--retrain-every {demand.retrain_months} is longer than the life of {months} months",
            hint=f"leave it out, or give {months} or fewer",
        )
    return _served(words, demand)


def _served(words: Words, demand: Demand) -> Demand:
    """The demand with its tokens: of the life, or of the first month and what follows; read and written.

    Tokens are given for one sample of each request, since more samples read nothing more.
    """
    each = demand.tokens_per_request / (demand.input_tokens + demand.output_tokens)
    amount = words.count_range("serve_tokens", high=LARGEST_DEMAND)
    if amount is None:
        amount, each = words.count_range("requests", high=LARGEST_DEMAND), demand.tokens_per_request
    if amount is None:
        return demand
    if amount.per_month:
        if demand.months is None:
            raise InputError("a demand of a month says nothing without the life", hint="add --months 36")
        each *= total_of_months(1.0, demand.growth, demand.months)
    spread = Spread(amount.low * each, amount.high * each)
    if amount.low == amount.high:
        return replace(demand, serve_tokens=spread.low)
    if spread.mean > LARGEST_DEMAND:
        raise InputError(
            f"a demand from {format_count(amount.low)} to {format_count(amount.high)} is too wide to plan "
            f"for: the mean of so wide a log-normal is {format_count(spread.mean)} tokens",
            hint="bring its ends nearer to each other, such as 1e11..1e13",
        )
    return replace(demand, serve_tokens=spread.mean, spread=spread)


def _request(words: Words) -> Demand:
    """What one request reads and writes, by its lengths or by the share that is read."""
    if "input_share" in words.given:
        words.refuse_together("input_share", "input_tokens", why="two ways to say what a request reads")
        words.refuse_together("input_share", "output_tokens", why="two ways to say what a request reads")
    whole = DEFAULT_INPUT_TOKENS + DEFAULT_OUTPUT_TOKENS
    share = words.fraction("input_share", DEFAULT_INPUT_TOKENS / whole, low=-math.inf)
    read = words.number("input_tokens", share * whole, low=0, high=LARGEST_REQUEST)
    written = words.number("output_tokens", whole - share * whole, low=1, high=LARGEST_REQUEST)
    samples = words.whole("samples", low=1, high=100_000) or 1
    return Demand(serve_tokens=0.0, input_tokens=read, output_tokens=written, samples=samples)


def _context(words: Words, demand: Demand) -> int:
    """The context that was asked for, which must hold a request, or the usual one."""
    longest = demand.input_tokens + demand.output_tokens
    usual = context_for(longest)
    context = words.whole("context", low=SHORTEST_CONTEXT, high=LONGEST_CONTEXT) or usual
    asked = words.given.keys() & {"input_tokens", "output_tokens"}
    if (asked or demand.serve_tokens) and longest > context:
        default = "" if asked else ", our default,"
        raise InputError(
            f"a request of {demand.input_tokens:g} tokens read and {demand.output_tokens:g} written{default} "
            f"does not fit in a context of {context:,}",
            hint=f"raise --context to {usual}, or lower --input-tokens or --output-tokens",
        )
    return context


def context_for(tokens: float) -> int:
    """LLaMA's context, or the least power of two that holds a request: a longer one only trains dearer.

    >>> context_for(6500)
    8192
    """
    return max(LLAMA_CONTEXT, 1 << math.ceil(math.log2(tokens)))


def _deployment(
    words: Words, serving: Rental, weight_bits: float, demand: Demand, context: int
) -> Deployment | None:
    """The roofline, unless constant MFUs are asked for."""
    limits = {
        "time_per_output_token_seconds": words.seconds(
            "time_per_output_token", low=1e-5, high=SLOWEST_TOKEN, example="30ms"
        ),
        "time_to_first_token_seconds": words.seconds(
            "time_to_first_token", low=1e-4, high=SLOWEST_FIRST_TOKEN, example="500ms"
        ),
    }
    if "serve_mfu" in words.given:
        return None
    others: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    if "serving_benchmarks" in words.given:
        from llama_scale.costs.calibration import calibrate_from_csv

        others["calibration"] = calibrate_from_csv(words.given["serving_benchmarks"])
    return Deployment(
        rental=serving,
        weight_bits=weight_bits,
        kv_bits=float(words.choice("kv_bits", ("16", "8"), "16" if weight_bits >= 16 else "8")),
        input_tokens=demand.input_tokens,
        output_tokens=max(demand.output_tokens, 1.0),
        samples=demand.samples,
        utilisation=words.fraction("utilisation", DEFAULT_UTILISATION.value),
        most_accelerators=words.whole("serve_accelerators", low=1, high=1024) or MOST_SERVING,
        **others,
    )


def _refuse_unused(words: Words, demand: Demand) -> None:
    """Raises InputError for words that would change nothing, beside those that they are given with."""
    by_roofline = next((name for name in BY_ROOFLINE if name in words.given), None)
    if by_roofline and "serve_mfu" in words.given:
        raise InputError(
            f"{option(by_roofline)} takes the roofline, which --serve-mfu replaces",
            hint="leave one of them out",
        )
    if "request_rate" in words.given and not demand.serve_tokens:
        raise InputError(
            "--request-rate says nothing where nothing is served",
            hint="leave it out, or give a demand, such as --serve-tokens 1e12",
        )


def _rentals(words: Words) -> tuple[Rental, Rental, float]:
    """What is rented to train and to serve, by default the same at one price; bits of a weight."""
    name = words.given.get("accelerator", DEFAULT_ACCELERATOR)
    serve_name = words.given.get("serve_accelerator", name)
    price, serve_price = words.price("price"), words.price("serve_price")
    if serve_price is None and accelerator(serve_name) is accelerator(name):
        serve_price = price
    precision = cast(Precision, words.choice("precision", PRECISIONS, accelerator(name).trains_in))
    weights = words.choice("serve_precision", WEIGHT_FORMATS, accelerator(serve_name).trains_in)
    served = serve_in(serve_name, weights, price_usd_per_hour=serve_price)
    return (
        rental(name, precision=precision, price_usd_per_hour=price),
        served.rental,
        served.weight_bits,
    )
