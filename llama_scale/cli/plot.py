"""`llama-scale plot KIND`: pictures of runs, of a law, of a plan, of models that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale.cli import compare
from llama_scale.cli.options import (
    Group,
    PathType,
    json_option,
    quiet_option,
    store_option,
    where_option,
    with_parameters,
)
from llama_scale.cli.output import current_output, table
from llama_scale.cli.plan_options import plan_options
from llama_scale.cli.settings import OwnOption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = tuple["Figure", dict[str, Any]]  # a figure, and what --json says of its source


def _sources(function: Any) -> Any:
    """Where runs and laws come from: what is named, or else the store."""
    return click.argument("sources", nargs=-1, metavar="[SOURCE]...", type=PathType())(store_option(function))


OF_RUNS = ("{}", "{} runs.csv -o {}.svg", "{} runs/fits/default.json -o {}.pdf --force")


@click.group(
    cls=Group,
    alone="kinds",
    examples=("llama-scale plot", "llama-scale plot --json", "llama-scale plot isoflop"),
)
def command() -> None:
    """What do runs, a law or a plan look like, as a picture?

    Each KIND writes one figure as PNG, SVG or PDF, by the ending of -o. SOURCE is a run store (the default),
    a table, or a fit's file, which holds its runs; laws are those that `fit` or `sweep` kept of just these
    runs. Pictures of a plan take the words of `llama-scale plan`, those of models those of `compare`.
    Without a COMMAND it is `llama-scale plot kinds`.
    """


@command.command(examples=("llama-scale plot kinds", "llama-scale plot kinds --json"))
@json_option
@click.pass_context
def kinds(ctx: click.Context, as_json: bool) -> None:
    """Which pictures are there, and what does each answer?"""
    assert isinstance(command, Group)
    questions = [(name, one.get_short_help_str(80)) for name, one in sorted(command.commands.items())]
    drawn = [(name, question) for name, question in questions if name != ctx.info_name]
    document = {"kinds": [{"kind": name, "question": question} for name, question in drawn]}
    current_output().result(document, lambda: table(drawn, ("kind", "question")))


def _kind(
    name: str, question: str, examples: Sequence[str]
) -> Callable[[Callable[..., Drawn]], click.Command]:
    """Makes a function that draws a command that also writes, and says what it wrote."""

    def decorate(draw: Callable[..., Drawn]) -> click.Command:
        def run(output: Path, force: bool, as_json: bool, quiet: bool, **words: Any) -> None:
            words.pop("store", None)  # `plot_sources` asks for it
            _write(name, output, force, words.values(), lambda: draw(**words))

        run.__doc__ = f"{question}\n\n{cleandoc(draw.__doc__ or '')}"
        function: Any = quiet_option(json_option(run))
        function = click.option("--force", is_flag=True, help="Replace the file if it exists.")(function)
        function = click.option(
            "-o",
            "--output",
            cls=OwnOption,
            type=PathType(dir_okay=False, path_type=Path),
            default=f"{name}.png",
            help="The picture: its ending chooses PNG, SVG or PDF.",
        )(function)
        function.__click_params__ += getattr(draw, "__click_params__", [])
        lines = tuple(f"llama-scale plot {example.format(name, name)}" for example in examples)
        return command.command(name=name, examples=lines)(function)

    return decorate


def _write(
    kind: str, output: Path, force: bool, sources: Iterable[object], draw: Callable[[], Drawn]
) -> None:
    """Checks the file's name before any work, draws, and writes."""
    from llama_scale.files import check_new
    from llama_scale.plots.files import format_of, save

    form = format_of(output)
    check_new(output, overwrite=force, other="-o", sources=sources)
    figure, facts = draw()
    save(figure, output)
    title = " ".join(title for axes in figure.axes if (title := axes.get_title("left")))
    width, height = (float(side) for side in figure.get_size_inches())
    size = {"width_inches": width, "height_inches": height, "bytes": output.stat().st_size}
    document = {"kind": kind, "file": str(output), "format": form, "title": title, **size, **facts}
    current_output().result(document, f"{output}: {title}")


def _runs_and_law(sources: Sequence[str], where: Sequence[str]) -> tuple[Any, Any, dict[str, Any]]:
    from llama_scale.cli.plot_sources import runs_and_law

    runs, fit = runs_and_law(sources, where)
    held = 0 if runs.held_out is None else len(runs.held_out)
    return runs, fit, {"runs": len(runs), "held_out": held, "law": None if fit is None else fit.name}


