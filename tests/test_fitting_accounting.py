"""What ways of counting do: closed forms, brute force, and the Kaplan-Chinchilla discrepancy reproduced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import sweep

from llama_scale.fitting import UnidentifiedFitError, fit, gather
from llama_scale.fitting.accounting import Counting, compare_countings
from llama_scale.fitting.candidates import points_of
from llama_scale.fitting.forms import CHINCHILLA
from llama_scale.fitting.minima import Solution
from llama_scale.fitting.observations import Observations, Row, Rows, observe
from llama_scale.laws import published
from llama_scale.runs import load_records

RESULTS = Path(__file__).parents[1] / "sweeps" / "results"
LAW = published().law


def solve(runs: Observations) -> Solution:
    return CHINCHILLA.solve(points_of(runs), delta=1e-3, quick=True)


def by_way(runs: Observations) -> dict[tuple[str, str], Counting]:
    return {(c.convention, c.flops): c for c in compare_countings(runs, solve)[1]}


def small_models(attention: float = 0.0) -> Observations:
    """Small models under the default law of total N; embeddings as Pearce & Song model them."""
    rows = []
    for body in np.exp(np.linspace(np.log(1e6), np.log(1e9), 10)):
        total = body + 47_491 * body ** (1 / 3)
        for tokens in np.exp(np.linspace(np.log(2e8), np.log(3e10), 8)):
            rows.append(
                Row(
                    name=f"r{len(rows)}",
                    place=f"r{len(rows)}",
                    parameters=float(total),
                    tokens=float(tokens),
                    loss=float(LAW.loss(total, tokens)),
                    train_flops=float(6 * total * tokens * (1 + attention * (total / 1e8) ** -0.3)),
                    counts={"total": float(total), "non_embedding": float(body)},
                )
            )
    return observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])


def test_leaving_out_embeddings_raises_the_exponent() -> None:
    """Pearce & Song 2024 find .78 for small models where .51 holds for all parameters."""
    found = by_way(small_models())
    assert set(found) == {("total", "6nd"), ("non_embedding", "6nd")}
    total, body = found["total", "6nd"], found["non_embedding", "6nd"]
    assert total.exponent_a == pytest.approx(LAW.exponent_a, abs=1e-3)
    assert total.used
    assert body.exponent_a > total.exponent_a + 0.1
    assert body.parameters != pytest.approx(total.parameters, rel=0.05)


def test_exact_flops_move_the_optimum_as_brute_force_says() -> None:
    runs = small_models(attention=0.5)
    budget, countings = compare_countings(runs, solve)
    exact = next(c for c in countings if c.flops == "exact")
    assert exact.used
    sizes = np.exp(np.linspace(np.log(1e7), np.log(2e9), 20_001))
    tokens = budget / (6 * sizes * (1 + 0.5 * (sizes / 1e8) ** -0.3))
    losses = np.asarray(LAW.loss(sizes, tokens))
    assert exact.parameters == pytest.approx(sizes[losses.argmin()], rel=0.02)
    assert exact.tokens == pytest.approx(tokens[losses.argmin()], rel=0.02)
    assert exact.exponent_a != pytest.approx(LAW.exponent_a, abs=1e-3)


def test_the_best_size_by_exact_flops_may_lie_far_beyond_the_runs() -> None:
    runs = small_models(attention=0.1)
    small = runs.take(runs.parameters < 1e8)
    dearer = replace(small, train_flops=1.1 * 6 * small.parameters * small.tokens)
    dearer = replace(dearer, source_flops=dearer.train_flops)
    found = by_way(dearer)
    plain, exact = found["total", "6nd"], found["total", "exact"]
    assert plain.parameters > 3 * small.parameters.max()
    assert exact.exponent_a == pytest.approx(plain.exponent_a, rel=1e-4)
    assert exact.parameters == pytest.approx(plain.parameters * 1.1**-plain.exponent_a, rel=1e-4)


def mostly_embeddings() -> Observations:
    """Models so small that hardly any parameter lies outside the embedding: no law of the others holds."""
    rows = []
    for budget in np.geomspace(1e16, 1e19, 7):
        for off in np.geomspace(0.2, 5, 7):
            total = 0.08 * budget**0.5 * off
            width = np.roots([12 / 64, 0, 64_000, -total])
            body = 12 / 64 * float(width[np.isreal(width)].real[0]) ** 3
            row = Row(
                name=f"r{len(rows)}",
                place="a row",
                parameters=total,
                tokens=budget / (6 * total),
                loss=float(LAW.loss(total, budget / (6 * total))),
                counts={"total": total, "non_embedding": body},
            )
            rows.append(row)
    return observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])


def test_a_law_that_would_be_refused_is_marked() -> None:
    runs = mostly_embeddings()
    found = by_way(runs)
    assert found["total", "6nd"].unidentified is None
    assert "on a bound of E" in str(found["non_embedding", "6nd"].unidentified)
    with pytest.raises(UnidentifiedFitError, match="on a bound of E"):
        alone = replace(runs, parameters=runs.counts["non_embedding"], convention="non_embedding")
        fit(alone, form="chinchilla", delta=1e-3, draws=0)


def test_one_way_of_counting_leaves_nothing_to_compare() -> None:
    assert compare_countings(sweep(0), solve)[1] == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_sweep_shows_the_discrepancy(seed: int) -> None:
    found = by_way(gather(load_records(RESULTS / f"default-seed{seed}.json")))
    assert set(found) == {
        ("total", "6nd"),
        ("non_embedding", "6nd"),
        ("matmul", "6nd"),
        ("matmul", "exact"),
    }
    assert found["non_embedding", "6nd"].exponent_a > found["matmul", "6nd"].exponent_a + 0.05
    assert found["total", "6nd"].exponent_a < found["matmul", "6nd"].exponent_a
    assert [c.used for c in found.values()].count(True) == 1


def test_a_table_with_both_counts_is_compared(shared_data: Path) -> None:
    runs = gather(shared_data / "gadre_overtraining.csv", where=["dataset = rpj"])
    found = by_way(runs)
    assert found["total", "6nd"].used
    assert found["non_embedding", "6nd"].exponent_a > found["total", "6nd"].exponent_a
