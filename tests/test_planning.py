from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import drawn_fit

from llama_scale import compare, plan
from llama_scale.architecture import CONVENTIONS, LLAMA_13B, ParameterConvention
from llama_scale.errors import InfeasibleError, InputError
from llama_scale.laws import ScalingLaw, fit_to_json, published, read_fit
from llama_scale.planning import Plan
from llama_scale.planning.families import SixNDFamily
from llama_scale.planning.optimum import Problem, lowest_loss
from llama_scale.planning.reasons import reasons
from llama_scale.planning.references import reference_model, reference_models
from llama_scale.quantities import Quantity
from tests.figures import FIT

SARDANA = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)
BESIROGLU = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
SARDANA_LINE = "E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283"


def test_the_dollars_row_through_python() -> None:
    answer = plan(
        serve_tokens="12.5T",
        target_loss=1.947,
        law=SARDANA_LINE,
        accelerator="A100-80",
        price="$1.40/h",
        mfu=0.5,
        serve_accelerator="A100-40",
        serve_price="$0.60/h",
        serve_precision="int8",
        serve_mfu=(0.4, 0.2),
        input_share="80%",
    )
    assert answer.request.unit == "usd"
    assert answer.optimum.parameters == pytest.approx(2.053e10, rel=3e-4)
    assert answer.optimum.tokens == pytest.approx(3.302e12, rel=3e-4)
    assert answer.optimum.lifetime.total_usd == pytest.approx(1_425_060, rel=1e-6)
    assert answer.compute_optimal.lifetime.total_usd == pytest.approx(1_605_532, rel=1e-6)


def ask(**words: Any) -> Plan:
    """`plan` with words that a test makes up."""
    return plan(**words)


def test_a_demand_alone_is_answered() -> None:
    answer = plan(serve_tokens="1e12")
    assert answer.request.fit.name == "besiroglu-2024"
    assert "our default budget" in answer.sentence
    assert answer.recommended.lifetime.total_flops == pytest.approx(1e24, rel=1e-9)
    assert answer.recommended.parameters == answer.shape.parameters.total
    assert answer.recommended.lifetime.total_usd is not None
    assert answer.extrapolation["train_flops"] > 50
    assert any("extrapolates" in warning for warning in answer.warnings)
    assert {other.law for other in answer.other_laws} >= {"hoffmann-2022", "muennighoff-2023"}


@pytest.mark.parametrize("budget", ["1e24", "$2M", "1M GPU-hours", 1e21])
def test_a_budget_is_spent_whole_and_never_beaten(budget: str | float) -> None:
    answer = plan(serve_tokens=1e12, budget=budget, law=SARDANA_LINE)
    spent = answer.request.budget
    assert spent is not None
    assert answer.recommended.lifetime.total(answer.request.unit) == pytest.approx(spent.value, rel=1e-9)
    assert -1e-9 < answer.gap.loss_nats < 2e-3
    assert 0 <= answer.gap.cost < 0.005
    on_budget = answer.compute_optimal_on_budget
    assert on_budget is not None
    assert on_budget.lifetime.total(answer.request.unit) == pytest.approx(spent.value, rel=1e-9)
    assert on_budget.loss_nats > answer.recommended.loss_nats
    assert answer.compute_optimal.loss_nats == pytest.approx(answer.recommended.loss_nats)
    assert answer.saving.share > 0


