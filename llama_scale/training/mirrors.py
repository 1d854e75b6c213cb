"""Copies of what a run logs for other tools' eyes: TensorBoard and Weights & Biases, where asked for.

The run's own events.jsonl stays the truth. TensorBoard writes files beside it. Weights & Biases writes files
there too, and sends nothing unless WANDB_MODE=online says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any, Literal, get_args

from llama_scale.canonical import plain
from llama_scale.errors import InputError, LlamaScaleError
from llama_scale.runs import RunFolder
from llama_scale.training.meter import Reading

MirrorName = Literal["tensorboard", "wandb"]
MIRRORS: tuple[MirrorName, ...] = get_args(MirrorName)
Mirror = Callable[[Reading], None]  # copies a reading to somewhere
WANDB_MODES = ("offline", "online", "shared", "disabled", "dryrun", "run")


def check_mirrors(names: Sequence[MirrorName]) -> None:
    """Raises InputError, with the extra that brings it, for a mirror whose package is missing.

    And for a WANDB_MODE that Weights & Biases does not have.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"--mirror {name} needs the package {name}, which is not installed",
                hint=f"pip install 'llama-scale[{name}]', or leave the mirror out",
            )

    if "wandb" in names and (mode := _wandb_mode()) not in WANDB_MODES:
        raise InputError(
            f"WANDB_MODE is {mode!r}", hint=f"use {', '.join(WANDB_MODES[:-1])} or {WANDB_MODES[-1]}"
        )


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


@contextmanager
def mirrors(names: Sequence[MirrorName], folder: RunFolder, first_step: int) -> Iterator[list[Mirror]]:
    """The mirrors of these names, from step `first_step` on; closed when the block ends."""
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as stack:
        yield [stack.enter_context(makers[name](folder, first_step)) for name in dict.fromkeys(names)]


def scalars(reading: Reading) -> Iterator[tuple[int, dict[str, float]]]:
    """Each step with what is drawn of it; rates are of the last one alone."""
    for step in reading.steps:
        values = {
            "train/loss_nats": step.loss_nats,
            "train/gradient_norm": step.gradient_norm,
            "train/learning_rate": step.learning_rate,
        }
        if step is reading.step:
            values["speed/tokens_per_second"] = reading.tokens_per_second
            if reading.mfu is not None:
                values["speed/mfu"] = reading.mfu
        yield step.step, values


@contextmanager
def _tensorboard(folder: RunFolder, first_step: int) -> Iterator[Mirror]:
    from torch.utils.tensorboard.writer import SummaryWriter

    # What an earlier process wrote beyond the step that this one goes on from is hidden.
    writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=first_step + 1)

    def mirror(reading: Reading) -> None:
        for step, values in scalars(reading):
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    try:
        yield mirror
    finally:
        writer.close()


@contextmanager
def _wandb(folder: RunFolder, first_step: int) -> Iterator[Mirror]:
    import wandb

    settings: dict[str, Any] = {
        "mode": _wandb_mode(),
        "id": folder.run,
        "name": folder.run,
        "project": os.environ.get("WANDB_PROJECT", "llama-scale"),
        "dir": str(folder.path),
        "config": plain(folder.config),
        "resume": "allow",
    }
    try:
        run = wandb.init(settings=wandb.Settings(silent=True), **settings)
    except wandb.Error as error:
        raise LlamaScaleError(
            f"Weights & Biases cannot start: {error}",
            hint="leave out --mirror wandb, or set WANDB_MODE=offline",
        ) from error

    def mirror(reading: Reading) -> None:
        for step, values in scalars(reading):
            run.log(values, step=step)

    try:
        yield mirror
    finally:
        run.finish()
