"""Laws, the Fit that carries them, their files, and the names that users give them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_scale.errors import InputError, StoreError
from llama_scale.fitting.curve_fit import CurveLaws
from llama_scale.laws import (
    DEFAULT_LAW,
    Fit,
    Range,
    ScalingLaw,
    Support,
    central_range,
    fit_to_json,
    median,
    parse_law_line,
    published,
    published_names,
    read_fit,
    resolve_law,
    write_fit,
)
from tests.figures import FIT

LAWS = st.builds(
    ScalingLaw,
    E=st.floats(0.5, 3),
    A=st.floats(50, 3000),
    B=st.floats(50, 3000),
    alpha=st.floats(0.2, 0.7),
    beta=st.floats(0.2, 0.7),
    k=st.one_of(st.just(1.0), st.floats(0.3, 1.5)),
)


def drawn_fit(count: int = 200, noise: float = 0.01) -> Fit:
    law = published().law
    generator = np.random.default_rng(0)
    draws = {
        name: value * np.exp(0.01 * generator.standard_normal(count)) for name, value in law.constants.items()
    }
    return Fit(
        name="mine",
        law=law,
        convention="matmul",
        source="test",
        flops_accounting="exact",
        support=Support(train_flops=Range(1e18, 1e20), parameters=Range(1e7, 1e9)),
        draws=ScalingLaw(**draws),
        draws_note="made up",
        noise=noise,
        noise_draws=noise * np.exp(0.1 * generator.standard_normal(count)),
        interval_factor=1.2,
        evidence={"objective": 1e-3, "diagnostics": {"starts": 5}},
    )


@given(law=LAWS, log_n=st.floats(17, 26), log_d=st.floats(20, 30))
def test_tokens_and_parameters_for_a_loss_invert_the_loss(
    law: ScalingLaw, log_n: float, log_d: float
) -> None:
    n, d = np.exp(log_n), np.exp(log_d)
    loss = law.loss(n, d)
    assert np.log(law.tokens_for_loss(loss, n)) == pytest.approx(log_d, abs=1e-6)
    assert np.log(law.parameters_for_loss(loss, d)) == pytest.approx(log_n, abs=1e-6)


@given(law=LAWS, log_c=st.floats(40, 62))
def test_the_compute_optimum_beats_its_neighbours_on_the_same_budget(law: ScalingLaw, log_c: float) -> None:
    budget = np.exp(log_c)
    best, tokens = law.compute_optimum(budget)
    assert 6 * best * tokens == pytest.approx(budget)
    others = best * np.geomspace(0.1, 10, 41)
    assert np.all(law.loss(others, budget / 6 / others) >= law.loss(best, tokens) * (1 - 1e-12))


def test_a_loss_below_the_floor_has_no_tokens() -> None:
    law = published().law
    assert np.isnan(law.tokens_for_loss(1.5, 1e9))
    assert np.isnan(law.excess(law.E))  # at the floor itself neither


# ../shared/ACCEPTANCE.md, "Laws" and "Inference-aware optimum": optimum at 5.76e23 FLOPs, and measured rows.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hoffmann-2022-sardana", 42e9),
        ("hoffmann-2022", 32e9),
        ("besiroglu-2024", 72e9),
        ("muennighoff-2023", 70e9),
    ],
)
def test_published_laws_give_the_published_optimum(name: str, parameters: float) -> None:
    assert published(name).optimum(5.76e23).parameters == pytest.approx(parameters, rel=0.012)


def test_sardanas_constants_give_his_numbers() -> None:
    law = published("hoffmann-2022-sardana").law
    n, d = law.compute_optimum(1e24)
    assert (n, d) == (pytest.approx(5.368e10, rel=1e-3), pytest.approx(3.105e12, rel=1e-3))
    assert law.loss(n, d) == pytest.approx(1.91061, abs=1e-5)
    assert law.loss(70e9, 1e12) == pytest.approx(1.94727, abs=1e-5)


@pytest.mark.parametrize(("flops", "ratio"), [(1e21, 21.6), (5.76e23, 18.4), (1e25, 17.1)])
def test_the_default_law_trains_on_about_twenty_tokens_a_parameter(flops: float, ratio: float) -> None:
    best = published().optimum(flops)
    assert best.tokens / best.parameters == pytest.approx(ratio, abs=0.06)


def test_a_size_and_its_optimal_tokens_are_the_optimum_of_their_budget() -> None:
    for law in (published().law, replace(published("hoffmann-2022-sardana").law, k=0.5)):
        tokens = law.optimal_tokens(7e10)
        assert law.compute_optimum(6 * 7e10 * tokens) == pytest.approx((7e10, tokens))


def test_the_default_law_comes_with_draws_about_its_published_uncertainty() -> None:
    fit = published()
    assert fit.draws is not None
    assert published_names()[0] == fit.name == DEFAULT_LAW
    # Besiroglu et al. 2024: standard errors E .0257, alpha .0154, beta .0206; a .513 +- .020
    assert np.std(fit.draws.alpha) == pytest.approx(0.0154, rel=0.1)
    assert np.std(fit.draws.beta) == pytest.approx(0.0206, rel=0.1)
    assert np.std(fit.draws.E) == pytest.approx(0.0257, rel=0.1)
    assert np.mean(fit.draws.exponent_a) == pytest.approx(0.513, abs=0.01)
    assert all(np.size(value) == 1000 for value in fit.draws.constants.values())


def test_laws_without_draws_say_why_and_give_no_interval() -> None:
    for name in published_names()[1:]:
        fit = published(name)
        guess, best = fit.predict(1e9, 1e11), fit.optimum(1e21)
        assert (guess.low, guess.high, best.parameters_interval) == (None, None, None)
        assert fit.draws_note


def reach(fit: Fit, level: float = 0.9) -> tuple[float, float]:
    """Log distances from a predicted loss to the ends of its interval."""
    guess = fit.predict(1e9, 1e11, level=level)
    assert guess.low is not None
    assert guess.high is not None
    return float(np.log(guess.loss / guess.low)), float(np.log(guess.high / guess.loss))


def test_a_prediction_holds_the_noise_of_the_run_and_the_doubt_of_the_law() -> None:
    quiet, noisy = (replace(drawn_fit(noise=noise), interval_factor=1.0) for noise in (0.0, 0.05))
    for fit in (quiet, noisy):
        guess = fit.predict([1e9, 7e9], 1e11)
        assert guess.low is not None
        assert guess.high is not None
        assert np.shape(guess.loss) == np.shape(guess.low) == (2,)
        assert np.all(guess.low < guess.loss)
        assert np.all(guess.loss < guess.high)
    assert reach(noisy)[1] == pytest.approx(np.hypot(reach(quiet)[1], 1.645 * 0.05), rel=0.1)


def test_the_interval_factor_scales_log_distances_and_the_level_orders_them() -> None:
    fit = drawn_fit()
    one, two = (reach(replace(fit, interval_factor=factor)) for factor in (1.0, 2.0))
    assert two == pytest.approx((2 * one[0], 2 * one[1]))
    assert reach(fit, level=0.5) < reach(fit, level=0.95)


@pytest.mark.parametrize("level", [90, 1.5, 0, 1, -0.1, float("nan"), "90%"])
def test_a_level_is_a_chance(level: Any) -> None:
    fit = published()
    for ask in (lambda: fit.predict(7e9, 1e12, level=level), lambda: fit.optimum(1e21, level=level)):
        with pytest.raises(InputError, match="must lie between 0 and 1"):
            ask()


@pytest.mark.parametrize(
    "bad", [0, -1.0, float("nan"), float("inf"), "7B", None, [1e9, 0.0], 10**400, np.zeros((9, 9))]
)
def test_predictions_and_optima_are_of_numbers_above_zero(bad: Any) -> None:
    fit = published()
    for ask in (lambda: fit.predict(bad, 1e12), lambda: fit.predict(7e9, bad), lambda: fit.optimum(bad)):
        with pytest.raises(InputError, match="must be finite and above 0") as caught:
            ask()
        assert "\n" not in caught.value.message and len(caught.value.message) < 150


def test_sizes_and_durations_that_make_no_pairs_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(2,\) and tokens of shape \(3,\) make no pairs"):
        published().predict([1e9, 2e9], [1e10, 1e11, 1e12])
    grid = published().predict(np.array([[1e9], [2e9]]), [1e10, 1e11, 1e12])
    assert np.shape(grid.loss) == (2, 3)


def test_an_optimum_is_of_one_budget() -> None:
    with pytest.raises(InputError, match="train_flops hold 2 budgets") as caught:
        published().optimum([1e21, 1e22])  # pyright: ignore[reportArgumentType]
    assert "law.compute_optimum" in caught.value.hint


def test_optimum_intervals_come_from_the_draws() -> None:
    fit = drawn_fit()
    assert fit.draws is not None
    best = fit.optimum(1e22, level=0.8)
    split = fit.draws.compute_optimum(1e22)
    assert best.parameters_interval == pytest.approx(np.quantile(split.parameters, [0.1, 0.9]))
    assert best.tokens_interval == pytest.approx(np.quantile(split.tokens, [0.1, 0.9]))


def test_a_fit_prints_as_one_line() -> None:
    assert repr(drawn_fit()).startswith("<Fit mine: E=1.8172, A=482.01")
    assert "\n" not in repr(drawn_fit())


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_the_median_is_numpys(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count)
    assert median(values) == pytest.approx(np.median(values))


def test_central_range_is_numpys_quantile() -> None:
    values = np.random.default_rng(1).standard_normal(173)
    assert central_range(values, 0.7) == pytest.approx(np.quantile(values, [0.15, 0.85]))


def test_a_draw_may_have_lost_a_term_but_no_law(tmp_path: Path) -> None:
    fit = drawn_fit()
    assert fit.draws is not None
    sunk = np.array(fit.draws.B)
    sunk[0] = 0.0
    path = write_fit(tmp_path / "fit.json", replace(fit, draws=replace(fit.draws, B=sunk)))
    back = read_fit(path)
    assert back.draws is not None and np.asarray(back.draws.B)[0] == 0
    write_fit(path, replace(fit, law=replace(fit.law, B=0.0)), overwrite=True)
    with pytest.raises(InputError, match="B must be finite and positive"):
        read_fit(path)


def test_draws_can_be_taken_one_by_one() -> None:
    draws = drawn_fit().draws
    assert draws is not None
    assert draws.at(3).loss(1e9, 1e11) == pytest.approx(np.asarray(draws.loss(1e9, 1e11))[3])


def test_extrapolation_is_a_factor_beyond_the_known_ranges() -> None:
    support = Support(train_flops=Range(1e18, 1e20), tokens_per_parameter=Range(10, 100))
    factors = support.extrapolation(parameters=1e9, tokens=5e9, train_flops=4e20)
    assert factors == pytest.approx({"train_flops": 4.0, "tokens_per_parameter": 0.5})
    assert support.extrapolation(parameters=1e9, tokens=5e10, train_flops=1e19) == {
        "train_flops": 1.0,
        "tokens_per_parameter": 1.0,
    }


# --- files


def test_a_fit_survives_its_file(tmp_path: Path) -> None:
    fit = drawn_fit()
    back = read_fit(write_fit(tmp_path / "fits" / "mine.json", fit))
    assert back.law == fit.law
    assert (back.convention, back.flops_accounting, back.support) == ("matmul", "exact", fit.support)
    assert back.evidence == fit.evidence
    assert reach(back) == pytest.approx(reach(fit))
    assert fit_to_json(back) == fit_to_json(read_fit(write_fit(tmp_path / "again.json", back)))


def test_a_fit_file_holds_what_fit_json_promises(tmp_path: Path) -> None:
    content = json.loads(write_fit(tmp_path / "f.json", drawn_fit()).read_text())
    assert content["schema"] == 1
    assert content["form"] == "chinchilla"
    assert set(content["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert content["parameter_convention"] == "matmul"
    assert 0 < content["exponent_a"] < 1


@pytest.mark.parametrize(
    "word",
    [
        *("form", "parameters", "parameter_convention", "exponent_a", "objective", "n_observations"),
        *("standard_errors", "intervals", "diagnostics", "selection", "backtest", "provenance", "warnings"),
    ],
)
def test_a_fit_has_the_words_of_json_as_attributes(word: str) -> None:
    fit = read_fit(FIT)
    assert getattr(fit, word) == fit.to_json()[word] == fit_to_json(fit)[word]
    assert getattr(fit, word) is not None


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = write_fit(tmp_path / "f.json", drawn_fit())
    before = path.read_text()
    with pytest.raises(InputError, match="exists already") as caught:
        write_fit(path, replace(drawn_fit(), name="other"))
    assert "--force" in caught.value.hint
    assert path.read_text() == before
    write_fit(path, replace(drawn_fit(), name="other"), overwrite=True)
    assert read_fit(path).name == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_a_folder_that_is_a_file_cannot_take_a_fit(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    with pytest.raises(StoreError):
        write_fit(tmp_path / "blocked" / "f.json", drawn_fit())


def test_a_torn_fit_is_one_error_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = write_fit(tmp_path / "f.json", drawn_fit(count=20)).read_bytes()
    torn = tmp_path / "torn.json"
    for end in range(0, len(whole) - 2, 97):
        torn.write_bytes(whole[:end])
        with pytest.raises(InputError, match="not a fit that can be read") as caught:
            read_fit(torn)
        assert "llama-scale fit" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"other_forms": {"skaling": {"E": 1}}}, "its other form 'skaling' is no law: a law needs"),
        ({"other_forms": {"tied": [1]}}, "its other form 'tied' is no law"),
        ({"other_forms": [1]}, ""),
        ({"parameters": {"E": [], "A": 1, "B": 1, "alpha": 1, "beta": 1}}, "float() argument must be"),
        ({"diagnostics": {"at_bound": 3}}, "at_bound must be a list"),
        ({"diagnostics": [1]}, "diagnostics must be a table"),
        ({"diagnostics": {"at_bound": [1]}}, "diagnostics.at_bound[0] is 1, but must be text"),
        (
            {"other_forms": {"tied": {key: [1, 2] for key in ("E", "A", "B", "alpha", "beta")}}},
            "its other form 'tied' is no law",
        ),
        ({"selection": {"candidates": [{"form": "tied"}]}}, "selection.candidates[0].delta is None"),
        ({"backtest": {"protocol": {"direction": "compute"}}}, "backtest.protocol must be a list"),
        ({"approaches": [{"approach": 1, "optima": [{"train_flops": 0}]}]}, "must be a positive number"),
        ({"support": {"tokens": [5, 1]}}, "support of tokens runs from 5 to 1"),
        ({"support": {"tokens": [0, float("inf")]}}, "support of tokens"),
        ({"name": "mine\x1b[31m"}, "cannot be shown"),
    ],
)
def test_a_fit_that_says_what_no_fit_says_is_one_error(
    tmp_path: Path, changed: dict[str, object], problem: str
) -> None:
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(fit_to_json(drawn_fit(count=20)) | changed))
    with pytest.raises(InputError, match="not a fit that can be read") as caught:
        read_fit(path)
    assert problem in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(fit_to_json(drawn_fit(count=20)))


@given(key=st.sampled_from(KEYS), value=JSON)
def test_a_hostile_value_is_read_or_refused_but_never_a_surprise(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    path.write_text(json.dumps(fit_to_json(drawn_fit(count=20)) | {key: value}))
    try:
        fit = read_fit(path)
    except InputError:
        return
    assert np.isfinite(fit.law.loss(1e9, 1e11))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", 2, "schema is 2"),
        ("form", "cubic", "form is 'cubic'"),
        ("parameters", {"E": 1}, "without A, B, alpha, beta"),
        ("parameter_convention", "all", "must be one of total"),
        ("noise", float("nan"), "noise"),
        ("draws", {"E": [1, 2], "A": [1], "B": [1], "alpha": [1], "beta": [1]}, "one length"),
        ("draws", {}, "draws are empty"),
        ("draws", {name: [] for name in ("E", "A", "B", "alpha", "beta")}, "draws are empty"),
        ("draws", [1, 2], "draws must be lists by name"),
    ],
)
def test_what_is_wrong_with_a_fit_is_said(tmp_path: Path, key: str, value: object, said: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(fit_to_json(drawn_fit()) | {key: value}))
    with pytest.raises(InputError, match=said):
        read_fit(path)


def test_a_fit_of_loss_curves_is_no_law_of_size_and_data(tmp_path: Path) -> None:
    laws = CurveLaws(models=(), sources=(), delta=1e-3, exclusions=(), warnings=())
    (tmp_path / "curves.json").write_text(json.dumps(laws.to_json()))
    with pytest.raises(InputError, match="a fit of whole loss curves") as caught:
        read_fit(tmp_path / "curves.json")
    assert "ends of runs" in caught.value.hint


# --- names


@pytest.mark.parametrize(
    ("typed", "meant"), [("besirglu", "besiroglu-2024"), ("Hoffman-22", "hoffmann-2022")]
)
def test_a_misspelt_law_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_law(typed)
    assert meant in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Besiroglu 2024", "besiroglu-2024"),
        ("besiroglu", "besiroglu-2024"),
        ("hoffmann2022", "hoffmann-2022"),
        ("HOFFMANN_2022_UNROUNDED", "hoffmann-2022-unrounded"),
        ("Sardana", "hoffmann-2022-sardana"),
        ("muennighoff", "muennighoff-2023"),
    ],
)
def test_a_published_law_is_known_however_its_name_is_written(typed: str, meant: str) -> None:
    assert resolve_law(typed).name == meant


@pytest.mark.parametrize("between", [",", ", ", " ", "; "])
def test_constants_may_be_set_apart_by_commas_or_spaces(between: str) -> None:
    law = published("hoffmann-2022-sardana").law
    line = between.join(("E=1.69", "A = 406.4", "B=410.7", "alpha= .336", "beta=.283"))
    assert parse_law_line(line).law == law


def test_a_law_may_be_a_name_a_file_or_constants(tmp_path: Path) -> None:
    path = write_fit(tmp_path / "f.json", drawn_fit())
    assert resolve_law("hoffmann-2022").name == "hoffmann-2022"
    assert resolve_law(str(path)).name == "mine"
    line = resolve_law("E=1.69, A=406.4, B=410.7, alpha=.336, beta=.283, convention=matmul")
    assert line.law == published("hoffmann-2022-sardana").law
    assert line.convention == "matmul"


@pytest.mark.parametrize(
    "text",
    [
        "E=1.69,A=2",
        "E=1,A=1,B=1,alpha=x,beta=1",
        "E=1,A=1,B=1,alpha=-1,beta=1",
        "=",
        "E=1,A,B=1",
        "E=1,E=2,A=1,B=1,alpha=1,beta=1",
        "E=nan,A=1,B=1,alpha=1,beta=1",
        "E=1,A=1,B=0,alpha=1,beta=1",
        "E=1,A=0,B=1,alpha=1,beta=1",
    ],
)
def test_bad_constants_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_law_line(text)
    assert "alpha=.336" in caught.value.hint


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        resolve_law(str(tmp_path / "absent.json"))
    assert DEFAULT_LAW in caught.value.hint


def test_laws_start_without_scipy_or_torch() -> None:
    code = "import sys, llama_scale.laws as l; l.published().predict(1e9, 1e11); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"scipy", "torch", "matplotlib", "rich", "numpy.ma"} & set(loaded)


def test_k_travels_in_files_draws_and_on_the_line(tmp_path: Path) -> None:
    law = parse_law_line("E=0.5,A=400,B=900,alpha=.9,beta=.8,k=.25").law
    assert (law.form, law.k) == ("skaling", 0.25)
    assert law.loss(1e6, 1e8) == pytest.approx(0.5 + (400 * 1e6**-0.9 + 900 * 1e8**-0.8) ** 0.25)
    spread = np.linspace(0.9, 1.1, 30)
    draws = ScalingLaw(**{name: value * spread for name, value in law.constants.items()})
    fit = Fit(name="s", law=law, convention="total", source="test", draws=draws)
    back = read_fit(write_fit(tmp_path / "s.json", fit))
    assert back.law == law
    assert back.draws is not None
    assert back.draws.at(3).k == pytest.approx(draws.at(3).k)
    assert fit_to_json(back)["parameters"]["k"] == 0.25
    assert "k" not in published().law.constants
    content = fit_to_json(fit) | {"form": "chinchilla"}
    (tmp_path / "torn.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="skaling form"):
        read_fit(tmp_path / "torn.json")
