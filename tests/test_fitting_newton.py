"""Damped Newton on batches: its derivatives, its charts, its linear algebra."""

from __future__ import annotations

import numpy as np
import pytest

from llama_scale.fitting.descent import Batch
from llama_scale.fitting.newton import (
    expand,
    solve_positive,
    to_chart,
    to_constants,
)

CONSTANTS = np.array([[1.8, 1.5], [0.4, 0.9], [0.5, 0.3], [0.35, 0.6], [0.37, 0.2]])


def problem(delta: float = 0.05, count: int = 2) -> Batch:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 40))
    return Batch(
        x=x,
        y=y,
        z=1 + 0.2 * generator.standard_normal((count, 40)),
        weights=generator.random((count, 40)),
        delta=delta,
    )


def test_gradient_and_hessian_are_the_derivatives() -> None:
    # delta large: no row crosses the kink within the step of the difference
    smooth = problem(delta=10.0)
    _, gradient, hessian = expand(smooth, CONSTANTS)
    for i in range(5):
        step = np.zeros((5, 1))
        step[i] = 1e-6
        up, down = expand(smooth, CONSTANTS + step), expand(smooth, CONSTANTS - step)
        assert (up[0] - down[0]) / 2e-6 == pytest.approx(gradient[i], rel=1e-6, abs=1e-7)
        assert (up[1] - down[1]) / 2e-6 == pytest.approx(hessian[i], rel=1e-5, abs=1e-6)


def test_the_objective_is_the_weighted_sum_of_huber_losses() -> None:
    case = problem(delta=0.05)
    level = CONSTANTS[0][:, None] + CONSTANTS[1][:, None] * np.exp(np.outer(CONSTANTS[3], -case.x))
    level = level + CONSTANTS[2][:, None] * np.exp(np.outer(CONSTANTS[4], -case.y))
    size = np.abs(np.log(level) - case.z)
    huber = np.where(size <= 0.05, size**2 / 2, 0.05 * (size - 0.025))
    assert expand(case, CONSTANTS)[0] == pytest.approx((case.weights * huber).sum(axis=1))


@pytest.mark.parametrize("is_open", [True, False])
def test_charts_invert(is_open: bool) -> None:
    constants = CONSTANTS.copy()
    if not is_open:
        constants[0] = 0
    assert to_constants(to_chart(constants, is_open), is_open) == pytest.approx(constants)


def test_solve_positive_solves_definite_systems_and_descends_on_others() -> None:
    generator = np.random.default_rng(0)
    roots = generator.normal(size=(6, 5, 5))
    definite = np.moveaxis(roots @ roots.transpose(0, 2, 1) + np.eye(5), 0, -1)
    right = generator.normal(size=(5, 6))
    solved = solve_positive(definite, right)
    assert np.einsum("ijs,js->is", definite, solved) == pytest.approx(right)
    indefinite = definite - 8 * np.eye(5)[..., None]
    assert ((solve_positive(indefinite, right) * right).sum(axis=0) > 0).all()
