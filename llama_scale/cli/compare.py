"""`llama-scale compare`: existing models side by side, at what they will serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from llama_scale.cli import options
from llama_scale.cli.options import COUNT, MODELS, completing, one_of, with_parameters
from llama_scale.cli.output import csv_text, current_output, entry, table, wrapped
from llama_scale.cli.plan_options import NUMBER, PLAN_OPTIONS

if TYPE_CHECKING:
    from llama_scale.planning import Comparison

QUESTION = frozenset(
    {  # what plan alone asks, or means otherwise
        *("serve_tokens", "budget", "target_loss", "target_score", "match", "against", "max_parameters"),
        *("accelerators", "deadline", "unique_tokens", "retrain_every", "request_rate"),
        *("recompute", "pue", "carbon", "vocabulary", "kv_heads"),
    }
)


@options.command(
    name="compare",
    examples=(
        "llama-scale compare llama-65b chinchilla-70b gpt-3-175b palm-540b",
        "llama-scale compare llama-13b gpt-3-175b --serve-tokens 10T --cost-in usd",
        "llama-scale compare --buy llama-2-70b --serve-tokens 100T",
        "llama-scale compare llama-7b llama-13b llama-33b llama-65b --json",
    ),
)
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=completing(MODELS, or_files=True))
@click.option(
    "--buy",
    multiple=True,
    metavar="MODEL",
    shell_complete=completing(MODELS, or_files=True),
    help="Take this one off the shelf, at no cost of training; against one of your own.",
)
@click.option(
    "--serve-tokens",
    type=COUNT,
    help="Tokens, read and written, that each will serve in its life. [default: 1T]",
)
@click.option(
    "--kv-heads",
    type=NUMBER,
    help="Of the compute-optimal equals. [default: as many as the model has]",
)
@with_parameters(*(option for option in PLAN_OPTIONS if option.name not in QUESTION))
@click.option(
    "--format",
    "form",
    type=one_of(["text", "md", "csv"]),
    default="text",
    help="How to print the answer.",
)
@options.json_option
@options.quiet_option
def command(
    models: tuple[str, ...], buy: tuple[str, ...], form: str, as_json: bool, quiet: bool, **words: Any
) -> None:
    """Which of these models is worth its cost, and from which demand on?

    Takes published models by name (LLaMA, Llama 2 and 3.1, GPT-3, PaLM, Chinchilla, Gopher, ...) or your own
    by a TOML file (tokens, and parameters or a [shape]), and sets them side by side under one law: loss,
    over-training, costs, and the served tokens from which each is cheaper than another, or than the
    compute-optimal model of its loss.
    """
    from llama_scale.planning import compare

    found = compare(*models, buy=buy, **words)
    document = found.to_json()
    views = {
        "text": lambda: list(_text(found)),
        "md": lambda: found._repr_markdown_(),
        "csv": lambda: csv_text([_plain(model) for model in document["models"]]),
    }
    current_output().result(document, views[form])


def _text(found: Comparison) -> Iterator[Any]:
    from llama_scale.planning import comparison_words as words
    from llama_scale.planning.words import assumed

    yield from (wrapped(found.sentence), "")
    yield table(words.rows(found), words.COLUMNS)
    yield from (wrapped(line, 3) for line in words.table_note(found).split("\n"))
    yield ""
    yield table(words.optimal_rows(found), words.OPTIMAL_COLUMNS)
    yield wrapped(words.optimal_note(found), indent=3) + "\n"
    if drawn := words.matrix(found):
        yield from (table(*drawn), "")
    elif len(found.models) > 1:
        yield wrapped(f"who is cheaper than whom: {len(found.pairs)} pairs, with --json", 3) + "\n"
    yield from (entry(reason.heading, reason.text) for reason in words.reasons(found))
    yield ""
    yield entry("assumes", assumed(found.request))
    yield entry("again", words.command(found))
    yield from (entry("next", step) for step in words.next_steps(found))


def _plain(model: dict[str, Any]) -> dict[str, Any]:
    """What a line has room for."""
    return {name: value for name, value in model.items() if not isinstance(value, (dict, list))}
