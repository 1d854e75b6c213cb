"""What a plan is asked: words of the command or of Python, read once into a frozen Request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from llama_scale.architecture import LLAMA_CONTEXT, LLAMA_VOCABULARY
from llama_scale.costs import (
    DEFAULT_ACCELERATOR,
    DEFAULT_DECODE_MFU,
    DEFAULT_GOODPUT,
    DEFAULT_INPUT_SHARE,
    DEFAULT_MFU,
    DEFAULT_PREFILL_MFU,
    DEFAULT_UTILISATION,
    CostUnit,
    Demand,
    Economics,
    Rental,
    Serving,
    Training,
    missing_price,
    rental,
)
from llama_scale.errors import InputError
from llama_scale.hardware import PRECISIONS, Precision, accelerator
from llama_scale.laws import (
    ACCOUNTINGS,
    DEFAULT_LAW,
    DEFAULT_LEVEL,
    Fit,
    FlopsAccounting,
    ScalingLaw,
    published,
    resolve_law,
)
from llama_scale.planning.families import ExactFamily, Family, SixNDFamily
from llama_scale.planning.optimum import FlopServing, Objective, Problem
from llama_scale.planning.references import ReferenceModel, reference_model
from llama_scale.quantities import (
    Quantity,
    format_count,
    format_quantity,
    parse_budget,
    parse_count,
    parse_fraction,
    parse_usd_per_hour,
)

Number = str | float
DEFAULT_BUDGET = Quantity(value=1e24, kind="flops")
COST_UNITS: dict[str, CostUnit] = {"flops": "flops", "usd": "usd", "gpu-hours": "gpu_hours"}
HARDWARE_WORDS = (
    "accelerator",
    "serve_accelerator",
    "price",
    "serve_price",
    "mfu",
    "serve_mfu",
    "goodput",
    "utilisation",
)
LARGEST_DEMAND = 1e21  # tokens: every person alive, reading ten thousand tokens a day for thirty years
BUDGET_LIMITS: dict[CostUnit, tuple[float, float]] = {
    "flops": (1e10, 1e32),
    "usd": (1e-2, 1e14),
    "gpu_hours": (1e-4, 1e14),
}
LARGEST_LOSS = 25.0  # nats: a uniform guess among 7e10 words


class PlanOptions(TypedDict, total=False):
    """The words of `plan`, each as its option is called; numbers may be text with units."""

    serve_tokens: Number
    budget: Number | Quantity | None
    target_loss: Number | None
    match: str | None
    cost_in: str | None
    law: str | Path | Fit | None
    flops: str | None
    accelerator: str | None
    serve_accelerator: str | None
    precision: str | None
    serve_precision: str | None
    price: Number | None
    serve_price: Number | None
    mfu: Number | None
    serve_mfu: str | tuple[float, float] | None
    goodput: Number | None
    utilisation: Number | None
    input_share: Number | None
    vocabulary: Number | None
    context: Number | None
    level: Number | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question with every default filled in; `given` names the words that the asker chose."""

    fit: Fit
    law_text: str
    flops: FlopsAccounting
    economics: Economics
    unit: CostUnit
    budget: Quantity | None
    target_loss: float | None
    match: ReferenceModel | None
    vocabulary: int
    context: int
    level: float
    given: Mapping[str, Any]

    @property
    def family(self) -> Family:
        """The continuum of models, counted as asked."""
        if self.flops == "6nd":
            return SixNDFamily(convention=self.fit.convention)
        return ExactFamily(convention=self.fit.convention, vocabulary=self.vocabulary, context=self.context)

    def problem(self) -> Problem:
        """The optimisation that the question comes to, its costs in the objective's unit."""
        rates = self.economics.rates(self.unit)
        return Problem(
            law=self.fit.law,
            family=self.family,
            train_rate=rates.train,
            serving=FlopServing(rate=rates.serve),
            serve_tokens=self.economics.demand.serve_tokens,
        )

    def objective(self, law: ScalingLaw) -> Objective:
        """What is fixed, under `law`; a model to match stands for the loss that the law predicts for it."""
        if self.match is not None:
            return Objective("loss", law.loss(self.match.count(self.fit.convention), self.match.tokens))
        if self.target_loss is not None:
            return Objective("loss", self.target_loss)
        return Objective("budget", (self.budget or DEFAULT_BUDGET).value)


