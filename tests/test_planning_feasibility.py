"""Hints of refusals lead to an answer when they are followed, word for word."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from llama_scale.errors import InfeasibleError, InputError
from llama_scale.planning import Plan, plan
from llama_scale.planning.buildable import settle
from llama_scale.planning.proportions import is_ill_shaped
from llama_scale.planning.request import PlanOptions, read_request
from llama_scale.planning.shapes import with_chosen_kv_heads

WAY = re.compile(r"--([a-z-]+) (?:'([^']+)'|([\d.]+))")
LAWS = ("besiroglu-2024", "muennighoff-2023", "E=0.5,A=5,B=5,alpha=.1,beta=.1,k=1.2")


def ask(words: dict[str, Any]) -> Plan:
    """`plan` with words that a test makes up."""
    return plan(**words)


def ways(hint: str) -> Iterator[dict[str, Any]]:
    """The ways that a hint offers: options that it joins by `or`, with their values."""
    for part in re.split(r",? or (?=--)|, such as |, or ", hint):
        found = {
            name.replace("-", "_"): quoted or bare
            for name, quoted, bare in WAY.findall(part.split(" instead of ")[0])
        }
        if found:
            yield found | ({"match": None} if "target_loss" in found else {})


def refusal(words: dict[str, Any]) -> InfeasibleError | None:
    """Why a question has no answer; None where it has one or cannot be meant."""
    try:
        ask(words)
    except InfeasibleError as error:
        return error
    except InputError:
        return None
    return None


def drawn(rng: random.Random) -> dict[str, Any]:
    """A question with a few conditions, each anywhere on its scale."""
    amount = 10 ** rng.uniform(0, 8)
    budget = rng.choice([10 ** rng.uniform(12, 26), f"${amount:.6g}", f"{amount:.6g} GPU-hours"])
    choices: list[dict[str, Any]] = [
        {"budget": budget},
        {"target_loss": rng.choice([rng.uniform(1.6, 2.2), rng.uniform(2, 10)])},
        {"match": rng.choice(["llama-7b", "gpt-3-small", "palm-540b"])},
        {"accelerators": int(10 ** rng.uniform(0, 5)), "deadline": f"{int(10 ** rng.uniform(0, 2.6))}d"},
        {"max_parameters": 10 ** rng.uniform(5, 11)},
        {"unique_tokens": 10 ** rng.uniform(5, 13)},
        {"time_per_output_token": f"{rng.uniform(1, 60):.3g}ms"},
        {"serve_accelerators": rng.choice([1, 2]), "serve_accelerator": rng.choice(["l4", "h200"])},
        {"flops": "exact"},
        {"law": rng.choice(LAWS)},
    ]
    words: dict[str, Any] = {"serve_tokens": 10 ** rng.uniform(9, 15)}
    for chosen in rng.sample(choices, rng.randint(1, 4)):
        words |= chosen
    return words


@pytest.mark.parametrize("seed", range(6))
def test_every_way_that_a_hint_offers_leads_to_an_answer(seed: int) -> None:
    rng, followed = random.Random(seed), 0
    while followed < 4:
        words = drawn(rng)
        error = refusal(words)
        for way in ways(error.hint) if error else ():
            assert ask({**words, **way}).recommended.parameters > 0, (words, way)
            followed += 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (
            {"serve_tokens": 1e12, "match": "llama-65b", "budget": "$100K", "max_parameters": "7B"},
            ["budget", "max_parameters", "target_loss"],
        ),
        (
            {"serve_tokens": 1e12, "target_loss": 1.9, "budget": "$9", "accelerators": 512, "deadline": "9d"},
            ["budget", "deadline"],
        ),
        (
            {"serve_tokens": 1e12, "target_loss": 4.5, "law": "E=0.5,A=5,B=5,alpha=.1,beta=.1,k=1.2"},
            ["target_loss"],
        ),
        ({"serve_tokens": 1e12, "target_loss": 1.7, "budget": "$9"}, ["budget", "target_loss"]),
        ({"serve_tokens": 2.8e11, "budget": 5.7e15, "unique_tokens": "5T"}, ["budget"]),
        ({"serve_tokens": 1e12, "budget": 1e12}, ["budget"]),
        ({"serve_tokens": 1e12, "unique_tokens": 1e4}, ["unique_tokens"]),
        (
            {
                "requests": 2.26e11, "match": "llama-3.1-405b", "law": "muennighoff-2023",
                "accelerator": "h100", "serve_accelerator": "h200", "utilisation": 0.177, "price": 3,
                "serve_price": 3, "budget": "$8.65403e+06",
            },
            ["budget", "target_loss"],
        ),
    ],
)  # fmt: skip
def test_what_a_hint_offers_minds_every_condition(words: dict[str, Any], offered: list[str]) -> None:
    error = refusal(words)
    assert error is not None
    found = list(ways(error.hint))
    assert {name for way in found for name in way} - {"match"} == set(offered), error.hint
    for way in found:
        assert ask({**words, **way}).recommended.parameters > 0, way


@pytest.mark.parametrize(
    "words",
    [
        {"serve_tokens": 4e10, "match": "gpt-3-175b", "flops": "exact", "time_per_output_token": "0.511ms",
         "unique_tokens": 9.3e11, "serve_accelerator": "a10g"},
        {"serve_tokens": 4.9e11, "match": "llama-7b", "budget": "$1811"},
        {"serve_tokens": 8.4e12, "match": "llama-7b", "max_parameters": "1.5B", "flops": "exact"},
    ],
)  # fmt: skip
def test_the_loss_that_is_offered_is_the_lowest_that_has_an_answer(words: dict[str, Any]) -> None:
    """It was up to half a nat higher. Below it are at most shapes that are no LLaMA's."""
    error = refusal(words)
    assert error is not None
    offered = next(way for way in ways(error.hint) if "target_loss" in way)
    assert ask({**words, **offered}).recommended.parameters > 0
    lower = {**words, **offered, "target_loss": float(offered["target_loss"]) - 0.005}
    assert refusal(lower) is not None or is_ill_shaped(ask(lower).shape)


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (
            {"serve_tokens": 4.6e11, "target_loss": 2.0, "flops": "exact", "time_per_output_token": "1.61ms",
             "max_parameters": "13.2M"},
            "time_per_output_token",
        ),
        (
            {"serve_tokens": 1.5e13, "match": "llama-65b", "kv_heads": 8, "max_parameters": "671M",
             "time_to_first_token": "58.1ms", "serve_accelerator": "a10g"},
            "time_to_first_token",
        ),
    ],
)  # fmt: skip
def test_conditions_that_move_together_go_no_further_than_they_must(
    words: dict[str, Any], moved: str
) -> None:
    """Each but one was moved up to twice as far."""
    error = refusal(words)
    assert error is not None
    together = next(way for way in ways(error.hint) if len(way) == 2 and moved in way)
    assert ask({**words, **together}).recommended.parameters > 0
    a_fifth_less = f"{0.8 * float(together[moved].removesuffix('ms')):g}ms"
    assert refusal({**words, **together, moved: a_fifth_less}) is not None


