"""A plan in Markdown, for notebooks and pages: all that the terminal shows, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llama_scale.costs import Assumption
from llama_scale.planning import words
from llama_scale.planning.again import command, next_steps
from llama_scale.planning.reasons import reasons
from llama_scale.planning.sentence import sentence

if TYPE_CHECKING:
    from llama_scale.planning.values import Plan

ASSUMPTION_COLUMNS = ("assumption", "value", "source", "as of", "option")


def markdown(plan: Plan, *, explained: bool = False, sensitivity: bool = False) -> str:
    """The answer, the tables, the reasons, what is assumed and what to ask next.

    `explained` adds every formula, and every assumption with its source; `sensitivity`, which it includes,
    what moves the bill.
    """
    parts = [
        f"**{sentence(plan)}**",
        table(words.rows(plan), words.COLUMNS, marked=words.RECOMMENDED_ROW),
        _sentence(words.table_note(plan)),
        "\n".join(_reasons(plan)),
        *_tables(plan, sensitivity or explained),
        *(_explained(plan) if explained else [f"Assumes {words.assumed(plan.request)}."]),
        f"`{command(plan)}`",
        "\n".join(f"- *next*: {plain(step)}" for step in next_steps(plan, explained=explained)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def table(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...], marked: int | None = None) -> str:
    """Rows under their columns, the `marked` one in bold."""
    lines = [columns, *(tuple(cell.strip() for cell in row) for row in rows)]
    cells = [[plain(cell).replace("|", "\\|") for cell in line] for line in lines]
    if marked is not None:
        cells[marked + 1] = [f"**{cell}**" for cell in cells[marked + 1]]
    head, *body = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([head, f"|{'---|' * len(columns)}", *body])


def _reasons(plan: Plan) -> Iterator[str]:
    yield from (f"- *{reason.heading}*: {reason.text}." for reason in reasons(plan))
    yield from (f"- **warning**: {warning}." for warning in plan.warnings)


def _tables(plan: Plan, sensitivity: bool) -> Iterator[str]:
    if plan.regret is not None:
        yield table(*words.regret_rows(plan))
        yield _sentence(words.REGRET_NOTE)
    if sensitivity and plan.sensitivity:
        yield table(words.sensitivity_rows(plan), words.SENSITIVITY_COLUMNS)
        yield _sentence(words.SENSITIVITY_NOTE)


def _explained(plan: Plan) -> Iterator[str]:
    from llama_scale.planning.explain import explain

    yield "\n".join(
        f"- *{formula.name}*: `{formula.formula}`, `{formula.numbers}` ({formula.source})."
        for formula in explain(plan)
    )
    yield f"- *recipe*: {'; '.join((plan.recipe.text, *plan.recipe.warnings))}."
    if plan.kv_choice is not None:
        yield f"- *KV heads*: {plan.kv_choice.reason}."
    yield table([_assumption(item) for item in plan.assumptions], ASSUMPTION_COLUMNS)


def _assumption(item: Assumption) -> tuple[str, ...]:
    mark = "default" if item.is_default else "given"
    return item.name, item.value, item.source, item.date, f"{item.option} ({mark})"


def _sentence(note: str) -> str:
    return f"{plain(note[0].upper() + note[1:])}."


def plain(text: str) -> str:
    """Text in which no sign of Markdown is left that was not meant as one."""
    return text.replace("*", "\\*").replace(">", "\\>")
