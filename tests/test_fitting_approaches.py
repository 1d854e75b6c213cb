"""The three approaches side by side: they agree where a law holds, and say why where one is not possible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import LAW, independent_runs, sweep

from llama_scale.fitting import Rules, Settings, UnidentifiedFitError, fit
from llama_scale.fitting.approaches import compare_approaches
from llama_scale.fitting.isoflop import isoflop
from llama_scale.fitting.rules import parse_burn_in
from llama_scale.laws import Fit, read_fit, write_fit
from llama_scale.runs import load_records

RESULTS = Path(__file__).parents[1] / "sweeps" / "results"
QUICK = Settings(form="chinchilla", draws=100, backtest=False)


def three(found: Fit) -> Sequence[Mapping[str, Any]]:
    assert [one["approach"] for one in found.evidence["approaches"]] == [1, 2, 3]
    return found.evidence["approaches"]


def test_all_three_recover_a_known_law() -> None:
    found = fit(sweep(0, trunk_noise=0.0005, own_noise=0.0005), settings=QUICK)
    assert three(found)[1]["exponent_a_bias"] == found.evidence["isoflop"]["exponent_a_bias"]
    assert three(found)[0]["exponent_a_bias"] == pytest.approx(0, abs=0.01)
    first = "; ".join(three(found)[0]["notes"])
    assert "the envelope's own bias" in first
    assert "no interval:" not in first
    for one in three(found):
        bias = one["exponent_a_bias"] or 0.0
        assert one["reason"] is None
        assert one["exponent_a"] - bias == pytest.approx(LAW.exponent_a, abs=0.02)
        assert one["exponent_a"] + one["exponent_b"] == pytest.approx(1, abs=1e-6)
        low, high = one["exponent_a_interval"]
        assert low < one["exponent_a"] < high
        (split,) = one["optima"]
        best = LAW.compute_optimum(split["train_flops"])
        assert split["parameters"] == pytest.approx(best.parameters, rel=0.3 if abs(bias) > 0.02 else 0.1)
        assert split["parameters_interval"][0] < split["parameters"] < split["parameters_interval"][1]
        assert 6 * split["parameters"] * split["tokens"] == pytest.approx(split["train_flops"], rel=1e-3)


def test_a_bias_that_rounds_to_nothing_has_no_minus() -> None:
    runs = sweep(0)
    found = fit(runs, form="chinchilla", draws=0)
    _, second, _ = compare_approaches(runs, found, isoflop(runs, draws=0), bias=-1e-5)
    assert any("of its a, +0.000 is" in note for note in second.notes)


def test_what_is_not_possible_says_why() -> None:
    first, second, third = three(fit(independent_runs(0, count=25), settings=QUICK))
    assert "three sizes with runs of several durations" in first["reason"]
    assert "form no two budgets" in second["reason"]
    assert third["reason"] is None
    assert first["exponent_a"] is None
    assert first["optima"] == second["optima"] == []


def test_budgets_without_a_minimum_are_named() -> None:
    runs = sweep(0, trunk_noise=0.0, own_noise=0.0)
    found = fit(runs.take(runs.parameters > 30_000), settings=QUICK)
    refused = [p for p in found.evidence["isoflop"]["profiles"] if p["verdict"] != "interior"]
    assert refused
    notes = "; ".join(three(found)[1]["notes"])
    assert "below the sizes; run smaller models there" in notes
    fewer = three(fit(runs.take(runs.parameters > 50_000), settings=replace(QUICK, draws=0)))[1]
    assert fewer["reason"].startswith("2 of 6 budgets have a best size between their runs: 3 are the least")
    assert len([note for note in fewer["notes"] if note.startswith("no best size at")]) == 4


def test_budgets_that_are_asked_for_are_shown_and_draws_may_be_none() -> None:
    settings = Settings(form="chinchilla", draws=0, budgets=(1e13, 1e14))
    for one in three(fit(sweep(0), settings=settings)):
        assert [split["train_flops"] for split in one["optima"]] == [1e13, 1e14]
        assert one["exponent_a_interval"] is None
        assert one["optima"][0]["tokens_interval"] is None
        assert "no interval:" not in "".join(one["notes"])  # none was asked for: no run is missing


def test_exact_flops_are_what_the_law_s_split_costs() -> None:
    runs = sweep(0)
    dearer = replace(runs, train_flops=1.25 * runs.train_flops, flops_accounting="exact")
    found = fit(runs, settings=QUICK)
    plain, exact = (compare_approaches(which, found, None, budgets=(1e13,))[2] for which in (runs, dearer))
    for one, overhead in ((plain, 1.0), (exact, 1.25)):
        (split,) = one.optima
        assert 6 * split.parameters * split.tokens * overhead == pytest.approx(1e13, rel=1e-6)
    assert any("FLOPs are taken as 1.250 x 6ND" in note for note in exact.notes)
    assert exact.exponent_a_interval is not None
    assert exact.exponent_b_interval is not None
    low, high = exact.exponent_a_interval
    assert tuple(exact.exponent_b_interval) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_sweep_s_approaches_agree(seed: int) -> None:
    """Within .06 of each other in a, and each inside the other two's 90 % intervals."""
    try:
        found = fit(
            load_records(RESULTS / f"default-seed{seed}.json"), settings=replace(QUICK, form="skaling")
        )
    except UnidentifiedFitError as error:
        found = error.estimate
    exponents = [one["exponent_a"] for one in three(found)]
    assert max(exponents) - min(exponents) < 0.06
    for one in three(found):
        low, high = one["exponent_a_interval"]
        assert sum(low <= a <= high for a in exponents) >= 2


