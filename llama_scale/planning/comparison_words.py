"""A comparison in words, rows and JSON."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from llama_scale.costs import CostUnit
from llama_scale.planning.again import law_words, option, plain_word
from llama_scale.planning.described import Reason
from llama_scale.planning.markdown import plain, table
from llama_scale.planning.sentence import amount, format_cost
from llama_scale.planning.words import UNIT_NAMES
from llama_scale.quantities import format_count, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.planning.comparison import BuyOrTrain, ComparedModel, Comparison, Crossing

COLUMNS = ("", "model", "params", "tokens", "D/N", "loss", "train", "serve", "total")
OPTIMAL_COLUMNS = ("model", "interval", "over-trained", "compute", "equal loss *", "cheaper than *")
RIVAL = "the compute-optimal model of that loss"
WIDEST_MATRIX = 6  # models whose break-evens fit side by side in 80 columns
CAUTION = (
    "losses are what the law expects of models trained on its own data with its own tokenizer, not what "
    "these models reached: they rank sizes and tokens, not data or tuning"
)


def sentence(comparison: Comparison) -> str:
    """Which models no other here beats, and at what demand."""
    demand = format_count(comparison.request.economics.demand.serve_tokens)
    served = f"Serving {demand} tokens{' (our default)' if comparison.default_demand else ''}"
    frontier = sorted(comparison.frontier, key=lambda model: model.loss_nats)
    best, count = frontier[0], len(comparison.models)
    if count == 1 and comparison.buy_or_train:
        bought = _buying(comparison, comparison.buy_or_train[0])
        return f"{bought[0].upper()}{bought[1:]}."
    if count == 1:
        return _alone(best, comparison, demand)
    servable = [model for model in comparison.models if math.isfinite(model.total(comparison.unit))]
    if not servable:
        return f"{served}, none of these {count} can be served within the limits."
    these = f"these {count}" if len(servable) == count else f"the {len(servable)} that can be served"
    if len(frontier) == 1:
        return (
            f"{served}, {best.name} should have the lowest loss ({best.loss_nats:.3f}) and "
            f"the lowest lifetime cost ({format_cost(best.lifetime, comparison.unit)}) of {these}."
        )
    cheapest = frontier[-1]
    served = served if len(servable) == count else f"{served}, of {these}"
    beaten = [model.name for model in servable if model not in frontier]
    lost = f"; {_list(beaten)} cost more than another of no higher loss" if beaten else ""
    return (
        f"{served}, {best.name} should have the lowest loss ({best.loss_nats:.3f}), "
        f"{cheapest.name} the lowest lifetime cost ({format_cost(cheapest.lifetime, comparison.unit)}){lost}."
    )


def _alone(model: ComparedModel, comparison: Comparison, demand: str) -> str:
    """One model, against the compute-optimal one of its loss."""
    cost, met = format_cost(model.lifetime, comparison.unit), model.against_rival[comparison.unit]
    reached = f"{model.name} should reach a loss of {model.loss_nats:.3f}"
    if met.verdict == "neither":
        return f"{reached}; neither it nor {RIVAL} can be served so."
    spent = "to train" if demand == "0" else f"to train and serve {demand} tokens"
    price = f"{cost} {spent}" if cost != "-" else "it cannot be served so"
    return f"{reached}, and {_against_rival(met)}; {price}."


def _against_rival(met: Crossing) -> str:
    """When a model is the cheaper of it and its compute-optimal equal."""
    if met.serve_tokens is not None:
        return f"is cheaper than {RIVAL} {when(met)} served tokens{' on' if met.verdict == 'from' else ''}"
    if met.verdict == "equal":
        return f"costs as much as {RIVAL}"
    return f"is {met.verdict} cheaper than {RIVAL}"


def _list(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The models as they were named, a `>` before those that no other beats."""
    frontier = comparison.frontier
    return [_row(model, comparison.unit, model in frontier) for model in comparison.models]


def _row(model: ComparedModel, unit: CostUnit, marked: bool) -> tuple[str, ...]:
    costs = [format_cost(model.lifetime, unit, part) for part in ("train", "serve", "total")]
    train, serve, total = (cost.removesuffix(" FLOPs").removesuffix(" GPU-hours") for cost in costs)
    return (
        ">" if marked else "",
        model.name,
        format_count(model.parameters),
        format_count(model.tokens),
        format_number(model.tokens_per_parameter),
        f"{model.loss_nats:.4f}",
        "bought" if model.bought else train,
        serve,
        total,
    )


