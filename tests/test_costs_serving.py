from __future__ import annotations

import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_scale.architecture import LLAMA_7B, LLAMA_13B, LLAMA_65B, llama
from llama_scale.costs.constants import CONSTANTS, shipped_calibration
from llama_scale.costs.formats import WEIGHT_FORMATS, serve_in, weight_bits
from llama_scale.costs.roofline import RESERVED_BYTES, USABLE_MEMORY, ServedShape, Traffic, served_shape
from llama_scale.costs.serving import Deployment, accelerators_for, serve
from llama_scale.costs.serving_formulas import explain_serving, token_prices
from llama_scale.costs.serving_limits import attainable, why_not
from llama_scale.errors import InfeasibleError, InputError
from llama_scale.hardware import accelerator

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPE_7B, SHAPE_65B = served_shape(LLAMA_7B), served_shape(LLAMA_65B)


def deployment(
    chip: str = "H100", weights: str = "bf16", price: float | None = None, **others: float
) -> Deployment:
    served = serve_in(chip, weights, price_usd_per_hour=price)
    words = {"kv_bits": 16.0, "input_tokens": 1000.0, "output_tokens": 250.0, **others}
    return Deployment(rental=served.rental, weight_bits=served.weight_bits, **words)  # pyright: ignore[reportArgumentType]


def faster(asked: Deployment, **factors: float) -> Deployment:
    """The same on an accelerator whose figures are multiplied."""
    chip = asked.rental.accelerator
    peaks = {name: rate * factors.get("peak", 1) for name, rate in chip.peak_flops_per_second.items()}
    other = replace(
        chip,
        peak_flops_per_second=peaks,
        memory_bytes=chip.memory_bytes * factors.get("memory", 1),
        bandwidth_bytes_per_second=chip.bandwidth_bytes_per_second * factors.get("bandwidth", 1),
        interconnect_bytes_per_second=(chip.interconnect_bytes_per_second or 0) * factors.get("link", 1),
    )
    return replace(asked, rental=replace(asked.rental, accelerator=other))


def cost(asked: Deployment, shape: ServedShape = SHAPE_65B) -> float:
    return float(serve(asked, shape).accelerator_seconds_per_token)


