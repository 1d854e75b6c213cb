from __future__ import annotations

import csv
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_scale.architecture import (
    CONVENTIONS,
    LLAMA_7B,
    LLAMA_13B,
    LLAMA_33B,
    LLAMA_65B,
    ModelConfig,
    ParameterConvention,
    grouped_query_choices,
    llama,
    nearest_shape,
    nearest_shapes,
    widenings,
    with_kv_heads,
)
from llama_scale.errors import InputError

FAMILY = {
    6_738_415_616: LLAMA_7B,
    13_015_864_320: LLAMA_13B,
    32_528_943_616: LLAMA_33B,
    65_285_660_672: LLAMA_65B,
}


@pytest.mark.parametrize(("count", "shape"), FAMILY.items())
def test_the_llama_sizes_are_counted_exactly_and_found_again(count: int, shape: ModelConfig) -> None:
    assert shape.parameters.total == count
    assert nearest_shape(count) == shape
    assert nearest_shape(round(count, -8)) == shape  # 6.7B, 13.0B, 32.5B, 65.3B


def test_counts_equal_the_reference_models(shared_data: Path) -> None:
    lines = (shared_data / "reference_models.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    llamas = [row for row in rows if row["family"] == "LLaMA"]
    assert len(llamas) == 4
    for row in llamas:
        shape = llama(int(row["n_layers"]), int(row["d_model"]), heads=int(row["n_heads"]))
        assert shape.parameters.total == int(row["params_total"])
        assert shape.hidden == int(row["ffn_dim"])
        attention = shape.train_flops_per_token() - 6 * shape.matrix_weights
        assert attention == float(row["flops_per_token_attn"])


def test_conventions_differ_by_the_tables() -> None:
    untied, tied = llama(4, 256, tied_head=False), llama(4, 256, tied_head=True)
    table = 256 * untied.vocabulary
    assert untied.parameters.total - untied.parameters.matmul == table
    assert untied.parameters.matmul - untied.parameters.non_embedding == table
    assert tied.parameters.total == tied.parameters.matmul == untied.parameters.matmul


def test_flops_have_their_closed_form() -> None:
    shape = llama(3, 512, heads=8, kv_heads=2)
    d, f, q, k = 512, shape.hidden, 512, 128
    weights = 3 * (2 * d * q + 2 * d * k + 3 * d * f) + shape.vocabulary * d
    assert shape.forward_flops_per_token(1000) == 2 * weights + 4 * 3 * q * 1000
    assert shape.train_flops_per_token(1000) == 3 * shape.forward_flops_per_token(1000)
    assert shape.kv_cache_bytes_per_token() == 2 * 3 * k * 2


@given(
    log_parameters=st.floats(math.log(1e8), math.log(2e12)),
    convention=st.sampled_from(CONVENTIONS),
)
@example(log_parameters=19.171875, convention="non_embedding")  # whose least odd shape is 3.02 % off
@example(log_parameters=18.5, convention="non_embedding")  # the slimmest of 12,000 sizes: 704 / 18
@settings(max_examples=200, deadline=None)
def test_nearest_shape_is_near_and_buildable(log_parameters: float, convention: ParameterConvention) -> None:
    wanted = math.exp(log_parameters)
    shape = nearest_shape(wanted, convention=convention)
    assert abs(shape.parameters.by(convention) / wanted - 1) < 0.03
    assert shape.width == shape.heads * shape.head_size
    assert shape.head_size in (64, 128)
    assert shape.hidden % 256 == 0 or shape.width < 768
    assert shape.heads % 4 == 0 or shape.width < 2048
    assert 39 < shape.width / shape.layers < 200


@pytest.mark.parametrize("low", [8.2e9, 6.1e11, 4e13, 5.9e14])
def test_widths_of_no_size_are_so_many_that_a_search_takes_long(low: float) -> None:
    """Multiples of 512 took 17 s about 5.9e14 parameters, which refusals ask for too."""
    shapes = nearest_shapes(low, 1.03 * low)
    widths = sorted({shape.width for shape in shapes})
    assert all(wider / narrower > 1.007 for narrower, wider in pairwise(widths))
    assert all(0.99 < shape.parameters.total / low < 1.04 for shape in shapes)


@pytest.mark.parametrize("low", [2.1e6, 3.3e8, 8.2e9, 6.1e11])
@pytest.mark.parametrize("kv_heads", [None, 8])
def test_nearest_shapes_are_those_of_every_size_between(low: float, kv_heads: int | None) -> None:
    """But for those of less than a thousandth of a size."""
    asked: Any = {"vocabulary": 8000, "kv_heads": kv_heads}
    listed = nearest_shapes(low, 1.03 * low, **asked)
    step, many = 2e-4, 5
    found = [nearest_shape(low * math.exp(step * i), **asked) for i in range(int(math.log(1.03) / step))]
    assert {shape for shape in found if found.count(shape) > many} <= set(listed)
    assert nearest_shape(low, **asked) in listed
    assert nearest_shapes(low, 1.03 * low, vocabulary=8000, kv_heads=1009) == ()


@given(log_parameters=st.floats(math.log(3e5), math.log(1e8)))
@settings(max_examples=100, deadline=None)
def test_small_shapes_of_small_vocabularies_are_near(log_parameters: float) -> None:
    wanted = math.exp(log_parameters)
    shape = nearest_shape(wanted, convention="total", vocabulary=256)
    assert abs(shape.parameters.total / wanted - 1) < 0.07


def test_a_shape_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="kv_heads") as refused:
        llama(2, 512, heads=8, kv_heads=3)
    assert "1, 2, 4, 8" in refused.value.hint
    with pytest.raises(InputError, match=r"model\.layers is 0"):
        llama(0, 512)
    for width, heads in ((100, 3), (512, 0), (36, 8)):
        with pytest.raises(InputError, match=f"{heads} heads do not divide a width of {width}"):
            llama(2, width, heads=heads)
    with pytest.raises(InputError, match="2 heads do not divide a width of 301"):
        llama(2, 301)
    assert llama(2, 48, heads=2, head_size=32).head_size == 32


