"""`llama-scale sweep`: from a recipe to trained runs, a law, and its test on runs that it never saw."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale import quantities
from llama_scale.cli.options import (
    RECIPES,
    completing,
    device_option,
    json_option,
    one_of,
    quiet_option,
    set_option,
    store_option,
)
from llama_scale.cli.options import command as make_command
from llama_scale.cli.output import current_output
from llama_scale.errors import UnidentifiedError

if TYPE_CHECKING:
    from llama_scale.launch import Launcher, LaunchReport, PreparedSweep, Task
    from llama_scale.laws import Fit
    from llama_scale.runs import RunRecord

LOG_ROOM_BYTES = 65_536  # with less than this free, a disk is full


@make_command(
    examples=(
        "llama-scale sweep",
        "llama-scale sweep --dry-run",
        "llama-scale sweep my-recipe.toml --store /scratch/runs --set seed=1",
    )
)
@click.argument("recipe", default="default", shell_complete=completing(RECIPES, or_files=True))
@click.option("--dry-run", is_flag=True, help="Show every run with its cost, train nothing, write nothing.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Runs trained side by side.  [default: one per core; on cards as many as fit into their memory]",
)
@device_option
@click.option(
    "--launcher",
    type=one_of(["local", "slurm", "ray"]),
    default="local",
    show_default=True,
    help="What starts the workers: this machine, sbatch, or a Ray cluster.",
)
@click.option(
    "--launcher-options",
    metavar="OPTIONS",
    default="",
    help="sbatch's own, as '--partition=gpu --time=4:00:00'; for Ray 'address=auto num_gpus=0.25'.",
)
@store_option
@set_option
@json_option
@quiet_option
def command(
    recipe: str,
    dry_run: bool,
    workers: int | None,
    device: str,
    launcher: Launcher,
    launcher_options: str,
    store: Path,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> int:
    """Which scaling law do small LLaMA models follow on this text?

    Trains every run of RECIPE (a name or a TOML file; `default` takes about ten minutes on two cores),
    fits a law to them and tests it on the recipe's held-out runs. Ctrl-C saves and stops; the same
    command goes on from there, and finished runs are never trained again.
    """
    from llama_scale.cli.progress import ending
    from llama_scale.cli.sweep_plan import cautions, plan_as_json, plan_in_words
    from llama_scale.launch import option_words, prepare_sweep

    output = current_output()
    option_words(launcher, launcher_options)  # refused before a text is read, and in a dry run
    prepared = prepare_sweep(
        recipe,
        store=store,
        overrides=overrides,
        workers=workers,
        device=device,
        launcher=launcher,
        dry_run=dry_run,
    )
    output.warn_each(prepared.mended)
    if dry_run:
        output.result(plan_as_json(prepared), lambda: plan_in_words(prepared))
        return 0
    output.talk(_opening(prepared, store))
    output.warn_each(cautions(prepared))
    report = _train(
        prepared, store=store, device=device, launcher=launcher, launcher_options=launcher_options
    )
    if report.seconds >= 1:
        output.talk(ending(report))
    try:
        return _conclude(prepared, report, store)
    finally:  # last, where it is read, and where no law can be fitted too
        _list_failures(prepared, report)


def _train(
    prepared: PreparedSweep, *, store: Path, device: str, launcher: Launcher, launcher_options: str
) -> LaunchReport:
    from llama_scale.cli.progress import watch_sweep
    from llama_scale.launch import run_sweep

    tasks = {task.run: task for task in prepared.tasks}
    unfinished = [task.folder for task in prepared.tasks if not prepared.is_finished(task)]
    before = {folder.run: len(folder.setbacks()) for folder in unfinished}
    try:
        with watch_sweep(lambda run: _reason(tasks[run])) as watch:
            return run_sweep(
                prepared,
                store=store,
                device=device,
                launcher=launcher,
                launcher_options=launcher_options,
                watch=watch,
                tell=current_output().warn,
            )
    except KeyboardInterrupt:
        state = "Saved" if launcher != "slurm" else "The jobs stay in the queue (see squeue)"
        output = current_output()
        say = output.warn if output.quiet else output.talk  # the way on is no chatter
        say(f"{state}. To go on: {click.get_current_context().command_path} {_same_arguments()}".rstrip())
        raise
    finally:
        _list_setbacks([reason for one in unfinished for reason in one.setbacks()[before[one.run] :]])


def _list_setbacks(reasons: Sequence[str]) -> None:
    if reasons:
        lines = "".join(f"\n  {reason}" for reason in reasons)
        current_output().warn(f"what harmed checkpoints held was trained again:{lines}")


def _same_arguments() -> str:
    """The words after `sweep` on this command line."""
    import shlex
    import sys

    return shlex.join(sys.argv[sys.argv.index("sweep") + 1 :]) if "sweep" in sys.argv else ""


def _opening(prepared: PreparedSweep, store: Path) -> str:
    from llama_scale.cli.sweep_plan import expected_time

    finished = sum(prepared.is_finished(task) for task in prepared.tasks)
    already = f", {finished} of them done before" if finished else ""
    return (
        f"{prepared.sweep.spec.purpose}.\n"
        f"{len(prepared.tasks)} runs{already}, "
        f"{quantities.format_flops(sum(t.flops for t in prepared.tasks))}, kept in {store}.\n"
        f"About {expected_time(prepared)} {prepared.place_in_words}: {prepared.times.source}."
    )


def _conclude(prepared: PreparedSweep, report: LaunchReport, store: Path) -> int:
    """Say what the sweep found; a failed run makes the exit code 1."""
    from llama_scale.runs import read_records
    from llama_scale.sweeps import Grid, IsoFlop

    records = read_records(store, [t.run for t in prepared.tasks if t.run not in report.failed])
    if not records:
        raise UnidentifiedError(
            "no run of this sweep has come to an end: there is nothing to fit or to compare",
            hint="put right what made them fail, then run the same command again",
        )
    ended = {
        "sweep": prepared.sweep.name,
        "runs": len(records),
        "failed": list(report.failed),
        "seconds": report.seconds,
        "busy_share": report.busy_share,
    }
    if isinstance(prepared.sweep.spec.design, (IsoFlop, Grid)):
        _conclude_with_law(prepared, records, store, ended)
    else:
        _conclude_without_law(prepared, records, store, ended)
    return 1 if report.failed else 0


def _conclude_without_law(
    prepared: PreparedSweep, records: tuple[RunRecord, ...], store: Path, ended: dict[str, Any]
) -> None:
    """One size, or runs that are not tuned, fix no law: show what they were trained for."""
    from llama_scale.cli.sweep_outcome import overtraining_in_words, search_in_words, tried
    from llama_scale.sweeps import BatchSearch, LearningRateSearch

    design, runs = prepared.sweep.spec.design, tried(prepared.sweep.by_id, records)
    value = {**ended, "outcome": [run.as_json() for run in runs]}
    if isinstance(design, (LearningRateSearch, BatchSearch)):
        varied = "batch" if isinstance(design, BatchSearch) else "learning rate"
        current_output().result(value, lambda: search_in_words(runs, varied))
        return
    following = f"next       llama-scale fit {store} OTHER-STORE, with runs of other sizes on this text"
    current_output().result(value, lambda: [*overtraining_in_words(runs), following])


def _conclude_with_law(
    prepared: PreparedSweep, records: tuple[RunRecord, ...], store: Path, ended: dict[str, Any]
) -> None:
    """Fit what was trained, test it, draw it, and say what comes next."""
    from llama_scale.cli.fit_report import digest, kept
    from llama_scale.fitting import fit
    from llama_scale.fitting.kept import free_name, sweep_hash
    from llama_scale.laws import fit_to_json, write_fit

    runs, fits = prepared.sweep.by_id, store / "fits"
    name = free_name(fits, prepared.sweep.name, runs)
    if name != prepared.sweep.name:
        current_output().talk(
            f"{fits / prepared.sweep.name}.json is no fit of this sweep, and stays: this one is {name}.json."
        )
    found = fit(records, name=name)
    found = replace(found, evidence={**found.evidence, "sweep": sweep_hash(runs)})
    file = write_fit(fits / f"{name}.json", found, overwrite=True)
    figures = _draw(found, records, store / "figures", name)
    value = {
        **ended,
        "fit": fit_to_json(found, draws=False),
        "file": str(file),
        "figures": [str(figure) for figure in figures],
    }
    current_output().result(value, lambda: [*digest(found, store), *kept(found, file, figures)])


def _list_failures(prepared: PreparedSweep, report: LaunchReport) -> None:
    failed = [task for task in prepared.tasks if task.run in report.failed]
    if failed:
        lines = "".join(f"\n  {task.run}: {_reason(task)}" for task in failed)
        current_output().warn(
            f"{len(failed)} of {len(prepared.tasks)} runs failed; the same command tries them again:{lines}"
        )


def _reason(task: Task) -> str:
    """Why a run failed, in a line: the message of its worker.log where there is one."""
    if not task.is_ready():
        return "its trunk never reached the step where it branches off"
    try:
        lines = task.folder.log.read_text().strip().splitlines()
    except OSError:
        return _silent_end(task.folder.path)
    said = lines[0] if lines and lines[0].startswith("error: ") else lines[-1] if lines else ""
    return f"{said.removeprefix('error: ')} (see {task.folder.log})"


def _silent_end(folder: Path) -> str:
    """Why a run may have left no log, from what its store looks like."""
    if not folder.is_dir():
        return f"it could leave no log: its folder {folder} is not there"
    if (free := shutil.disk_usage(folder).free) < LOG_ROOM_BYTES:
        return f"it could leave no log: the disk of {folder} is full ({quantities.format_bytes(free)} left)"
    return "it could leave no log (see above), or was killed, perhaps for want of memory"


def _draw(found: Fit, records: tuple[RunRecord, ...], folder: Path, name: str) -> list[Path]:
    """IsoFLOP profiles, or where the design has no budgets, the law over its runs."""
    from llama_scale import plots
    from llama_scale.fitting import gather

    runs = gather(records)
    try:
        shown, figure = "isoflop", plots.isoflop(runs, found)
    except UnidentifiedError:
        shown, figure = "contours", plots.contours(found, runs)
    return [plots.save(figure, folder / f"{name}-{shown}.{kind}") for kind in ("png", "svg")]