@pytest.mark.parametrize("figure", ["peak", "memory", "bandwidth", "link"])
@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_better_hardware_is_cheaper(figure: str, weights: str) -> None:
    asked = deployment(weights=weights)
    costs = [cost(faster(asked, **{figure: factor})) for factor in (1, 1.5, 2, 4)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


def test_a_single_answer_is_bound_by_bandwidth() -> None:
    alone = deployment(largest_batch=1, most_accelerators=1, input_tokens=1)
    seconds = float(serve(alone, SHAPE_7B).time_per_output_token_seconds)
    chip, fitted = alone.rental.accelerator, alone.calibration
    reading = LLAMA_7B.matrix_weights * 2 / (chip.bandwidth_bytes_per_second * fitted.bandwidth_share)
    overhead = LLAMA_7B.layers * fitted.layer_seconds
    assert seconds == pytest.approx(reading + overhead, rel=0.03)
    twice = float(serve(faster(alone, peak=2), SHAPE_7B).time_per_output_token_seconds)
    assert twice == pytest.approx(seconds, rel=0.02)


def test_memory_holds_weights_and_caches_exactly() -> None:
    asked = deployment(most_accelerators=1)
    found = serve(asked, SHAPE_7B)
    assert str(found.limited_by) == "memory"
    room = USABLE_MEMORY * asked.rental.accelerator.memory_bytes - RESERVED_BYTES
    held = LLAMA_7B.parameters.total * 2 + float(found.batch) * 1125 * LLAMA_7B.kv_cache_bytes_per_token(2)
    assert held == pytest.approx(room, rel=1e-9)


def test_what_costs_more_and_what_costs_less() -> None:
    usual = deployment()
    assert cost(replace(usual, utilisation=0.5)) == pytest.approx(2 * cost(usual))
    assert float(serve(replace(usual, utilisation=0.5), SHAPE_65B).output_tokens_per_second) == pytest.approx(
        float(serve(usual, SHAPE_65B).output_tokens_per_second)
    )
    per_request = [cost(replace(usual, input_tokens=n)) * (n + 250) for n in (100.0, 1000.0, 4000.0, 16000.0)]
    assert per_request == sorted(per_request)
    assert cost(replace(usual, weight_bits=8)) < cost(usual)
    assert cost(replace(usual, kv_bits=8)) < cost(usual)
    assert cost(usual, SHAPE_7B) < cost(usual, served_shape(LLAMA_13B)) < cost(usual, SHAPE_65B)


def test_fewer_kv_heads_serve_more_answers() -> None:
    grouped = served_shape(replace(LLAMA_65B, kv_heads=8))
    many, few = serve(deployment(), SHAPE_65B), serve(deployment(), grouped)
    assert few.batch / few.accelerators > 5 * many.batch / many.accelerators
    assert float(few.output_tokens_per_second) > float(many.output_tokens_per_second)


def test_formats_halve_bytes_and_compute_where_the_chip_can() -> None:
    assert [weight_bits(name) for name in WEIGHT_FORMATS] == [16, 16, 8, 8, 4.5, 4.5]
    assert serve_in("A100", "fp8").rental.precision == "bf16"
    assert serve_in("A100", "int8").rental.precision == "int8"
    assert serve_in("H100", "int4").rental.precision == "bf16"
    assert serve_in("H100", "fp4").rental.precision == "bf16"
    assert serve_in("B200", "fp4").rental.precision == "fp4"
    assert serve_in("B300", "int8").rental.precision == "bf16"  # its int8 is slower than its bf16
    assert serve_in("V100", "int8").rental.precision == "fp16"
    with pytest.raises(InputError, match="unknown weight format 'int5'") as refused:
        serve_in("H100", "int5")
    assert "int4" in refused.value.hint


@pytest.mark.parametrize("limit", [0.02, 0.03, 0.05])
def test_a_limit_on_the_next_token_is_met_exactly(limit: float) -> None:
    found = serve(deployment(time_per_output_token_seconds=limit, most_accelerators=1), SHAPE_7B)
    if str(found.limited_by) == "memory":
        assert float(found.time_per_output_token_seconds) < limit
    else:
        assert float(found.time_per_output_token_seconds) == pytest.approx(limit, rel=1e-12)


def test_a_limit_on_the_first_token_is_met_exactly() -> None:
    free = serve(deployment(most_accelerators=1), SHAPE_7B)
    limit = 0.9 * float(free.time_to_first_token_seconds)
    found = serve(deployment(most_accelerators=1, time_to_first_token_seconds=limit), SHAPE_7B)
    assert str(found.limited_by) == "time to first token"
    assert float(found.time_to_first_token_seconds) == pytest.approx(limit, rel=1e-12)
    assert float(found.accelerator_seconds_per_token) > float(free.accelerator_seconds_per_token)


def test_what_cannot_be_served_is_nan_with_the_reason() -> None:
    small = deployment(most_accelerators=1)
    found = serve(small, SHAPE_65B)
    assert all(math.isnan(float(value)) for value in found[:-1])
    assert str(found.limited_by) == "memory"
    assert np.isnan(accelerators_for(small, SHAPE_65B, 1.0)).all()
    error = why_not(small, SHAPE_65B, "llama-65b")
    assert error is not None
    assert "1.76 times too little" in error.message
    assert why_not(deployment(), SHAPE_65B) is None
    with pytest.raises(InfeasibleError, match="takes 125 GiB"):
        explain_serving(small, SHAPE_65B)


@pytest.mark.parametrize("name", ["time_per_output_token_seconds", "time_to_first_token_seconds"])
def test_the_nearest_limit_that_can_be_met_is_true(name: str) -> None:
    usual = deployment()
    least = float(getattr(attainable(usual, SHAPE_65B), name))
    tight = replace(usual, **{name: least * 0.999})
    assert math.isnan(float(serve(tight, SHAPE_65B).batch))
    error = why_not(tight, SHAPE_65B)
    assert error is not None
    assert "1 times as long" in error.message
    loose = serve(replace(usual, **{name: least * 1.001}), SHAPE_65B)
    assert float(loose.batch) >= 1
    assert float(getattr(loose, name)) <= least * 1.001 * (1 + 1e-12)


def test_deployments_are_alike_by_what_they_say() -> None:
    """So are the questions that hold them, and what is worked out of one is that of its like."""
    one, like = deployment(largest_batch=64), deployment(largest_batch=64)
    assert (one, hash(one)) == (like, hash(like))
    assert one != deployment(largest_batch=32)
    assert one != faster(one, memory=2)
    assert pickle.loads(pickle.dumps(one)) == one


def test_requests_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="output_tokens is 0"):
        deployment(output_tokens=0)
    with pytest.raises(InputError, match="fewer than 0"):
        deployment(input_tokens=-1)
    with pytest.raises(InputError, match="out of range"):
        deployment(most_accelerators=0)


