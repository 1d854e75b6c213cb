"""A score from a loss: the sigmoid, its inverse, its interval, and its place in a fit's file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_scale.errors import InputError
from llama_scale.laws import (
    MUENNIGHOFF_REPETITION,
    Downstream,
    Fit,
    Repetition,
    ScorePrediction,
    Sigmoid,
    fit_to_json,
    published,
    read_fit,
    resolve_law,
    write_fit,
)

T = TypeVar("T")
CURVE = Sigmoid(floor=0.25, ceiling=0.9, steepness=4.0, midpoint=2.2)


def there(value: T | None) -> T:
    assert value is not None
    return value


def width(guess: ScorePrediction) -> np.ndarray:
    return np.subtract(there(guess.high), there(guess.low))


def scored(count: int = 100) -> Downstream:
    scatter = np.random.default_rng(0).standard_normal((4, count))
    return Downstream(
        task="hellaswag",
        sigmoid=CURVE,
        losses=(1.9, 3.4),
        models=24,
        noise=0.01,
        draws=Sigmoid(
            floor=0.25 + 0.01 * scatter[0],
            ceiling=0.9 + 0.02 * scatter[1],
            steepness=4.0 * np.exp(0.05 * scatter[2]),
            midpoint=2.2 + 0.01 * scatter[3],
        ),
        source="scores.csv",
        evidence={"left_out": 2},
    )


@given(loss=st.floats(0.5, 5))
def test_the_loss_of_a_score_is_its_inverse(loss: float) -> None:
    assert CURVE.loss_for(CURVE.score(loss)) == pytest.approx(loss, abs=1e-6)


def test_scores_rise_from_floor_to_ceiling_as_loss_falls() -> None:
    scores = np.asarray(CURVE.score(np.linspace(0, 6, 50)))
    assert np.all(np.diff(scores) < 0)
    assert (scores[0], scores[-1]) == (pytest.approx(0.9, abs=1e-3), pytest.approx(0.25, abs=1e-3))
    assert np.isnan(CURVE.loss_for([0.25, 0.2, 0.9, 0.95])).all()


def test_an_interval_holds_the_doubt_of_the_curve_the_scatter_of_models_and_the_doubt_of_the_loss() -> None:
    downstream = scored()
    guess = downstream.predict([2.0, 2.5], 0.9)
    assert np.all((there(guess.low) < guess.score) & (guess.score < there(guess.high)))
    assert np.all(width(replace(downstream, noise=0.0).predict([2.0, 2.5], 0.9)) < width(guess))
    unsure = downstream.predict(2.2, loss_draws=2.2 + 0.1 * np.random.default_rng(1).standard_normal(300))
    assert width(unsure) > 2 * width(downstream.predict(2.2))
    assert replace(downstream, draws=None).predict(2.2).low is None


def full_fit() -> Fit:
    decays = np.linspace(0.9, 1.1, 1000)
    return replace(
        published(),
        repetition=MUENNIGHOFF_REPETITION,
        repetition_draws=Repetition(tokens_decay=15 * decays, parameters_decay=5 * decays),
        downstream=scored(),
        evidence={"repeated_data": {"minima": []}},
    )


def test_repetition_and_scores_survive_a_fits_file(tmp_path: Path) -> None:
    fit = full_fit()
    again = read_fit(write_fit(tmp_path / "fit.json", fit))
    assert again.repetition == fit.repetition
    drawn, kept = there(fit.repetition_draws), there(again.repetition_draws)
    assert kept.tokens_decay == pytest.approx(drawn.tokens_decay)
    assert there(again.downstream).predict(2.3) == pytest.approx(scored().predict(2.3))
    assert again.evidence["repeated_data"] == {"minima": []}
    assert there(again.downstream).evidence == {"left_out": 2}
    assert fit_to_json(again) == fit_to_json(fit)
    assert fit_to_json(fit)["form"] == "repeated"
    assert resolve_law(str(tmp_path / "fit.json")).repeated(1e12).loss(7e9, 2e12) == pytest.approx(
        fit.repeated(1e12).loss(7e9, 2e12)
    )


def test_draws_of_the_law_and_of_repetition_go_together() -> None:
    fit = full_fit()
    fewer = replace(fit, repetition_draws=there(fit.repetition_draws).at(slice(0, 300)))
    for one in (fit, fewer):
        assert np.shape(there(one.repeated_draws(1e12)).loss(7e9, 4e12)) == (1000,)
    only = replace(fit, draws=None)
    assert np.ptp(there(only.repeated_draws(1e12)).loss(7e9, 4e12)) > 0
    assert replace(published("hoffmann-2022"), repetition=None).repeated_draws(1e12) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"repetition_draws": {"tokens_decay": [1.0]}}, "parameters_decay"),
        (
            {"repetition_draws": {"tokens_decay": [1.0], "parameters_decay": [1.0, 2.0]}},
            "lists of one length",
        ),
        ({"repetition_draws": {"tokens_decay": [1.0], "parameters_decay": [1.0]}}, "of one length"),
        ({"downstream": 3}, "downstream must be an object"),
        ({"downstream": {"losses": [1, 2], "noise": -1.0}}, "noise"),
        ({"downstream": {"losses": [1, 2, 3], "noise": 1.0}}, "too many values"),
        ({"form": "tied"}, "tokens_decay"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    content = fit_to_json(full_fit()) | change
    (tmp_path / "fit.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=problem):
        read_fit(tmp_path / "fit.json")


@pytest.mark.parametrize("steepness", [-1.0, 0.0, float("inf")])
def test_a_sigmoid_that_does_not_fall_is_refused(tmp_path: Path, steepness: float) -> None:
    content = fit_to_json(full_fit())
    content["downstream"]["steepness"] = steepness
    (tmp_path / "fit.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="steepness"):
        read_fit(tmp_path / "fit.json")
