"""The four forms of one law: gradients, closed-form optima, contours, and published instances of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.laws import (
    FORMS,
    FormName,
    ScalingLaw,
    parse_law_line,
    published,
    published_allocation,
    published_allocations,
    published_names,
)

LAWS: dict[FormName, ScalingLaw] = {
    "chinchilla": ScalingLaw(E=1.8, A=480.0, B=2085.0, alpha=0.348, beta=0.366),
    "skaling": ScalingLaw(E=0.8, A=3.5e5, B=8.3e6, alpha=0.8, beta=0.89, k=0.23),
    "tied": ScalingLaw(E=1.87, A=521.0, B=1488.0, alpha=0.3527, beta=0.3527),
    "kaplan": ScalingLaw(E=0.0, A=1.54e10, B=1.8e13, alpha=0.738, beta=1.0, k=0.103),
}
N, D = 3e8, 2e10


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_known_by_its_constants(form: FormName) -> None:
    law = LAWS[form]
    assert law.form == form
    assert law.is_of(form)
    assert law.is_of("skaling")
    assert law.has_outer_power == (form in ("skaling", "kaplan"))
    assert ("k" in law.constants) == law.has_outer_power
    assert ScalingLaw(**law.constants) == law


def test_a_law_without_a_floor_or_with_beta_1_is_not_yet_kaplans() -> None:
    kaplan = LAWS["kaplan"]
    assert replace(kaplan, beta=0.9).form == replace(kaplan, E=0.1).form == "skaling"
    assert replace(LAWS["chinchilla"], E=0.0).form == "chinchilla"


def test_a_batch_of_mixed_forms_is_skaling() -> None:
    names = ("E", "A", "B", "alpha", "beta", "k")
    batch = ScalingLaw(
        **{name: np.array([getattr(law, name) for law in LAWS.values()], float) for name in names}
    )
    assert batch.form == "skaling"
    expected = [law.loss(N, D) for law in LAWS.values()]
    assert batch.loss(N, D) == pytest.approx(expected)
    assert batch.compute_optimum(1e22).parameters == pytest.approx(
        [law.compute_optimum(1e22).parameters for law in LAWS.values()]
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_the_losss_derivative(form: FormName) -> None:
    law = LAWS[form]
    by_size = (law.loss(N * 1.00001, D) - law.loss(N * 0.99999, D)) / (2e-5 * N)
    by_data = (law.loss(N, D * 1.00001) - law.loss(N, D * 0.99999)) / (2e-5 * D)
    assert law.gradient(N, D) == (pytest.approx(by_size, rel=1e-6), pytest.approx(by_data, rel=1e-6))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("budget", [1e19, 5.76e23])
def test_the_optimum_of_a_budget_is_a_brute_force_grids(form: FormName, budget: float) -> None:
    law, best = LAWS[form], LAWS[form].compute_optimum(budget)
    sizes = float(best.parameters) * np.geomspace(0.01, 100, 20_001)
    losses = np.asarray(law.loss(sizes, budget / 6 / sizes))
    assert sizes[losses.argmin()] == pytest.approx(best.parameters, rel=1e-3)
    # the cheapest split that reaches that loss is the same point: the two questions are duals
    assert law.cheapest(law.loss(*best)) == (
        pytest.approx(best.parameters, rel=1e-6),
        pytest.approx(best.tokens, rel=1e-6),
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_contour_holds_its_loss_and_is_cheapest_in_its_middle(form: FormName) -> None:
    law = LAWS[form]
    loss = float(law.loss(N, D))
    curve = law.contour(loss, span=1.5, count=31)
    assert law.loss(*curve) == pytest.approx(np.full(31, loss))
    assert np.argmin(np.asarray(curve.parameters) * np.asarray(curve.tokens)) == 15
    assert law.tokens_for_loss(loss, N) == pytest.approx(D)
    assert law.parameters_for_loss(loss, D) == pytest.approx(N)
    plain = np.asarray(law.contour(loss).parameters)
    assert (len(plain), plain[-1] / plain[0]) == (101, pytest.approx(100))
    assert np.isnan(law.contour(loss, span=1e4).tokens).any()  # too small a model never gets there


def test_kaplans_law_is_the_papers() -> None:
    fit = published("kaplan-2020")
    assert (fit.law.form, fit.convention) == ("kaplan", "non_embedding")
    for size, tokens in ((1e6, 1e9), (1.5e9, 2.2e10)):
        expected = ((6.4e13 / size) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103
        assert fit.law.loss(size, tokens) == pytest.approx(expected, rel=1e-8)
    # without a limit on data it is L(N) = (Nc / N)^alpha_N
    assert fit.law.loss(1e8, 1e30) == pytest.approx((6.4e13 / 1e8) ** 0.076, rel=1e-8)


def test_every_form_has_a_published_instance_but_skaling() -> None:
    assert {published(name).law.form for name in published_names()} == {"chinchilla", "tied", "kaplan"}
    assert published("muennighoff-2023").law.form == "tied"


def test_constants_on_the_line_take_every_form() -> None:
    for law in LAWS.values():
        line = ",".join(f"{name}={value}" for name, value in law.constants.items())
        assert parse_law_line(line).law == law


# Hoffmann et al. 2022, table 3: parameters, FLOPs, tokens
TABLE_3 = [
    (400e6, 1.92e19, 8.0e9),
    (1e9, 1.21e20, 20.2e9),
    (10e9, 1.23e22, 205.1e9),
    (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12),
    (280e9, 9.90e24, 5.9e12),
    (520e9, 3.43e25, 11.0e12),
    (1e12, 1.27e26, 21.2e12),
]


@pytest.mark.parametrize(("parameters", "flops", "tokens"), TABLE_3)
def test_approach_1_gives_hoffmanns_table_3(parameters: float, flops: float, tokens: float) -> None:
    best = published_allocation("hoffmann-2022-approach-1").compute_optimum(flops)
    assert best.parameters == pytest.approx(parameters, rel=0.05)
    assert best.tokens == pytest.approx(tokens, rel=0.06)  # 1.5T is rounded: the row's C / 6N is 1.43T


def test_deepseeks_two_lines_are_one_allocation() -> None:
    best = published_allocation("deepseek-2024").compute_optimum([1e20, 1e24])
    assert best.tokens == pytest.approx(5.8316 * np.array([1e20, 1e24]) ** 0.4757, rel=1e-3)
    with pytest.raises(InputError, match="no published allocation"):
        published_allocation("deepsek")
    assert len(published_allocations()) == 2