def optimal_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Each model against the compute-optimal one of the same loss."""
    return [
        (
            model.name,
            f"{model.loss_range.low:.3f}-{model.loss_range.high:.3f}" if model.loss_range else "none",
            f"{format_number(model.overtraining, 2)} x",
            f"{format_number(model.excess_compute, 3)} x",
            f"{format_count(model.rival.parameters)} on {format_count(model.rival.tokens)}",
            when(model.against_rival[comparison.unit]),
        )
        for model in comparison.models
    ]


def when(crossing: Crossing) -> str:
    """A crossing in a word or two."""
    if crossing.serve_tokens is None:
        return crossing.verdict
    return f"{crossing.verdict} {format_count(crossing.serve_tokens)}"


def matrix(comparison: Comparison) -> tuple[list[tuple[str, ...]], tuple[str, ...]] | None:
    """Rows and columns of who is cheaper than whom; None for one model, or more than fit side by side."""
    names = [model.name for model in comparison.models]
    if not 1 < len(names) <= WIDEST_MATRIX:
        return None
    found = {(pair.first, pair.second): pair.crossings[comparison.unit] for pair in comparison.pairs}
    table = []
    for row in names:
        cells = [when(_seen_from(row, column, found)) if row != column else "" for column in names]
        table.append((row, *cells))
    return table, ("cheaper than", *names)


OPPOSITE: dict[str, Any] = {
    "always": "never",
    "never": "always",
    "from": "up to",
    "up to": "from",
    "equal": "equal",
    "neither": "neither",
}


def _seen_from(row: str, column: str, found: dict[tuple[str, str], Crossing]) -> Crossing:
    if (row, column) in found:
        return found[row, column]
    other = found[column, row]
    return other._replace(verdict=OPPOSITE[other.verdict])


def table_note(comparison: Comparison) -> str:
    """What the table's columns count."""
    counted = comparison.request.fit.convention.replace("_", "-")
    return (
        f"loss in nats/token, costs in {UNIT_NAMES[comparison.unit]}, {counted} parameters\n"
        "> no other here has both a lower loss and a lower total"
    )


def optimal_note(comparison: Comparison) -> str:
    """What the second table's columns mean."""
    level = format_level(comparison.request.level)
    fit = comparison.request.fit
    interval = f"where {level} of such runs should land" if fit.draws is not None else fit.draws_note
    return (
        f"* the compute-optimal (Chinchilla) model of the same loss{_sharing(comparison)}, and from which "
        f"demand on the model is cheaper than that one. Interval: {interval}. Over-trained: tokens over the "
        "compute-optimal number for its size; compute: training FLOPs over the least for its loss"
    )


def _sharing(comparison: Comparison) -> str:
    """How the compute-optimal models share KV heads, where that moves what they cost."""
    if comparison.unit == "flops" or comparison.request.economics.deployment is None:
        return ""
    asked = comparison.request.kv_heads
    return " and as many KV heads" if asked is None else f" with {asked} KV heads"


def reasons(comparison: Comparison) -> list[Reason]:
    """What to read beside the tables."""
    said = comparison.buy_or_train if len(comparison.models) > 1 else ()
    found = [Reason("buy", _buying(comparison, offer)) for offer in said]
    found.append(Reason("caution", CAUTION))
    found += [Reason("warning", text) for text in comparison.warnings]
    return found


def _buying(comparison: Comparison, offer: BuyOrTrain) -> str:
    unit, demand = comparison.unit, format_count(comparison.request.economics.demand.serve_tokens)
    mine = f"{format_count(offer.parameters)} parameters on {format_count(offer.tokens)} tokens"
    costs = f"{amount(offer.total, unit)} in all, against {amount(offer.bought_total, unit)} to serve it"
    if offer.break_even is None:
        return f"{offer.bought} off the shelf costs less than training its equal at every demand"
    at = format_count(offer.break_even)
    if offer.total < offer.bought_total:
        return (
            f"train your own rather than buy {offer.bought}: for {demand} tokens, {mine} reach its loss for "
            f"{costs}; buying is cheaper below {at}"
        )
    return (
        f"buy {offer.bought} rather than train its equal: for {demand} tokens that would be {mine}, {costs}; "
        f"training is cheaper above {at}"
    )


def command(comparison: Comparison) -> str:
    """The command that asks for this comparison again."""
    request = comparison.request
    words = {**request.given, "law": law_words(request), "flops": request.flops}
    words.setdefault("serve_tokens", request.economics.demand.serve_tokens)
    words = {"serve_tokens": words.pop("serve_tokens"), **words}
    options = [option(name, value) for name, value in words.items()]
    return " ".join(["llama-scale compare", *map(shlex.quote, comparison.words), *options])


def next_steps(comparison: Comparison) -> list[str]:
    """What to ask next."""
    demand = plain_word(comparison.request.economics.demand.serve_tokens)
    best = min(comparison.models, key=lambda model: model.loss_nats)
    named = best.name if best.source != "your file" else "llama-13b"
    steps = [f"llama-scale plan --match {named} --serve-tokens {demand}"]
    if not comparison.buy_or_train:
        steps.append("buy or train: llama-scale compare --buy llama-2-70b --serve-tokens 1e13")
    return steps


def markdown(comparison: Comparison) -> str:
    """The answer, the tables and the cautions in Markdown."""
    parts = [f"**{sentence(comparison)}**", table(rows(comparison), COLUMNS)]
    parts.append(plain(table_note(comparison).replace("\n", "; ")) + ".")
    parts += [table(optimal_rows(comparison), OPTIMAL_COLUMNS), plain(optimal_note(comparison)) + "."]
    if drawn := matrix(comparison):
        parts.append(table(*drawn))
    parts.append("\n".join(f"- *{reason.heading}*: {reason.text}." for reason in reasons(comparison)))
    parts.append(f"`{command(comparison)}`\n")
    return "\n\n".join(parts)
