"""Published fits come out as published: vpnls' README, the trap of a mean, optima on public data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from synthetic import Array, independent_runs, lowest

from llama_scale.fitting import gather
from llama_scale.fitting.forms import CHINCHILLA, FITTED
from llama_scale.fitting.observations import Observations
from llama_scale.fitting.points import Points
from llama_scale.fitting.solver import nonnegative_least_squares
from llama_scale.fitting.uncertainty import points_of
from llama_scale.laws import central_range


@pytest.fixture
def besiroglu(shared_data: Path) -> Observations:
    return gather(shared_data / "chinchilla.csv", where=["excluded_by_besiroglu = 0"])


def test_a_mean_stops_scipy_early_where_a_sum_does_not_stop_us(besiroglu: Observations) -> None:
    log_n, log_d, log_loss = (np.log(v) for v in (besiroglu.parameters, besiroglu.tokens, besiroglu.loss))

    def mean(theta: Array) -> float:
        a, b, e, alpha, beta = theta
        size = np.abs(np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e) - log_loss)
        return float(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).mean())

    starts = [(5, 5, 0.5, 0.5, 0.5), (5, 10, 0.5, 0.5, 0.5), (10, 10, 0, 0.5, 0.5), (5, 5, 0.5, 0, 0.5)]
    reached = [minimize(mean, start, method="L-BFGS-B").fun * 240 for start in starts]
    assert min(reached) > 1.0182741e-3 * 1.02
    # the same mean, as weights of 1 / 240, takes nothing from ours
    weights = np.full(240, 1 / 240)
    averaged = Points.of(besiroglu.parameters, besiroglu.tokens, besiroglu.loss, weights)
    found = CHINCHILLA.solve(averaged, delta=1e-3)
    assert found.objective * 240 <= 1.0182741e-3
    assert found.agreed == found.starts


def raw_huber_on_a_grid(runs: Observations, delta: float, reweightings: int) -> tuple[Array, float]:
    """(alpha, beta, E, A, B) of least raw-loss Huber objective on a grid of exponents .01 apart, and that.

    N in millions, D in billions. At given exponents the objective is convex in E, A, B: least squares on
    Huber's weights, repeated, with the solver's own non-negative least squares for all pairs at once.
    """
    exponents = np.arange(0.30, 0.46, 0.01)
    alpha, beta = (axis.ravel() for axis in np.meshgrid(exponents, exponents, indexing="ij"))
    by_size = np.exp(np.multiply.outer(-alpha, np.log(runs.parameters / 1e6)))
    by_data = np.exp(np.multiply.outer(-beta, np.log(runs.tokens / 1e9)))
    columns = np.stack([np.ones_like(by_size), by_size, by_data], axis=1)
    residual = np.zeros_like(by_size)
    linear = np.zeros((len(alpha), 3))
    for _ in range(reweightings + 1):
        weighted = columns * (delta / np.maximum(residual, delta))[:, None]
        moments = (weighted @ runs.loss[:, None])[..., 0]
        linear = nonnegative_least_squares(weighted @ columns.transpose(0, 2, 1), moments)
        residual = np.abs((linear[:, :, None] * columns).sum(axis=1) - runs.loss)
    values = np.where(residual <= delta, residual**2 / 2, delta * (residual - delta / 2)).sum(axis=1)
    best = int(values.argmin())
    return np.array([alpha[best], beta[best], *linear[best]]), float(values[best])


def test_vpnls_readme(shared_data: Path) -> None:
    runs = gather(shared_data / "chinchilla_isoflop_budgets.csv")
    found, objective = raw_huber_on_a_grid(runs, 1e-3, reweightings=10)
    assert found == pytest.approx([0.36, 0.40, 1.8608, 4.1479, 1.0546], abs=1e-4)
    # ten reweightings do not reach the minimum: at convergence its neighbour on the grid is a little lower
    further, lower = raw_huber_on_a_grid(runs, 1e-3, reweightings=200)
    assert further[:2] == pytest.approx([0.37, 0.40])
    assert lower < objective * (1 - 5e-4)
    # the log-Huber law of the same runs is near both, and says the same of the optimum
    law = CHINCHILLA.solve(points_of(runs), delta=1e-3).law
    assert law.exponent_a == pytest.approx(found[1] / (found[0] + found[1]), abs=0.02)


# Recomputed for this package: sums of Huber losses at delta 1e-3 that no start of 43 goes below
SKALING = [
    ("chinchilla", "excluded_by_besiroglu = 0", 9.5418450e-4),
    ("llama3_isoflop", "", 2.7584741e-4),
    ("marin_nemotron_isoflop", "", 2.7627937e-4),
    ("misfitting_sweep", "", 6.7469007e-4),
    ("steplaw_dense_lr_bs", "", 9.1393315e-6),
    ("sardana2024_47runs", "", 2.2900170e-4),
]


@pytest.mark.parametrize(("name", "where", "objective"), SKALING)
def test_the_skaling_form_reaches_its_optimum_on_public_data(
    shared_data: Path, name: str, where: str, objective: float
) -> None:
    runs = gather(shared_data / f"{name}.csv", where=[where] if where else [])
    points = points_of(lowest(runs) if "misfitting" in name or "steplaw" in name else runs)
    for quick in (False, True):
        found = FITTED["skaling"].solve(points, delta=1e-3, quick=quick)
        assert found.objective == pytest.approx(objective, rel=1e-6)


def test_intervals_cover_known_laws() -> None:
    # 90 % intervals of 120 resamples each, on 40 made-up sets of 80 heavy-tailed runs; 200 in benchmarks
    hits = []
    for seed in range(40):
        runs = independent_runs(seed)
        points = points_of(runs)
        best = CHINCHILLA.solve(points, delta=1e-3, quick=True)
        counts = np.random.default_rng(seed).multinomial(80, np.full(80, 1 / 80), size=120).astype(float)
        laws = points.law(CHINCHILLA.refit(points, best.constants, delta=1e-3, weights=counts).constants)
        for name, truth in (("alpha", 0.35), ("beta", 0.37), ("E", 1.8)):
            bounds = central_range(laws.constants[name], 0.9)
            hits.append(bounds.low <= truth <= bounds.high)
    assert 0.8 <= np.mean(hits) <= 0.98
