"""Loss curves with their learning rates: from anybody's CSV, and from stores of our own runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llama_scale.errors import InputError
from llama_scale.fitting.cells import BARE_NUMBER, read_cells
from llama_scale.fitting.columns import ALIASES as RUN_COLUMNS
from llama_scale.fitting.columns import Columns, named_columns
from llama_scale.fitting.curves import LEAST_POINTS, Curve
from llama_scale.fitting.filters import Filter, check_columns, plain_name
from llama_scale.fitting.records import STORE_CONVENTION
from llama_scale.fitting.rows import Exclusion
from llama_scale.laws.curves import Array, LearningRates, rates_between, rates_by_step
from llama_scale.quantities import counted, format_count
from llama_scale.runs import RunFolder, ScheduleConfig, run_folders

ALIASES: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "steps", "iteration", "iter", "global_step"),
    "learning_rate": ("lr", "learning_rate", "rate", "eta"),
    **{ours: RUN_COLUMNS[ours] for ours in ("loss", "run", "parameters", "tokens")},
    "schedule": ("schedule", "curve"),
    "model": ("model", "family"),
    "warmup_steps": ("warmup_steps", "warmup"),
}
REQUIRED = ("step", "learning_rate", "loss")


def curves_of_table(path: Path, *, where: Sequence[Filter] = ()) -> tuple[list[Curve], list[Exclusion]]:
    """The curves of a CSV of logged steps: columns step, lr and loss, and run, schedule, params or model.

    Rows of one run are one curve; curves of one `model`, or else of one size, share a law. The warm-up is
    what was logged of it, or as many steps as a column warmup_steps says, or else all before the first
    logged step. Raises InputError, naming line and column, for what cannot be read, and for two losses at
    one step.
    """
    table = read_cells(path)
    columns = named_columns(
        path,
        table,
        ALIASES,
        required=REQUIRED,
        need="a curve needs step, learning_rate and loss of each logged step",
    )
    names = [plain_name(name) for name in table.header]
    check_columns(where, names, path.name)
    by_run: dict[tuple[str, str], list[tuple[str, Sequence[str]]]] = defaultdict(list)
    for place, cells in zip(table.places, table.rows, strict=True):
        if all(condition.keeps(cells[names.index(condition.column)]) for condition in where):
            by_run[_model(columns, cells), _run(columns, cells)].append((f"{path.name} {place}", cells))
    curves, left = [], []
    for (model, run), rows in by_run.items():
        if len(rows) < LEAST_POINTS:
            left.append(
                Exclusion(run=run, reason=f"{counted(len(rows), 'point')}: {LEAST_POINTS} make a curve")
            )
        else:
            curves.append(_curve(model, run, rows, columns))
    return curves, left


def _model(columns: Columns, cells: Sequence[str]) -> str:
    place = columns.at.get("model", columns.at.get("parameters"))
    return "one model" if place is None else cells[place]


def _run(columns: Columns, cells: Sequence[str]) -> str:
    place = columns.at.get("run", columns.at.get("schedule"))
    return "curve" if place is None else cells[place]


def _curve(model: str, run: str, rows: Sequence[tuple[str, Sequence[str]]], columns: Columns) -> Curve:
    def numbers(ours: str) -> Array:
        return np.array([columns.number(place, cells, ours) for place, cells in rows])

    steps, rates, losses = numbers("step"), numbers("learning_rate"), numbers("loss")
    order = np.argsort(steps, kind="stable")
    for name, values, floor in (
        ("step", steps, 0.0),
        ("learning rate", rates, -1e-300),
        ("loss", losses, 0.0),
    ):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > floor)))
        if len(bad):
            raise InputError(
                f"{rows[bad[0]][0]} ({run}) has {name} {values[bad[0]]:g}: it must be finite and positive",
                hint="correct that row, or leave it out with --where",
            )
    twice = np.flatnonzero(np.diff(steps[order]) == 0)
    if len(twice):
        raise InputError(
            f"{rows[int(order[twice[0] + 1])][0]} ({run}) repeats step {steps[order[twice[0]]]:g}",
            hint="give each run a name of its own in the column 'run'",
        )
    at = rates_between(steps[order], rates[order], warmup_sum=_warmup_sum(rows, columns, steps, rates))
    logged = steps[order] >= at.steps[0]
    size = tokens = None
    if "parameters" in columns.at:
        size = columns.number(*rows[0], "parameters")
    if "tokens" in columns.at:
        tokens = _tokens_per_step(numbers("tokens"), steps)
    return Curve(
        name=run,
        model=_model_name(columns, model, size),
        rates=at,
        steps=steps[order][logged],
        loss=losses[order][logged],
        parameters=size,
        tokens_per_step=tokens,
    )


def _tokens_per_step(tokens: Array, steps: Array) -> float:
    """Of tokens seen by each step; where all rows say the same, they are those of the whole run."""
    whole = len(tokens) > 1 and tokens.min() == tokens.max()
    return float(tokens[0] / steps.max() if whole else np.median(tokens / steps))


def _warmup_sum(
    rows: Sequence[tuple[str, Sequence[str]]], columns: Columns, steps: Array, rates: Array
) -> float | None:
    """The sum of rates before the first logged step, where a column says how long the warm-up took."""
    if "warmup_steps" not in columns.at:
        return None
    warm, first = columns.number(*rows[0], "warmup_steps"), float(steps.min())
    return None if warm > first else float(rates[steps.argmin()]) * (first - warm / 2)


def _model_name(columns: Columns, model: str, size: float | None) -> str:
    """A model of no name is called by its size: 25M where its cell is 25000000, or 25 of `Params (M)`."""
    bare = "model" not in columns.at and BARE_NUMBER.fullmatch(model)
    return format_count(size) if size is not None and bare else model


def learning_rates(schedule: ScheduleConfig, steps: int, peak: float) -> Array:
    """Learning rate (steps,) of each step of our own runs, as the trainer sets it, without the trainer."""
    step = np.arange(steps)
    factor = np.ones(steps)
    if schedule.total_steps is not None and schedule.kind != "constant":
        is_cosine = schedule.kind == "cosine"
        start = schedule.warmup_steps if is_cosine else schedule.total_steps - schedule.decay_steps
        length = max(1, schedule.total_steps - start)
        progress = np.clip((step + 1 - start) / length, 0.0, 1.0)
        if is_cosine:
            left = (1 + np.cos(np.pi * progress)) / 2
        else:
            left = 1 - (progress if schedule.decay_shape == "linear" else np.sqrt(progress))
        decayed = schedule.final_fraction + (1 - schedule.final_fraction) * left
        factor = np.where(step < start, 1.0, decayed)
    if schedule.warmup_steps:
        factor = np.where(step < schedule.warmup_steps, (step + 1) / schedule.warmup_steps, factor)
    return peak * factor


def curves_of_store(store: Path) -> tuple[list[Curve], list[Exclusion]]:
    """Training-loss curves of a store: a trunk and the branches that leave it share a law.

    A logged loss is the mean of an interval, and is placed in its middle.
    """
    curves, left = [], []
    for folder in run_folders(store):
        curve = _curve_of_run(folder)
        if isinstance(curve, str):
            left.append(Exclusion(run=folder.run, reason=curve))
        else:
            curves.append(curve)
    return curves, left


def _curve_of_run(folder: RunFolder) -> Curve | str:
    if (folder.result() or {}).get("status") == "diverged":
        return "it diverged"
    config, logged = folder.config, folder.curve()
    ends = np.array([config.first_step, *logged.steps], float)
    steps, loss = np.floor((ends[1:] + ends[:-1] + 1) / 2), np.array(logged.loss_nats)
    warm = max(1, config.schedule.warmup_steps)
    kept = (steps > 2 * warm) & np.isfinite(loss)
    if kept.sum() < LEAST_POINTS:
        return f"{counted(int(kept.sum()), 'point')} after the warm-up: {LEAST_POINTS} make a curve"
    every = learning_rates(config.schedule, int(logged.steps[-1]), config.optimizer.learning_rate)
    return Curve(
        name=folder.run,
        model=config.branch.parent if config.branch else folder.run,
        rates=rates_by_step(every, warmup_steps=warm),
        steps=steps[kept],
        loss=loss[kept],
        parameters=float(config.model.parameters.by(STORE_CONVENTION)),
        tokens_per_step=float(config.tokens_per_step),
    )


SCHEDULES = ("cosine", "wsd", "linear", "constant")


def schedule_of(
    kind: str,
    steps: float,
    *,
    peak: float,
    warmup_steps: float,
    final_fraction: float = 0.0,
    warmup_sum: float | None = None,
) -> LearningRates:
    """A schedule of `steps`: cosine, linear, constant, or wsd, whose last fifth decays as 1-sqrt.

    `warmup_sum` is the sum of the rates of the warm-up, of a linear one where it isn't given. Raises
    InputError for a kind that is none of these, and for steps that end within the warm-up.
    """
    if kind not in SCHEDULES:
        raise InputError(f"there is no schedule {kind!r}", hint=f"use {', '.join(SCHEDULES)}")
    if not steps > warmup_steps * 1.25:
        raise InputError(
            f"{steps:g} steps are hardly more than the warm-up's {warmup_steps:g}",
            hint="predict a longer schedule",
        )
    knots = np.unique(np.round(np.linspace(warmup_steps, steps, 401)))
    progress = (knots - knots[0]) / (knots[-1] - knots[0])
    tail = np.clip((progress - 0.8) / 0.2, 0.0, 1.0)
    left = {
        "cosine": (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": np.ones_like(progress),
        "wsd": 1 - np.sqrt(tail),
    }[kind]
    return LearningRates(
        steps=knots,
        rates=peak * (final_fraction + (1 - final_fraction) * left),
        warmup_sum=peak * warmup_steps / 2 if warmup_sum is None else warmup_sum,
    )
