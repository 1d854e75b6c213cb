"""`llama-scale fit`: from loss curves, of one's own or of others, to a law with error bars."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale.architecture import CONVENTIONS
from llama_scale.cli import options
from llama_scale.cli.options import FLOPS, FRACTION
from llama_scale.cli.output import current_output
from llama_scale.cli.settings import OwnOption
from llama_scale.errors import InputError, StoreError

if TYPE_CHECKING:
    from llama_scale.laws import Fit


@options.command(
    name="fit",
    examples=(
        "llama-scale fit",
        "llama-scale fit runs.csv --where 'dataset = c4' --draws 4000",
        "llama-scale fit runs.csv --convention non_embedding --burn-in 0.45/N --json",
        "llama-scale fit runs.csv --backtest --direction overtraining",
    ),
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", type=options.PathType(path_type=Path))
@click.option(
    "--form",
    type=options.one_of(["auto", "chinchilla", "skaling", "tied", "kaplan", "repeated", "multi-power"]),
    default="auto",
    help="Of the law; auto lets predictions of the farther runs by the nearer ones choose.",
)
@click.option(
    "--base-law",
    metavar="LAW",
    help="Of data seen once, for --form repeated: own, a published name, a fit's file or constants."
    " [default: muennighoff-2023]",
)
@click.option(
    "--scores",
    type=options.PathType(dir_okay=False, path_type=Path),
    help="A CSV of losses and scores of models: the plan then predicts the score, and takes --target-score.",
)
@click.option("--task", metavar="NAME", help="Of --scores: which task, or which column of scores.")
@click.option(
    "--fit-on",
    multiple=True,
    metavar="CURVE",
    help="For --form multi-power: fit these curves, by run, and test on the others.",
)
@click.option(
    "--predict",
    "futures",
    multiple=True,
    metavar="SCHEDULE",
    help="For --form multi-power: the final loss of KIND:STEPS[:FINAL], as cosine:72000:0.1.",
)
@options.where_option
@click.option(
    "--convention",
    type=options.one_of(CONVENTIONS),
    help="How parameters are counted. [default: matmul for a store, total for a CSV]",
)
@click.option(
    "--burn-in",
    metavar="LEAST",
    help="Leave out runs of fewer tokens, as 2B, or fewer a parameter, as 0.45/N. [default: none]",
)
@click.option(
    "--repeats",
    type=options.one_of(["all", "best", "mean"]),
    default="all",
    help="Of one size and duration: all count, the best (of a grid of settings), or the mean (of seeds).",
)
@click.option(
    "--flops",
    cls=OwnOption,
    type=options.one_of(["6nd", "exact"]),
    help="How FLOPs are counted: 6ND, or as the source does. [default: exact where it does, else 6nd]",
)
@click.option("--delta", type=float, help="Huber's, on log loss. [default: 1e-3; chosen with --form auto]")
@click.option(
    "--weights",
    cls=OwnOption,
    metavar="POWER",
    help="Runs weigh (C/Cmax)^POWER: none, .25, .5, 1. [default: the noise of seeds; with --form auto also a"
    " chosen POWER]",
)
@click.option(
    "--direction",
    type=options.one_of(["auto", "compute", "overtraining"]),
    default="auto",
    help="Where plans lie, and backtests look: more compute, or many tokens a parameter.",
)
@click.option(
    "--backtest",
    "protocol",
    is_flag=True,
    help="Also test it all on the farthest fifth of the runs, by compute and by tokens a parameter.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Also profile the objective for an interval of each constant, and let SciPy check the fit.",
)
@click.option("--draws", type=int, default=1000, help="Laws drawn for the intervals; 0 for none.")
@click.option(
    "--resampling",
    type=options.one_of(["rows", "runs", "budgets", "model"]),
    help="What is drawn. [default: model where runs share trunks or are few, else rows]",
)
@click.option("--level", type=FRACTION, default="90%", help="Of the intervals.")
@click.option("--seed", type=int, default=0, help="Of the draws.")
@click.option(
    "--budget",
    "budgets",
    cls=OwnOption,
    type=FLOPS,
    multiple=True,
    help="Show the optimum at these FLOPs instead.",
)
@click.option(
    "--output",
    cls=OwnOption,
    type=options.PathType(dir_okay=False, path_type=Path),
    help="The fit's file. [default: fits/<name>-<hash>.json in the store]",
)
@click.option("--force", is_flag=True, help="Replace the file of --output.")
@options.store_option
@options.json_option
@options.quiet_option
def command(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    base_law: str | None,
    store: Path,
    as_json: bool,
    quiet: bool,
    **words: Any,
) -> None:
    """Which law do these runs follow, and how surely?

    SOURCE is a folder of runs (default: the store), their `runs export`, or a CSV or Parquet table with
    parameters, tokens and loss of each run (or FLOPs for one of the first two); several are fitted together.
    Only runs whose learning-rate schedule ended count; each one left out is named with its reason; losses on
    more than one text or tokenizer are refused. Fits L = E + (A/N^alpha + B/D^beta)^k to its global optimum,
    with k = 1 (chinchilla) or free (skaling), shows the envelope of training curves and IsoFLOP parabolas
    beside it, and tests it on runs that the fit never saw.
    """
    from llama_scale.cli import fit_curves, fit_extras, fit_report
    from llama_scale.files import check_new
    from llama_scale.laws import fit_to_json

    given = sources or (store,)
    fit_on, futures = words.pop("fit_on"), words.pop("futures")
    scores, task = words.pop("scores"), words.pop("task")
    if output is not None:
        check_new(output, overwrite=force, other="--output", sources=(given, scores, base_law))
    fit_extras.check_options(click.get_current_context())
    if words["form"] == fit_extras.MULTI_POWER:
        return fit_curves.run(given, words | {"fit_on": fit_on}, futures, output=output, force=force)
    from llama_scale.fitting.rules import Rules, parse_burn_in

    words["weights"] = _weights(words["weights"])
    burn_in = parse_burn_in(words.pop("burn_in"))
    words["rules"] = Rules(burn_in=burn_in, repeats=words.pop("repeats"), flops=words.pop("flops"))
    is_repeated = words["form"] == fit_extras.REPEATED
    fit = _fit_repeated(given, words, base_law) if is_repeated else _fit(given, words)
    report = fit_extras.report_repeated if is_repeated else fit_report.report
    if scores is not None or task is not None:
        from llama_scale.fitting.downstream import with_scores

        fit = with_scores(fit, scores, task)
    file = _save(fit, given, output, force, store)
    document = fit_to_json(fit, draws=False) | {"file": None if file is None else str(file)}
    current_output().result(
        document, lambda: [*report(fit), *fit_extras.scores(fit), *fit_report.kept(fit, file)]
    )


def _asked(sources: tuple[Path, ...], words: dict[str, Any]) -> dict[str, Any]:
    """What every fit of laws is asked, and what it is called: its first source, links not followed."""
    from llama_scale.fitting import Settings

    first = sources[0]
    name = first.stem if first.suffix else Path(os.path.abspath(first)).name
    gathered = {word: words.pop(word) for word in ("where", "convention", "rules")}
    return {**gathered, "settings": Settings(**words), "name": name}


def _fit_repeated(sources: tuple[Path, ...], words: dict[str, Any], base_law: str | None) -> Fit:
    from llama_scale.fitting import fit_repeated

    words.pop("form")
    return fit_repeated(sources, **_asked(sources, words), base_law=base_law)


def _fit(sources: tuple[Path, ...], words: dict[str, Any]) -> Fit:
    from llama_scale.cli.fit_report import refused
    from llama_scale.fitting import UnidentifiedFitError, fit

    try:
        return fit(sources, **_asked(sources, words))
    except UnidentifiedFitError as error:
        output, found = current_output(), error.details
        if not output.json:  # there the error's own object holds it
            output.result({}, lambda: list(refused(found)))
        raise


def _weights(text: str | None) -> float | None:
    if text is None or text == "none":
        return None if text is None else 0.0
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"--weights {text} is no power of compute", hint="use --weights none, .25, .5 or 1"
        ) from None


def _save(fit: Fit, sources: tuple[Path, ...], output: Path | None, force: bool, store: Path) -> Path | None:
    """Where the fit was written; a default place that cannot be written costs a warning, not the answer."""
    from llama_scale.canonical import canonical_hash
    from llama_scale.laws import fit_to_json, write_fit

    if output is not None:
        return write_fit(output, fit, overwrite=force)
    store = sources[0] if sources[0].is_dir() else store
    named = store / "fits" / f"{fit.name}-{canonical_hash(fit_to_json(fit))[:8]}.json"
    try:
        return write_fit(named, fit, overwrite=True)
    except StoreError as error:
        current_output().warn(f"{error.message}: the fit is printed but not kept; {error.hint}")
        return None
