"""From (loss, score) pairs to the sigmoid that a plan's predicted score comes from (Bhagia et al. 2024).

Bounded least squares on the score, from many starts with floor and ceiling solved linearly. Draws are refits
of the curve plus its own residuals, resampled; a predicted score adds the scatter of models about it, and its
interval is as wide as curves of the worse models needed to hold the better ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.cells import Cells, read_cells
from llama_scale.fitting.filters import plain_name
from llama_scale.fitting.newton import Array
from llama_scale.laws import Downstream, Sigmoid

ALIASES: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "l", "loss_nats", "val_loss", "eval_loss", "validation_loss", "task_loss"),
    "score": ("score", "accuracy", "acc", "metric", "score_value"),
    "task": ("task", "benchmark", "metric_name"),
    "run": ("run", "run_id", "name", "id", "model"),
}
LEAST_PAIRS = 5
LEAST_SPREAD = 0.02  # nats: losses nearer than that say nothing of a slope
STEEPEST, FLATTEST = 50.0, 0.05  # of the sigmoid, a nat
START_MIDDLES = np.linspace(-0.75, 1.25, 6)  # in spans of the losses, above the lowest
START_SLOPES = np.array([1.0, 3.0, 8.0, 20.0])  # times one over the span
LEAST_RISE = 1e-3
ITERATIONS, PATIENCE = 80, 4  # at most, and steps without a gain anywhere before it ends
DRAWS = 1000
BACKTEST_DRAWS = 200
SPLITS = (0.6, 0.8, 1.0)  # of the models, the worst first: fit up to one, predict up to the next
FREE = 4  # constants


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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

    Scores are fractions, or percent where any is above 1 and none above 100. Where a column `task` names
    several, `task` chooses. Raises InputError, naming line and column, for what cannot be read.
    """
    table = read_cells(path)
    columns = _columns(path, table, task)
    tasks = sorted({cells[columns["task"]] for cells in table.rows}) if "task" in columns else []
    if task is not None and tasks and task not in tasks:
        near = get_close_matches(task, tasks, n=3, cutoff=0.3) or tasks[:5]
        raise InputError(f"{path.name} has no task {task!r}", hint=f"use --task {' or '.join(near)}")
    if len(tasks) > 1 and task is None:
        raise InputError(
            f"{path.name} holds the scores of {len(tasks)} tasks: {', '.join(tasks[:8])}",
            hint=f"choose one with --task {tasks[0]!r}",
        )
    kept = [
        (f"{path.name} {place}", cells)
        for place, cells in zip(table.places, table.rows, strict=True)
        if not tasks or task is None or cells[columns["task"]] == task
    ]
    losses = np.array([_number(place, cells, columns, "loss") for place, cells in kept])
    scores = np.array([_number(place, cells, columns, "score") for place, cells in kept])
    _check_losses(kept, losses)
    scores, notes = _fractions(kept, scores, path.name)
    named = columns.get("run")
    return ScorePairs(
        task=task or (tasks[0] if tasks else plain_name(table.header[columns["score"]])),
        names=tuple(place if named is None else cells[named] for place, cells in kept),
        loss=losses,
        score=scores,
        source=str(path),
        notes=notes,
    )


def _columns(path: Path, table: Cells, task: str | None) -> dict[str, int]:
    names = [plain_name(name) for name in table.header]
    found = {
        ours: next(names.index(alias) for alias in aliases if alias in names)
        for ours, aliases in ALIASES.items()
        if any(alias in names for alias in aliases)
    }
    if task is not None and plain_name(task) in names:
        found["score"] = names.index(plain_name(task))
        found.pop("task", None)
    for ours in ("loss", "score"):
        if ours not in found:
            near = [close for a in ALIASES[ours] for close in get_close_matches(a, names, n=1, cutoff=0.6)]
            fix = f"rename {near[0]!r} to {ours!r}" if near else f"add a column {ours!r}"
            choose = ", or name a column of scores with --task" if ours == "score" else ""
            raise InputError(
                f"{path.name} has no column {ours!r} (or {', '.join(ALIASES[ours][1:])}); found:"
                f" {', '.join(table.header)}",
                hint=f"{fix}{choose}: scores need the loss and the score of each model",
            )
    return found


