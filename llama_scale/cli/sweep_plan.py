"""What `llama-scale sweep --dry-run` says: every run with its cost, its models, the text, the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llama_scale import quantities
from llama_scale.cli.output import table, wrapped
from llama_scale.errors import UnidentifiedError
from llama_scale.frozen import frozen

if TYPE_CHECKING:
    from llama_scale.architecture import ModelConfig
    from llama_scale.launch import PreparedSweep, Task
    from llama_scale.runs import RunConfig

ROLES = {"trunk": "trunk", "train": "train", "holdout": "hold", "search": "try"}
COLUMNS = ("run", "state", "role", "model", "tokens", "batch", "LR", "FLOPs", "epochs", "time", "disk")


@frozen
class PlannedRun:
    """One run as it is planned: what it sees with its trunk, and what it takes itself."""

    task: Task
    state: str
    tokens: int
    epochs: float | None
    disk_bytes: float

    @property
    def config(self) -> RunConfig:
        return self.task.config


def planned_runs(prepared: PreparedSweep) -> list[PlannedRun]:
    """Every run of a sweep, with what is known of it before it starts."""
    from llama_scale.launch.estimates import disk_bytes

    text = prepared.train_tokens
    planned = []
    for task in prepared.tasks:
        config = task.config
        first, end = config.first_step, config.schedule.total_steps or task.steps
        tokens = end * config.tokens_per_step
        begun = bool(task.folder.checkpoint_steps())
        points = len({step for branch, step in task.branches})
        planned.append(
            PlannedRun(
                task=task,
                state="done" if prepared.is_finished(task) else "begun" if begun else "to do",
                tokens=tokens,
                epochs=tokens / text if text else None,
                disk_bytes=disk_bytes(config, end - first, points),
            )
        )
    return planned


def expected_seconds(prepared: PreparedSweep) -> float:
    """Wall time of what is not finished: the workers' shared load, or the longest chain if that is longer."""
    left = [task for task in prepared.tasks if not prepared.is_finished(task)]
    return max(
        sum(task.seconds for task in left) / (prepared.times.parallel or prepared.workers),
        max((task.path_seconds for task in left), default=0.0),
    )


def expected_time(prepared: PreparedSweep) -> str:
    """Those seconds in words."""
    seconds = expected_seconds(prepared)
    return quantities.format_seconds(max(1, round(seconds))) if seconds else "no time"


def cautions(prepared: PreparedSweep) -> Iterator[str]:
    """What will not come of this sweep, told before it trains."""
    if earlier := prepared.earlier:
        changed, runs = " and ".join(earlier.sources), quantities.counted(earlier.runs, "run")
        yield (
            f"The text of {changed} has changed since {runs} of this sweep trained on it: all begins anew on "
            "the new one. To go on with those, put the old text back."
        )
    if names := [_name(model) for model in prepared.sweep.without_budget]:
        meet = "meets" if len(names) == 1 else "meet"
        said = f"{', '.join(names)} {meet} no budget within design.tokens_per_parameter"
        yield f"{said}: no run of it is fitted."
    yield from _no_law(prepared)


def _no_law(prepared: PreparedSweep) -> Iterator[str]:
    """Why the runs will fix no law, where a design that ends with one has too few of them."""
    from llama_scale.fitting.observations import check_spread
    from llama_scale.sweeps import Grid, IsoFlop

    if not isinstance(prepared.sweep.spec.design, (IsoFlop, Grid)):
        return
    fitted = [run for run in prepared.sweep.runs if run.role == "train"]
    tokens = [run.tokens_per_step * (run.schedule.total_steps or 0) for run in fitted]
    try:
        check_spread([run.model.parameters.matmul for run in fitted], tokens)
    except UnidentifiedError as error:
        yield f"No law will come of it by itself: {error.message} ({error.hint})."


def plan_as_json(prepared: PreparedSweep) -> dict[str, Any]:
    """The plan for programs."""
    from llama_scale.canonical import plain

    runs = planned_runs(prepared)
    return {
        "sweep": prepared.sweep.name,
        "purpose": prepared.sweep.spec.purpose,
        "corpus": prepared.sweep.runs[0].corpus,
        "workers": prepared.times.parallel or prepared.workers,
        "expected_seconds": expected_seconds(prepared),
        "expected_from": prepared.times.source,
        "is_measured": prepared.times.is_measured,
        "train_flops": sum(prepared.sweep.own_flops.values()),
        "unshared_train_flops": prepared.sweep.unshared_flops,
        "train_tokens": prepared.train_tokens,
        "missing_sources": list(prepared.missing),
        "disk_bytes": sum(run.disk_bytes for run in runs),
        "token_bytes": prepared.token_bytes,
        "models_without_budget": [plain(model) for model in prepared.sweep.without_budget],
        "warnings": [*prepared.mended, *cautions(prepared)],
        "runs": [_run_as_json(run) for run in runs],
    }