def read_request(options: PlanOptions, *, default_budget: Quantity | None = DEFAULT_BUDGET) -> Request:
    """Reads and checks the words; raises InputError on the first that cannot be meant."""
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - PlanOptions.__annotations__.keys():
        raise InputError(
            f"plan has no argument {', '.join(sorted(unknown))}",
            hint=f"use {', '.join(PlanOptions.__annotations__)}",
        )
    words = _Words(given)
    if "target_loss" in given and "match" in given:
        raise InputError("a target loss and a model to match are two targets", hint="give one of them")
    fit, law_text = _law(given.get("law"))
    asks_for_quality = "target_loss" in given or "match" in given
    budget = _budget(given.get("budget"), None if asks_for_quality else default_budget)
    unit = _unit(words, budget)
    match = reference_model(str(given["match"])) if "match" in given else None
    return Request(
        fit=fit,
        law_text=law_text,
        flops=cast(FlopsAccounting, words.choice("flops", ACCOUNTINGS, fit.flops_accounting)),
        economics=_economics(words, unit),
        unit=unit,
        budget=budget,
        target_loss=words.loss("target_loss"),
        match=match,
        vocabulary=int(words.number("vocabulary", LLAMA_VOCABULARY, low=2, high=1e8)),
        context=int(words.number("context", LLAMA_CONTEXT, low=1, high=1e9)),
        level=words.fraction("level", DEFAULT_LEVEL, high=0.9999),
        given=given,
    )


@dataclass(frozen=True, slots=True)
class _Words:
    """The given words, read one by one with their limits."""

    given: Mapping[str, Any]

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A count between `low` and `high`."""
        if name not in self.given:
            return default
        value = parse_count(self.given[name])
        if not low <= value <= high:
            raise InputError(
                f"{_option(name)} {format_count(value)} is out of all proportion",
                hint=f"give a number from {format_count(low)} to {format_count(high)}",
            )
        return value

    def loss(self, name: str) -> float | None:
        """A loss in nats per token."""
        if name not in self.given:
            return None
        hint = "give nats per token, such as --target-loss 1.95"
        try:
            value = float(self.given[name])
        except ValueError as error:
            raise InputError(f"{_option(name)} '{self.given[name]}' is no number", hint=hint) from error
        if not 0 < value <= LARGEST_LOSS:
            raise InputError(f"{_option(name)} {value:g} is no loss of a language model", hint=hint)
        return value

    def fraction(self, name: str, default: float, *, low: float = 0.0, high: float = 1.0) -> float:
        """A share above 0, unless `low` is below it, and at most `high`."""
        value = parse_fraction(self.given.get(name, default))
        if not (low < value <= high):
            raise InputError(
                f"{_option(name)} {self.given[name]} is not between {max(low, 0):g} and {high:g}",
                hint=f"write a fraction such as {default:g}, or a percentage such as {default:.0%}",
            )
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        value = str(self.given.get(name, default))
        if value not in choices:
            hint = f"choose from {', '.join(choices)}"
            raise InputError(f"{_option(name)} '{value}' is unknown", hint=hint)
        return value

    def price(self, name: str) -> float | None:
        """Dollars an hour, above 0."""
        if name not in self.given:
            return None
        value = parse_usd_per_hour(self.given[name])
        if not 0 < value <= 1e4:
            raise InputError(
                f"{_option(name)} {self.given[name]} is no price for an hour of one accelerator",
                hint="write it like $2.50/h",
            )
        return value


def _law(named: Any) -> tuple[Fit, str]:
    if isinstance(named, Fit):
        return named, named.name
    return (published(), DEFAULT_LAW) if named is None else (resolve_law(str(named)), str(named))


def _budget(named: Any, default: Quantity | None) -> Quantity | None:
    if named is None:
        return default
    budget = named if isinstance(named, Quantity) else parse_budget(named)
    low, high = BUDGET_LIMITS[cast(CostUnit, budget.kind)]
    if not low <= budget.value <= high:
        smallest, largest = (format_quantity(Quantity(value=v, kind=budget.kind)) for v in (low, high))
        raise InputError(
            f"a budget of {format_quantity(budget)} is out of all proportion",
            hint=f"give one from {smallest} to {largest}, such as --budget 1e24 or --budget '$2M'",
        )
    return budget


def _unit(words: _Words, budget: Quantity | None) -> CostUnit:
    """What is counted: the budget's kind, else what was asked for, else dollars where hardware was named."""
    usual = "usd" if any(name in words.given for name in HARDWARE_WORDS) else "flops"
    asked = COST_UNITS[words.choice("cost_in", tuple(COST_UNITS), usual)]
    if budget is None:
        return asked
    if "cost_in" in words.given and asked != budget.kind:
        raise InputError(
            f"a budget of {format_quantity(budget)} cannot be spent in {words.given['cost_in']}",
            hint="leave --cost-in out: the budget says what is counted",
        )
    return cast(CostUnit, budget.kind)


