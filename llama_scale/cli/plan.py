"""`llama-scale plan`: which model to train, given what it will serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from llama_scale.cli import options
from llama_scale.cli.options import BUDGET, COUNT, FRACTION, USD_PER_HOUR, completing

if TYPE_CHECKING:
    from llama_scale.planning import Plan

WIDTH = 78


def _law_names() -> tuple[str, ...]:
    from llama_scale.laws import published_names

    return published_names()


def _accelerator_names() -> tuple[str, ...]:
    from llama_scale.hardware import accelerator_names

    return accelerator_names()


def _model_names() -> tuple[str, ...]:
    from llama_scale.planning.references import reference_names

    return reference_names()


PRECISION = click.Choice(["bf16", "fp16", "fp8", "int8", "fp4"])


@options.command(
    name="plan",
    examples=(
        "llama-scale plan --serve-tokens 1e12",
        "llama-scale plan --serve-tokens 10T --budget '$5M' --accelerator h100",
        "llama-scale plan --serve-tokens 2T --match llama-13b --explain",
        "llama-scale plan --serve-tokens 1e12 --target-loss 1.95 --json",
    ),
)
@click.option(
    "--serve-tokens", type=COUNT, help="Tokens, read and written, that it will serve in its life; 0 for none."
)
@click.option(
    "--budget",
    type=BUDGET,
    help="For training and serving: 1e24 (FLOPs), $2M or 1M GPU-hours. [default: 1e24 FLOPs]",
)
@click.option(
    "--target-loss", type=float, metavar="NATS", help="Reach this loss at the lowest lifetime cost instead."
)
@click.option(
    "--match",
    metavar="MODEL",
    shell_complete=completing(_model_names),
    help="Reach the quality of a published model instead, such as llama-13b.",
)
@click.option(
    "--cost-in",
    type=click.Choice(["flops", "usd", "gpu-hours"]),
    help="What a target is to be cheap in. [default: usd if hardware is named, else flops]",
)
@click.option(
    "--law",
    metavar="LAW",
    shell_complete=completing(_law_names),
    help="A published law, a fit's JSON, or E=..,A=..,B=..,alpha=..,beta=.. [default: besiroglu-2024]",
)
@click.option(
    "--flops",
    type=click.Choice(["6nd", "exact"]),
    help="Count 6ND + 2NT, or the shape's own. [default: as the law was fitted]",
)
@click.option(
    "--accelerator",
    metavar="NAME",
    shell_complete=completing(_accelerator_names),
    help="What trains it. [default: H100-SXM]",
)
@click.option(
    "--serve-accelerator",
    metavar="NAME",
    shell_complete=completing(_accelerator_names),
    help="What serves it. [default: what trains it]",
)
@click.option(
    "--price", type=USD_PER_HOUR, help="Of an hour of one training accelerator. [default: a dated quote]"
)
@click.option(
    "--serve-price", type=USD_PER_HOUR, help="Of an hour of one serving accelerator. [default: a dated quote]"
)
@click.option("--precision", type=PRECISION, help="Of training. [default: bf16]")
@click.option("--serve-precision", type=PRECISION, help="Of serving. [default: bf16]")
@click.option("--mfu", type=FRACTION, help="Of training: useful FLOPs over the peak. [default: 40%]")
@click.option("--goodput", type=FRACTION, help="Share of paid time that trains. [default: 100%]")
@click.option(
    "--serve-mfu",
    metavar="READ/WRITTEN",
    help="Of serving, tokens read and tokens written. [default: 0.55/0.2]",
)
@click.option(
    "--utilisation",
    "--utilization",
    "utilisation",
    type=FRACTION,
    help="Share of paid serving time in use. [default: 100%]",
)
@click.option("--input-share", type=FRACTION, help="Share of the served tokens that are read. [default: 80%]")
@click.option("--vocabulary", type=COUNT, help="Of the shape. [default: 32,000]")
@click.option("--context", type=COUNT, help="Of the shape, in tokens. [default: 2,048]")
@click.option("--level", type=FRACTION, help="Of the intervals. [default: 90%]")
@click.option(
    "--explain",
    is_flag=True,
    help="Add every formula with its numbers, and every assumption with its source.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "md", "csv"]),
    default="text",
    help="How to print the answer.",
)
@options.json_option
@options.quiet_option
def command(explain: bool, form: str, as_json: bool, quiet: bool, **words: Any) -> None:
    """Which model should I train, given what it will serve?

    Takes a scaling law, a demand and a budget (or a quality), and names the model of lowest loss (or
    lowest lifetime cost), a LLaMA shape that can be built, what it costs and how sure the law is of it.
    """
    from llama_scale.cli.output import current_output
    from llama_scale.planning import plan

    answer = plan(**words)
    views = {
        "text": lambda: list(_text(answer, explain)),
        "md": lambda: _markdown(answer),
        "csv": lambda: _csv(answer),
    }
    current_output().result(_document(answer, explain), views[form])


def _document(plan: Plan, explain: bool) -> dict[str, Any]:
    from llama_scale.planning.explain import explain as formulas

    explained = {"formulas": [formula._asdict() for formula in formulas(plan)]} if explain else {}
    return plan.to_json() | explained


def _text(plan: Plan, explain: bool) -> Iterator[Any]:
    """The answer, the table, the reasons, what to beware of, and what to ask next."""
    from llama_scale.cli.output import table
    from llama_scale.planning import words

    yield from (wrapped(plan.sentence), "")
    yield table(words.rows(plan), words.COLUMNS, marked=words.RECOMMENDED_ROW)
    yield _table_note(plan)
    yield from (entry(reason.heading, reason.text) for reason in words.reasons(plan))
    yield from (entry("warning", text) for text in plan.warnings)
    yield ""
    yield from _explained(plan) if explain else _assumed(plan)
    yield from (
        entry("again", words.command(plan)),
        *(entry("next", step) for step in words.next_steps(plan, explained=explain)),
    )


def _table_note(plan: Plan) -> str:
    from llama_scale.planning.words import UNIT_NAMES

    counted = plan.request.fit.convention.replace("_", "-")
    starred = "\n   * the compute-optimal (Chinchilla) model of that loss or that lifetime cost"
    units = f"   loss in nats/token, costs in {UNIT_NAMES[plan.request.unit]}, {counted} parameters"
    return units + (starred if plan.request.economics.demand.serve_tokens else "") + "\n"


def _assumed(plan: Plan) -> Iterator[str]:
    """One paragraph: what is taken for granted, with its age; sources come with --explain."""
    from llama_scale.planning.words import assumed

    yield entry("assumes", f"{assumed(plan.request)}. Sources, ages and options: --explain")


def _explained(plan: Plan) -> Iterator[str]:
    from llama_scale.planning.explain import explain

    yield "Formulas"
    for formula in explain(plan):
        yield entry(
            formula.name, f"{formula.formula}\n{formula.numbers}\nsource: {formula.source}", indent=21
        )
    yield "\nAssumptions"
    for item in plan.assumptions:
        dated = f", {item.date}" if item.date else ""
        mark = "default, change with" if item.is_default else "given by"
        yield entry(item.name, f"{item.value}\n{item.source}{dated} ({mark} {item.option})", indent=21)
    yield ""


def _markdown(plan: Plan) -> str:
    from llama_scale.planning.words import markdown

    return markdown(plan)


def _csv(plan: Plan) -> str:
    """The models, one a line, numbers in base units."""
    models = [
        ("recommended", plan.recommended),
        ("optimum", plan.optimum),
        ("compute_optimal", plan.compute_optimal),
    ]
    if plan.compute_optimal_on_budget is not None:
        models.append(("compute_optimal_on_budget", plan.compute_optimal_on_budget))
    lines = [",".join(("model", *plan.recommended.to_json()))]
    for name, model in models:
        cells = ("" if value is None else repr(value) for value in model.to_json().values())
        lines.append(",".join((name, *cells)))
    return "\n".join(lines)


def wrapped(text: str, indent: int = 0) -> str:
    """Text in lines that fit, all of them indented alike."""
    from textwrap import fill

    margin = " " * indent
    return fill(text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)


def entry(heading: str, text: str, indent: int = 11) -> str:
    """Text under a heading that stands in the margin."""
    from textwrap import fill

    margin = " " * indent
    paragraphs = [
        fill(
            line,
            WIDTH,
            initial_indent=margin,
            subsequent_indent=margin,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for line in text.split("\n")
    ]
    whole = "\n".join(paragraphs)
    if len(heading) < indent:
        return heading.ljust(indent) + whole[indent:]
    return f"{heading}\n{whole}"
