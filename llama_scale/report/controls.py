"""The controls of the page: what can be moved, how far, in what steps, from where it was planned."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

from llama_scale.frozen import frozen
from llama_scale.planning import Plan
from llama_scale.planning.batches import floor_of

FINE = math.log(1.02)
DEMAND_WIDTH, BUDGET_WIDTH, PRICE_WIDTH = 1000.0, 30.0, 5.0
FIRST_DEMAND = 1e9  # tokens: the least that a plan which serves nothing can be asked for
LOSS_STEP, LOSS_BELOW, LOSS_ABOVE = 0.001, 0.25, 0.5  # nats; no nearer to the law's floor than a fiftieth
MOST_MFU, MOST_READ = 0.8, 0.99


@frozen
class Control:
    """One setting: places on a logarithmic or linear scale, `step` apart, the planned value among them.

    `goal` is the goal that it belongs to, if it has a place in only one of them.
    """

    name: str
    label: str
    format: Literal["count", "share", "price", "loss", "cost"]
    scale: Literal["log", "linear"] = "log"
    step: float = FINE
    low: float
    high: float
    planned: float
    goal: Literal["budget", "loss"] | None = None


def controls(plan: Plan, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The controls of one plan, at its settings; prices only where they are known."""
    found = [*_goals(plan, settings), _demand(settings), *_prices(settings), *_shares(settings)]
    return [asdict(control) for control in found]


def _log(name: str, label: str, form: Any, planned: float, width: float, **others: Any) -> Control:
    low, high = planned / width, planned * width
    return Control(name=name, label=label, format=form, low=low, high=high, planned=planned, **others)


def _goals(plan: Plan, settings: dict[str, Any]) -> list[Control]:
    loss, floor = settings["target_loss"], floor_of(plan.request.law)
    target = Control(
        name="target_loss",
        label="Target loss",
        format="loss",
        scale="linear",
        step=LOSS_STEP,
        low=max(loss - LOSS_BELOW, floor + (loss - floor) / 50),
        high=loss + LOSS_ABOVE,
        planned=loss,
        goal="loss",
    )
    if settings["budget"] is None:
        return [target]
    return [_log("budget", "Budget", "cost", settings["budget"], BUDGET_WIDTH, goal="budget"), target]


def _demand(settings: dict[str, Any]) -> Control:
    planned = settings["serve_tokens"]
    if planned:
        return _log("serve_tokens", "Served tokens", "count", planned, DEMAND_WIDTH)
    return Control(
        name="serve_tokens",
        label="Served tokens",
        format="count",
        step=2 * FINE,
        low=FIRST_DEMAND,
        high=FIRST_DEMAND * DEMAND_WIDTH**2,
        planned=0.0,
    )


def _prices(settings: dict[str, Any]) -> list[Control]:
    train, serve = settings["price"], settings["serve_price"]
    if train is None or serve is None:
        return []
    if train == serve:
        return [_log("price", "Price of an accelerator", "price", train, PRICE_WIDTH)]
    return [
        _log("price", "Price, training", "price", train, PRICE_WIDTH),
        _log("serve_price", "Price, serving", "price", serve, PRICE_WIDTH),
    ]


def _shares(settings: dict[str, Any]) -> list[Control]:
    read = settings["read"] / (settings["read"] + settings["written"])
    named = (
        ("mfu", "Training MFU", settings["mfu"], 0.05, MOST_MFU),
        ("utilisation", "Serving utilisation", settings["utilisation"], 0.05, 1.0),
        ("input_share", "Share of tokens read", read, 0.0, MOST_READ),
    )
    return [
        Control(
            name=name,
            label=label,
            format="share",
            scale="linear",
            step=0.01,
            low=min(low, planned),
            high=max(high, planned),
            planned=planned,
        )
        for name, label, planned, low, high in named
    ]
