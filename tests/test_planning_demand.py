"""What a plan is asked to serve: requests, growth, samples, retraining, and a demand that is not known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llama_scale import plan
from llama_scale.errors import InputError
from llama_scale.planning import Plan
from llama_scale.planning.optimum import lowest_cost

SARDANA_LINE = "E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283"


def ask(**words: Any) -> Plan:
    """`plan` with words that a test makes up."""
    asked: dict[str, Any] = {"law": SARDANA_LINE, **words}
    return plan(**asked)


def test_requests_are_tokens_by_their_lengths() -> None:
    by_requests = ask(requests="1e10", input_tokens=1000, output_tokens=250, budget="$2M")
    by_tokens = ask(serve_tokens="12.5T", budget="$2M")
    assert by_requests.request.economics.demand.serve_tokens == 12.5e12
    assert by_requests.optimum.parameters == pytest.approx(by_tokens.optimum.parameters, rel=1e-6)


def test_longer_answers_cost_more_than_longer_prompts() -> None:
    written = ask(serve_tokens="1e12", input_tokens=250, output_tokens=1000, budget="$2M")
    read = ask(serve_tokens="1e12", input_tokens=1000, output_tokens=250, budget="$2M")
    assert written.recommended.parameters < read.recommended.parameters


def test_a_month_of_demand_grows_into_a_life() -> None:
    life = ask(serve_tokens="10B/month", months=36, growth="5%/month", budget="$2M")
    assert life.request.economics.demand.serve_tokens == pytest.approx(1e10 * (1.05**36 - 1) / 0.05)
    total = ask(serve_tokens="1e12", months=36, growth="5%/month", budget="$2M")
    assert total.request.economics.demand.serve_tokens == 1e12


def test_discounted_serving_lets_the_model_grow() -> None:
    plain = ask(serve_tokens="1e13", months=60, budget="$2M")
    later = ask(serve_tokens="1e13", months=60, discount="20%", growth="5%/month", budget="$2M")
    assert later.optimum.parameters > plain.optimum.parameters
    assert later.recommended.lifetime.total_usd == pytest.approx(2e6, rel=1e-6)


def test_samples_multiply_what_is_written_but_not_what_is_read() -> None:
    one, eight = (ask(serve_tokens="1e12", samples=k, budget="$2M") for k in (1, 8))
    demand = eight.request.economics.demand
    assert demand.serve_tokens == pytest.approx(1e12 * (1000 + 8 * 250) / 1250)
    assert demand.requests == pytest.approx(one.request.economics.demand.requests)
    assert eight.recommended.parameters < one.recommended.parameters


@pytest.mark.parametrize("answers", [1, 8, 64])
def test_answers_to_one_prompt_are_served_as_the_page_on_serving_says(answers: int) -> None:
    """docs/serving.md in plain arithmetic: a prompt is read and kept once, each answer attends to it all."""
    made = ask(
        requests="1e9", input_tokens=8000, output_tokens=500, samples=answers, max_parameters="13B",
        budget="$20M", request_rate=10,
    )  # fmt: skip
    deployment, shape, served = made.request.economics.deployment, made.shape, made.recommended.throughput
    assert deployment is not None
    assert served is not None
    fitted, chip = deployment.calibration, deployment.rental.accelerator
    g, read, written, attended = float(served.accelerators), 8000, 500, 8000 + 500 / 2
    weights, layers, width = shape.matrix_weights, shape.layers, shape.width
    cache = 2 * layers * shape.kv_heads * shape.head_size * 2
    peak, link = chip.peak("bf16"), chip.interconnect_bytes_per_second or math.inf
    exchange = 8 * layers * width * (g - 1) / g / (link * fitted.link_share)
    prompt = (2 * weights * read + 2 * layers * width * read**2) / peak / (g * fitted.prefill_mfu)
    prompt += exchange * read
    room = g * (0.92 * chip.memory_bytes - 3e9) - 2 * shape.parameters.total
    batch = room / (cache * (read / answers + written / 2))
    loaded = (2 * weights + batch * attended * cache) / (
        g * chip.bandwidth_bytes_per_second * fitted.bandwidth_share
    )
    worked = (2 * weights + 4 * layers * width * attended) / peak / (g * fitted.decode_mfu)
    each = worked + exchange + fitted.sequence_seconds * layers
    step = loaded + fitted.layer_seconds * layers + batch * each
    assert float(served.batch) == pytest.approx(batch)
    assert float(served.time_to_first_token_seconds) == pytest.approx(step + prompt)
    following = step + (batch - 1) * prompt / (answers * written)
    assert float(served.time_per_output_token_seconds) == pytest.approx(following)
    for_a_request = g * (prompt + answers * written * step / batch)
    assert made.recommended.lifetime.serve_gpu_hours == pytest.approx(1e9 * for_a_request / 3600)
    assert made.fleet is not None
    assert float(made.fleet.accelerators) == pytest.approx(10 * for_a_request, abs=g)
    demand = made.request.economics.demand
    assert demand.serve_tokens == 1e9 * (8000 + answers * 500)
    assert made.recommended.lifetime.serve_flops == 2 * made.recommended.parameters * demand.serve_tokens


def test_retraining_pays_for_every_generation() -> None:
    answer = ask(serve_tokens="1e12", months=36, retrain_every=12, discount="10%", budget="$5M")
    assert len(answer.generations) == 3
    life = answer.recommended.lifetime
    trained = sum(part.train_usd or 0 for part in answer.generations)
    served = sum(part.serve_usd or 0 for part in answer.generations)
    assert (trained, served) == pytest.approx((life.train_usd, life.serve_usd))
    assert sum(part.serve_tokens for part in answer.generations) == pytest.approx(1e12)
    one = 6 * answer.recommended.parameters * answer.recommended.tokens
    assert life.train_flops == pytest.approx(3 * one)
    assert answer.training is not None
    assert answer.training.train_flops == pytest.approx(one)
    once = ask(serve_tokens="1e12", months=36, discount="10%", budget="$5M")
    assert once.generations == ()
    assert once.recommended.loss_nats < answer.recommended.loss_nats


def test_an_uncertain_demand_is_planned_for_its_mean_with_regrets() -> None:
    answer = ask(serve_tokens="1e11..1e13", budget="$2M")
    spread, regret = answer.request.economics.demand.spread, answer.regret
    assert spread is not None
    assert regret is not None
    assert answer.request.economics.demand.serve_tokens == spread.mean
    assert [name for name, _ in regret.demands] == ["low", "median", "mean", "high"]
    assert answer.optimum.parameters == pytest.approx(regret.rows[2].parameters, rel=1e-3)
    for index, row in enumerate(regret.rows):
        assert row.regrets[index] == pytest.approx(0, abs=1e-12)
        assert min(row.regrets) >= -1e-9
    assert [row.parameters for row in regret.rows] == sorted(
        (row.parameters for row in regret.rows), reverse=True
    )


def test_the_plan_for_the_mean_has_the_least_expected_cost() -> None:
    answer = ask(serve_tokens="1e11..1e13", budget="$2M")
    problem, spread = answer.request.problem(), answer.request.economics.demand.spread
    assert spread is not None
    demands = np.random.default_rng(0).lognormal(np.log(spread.median), spread.log_deviation, 4000)
    loss = answer.optimum.loss_nats

    def expected(planned: float) -> float:
        plan_for = lowest_cost(replace(problem, serve_tokens=planned), loss)
        return float(np.mean(replace(problem, serve_tokens=demands).cost(*plan_for)))

    mean = expected(float(np.mean(demands)))
    for other in (spread.low, spread.median, 1.3 * spread.mean, spread.high):
        assert mean <= expected(other) * (1 + 1e-9)


@pytest.mark.parametrize(
    "words",
    [
        {"serve_tokens": "2e11..1.4e14", "unique_tokens": 57e6},
        {"serve_tokens": "1e11..1e13", "accelerators": 790360, "deadline": "233d", "serve_price": 1.04},
        {"serve_tokens": 1e12, "accelerators": 790360, "deadline": "233d", "serve_price": 1.04, "kv_bits": 8},
        {"serve_tokens": 1e12, "accelerators": 2000, "deadline": "90d", "unique_tokens": 1e9},
    ],
)
def test_nothing_of_an_answer_is_no_number(words: dict[str, Any]) -> None:
    """Where a loss is saturated by its data, or one size alone reaches it within the limits."""
    made = plan(**words)
    said = made._repr_markdown_()
    assert "nan" not in said
    assert made.flatness[0].low <= made.flatness[0].high
    if made.regret is not None:
        assert all(math.isfinite(share) for row in made.regret.rows for share in row.regrets)
    if made.request.unique_tokens is not None:
        assert "the data hold it back, not the" in said
        assert "dearer for its loss" not in said


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ({"serve_tokens": 1e12, "requests": 1e9}, "two demands", "one of them"),
        ({"serve_tokens": "1e13..1e11"}, "is no range", "the smaller first"),
        ({"serve_tokens": "1..1e20"}, "too wide to plan for", "nearer"),
        ({"serve_tokens": "0..1e11"}, "starts at 0", "1e9..1e13"),
        ({"serve_tokens": "1e12/week"}, "neither a count nor one a month", "2B/month"),
        ({"serve_tokens": "1e10/month"}, "says nothing without the life", "--months 36"),
        ({"serve_tokens": 1e12, "growth": "5%"}, "without the length of the life", "--months 36"),
        ({"serve_tokens": 1e12, "months": 12, "growth": "5 GB"}, "no rate of change", "5%/month"),
        ({"serve_tokens": 1e12, "months": 12, "growth": "300%"}, "out of all proportion", "a month"),
        ({"serve_tokens": 1e12, "months": 12, "discount": "-5%"}, "out of all proportion", "a year"),
        ({"serve_tokens": 1e12, "months": 2.5}, "not whole", "write 2"),
        ({"serve_tokens": 1e12, "months": "36 TB"}, "is bytes", "write"),
        ({"serve_tokens": 1e12, "retrain_every": 12}, "without the length of the life", "--months"),
        ({"serve_tokens": 1e12, "carbon": -1}, "--carbon -1 is out of all proportion", "from 0 to 10"),
        ({"serve_tokens": 1e12, "retrain_every": 48, "months": 36}, "longer than the life of 36", "fewer"),
        ({"serve_tokens": 1e12, "samples": 0}, "out of all proportion", "from 1"),
        ({"serve_tokens": 1e12, "input_share": 0.5, "input_tokens": 10}, "two ways", "one of them"),
        ({"serve_tokens": 1e12, "input_tokens": 9000, "context": 4096}, "does not fit", "16384"),
        (
            {"serve_tokens": 1e12, "context": 512},
            "1000 .* and 250 written, our default, does not",
            "--context",
        ),
        ({"serve_tokens": 1e12, "context": 4096.5}, "--context 4096.5 is not whole", "write 4096"),
        ({"serve_tokens": 0, "context": 1}, "--context 1 is out of all proportion", "from 16"),
        ({"serve_tokens": 1e12, "vocabulary": 32000.5}, "--vocabulary 32000.5 is not whole", "write 32000"),
        ({"serve_tokens": 1e12, "vocabulary": "100M"}, "--vocabulary 100M is out", "to 2M"),
        ({"serve_tokens": "-1e12"}, "negative", "1e12"),
    ],
)
def test_demands_that_cannot_be_meant(words: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ask(**words)
    assert hint in refused.value.hint