def _number(place: str, cells: Sequence[str], columns: Mapping[str, int], ours: str) -> float:
    text = cells[columns[ours]]
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise InputError(
            f"{place}, column {ours}: {text!r} is not a number", hint="write it as 0.56, or leave the row out"
        ) from None


def _check_losses(kept: Sequence[tuple[str, Any]], losses: Array) -> None:
    bad = np.flatnonzero(~(np.isfinite(losses) & (losses > 0)))
    if len(bad):
        raise InputError(
            f"{kept[bad[0]][0]} has loss {losses[bad[0]]:g}, but it must be finite and positive",
            hint="correct that row, or leave it out",
        )


def _fractions(kept: Sequence[tuple[str, Any]], scores: Array, source: str) -> tuple[Array, tuple[str, ...]]:
    """Scores as fractions, and what was made of them."""
    bad = np.flatnonzero(~(np.isfinite(scores) & (scores >= 0) & (scores <= 100)))
    if len(bad):
        raise InputError(
            f"{kept[bad[0]][0]} has score {scores[bad[0]]:g}: scores lie between 0 and 1, or 0 and 100 %",
            hint="correct that row, or leave it out",
        )
    if len(scores) and scores.max() > 1:
        return scores / 100, (f"{source}: scores go up to {scores.max():g}, so they were read as percent",)
    return scores, ()


def fit_downstream(pairs: ScorePairs, *, draws: int = DRAWS, level: float = 0.9, seed: int = 0) -> Downstream:
    """The sigmoid of some pairs, with draws, the scatter about it, and what backtests made of both.

    Raises UnidentifiedError where pairs are fewer than 5, losses hardly differ, or scores do not rise as
    loss falls.
    """
    _check_pairs(pairs)
    unknowns, agreed = best_sigmoid(pairs.loss, pairs.score)
    sigmoid = sigmoid_of(unknowns)
    residuals = pairs.score - np.asarray(sigmoid.score(pairs.loss))
    tested = _backtest(pairs, level, seed) if draws else None
    return Downstream(
        task=pairs.task,
        sigmoid=sigmoid,
        losses=(float(pairs.loss.min()), float(pairs.loss.max())),
        models=len(pairs.loss),
        noise=_noise(residuals),
        draws=draw_sigmoids(pairs.loss, pairs.score, unknowns, draws, seed) if draws else None,
        interval_factor=tested["factor"] if tested else 1.0,
        source=pairs.source,
        evidence={
            "residual_rms": float(np.sqrt(np.mean(residuals**2))),
            "worst_model": pairs.names[int(np.abs(residuals).argmax())],
            "residual_max": float(np.abs(residuals).max()),
            "starts": len(START_MIDDLES) * len(START_SLOPES),
            "starts_agreed": agreed,
            "level": level,
            "backtest": tested,
            "warnings": [*pairs.notes, *_warnings(pairs, sigmoid, tested)],
        },
    )


def _backtest(pairs: ScorePairs, level: float, seed: int) -> dict[str, Any] | None:
    """Curves of the worse models predict the better ones, twice; None where too few would be left to fit."""
    order = np.argsort(-pairs.loss, kind="stable")
    loss, score = pairs.loss[order], pairs.score[order]
    errors, ratios = [], []
    for share, until in pairwise(SPLITS):
        start, stop = round(share * len(loss)), round(until * len(loss))
        if start < LEAST_PAIRS or start == stop or np.ptp(loss[:start]) < LEAST_SPREAD:
            continue
        unknowns, _ = best_sigmoid(loss[:start], score[:start])
        known = Downstream(
            task="",
            sigmoid=sigmoid_of(unknowns),
            losses=(1.0, 1.0),
            models=start,
            noise=_noise(score[:start] - _score(unknowns, loss[:start])),
            draws=draw_sigmoids(loss[:start], score[:start], unknowns, BACKTEST_DRAWS, seed),
        )
        guess = known.predict(loss[start:stop], level)
        assert guess.low is not None
        assert guess.high is not None
        error = score[start:stop] - np.asarray(guess.score)
        reach = np.where(error > 0, guess.high - guess.score, guess.score - guess.low)
        errors.append(np.abs(error))
        ratios.append(np.abs(error) / np.maximum(reach, 1e-9))
    if not errors:
        return None
    error, ratio = np.concatenate(errors), np.concatenate(ratios)
    # The interval that would have held `level` of them: its tail on few models is better told by the rms.
    factor = max(1.0, float(np.sqrt(np.mean(ratio**2))) * NormalDist().inv_cdf((1 + level) / 2))
    return {
        "predicted_models": len(error),
        "mean_error": float(error.mean()),
        "coverage": float((ratio <= 1).mean()),
        "factor": factor,
    }