def _economics(words: _Words, unit: CostUnit) -> Economics:
    training, serving = _rentals(words)
    if unit != "gpu_hours":
        for hired, option in ((training, "--price"), (serving, "--serve-price")):
            if hired.price_usd_per_hour is None:
                raise missing_price(hired, option)
    prefill_mfu, decode_mfu = _serving_mfus(words)
    demand = parse_count(words.given.get("serve_tokens", 0))
    if demand > LARGEST_DEMAND:
        raise InputError(
            f"serving {format_count(demand)} tokens is out of all proportion",
            hint=f"give at most {format_count(LARGEST_DEMAND)}, such as --serve-tokens 1e12",
        )
    return Economics(
        training=Training(
            rental=training,
            mfu=words.fraction("mfu", DEFAULT_MFU.value),
            goodput=words.fraction("goodput", DEFAULT_GOODPUT.value),
        ),
        serving=Serving(
            rental=serving,
            prefill_mfu=prefill_mfu,
            decode_mfu=decode_mfu,
            utilisation=words.fraction("utilisation", DEFAULT_UTILISATION.value),
        ),
        demand=Demand(
            serve_tokens=demand,
            input_share=words.fraction("input_share", DEFAULT_INPUT_SHARE.value, low=-math.inf),
        ),
    )


def _rentals(words: _Words) -> tuple[Rental, Rental]:
    """What is rented to train and to serve: by default the same accelerator at the same price."""
    name = words.given.get("accelerator", DEFAULT_ACCELERATOR)
    serve_name = words.given.get("serve_accelerator", name)
    price, serve_price = words.price("price"), words.price("serve_price")
    if serve_price is None and accelerator(serve_name) is accelerator(name):
        serve_price = price
    precision = _precision(words, "precision", name)
    serve_precision = _precision(words, "serve_precision", serve_name)
    return (
        rental(name, precision=precision, price_usd_per_hour=price),
        rental(serve_name, precision=serve_precision, price_usd_per_hour=serve_price),
    )


def _precision(words: _Words, name: str, chip: str) -> Precision:
    """bf16 unless another is named; fp16 on accelerators that came before bf16."""
    usual = "bf16" if "bf16" in accelerator(chip).peak_flops_per_second else "fp16"
    return cast(Precision, words.choice(name, PRECISIONS, usual))


def _serving_mfus(words: _Words) -> tuple[float, float]:
    """MFU of tokens read and of tokens written, given as `0.5/0.2`; one number holds for both."""
    named = words.given.get("serve_mfu", (DEFAULT_PREFILL_MFU.value, DEFAULT_DECODE_MFU.value))
    parts = named.split("/") if isinstance(named, str) else named if isinstance(named, tuple) else (named,)
    if len(parts) not in (1, 2):
        raise InputError(
            f"--serve-mfu {named} has {len(parts)} parts",
            hint="write it as read/written, such as 0.55/0.20, or one number for both",
        )
    read, written = (_Words({"serve_mfu": part}).fraction("serve_mfu", 0.5) for part in (parts[0], parts[-1]))
    return read, written


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
