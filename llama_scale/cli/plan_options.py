"""The options of `llama-scale plan`, under the headings that its help shows them by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_scale import quantities
from llama_scale.cli.options import (
    ACCELERATORS,
    BUDGET,
    COUNT,
    FRACTION,
    LAWS,
    MODELS,
    USD_PER_HOUR,
    HeadedOption,
    PathType,
    QuantityType,
    completing,
    one_of,
    with_parameters,
)
from llama_scale.errors import InputError


def _checked(name: str, parse: Callable[[Any], object]) -> QuantityType:
    """A type whose words stay as they were typed once they can be read: `plan` reads them again."""

    def read(text: Any) -> Any:
        parse(text)
        return text

    return QuantityType(name, read, str)


def _plain_number(text: Any) -> float:
    try:
        return quantities.parse_count(text)
    except InputError as error:
        message = error.message.replace("a count of parameters or tokens", "a plain number")
        raise InputError(message, hint="write it without a unit, such as 12") from error


NUMBER = QuantityType("NUMBER", _plain_number, str)
DEMAND = _checked("DEMAND", quantities.parse_count_range)
PER_MONTH = _checked("RATE", lambda text: quantities.parse_rate(text, months=1))
PER_YEAR = _checked("RATE", lambda text: quantities.parse_rate(text, months=12))
DURATION = _checked("DURATION", quantities.parse_seconds)
PRECISION = one_of(["bf16", "fp16", "fp8", "int8", "fp4"])
WEIGHTS = one_of(["bf16", "fp16", "fp8", "int8", "int4", "fp4"])


def _option(*names: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, settings


QUESTION = (
    _option(
        "--budget",
        type=BUDGET,
        help="For training and serving: 1e24 (FLOPs), $2M or 1M GPU-hours. [default: 1e24 FLOPs]",
    ),
    _option(
        "--target-loss",
        type=float,
        metavar="NATS",
        help="Reach this loss at the lowest lifetime cost instead.",
    ),
    _option(
        "--target-score",
        type=FRACTION,
        help="Reach this score of the task that the law was fitted with instead.",
    ),
    _option(
        "--match",
        metavar="MODEL",
        shell_complete=completing(MODELS),
        help="Reach the quality of a published model instead, such as llama-13b, or of a "
        "compute-optimal one by its size: 13B.",
    ),
    _option(
        "--against",
        metavar="MODEL",
        shell_complete=completing(MODELS, or_files=True),
        help="Buy or train: set an open model off the shelf (a name, or a TOML) against the plan.",
    ),
    _option(
        "--cost-in",
        type=one_of(["flops", "usd", "gpu-hours"]),
        help="What a target is to be cheap in. [default: usd if hardware is named, else flops]",
    ),
    _option("--deadline", type=DURATION, help="Train within this time, on --accelerators: 30d."),
    _option("--accelerators", type=NUMBER, help="How many train it: for a deadline, days and a layout."),
    _option("--max-parameters", type=COUNT, help="The most parameters in all, such as 13B."),
    _option(
        "--unique-tokens",
        type=COUNT,
        help="The tokens there are to train on; more than that are epochs of them.",
    ),
)
DEMANDS = (
    _option(
        "--serve-tokens",
        type=DEMAND,
        help="Tokens, read and written, served in its life: 1e12, or 1e11..1e13 (90% sure), or "
        "2B/month at first; 0 for none.",
    ),
    _option("--requests", type=DEMAND, help="Requests served in its life, instead of tokens."),
    _option("--input-tokens", type=COUNT, help="Read by one request. [default: 1,000]"),
    _option("--output-tokens", type=COUNT, help="Written by one, reasoning included. [default: 250]"),
    _option("--input-share", type=FRACTION, help="Share of the served tokens that are read. [default: 80%]"),
    _option(
        "--samples",
        type=NUMBER,
        help="Answers drawn from each prompt, which is read once; --serve-tokens counts one of them. "
        "[default: 1]",
    ),
    _option("--months", type=NUMBER, help="How long it serves; for growth, discount and retraining."),
    _option("--growth", type=PER_MONTH, help="Of the demand, such as 5%/month."),
    _option("--discount", type=PER_YEAR, help="Of later dollars, such as 10%/year."),
    _option("--retrain-every", type=NUMBER, metavar="MONTHS", help="Train a new model so often."),
    _option("--request-rate", type=NUMBER, help="Requests a second at the peak: says how many serve them."),
)
TRAINING = (
    _option(
        "--accelerator",
        metavar="NAME",
        shell_complete=completing(ACCELERATORS),
        help="What trains it. [default: H100-SXM]",
    ),
    _option("--price", type=USD_PER_HOUR, help="Of an hour of one. [default: a dated quote]"),
    _option("--precision", type=PRECISION, help="[default: bf16]"),
    _option("--mfu", type=FRACTION, help="Useful FLOPs over the peak. [default: published, by accelerator]"),
    _option(
        "--goodput",
        type=FRACTION,
        help="Share of paid time that trains. [default: published, by accelerator; 100% with --mfu]",
    ),
    _option(
        "--recompute",
        type=one_of(["none", "selective", "full"]),
        help="Activations that are computed again; costs hours. [default: what fits, as the MFU was]",
    ),
    _option("--pue", type=float, metavar="RATIO", help="Power of the building over boards'. [default: 1.1]"),
    _option("--carbon", type=float, metavar="KG/KWH", help="CO2 of the power. [default: 0.385]"),
)
SERVING = (
    _option(
        "--serve-accelerator",
        metavar="NAME",
        shell_complete=completing(ACCELERATORS),
        help="What serves it. [default: what trains it]",
    ),
    _option(
        "--serve-accelerators",
        type=NUMBER,
        help="The most for one copy of it; given, a limit whatever is counted. [default: 32]",
    ),
    _option("--serve-price", type=USD_PER_HOUR, help="Of an hour of one. [default: a dated quote]"),
    _option("--serve-precision", type=WEIGHTS, help="Of the weights. [default: bf16]"),
    _option(
        "--kv-bits",
        type=one_of(["16", "8"]),
        help="Of the cache. [default: 16 for 16-bit weights, else 8]",
    ),
    _option(
        "--quantisation-penalty",
        "--quantization-penalty",
        "quantisation_penalty",
        is_flag=True,
        default=None,
        help="Add what --serve-precision costs in loss when done after training.",
    ),
    _option(
        "--utilisation",
        "--utilization",
        "utilisation",
        type=FRACTION,
        help="Share of paid serving time in use. [default: 100%]",
    ),
    _option("--time-per-output-token", type=DURATION, help="The longest wait for each: 30ms."),
    _option("--time-to-first-token", type=DURATION, help="The longest wait for the first: 500ms."),
    _option(
        "--serving-benchmarks",
        type=PathType(),
        metavar="CSV",
        help="Your own measured rates, to calibrate what serving takes.",
    ),
    _option(
        "--serve-mfu",
        metavar="READ/WRITTEN",
        help="Count serving at constant MFUs instead, such as 0.55/0.2, whatever the model.",
    ),
)
MODEL = (
    _option(
        "--law",
        metavar="LAW",
        shell_complete=completing(LAWS),
        help="A published law, a fit's JSON, or E=..,A=..,B=..,alpha=..,beta=.. [default: besiroglu-2024]",
    ),
    _option(
        "--flops",
        type=one_of(["6nd", "exact"]),
        help="Count 6ND + 2NT, or the shape's own. [default: as the law was fitted]",
    ),
    _option("--level", type=FRACTION, help="Of the intervals. [default: 90%]"),
    _option("--vocabulary", type=COUNT, help="Of the shape. [default: 32,000]"),
    _option("--context", type=COUNT, help="Of the shape, in tokens. [default: 2,048, or what requests need]"),
    _option(
        "--kv-heads", type=NUMBER, help="That queries share. [default: the cheapest to serve, 8 or more]"
    ),
)
HEADINGS = {
    "Demand": DEMANDS,
    "Question": QUESTION,
    "Law and model": MODEL,
    "Training": TRAINING,
    "Serving": SERVING,
}
PLAN_OPTIONS = [  # every word of `plan`
    HeadedOption(names, heading=heading, **settings)
    for heading, group in HEADINGS.items()
    for names, settings in group
]
plan_options = with_parameters(*PLAN_OPTIONS)
