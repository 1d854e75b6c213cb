"""Fitting what repeated data are worth: the published protocol and its minima, known decays, bad input."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import repeated_runs

from llama_scale.architecture import ParameterCounts
from llama_scale.cli import main
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting import Observations, Settings, fit_repeated
from llama_scale.fitting import fit as fit_law
from llama_scale.fitting.descent import Batch
from llama_scale.fitting.repeated import (
    RepeatedRuns,
    decay_minima,
    draw_decays,
    loose_decays,
    nearest_minimum,
    published_choice,
)
from llama_scale.fitting.repeated_base import runs_of
from llama_scale.fitting.repeated_joint import JointProblem
from llama_scale.fitting.repeated_moves import JointMoves, worth
from llama_scale.laws import (
    RepeatedDataLaw,
    Repetition,
    ScalingLaw,
    central_range,
    parse_law_line,
    published,
    read_fit,
    write_fit,
)
from llama_scale.runs import RunRecord, import_records
from llama_scale.runs.tables import read_table, write_table

LAW = published("muennighoff-2023").law
TRUE = Repetition(tokens_decay=12.0, parameters_decay=4.0)


def made_up(
    seed: int = 0, *, noise: float = 0.01, law: ScalingLaw = LAW, decays: Repetition = TRUE
) -> RepeatedRuns:
    """Runs of 10M to 3B parameters on 0.1B to 30B unique tokens, each seen 1 to 60 times."""
    generator = np.random.default_rng(seed)
    sizes = np.geomspace(1e7, 3e9, 6)
    unique = np.geomspace(1e8, 3e10, 5)
    epochs = np.array([1.0, 2.0, 5.0, 15.0, 60.0])
    n, u, e = (axis.ravel() for axis in np.meshgrid(sizes, unique, epochs, indexing="ij"))
    loss = RepeatedDataLaw(law=law, unique_tokens=u, repetition=decays).loss(n, u * e)
    return RepeatedRuns(
        parameters=n,
        tokens=u * e,
        unique_tokens=u,
        loss=loss * np.exp(noise * generator.standard_normal(len(n))),
    )


def write_csv(path: Path, runs: RepeatedRuns, *, unique: str = "unique_tokens") -> Path:
    rows = zip(runs.parameters, runs.tokens, runs.unique_tokens, runs.loss, strict=True)
    lines = [f"parameters,tokens,{unique},loss", *(",".join(map(repr, map(float, row))) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_known_decays_are_recovered_exactly_from_losses_without_noise() -> None:
    best = decay_minima(LAW, made_up(noise=0.0), delta=1e-3)[0]
    assert best.tokens_decay == pytest.approx(12.0, rel=1e-3)
    assert best.parameters_decay == pytest.approx(4.0, rel=1e-3)
    assert best.objective < 1e-9


def test_intervals_of_noisy_runs_cover_the_true_decays() -> None:
    """Nominal 90 %; of 40 data sets, 31 to 40 is what chance allows."""
    inside = np.zeros(2)
    for seed in range(40):
        runs = made_up(seed)
        counts = np.random.default_rng(seed + 1000).multinomial(
            len(runs), np.full(len(runs), 1 / len(runs)), 80
        )
        draws = draw_decays(LAW, runs, counts.astype(float), delta=1e-2)
        spans = (central_range(draws.tokens_decay), central_range(draws.parameters_decay))
        inside += [low <= true <= high for (low, high), true in zip(spans, (12.0, 4.0), strict=True)]
    assert np.all(inside >= 31), inside


def test_draws_know_which_minimum_is_nearest() -> None:
    minima = decay_minima(LAW, made_up(), delta=1e-3)
    bottom = minima[0]
    draws = Repetition(
        tokens_decay=np.full(4, bottom.tokens_decay), parameters_decay=np.full(4, bottom.parameters_decay)
    )
    assert nearest_minimum(draws, minima)[0] == 1.0


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_runs_of_our_own_that_repeat_their_text_are_fitted(tmp_path: Path, ending: str) -> None:
    runs = made_up(noise=1e-4)
    columns = zip(runs.parameters, runs.tokens, runs.unique_tokens, runs.loss, strict=True)
    records = [
        RunRecord(
            run=f"r{number}",
            role="train",
            status="done",
            parameters=ParameterCounts(total=round(n), non_embedding=round(n), matmul=round(n)),
            tokens=round(tokens),
            train_flops=6 * n * tokens,
            budget_flops=None,
            loss_nats=loss,
            bits_per_byte=None,
            seed=0,
            family=f"r{number}",
            corpus="c",
            tokenizer="t",
            schedule_complete=True,
            unique_tokens=round(unique),
        )
        for number, (n, tokens, unique, loss) in enumerate(columns)
    ]
    file = tmp_path / f"runs{ending}"
    write_table(file, records)
    assert import_records(tmp_path / "runs", read_table(file)) == tuple(records)
    for source in (file, tmp_path / "runs"):
        fit = fit_repeated(source, settings=Settings(draws=0))
        assert fit.repetition is not None
        assert fit.repetition.tokens_decay == pytest.approx(12.0, rel=0.02)
        assert fit.repetition.parameters_decay == pytest.approx(4.0, rel=0.02)


# Muennighoff et al. 2023: in ../shared/data/README.md, item 5, with the minima that were found beyond it.
def test_the_published_decays_are_one_minimum_of_several(shared_data: Path) -> None:
    source = shared_data / "datablations.csv"
    fit = fit_repeated(source, where=["in_published_fit = 1"], settings=Settings(draws=200))
    assert fit.repetition is not None
    assert fit.repetition.tokens_decay == pytest.approx(15.37, abs=0.01)
    assert fit.repetition.parameters_decay == pytest.approx(5.315, abs=0.01)
    assert fit.evidence["objective"] == pytest.approx(0.0158259, abs=1e-7)
    found = fit.evidence["repeated_data"]
    assert found["published"]["objective"] == pytest.approx(0.0158259, abs=1e-7)
    for decays, objective in (((95.37, 1.706), 0.0158047), ((46.99, 2.33), 0.0158074)):
        near = [m for m in found["minima"] if m["tokens_decay"] == pytest.approx(decays[0], abs=0.05)]
        assert near[0]["parameters_decay"] == pytest.approx(decays[1], abs=0.005)
        assert near[0]["objective"] == pytest.approx(objective, abs=1e-7)
    assert any("multi-modal" in text for text in fit.evidence["warnings"])
    assert any("--base-law own" in text for text in fit.evidence["warnings"])
    low, high = fit.evidence["intervals"]["tokens_decay"]
    assert low < 15.37 < 95.37 < high
    tested = fit.evidence["backtest"]
    assert tested["predicted_runs"] == 73
    assert 0.8 <= tested["coverage"] <= 0.98


def test_where_too_few_cheap_runs_repeat_data_the_intervals_are_said_to_be_untested(tmp_path: Path) -> None:
    runs = made_up()
    flops = runs.parameters * runs.tokens
    dear = flops >= np.quantile(flops, 0.97)
    tested, untested = (
        fit_repeated(write_csv(tmp_path / "runs.csv", some), settings=Settings(draws=20)).evidence
        for some in (runs, runs.take(runs.seen_once | dear))
    )
    assert tested["backtest"] and not any("not known" in text for text in tested["warnings"])
    assert untested["backtest"] is None
    assert any("how often these intervals hold is not known" in text for text in untested["warnings"])


def test_runs_of_their_own_law_are_fitted_about_it(tmp_path: Path) -> None:
    law = ScalingLaw(E=0.9, A=80.0, B=300.0, alpha=0.3, beta=0.31)  # of bytes, say: not the published one's
    source = write_csv(tmp_path / "runs.csv", made_up(law=law, noise=0.002))
    fit = fit_repeated(source, settings=Settings(draws=40))
    assert fit.evidence["selection"]["base_law"] == "own"
    assert fit.repetition is not None
    assert fit.repetition.tokens_decay == pytest.approx(12.0, rel=0.1)
    assert fit.repetition.parameters_decay == pytest.approx(4.0, rel=0.1)
    assert abs(float(fit.law.E) - 0.9) < 0.02
    both = fit.repeated_draws(1e10)
    assert both is not None
    assert np.shape(both.loss(1e9, 1e11)) == (40,)


def oversized(
    seed: int = 0,
    *,
    law: ScalingLaw = LAW,
    decays: Repetition = TRUE,
    noise: float = 0.0,
    most: float = np.inf,
) -> Observations:
    """Runs of which many, of one epoch too, have more parameters than their unique tokens call for."""
    return repeated_runs(
        seed,
        law,
        decays,
        noise=noise,
        sizes=np.geomspace(1e7, 3e9, 6),
        unique=np.geomspace(1e8, 3e10, 5),
        epochs=(1.0, 4.0, 16.0, 60.0),
        most=most,
    )


def test_sizes_beyond_what_their_data_call_for_do_not_bias_the_own_law() -> None:
    """Nominal 90 %; of 10 data sets, 6 to 10 is what chance allows."""
    inside = np.zeros(4)
    settings = Settings(draws=40, backtest=False)
    for seed in range(10):
        fit = fit_repeated(oversized(seed, noise=0.004), base_law="own", settings=settings)
        assert float(fit.law.alpha) == pytest.approx(float(LAW.alpha), abs=0.02)
        truth = {"E": LAW.E, "alpha": LAW.alpha, **asdict(TRUE)}
        spans = fit.evidence["intervals"]
        inside += [spans[name][0] <= value <= spans[name][1] for name, value in truth.items()]
    assert np.all(inside >= 6), inside


def test_laws_and_decays_are_recovered_together_exactly_from_losses_without_noise() -> None:
    runs = runs_of(oversized())
    start = replace(LAW, E=1.5, alpha=0.5, beta=0.5, A=1e4, B=5e4)
    (found,) = JointProblem.of(runs).minima(start, delta=1e-3)
    assert (found.tokens_decay, found.parameters_decay) == pytest.approx((12.0, 4.0), rel=1e-6)
    assert found.law.constants == pytest.approx(LAW.constants, rel=1e-6)


def test_a_law_that_would_fall_below_nothing_is_fitted_at_no_irreducible_loss() -> None:
    law = replace(LAW, E=-0.2, A=50.0, B=150.0, alpha=0.2, beta=0.2)
    runs = runs_of(oversized(law=law))
    minima = JointProblem.of(runs).minima(replace(law, E=0.1), delta=1e-3)
    assert float(minima[0].law.E) == 0.0
    assert "E" in minima[0].at_limit


@pytest.mark.parametrize("is_open", [True, False])
def test_derivatives_of_the_joint_objective_are_exact(is_open: bool) -> None:
    generator, rows = np.random.default_rng(0), 60
    moves = JointMoves(
        repeats=np.maximum(generator.normal(0.5, 1.5, rows), 0.0),
        is_open=is_open,
        low=np.full((7, 1), -np.inf),
        high=np.full((7, 1), np.inf),
    )
    x, unique, z, weights = generator.normal([[0], [-1], [1], [1]], [[2], [1], [0.1], [0.1]], (4, rows))[
        :, None
    ]
    batch = Batch(x, unique, z, weights, np.array([[0.03]]))
    chart = np.array([[2.7, -0.5, -0.3, 0.35, 0.4, np.log(8), np.log(5)]]).T + 0.1 * generator.normal(
        size=(7, 2)
    )
    floor, step = np.zeros(2, bool), 1e-6
    here = moves.expand(batch, chart, floor)
    for row, move in enumerate(step * np.eye(7)[:, :, None]):
        below, above = (moves.expand(batch, chart + sign * move, floor) for sign in (-1, 1))
        assert (above.value - below.value) / (2 * step) == pytest.approx(here.gradient[row], abs=1e-7)
        slopes = (above.gradient - below.gradient) / (2 * step)
        assert slopes == pytest.approx(here.hessian[row], rel=1e-6, abs=1e-6)


def test_worths_far_beyond_the_unique_amount_are_bounded() -> None:
    far = worth(np.array([[0.0, 50.0, 650.0, 5000.0]]), np.array([[5.0]]))
    assert far.value == pytest.approx(np.log([[1.0, 6.0, 6.0, 6.0]]))
    assert far.r == pytest.approx(np.array([[1.0, 0.0, 0.0, 0.0]]))
    assert all(np.isfinite(part).all() for part in far)


def test_resamples_without_parameters_in_excess_leave_their_decay_open() -> None:
    runs = runs_of(oversized(most=1.5))
    problem = JointProblem.of(runs)
    minima = problem.minima(LAW, delta=1e-3)
    law = RepeatedDataLaw(law=LAW, unique_tokens=runs.unique_tokens)
    small = (runs.parameters < np.asarray(law.matched_parameters) * 0.99).astype(float)
    _, draws = problem.draws(minima, np.stack([np.ones(len(runs)), small]), delta=1e-3)
    assert draws.parameters_decay == pytest.approx([4.0, 0.1], rel=1e-3)
    assert loose_decays(draws) == [("parameters_decay", 0.5)]


def test_a_decay_that_is_not_identified_is_kept_and_has_no_interval(tmp_path: Path) -> None:
    runs = made_up(noise=0.002)
    matched = np.asarray(RepeatedDataLaw(law=LAW, unique_tokens=runs.unique_tokens).matched_parameters)
    source = write_csv(tmp_path / "runs.csv", runs.take(runs.parameters < matched / 2))
    for base in ("muennighoff-2023", "own"):
        words = ["fit", str(source), "--form", "repeated", "--base-law", base, "--draws", "20", "--json"]
        outcome = CliRunner().invoke(main, [*words, "--output", str(tmp_path / base)])
        fit = read_fit(tmp_path / base)
        assert fit.repetition is not None, outcome.output
        assert fit.repetition.parameters_decay == pytest.approx(5.31, abs=0.01)
        assert "tokens_decay" in fit.evidence["intervals"]
        assert "parameters_decay" not in fit.evidence["intervals"]
        minima = fit.evidence["repeated_data"]["minima"]
        kept = float(fit.repetition.parameters_decay)
        assert {minimum["parameters_decay"] for minimum in minima} == {kept}
        assert sum(minimum["share_of_draws"] for minimum in minima) == pytest.approx(1)
        assert [minimum["chosen"] for minimum in minima].count(True) == 1
        shown = CliRunner().invoke(main, [*words[:-1], "--output", str(tmp_path / f"{base} again")]).output
        assert "R_D*" in shown[shown.index("intervals") :].split("the middle")[0]
        assert "R_N*" not in shown[shown.index("intervals") :].split("the middle")[0]


def test_a_base_law_may_be_given(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "runs.csv", made_up())
    line = "E=1.8691437,A=520.82495,B=1487.7161,alpha=.3526596,beta=.3526596"
    fit = fit_repeated(source, base_law=line, settings=Settings(draws=0))
    assert fit.evidence["selection"]["base_law_chosen_by"] == "user"
    assert fit.repetition_draws is fit.evidence["intervals"] is None


def test_epochs_stand_for_unique_tokens(tmp_path: Path) -> None:
    runs = made_up()
    source = tmp_path / "runs.csv"
    columns = (runs.parameters, runs.tokens, runs.tokens / runs.unique_tokens, runs.loss)
    rows = [",".join(f"{float(value)!r}" for value in row) for row in zip(*columns, strict=True)]
    source.write_text("\n".join(["parameters,tokens,epochs,loss", *rows]) + "\n")
    by_epochs = fit_repeated(source, settings=Settings(draws=0))
    same = fit_repeated(write_csv(tmp_path / "same.csv", runs), settings=Settings(draws=0))
    assert by_epochs.evidence["objective"] == pytest.approx(same.evidence["objective"], rel=1e-6)
    source.write_text("\n".join(["parameters,tokens,epochs,loss", "1e8,1e9,0,3.1", *rows]) + "\n")
    with pytest.raises(InputError, match="line 2, column epochs: 0 epochs"):
        fit_repeated(source)


def test_decays_of_parameters_need_runs_with_parameters_in_excess() -> None:
    runs = made_up(noise=0.0)
    small = runs.take(runs.parameters < 3e7).take(runs.take(runs.parameters < 3e7).unique_tokens > 5e9)
    minima = decay_minima(LAW, small, delta=1e-3)
    assert published_choice(minima).tokens_decay == pytest.approx(12.0, rel=0.01)


@pytest.mark.parametrize(
    ("keep", "unique", "problem", "kind"),
    [
        ("all", "other", "unique tokens", InputError),
        ("once", "unique_tokens", "runs 0 saw data again", UnidentifiedError),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, keep: str, unique: str, problem: str, kind: type[Exception]
) -> None:
    runs = made_up()
    kept = runs.take(runs.seen_once) if keep == "once" else runs
    source = write_csv(tmp_path / "runs.csv", kept, unique=unique)
    with pytest.raises(kind, match=problem):
        fit_repeated(source)


def test_a_law_whose_file_calls_it_own_is_held_all_the_same(tmp_path: Path) -> None:
    source, file = write_csv(tmp_path / "runs.csv", made_up()), tmp_path / "law.json"
    write_fit(file, replace(parse_law_line("E=1.8,A=400,B=1300,alpha=.34,beta=.35"), name="own"))
    fit = fit_repeated(source, base_law=str(file), settings=Settings(draws=0))
    assert fit.law == read_fit(file).law
    assert fit.evidence["selection"]["base_law"] == str(file)


def test_own_law_needs_runs_seen_once(tmp_path: Path) -> None:
    runs = made_up()
    source = write_csv(tmp_path / "runs.csv", runs.take(~runs.seen_once))
    with pytest.raises(UnidentifiedError, match="saw no token twice"):
        fit_repeated(source, base_law="own")


def test_the_command_prints_every_minimum_and_keeps_a_fit_that_knows_repetition(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "runs.csv", made_up())
    kept = tmp_path / "law.json"
    words = ["fit", str(source), "--form", "repeated", "--draws", "50", "--output", str(kept)]
    outcome = CliRunner().invoke(main, words)
    assert outcome.exit_code == 0, outcome.output
    assert "R_D*" in outcome.output
    fit = read_fit(kept)
    assert fit.repetition is not None
    assert fit.repetition.tokens_decay == pytest.approx(12.0, rel=0.3)
    assert fit.repeated(1e11).effective_tokens(4e11) == pytest.approx(3.6e11, rel=0.05)
    assert "held fixed: muennighoff-2023" in outcome.output
    words = [*words[:4], "--base-law", "own", "--draws", "0", "--output", str(tmp_path / "own.json")]
    assert "fitted with the decays: own" in CliRunner().invoke(main, words).output


def test_python_says_the_same_words(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "runs.csv", made_up())
    found = fit_law(source, form="repeated", base_law="muennighoff-2023", draws=0)
    assert found.repetition == fit_repeated(source, settings=Settings(draws=0)).repetition
    with pytest.raises(InputError, match="law of data seen once"):
        fit_law(source, base_law="own")


@pytest.mark.parametrize(
    "words",
    [
        {"resampling": "budgets"},
        {"resampling": "runs"},
        {"weights": 0.5},
        {"direction": "overtraining"},
        {"budgets": (1e22,)},
        {"protocol": True},
        {"profile": True},
        {"form": "chinchilla"},
    ],
)
def test_settings_of_other_forms_are_refused_from_python_too(tmp_path: Path, words: dict[str, Any]) -> None:
    source = write_csv(tmp_path / "runs.csv", made_up())
    with pytest.raises(InputError, match=f"makes nothing of {next(iter(words))}="):
        fit_repeated(source, settings=Settings(draws=0, **words))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--base-law", "own"], "--base-law is of no use with --form auto"),
        (["--fit-on", "a"], "--fit-on is of no use"),
        (["--form", "repeated", "--weights", ".5"], "repeated takes no --weights"),
        (["--form", "multi-power", "--scores", "x.csv"], "multi-power takes no --scores"),
        (["--form", "multi-power", "--seed", "0"], "multi-power takes no --seed"),
        (["--form", "multi-power", "--draws", "1000"], "multi-power takes no --draws"),
        (["--form", "multi-power", "--flops", "6nd"], "multi-power takes no --flops"),
    ],
)
def test_options_that_a_form_makes_nothing_of_are_refused(words: list[str], problem: str) -> None:
    outcome = CliRunner().invoke(main, ["fit", "runs.csv", *words])
    assert outcome.exit_code == 2
    assert problem in outcome.stderr
