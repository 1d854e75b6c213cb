"""The command that asks for a plan or a comparison again, and what to ask next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from llama_scale.planning import reading
from llama_scale.planning.request import Request
from llama_scale.quantities import Quantity, format_quantity, parse_budget

if TYPE_CHECKING:
    from llama_scale.planning.values import Plan

DURATIONS = ("deadline", "time_per_output_token", "time_to_first_token")  # numbers of these are in seconds
FIRST = ("serve_tokens", "requests", "budget", "target_loss", "target_score", "match")


def command(plan: Plan) -> str:
    """The command that asks for this plan again, its law, budget and way of counting written out."""
    words = (flag if text is None else f"{flag} {text}" for flag, text in command_words(plan))
    return " ".join(["llama-scale plan", *words])


def command_words(plan: Plan) -> list[tuple[str, str | None]]:
    """The options of that command, each with its value as a shell takes it; a switch has None."""
    request = plan.request
    words = {**request.given, "law": law_words(request), "flops": request.flops}
    if request.budget is not None:
        words["budget"] = request.budget
    ordered = (*FIRST, *(name for name in words if name not in FIRST))
    return [option_words(name, words[name]) for name in ordered if name in words]


def option_words(name: str, value: object) -> tuple[str, str | None]:
    """One word as the command line takes it: its flag and its value."""
    text = f"{plain_word(value)}s" if name in DURATIONS and not isinstance(value, str) else plain_word(value)
    return reading.option(name), None if value is True else shlex.quote(text)


def option(name: str, value: object) -> str:
    """One word as the command line takes it; a switch has no value."""
    flag, text = option_words(name, value)
    return flag if text is None else f"{flag} {text}"


def plain_word(value: object) -> str:
    """A value as an option takes it, exact."""
    if isinstance(value, Quantity):
        text = format_quantity(value)
        if value.kind == "usd" and parse_budget(text).value == value.value:
            return text
        number = _shortest(value.value)
        return {"flops": number, "usd": f"${number}", "gpu_hours": f"{number} GPU-hours"}[value.kind]
    if isinstance(value, tuple | list):
        return "/".join(plain_word(part) for part in value)
    return _shortest(value) if isinstance(value, float) else str(value)


def law_words(request: Request) -> str:
    """The law as the option takes it; a Fit made in Python is written as its constants."""
    fit, text = request.fit, request.law_text
    if fit.name != text or not fit.source.startswith("fit in memory"):
        return text
    return ",".join(f"{name}={float(value)!r}" for name, value in fit.law.constants.items())


def next_steps(plan: Plan, *, explained: bool = False) -> list[str]:
    """What to ask next: the questions that this one left at our defaults."""
    given, steps = plan.request.given, []
    if "law" not in given:
        steps.append("your own law, from llama-scale sweep: --law runs/fits/NAME.json")
    if not given.keys() & {"budget", "target_loss", "target_score", "match", "deadline"}:
        steps.append("your question: --budget '$2M', --match llama-13b, --deadline 30d")
    if not explained:
        steps.append("formulas, recipe, sources: --explain; the bill: --sensitivity")
    return steps


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
