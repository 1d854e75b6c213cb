"""Models side by side: closed forms of what is compared, published models, users' own, buying or training."""

from __future__ import annotations

import re
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_scale import compare, plan
from llama_scale.closed_forms import closed_forms
from llama_scale.errors import InputError
from llama_scale.laws import ScalingLaw, published
from llama_scale.planning.comparison import Costs, crossing
from llama_scale.planning.references import find_model, reference_models

SARDANA_LINE = "E=1.69,A=406.4,B=410.7,alpha=.336,beta=.283"
SARDANA = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)
ISSUE = ("llama-65b", "chinchilla-70b", "gpt-3-175b", "palm-540b")
costs = st.builds(Costs, train=st.floats(0, 1e25, allow_subnormal=False), token=st.floats(1e-3, 1e13))


def test_the_models_of_the_issue() -> None:
    found = compare(*ISSUE, serve_tokens=1e12)
    by_name = {model.name: model for model in found.models}
    assert tuple(by_name) == ISSUE
    assert [model.parameters for model in found.models] == [65.2e9, 70e9, 174.6e9, 540.35e9]
    law = published().law
    for model in found.models:
        assert model.loss_nats == pytest.approx(float(law.loss(model.parameters, model.tokens)))
        assert model.loss_range is not None
        assert model.loss_range.low < model.loss_nats < model.loss_range.high
        assert model.lifetime.train_flops == pytest.approx(6 * model.parameters * model.tokens)
        assert model.lifetime.serve_flops == pytest.approx(2 * model.parameters * 1e12)
        assert model.lifetime.total_usd is not None
    # Chinchilla is near its own law's optimum, the others are under-trained but for LLaMA
    assert by_name["chinchilla-70b"].overtraining == pytest.approx(1.1, abs=0.15)
    assert by_name["llama-65b"].overtraining > 1
    assert by_name["gpt-3-175b"].overtraining < 0.15
    assert by_name["palm-540b"].excess_compute > 1.5
    assert by_name["palm-540b"] in found.frontier
    assert found.sentence.startswith("Serving 1T tokens, palm-540b")


def test_break_evens_are_the_closed_form() -> None:
    found = compare(*ISSUE, serve_tokens=1e12, law=SARDANA_LINE)
    named = {model.name: (model.parameters, model.tokens) for model in found.models}
    assert [(pair.first, pair.second) for pair in found.pairs] == list(combinations(ISSUE, 2))
    for pair in found.pairs:
        (n, d), (m, e) = named[pair.first], named[pair.second]
        meeting = 3 * (n * d - m * e) / (m - n)
        met = pair.crossings["flops"]
        if meeting > 0:
            assert met.serve_tokens == pytest.approx(meeting)
            assert met.verdict == ("from" if n < m else "up to")
        else:
            assert met == (("always" if n < m else "never"), None)
        assert pair.loss_advantage == pytest.approx(float(SARDANA.loss(m, e) - SARDANA.loss(n, d)))


def test_llama_13b_against_the_compute_optimal_model_of_its_loss() -> None:
    model = compare("llama-13b", law=SARDANA_LINE).models[0]
    loss = float(SARDANA.loss(13e9, 1e12))
    rival = plan(serve_tokens=0, target_loss=loss, law=SARDANA_LINE).optimum
    assert model.rival.parameters == pytest.approx(rival.parameters)
    assert model.rival.tokens == pytest.approx(rival.tokens)
    excess = 6 * (13e9 * 1e12 - rival.parameters * rival.tokens)
    assert model.excess_compute == pytest.approx(13e9 * 1e12 / (rival.parameters * rival.tokens))
    assert model.against_rival["flops"].verdict == "from"
    assert model.against_rival["flops"].serve_tokens == pytest.approx(
        excess / (2 * (rival.parameters - 13e9))
    )


def test_dollars_of_serving_are_told_where_only_training_has_no_price() -> None:
    words: Any = {
        "accelerator": "t4",
        "serve_accelerator": "h200",
        "cost_in": "gpu-hours",
        "serve_tokens": 1e12,
    }
    bill = compare("llama-13b", **words).models[0].lifetime
    assert bill.serve_usd is not None and bill.serve_usd > 0
    assert bill.train_usd is bill.total_usd is None


