"""How much the exponent of Approach 2 hangs on single budgets, single runs and outliers."""

from __future__ import annotations

import numpy as np

from llama_scale.fitting.isoflop import IsoFlop, Profile, budgets_of, isoflop
from llama_scale.fitting.lines import line_constants
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.rows import Array
from llama_scale.frozen import frozen
from llama_scale.quantities import counted, format_flops

HUBER = 1.345  # in standard deviations: 95 % efficient where noise is normal
ROUNDS = 30


@frozen
class Variation:
    """The exponent a of N_opt when data or method are changed a little; None where no line is left."""

    name: str
    exponent_a: float | None
    interior: int


def sensitivity(observations: Observations) -> tuple[Variation, ...]:
    """The exponent without flagged runs, each budget, the run that moves it most; and by robust methods."""
    found = isoflop(observations, draws=0)
    if found is None or found.line is None:
        return ()
    variations = []
    if observations.flagged.any() and not observations.flagged.all():
        count = int(observations.flagged.sum())
        clean = isoflop(observations.take(~observations.flagged), draws=0)
        variations.append(_variation(f"without the {counted(count, 'run')} that the source flags", clean))
    interior = [profile for profile in found.profiles if profile.parameters is not None]
    for profile in interior if len(interior) > 3 else ():
        rest = [other for other in interior if other is not profile]
        variations.append(
            Variation(
                name=f"without the budget {format_flops(profile.budget)}",
                exponent_a=_exponent(rest, _minima(rest)),
                interior=len(rest),
            )
        )
    variations.append(_without_one_run(observations, interior))
    variations.append(_robust(interior))
    return tuple(variations)


def _variation(name: str, found: IsoFlop | None) -> Variation:
    line = found.line if found else None
    interior = sum(profile.parameters is not None for profile in found.profiles) if found else 0
    return Variation(name=name, exponent_a=line.exponent if line else None, interior=interior)


def _minima(profiles: list[Profile]) -> Array:
    """Logs of the best sizes."""
    return np.log(np.array([profile.parameters for profile in profiles], float))


def _exponent(profiles: list[Profile], log_sizes: Array) -> float:
    budgets = np.log(np.array([profile.budget for profile in profiles], float))
    return float(line_constants(budgets, log_sizes[:, None])[0][0])


def _without_one_run(observations: Observations, interior: list[Profile]) -> Variation:
    """The run whose absence moves the exponent most: parabolas without each, by rank-one downdates."""
    base = _minima(interior)
    whole = _exponent(interior, base)
    groups = budgets_of(observations)
    worst, named = whole, "any run"
    for at, profile in enumerate(interior):
        rows = groups[profile.budget]
        design = np.vander(np.log(observations.parameters[rows]) - profile.centre, 3, increasing=True)
        solve = np.linalg.pinv(design)
        residuals = observations.loss[rows] - design @ (solve @ observations.loss[rows])
        leverage = np.einsum("ni,in->n", design, solve)
        shift = solve * (residuals / np.maximum(1 - leverage, 1e-6))
        _, slope, bend = np.array(profile.coefficients)[:, None] - shift
        for position in np.flatnonzero((bend > 0) & (leverage < 0.999)):
            moved = base.copy()
            moved[at] = profile.centre - slope[position] / (2 * bend[position])
            exponent = _exponent(interior, moved)
            if abs(exponent - whole) > abs(worst - whole):
                worst, named = exponent, observations.names[rows[position]]
    return Variation(name=f"without {named}, which moves it most", exponent_a=worst, interior=len(interior))


def _robust(interior: list[Profile]) -> Variation:
    """Parabolas by Huber's loss, and the median of the slopes between their minima (Theil & Sen)."""
    minima = np.array([_robust_minimum(profile) for profile in interior])
    budgets = np.log([profile.budget for profile in interior])
    first, second = np.triu_indices(len(interior), 1)
    slopes = np.sort((minima[second] - minima[first]) / (budgets[second] - budgets[first]))
    middle = (slopes[(len(slopes) - 1) // 2] + slopes[len(slopes) // 2]) / 2
    return Variation(
        name="robustly (Huber parabolas, Theil-Sen line)", exponent_a=float(middle), interior=len(interior)
    )


def _robust_minimum(profile: Profile) -> float:
    """Log of the best size, by least squares with weights that fall where residuals exceed Huber's bound."""
    offsets, losses = np.log(profile.sizes) - profile.centre, np.array(profile.losses)
    design, coefficients = np.vander(offsets, 3, increasing=True), np.array(profile.coefficients)
    for _ in range(ROUNDS):
        residuals = np.abs(losses - design @ coefficients)
        scale = max(1.4826 * float(np.sort(residuals)[len(residuals) // 2]), 1e-12)
        weights = np.minimum(1.0, HUBER * scale / np.maximum(residuals, 1e-300))
        normal = design.T @ (weights[:, None] * design)
        coefficients = np.linalg.solve(normal, design.T @ (weights * losses))
    if coefficients[2] <= 0:
        return float(_minima([profile])[0])
    vertex = -coefficients[1] / (2 * coefficients[2])
    return float(profile.centre + np.clip(vertex, offsets.min(), offsets.max()))
