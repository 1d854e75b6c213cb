"""Pairs of loss and score of one task, from anybody's CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.errors import InputError
from llama_scale.fitting.cells import Cells, read_cells
from llama_scale.fitting.columns import EVALUATED_LOSS, TRAINING_LOSS, Columns, named_columns
from llama_scale.fitting.filters import plain_name
from llama_scale.fitting.headers import Header, read_header
from llama_scale.fitting.newton import Array
from llama_scale.frozen import frozen

ALIASES: Mapping[str, tuple[str, ...]] = {
    "loss": (*EVALUATED_LOSS, "task_loss", *TRAINING_LOSS),
    "score": ("score", "accuracy", "acc", "metric", "score_value"),
    "task": ("task", "benchmark", "metric_name"),
    "run": ("run", "run_id", "name", "id", "model"),
}

PERCENT = {"%", "percent"}
SCALES_APART = 10.0  # from the highest fraction to the lowest percent: scores in percent leave no such gap


@frozen(eq=False)
class ScorePairs:
    """Losses (n,), nats per token, and scores (n,), fractions, of one task."""

    task: str
    names: tuple[str, ...]
    loss: Array
    score: Array
    source: str
    notes: tuple[str, ...] = ()


def read_scores(path: Path, *, task: str | None = None) -> ScorePairs:
    """Pairs of a CSV with columns loss and score; a column named after `task` may stand for score.

    Scores are percent where they say so, else fractions, or percent where any is above 1 and none above 100.
    Where a column `task` names several, `task` chooses. Raises InputError, naming line and column, for what
    cannot be read.
    """
    table = read_cells(path)
    columns = _columns(path, table, task)
    chosen = _chosen_task(path, table, columns, task)
    kept = [
        (f"{path.name} {place}", cells)
        for place, cells in zip(table.places, table.rows, strict=True)
        if chosen is None or cells[columns.at["task"]] == chosen
    ]
    losses = np.array([_number(place, cells, columns, "loss") for place, cells in kept])
    scores = np.array([_number(place, cells, columns, "score") for place, cells in kept])
    scored = columns.at["score"]
    header = read_header(table.header[scored])
    percent = _in_percent(header)
    marked = np.array([percent or cells[scored].endswith("%") for _, cells in kept], bool)
    _check_losses(kept, losses)
    scores, notes = _fractions(kept, scores, marked, path.name)
    named = columns.at.get("run")
    return ScorePairs(
        task=task or chosen or header.name,
        names=tuple(place if named is None else cells[named] for place, cells in kept),
        loss=losses,
        score=scores,
        source=str(path),
        notes=(*columns.notes, *notes, *_copies(kept)),
    )


def _copies(kept: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A sentence on rows that are copies, cell by cell: models counted twice, more likely than meant."""
    first: dict[tuple[str, ...], str] = {}
    copies = [place for place, cells in kept if first.setdefault(tuple(cells), place) != place]
    if not copies:
        return []
    return [f"rows repeat others exactly, {len(copies)} in all, such as {copies[0]}: each counts"]


def _chosen_task(path: Path, table: Cells, columns: Columns, task: str | None) -> str | None:
    """The task whose rows count; None where the table has no column of tasks."""
    if "task" not in columns.at:
        return None
    tasks = sorted({cells[columns.at["task"]] for cells in table.rows})
    if task is None and len(tasks) > 1:
        raise InputError(
            f"{path.name} holds the scores of {len(tasks)} tasks: {', '.join(tasks[:8])}",
            hint=f"choose one with --task {tasks[0]!r}",
        )
    if task is not None and task not in tasks:
        near = get_close_matches(task, tasks, n=3, cutoff=0.3) or tasks[:5]
        raise InputError(f"{path.name} has no task {task!r}", hint=f"use --task {' or '.join(near)}")
    return task or tasks[0]


def _columns(path: Path, table: Cells, task: str | None) -> Columns:
    scored = None if task is None else _column_of_task(path, table, task)
    known = {
        ours: names for ours, names in ALIASES.items() if scored is None or ours not in ("score", "task")
    }
    columns = named_columns(
        path,
        table,
        known,
        required=[ours for ours in ("loss", "score") if ours in known],
        need="scores need the loss and the score of each model; --task may name a column of scores",
    )
    return columns if scored is None else replace(columns, at={**columns.at, "score": scored})


def _column_of_task(path: Path, table: Cells, task: str) -> int | None:
    """Where the scores of a task stand, by its column's header, or its name alone where no other has it."""
    for name_of in (plain_name, lambda header: read_header(header).name):
        alike = [at for at, header in enumerate(table.header) if name_of(header) == name_of(task)]
        if len(alike) > 1:
            both = " and ".join(repr(table.header[at]) for at in alike)
            raise InputError(
                f"{path.name} has more than one column {task!r}: {both}",
                hint=f"choose one with --task {table.header[alike[0]]!r}, or rename one of them",
            )
        if alike:
            return alike[0]
    return None


def _number(place: str, cells: Sequence[str], columns: Columns, ours: str) -> float:
    text = cells[columns.at[ours]]
    try:
        return columns.parsed(text.removesuffix("%"), ours)
    except ValueError:
        raise InputError(
            f"{place}, column {ours}: {text!r} is not a number", hint="write it as 0.56, or leave the row out"
        ) from None


def _in_percent(header: Header) -> bool:
    """Whether a header says so in brackets or as its last word: that of `top5%` is part of a name."""
    return bool(PERCENT & {*header.words.replace(",", " ").split(), header.name.rpartition("_")[2]})


def _check_losses(kept: Sequence[tuple[str, Any]], losses: Array) -> None:
    bad = np.flatnonzero(~(np.isfinite(losses) & (losses > 0)))
    if len(bad):
        raise InputError(
            f"{kept[bad[0]][0]} has loss {losses[bad[0]]:g}, but it must be finite and positive",
            hint="correct that row, or leave it out",
        )


def _fractions(
    kept: Sequence[tuple[str, Any]], scores: Array, marked: NDArray[np.bool_], source: str
) -> tuple[Array, tuple[str, ...]]:
    """Scores as fractions, and what was made of them; `marked` ones have a % sign."""
    bad = np.flatnonzero(~(np.isfinite(scores) & (scores >= 0) & (scores <= 100)))
    if len(bad):
        raise InputError(
            f"{kept[bad[0]][0]} has score {scores[bad[0]]:g}: scores lie between 0 and 1, or 0 and 100 %",
            hint="correct that row, or leave it out",
        )
    if not (scores[~marked] > 1).any():
        return np.where(marked, scores / 100, scores), ()
    _check_one_scale(kept, np.where(marked, np.nan, scores))
    return scores / 100, (f"{source}: scores go up to {scores.max():g}, so they were read as percent",)


def _check_one_scale(kept: Sequence[tuple[str, Any]], scores: Array) -> None:
    """Raises InputError for fractions among percent: a wide gap, with 1 in it, parts them."""
    fractions = np.where((scores > 0) & (scores <= 1), scores, -np.inf)
    percents = np.where(scores > 1, scores, np.inf)
    high, low = int(fractions.argmax()), int(percents.argmin())
    if fractions[high] > 0 and percents[low] > SCALES_APART * fractions[high]:
        raise InputError(
            f"{kept[high][0]} has score {scores[high]:g} and {kept[low][0]} has {scores[low]:g}: are these"
            " fractions, or percent?",
            hint="write fractions such as 0.56 in every row, or percent as 56%",
        )
