"""`fit`: one value with everything that the planner, the report and the JSON need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import LAW, independent_runs, sweep

import llama_scale
from llama_scale.architecture import ParameterCounts
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting import Observations, Settings, fit
from llama_scale.fitting.candidates import weights_of
from llama_scale.fitting.document import selection_json
from llama_scale.fitting.selection import AUTO_FORMS, Choice
from llama_scale.laws import ScalingLaw, fit_to_json, read_fit, write_fit
from llama_scale.laws.notebook import weighed_by
from llama_scale.runs import RunRecord, RunRole

NOTHING_TRIED = {"tried": (), "directions": ("compute",), "direction_note": "", "note": ""}
QUICK = Settings(draws=60, delta=1e-2, weights=0.0)


def records(held_out: bool = True) -> list[RunRecord]:
    runs = sweep(0, held_out=True)
    assert runs.held_out is not None
    found = []
    parts: list[tuple[Observations, RunRole]] = [(runs, "train"), (runs.held_out, "holdout")]
    for part, role in parts:
        for i in range(len(part)):
            size = int(part.parameters[i])
            record = RunRecord(
                run=part.names[i],
                role=role,
                status="done",
                parameters=ParameterCounts(total=size + 1000, non_embedding=size // 2, matmul=size),
                tokens=int(part.tokens[i]),
                train_flops=1.07 * 6 * size * int(part.tokens[i]),
                budget_flops=1.07 * float(part.budgets[i]),
                loss_nats=float(part.loss[i]),
                bits_per_byte=None,
                seed=0,
                family=part.families[i],
                corpus="c",
                tokenizer="t",
                schedule_complete=True,
            )
            found.append(record)
    return found if held_out else [record for record in found if record.role == "train"]


def test_a_fit_of_records_predicts_its_held_out_runs() -> None:
    found = fit(records(), settings=QUICK, name="default")
    assert (found.name, found.convention, found.flops_accounting) == ("default", "matmul", "exact")
    assert found.law.alpha == pytest.approx(LAW.alpha, abs=0.1)
    held = found.evidence["held_out"]
    assert len(held) == 3
    assert all(abs(row["relative_error"]) < 0.015 for row in held)
    assert found.evidence["diagnostics"]["flops_over_6nd"] == pytest.approx(1.07, rel=1e-3)


def test_every_key_of_the_contract_is_there() -> None:
    content = fit_to_json(fit(sweep(0), settings=QUICK), draws=False)
    promised = {
        *("schema", "form", "parameters", "parameter_convention", "objective", "n_observations"),
        *("standard_errors", "intervals", "exponent_a", "diagnostics", "selection", "backtest", "provenance"),
    }
    assert promised <= set(content)
    assert content["intervals"]["level"] == 0.9
    low, high = content["intervals"]["alpha"]
    assert low < content["parameters"]["alpha"] < high
    assert {c["form"] for c in content["selection"]["candidates"]} == set(AUTO_FORMS)
    assert "draws" not in content


def test_the_same_runs_and_seed_give_the_same_file(tmp_path: Path) -> None:
    one, two = (write_fit(tmp_path / f"{i}.json", fit(sweep(0), settings=QUICK)) for i in range(2))
    assert one.read_bytes() == two.read_bytes()
    back = read_fit(one)
    assert back.predict(1e5, 1e7).high == pytest.approx(fit(sweep(0), settings=QUICK).predict(1e5, 1e7).high)


def test_optima_are_where_the_budgets_are_and_beyond() -> None:
    found = fit(sweep(0), settings=QUICK)
    largest = found.support.train_flops
    assert largest is not None
    budgets = [row["train_flops"] for row in found.evidence["optima"]]
    assert budgets[-1] == pytest.approx(100 * largest.high, rel=1e-4)
    asked = fit(sweep(0), settings=replace(QUICK, budgets=(1e15, 1e16)))
    assert [row["train_flops"] for row in asked.evidence["optima"]] == [1e15, 1e16]
    row = asked.evidence["optima"][0]
    assert 6 * row["parameters"] * row["tokens"] == pytest.approx(1e15, rel=1e-3)
    assert row["parameters_interval"][0] < row["parameters"] < row["parameters_interval"][1]


def test_without_draws_nothing_is_claimed() -> None:
    found = fit(sweep(0), settings=Settings(draws=0))
    assert found.draws is None
    assert found.evidence["intervals"] is None
    assert found.evidence["backtest"] is None
    assert found.predict(1e5, 1e7).low is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"delta": 0.0}, "delta"),
        ({"level": 1.0}, "level"),
        ({"draws": 5}, "draws"),
        ({"draws": -1}, "draws"),
        ({"form": "cubic"}, "form"),
    ],
)
def test_settings_are_checked(words: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings(**words)


def test_sources_mix_and_are_named(tmp_path: Path) -> None:
    runs = sweep(0)
    paths = []
    for part in range(2):
        path = tmp_path / f"part{part}.csv"
        rows = [
            f"{runs.parameters[i]},{runs.tokens[i]},{runs.loss[i]},{runs.budgets[i]},{runs.families[i]}"
            for i in range(part, 36, 2)
        ]
        path.write_text("\n".join(["parameters_matmul,tokens,loss,budget,family", *rows]))
        paths.append(path)
    together = fit(paths, settings=QUICK)
    assert together.evidence["n_observations"] == 36
    assert together.evidence["provenance"]["sources"] == [str(path) for path in paths]
    whole = fit(runs, settings=QUICK)
    assert together.evidence["objective"] == pytest.approx(whole.evidence["objective"], rel=1e-6)


def test_the_python_verb_is_the_same_function(tmp_path: Path) -> None:
    assert llama_scale.fit is fit
    with pytest.raises(InputError):
        fit([], settings=QUICK)
    with pytest.raises(InputError, match=r"no option .detla."):
        fit(sweep(0), detla=1e-2)
    with pytest.raises(InputError, match="no run store or CSV"):
        fit(tmp_path / "absent.csv")


def test_more_noise_means_wider_intervals() -> None:
    widths = []
    for noise in (0.001, 0.01):
        found = fit(sweep(0, trunk_noise=0.0, own_noise=noise), settings=QUICK)
        guess = found.predict(2e5, 1e7)
        assert guess.low is not None
        assert guess.high is not None
        widths.append(float(np.log(guess.high / guess.low)))
    assert widths[1] > 3 * widths[0]


def test_repeats_weigh_a_fit_by_their_noise_unless_weights_are_named() -> None:
    runs = [sweep(seed) for seed in range(3)]
    whole = replace(
        runs[0],
        names=tuple(f"{name}-{seed}" for seed, part in enumerate(runs) for name in part.names),
        families=tuple(f"{family}-{seed}" for seed, part in enumerate(runs) for family in part.families),
        **{
            name: np.concatenate([getattr(part, name) for part in runs])
            for name in ("parameters", "tokens", "loss", "train_flops", "budgets", "unique_tokens")
        },
    )
    plain, chosen = (Settings(form="chinchilla", weights=0.0).candidates[0], Settings().candidates[0])
    assert (weights_of(whole, plain) == 1).all()
    for weighted in (chosen, Settings(form="chinchilla").candidates[0]):
        assert np.ptp(weights_of(whole, weighted)) > 0
        assert weights_of(whole, weighted).mean() == pytest.approx(1)
    assert (weights_of(runs[0], chosen) == 1).all()  # no repeats, nothing measured
    settings = Settings(draws=0, delta=1e-2)
    said = selection_json(settings, None, Choice(candidate=chosen, **NOTHING_TRIED), whole)["seed_noise"]
    assert "points were run with several seeds" in said
    for candidate, seen in ((plain, whole), (chosen, runs[0])):
        choice = Choice(candidate=candidate, **NOTHING_TRIED)
        assert selection_json(settings, None, choice, seen)["seed_noise"] is None


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ({"draws": "100"}, "draws is '100', but must be a whole number", "draws=1000"),
        ({"draws": 100.5}, "draws is 100.5, but must be a whole number", "draws=1000"),
        ({"seed": None}, "seed is None", "seed=0"),
        ({"delta": "x"}, "delta is 'x', but must be a number", "delta=0.001"),
        ({"level": "90%"}, "level is '90%', but must be a number", "level=0.9"),
        ({"budgets": 1e21}, "budgets are 1e[+]21", "budgets=(1e21, 1e22)"),
        ({"budgets": np.full((9, 9), 1e22)}, "budgets are array", "budgets=(1e21, 1e22)"),
        ({"level": np.full((9, 9), 0.9)}, "level is array", "level=0.9"),
        ({"where": np.full((9, 9), 0.9)}, "the filters are array", "where="),
        ({"settings": {"draws": 100}}, "settings are {'draws': 100}", "Settings(...)"),
        ({"form": "multi-power"}, "loss curves", "fit_curve_laws"),
    ],
)
def test_words_of_another_kind_are_one_error(words: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        fit("absent.csv" if "where" in words else sweep(0), **words)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message and len(caught.value.message) < 150


def test_numbers_of_numpy_are_numbers() -> None:
    assert Settings(draws=np.int64(100), delta=np.float64(1e-2)).draws == 100  # pyright: ignore[reportArgumentType]


def test_budgets_and_trunks_that_runs_do_not_name_are_not_resampled() -> None:
    alone = replace(independent_runs(0, count=25), budgets=np.full(25, np.nan))
    for method, column in (("budgets", "budget"), ("runs", "family")):
        with pytest.raises(InputError, match=f"the runs name no {column}") as caught:
            fit(alone, form="chinchilla", resampling=method)
        assert f"'{column}'" in caught.value.hint
    assert fit(sweep(0), form="chinchilla", resampling="budgets", draws=40, backtest=False).draws is not None


def test_other_forms_are_fitted_beside_the_law() -> None:
    """What `plan` reads to say how much hangs on the form."""
    found = fit(sweep(0), form="chinchilla", delta=1e-2, draws=0)
    others = found.evidence["other_forms"]
    assert set(others) == {"skaling", "tied"}
    assert others["tied"]["alpha"] == others["tied"]["beta"]
    for constants in others.values():
        law = ScalingLaw(**constants)
        assert law.loss(6e4, 2e6) == pytest.approx(float(LAW.loss(6e4, 2e6)), rel=0.01)
    assert set(fit(sweep(0), form="tied", draws=0).evidence["other_forms"]) == {"chinchilla", "skaling"}


def test_a_fit_shows_itself_in_a_notebook() -> None:
    shown = fit(records(), settings=QUICK, name="default")._repr_markdown_()
    for word in ("**default**", "| alpha |", "90% interval", "starts that agree", "backtest error"):
        assert word in shown
    assert "3 of 3 inside" in shown or "of 3 inside" in shown
    assert "unknown" in fit(sweep(0), form="chinchilla", draws=0)._repr_markdown_()
    bare = fit(records(), form="chinchilla", draws=0)
    assert "Runs that the law never saw:" in bare._repr_markdown_()
    runs = [{**run, "run": "a|b"} for run in bare.evidence["held_out"]]
    piped = replace(bare, evidence={**bare.evidence, "held_out": runs})._repr_markdown_()
    assert piped.count("a\\|b") == len(runs)  # a bare bar would end the cell
    for odd in (
        {"intervals": {"level": [1]}, "standard_errors": 3},
        {"held_out": [{"run": [1]}]},
        {"warnings": 3},
    ):
        shown = replace(bare, evidence={**bare.evidence, **odd})._repr_markdown_()
        assert shown.startswith("**fit**: L = ")
        assert "evidence that came with it cannot be read" in shown


def test_what_runs_weigh_by_is_said() -> None:
    assert weighed_by({"weights": "none", "seed_noise": None}) == "none"
    measured = {"weights": "none", "seed_noise": "20 points were run with several seeds"}
    assert weighed_by(measured) == "by the noise of seeds"
    assert weighed_by(measured | {"weights": "(C/Cmax)^0.5"}) == "by the noise of seeds, times (C/Cmax)^0.5"


def test_few_budgets_drawn_whole_are_a_warning() -> None:
    words: Any = {"form": "chinchilla", "draws": 20, "backtest": False}
    few = fit(sweep(0), resampling="budgets", **words)
    assert any("6 budgets are few to draw whole" in text for text in few.evidence["warnings"])
    assert not any("draw whole" in text for text in fit(sweep(0), **words).evidence["warnings"])


def test_words_of_the_command_line_are_words_in_python() -> None:
    found = fit(sweep(0), form="tied", delta=1e-2, weights=0.25, draws=40, backtest=False)
    selection = found.evidence["selection"]
    assert (selection["form"], selection["delta"], selection["weights"]) == ("tied", 1e-2, "(C/Cmax)^0.25")
    assert found.evidence["backtest"] is None


def test_many_predictions_at_once_equal_each_alone() -> None:
    found = fit(sweep(0), form="chinchilla", draws=40, backtest=False)
    sizes = np.geomspace(1e4, 1e6, 600).reshape(200, 3)
    together = found.predict(sizes, 1e7)
    low = np.asarray(together.low)
    assert low.shape == (200, 3)
    assert low[150, 1] == pytest.approx(found.predict(sizes[150, 1], 1e7).low)
    assert np.all(low <= together.loss)


def test_runs_that_scatter_beyond_any_law_are_refused_without_a_word_of_numpy() -> None:
    """A tiny sweep on words at random: one run more than constants, draws at losses that no float holds."""
    sizes = [7488, 7488, 13152, 13152, 21632, 21632]
    tokens = [222592, 445184, 126720, 253440, 77056, 154112]
    losses = [1.7800476668635383, 1.4566386019287165, 2.1478207239706535, 1.8539663471165113,
              2.19608584739035, 2.145301337004639]  # fmt: skip
    names = ["a", "a", "b", "b", "c", "c"]
    rows = [
        {"parameters": n, "tokens": d, "loss": loss, "budget_flops": budget, "family": family}
        for n, d, loss, budget, family in zip(sizes, tokens, losses, [1e10, 2e10] * 3, names, strict=True)
    ]
    with pytest.raises(UnidentifiedError, match="bound of E, A, alpha"):
        fit(rows)