def _runs_beside_law(kind: str, sources: Sequence[str], where: Sequence[str]) -> Drawn:
    from llama_scale import plots
    from llama_scale.cli.plot_sources import needed

    runs, fit, facts = _runs_and_law(sources, where)
    return getattr(plots, kind)(needed(fit, sources, kind, where), runs), facts


@_kind("curves", "How did the runs learn?", ("{}", "{} runs -o {}.svg", "{} curves.csv --force"))
@_sources
def draw_curves(sources: tuple[str, ...]) -> Drawn:
    """Loss of every run by tokens and by FLOPs, smoothed, with the losses as logged behind.

    SOURCE is a store, or a table with a row a logged step (`llama-scale runs export --curves` writes one).
    """
    from llama_scale import plots
    from llama_scale.cli.plot_sources import default_store
    from llama_scale.fitting.learning import learning_curves

    found = [curve for source in sources or (default_store(),) for curve in learning_curves(Path(source))]
    return plots.loss_curves(found), {"runs": len(found)}


@_kind("isoflop", "Which size is best at each compute budget?", OF_RUNS)
@_sources
@where_option
def draw_isoflop(sources: tuple[str, ...], where: tuple[str, ...]) -> Drawn:
    """Loss against size at each budget, the fitted minima and, where a law is kept, the runs held out."""
    from llama_scale import plots

    runs, fit, facts = _runs_and_law(sources, where)
    return plots.isoflop(runs, fit), facts


@_kind("envelope", "Which size is best as compute grows?", OF_RUNS)
@_sources
@where_option
def draw_envelope(sources: tuple[str, ...], where: tuple[str, ...]) -> Drawn:
    """Losses of each size against FLOPs, their lower edge, and the best size along it (Approach 1)."""
    from llama_scale import plots

    runs, _, facts = _runs_and_law(sources, where)
    return plots.envelope(runs), facts


@_kind("contours", "What does the law say between and beyond the runs?", OF_RUNS)
@_sources
@where_option
def draw_contours(sources: tuple[str, ...], where: tuple[str, ...]) -> Drawn:
    """Lines of equal loss over budgets and sizes, the runs, and the efficient frontier with its band."""
    return _runs_beside_law("contours", sources, where)


@_kind("predictions", "Does the law predict the runs, and those that it never saw?", OF_RUNS)
@_sources
@where_option
def draw_predictions(sources: tuple[str, ...], where: tuple[str, ...]) -> Drawn:
    """Predicted against measured loss; runs held out are marked, with their intervals."""
    return _runs_beside_law("predictions", sources, where)


@_kind("residuals", "Is anything left in the errors of the law?", OF_RUNS)
@_sources
@where_option
def draw_residuals(sources: tuple[str, ...], where: tuple[str, ...]) -> Drawn:
    """Relative errors against compute and tokens per parameter, beside the noise of a run."""
    return _runs_beside_law("residuals", sources, where)


def _law(kind: str, sources: tuple[str, ...]) -> Drawn:
    from llama_scale import plots
    from llama_scale.cli.plot_sources import law_of

    fit = law_of(sources, kind)
    return getattr(plots, kind)(fit), {"law": fit.name}


@_kind(
    "optima",
    "How do the best size and tokens grow with compute?",
    ("{}", "{} besiroglu-2024 -o {}.svg", "{} runs/fits/default.json -o {}.pdf --force"),
)
@_sources
def draw_optima(sources: tuple[str, ...]) -> Drawn:
    """N_opt and D_opt against C with bands, and what the other two approaches say.

    SOURCE may be a published law too.
    """
    return _law("optima", sources)


@_kind("choice", "Which form of law predicts best?", OF_RUNS)
@_sources
def draw_choice(sources: tuple[str, ...]) -> Drawn:
    """Every candidate's error in predicting farther runs from nearer ones, and how much it is heard."""
    return _law("choice", sources)


@_kind("backtest", "How well would this have worked on the farthest runs?", OF_RUNS)
@_sources
def draw_backtest(sources: tuple[str, ...]) -> Drawn:
    """Laws of the nearer four fifths of the runs judged on the farthest fifth (made by `fit --backtest`)."""
    return _law("backtest", sources)