def test_more_than_a_node_holds_what_a_node_cannot() -> None:
    shape = served_shape(llama(126, 16384, kv_heads=8, hidden=53248, vocabulary=128256))
    assert math.isnan(float(serve(deployment(), shape).batch))
    found = serve(deployment(most_accelerators=32), shape)
    assert float(found.accelerators) in (16, 32)
    assert float(found.batch) > 1
    assert float(found.accelerator_seconds_per_token) > cost(deployment())


def test_two_nodes_serve_as_the_formulas_say() -> None:
    """Llama 3.1 405B on two nodes, four answers to a prompt: the steps of docs/serving.md, written out."""
    shape = served_shape(llama(126, 16384, heads=128, kv_heads=8, hidden=53248, vocabulary=128256))
    asked = deployment(most_accelerators=16, samples=4, utilisation=0.5, largest_batch=1e9)
    chip, fitted, found = asked.rental.accelerator, asked.calibration, serve(asked, shape)
    weights, cache, held = 2 * shape.weights, 2 * 126 * 8 * 128 * 2, 1000 + 250 / 2
    assert weights > 8 * (USABLE_MEMORY * chip.memory_bytes - RESERVED_BYTES)  # one node is too small
    room = 16 * (USABLE_MEMORY * chip.memory_bytes - RESERVED_BYTES) - weights
    batch = room / (cache * (1000 / 4 + 250 / 2))
    bandwidth, peak = 8 * chip.bandwidth_bytes_per_second * fitted.bandwidth_share, 8 * 989e12
    attending = 4 * 126 * 128 * 128 / peak
    link = (chip.interconnect_bytes_per_second or 0) * fitted.link_share
    exchange = 8 * 126 * 128 * 128 * 7 / 8 / link
    products = 2 * shape.active_weights / peak
    prompt = 1.1 * 1000 * ((products + attending * 500) / fitted.prefill_mfu + exchange)
    fixed = 1.1 * (2 * shape.active_weights / bandwidth + 126 * fitted.layer_seconds)
    each = held * cache / bandwidth + (products + attending * held) / fitted.decode_mfu + exchange
    each = 1.1 * (each + 126 * fitted.sequence_seconds)
    step = fixed + batch / 2 * each  # half of the answers are in the other stage
    answer = prompt / 4 + 250 * step / (batch / 2)  # of 8 accelerators
    assert float(found.accelerators) == 16
    assert float(found.batch) == pytest.approx(batch)
    assert float(found.output_tokens_per_second) == pytest.approx(250 / (8 * answer))
    assert float(found.accelerator_seconds_per_token) == pytest.approx(8 * answer / 0.5 / (250 + 250))
    assert float(found.time_to_first_token_seconds) == pytest.approx(step + prompt)
    waiting = (batch / 2 - 1) * prompt / (4 * 250)  # for prompts that are read meanwhile
    assert float(found.time_per_output_token_seconds) == pytest.approx(step + waiting)
    read = float(found.accelerator_seconds_per_input_token) * 1000 / 4
    assert read == pytest.approx(8 * prompt / 4 / 0.5)
    written = float(found.accelerator_seconds_per_output_token) * 250
    assert read + written == pytest.approx(8 * answer / 0.5)
    assert str(found.limited_by) == "memory"


def test_an_accelerator_without_links_serves_alone() -> None:
    chip = accelerator("H100")
    asked = deployment()
    alone = replace(
        asked, rental=replace(asked.rental, accelerator=replace(chip, interconnect_bytes_per_second=None))
    )
    assert alone.groups == (1,)
    assert float(serve(alone, SHAPE_7B).accelerators) == 1