def _run_as_json(run: PlannedRun) -> dict[str, Any]:
    from llama_scale.canonical import plain

    return {
        "run": run.task.run,
        "role": run.config.role,
        "state": run.state,
        "finished": run.state == "done",
        "parameters": run.config.model.parameters.matmul,
        "tokens": run.tokens,
        "batch_tokens": run.config.tokens_per_step,
        "learning_rate": run.config.optimizer.learning_rate,
        "steps": run.task.steps,
        "train_flops": run.task.flops,
        "epochs": run.epochs,
        "expected_seconds": run.task.seconds,
        "disk_bytes": run.disk_bytes,
        "config": plain(run.config),
    }


def plan_in_words(prepared: PreparedSweep) -> list[object]:
    """The plan for people: the answer first, then each run, its model, and what the figures rest on."""
    runs = planned_runs(prepared)
    return [
        _headline(prepared, runs),
        "",
        table([_row(run) for run in runs], COLUMNS),
        "",
        _models(prepared),
        "",
        *map(wrapped, _notes(prepared, runs)),
    ]


def _headline(prepared: PreparedSweep, runs: list[PlannedRun]) -> str:
    done = sum(run.state == "done" for run in runs)
    left = expected_time(prepared)
    said = f"{len(runs)} runs, {done} done; the rest takes about {left} {prepared.place_in_words}"
    return wrapped(f"{said} ({prepared.times.source}).")


def _row(run: PlannedRun) -> tuple[str, ...]:
    config = run.config
    return (
        run.task.run[:8],
        run.state,
        ROLES[config.role],
        _name(config.model),
        quantities.format_count(run.tokens),
        quantities.format_count(config.tokens_per_step),
        quantities.format_number(config.optimizer.learning_rate, 2),
        quantities.format_number(run.task.flops, 2),
        "–" if run.epochs is None else quantities.format_number(run.epochs, 2),
        _brief(run.task.seconds),
        quantities.format_bytes(run.disk_bytes, 2).replace(" ", "").replace("iB", ""),
    )


def _name(model: ModelConfig) -> str:
    return f"{model.layers}x{model.width}"


def _brief(seconds: float) -> str:
    """A duration in one unit: `45s`, `12m`, `3.2h`, `1.4d`."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("m", 60.0)):
        if seconds >= 1.5 * size:
            return quantities.format_number(seconds / size, 2) + unit
    return quantities.format_number(seconds, 2) + "s"


def _models(prepared: PreparedSweep) -> object:
    """Each shape once: how deep, how wide, how large by which count, and how many runs train it."""
    counts = Counter(config.model for config in prepared.sweep.runs)
    rows = [
        (
            _name(model),
            f"{model.heads}" if model.heads == model.kv_heads else f"{model.heads}/{model.kv_heads}",
            model.head_size,
            model.hidden,
            quantities.format_number(model.width / model.layers),
            quantities.format_count(model.parameters.total),
            quantities.format_count(model.parameters.matmul),
            runs,
        )
        for model, runs in counts.items()
    ]
    return table(rows, ("model", "heads", "head size", "hidden", "width/layers", "total", "matmul", "runs"))


def _notes(prepared: PreparedSweep, runs: list[PlannedRun]) -> Iterator[str]:
    spec, sweep = prepared.sweep.spec, prepared.sweep
    own, unshared = sum(sweep.own_flops.values()), sweep.unshared_flops
    saved = 1 - own / unshared
    less = f", {saved:.0%} less than without shared trunks" if saved >= 0.005 else ""
    yield (
        f"Models are layers x width; context {sweep.runs[0].model.context:,}, vocabulary "
        f"{spec.data.vocabulary:,} ({spec.data.tokenizer}). Budgets and tokens per parameter count matmul "
        "parameters."
    )
    yield (
        f"{quantities.format_flops(own)} in all{less}. A row's FLOPs and time are its own; a branch's tokens "
        "and epochs include its trunk's."
    )
    if (seeds := len({run.seed for run in sweep.runs})) > 1:
        yield f"Runs have {seeds} seeds: rows that look alike differ in theirs."
    disk = quantities.format_bytes(sum(run.disk_bytes for run in runs))
    yield f"Disk is the most that a run holds: {disk} if all did at once.{_tokens(prepared)}"
    longest = quantities.format_count(max(run.tokens for run in runs))
    yield f"{prepared.text_in_words} The longest run sees {longest} tokens."
    if stated := spec.expected:
        flops, seconds = (
            quantities.format_flops(stated.train_flops),
            quantities.format_seconds(stated.seconds),
        )
        yield f"The recipe states {flops} and {seconds}."
    yield from (f"Warning: {caution}" for caution in cautions(prepared))


def _tokens(prepared: PreparedSweep) -> str:
    """What the text's tokens take beside the runs, where the text is here."""
    size = prepared.token_bytes
    if not prepared.text or not size:
        return ""
    made = "" if prepared.text.train_tokens else ", twice that while they are made"
    return f" The text's tokens take {quantities.format_bytes(size)} more{made}."