@pytest.mark.parametrize("flops", ["6nd", "exact"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_laws_of_every_convention(flops: str, convention: ParameterConvention) -> None:
    fit = replace(published("hoffmann-2022-sardana"), name="mine", convention=convention)
    answer = plan(serve_tokens=1e10, budget=1e21, law=fit, flops=flops)
    shape = answer.shape
    assert answer.recommended.parameters == shape.parameters.by(convention)
    # shapes are up to 4 % apart; of exact FLOPs one of better proportions that is farther may take fewer
    assert abs(answer.gap.parameters) < (0.04 if flops == "6nd" else 0.08)
    assert abs(answer.gap.cost) < 0.01
    a_token = shape.train_flops_per_token() if flops == "exact" else 6 * shape.parameters.by(convention)
    assert answer.recommended.lifetime.train_flops == pytest.approx(a_token * answer.recommended.tokens)
    assert answer.recommended.lifetime.total_flops == pytest.approx(1e21)


@pytest.mark.parametrize("samples", [1, 4])
def test_exact_serving_attends_to_what_requests_hold_not_to_the_whole_context(samples: int) -> None:
    words: Any = {"input_tokens": 3000, "output_tokens": 500, "samples": samples, "requests": 1e8}
    counted: Any = {"flops": "exact", "context": 131_072}
    answer = plan(budget=1e23, **words, **counted)
    shape, model = answer.shape, answer.recommended
    prompt = sum(shape.forward_flops_per_token(i + 0.5) for i in range(3000))
    written = sum(shape.forward_flops_per_token(3000 + i + 0.5) for i in range(500))
    assert model.lifetime.serve_flops == pytest.approx(1e8 * (prompt + samples * written))
    assert model.lifetime.train_flops / model.tokens == pytest.approx(shape.train_flops_per_token(131_072))
    named, bought = reference_model("llama-65b"), compare("llama-65b", **words, **counted).models[0]
    attended = (3000 * 1500 + samples * 500 * 3250) / (3000 + samples * 500)
    assert bought.costs["flops"].token == pytest.approx(named.forward_flops_per_token(attended))


def test_matching_a_model_means_its_loss_under_the_law() -> None:
    answer = plan(serve_tokens="2T", match="llama-13b", law=SARDANA_LINE)
    assert answer.recommended.loss_nats == pytest.approx(float(SARDANA.loss(13e9, 1e12)))
    assert answer.limits[0].name == "quality of llama-13b"
    assert answer.recommended.parameters < answer.compute_optimal.parameters
    non_embedding = replace(published(), convention="non_embedding")
    other = plan(serve_tokens="2T", match="llama-13b", law=non_embedding)
    expected = BESIROGLU.loss(LLAMA_13B.parameters.non_embedding, 1e12)
    assert other.recommended.loss_nats == pytest.approx(float(expected))


def test_reference_models_are_counted_by_every_convention() -> None:
    assert reference_model("LLaMA 13B").count("matmul") == LLAMA_13B.parameters.matmul
    assert reference_model("gpt-3").name == "gpt-3-175b"
    for model in reference_models():
        total, matmul, body = (model.count(convention) for convention in ("total", "matmul", "non_embedding"))
        assert body < matmul < total * 1.01
        assert model.total == pytest.approx(model.parameters, rel=0.01)
    with pytest.raises(InputError) as refused:
        reference_model("llama-14b")
    assert "llama-13b" in refused.value.hint


def test_intervals_come_from_the_draws() -> None:
    fit = drawn_fit()
    answer = plan(serve_tokens=1e12, law=fit)
    spread = answer.intervals
    assert spread is not None
    assert fit.draws is not None
    asked = Problem(law=fit.draws, family=SixNDFamily(), serve_tokens=1e12)
    solutions = lowest_loss(asked, 1e24)
    expected = np.quantile(np.asarray(solutions.sizes.parameters), [0.05, 0.95])
    assert list(spread.ranges["parameters"]) == pytest.approx(expected)
    low, high = spread.ranges["loss_nats"]
    assert low < answer.recommended.loss_nats < high
    narrow = plan(serve_tokens=1e12, law=fit, level="50%").intervals
    assert narrow is not None
    assert narrow.ranges["parameters"].high < spread.ranges["parameters"].high
    assert plan(serve_tokens=1e12, law=SARDANA_LINE).intervals is None


def test_draws_too_few_for_the_level_are_warned_of() -> None:
    def too_few(level: str) -> list[str]:
        answer = plan(serve_tokens=1e12, law=drawn_fit(50), level=level)
        return [warning for warning in answer.warnings if "too few for" in warning]

    assert not too_few("96%")
    (warning,) = too_few("99%")
    assert warning.startswith("50 draws of the law are too few for 99% intervals, which take 200")
    answer = plan(serve_tokens=1e12, target_loss=1.84, level="99.8%")  # a sixth of 1,000 reach no such loss
    assert any("draws of the law are too few for 99.8% intervals" in warning for warning in answer.warnings)


def test_draws_that_cannot_reach_a_target_are_left_out_and_counted() -> None:
    fit = drawn_fit()
    answer = plan(serve_tokens=1e12, law=fit, target_loss=1.84)
    spread = answer.intervals
    assert spread is not None
    assert fit.draws is not None
    assert spread.unreached == pytest.approx(float(np.mean(np.asarray(fit.draws.E) >= 1.84)))
    assert any("draws no model reaches" in warning for warning in answer.warnings)
    assert spread.ranges["total_flops"].low < answer.optimum.lifetime.total_flops


@pytest.mark.parametrize("question", [{}, {"match": "llama-13b"}])
def test_best_on_average_is_no_worse_than_any_size_tried(question: dict[str, Any]) -> None:
    answer = ask(serve_tokens=1e12, law=drawn_fit(), **question)
    best = answer.best_on_average
    assert best is not None
    assert best.advantage is not None
    assert best.advantage >= 0
    assert best.unreached == 0
    assert best.parameters == pytest.approx(answer.optimum.parameters, rel=0.3)


def test_intervals_are_those_of_each_draw_answered_by_itself() -> None:
    """By trying many sizes under every draw: for the budget, and for the least compute of that loss."""
    budget, served, fit = 1e24, 1e12, drawn_fit(100)
    spread = ask(serve_tokens=served, budget=budget, law=fit).intervals
    assert spread is not None
    assert fit.draws is not None
    n = np.geomspace(1e9, 3e11, 6001)[:, None]
    tokens = (budget - 2 * n * served) / (6 * n)
    losses = np.asarray(fit.draws.loss(n, tokens))
    best = np.argmin(losses, axis=0)
    loss, d = losses.min(axis=0), fit.draws
    with np.errstate(invalid="ignore"):
        alone = ((loss - d.E - d.A * n**-d.alpha) / d.B) ** (-1 / d.beta)
    cheapest = np.nanargmin(6 * n * alone, axis=0)
    rival = n[cheapest, 0], alone[cheapest, np.arange(100)]
    by_hand = {
        "parameters": n[best, 0],
        "train_flops": 6 * n[best, 0] * tokens[best, 0],
        "serve_flops": 2 * n[best, 0] * served,
        "saving": 1 - budget / (6 * rival[0] * rival[1] + 2 * rival[0] * served),
    }
    for name, values in by_hand.items():
        middle = np.sort(values)[[3, 6, 93, 96]]  # the ends of 90 % of a hundred lie between these
        assert middle[0] * 0.999 <= spread.ranges[name].low <= middle[1] * 1.001
        assert middle[2] * 0.999 <= spread.ranges[name].high <= middle[3] * 1.001


def test_best_on_average_is_the_lowest_mean_loss_of_sizes_six_percent_apart() -> None:
    budget, served, fit = 1e24, 1e12, drawn_fit(100)
    answer = ask(serve_tokens=served, budget=budget, law=fit)
    assert answer.best_on_average is not None
    assert fit.draws is not None
    n = answer.recommended.parameters * np.geomspace(0.1, 10, 81)[:, None]
    tokens = (budget - 2 * n * served) / (6 * n)
    losses = np.asarray(fit.draws.loss(n, np.where(tokens > 0, tokens, np.nan))).mean(axis=1)
    at = int(np.nanargmin(losses))
    assert answer.best_on_average.parameters == pytest.approx(n[at, 0])
    assert answer.best_on_average.tokens == pytest.approx(tokens[at, 0])
    assert answer.best_on_average.advantage == pytest.approx(losses[40] - losses[at], abs=1e-9)


def test_a_size_that_may_never_reach_the_target_is_named() -> None:
    answer = plan(serve_tokens=2e12, law=drawn_fit(), target_loss=1.9)
    best = answer.best_on_average
    assert best is not None
    assert best.advantage is None
    assert 0 < best.unreached < 0.2
    assert best.parameters > answer.recommended.parameters
    assert "never reaches the loss under" in answer._repr_markdown_()


def test_a_budget_beside_a_target_is_a_limit() -> None:
    answer = plan(serve_tokens=1e12, target_loss=1.95, law=SARDANA_LINE, budget="1e25")
    binding = {limit.name: limit.binding for limit in answer.limits}
    assert binding == {"target loss": True, "total budget": False}
    with pytest.raises(InfeasibleError, match="times the budget of 1e23 FLOPs") as refused:
        plan(serve_tokens=1e12, target_loss=1.95, law=SARDANA_LINE, budget="1e23")
    enough = refused.value.hint.split("'")[1]
    assert plan(serve_tokens=1e12, target_loss=1.95, law=SARDANA_LINE, budget=enough).limits[0].binding
    affordable = float(refused.value.hint.split("--target-loss ")[1].split(",")[0])
    assert plan(serve_tokens=1e12, target_loss=affordable, law=SARDANA_LINE, budget="1e23").gap.cost < 0.01


@pytest.mark.parametrize("served", [1e12, 1e15])
def test_a_budget_that_buys_nothing_worth_asking_for_offers_no_other_loss(served: float) -> None:
    """With $1 the lower demand leaves a model worse than guessing, the higher none at all."""
    with pytest.raises(InfeasibleError, match=r"times the budget of \$1\.00") as refused:
        plan(serve_tokens=served, target_loss=2.0, budget="$1")
    assert refused.value.hint.startswith("give --budget '$")
    assert "--target-loss" not in refused.value.hint


@pytest.mark.parametrize(
    ("question", "message", "hint"),
    [
        ({"target_loss": 1.5}, "floor is 1.8172, 0.3172 more", "--target-loss 1.87"),
        ({"target_loss": 1.8173}, "above the law's floor", "--target-loss 1.87"),
        ({"target_loss": 1.8173, "cost_in": "usd"}, "above the law's floor", "--target-loss 1.87"),
        (
            {"target_loss": 1.829, "cost_in": "usd", "serve_accelerator": "l4", "serve_accelerators": 1024},
            "larger model than 1024 L4 can serve",
            "--serve-precision, or --target-loss",
        ),
        ({"budget": 1e12}, "too few for a law to hold", "serve fewer tokens"),
        ({"law": "E=1.69,A=400,B=410,alpha=30,beta=.3"}, "too few for a law to hold", "give another --law"),
        ({"serve_tokens": 0, "target_loss": 9}, "nearest LLaMA with a vocabulary of 32,000", "--vocabulary"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(
    question: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(InfeasibleError, match=message) as refused:
        ask(**{"serve_tokens": 1e12, **question})
    assert hint in refused.value.hint


def test_the_nearest_feasible_budget_is_feasible() -> None:
    with pytest.raises(InfeasibleError) as refused:
        plan(serve_tokens=1e12, budget=1e12, vocabulary=256)
    nearest = refused.value.hint.split("'")[1]
    assert plan(serve_tokens=1e12, budget=nearest, vocabulary=256).recommended.parameters < 2e4
    with pytest.raises(InfeasibleError, match="nearest LLaMA with a vocabulary of 32,000") as refused:
        plan(serve_tokens=1e15, budget=1e20)
    nearest = refused.value.hint.split("--budget '")[1].rstrip("'")
    assert plan(serve_tokens=1e15, budget=nearest).recommended.parameters < 6e5


@pytest.mark.parametrize(
    ("question", "message", "hint"),
    [
        ({"budget": 1e40}, "out of all proportion", "1e24"),
        ({"serve_tokens": 1e40}, "out of all proportion", "1e12"),
        ({"accelerator": "h1000"}, "unknown accelerator", "H100-SXM"),
        ({"accelerator": "MI300X"}, "no price", "--price"),
        ({"serve_accelerator": "MI300X"}, "no price", "--serve-price"),
        ({"match": "llama-14b"}, "unknown model", "llama-13b"),
        ({"law": "besirogl"}, "no published law", "besiroglu-2024"),
        ({"mfu": 0}, "not between 0 and 1", "0.4"),
        ({"mfu": 40}, "larger than 1", "40%"),
        ({"price": 0}, "no price for an hour", r"$2.50"),
        ({"serve_mfu": "1/2/3"}, "3 parts", "0.55/0.20"),
        ({"cost_in": "flops", "budget": "$1M"}, "cannot be spent in flops", "--cost-in"),
        ({"cost_in": "euros"}, "unknown", "usd"),
        ({"flops": "7nd"}, "unknown", "exact"),
        ({"target_loss": "low"}, "is no number", "nats"),
        ({"target_loss": -1}, "no loss of a language model", "nats"),
        ({"target_loss": 2, "match": "llama-7b"}, "two targets", "one of them"),
        ({"vocabulary": 1}, "out of all proportion", "from 2"),
        ({"accelerator": "A100", "precision": "fp8"}, "no fp8 rate", "int8"),
        ({"budgets": 1}, "no argument budgets", "budget"),
        ({"serve_mfu": "0.5/2"}, "--serve-mfu: '2' is larger than 1", "40%"),
        ({"serve_mfu": (0.5, "x")}, "--serve-mfu: 'x' is not a fraction", "40%"),
        ({"serve_tokens": True}, "--serve-tokens cannot be True, of type bool", "number"),
        ({"budget": [1e24]}, "--budget cannot be .1e.24., of type list", "Quantity"),
        ({"budget": Quantity(value=60, kind="seconds")}, "a budget cannot be 1 min", "GPU-hours"),
        ({"accelerator": 5}, "--accelerator cannot be 5, of type int", "str"),
        ({"quantisation_penalty": "no"}, "cannot be 'no', of type str", "bool"),
    ],
)
def test_bad_words_are_refused_with_a_way_out(question: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ask(**{"serve_tokens": 1e12, **question})
    assert hint in refused.value.hint


def test_words_come_as_any_number_and_as_lists_where_they_have_parts() -> None:
    as_text = ask(serve_tokens="1e12", serve_mfu="0.5/0.2")
    assert ask(serve_tokens=np.float64(1e12), serve_mfu=[0.5, 0.2]).recommended == as_text.recommended
    assert ask(serve_tokens=np.int64(10**12), serve_mfu=(0.5, 0.2)).recommended == as_text.recommended


def test_a_word_of_a_few_may_be_in_capitals() -> None:
    assert ask(serve_tokens=1e12, flops="6ND").recommended == ask(serve_tokens=1e12, flops="6nd").recommended


def test_the_lengths_of_a_request_are_whole_in_json() -> None:
    assert plan(serve_tokens=1e12).to_json()["objective"]["output_tokens"] == 250


@pytest.mark.parametrize(
    ("size", "serve_tokens", "parameters", "tokens", "share"),
    [
        ("13B", 2e12, 6.969e9, 1.248e12, 0.174),
        ("30B", 1e13, 1.361e10, 4.426e12, 0.280),
        ("70B", 0, 70e9, 4.255e12, 0),
    ],
)
def test_a_size_stands_for_the_compute_optimal_model_of_it(
    size: str, serve_tokens: float, parameters: float, tokens: float, share: float
) -> None:
    """What a Chinchilla model of that size reaches, for less: Sardana & Frankle 2024, as computed by them."""
    answer = plan(law="hoffmann-2022-sardana", match=size, serve_tokens=serve_tokens)
    assert answer.optimum.parameters == pytest.approx(parameters, rel=1e-3)
    assert answer.optimum.tokens == pytest.approx(tokens, rel=1e-3)
    assert answer.saving.share == pytest.approx(share, abs=2e-3)
    assert f"matches a compute-optimal {size} at" in answer.sentence


def test_a_size_to_match_may_be_a_number_and_is_one_of_a_model() -> None:
    assert plan(match=13e9, serve_tokens=2e12).recommended == plan(match="13b", serve_tokens=2e12).recommended
    for size in ("13", 0, "1e18"):
        with pytest.raises(InputError, match=r"--match .* is out of all proportion") as refused:
            plan(match=size, serve_tokens=1e12)
        assert refused.value.hint == "give a number from 10K to 1e15"


def test_a_size_is_no_name_of_a_model_and_stays_as_it_was_typed_in_what_is_offered() -> None:
    with pytest.raises(InfeasibleError) as refused:
        plan(match="13B", serve_tokens=1e12, deadline="1h", accelerators=8)
    assert "instead of --match 13B" in refused.value.hint


def test_a_law_without_draws_says_why_there_is_no_interval(tmp_path: Path) -> None:
    printed = tmp_path / "printed.json"
    printed.write_text(json.dumps(fit_to_json(read_fit(FIT), draws=False) | {"file": "runs/fits/mine.json"}))
    bare = tmp_path / "bare.json"
    constants = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283}
    law = {"schema": 1, "form": "chinchilla", "parameters": constants, "parameter_convention": "total"}
    bare.write_text(json.dumps(law))
    for file, why in ((printed, "its draws are in runs/fits/mine.json"), (bare, "its file holds no draws")):
        answer = plan(law=str(file), serve_tokens=1e12)
        told = answer.to_json()
        assert told["intervals"] is None
        assert told["intervals_note"].startswith(why)
        assert f"none: {why}" in " ".join(reason.text for reason in reasons(answer))


def test_models_have_the_words_of_json_as_attributes() -> None:
    answer = plan(serve_tokens=1e12)
    for name in ("recommended", "optimum", "compute_optimal"):
        model, told = getattr(answer, name), answer.to_json()[name]
        for word in model.to_json():
            assert getattr(model, word) == told[word] > 0
    assert answer.law.name == answer.to_json()["law"]["name"]


def test_a_demand_must_be_given() -> None:
    with pytest.raises(InputError, match="how many tokens") as refused:
        plan()
    assert "--serve-tokens" in refused.value.hint


def test_old_chips_run_in_fp16_and_hours_need_no_price() -> None:
    answer = plan(serve_tokens=1e12, accelerator="V100", price=0.5, budget="1M GPU-hours")
    assert answer.request.economics.training.rental.precision == "fp16"
    unpriced = plan(serve_tokens=1e12, accelerator="MI300X", budget="1M GPU-hours")
    assert unpriced.recommended.lifetime.total_usd is None
    assert unpriced.to_json()["recommended"]["total_usd"] is None


def test_serving_on_another_chip_in_gpu_hours_is_warned_about() -> None:
    answer = plan(serve_tokens=1e12, serve_accelerator="L40S", budget="1M GPU-hours")
    assert any("counted like an hour" in warning for warning in answer.warnings)


def test_the_command_asks_for_the_same_plan() -> None:
    from click.testing import CliRunner

    from llama_scale.cli.plan import command

    answer = plan(serve_tokens=1.5e12, budget=Quantity(value=2e6, kind="usd"), law=SARDANA_LINE, price="$2/h")
    import shlex

    words = shlex.split(answer.to_json()["command"])[2:]
    shown = CliRunner().invoke(command, [*words, "--format", "csv"], catch_exceptions=False)
    line = shown.output.splitlines()[1].split(",")
    assert line[0] == "recommended"
    assert float(line[1]) == answer.recommended.parameters
    assert float(line[2]) == pytest.approx(answer.recommended.tokens)


def test_notebooks_see_the_answer_and_the_table() -> None:
    shown = plan(serve_tokens=1e12)._repr_markdown_()
    assert shown.startswith("**Train ")
    assert "| **recommended** |" in shown
    assert "llama-scale plan --serve-tokens 1e12" in shown