def test_tokens_attend_to_what_is_before_them() -> None:
    """Four answers of 100 to a prompt of 1,000: its tokens see 500 on average, theirs 1,050."""
    assert Traffic(1000, 100, 4).attended_tokens == (1000 * 500 + 4 * 100 * 1050) / 1400


def test_answers_that_share_a_prompt_share_its_cost() -> None:
    four = serve(deployment(samples=4), SHAPE_7B)
    one = serve(deployment(), SHAPE_7B)
    assert (
        float(four.accelerator_seconds_per_token) * (250 + 250)
        < float(one.accelerator_seconds_per_token) * 1250
    )
    assert float(four.batch) > float(one.batch)
    part = serve(deployment(input_tokens=250), SHAPE_7B)  # they still attend to the whole prompt
    assert float(four.accelerator_seconds_per_token) > float(part.accelerator_seconds_per_token)


def test_accelerators_for_a_request_rate() -> None:
    asked = deployment(weights="fp8", utilisation=0.6)
    counts, per_copy = accelerators_for(asked, SHAPE_65B, [0.001, 1, 10, 100, 1000])
    assert list(counts) == sorted(counts)
    assert np.all(counts % per_copy == 0)
    assert per_copy[-1] == serve(asked, SHAPE_65B).accelerators
    assert counts[0] == 1  # 65 GB of weights fit, if barely: one copy, though more would be cheaper a token
    seconds = float(serve(asked, SHAPE_65B).accelerator_seconds_per_token) * 1250
    assert counts[-1] == pytest.approx(1000 * seconds, rel=0.01)
    one_copy = per_copy[-1] / (float(serve(asked, SHAPE_65B).accelerator_seconds_per_token) * 1250)
    exactly = accelerators_for(asked, SHAPE_65B, [7 * one_copy, 7.001 * one_copy])
    assert exactly.accelerators[0] == 7 * per_copy[-1] < exactly.accelerators[1]
    four = accelerators_for(replace(asked, samples=4), SHAPE_65B, 1000).accelerators
    assert counts[-1] < four < 4 * counts[-1]


def test_tokens_read_and_written_add_up() -> None:
    found = serve(deployment(price=3.6), SHAPE_65B)
    prices = token_prices(found, 3.6)
    whole = 1000 * prices.input_usd + 250 * prices.output_usd
    assert float(prices.blended_usd) * 1250 == pytest.approx(float(whole))
    assert float(prices.output_usd) > float(prices.input_usd)
    per_answer = 250 / (float(found.output_tokens_per_second) * 1250)
    assert float(found.accelerator_seconds_per_token) == pytest.approx(per_answer)
    nothing_read = serve(deployment(input_tokens=0), SHAPE_7B)
    assert float(nothing_read.accelerator_seconds_per_input_token) == 0


def test_littles_law_ties_rate_batch_and_latency() -> None:
    found = serve(deployment(most_accelerators=1, time_per_output_token_seconds=0.03), SHAPE_7B)
    prompt = float(found.accelerator_seconds_per_input_token) * 1000
    life = prompt + 250 * float(found.time_per_output_token_seconds)
    assert float(found.batch) * 250 / life == pytest.approx(float(found.output_tokens_per_second))