def _planned(words: dict[str, Any], figure: str) -> Drawn:
    """Plans, computes the curve of the figure's name where there is one, draws."""
    from llama_scale import plots
    from llama_scale.planning import curves, plan
    from llama_scale.planning.again import command as again

    answer = plan(**words)
    drawn: Any = getattr(plots, figure)
    told = {"answer": answer.sentence, "again": again(answer)}
    if (curve_of := getattr(curves, figure, None)) is None:
        return drawn(answer), told
    return drawn(curve_of(answer), convention=answer.request.fit.convention), told


@_kind(
    "cost",
    "What would other sizes cost, as good as the chosen one?",
    ("{} --serve-tokens 1e12", "{} --serve-tokens 2T --match llama-13b -o {}.svg"),
)
@plan_options
def draw_cost(**words: Any) -> Drawn:
    """Lifetime cost against size at equal loss, training and serving stacked, the sizes within 1 % and 5 % of
    the least, the chosen and the compute-optimal model.
    """
    return _planned(words, "cost_by_size")


@_kind(
    "loss",
    "What would other sizes reach for the same money?",
    ("{} --serve-tokens 1e12", "{} --serve-tokens 1e12 --budget '$5M' -o {}.svg"),
)
@plan_options
def draw_loss(**words: Any) -> Drawn:
    """Loss against size at equal total cost of training and serving."""
    return _planned(words, "loss_by_size")


@_kind(
    "demand",
    "How does the best model change with what it serves?",
    ("{} --serve-tokens 1e12", "{} --serve-tokens 1e12 --budget '$5M' -o {}.svg"),
)
@plan_options
def draw_demand(**words: Any) -> Drawn:
    """Best size and tokens per parameter against served tokens, the planned demand marked."""
    return _planned(words, "best_by_demand")


@_kind(
    "break-even",
    "When has the chosen model paid for its longer training?",
    (
        "{} --serve-tokens 2T --match llama-13b",
        "{} --serve-tokens 1e12 --months 24 --growth 5%/month",
    ),
)
@plan_options
def draw_break_even(**words: Any) -> Drawn:
    """Cumulative cost of the chosen and of the compute-optimal model of its loss, and where they are even."""
    return _planned(words, "cost_over_time")


@_kind(
    "sensitivity",
    "Which input moves the bill, and the choice?",
    ("{} --serve-tokens 1e12 --budget '$5M'", "{} --serve-tokens 2T --match llama-13b -o bill.svg"),
)
@plan_options
def draw_sensitivity(**words: Any) -> Drawn:
    """The tornado: every input at its low and its high, by the dollars between them."""
    return _planned(words, "sensitivity")


def _compared(models: tuple[str, ...], words: dict[str, Any], figure: str) -> Drawn:
    from llama_scale import plots
    from llama_scale.planning import compare as compared

    found = compared(*(models or DEFAULT_MODELS), **words)
    return getattr(plots, figure)(found), {"models": [model.name for model in found.models]}


DEFAULT_MODELS = (
    *("llama-7b", "llama-13b", "llama-33b", "llama-65b"),
    *("chinchilla-70b", "gpt-3-175b", "palm-540b", "gopher-280b"),
)
LEFT_OUT = {"buy", "form", "as_json", "quiet"}  # of compare's options; the rest says what models cost
words_of_compare = with_parameters(*(each for each in compare.command.params if each.name not in LEFT_OUT))


@_kind("models", "Where do existing models stand under one law?", ("{}", "{} llama-7b gpt-3-175b -o {}.svg"))
@words_of_compare
def draw_models(models: tuple[str, ...], **words: Any) -> Drawn:
    """Parameters and tokens of each MODEL (default: LLaMA, Chinchilla, GPT-3, PaLM, Gopher), with lines of
    equal predicted loss.
    """
    return _compared(models, words, "model_map")


@_kind(
    "bets", "Which existing models paid for their training?", ("{}", "{} llama-7b palm-540b --cost-in usd")
)
@words_of_compare
def draw_bets(models: tuple[str, ...], **words: Any) -> Drawn:
    """Cost of each MODEL over that of the compute-optimal model of its loss, as demand grows, with the demand
    from which it is the cheaper.
    """
    return _compared(models, words, "model_bets")
