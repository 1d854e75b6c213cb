"""Loss curves of a store as one table: a row a logged step, to draw and share without the store."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import write_atomically
from llama_scale.runs.folders import RunFolder, run_folders

# Losses are of training, the mean since the row before: not called `loss`, so that no law is fitted to them.
COLUMNS = ("run", "role", "parameters", "step", "tokens", "train_flops", "learning_rate", "train_loss")


def write_curves(path: Path, store: Path) -> int:
    """Write every run's curve as CSV, a branch from where it leaves its trunk; returns the number of rows.

    `parameters` are those of `matmul`. Raises InputError for another ending, and for a store without curves.
    """
    if path.suffix != ".csv":
        raise InputError(f"loss curves are written as CSV, not as {path.name!r}", hint="end its name in .csv")
    rows = [row for folder in run_folders(store) for row in _rows(folder)]
    if not rows:
        raise InputError(
            f"no run of {str(store)!r} has logged a loss", hint="train some: `llama-scale sweep`"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_atomically(path, text.getvalue(), other="another file")
    return len(rows)


def _rows(folder: RunFolder) -> Iterator[tuple[Any, ...]]:
    config = folder.config
    for event in folder.reports():
        step = event["step"]
        yield (
            folder.run,
            config.role,
            config.model.parameters.matmul,
            step,
            step * config.tokens_per_step,
            f"{config.train_flops(step):.6g}",
            f"{event['learning_rate']:.4g}",
            f"{event['loss_nats']:.5g}",
        )
