"""Where a function of the size is least: a grid over all sizes, refined around its lowest point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llama_scale.laws import Numbers
from llama_scale.planning.families import LOG_SIZES, Array

COARSE_POINTS = 640  # 5 % apart in size: what the roofline or repeated data bend is seen
FEW = 16  # questions, for which the calls cost more than the points
FINE, FINE_OF_FEW = (17, 7), (129, 3)  # points and rounds of refinement: log N to within 1e-7
WINDOW = 2.5  # in log N: twelve times smaller to twelve times larger


def minimise(
    objective: Callable[[Array], Numbers],
    batch: tuple[int, ...],
    edges: Sequence[Numbers] = (),
    about: float | None = None,
) -> Array:
    """Where each question's objective is least: a grid over all sizes, refined around its lowest point.

    `edges` are looked at beside the grid, and only sizes near `about` where all questions have their best
    there. nan marks what is impossible; a question for which everything is gives nan.
    """
    low, high = LOG_SIZES
    nodes, step = np.linspace(low, high, COARSE_POINTS), (high - low) / (COARSE_POINTS - 1)
    grid = nodes.reshape(-1, *[1] * len(batch))
    centre = None
    if about is not None:
        window = grid[np.abs(nodes - about) <= WINDOW]
        centre = _lowest(objective, window, batch)
        inside = (centre > window.min() + step / 2) & (centre < window.max() - step / 2)
        centre = centre if inside.all() else None
    if centre is None:
        centre = _lowest(objective, grid, batch)
    if edges:
        around = np.stack([np.broadcast_to(np.asarray(edge, float), batch) for edge in edges])
        found = np.where(np.isnan(centre), around[0], centre)
        centre = _lowest(objective, np.concatenate([found[None], around]), batch)
    half_width = step
    points, rounds = FINE_OF_FEW if math.prod(batch) <= FEW else FINE
    for _ in range(rounds):
        steps = np.linspace(-1, 1, points).reshape(-1, *[1] * len(batch))
        centre = _lowest(objective, centre + half_width * steps, batch)
        half_width *= 2 / (points - 1)
    return centre


def _lowest(objective: Callable[[Array], Numbers], grid: Array, batch: tuple[int, ...]) -> Array:
    """The point of the grid where each question's objective is least; nan where there is none."""
    values = np.broadcast_to(objective(grid), (len(grid), *batch))
    values = np.where(np.isnan(values), np.inf, values)
    lowest = np.argmin(values, axis=0)[None]
    found = np.take_along_axis(np.broadcast_to(grid, values.shape), lowest, axis=0)[0]
    return np.where(np.isinf(np.take_along_axis(values, lowest, axis=0)[0]), np.nan, found)