def test_what_stands_beside_the_law_travels_with_the_fit(tmp_path: Path) -> None:
    rules = Rules(burn_in=parse_burn_in("1/N"), repeats="mean")
    found = fit(load_records(RESULTS / "default-seed0.json"), settings=QUICK, rules=rules)
    again = read_fit(write_fit(tmp_path / "fit.json", found))
    for key in ("approaches", "isoflop", "accounting", "points"):
        assert json.loads(json.dumps(found.evidence[key])) == again.evidence[key]
    points = found.evidence["points"]
    assert points["burn_in_tokens_per_parameter"] == 1.0
    assert points["used"] == 24  # 36 runs, of which 12 repeat another's size and duration
    assert points["left_out"] == len(found.evidence["exclusions"])


def test_llama3_at_the_budget_of_its_largest_model(shared_data: Path) -> None:
    # ../shared/data/README.md, item 3: Approach 2 gives 16.10T tokens and 393.3B parameters at 3.8e25
    settings = Settings(form="chinchilla", draws=0, budgets=(3.8e25,))
    _, parabolas, law = three(fit(shared_data / "llama3_isoflop.csv", settings=settings))
    assert parabolas["exponent_b"] == pytest.approx(0.5368, abs=5e-5)
    assert parabolas["optima"][0]["tokens"] == pytest.approx(16.10e12, rel=5e-4)
    assert parabolas["optima"][0]["parameters"] == pytest.approx(393.3e9, rel=2e-4)
    assert law["optima"][0]["tokens"] < parabolas["optima"][0]["tokens"]


def test_hoffmanns_three_approaches_on_the_public_runs(shared_data: Path) -> None:
    """Hoffmann et al. 2022, table 2: a = .50, .49, .46; the re-fit of Besiroglu et al. 2024 gives .513."""
    runs = shared_data / "chinchilla.csv"
    found = fit(runs, where=["excluded_by_besiroglu = 0"], settings=QUICK)
    for one, published in zip(three(found), (0.50, 0.49, 0.513), strict=True):
        assert one["exponent_a"] == pytest.approx(published, abs=0.03)
