"""Descents of many problems at once: each ends where it would alone, whatever seat and rung it began on."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import independent_runs

from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.descent import SEATED, Array, Index, Mask, Problems, descend, joined
from llama_scale.fitting.forms import CHINCHILLA
from llama_scale.fitting.newton import FiveMoves, to_chart, to_constants

TRUTH = np.array([[1.8], [0.4], [0.5], [0.35], [0.37]])
ROWS = 40


def problems(count: int, noise: float = 0.02) -> Problems:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, ROWS))
    e, a, b, alpha, beta = TRUTH[:, 0]
    z = np.log(e + a * np.exp(-alpha * x) + b * np.exp(-beta * y))
    z = z + noise * generator.standard_normal((count, ROWS))
    return Problems(x[None], y[None], z, generator.random((count, ROWS)), np.arange(count))


def landed(
    case: Problems, deltas: tuple[float, ...], begin: Index | int = 0, start: Array = TRUTH
) -> tuple[Array, Array, Mask]:
    moves = FiveMoves.of(case, is_open=True)
    chart = np.repeat(to_chart(start, True), len(case.of), axis=1)
    return descend(case, chart, moves, deltas=deltas, begin=np.asarray(begin, np.intp))


def test_it_lands_on_the_law_that_made_the_data() -> None:
    start = TRUTH * np.array([[1.1], [0.7], [1.3], [1.3], [0.7]])
    chart, objective, converged = landed(problems(1, noise=0.0), (1.0,), start=start)
    assert converged.all()
    assert objective[0] < 1e-18
    assert to_constants(chart, True) == pytest.approx(TRUTH, rel=1e-5)


def test_problems_end_where_they_would_alone_however_many_wait_for_a_seat() -> None:
    count = 3 * SEATED // ROWS + 7
    case = problems(count)
    begin = np.arange(count) % 3
    chart, objective, converged = landed(case, (0.1, 0.03, 0.01), begin)
    assert converged.all()
    for i in [0, 1, SEATED // ROWS, count - 2, count - 1]:
        one = case._replace(of=np.array([i]))
        alone = landed(one, (0.1, 0.03, 0.01)[begin[i] :])
        assert alone[1][0] == pytest.approx(objective[i], rel=1e-9)
        assert alone[0][:, 0] == pytest.approx(chart[:, i], rel=1e-4)


def test_problems_may_share_a_row() -> None:
    case = problems(2)
    shared = landed(case._replace(of=np.array([1, 0, 1])), (0.03,))[1]
    assert shared[[1, 0]] == pytest.approx(landed(case, (0.03,))[1], rel=1e-9)
    assert shared[2] == pytest.approx(shared[0], rel=1e-12)


def test_only_the_last_rung_counts() -> None:
    case = problems(5)
    straight, staged = landed(case, (0.01,)), landed(case, (1.0, 0.1, 0.01))
    assert staged[1] == pytest.approx(straight[1], rel=1e-9)
    assert landed(case, (0.1, 0.01), begin=1)[1] == pytest.approx(straight[1], rel=1e-12)


def test_rows_of_no_weight_are_left_out_and_change_nothing() -> None:
    case = problems(5)
    some = case._replace(weights=case.weights * (np.random.default_rng(1).random((5, ROWS)) < 0.6))
    compact = some.compact()
    assert compact.rows == (some.weights != 0).sum(axis=1).max() < ROWS
    assert compact.weights.sum(axis=1) == pytest.approx(some.weights.sum(axis=1))
    assert landed(compact, (0.03,))[1] == pytest.approx(landed(some, (0.03,))[1], rel=1e-12)
    assert case.compact().rows == ROWS
    one = some._replace(of=np.array([3, 3])).compact()
    assert (len(one.z), one.rows, one.of.tolist()) == (1, (some.weights[3] != 0).sum(), [0, 0])


@pytest.mark.parametrize("seed", range(4))
def test_every_start_comes_to_rest_on_one_minimum(seed: int) -> None:
    """35 runs of 1 % noise, delta a tenth of that: 6 to 13 of 98 zigzag for ever if walls are forgotten."""
    solution = CHINCHILLA.solve(points_of(independent_runs(seed, count=35, noise=0.01)), delta=1e-3)
    assert (solution.agreed, solution.starts) == (98, 98)


def test_problems_of_several_data_sets_end_where_they_would_among_their_own() -> None:
    case, other = problems(3), problems(5, noise=0.05)
    some = other._replace(
        x=other.x[:, :25],
        y=other.y[:, :25],
        z=other.z[:, :25],
        weights=other.weights[:, :25],
        of=np.array([4, 0]),
        units=np.array([2.0]),
    )
    both = joined([case, some])
    assert len(both.of) == 5
    assert both.scale.tolist() == [1, 1, 1, 2, 2]
    alone = np.concatenate([landed(one, (0.1, 0.03))[1] for one in (case, some)])
    assert landed(both, (0.1, 0.03))[1] == pytest.approx(alone, rel=1e-9)