@settings(max_examples=200, deadline=None)
@given(ours=costs, theirs=costs, demand=st.floats(1, 1e18))
def test_a_crossing_says_who_is_cheaper_at_every_demand(ours: Costs, theirs: Costs, demand: float) -> None:
    met, mine, other = crossing(ours, theirs), ours.total(demand), theirs.total(demand)
    if abs(mine - other) <= 1e-9 * max(mine, other):
        return
    cheaper = {
        "always": True,
        "never": False,
        "equal": False,
        "from": demand > (met.serve_tokens or 0),
        "up to": demand < (met.serve_tokens or 0),
    }
    assert cheaper[met.verdict] == (mine < other)


def test_buying_costs_no_training_and_loses_to_an_own_model_from_its_break_even_on() -> None:
    found = compare(buy="llama-2-70b", serve_tokens=1e12, law=SARDANA_LINE)
    model, offer = found.models[0], found.buy_or_train[0]
    assert model.lifetime.train_flops == 0
    assert model.costs["flops"].train == 0
    assert model.excess_compute > 1
    assert offer.break_even is not None
    for factor, trains in ((0.98, False), (1.02, True)):
        demand = offer.break_even * factor
        own = plan(serve_tokens=demand, target_loss=model.loss_nats, law=SARDANA_LINE).optimum.lifetime
        assert (own.total_flops < 2 * model.parameters * demand) == trains
    assert "llama-2-70b" in found.sentence


def test_a_users_own_model(tmp_path: Path) -> None:
    by_count = tmp_path / "mine.toml"
    by_count.write_text('parameters = "7B"\ntokens = "2T"\n')
    by_shape = tmp_path / "shaped.toml"
    by_shape.write_text(
        'name = "our own"\ntokens = 1e12\ncontext = 4096\n[shape]\nlayers = 32\nwidth = 4096\n'
    )
    found = compare(str(by_count), str(by_shape), "llama-7b")
    assert [model.name for model in found.models] == ["mine", "our own", "llama-7b"]
    assert [model.parameters for model in found.models] == [7e9, 6738415616.0, 6.7e9]
    assert [model.assumed_shape for model in found.models] == [True, False, False]
    assert "no shape was given for mine" in " ".join(found.warnings)


def test_every_problem_of_a_file_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('parametres = "7B"\ntokens = "many"\n[shape]\nlayers = 2.5\n')
    with pytest.raises(InputError) as refused:
        compare(str(bad))
    for part in ("parametres", "'parameters'", "tokens", "shape.layers", "shape.width is missing"):
        assert part in refused.value.message
    for text, message in (
        ('tokens = "7"\nparameters = "7"\n', "parameters = 7 is out of all proportion"),
        ('tokens = "2T"\nparameters = "7B"\nname = "\\u001b[31mred"\n', "cannot be shown"),
        ('tokens = "2T"\nparameters = "70B"\n[shape]\nlayers = 32\nwidth = 4096\n', "has 6.74B"),
    ):
        bad.write_text(text)
        with pytest.raises(InputError, match=message):
            compare(str(bad))
    bad.write_text("tokens = 1e12\n")
    with pytest.raises(InputError, match="neither parameters nor a shape"):
        compare(str(bad))


@pytest.mark.parametrize(
    ("models", "words", "error", "hint"),
    [
        ((), {}, "which models", "llama-65b"),
        (("llama-14b",), {}, "unknown model 'llama-14b'", "llama-13b"),
        (("missing.toml",), {}, "no file missing.toml", ""),
        (("llama-7b",), {"budget": 1e24}, "no budget", "plan"),
        (("llama-7b",), {"unique_tokens": 1e9}, "no unique tokens", "plan"),
        (("llama-7b",), {"serve_tokens": "$3"}, "dollars", ""),
    ],
)
def test_what_cannot_be_compared(models: tuple[str, ...], words: dict, error: str, hint: str) -> None:
    with pytest.raises(InputError) as refused:
        compare(*models, **words)
    assert error in refused.value.message
    assert hint in refused.value.hint


def test_the_catalogue_is_counted_exactly() -> None:
    exact = {
        "llama-2-70b": 68_976_648_192,
        "llama-3.1-8b": 8_030_261_248,
        "llama-3.1-405b": 405_853_388_800,
        "qwen-2.5-7b": 7_615_616_512,
        "bloom-176b": 176_247_271_424,
    }
    for name, count in exact.items():
        assert find_model(name).total == count
    for model in reference_models():
        assert model.parameters == pytest.approx(model.total, rel=0.01), model.name
        assert model.heads % model.kv_heads == 0
        assert model.open or not model.name.startswith(("llama", "qwen"))


def test_counts_agree_with_the_closed_forms_of_the_families() -> None:
    agreed = 0
    for shape in closed_forms():
        model = find_model(shape.name)
        assert model.total == shape.parameters.total, shape.name
        for convention in ("matmul", "non_embedding"):
            assert model.count(convention) == pytest.approx(shape.parameters.by(convention), rel=1e-6)
        agreed += 1
    assert agreed >= 20