@given(
    parameters=st.floats(1e8, 2e12),
    layers=st.floats(8, 160),
    read=st.floats(1, 30_000),
    limit=st.none() | st.floats(0.005, 0.5),
    weights=st.sampled_from(WEIGHT_FORMATS),
    chip=st.sampled_from(["H100", "A100", "B200", "L40S", "TPUv5e", "V100"]),
)
@settings(max_examples=60, deadline=None)
def test_arrays_equal_their_elements(
    parameters: float, layers: float, read: float, limit: float | None, weights: str, chip: str
) -> None:
    asked = replace(
        deployment(chip, weights, input_tokens=read, most_accelerators=32),
        time_per_output_token_seconds=limit,
    )
    sizes = parameters * np.array([1.0, 1.7, 40.0])
    width = np.sqrt(sizes / (12 * layers))
    shapes = ServedShape(sizes, sizes, layers, width, width / 8)
    together = serve(asked, shapes)
    for i in range(3):
        alone = serve(
            asked, ServedShape(float(sizes[i]), float(sizes[i]), layers, float(width[i]), float(width[i] / 8))
        )
        for name, whole, one in zip(together._fields, together, alone, strict=True):
            if name == "limited_by":
                assert whole[i] == one
            else:
                np.testing.assert_allclose(whole[i], float(one), rtol=1e-12)
    served = ~np.isnan(together.batch)
    assert np.isfinite(together.accelerator_seconds_per_token[served]).all()
    if limit is not None:
        assert (together.time_per_output_token_seconds[served] <= limit * (1 + 1e-9)).all()
    costs = together.accelerator_seconds_per_token[served]
    assert (np.diff(costs) > 0).all()  # the larger model is the dearer one


def test_cost_has_no_jumps_along_a_continuum() -> None:
    asked = deployment(weights="fp8", most_accelerators=64)
    layers = np.geomspace(20, 120, 4000)
    width = 100 * layers
    body = 12 * layers * width**2
    shape = ServedShape(body + 64_000 * width, body + 32_000 * width, layers, width, width / 4)
    costs = serve(asked, shape).accelerator_seconds_per_token
    assert np.isfinite(costs).all()
    assert np.abs(np.diff(np.log(costs))).max() < 0.02
    exact = cost(asked, served_shape(replace(LLAMA_65B, kv_heads=8)))
    near = ServedShape(*(value * (1 + 1e-7) for value in served_shape(replace(LLAMA_65B, kv_heads=8))))
    assert cost(asked, near) == pytest.approx(exact, rel=1e-5)


def test_every_formula_has_its_numbers() -> None:
    formulas = explain_serving(deployment(price=2.0, weights="fp8"), SHAPE_65B)
    assert [formula.name for formula in formulas][-1] == "dollars for a million tokens"
    for formula in formulas:
        assert formula.source
        assert formula.numbers
        assert "nan" not in formula.numbers
    huge = served_shape(llama(126, 16384, kv_heads=8, hidden=53248, vocabulary=128256))
    formulas += explain_serving(deployment(most_accelerators=32), huge)
    names = ("answers that fit in memory", "seconds of a prompt", "seconds of a step")
    checked = [formula for formula in formulas if formula.name in (*names, "accelerator-seconds of a token")]
    assert len(checked) == 8
    for formula in checked:
        sum_, result = formula.numbers.replace("^", "**").replace(" x ", " * ").rsplit(" = ", 1)
        assert eval(sum_) == pytest.approx(float(result), rel=2e-3)
    assert explain_serving(deployment("H100-NVL"), SHAPE_7B)[-1].name == "accelerator-seconds of a token"


def test_the_shipped_constants_say_how_sure_they_are() -> None:
    shipped = shipped_calibration()
    assert shipped.rows >= 80
    assert shipped.date
    assert "TensorRT-LLM" in shipped.source
    held_out = {figure.held_out: figure for figure in shipped.accuracy}
    for split in ("a model", "an accelerator", "an engine"):
        assert held_out[split].median_error <= 0.20
        assert held_out[split].within >= 0.70
    assert set(shipped.spread) == set(shipped.constants)
    assert all(0 < share < 1 for name, share in shipped.constants.items() if not name.endswith("seconds"))
    assert shipped.to_json()["constants"]["prefill_mfu"] == shipped.prefill_mfu


def test_the_document_gives_the_shipped_constants() -> None:
    text = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    shipped = shipped_calibration()
    rows = re.findall(r"^\| (\w_\w|\w) \| .* \| ([0-9.]+)( us)? \| (\d+) % \|$", text, flags=re.MULTILINE)
    written = {
        symbol: (float(value) * (1e-6 if unit else 1), int(spread)) for symbol, value, unit, spread in rows
    }
    assert set(written) == {constant.symbol for constant in CONSTANTS.values()}
    for name, constant in CONSTANTS.items():
        value, spread = written[constant.symbol]
        assert value == pytest.approx(shipped.constants[name], rel=0.01)
        assert spread == round(100 * shipped.spread[name])