def _noise(residuals: Array) -> float:
    return float(np.sqrt((residuals**2).sum() / max(1, len(residuals) - FREE)))


def _check_pairs(pairs: ScorePairs) -> None:
    count = len(pairs.loss)
    if count < LEAST_PAIRS:
        raise UnidentifiedError(
            f"{pairs.source} has {count} pair(s) of loss and score for {pairs.task}: {LEAST_PAIRS} are"
            " the least",
            hint="evaluate more models, or more checkpoints of one",
        )
    if np.ptp(pairs.loss) < LEAST_SPREAD:
        raise UnidentifiedError(
            f"the losses of {pairs.source} lie within {np.ptp(pairs.loss):.2g} nats of each other, so nothing"
            f" says how {pairs.task} follows from them",
            hint="add models that are better, and models that are worse",
        )
    if np.ptp(pairs.score) == 0 or np.corrcoef(pairs.loss, pairs.score)[0, 1] >= 0:
        raise UnidentifiedError(
            f"scores of {pairs.task} do not rise as loss falls in {pairs.source}",
            hint="check that the columns are loss and score, and that a higher score is better",
        )


def best_sigmoid(loss: Array, score: Array) -> tuple[Array, int]:
    """The best unknowns (4,) of a grid of starts, floor and ceiling solved linearly, and how many agree."""
    span = max(float(np.ptp(loss)), LEAST_SPREAD)
    starts = []
    for middle in loss.min() + span * START_MIDDLES:
        for steepness in np.clip(START_SLOPES / span, FLATTEST, STEEPEST):
            share = 1 / (1 + np.exp(np.clip(steepness * (loss - middle), -60, 60)))
            design = np.stack([1 - share, share], axis=1)
            floor, ceiling = np.linalg.lstsq(design, score, rcond=None)[0]
            starts.append([floor, ceiling, steepness, middle])
    scores = np.broadcast_to(score, (len(starts), len(score)))
    found, cost = _minimise(loss, scores, np.array(starts), _bounds(loss))
    best = int(cost.argmin())
    return found[best], int((cost <= cost[best] * (1 + 1e-3) + 1e-12).sum())


def draw_sigmoids(loss: Array, score: Array, unknowns: Array, draws: int, seed: int) -> Sigmoid:
    """Refits of simulated scores: the curve plus its residuals, resampled and widened for lost freedom."""
    centre = _score(unknowns, loss)
    residuals = (score - centre) * np.sqrt(len(loss) / max(1, len(loss) - FREE))
    generator = np.random.default_rng(seed)
    simulated = centre + residuals[generator.integers(len(loss), size=(draws, len(loss)))]
    found, _ = _minimise(loss, simulated, np.tile(unknowns, (draws, 1)), _bounds(loss))
    return sigmoid_of(found.T)


def sigmoid_of(unknowns: Array) -> Sigmoid:
    """The sigmoid, or batch of them, of unknowns (4,) or (4, S): floor, ceiling, steepness, midpoint."""
    floor, ceiling, steepness, middle = (float(v) if np.ndim(v) == 0 else v for v in unknowns)
    return Sigmoid(floor=floor, ceiling=ceiling, steepness=steepness, midpoint=middle)