def test_names_are_read_loosely_and_named_once() -> None:
    assert [model.name for model in compare("GPT 3", "gpt-3", "PaLM").models] == ["gpt-3-175b", "palm-540b"]


def test_exact_flops_count_each_models_own_products() -> None:
    model = compare("palm-540b", flops="exact").models[0]
    named = find_model("palm-540b")
    a_token = 3 * named.forward_flops_per_token(2048)
    assert model.lifetime.train_flops == pytest.approx(a_token * named.tokens)
    assert a_token == pytest.approx(6 * 540.36e9 + 12 * 118 * 48 * 256 * 2048, rel=1e-4)


def test_a_notebook_sees_the_answer_and_the_tables() -> None:
    shown = compare(*ISSUE)._repr_markdown_()
    assert shown.startswith("**Serving 1T tokens")
    assert shown.count("\n| ") >= 12
    assert "as if" in shown or "its own data" in shown
    assert "llama-scale compare llama-65b" in shown


@pytest.mark.parametrize("flops", ["6nd", "exact"])
def test_a_plans_own_model_costs_what_the_plan_says(flops: str, tmp_path: Path) -> None:
    answer = plan(serve_tokens=1e13, budget="$3M", flops=flops)
    shape, mine = answer.shape, tmp_path / "mine.toml"
    names = ("layers", "width", "heads", "kv_heads", "head_size", "hidden")
    lines = "".join(f"{name} = {getattr(shape, name)}\n" for name in names)
    mine.write_text(f"tokens = {answer.recommended.tokens!r}\n[shape]\n{lines}")
    model = compare(str(mine), serve_tokens=1e13, flops=flops).models[0]
    assert asdict(model.lifetime) == pytest.approx(asdict(answer.recommended.lifetime), rel=1e-9)
    assert model.loss_nats == pytest.approx(answer.recommended.loss_nats, rel=1e-12)


def test_what_cannot_be_served_is_never_cheaper_and_said() -> None:
    found = compare("palm-540b", "gpt-3", accelerator="l4", cost_in="usd")
    palm, gpt = found.models
    assert palm.lifetime.serve_usd is None
    assert gpt.lifetime.serve_usd is not None
    assert found.pairs[0].crossings["usd"] == ("never", None)
    assert found.pairs[0].crossings["flops"].verdict == "never"
    assert found.frontier == (gpt,)
    assert any(warning.startswith("palm-540b in 16 bits takes") for warning in found.warnings)
    assert crossing(Costs(1.0, 1.0), Costs(0.0, float("nan"))) == ("always", None)


def test_what_is_too_slow_is_not_said_to_be_too_large() -> None:
    """More accelerators were advised, which do not make it faster."""
    models = "llama-3.1-405b", "gopher-280b"
    assert not any("cannot meet" in warning for warning in compare(*models, cost_in="usd").warnings)
    slow = compare(*models, cost_in="usd", time_per_output_token="30ms")
    assert slow.sentence.endswith("none of these 2 can be served within the limits.")
    said = next(warning for warning in slow.warnings if warning.startswith("gopher-280b cannot meet"))
    enough = said.split("--time-per-output-token ")[1].split(",")[0]
    slower = compare(*models, cost_in="usd", time_per_output_token=enough)
    assert slower.models[1].lifetime.serve_usd is not None


def test_one_model_against_its_equal_is_said_in_a_sentence() -> None:
    equal = "the compute-optimal model of that loss"
    for words, expected in (
        ({"cost_in": "usd", "serve_accelerators": 1}, f"; neither it nor {equal} can be served so."),
        ({}, f", and is never cheaper than {equal}; "),
        ({"serve_tokens": 0}, f", and is never cheaper than {equal}; "),
    ):
        asked: Any = words
        assert expected in compare("palm-540b", **asked).sentence
    assert re.search(
        rf"and is cheaper than {equal} from \d+B served tokens on; ", compare("llama-7b").sentence
    )


