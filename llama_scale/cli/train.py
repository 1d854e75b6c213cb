"""`llama-scale train`: one run, alone or as one of the processes that torchrun started."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale.cli.options import (
    ACCELERATORS,
    COUNT,
    PathType,
    completing,
    device_option,
    json_option,
    named,
    one_of,
    quiet_option,
    set_option,
    store_option,
)
from llama_scale.cli.options import command as make_command
from llama_scale.cli.output import current_output
from llama_scale.cli.settings import OwnOption
from llama_scale.cli.train_words import dry_run_json, dry_run_words, opening, result_words

if TYPE_CHECKING:
    import torch

    from llama_scale.launch.single import KnownRun, Seat
    from llama_scale.single import SingleSpec
    from llama_scale.training.mirrors import MirrorName
    from llama_scale.training.world import World


@make_command(
    examples=(
        "llama-scale train --model 1M --tokens 5M",
        "llama-scale train --model 4x128 --data notes/ --schedule cosine --dry-run",
        "llama-scale train --start-from exports/0123456789abcdef --tokens 5M",
        "torchrun --nproc-per-node 8 -m llama_scale train --model llama-7b",
    )
)
@click.argument("recipe", required=False, type=PathType(dir_okay=False, path_type=Path))
@click.option(
    "--model",
    shell_complete=completing(named("single", "FAMILY")),
    help="A name (llama-7b), a parameter count (10M) or layers by width (4x256).  [default: 1M]",
)
@click.option(
    "--start-from",
    type=PathType(file_okay=False),
    help="A folder that transformers or `export` wrote: train its model on.  [default: drawn weights]",
)
@click.option("--tokens", type=COUNT, help="Tokens to train on.  [default: 20 a parameter]")
@click.option("--steps", type=click.IntRange(min=1), help="Steps to train for, in place of --tokens.")
@click.option("--data", "source", help="`builtin`, or the path of text.  [default: builtin]")
@click.option(
    "--schedule",
    type=one_of(["wsd", "cosine", "linear", "constant"]),
    help="How the learning rate falls.  [default: wsd]",
)
@click.option("--learning-rate", type=float, help="Peak rate.  [default: by rule]")
@click.option(
    "--context", cls=OwnOption, type=click.IntRange(min=1), help="Tokens of a sequence.  [default: 256]"
)
@click.option("--sequences", type=click.IntRange(min=1), help="Sequences of a step.  [default: by rule]")
@click.option(
    "--peak",
    shell_complete=completing(ACCELERATORS),
    help="What MFU is measured against: an accelerator or a rate (990 TFLOP/s).  [default: this device's]",
)
@click.option(
    "--mirror",
    "mirror_names",
    multiple=True,
    type=one_of(["tensorboard", "wandb"]),
    help="Copy what is logged for this tool; wandb stays offline unless WANDB_MODE=online.",
)
@click.option("--dry-run", is_flag=True, help="Show the run with its cost, train nothing, write nothing.")
@device_option
@store_option
@set_option
@json_option
@quiet_option
def command(recipe: Path | None, dry_run: bool, device: str, store: Path, **options: Any) -> int:
    """What does this one model learn from this text?

    Trains one run to its end, from RECIPE (a TOML file) or from options, and keeps it in the store like any
    other. Ctrl-C saves and stops; the same command goes on from there. Under torchrun the model is shared
    out among the processes (FSDP2), as one that does not fit into one of them needs.
    """
    from llama_scale.config import read_toml
    from llama_scale.launch.single import prepare_run, read_single
    from llama_scale.training.kernels import check_precision
    from llama_scale.training.mirrors import check_mirrors
    from llama_scale.training.peak import stated_peak
    from llama_scale.training.world import joined_world, leads_here

    parent = os.getppid()
    check_mirrors(options["mirror_names"])
    if options["peak"] is not None:  # before anything is written
        stated_peak(options["peak"])
    changes = _overrides(options)
    source = f"{recipe} with the options" if recipe and changes else str(recipe or "the command")
    spec = read_single(read_toml(recipe) if recipe else {}, changes, source=source)
    if dry_run:  # every process would say the same
        return _show(prepare_run(spec, store=store)[0], device) if leads_here() else 0
    with joined_world(device) as (world, chosen):
        check_precision(spec.training.precision, chosen, processes=world.size)
        run = _written(spec, store, world)
        return _train(run, store, parent, world=world, device=chosen, options=options)


def _overrides(options: dict[str, Any]) -> list[str]:
    """The options that are keys of the recipe, as `--set` writes them; --set has the last word."""
    keys = {
        "model": "model",
        "start_from": "start_from",
        "tokens": "tokens",
        "steps": "steps",
        "source": "data.source",
        "schedule": "training.schedule",
        "learning_rate": "training.learning_rate",
        "context": "shape.context",
        "sequences": "training.sequences_per_step",
    }
    said = {key: options[name] for name, key in keys.items() if options[name] is not None}
    # TOML's escapes name whole characters, JSON's halves of them
    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in said.items()]
    return [*given, *options["overrides"]]


def _show(run: KnownRun, device: str) -> int:
    from llama_scale.launch.single import expected_seconds

    seconds, source = expected_seconds(run, device)
    current_output().result(dry_run_json(run, seconds), lambda: dry_run_words(run, seconds, source))
    return 0


def _written(spec: SingleSpec, store: Path, world: World) -> KnownRun:
    """The run, its text tokenised and its spec written down by the process that leads."""
    from llama_scale.launch.single import KnownRun, prepare_run, write_run
    from llama_scale.runs import RunFolder
    from llama_scale.training.world import check_shares

    name = None
    if world.leads:
        run, text = prepare_run(spec, store=store)
        check_shares(run.config.sequences_per_step, world)
        current_output().warn_each(write_run(run, text, store=store))
        name = run.folder.run
    folder = RunFolder(store / str(world.agree(name)))
    return KnownRun(config=folder.config, folder=folder)


def _train(
    run: KnownRun,
    store: Path,
    parent: int,
    *,
    world: World,
    device: torch.device,
    options: dict[str, Any],
) -> int:
    from llama_scale.launch.single import Seat
    from llama_scale.training.environment import has_bf16
    from llama_scale.training.peak import peak_of

    output, finished = current_output(), world.agree(run.folder.is_finished)
    # By one alone: where several measure a CPU at once each finds less than it has.
    peak = peak_of(device, precision=run.config.precision, wanted=options["peak"]) if world.leads else None
    seat = Seat(device=device, world=world, peak=peak, has_bf16=has_bf16(device))
    if world.leads and not finished:
        output.talk(opening(run, seat))
    outcome, seconds = _until_stopped(run, store, parent, seat, options["mirror_names"])
    if outcome == "stopped":
        if world.leads:
            output.talk(
                f"Saved at step {run.reached:,} of {run.last_step:,}. To go on: {_same_command(seat)}"
            )
        raise KeyboardInterrupt
    result = world.agree(run.folder.result() or {})
    if world.leads:
        told = {"folder": str(run.folder.path), **result, "seconds": seconds}
        output.result(told, lambda: result_words(run, result, finished=finished))
    return 0 if result.get("status") == "done" else 1


def _until_stopped(
    run: KnownRun, store: Path, parent: int, seat: Seat, mirror_names: tuple[MirrorName, ...]
) -> tuple[str, float]:
    """How the run ended and the seconds that took; Ctrl-C and SIGTERM stop it at a safe moment."""
    from llama_scale.cli.train_view import watch_run
    from llama_scale.launch.single import train_single
    from llama_scale.training.worker import stop_on_signals, use_allotted_threads

    use_allotted_threads()
    should_stop = stop_on_signals(parent)
    began = time.monotonic()
    with watch_run(run, seat) as watch:
        outcome = train_single(
            store,
            run.folder.run,
            seat,
            should_stop=should_stop,
            watch=watch,
            tell=current_output().warn,
            mirror_names=mirror_names,
        )
    return outcome, time.monotonic() - began


def _same_command(seat: Seat) -> str:
    """The line that started this, or what torchrun should be given again."""
    words = shlex.join(sys.argv[sys.argv.index("train") :]) if "train" in sys.argv else "train"
    if seat.world.shards:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", seat.world.size))
        machines = f"--nnodes {seat.world.size // here} " if here < seat.world.size else ""
        return f"torchrun {machines}--nproc-per-node {here} -m llama_scale {words}"
    return f"llama-scale {words}"