def test_what_a_target_costs_is_that_of_the_cheapest_heads() -> None:
    """With heads of their own, which were priced, models at this latency cost a fifth more."""
    words = {"serve_tokens": 7.5e10, "target_loss": 2.234, "time_to_first_token": "7.42ms"}
    error = refusal({**words, "budget": "$2000"})
    assert error is not None
    cheapest = ask({**words, "cost_in": "usd"}).recommended.lifetime.total_usd
    assert cheapest is not None
    needed = next(way["budget"] for way in ways(error.hint) if "budget" in way)
    assert float(needed.strip("$").replace(",", "")) == pytest.approx(cheapest, rel=0.02)


def test_few_data_are_not_blamed_for_a_budget_that_buys_nothing() -> None:
    error = refusal({"serve_tokens": 2.8e11, "budget": 5.7e15, "unique_tokens": "5T"})
    assert error is not None
    assert "unique" not in error.message
    starved = refusal({"serve_tokens": 1e12, "unique_tokens": 1e5})
    assert starved is not None
    assert starved.message.startswith("100K unique tokens are too few")
    assert [way.keys() for way in ways(starved.hint)] == [{"unique_tokens"}]


def test_what_a_size_would_need_is_the_least_where_no_shape_answers() -> None:
    """No LLaMA of about these sizes has sixteen heads to share: what the continuum needs is not enough."""
    error = refusal({
        "serve_tokens": 4.34e6, "target_loss": 3.648, "max_parameters": 319e3, "input_tokens": 83400,
        "kv_heads": 16,
    })  # fmt: skip
    assert error is not None
    assert "would have to be at least 10M" in error.message
    assert error.hint == "ask for less, or loosen more than one condition"


def test_what_no_option_takes_is_offered_by_none() -> None:
    """The GPU-hours that it takes are more than can be asked for."""
    error = refusal({"serve_tokens": 1e15, "target_loss": 1.8175, "budget": "1e13 GPU-hours"})
    assert error is not None
    assert "T GPU-hours'" not in error.hint


def test_a_refusal_is_of_the_question_as_it_was_asked_not_of_heads_that_we_chose() -> None:
    question = {"serve_tokens": 1e12, "target_loss": 1.9, "cost_in": "usd", "time_per_output_token": "1ms"}
    request = read_request(cast(PlanOptions, question))
    shared, choice = with_chosen_kv_heads(request)
    assert choice is not None
    refused, none, _ = settle(request)
    assert (shared.kv_heads, refused.kv_heads, none) == (8, None, None)
    ours, theirs = refusal(question), refusal({**question, "kv_heads": 8})
    assert ours is not None
    assert theirs is not None
    assert ours.message != theirs.message
