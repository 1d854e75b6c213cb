"""Scores from losses: known curves recovered, intervals that cover, scores ahead, bad input, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from synthetic import sweep

from llama_scale.cli import main
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting import fit
from llama_scale.fitting.downstream import fit_downstream, with_scores
from llama_scale.fitting.scores import ScorePairs, read_scores
from llama_scale.fitting.sigmoids import best_sigmoid
from llama_scale.laws import ScorePrediction, Sigmoid, published, read_fit

CURVE = Sigmoid(floor=0.25, ceiling=0.85, steepness=3.5, midpoint=2.6)


def made_up(
    seed: int, count: int = 24, noise: float = 0.01, curve: Sigmoid = CURVE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    loss = np.sort(generator.uniform(2.0, 3.6, count))[::-1]
    return loss, np.asarray(curve.score(loss)) + noise * generator.standard_normal(count)


def pairs(loss: NDArray[np.float64], score: NDArray[np.float64]) -> ScorePairs:
    return ScorePairs(
        task="made up", names=tuple(f"m{i}" for i in range(len(loss))), loss=loss, score=score, source="here"
    )


def write_csv(path: Path, loss: NDArray[np.float64], score: NDArray[np.float64], header: str) -> Path:
    lines = [header, *(f"{float(a)!r},{float(b)!r}" for a, b in zip(loss, score, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def inside(guess: ScorePrediction, score: NDArray[np.float64]) -> float:
    assert guess.low is not None
    assert guess.high is not None
    return float(np.mean((guess.low <= score) & (score <= guess.high)))


def test_a_known_sigmoid_is_recovered_from_exact_scores() -> None:
    found, agreed = best_sigmoid(*made_up(0, noise=0.0))
    assert found == pytest.approx([0.25, 0.85, 3.5, 2.6], rel=1e-4)
    assert agreed > 10


def test_intervals_cover_new_models_of_known_curves() -> None:
    """Nominal 90 %, within the losses and a quarter nat below them, over 30 made-up sets of scores."""
    covered = []
    for seed in range(30):
        loss, score = made_up(seed)
        found = fit_downstream(pairs(loss, score), draws=60, seed=seed)
        ahead = np.linspace(1.75, 3.5, 12)
        scatter = 0.01 * np.random.default_rng(seed + 999).standard_normal(12)
        covered.append(inside(found.predict(ahead, 0.9), np.asarray(CURVE.score(ahead)) + scatter))
    assert 0.86 <= np.mean(covered) <= 0.99


# Sardana & Frankle 2024, the 47 models' Eval Gauntlet: the worst 38 predict the best 9.
@pytest.mark.parametrize("task", ["core_average", "world_knowledge", "language_understanding"])
def test_scores_of_better_models_land_inside(shared_data: Path, task: str) -> None:
    known = read_scores(shared_data / "sardana2024_47runs.csv", task=task)
    order = np.argsort(-known.loss)
    first, ahead = order[:38], order[38:]
    found = fit_downstream(pairs(known.loss[first], known.score[first]), draws=300)
    guess = found.predict(known.loss[ahead], 0.9)
    assert inside(guess, known.score[ahead]) >= 0.8
    assert np.abs(guess.score - known.score[ahead]).mean() < 0.04
    assert found.evidence["backtest"]["factor"] >= 1


def test_a_score_that_says_nothing_of_the_loss_is_refused(shared_data: Path) -> None:
    with pytest.raises(UnidentifiedError, match="do not rise as loss falls"):
        fit_downstream(read_scores(shared_data / "sardana2024_47runs.csv", task="mmlu_5_shot"))


def test_percent_is_read_and_said(tmp_path: Path) -> None:
    loss, score = made_up(1)
    source = write_csv(tmp_path / "scores.csv", loss, 100 * score, "val_loss,accuracy")
    read = read_scores(source)
    assert read.score == pytest.approx(score)
    assert "percent" in read.notes[0]
    assert read.task == "accuracy"


def test_units_of_headers_count_in_scores_too(tmp_path: Path) -> None:
    source = tmp_path / "scores.csv"
    source.write_text("loss (bits),Accuracy (%)\n3,0.5\n2.9,0.8\n")
    read = read_scores(source)
    assert read.loss == pytest.approx([3 * np.log(2), 2.9 * np.log(2)])
    assert read.score == pytest.approx([0.005, 0.008])
    assert read.notes == ("loss (bits) is taken times ln 2, as nats a token",)
    source.write_text("loss,acc (a),acc (b)\n3,0.5,0.1\n2.9,0.8,0.2\n")
    assert read_scores(source, task="acc (b)").score == pytest.approx([0.1, 0.2])
    with pytest.raises(InputError, match="more than one column 'acc'"):
        read_scores(source)


def test_a_task_is_the_column_of_its_name_whatever_its_brackets_say(tmp_path: Path) -> None:
    source = tmp_path / "scores.csv"
    source.write_text(
        'loss,Accuracy (%),"MMLU (5-shot, %)",GSM (a),GSM (b)\n3,50,26,0.1,0.2\n2.9,80,30,0.3,0.4\n'
    )
    assert read_scores(source, task="mmlu").score == pytest.approx([0.26, 0.3])
    assert read_scores(source).task == "accuracy"
    assert read_scores(source, task="gsm (b)").score == pytest.approx([0.2, 0.4])
    with pytest.raises(InputError, match=r"more than one column 'gsm': 'GSM \(a\)' and 'GSM \(b\)'"):
        read_scores(source, task="gsm")


def test_a_percent_sign_within_a_name_is_no_unit(tmp_path: Path) -> None:
    source = tmp_path / "scores.csv"
    source.write_text("loss,top5%,top1 %\n3,0.5,0.5\n2.9,0.8,0.8\n")
    assert read_scores(source, task="top5%").score == pytest.approx([0.5, 0.8])
    assert read_scores(source, task="top1 %").score == pytest.approx([0.005, 0.008])


def test_rows_that_repeat_others_are_told(tmp_path: Path) -> None:
    rows = ["a,3.0,0.30", "b,2.5,0.45", "b,2.5,0.45", "c,2.5,0.45", "b,2.5,0.45"]
    source = tmp_path / "scores.csv"
    source.write_text("\n".join(["model,loss,score", *rows]) + "\n")
    read = read_scores(source)
    assert read.notes == ("rows repeat others exactly, 2 in all, such as scores.csv line 4: each counts",)
    assert len(read.loss) == 5


def test_scores_with_a_percent_sign_need_no_guess(tmp_path: Path) -> None:
    source = tmp_path / "scores.csv"
    source.write_text("loss,score\n3,0.5%\n2.9,0.8%\n2.8,1.5%\n")
    assert read_scores(source).score == pytest.approx([0.005, 0.008, 0.015])
    source.write_text("loss,score\n3,25%\n2.9,0.3\n")
    assert read_scores(source).score == pytest.approx([0.25, 0.3])


def test_fractions_among_percent_are_questioned(tmp_path: Path) -> None:
    source = tmp_path / "scores.csv"
    source.write_text("loss,score\n3,0.25\n2.9,27\n2.8,0.3\n2.7,34\n")
    with pytest.raises(InputError, match=r"line 4 has score 0\.3 and .* line 3 has 27: are these fractions"):
        read_scores(source)
    source.write_text("loss,score\n3,0.0\n2.9,0.4\n2.8,1.2\n2.7,12\n")  # a hard task, all in percent
    assert read_scores(source).score == pytest.approx([0, 0.004, 0.012, 0.12])


def test_scores_at_chance_are_refused() -> None:
    loss, score = made_up(6, noise=0.002, curve=replace(CURVE, ceiling=0.2501))
    with pytest.raises(UnidentifiedError, match=r"no surer .* than chance"):
        fit_downstream(pairs(loss, score), draws=0)


def test_a_curve_on_its_bounds_is_warned_of() -> None:
    loss = np.linspace(3.6, 2.0, 20)
    step = fit_downstream(pairs(loss, np.where(loss > 2.7, 0.25, 0.8)), draws=0)
    assert any("steepness rests on its bound" in text for text in step.evidence["warnings"])
    sound = fit_downstream(pairs(*made_up(0)), draws=0)
    assert not any("steepness" in text or "starts" in text for text in sound.evidence["warnings"])


def test_losses_of_another_text_are_questioned(tmp_path: Path) -> None:
    loss, score = made_up(4)
    law = fit(sweep(0), form="chinchilla", draws=0, backtest=False)
    for shift, asked in ((1.0, False), (9.0, True)):
        scores = write_csv(tmp_path / "scores.csv", loss + shift, score, "loss,score")
        warnings = with_scores(law, scores).evidence["warnings"]
        assert any("one text and tokenizer" in text for text in warnings) is asked


def test_one_task_of_several_is_chosen(tmp_path: Path) -> None:
    source = tmp_path / "scores.csv"
    source.write_text(
        "loss,score,task\n" + "".join(f"{3 - i / 10},0.{i}5,{t}\n" for i in range(6) for t in "ab")
    )
    with pytest.raises(InputError, match="2 tasks: a, b"):
        read_scores(source)
    with pytest.raises(InputError, match="no task 'c'"):
        read_scores(source, task="c")
    assert len(read_scores(source, task="b").loss) == 6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("loss,points\n3,0.2\n", "no column 'score'"),
        ("score\n0.2\n", "no column 'loss'"),
        ("loss,score\n3,0.2\n2.9,much\n", "line 3, column score: 'much'"),
        ("loss,score\n3,0.2\nnan,0.3\n", "line 3 has loss nan"),
        ("loss,score\n3,0.2\n2.9,-0.1\n", "line 3 has score -0.1"),
        ("loss,score\n3,0.2\n2.9,130\n", "line 3 has score 130"),
    ],
)
def test_bad_scores_are_one_error(tmp_path: Path, text: str, problem: str) -> None:
    source = tmp_path / "scores.csv"
    source.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_scores(source)


def test_too_few_or_too_narrow_scores_are_refused() -> None:
    loss, score = made_up(2)
    with pytest.raises(UnidentifiedError, match="has 4 pair"):
        fit_downstream(pairs(loss[:4], score[:4]))
    with pytest.raises(UnidentifiedError, match="nats of each other"):
        fit_downstream(pairs(2.5 + loss / 1e3, score))


def test_what_the_models_do_not_show_is_said() -> None:
    loss, score = made_up(3, noise=0.002)
    low = fit_downstream(pairs(loss[loss > 2.8], score[loss > 2.8]), draws=50)
    assert any("ceiling" in text for text in low.evidence["warnings"])
    high = fit_downstream(pairs(loss[loss < 2.5], score[loss < 2.5]), draws=50)
    assert any("floor" in text for text in high.evidence["warnings"])


def test_the_command_keeps_scores_with_the_law(tmp_path: Path) -> None:
    loss, score = made_up(4)
    scores = write_csv(tmp_path / "scores.csv", loss, score, "loss,score")
    records = Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0.json"
    kept = tmp_path / "law.json"
    words = ["fit", str(records), "--form", "chinchilla", "--delta", "1e-2", "--draws", "0"]
    outcome = CliRunner().invoke(
        main, [*words, "--scores", str(scores), "--output", str(kept), "--json"], catch_exceptions=False
    )
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert document["downstream"]["midpoint"] == pytest.approx(2.6, abs=0.2)
    assert "draws" not in document["downstream"]
    found = read_fit(kept).downstream
    assert found is not None
    assert found.loss_for(found.score(2.5)) == pytest.approx(2.5)
    assert found.draws is not None
    shown = CliRunner().invoke(main, [*words, "--scores", str(scores)])
    assert "Score of score by loss (24 models" in shown.output
    wrong = CliRunner().invoke(main, [*words, "--task", "x"])
    assert "--scores" in wrong.stderr


def test_scores_are_the_path_of_a_table() -> None:
    with pytest.raises(InputError, match="scores are a list, but must be the path"):
        with_scores(published(), [{"loss": 3.0, "score": 0.5}])  # pyright: ignore[reportArgumentType]
