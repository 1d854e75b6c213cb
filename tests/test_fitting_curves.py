"""Laws of loss curves: known ones recovered, published errors reached, our own stores read, bad input."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import LUO_CURVES

from llama_scale.architecture import ModelConfig
from llama_scale.cli import main
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.curve_fit import (
    FutureSchedule,
    fit_curve_laws,
    gather_curves,
    predicted_rows,
)
from llama_scale.fitting.curve_sources import curves_of_table, learning_rates, schedule_of
from llama_scale.fitting.curves import Curve, fit_curves
from llama_scale.fitting.observations import observe
from llama_scale.laws.curves import MultiPowerLaw, rates_by_step
from llama_scale.runs import (
    Branch,
    DataConfig,
    EventLog,
    OptimizerConfig,
    RunConfig,
    RunFolder,
    ScheduleConfig,
    create_run,
)
from llama_scale.training.schedule import learning_rate_factor

LAW = MultiPowerLaw(L0=3.0, A=0.6, alpha=0.5, B=300.0, C=2.0, beta=0.6, gamma=0.65)
PEAK, WARM = 3e-4, 500


def made_up(kind: str, steps: int, *, noise: float = 0.0, seed: int = 0, final: float = 0.1) -> Curve:
    """A curve that follows LAW, logged every 100 steps."""
    rates = schedule_of(kind, steps, peak=PEAK, warmup_steps=WARM, final_fraction=final)
    logged = np.arange(700.0, steps + 1, 100)
    scatter = noise * np.random.default_rng(seed).standard_normal(len(logged))
    loss = LAW.loss_at(rates, logged) * np.exp(scatter)
    return Curve(
        name=f"{kind}_{steps}",
        model="one",
        rates=rates,
        steps=logged,
        loss=loss,
        parameters=25e6,
        tokens_per_step=1e5,
    )


HEADER = "run,params,step,lr,loss,warmup"
TRAIN = [made_up("cosine", 8000), made_up("wsd", 8000, final=0.0), made_up("linear", 6000, final=0.3)]


def write_csv(path: Path, curves: list[Curve], header: str = HEADER) -> Path:
    lines = [header]
    for curve in curves:
        rates = np.interp(curve.steps, curve.rates.steps, curve.rates.rates)
        points = zip(curve.steps, rates, curve.loss, strict=True)
        lines += [
            f"{curve.name},25M,{step:g},{float(rate)!r},{float(loss)!r},500" for step, rate, loss in points
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_known_law_is_recovered_and_predicts_a_longer_schedule() -> None:
    found = fit_curves(TRAIN)
    ahead = made_up("cosine", 24000)
    guess = found.law.loss_at(ahead.rates, ahead.steps)
    assert guess == pytest.approx(ahead.loss, rel=5e-4)
    assert found.agreed == found.starts
    assert abs(found.law.L0 - 3.0) < 0.02
    assert found.law.alpha == pytest.approx(0.5, abs=0.02)


def test_noise_costs_little_where_schedules_differ() -> None:
    noisy = [made_up(kind, 8000, noise=0.001, seed=i) for i, kind in enumerate(("cosine", "wsd", "constant"))]
    law = fit_curves(noisy).law
    ahead = made_up("linear", 16000)
    assert law.loss_at(ahead.rates, ahead.steps[-1:])[0] == pytest.approx(ahead.loss[-1], rel=3e-3)


# Luo et al. 2025, github thu-yao-01-luo/MultiPowerLaw, README: mean and worst relative error of six curves.
@pytest.mark.parametrize(("model", "mean", "worst"), [("25M", 0.00110, 0.00409), ("100M", 0.00142, 0.00583)])
def test_published_errors_are_reached_within_a_fifth(
    shared_data: Path, model: str, mean: float, worst: float
) -> None:
    source = shared_data / "mpl_loss_curves_25M_100M.csv"
    size = int(model[:-1]) * 1_000_000
    train = ["cosine_24000", "constant_24000", "wsdcon_9"]
    laws = fit_curve_laws([source], where=[f"params = {size}"], fit_on=train)
    tested = laws.to_json()["models"][0]["tested"]
    assert len(tested["curves"]) == 6
    assert tested["mean"] <= 1.2 * mean
    assert tested["worst"] <= worst


@pytest.mark.parametrize(("size", "mean", "worst"), [(25, 0.0011, 0.00409), (100, 0.00142, 0.00583)])
def test_the_published_constants_give_the_published_errors(
    shared_data: Path, size: int, mean: float, worst: float
) -> None:
    """They were fitted with the rise of the rate in the warm-up (2,160 steps) among the changes of rate."""
    law = LUO_CURVES[size]
    curves, _ = gather_curves(
        [shared_data / "mpl_loss_curves_25M_100M.csv"], where=[f"params = {size}000000"]
    )
    errors = []
    for curve in curves:
        if not curve.name.endswith(("cosine_24000", "constant_24000", "wsdcon_9")):
            ramp = np.linspace(0, 2160, 55)
            after = curve.rates.steps > 2160
            whole = replace(
                curve.rates,
                steps=np.concatenate([ramp, curve.rates.steps[after]]),
                rates=np.concatenate([ramp / 2160 * 3e-4, curve.rates.rates[after]]),
                warmup_sum=1e-12,
            )
            errors.append(np.abs(law.loss_at(whole, curve.steps) / curve.loss - 1))
    assert np.mean([error.mean() for error in errors]) == pytest.approx(mean, abs=1e-5)
    assert np.mean([error.max() for error in errors]) == pytest.approx(worst, abs=2e-5)


def test_errors_of_curves_left_out_are_larger_than_of_those_fitted(tmp_path: Path) -> None:
    noisy = [made_up(kind, 8000, noise=0.002, seed=i) for i, kind in enumerate(("cosine", "wsd", "linear"))]
    model = fit_curve_laws([write_csv(tmp_path / "curves.csv", noisy)]).models[0]
    assert model.model == "25M"
    assert model.left_out is not None
    assert sum(e.mean for e in model.left_out) > sum(e.mean for e in model.fitted)


def test_curves_become_decayed_points_that_are_named_as_predicted(tmp_path: Path) -> None:
    source = tmp_path / "curves.csv"
    write_csv(source, TRAIN)
    text = source.read_text().splitlines()
    lines = [text[0] + ",tokens", *(f"{line},{float(line.split(',')[2]) * 1e5:g}" for line in text[1:])]
    source.write_text("\n".join(lines) + "\n")
    laws = fit_curve_laws([source])
    futures = [FutureSchedule(kind="wsd", steps=n, final_fraction=0.0) for n in (4000, 6000, 8000, 90000)]
    rows = predicted_rows(laws, futures, convention="total")
    assert len(rows.rows) == 3
    assert "longest curve" in rows.exclusions[0].reason
    assert all("predicted" in row.name for row in rows.rows)
    points = observe([rows])
    assert points.tokens.tolist() == [4e8, 6e8, 8e8]
    exact = [made_up("wsd", n, final=0.0).loss[-1] for n in (4000, 6000, 8000)]
    assert points.loss == pytest.approx(exact, rel=2e-3)
    assert any("predicted by multi-power laws" in text for text in points.warnings)


SCHEDULES = [
    ScheduleConfig(kind="wsd", total_steps=400, warmup_steps=50, decay_steps=80),
    ScheduleConfig(kind="wsd", total_steps=400, warmup_steps=50, decay_steps=80, decay_shape="linear"),
    ScheduleConfig(kind="cosine", total_steps=400, warmup_steps=50, final_fraction=0.1),
    ScheduleConfig(kind="constant", total_steps=400, warmup_steps=1),
    ScheduleConfig(kind="wsd", total_steps=None, warmup_steps=50),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_are_those_that_the_trainer_sets(schedule: ScheduleConfig) -> None:
    expected = [2e-3 * learning_rate_factor(schedule, step) for step in range(400)]
    assert learning_rates(schedule, 400, 2e-3) == pytest.approx(expected, rel=1e-12)


def write_run(store: Path, schedule: ScheduleConfig, branch: Branch | None, steps: int) -> str:
    config = RunConfig(
        role="train" if branch else "trunk",
        model=ModelConfig(
            layers=1, width=16, heads=2, kv_heads=2, head_size=8, hidden=32, vocabulary=300, context=32
        ),
        data=DataConfig(vocabulary=300),
        corpus="made up",
        optimizer=OptimizerConfig(learning_rate=PEAK),
        schedule=schedule,
        sequences_per_step=2,
        seed=0,
        branch=branch,
    )
    folder = create_run(store, config)
    rates = rates_by_step(learning_rates(schedule, steps, PEAK), warmup_steps=schedule.warmup_steps)
    first = config.first_step
    with folder.claim() as lease, closing(EventLog(folder, lease)) as log:
        for end in range(first + 20, steps + 1, 20):
            if end > schedule.warmup_steps + 20:
                loss = float(LAW.loss_at(rates, [end - 9])[0])
                log.append("train", step=end, loss_nats=loss)
    return folder.run


def test_a_store_gives_the_curves_of_a_trunk_and_its_branches(tmp_path: Path) -> None:
    trunk = write_run(tmp_path, ScheduleConfig(kind="wsd", total_steps=None, warmup_steps=50), None, 4000)
    for step in (1200, 3200):
        decay = step // 4
        schedule = ScheduleConfig(
            kind="wsd", total_steps=step + decay, warmup_steps=50, decay_steps=decay, final_fraction=0.02
        )
        write_run(tmp_path, schedule, Branch(parent=trunk, step=step), step + decay)
    schedule = ScheduleConfig(
        kind="wsd", total_steps=2400, warmup_steps=50, decay_steps=400, final_fraction=0.02
    )
    ruined = write_run(tmp_path, schedule, Branch(parent=trunk, step=2000), 2200)
    RunFolder(tmp_path / ruined).write_result({"status": "diverged", "steps": 2200, "loss_nats": None})
    found = fit_curve_laws([tmp_path])
    assert [(e.run, e.reason) for e in found.exclusions] == [(ruined, "it diverged")]
    model = found.models[0]
    assert model.model == trunk
    assert len(model.fitted) == 3
    assert max(error.mean for error in model.fitted) < 1e-3
    assert model.curves[0].tokens_per_step == 64


def test_units_of_headers_count_in_curves_too(tmp_path: Path) -> None:
    plain = write_csv(tmp_path / "plain.csv", [made_up("cosine", 8000)])
    (expected,), _ = curves_of_table(plain)
    rows = [line.split(",") for line in plain.read_text().splitlines()[1:]]
    lines = [[*row[:1], "25", *row[2:4], repr(float(row[4]) / math.log(2)), *row[5:]] for row in rows]
    header = "run,Params (M),step,lr,loss (bits),warmup"
    told = tmp_path / "told.csv"
    told.write_text("\n".join([header, *map(",".join, lines)]) + "\n")
    (found,), _ = curves_of_table(told)
    assert (found.model, found.parameters) == (expected.model, expected.parameters) == ("25M", 25e6)
    assert found.loss == pytest.approx(expected.loss)


@pytest.mark.parametrize("tokens", [1e5, None])
def test_tokens_of_a_step_follow_from_those_seen_by_it_or_by_the_whole_run(
    tmp_path: Path, tokens: float | None
) -> None:
    source = write_csv(tmp_path / "curves.csv", [made_up("cosine", 8000)])
    header, *rows = source.read_text().splitlines()
    seen = [f"{tokens * float(row.split(',')[2]) if tokens else 8e8:g}" for row in rows]
    lines = [f"{row},{count}" for row, count in zip(rows, seen, strict=True)]
    source.write_text("\n".join([f"{header},total_tokens", *lines]) + "\n")
    (found,), _ = curves_of_table(source)
    assert found.tokens_per_step == pytest.approx(1e5)


@pytest.mark.parametrize(
    ("header", "line", "problem"),
    [
        (
            "run,params,step,rate_of_learning,loss,warmup",
            "a,25M,100,3e-4,4.0,500",
            "no column 'learning_rate'",
        ),
        (HEADER, "a,25M,100,3e-4,nan,500", "line 2, column loss: the cell is nan"),
        (HEADER, "a,25M,100,fast,4.0,500", "line 2, column lr: 'fast'"),
        (HEADER, "a,25M,700,3e-4,4.0,500", "repeats step 700"),
    ],
)
def test_bad_tables_are_one_error(tmp_path: Path, header: str, line: str, problem: str) -> None:
    source = write_csv(tmp_path / "curves.csv", [replace(made_up("cosine", 8000), name="a")], header)
    lines = source.read_text().splitlines()
    source.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(InputError, match=problem):
        fit_curve_laws([source])


def test_constant_rates_alone_identify_no_law(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "curves.csv", [made_up("constant", 8000), made_up("constant", 4000)])
    with pytest.raises(UnidentifiedError, match="never changes in 2 curves"):
        fit_curve_laws([source])
    with pytest.raises(UnidentifiedError, match="5 points on 1 curve"):
        fit_curves([replace(TRAIN[0], steps=TRAIN[0].steps[:5], loss=TRAIN[0].loss[:5])])


def test_an_unknown_curve_or_schedule_names_the_nearest(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "curves.csv", TRAIN)
    with pytest.raises(InputError, match="no curve 'cosin_8000'") as caught:
        fit_curve_laws([source], fit_on="cosin_8000")
    assert "cosine_8000" in caught.value.hint
    for delta in (-1.0, float("nan")):
        with pytest.raises(InputError, match=r"delta is .* must be positive"):
            fit_curve_laws(source, delta=delta)
    with pytest.raises(InputError, match="no schedule"):
        schedule_of("zigzag", 1000, peak=1.0, warmup_steps=10)


def test_the_command_prints_and_keeps_laws_and_predictions(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "curves.csv", TRAIN)
    words = ["fit", str(source), "--form", "multi-power", "--fit-on", "cosine_8000", "--fit-on", "wsd_8000"]
    shown = CliRunner().invoke(main, [*words, "--predict", "cosine:12k"])
    assert shown.exit_code == 0, shown.output
    assert "tested" in shown.output
    kept = tmp_path / "laws.json"
    outcome = CliRunner().invoke(
        main, [*words, "--json", "--output", str(kept), "--predict", "cosine:12k:0.1"]
    )
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert document["form"] == "multi-power"
    guess = document["models"][0]["predictions"][0]["loss_nats"]
    assert guess == pytest.approx(made_up("cosine", 12000).loss[-1], rel=2e-3)
    assert json.loads(kept.read_text())["models"] == document["models"]
    again = CliRunner().invoke(main, [*words, "--output", str(kept)])
    assert again.exit_code == 2
    assert "--force" in again.stderr
    wrong = CliRunner().invoke(main, [*words, "--predict", "cosine"])
    assert "KIND:STEPS" in wrong.stderr