@given(
    log_parameters=st.floats(math.log(1e9), math.log(2e12)),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    convention=st.sampled_from(CONVENTIONS),
)
@settings(max_examples=100, deadline=None)
def test_nearest_shapes_of_grouped_queries_are_near_too(
    log_parameters: float, kv_heads: int, convention: ParameterConvention
) -> None:
    wanted = math.exp(log_parameters)
    shape = nearest_shape(wanted, convention=convention, kv_heads=kv_heads)
    assert shape.kv_heads == kv_heads
    assert shape.heads % kv_heads == 0
    assert shape.hidden % 256 == 0
    assert abs(shape.parameters.by(convention) / wanted - 1) < 0.03


@pytest.mark.parametrize("shape", FAMILY.values())
def test_grouping_keeps_the_size_by_a_wider_hidden_layer(shape: ModelConfig) -> None:
    choices = grouped_query_choices(shape)
    assert [choice.kv_heads for choice in choices] == sorted(
        (n for n in range(1, shape.heads + 1) if shape.heads % n == 0), reverse=True
    )
    assert choices[0] == shape
    for choice in choices:
        assert abs(choice.parameters.total / shape.parameters.total - 1) < 0.01
        assert choice.kv_cache_bytes_per_token() == pytest.approx(
            shape.kv_cache_bytes_per_token() * choice.kv_heads / shape.heads
        )
    for plain in grouped_query_choices(shape, widen=False):
        saved = 2 * shape.layers * shape.width * shape.head_size * (shape.heads - plain.kv_heads)
        assert shape.parameters.total - plain.parameters.total == saved


@pytest.mark.parametrize("shape", [LLAMA_13B, nearest_shape(5e6, vocabulary=8000)])
def test_hidden_layers_widen_by_a_tenth_in_the_steps_of_their_own(shape: ModelConfig) -> None:
    wider = widenings(shape)
    hidden = [one.hidden for one in wider]
    assert wider[0] == shape
    assert all(replace(one, hidden=shape.hidden) == shape for one in wider)
    (step,) = {right - left for left, right in pairwise(hidden)}
    assert step == (256 if shape == LLAMA_13B else 16)
    assert hidden[-1] <= 1.1 * shape.hidden < hidden[-1] + step


def test_grouped_queries_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="kv_heads"):
        with_kv_heads(LLAMA_33B, 8)  # 52 heads
    with pytest.raises(InputError, match="no LLaMA of about") as refused:
        nearest_shape(2e6, vocabulary=256, kv_heads=64)
    assert "power of two up to" in refused.value.hint
    assert nearest_shape(32.5e9, kv_heads=8).heads % 8 == 0