def _minimise(loss: Array, scores: Array, starts: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    """Bounded least squares of many problems at once: scores (S, n) from starts (S, 4), Levenberg-Marquardt.

    An unknown that rests on a bound, and would go beyond it, is held there for the step.
    """
    low, high = bounds
    at = _inside(starts, low, high)
    damping = np.full(len(at), 1e-3)
    residual, slope = _residuals(at, loss, scores)
    cost, still = (residual**2).sum(axis=1), 0
    for _ in range(ITERATIONS):
        gradient = np.einsum("sni,sn->si", slope, residual)
        held = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0))
        free = ~held
        hessian = np.einsum("sni,snj->sij", slope, slope) * (free[:, :, None] & free[:, None, :])
        diagonal = np.einsum("sii->si", hessian)
        extra = damping[:, None] * diagonal + np.where(free, 1e-12, 1.0)
        hessian = hessian + extra[:, :, None] * np.eye(FREE)
        step = np.linalg.solve(hessian, np.where(free, -gradient, 0.0)[..., None])[..., 0]
        ahead = _inside(at + step, low, high)
        new_residual, new_slope = _residuals(ahead, loss, scores)
        new_cost = (new_residual**2).sum(axis=1)
        wins = new_cost < cost
        still = 0 if (new_cost < cost * (1 - 1e-9)).any() else still + 1
        at = np.where(wins[:, None], ahead, at)
        residual = np.where(wins[:, None], new_residual, residual)
        slope = np.where(wins[:, None, None], new_slope, slope)
        cost = np.where(wins, new_cost, cost)
        damping = np.clip(np.where(wins, damping / 3, damping * 4), 1e-9, 1e9)
        if still == PATIENCE:
            break
    return at, cost


def _inside(unknowns: Array, low: Array, high: Array) -> Array:
    """Within bounds, and the ceiling above the floor."""
    at = np.clip(unknowns, low, high)
    at[:, 1] = np.maximum(at[:, 1], at[:, 0] + LEAST_RISE)
    return at


def _residuals(unknowns: Array, loss: Array, scores: Array) -> tuple[Array, Array]:
    """Predicted less measured scores (S, n), and their derivatives (S, n, 4)."""
    floor, ceiling, steepness, middle = (column[:, None] for column in unknowns.T)
    share = 1 / (1 + np.exp(np.clip(steepness * (loss - middle), -60, 60)))
    bend = (ceiling - floor) * share * (1 - share)
    slope = np.stack([1 - share, share, -bend * (loss - middle), bend * steepness], axis=-1)
    return floor + (ceiling - floor) * share - scores, slope


def _bounds(loss: Array) -> tuple[Array, Array]:
    """Of floor, ceiling, steepness, midpoint: scores are fractions, the midpoint not far from the losses."""
    span = max(float(np.ptp(loss)), LEAST_SPREAD)
    low = np.array([0.0, LEAST_RISE, FLATTEST, max(0.0, loss.min() - 2 * span)])
    return low, np.array([1.0 - LEAST_RISE, 1.0, STEEPEST, loss.max() + span])


def _score(unknowns: Array, loss: Array) -> Array:
    floor, ceiling, steepness, middle = unknowns
    return floor + (ceiling - floor) / (1 + np.exp(np.clip(steepness * (loss - middle), -60, 60)))


def _warnings(pairs: ScorePairs, sigmoid: Sigmoid, tested: Mapping[str, Any] | None) -> list[str]:
    found = []
    if tested is None:
        found.append(f"{len(pairs.loss)} models are too few to test the intervals of {pairs.task} on")
    ends = np.asarray(sigmoid.score(np.array([pairs.loss.max(), pairs.loss.min()])))
    floor, ceiling = float(sigmoid.floor), float(sigmoid.ceiling)
    if ends[1] < (floor + ceiling) / 2:
        found.append(
            f"the best model scores {ends[1]:.2f}, less than half of the way from floor to ceiling: the"
            f" ceiling ({min(ceiling, 1.0):.2f}) is a guess, and so are scores beyond the models' losses"
        )
    if ends[0] > (floor + ceiling) / 2:
        found.append(
            f"the worst model scores {ends[0]:.2f}, more than half of the way from floor to ceiling: the"
            f" floor ({floor:.2f}) is a guess"
        )
    return found
