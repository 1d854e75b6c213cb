"""What a plan says: its sentence, reasons, tables, formulas and JSON; the command that asks again."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from llama_scale import plan
from llama_scale.cli.output import json_text
from llama_scale.cli.plan import command
from llama_scale.laws import Repetition, published
from llama_scale.planning import Plan, compare
from llama_scale.planning.explain import explain
from llama_scale.planning.markdown import markdown
from llama_scale.planning.reasons import reasons
from llama_scale.planning.words import regret_rows, sensitivity_rows


def said(answer: Plan) -> dict[str, str]:
    return {reason.heading: reason.text for reason in reasons(answer)}


def shown(*words: str) -> str:
    return CliRunner().invoke(command, list(words), catch_exceptions=False).output


@pytest.fixture(scope="module")
def in_dollars() -> Plan:
    return plan(serve_tokens=1e13, budget="$2M", against="llama-2-70b", request_rate=50)


def test_the_default_answer_is_one_screen() -> None:
    lines = shown("--serve-tokens", "1e12").splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80


def test_what_training_and_serving_take_adds_to_the_whole() -> None:
    binds = said(plan(serve_tokens=3e11, budget="$2M"))["binds"]
    assert "Training takes 94.9% of the cost, serving 5.1%" in binds


def test_every_reason_of_an_answer_in_dollars(in_dollars: Plan) -> None:
    words = said(in_dollars)
    assert {
        "shape",
        "family",
        "train",
        "serve",
        "saves",
        "flat",
        "binds",
        "interval",
        "bill moves",
    } <= words.keys()
    assert "H100-SXM hours on 8 or more" in words["train"]
    assert "MWh" in words["train"]
    assert "t CO2" in words["train"]
    assert "the first token after" in words["serve"]
    assert "per million tokens" in words["serve"]
    assert "50 requests/s" in words["serve"]
    assert "other laws" in words
    assert "on average" in words["interval"]
    assert words["bill moves"].startswith("price $1.99/h to $6.88/h")


def test_buy_or_train_states_the_gap_and_the_demand(in_dollars: Plan) -> None:
    bought = in_dollars.offer
    assert bought is not None
    assert "llama-2-70b off the shelf" in said(in_dollars)["buy?"]
    assert bought.loss_advantage == pytest.approx(bought.loss_nats - in_dollars.recommended.loss_nats)
    assert bought.own_total == pytest.approx(in_dollars.recommended.lifetime.total_usd, rel=1e-6)
    meeting = bought.own_is_cheaper.serve_tokens
    assert meeting is not None
    each = bought.total / 1e13
    train = in_dollars.recommended.lifetime.train_usd
    assert train is not None
    own_each = (bought.own_total - train) / 1e13
    assert each * meeting == pytest.approx(train + own_each * meeting)
    assert in_dollars.to_json()["against"]["name"] == "llama-2-70b"
    assert plan(serve_tokens=1e12).offer is None


def test_an_offer_is_rounded_as_the_plan_is() -> None:
    """Both losses are of the weights that are served, so that neither looks better than it is."""
    words: dict[str, Any] = {"serve_tokens": 1e13, "budget": "$2M", "serve_precision": "int4"}
    plain = plan(**words, against="llama-2-70b").offer
    rounded = plan(**words, against="llama-2-70b", quantisation_penalty=True)
    bought = rounded.offer
    assert plain is not None
    assert bought is not None
    added = 0.017 * 2e12**0.5251 / (69e9**0.2261 * 4**5.4967)  # Ouyang et al. 2024, figure 6
    assert bought.loss_nats - plain.loss_nats == pytest.approx(added, rel=1e-9)
    assert bought.loss_advantage == pytest.approx(bought.loss_nats - rounded.recommended.loss_nats, rel=1e-9)


def test_a_fleet_says_how_many_hold_a_copy_where_a_token_is_cheapest_on_others(in_dollars: Plan) -> None:
    served = plan(serve_tokens=1e12, budget="$2M", request_rate=3)
    assert served.fleet is not None
    assert served.recommended.throughput is not None
    whole, each = (float(number) for number in served.fleet)
    assert each < float(served.recommended.throughput.accelerators)
    assert f"; 3 requests/s take {whole:g} accelerators, {each:g} a copy" in said(served)["serve"]
    found = served.to_json()["serving"]
    assert found["accelerators_for_request_rate"] % found["accelerators_per_copy_for_request_rate"] == 0
    assert re.search("; 50 requests/s take [0-9,]+ accelerators", said(in_dollars)["serve"])


def test_json_has_serving_training_recipe_family_and_sensitivity(in_dollars: Plan) -> None:
    found = json.loads(json_text(in_dollars.to_json()))
    assert found["serving"]["accelerators_for_request_rate"] >= found["serving"]["accelerators_per_copy"]
    assert set(found["serving"]["usd_per_million_tokens"]) == {"input", "output", "blended"}
    blended = found["serving"]["usd_per_million_tokens"]["blended"]
    assert blended * 1e13 / 1e6 == pytest.approx(found["recommended"]["serve_usd"], rel=1e-6)
    assert found["training"]["energy_mwh"] > 0
    assert found["recipe"]["peak_learning_rate"] > 0
    assert len(found["family"]) == 2
    moved = [row["moved_usd"] for row in found["sensitivity"]]
    assert moved == sorted(moved, reverse=True)
    assert {"price", "demand", "law", "form of the law"} <= {row["input"] for row in found["sensitivity"]}


def test_neighbours_answer_the_same_question(in_dollars: Plan) -> None:
    for near in in_dollars.family:
        if near.excess == near.excess:
            law = in_dollars.request.fit.law
            assert near.loss_nats == pytest.approx(float(law.loss(near.parameters, near.tokens)))
            assert near.excess == pytest.approx(near.loss_nats - in_dollars.recommended.loss_nats)
    matched = plan(serve_tokens=2e12, match="llama-13b")
    for near in matched.family:
        assert near.loss_nats == pytest.approx(matched.recommended.loss_nats)
        cost = 6 * near.parameters * near.tokens + 2 * near.parameters * 2e12
        assert near.excess == pytest.approx(cost / matched.recommended.lifetime.total_flops - 1)


def test_a_demand_that_is_not_known_has_a_table_of_regret() -> None:
    answer = plan(serve_tokens="1e11..1e13", budget="$2M")
    rows, columns = regret_rows(answer)
    assert columns[:3] == ("planned for", "params", "tokens")
    assert [row[0].split(" ")[0] for row in rows] == ["low", "median", "mean", "high"]
    assert [row[3 + index] for index, row in enumerate(rows)] == ["+0%"] * 4
    assert "planned for its mean" in said(answer)["demand"]
    text = shown("--serve-tokens", "1e11..1e13", "--budget", "$2M")
    assert "planned for" in text
    assert max(map(len, text.splitlines())) <= 80


def test_few_data_quantised_weights_and_retraining_are_said() -> None:
    few = said(plan(serve_tokens=1e12, unique_tokens="500B"))
    assert "over 500B unique tokens" in few["epochs"]
    quantised = plan(serve_tokens=1e13, budget="$2M", serve_precision="int4", quantisation_penalty=True)
    assert "nats, counted above" in said(quantised)["quantised"]
    free = plan(serve_tokens=1e13, budget="$2M", serve_precision="int4")
    assert any("--quantisation-penalty" in warning for warning in free.warnings)
    # over-trained models suffer more: counting it moves the best plan to fewer tokens per parameter
    assert quantised.recommended.tokens_per_parameter < free.recommended.tokens_per_parameter
    again = plan(serve_tokens=1e12, months=36, retrain_every=12, budget="$5M")
    assert said(again)["retrains"].startswith("every 12 months: 3 models")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (
            {"budget": "$2M"},
            {"loss", "optimum", "training GPU-hours", "seconds of a step", "serving dollars"},
        ),
        ({"budget": "$2M", "serve_mfu": "0.5/0.2"}, {"serving GPU-hours", "peak learning rate", "CO2"}),
        ({"unique_tokens": "500B"}, {"repeated data"}),
        ({"budget": "$2M", "serve_precision": "int4", "quantisation_penalty": True}, {"quantisation"}),
        ({"budget": "$2M", "months": 36, "discount": "10%/year"}, {"discounting"}),
        ({"flops": "exact"}, {"training FLOPs"}),
    ],
)
def test_every_formula_has_numbers_and_a_source(words: dict[str, Any], names: set[str]) -> None:
    formulas = explain(plan(serve_tokens=1e12, **words))
    assert names <= {formula.name for formula in formulas}
    for formula in formulas:
        assert formula.formula
        assert formula.source
        assert any(letter.isdigit() for letter in formula.numbers)


def test_the_chain_of_formulas_ends_at_the_plans_own_dollars() -> None:
    answer = plan(serve_tokens=1e12, budget="$2M")
    found = {formula.name: formula.numbers for formula in explain(answer)}
    for name, value in (
        ("training dollars", answer.recommended.lifetime.train_usd),
        ("serving dollars", answer.recommended.lifetime.serve_usd),
    ):
        last = found[name].split("= $")[1]
        factor = {"M": 1e6}.get(last[-1], 1.0)
        assert float(last.rstrip("M").replace(",", "")) * factor == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        "--serve-tokens 1e11..1e13 --budget $2M",
        "--requests 1e9 --samples 4 --budget $2M",
        "--serve-tokens 20B/month --months 36 --growth 5%/month --budget $2M",
        "--serve-tokens 1e12 --accelerators 512 --deadline 30d",
        "--serve-tokens 1e12 --budget $2M --serve-precision int4 --quantisation-penalty",
    ],
)
def test_the_command_shown_asks_for_the_same_plan(words: str) -> None:
    first = json.loads(shown(*shlex.split(words), "--json"))
    again = json.loads(shown(*shlex.split(first["command"])[2:], "--json"))
    assert again["recommended"] == first["recommended"]
    assert again["command"] == first["command"]


def test_a_number_of_seconds_is_shown_with_its_unit() -> None:
    asked = plan(serve_tokens=1e12, accelerators=512, deadline=2.592e6, time_per_output_token=0.05)
    first = asked.to_json()
    assert "--deadline 2.592e6s --time-per-output-token 0.05s" in first["command"]
    again = json.loads(shown(*shlex.split(first["command"])[2:], "--json"))
    assert again["recommended"] == first["recommended"]


def test_a_bill_that_nobody_can_pay_is_called_impossible() -> None:
    answer = plan(serve_tokens=1e12, accelerators=512, deadline="30d")
    moved = next(reason.text for reason in reasons(answer) if reason.heading == "bill moves")
    assert "training MFU 43% to 36%: $1.26M to impossible" in moved


def test_sensitivity_is_shown_when_asked_for(in_dollars: Plan) -> None:
    rows = sensitivity_rows(in_dollars)
    assert len(rows) == 2 * len(in_dollars.sensitivity)
    assert rows[0][0] == in_dollars.sensitivity[0].input
    text = shown("--serve-tokens", "1e12", "--sensitivity")
    assert "same quality for" in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_impossible_at_a_changed_input_is_said() -> None:
    answer = plan(serve_tokens=1e12)
    row = answer.sensitivity[0]
    nowhere = row.high._replace(parameters=math.nan, tokens=math.nan, loss_nats=math.nan, usd=math.nan)
    altered = replace(answer, sensitivity=(row._replace(high=nowhere), *answer.sensitivity[1:]))
    assert sensitivity_rows(altered)[1][2:] == ("none", "none", "none", "impossible")
    assert "nan" not in said(altered)["bill moves"]


def test_savings_are_named_in_the_unit_that_they_are_a_share_of() -> None:
    """Where training and serving run on chips of other prices, dollars are another share than hours."""
    words: dict[str, Any] = {"serve_tokens": 1e12, "accelerator": "a100", "serve_accelerator": "l4"}
    answer = plan(**words, budget="1M GPU-hours")
    assert "% of the lifetime GPU-hours, and $" in said(answer)["saves"]
    assert "% of the lifetime FLOPs, and $" in said(plan(serve_tokens=1e12))["saves"]
    assert "% of the lifetime cost ($" in said(plan(serve_tokens=1e12, budget="$2M"))["saves"]


def test_a_cheaper_rival_is_beyond_a_limit_only_where_one_was_asked_for() -> None:
    held = said(plan(serve_tokens=1e9, budget=1e24, max_parameters="1B"))["saves"]
    assert re.search(r"equal loss, \S+% cheaper, is beyond a limit$", held)
    rounded = said(plan(serve_tokens=1e9, budget=7.264e18, vocabulary=128256, kv_heads=4))["saves"]
    assert re.search(r"equal loss, \S+% cheaper, is of no shape that can be built$", rounded)


def test_the_family_beside_a_plan_in_words() -> None:
    loose = plan(serve_tokens=1e12, target_loss=2.0)
    assert "would cost" in said(loose)["family"]
    tight = plan(serve_tokens=1e12, target_loss=2.0, max_parameters="29B", utilisation=0.4, cost_in="usd")
    assert "llama-13b would cost 2.3 times as much" in said(tight)["family"]
    assert "llama-33b would be larger than allowed" in said(tight)["family"]


def test_repeats_are_ascribed_to_who_measured_them() -> None:
    words: dict[str, Any] = {"serve_tokens": 1e12, "unique_tokens": 5e11}
    assert "(Muennighoff 2023)" in said(plan(**words))["epochs"]
    own = replace(published(), repetition=Repetition(tokens_decay=10.0, parameters_decay=5.0))
    assert "(by the law's own runs)" in said(plan(**words, law=own))["epochs"]


def test_models_that_do_not_exist_are_left_out_of_the_table() -> None:
    """No compute-optimal model that costs so much answers within the limit."""
    text = shown(
        *("--serve-tokens", "1e11", "--budget", "$30M", "--accelerator", "a100"),
        *("--time-to-first-token", "100ms"),
    )
    assert "equal loss *" in text
    assert "equal cost *" not in text
    assert " nan" not in text


def test_a_plan_is_shown_in_one_line_where_nothing_draws_markdown() -> None:
    answer, models = plan(serve_tokens=1e12), compare("llama-7b", "llama-13b")
    assert repr(answer) == f"<Plan: {answer.sentence}>"
    assert repr(models) == f"<Comparison: {models.sentence}>"


def test_a_loss_that_other_sizes_reach_for_less_is_not_called_flat_about_the_plans() -> None:
    """Where data end before the budget, the plan's size is in no range of sizes that cost little more."""
    answer = plan(serve_tokens=1e12, unique_tokens=1e10)
    assert answer.optimum.parameters > 1.01 * answer.flatness[-1].high
    assert said(answer)["flat"].startswith("other sizes reach the same loss for less: ")
    assert said(plan(serve_tokens=1e12))["flat"].startswith("same loss: ")


def test_a_form_under_which_nothing_does_has_no_numbers() -> None:
    words: dict[str, Any] = {"match": "chinchilla-70b", "serve_tokens": 1e14, "flops": "exact"}
    words |= {"serve_precision": "int4", "cost_in": "usd", "time_per_output_token": "3ms", "level": 0.5}
    answer = plan(**words, recompute="selective")
    assert said(answer)["other laws"].endswith("skaling none")
    for text in (markdown(answer, explained=True), "".join(text for text in said(answer).values())):
        assert not re.search(r"\bnan\b", text)


def test_answers_of_one_token_have_no_next_one() -> None:
    """It came every 20 seconds."""
    assert ", then one every" in said(plan(serve_tokens=1e12, budget="$1M"))["serve"]
    assert "then one every" not in said(plan(serve_tokens=1e12, budget="$1M", output_tokens=1))["serve"]
