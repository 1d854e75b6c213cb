"""`llama-scale plan`: which model to train, given what it will serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale.cli import options
from llama_scale.cli.output import csv_text, current_output, entry, table, wrapped
from llama_scale.cli.plan_options import plan_options
from llama_scale.errors import InputError

if TYPE_CHECKING:
    from llama_scale.planning import Plan


@options.command(
    name="plan",
    examples=(
        "llama-scale plan --serve-tokens 1e12",
        "llama-scale plan --serve-tokens 10T --budget '$5M' --accelerator h100",
        "llama-scale plan --serve-tokens 2T --match llama-13b --explain",
        "llama-scale plan --serve-tokens 1e12 --target-loss 1.95 --json",
    ),
)
@plan_options
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Add the table of inputs (price, MFU, demand, law, ...) by the dollars that each moves.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Add every formula with its numbers, and every assumption with its source.",
)
@click.option(
    "--format",
    "form",
    type=options.one_of(["text", "md", "csv"]),
    default="text",
    help="How to print the answer.",
)
@click.option(
    "--html",
    type=options.PathType(path_type=Path),
    metavar="FILE",
    help="Write the answer as one HTML file too, with live controls.",
)
@click.option("--force", is_flag=True, help="Replace the file of --html.")
@options.json_option
@options.quiet_option
def command(
    sensitivity: bool,
    explain: bool,
    form: str,
    html: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **words: Any,
) -> None:
    """Which model should I train, given what it will serve?

    Takes a scaling law, a demand and a budget (or a quality), and names the model of lowest loss (or
    lowest lifetime cost), a LLaMA shape that can be built, what it costs and how sure the law is of it.
    """
    from llama_scale.planning import plan
    from llama_scale.planning.markdown import markdown

    if form == "csv" and not as_json and (explain or sensitivity):
        adds = "explain" if explain else "sensitivity"
        raise InputError(
            f"--{adds} adds what --format csv, the models line by line, has no place for",
            hint="leave one of them out, or use --format md or --json",
        )
    if html is not None:
        from llama_scale.files import at_home
        from llama_scale.report import check_target

        check_target(at_home(html), overwrite=force, sources=words.values())
    answer = plan(**words)
    if html is not None:
        from llama_scale.report import write_report

        current_output().talk(f"written to {write_report(answer, html, overwrite=force)}")
    views = {
        "text": lambda: list(_text(answer, explain, sensitivity)),
        "md": lambda: markdown(answer, explained=explain, sensitivity=sensitivity),
        "csv": lambda: _csv(answer),
    }
    current_output().result(_document(answer, explain), views[form])


def _document(plan: Plan, explain: bool) -> dict[str, Any]:
    if not explain:
        return plan.to_json()
    from llama_scale.planning.explain import explain as formulas

    return plan.to_json() | {"formulas": [formula._asdict() for formula in formulas(plan)]}


def _text(plan: Plan, explain: bool, sensitivity: bool) -> Iterator[Any]:
    """The answer, the table, the reasons, what to beware of, and what to ask next."""
    from llama_scale.planning import words
    from llama_scale.planning.again import command, next_steps
    from llama_scale.planning.reasons import reasons

    yield from (wrapped(plan.sentence), "")
    yield table(words.rows(plan), words.COLUMNS, marked=words.RECOMMENDED_ROW)
    yield from (wrapped(words.table_note(plan), 3), "")
    yield from (entry(reason.heading, reason.text) for reason in reasons(plan))
    yield from (entry("warning", text) for text in plan.warnings)
    yield from _tables(plan, explain or sensitivity)
    yield ""
    if explain:
        yield from _explained(plan)
    else:
        yield entry("assumes", words.assumed(plan.request))
    yield entry("again", command(plan))
    yield from (entry("next", step) for step in next_steps(plan, explained=explain))


def _tables(plan: Plan, sensitivity: bool) -> Iterator[Any]:
    """The regret of a demand that is not known, and, if asked for, what moves the bill."""
    from llama_scale.planning import words

    if plan.regret is not None:
        yield ""
        yield table(*words.regret_rows(plan))
        yield wrapped(words.REGRET_NOTE, 3)
    if sensitivity and plan.sensitivity:
        yield ""
        yield table(words.sensitivity_rows(plan), words.SENSITIVITY_COLUMNS)
        yield wrapped(words.SENSITIVITY_NOTE, 3)


def _explained(plan: Plan) -> Iterator[str]:
    from llama_scale.planning.explain import explain

    yield "Formulas"
    for formula in explain(plan):
        yield entry(
            formula.name, f"{formula.formula}\n{formula.numbers}\nsource: {formula.source}", indent=21
        )
    yield entry("recipe", "\n".join((plan.recipe.text, *plan.recipe.warnings)), indent=21)
    if plan.kv_choice is not None:
        yield entry("KV heads", plan.kv_choice.reason, indent=21)
    yield "\nAssumptions"
    for item in plan.assumptions:
        dated = f", {item.date}" if item.date else ""
        mark = "default, change with" if item.is_default else "given by"
        yield entry(item.name, f"{item.value}\n{item.source}{dated} ({mark} {item.option})", indent=21)
    yield ""


def _csv(plan: Plan) -> str:
    """The models, one a line."""
    models = {
        "recommended": plan.recommended,
        "optimum": plan.optimum,
        "compute_optimal": plan.compute_optimal,
        "compute_optimal_on_budget": plan.compute_optimal_on_budget,
    }
    return csv_text(
        [{"model": name, **model.to_json()} for name, model in models.items() if model is not None]
    )