def test_names_with_signs_of_a_table_stay_in_their_cell(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "a|b,c*"\ntokens = "2T"\nparameters = "7B"\n')
    shown = compare(str(mine), "llama-7b")._repr_markdown_()
    row = next(line for line in shown.splitlines() if "a\\|b,c\\*" in line)
    assert row.replace("\\|", "").count("|") == 10


def test_in_dollars_each_model_is_served_by_the_roofline_of_its_own_shape() -> None:
    wide, grouped = compare("llama-65b", "llama-2-70b", cost_in="usd", serve_tokens=1e12).models
    assert wide.lifetime.serve_usd is not None
    assert grouped.lifetime.serve_usd is not None
    assert grouped.lifetime.serve_usd < wide.lifetime.serve_usd  # 8 KV heads against 64
    assert grouped.lifetime.serve_flops > wide.lifetime.serve_flops


def test_a_models_compute_optimal_equal_shares_kv_heads_as_it_does() -> None:
    names = ("llama-7b", "llama-2-70b", "palm-540b")
    found = compare(*names, cost_in="usd", serve_tokens=1e12)
    assert [model.rival.kv_heads for model in found.models] == [None, 8, 2]  # PaLM's one head has 256 numbers
    for model, heads in zip(found.models, (128, 8, 2), strict=True):
        asked = compare(model.name, cost_in="usd", serve_tokens=1e12, kv_heads=heads).models[0]
        assert asked.against_rival == model.against_rival
    shared = compare("llama-7b", cost_in="usd", kv_heads=8).models[0]
    assert shared.rival.costs["usd"].token < 0.7 * found.models[0].rival.costs["usd"].token
    assert shared.rival.parameters == found.models[0].rival.parameters


def test_a_model_of_ones_own_has_the_kv_heads_of_a_plan() -> None:
    words: dict[str, Any] = {"buy": "llama-7b", "cost_in": "usd", "serve_tokens": 1e13}
    found = compare(**words)
    assert found.models[0].rival.kv_heads is None
    assert found.buy_or_train == compare(**words, kv_heads=8).buy_or_train
    assert found.buy_or_train[0].total < compare(**words, kv_heads=128).buy_or_train[0].total
    assert any(item.name == "KV heads" for item in found.assumptions)


def test_over_trained_models_suffer_more_when_quantised() -> None:
    names = ("llama-3.1-8b", "llama-2-70b")
    plain = compare(*names, serve_precision="int4").models
    rounded = compare(*names, serve_precision="int4", quantisation_penalty=True).models
    added = [after.loss_nats - before.loss_nats for before, after in zip(plain, rounded, strict=True)]
    assert added[0] > 2 * added[1] > 0
    for model in rounded:
        assert model.loss_range is not None
        assert model.loss_range.low < model.loss_nats < model.loss_range.high


def test_how_far_models_lie_beyond_the_runs_is_said_of_the_farthest(tmp_path: Path) -> None:
    runs = published().support
    assert runs.train_flops is not None
    dearest = runs.train_flops.high
    known = compare("llama-7b", "llama-3.1-8b")
    times = known.models[1].parameters * 6 * 15e12 / dearest
    assert 10 < times < 100
    assert (
        f"2 of 2 lie beyond the runs behind the law, llama-3.1-8b by {times:.1f} times: such losses are"
        " extrapolated"
    ) in known.warnings
    mine = tmp_path / "mine.toml"
    mine.write_text('parameters = "1T"\ntokens = "100T"\n')
    assert 6 * 1e12 * 1e14 / dearest > 1e4  # which no law was ever shown to bridge
    said = next(text for text in compare(str(mine)).warnings if "beyond the runs" in text)
    assert said.startswith("mine lies beyond the runs behind the law by ")
    assert said.endswith(": such losses are examples: no law was shown to hold so far out")
    unknown = compare("llama-3.1-8b", law=SARDANA_LINE)  # nobody says which runs are behind it
    assert not any("beyond the runs" in text for text in unknown.warnings)


def test_names_in_lists_and_demands_in_requests() -> None:
    found = compare(["llama-7b", "gpt-3"], buy=["llama-2-70b"], requests=1e9, cost_in="usd")
    assert [model.name for model in found.models] == ["llama-7b", "gpt-3-175b", "llama-2-70b"]
    assert found.request.economics.demand.serve_tokens == 1.25e12
    assert not found.default_demand


def test_a_model_that_cannot_be_served_is_not_said_to_lose() -> None:
    words: dict[str, Any] = {"serve_accelerator": "l4", "serve_accelerators": 1, "cost_in": "gpu-hours"}
    found = compare("llama-7b", "palm-540b", **words)
    assert found.sentence.endswith("of the 1 that can be served.")
    none = compare("gpt-3-175b", "palm-540b", **words)
    assert "none of these 2 can be served" in none.sentence
    assert none.pairs[0].crossings["gpu_hours"].verdict == "neither"
    assert found.pairs[0].crossings["gpu_hours"].verdict == "always"
