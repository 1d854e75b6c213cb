"""The recipe of one run: which model, how long, at which rates; and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llama_scale.architecture import LLAMA_7B
from llama_scale.config import structure
from llama_scale.errors import InputError
from llama_scale.runs import DataConfig, run_id
from llama_scale.shapes import ShapeSpec
from llama_scale.single import SingleSpec, SingleTraining, model_of, single_run, with_family_defaults


def test_a_name_means_llamas_own_shape_vocabulary_and_context() -> None:
    spec = structure(with_family_defaults({"model": "llama-7b"}), SingleSpec, source="here")
    assert model_of(spec) == LLAMA_7B
    small = structure(
        with_family_defaults({"model": "LLaMA-7B", "data": {"vocabulary": 1024}}), SingleSpec, source="here"
    )
    assert model_of(small) == replace(LLAMA_7B, vocabulary=1024)


def test_a_size_and_layers_by_width_mean_what_they_say() -> None:
    assert model_of(SingleSpec(model="10M")).parameters.total == pytest.approx(10e6, rel=0.1)
    model = model_of(SingleSpec(model="4x256", shape=ShapeSpec(context=128, kv_heads=1)))
    assert (model.layers, model.width, model.context, model.kv_heads) == (4, 256, 128, 1)


def test_a_name_takes_what_the_recipe_says_of_its_heads_and_hidden_size() -> None:
    spec = SingleSpec(
        model="llama-7b",
        shape=ShapeSpec(context=2048, kv_heads=8, head_size=64, hidden_ratio=3.5),
        data=DataConfig(vocabulary=32_000),
    )
    assert model_of(spec) == replace(LLAMA_7B, heads=64, kv_heads=8, head_size=64, hidden=14_336)


def test_the_shortest_run_of_wsd_warms_up_and_decays() -> None:
    schedule = single_run(SingleSpec(model="2x64", steps=2), "corpus").schedule
    assert (schedule.warmup_steps, schedule.decay_steps) == (1, 1)


def test_what_is_no_table_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match="data = 5: expected a table"):
        structure(with_family_defaults({"model": "llama-7b", "data": 5}), SingleSpec, source="here")


def test_a_run_trains_for_its_tokens_and_decays_at_its_end() -> None:
    config = single_run(SingleSpec(model="2x64", tokens=1e6), "corpus")
    steps = config.schedule.total_steps or 0
    assert 0 <= steps * config.tokens_per_step - 1e6 < config.tokens_per_step
    assert config.schedule.decay_steps == round(0.2 * steps)
    assert config.schedule.warmup_steps <= 0.05 * steps + 1
    by_default = single_run(SingleSpec(model="2x64"), "corpus")
    tokens = (by_default.schedule.total_steps or 0) * by_default.tokens_per_step
    assert tokens == pytest.approx(20 * by_default.model.parameters.matmul, rel=0.01)


def test_the_fixed_rule_takes_rate_and_batch_by_hand() -> None:
    training = SingleTraining(rule="fixed", learning_rate=3e-3, sequences_per_step=4)
    config = single_run(SingleSpec(model="2x64", steps=400, training=training), "corpus")
    assert (config.optimizer.learning_rate, config.sequences_per_step) == (3e-3, 4)
    assert (config.optimizer.beta2, config.schedule.warmup_steps) == (0.99, 100)
    for name in ("learning_rate", "sequences_per_step"):
        spec = SingleSpec(model="2x64", steps=400, training=replace(training, **{name: None}))
        with pytest.raises(InputError, match=rf"rule is fixed, but no training\.{name} is given"):
            single_run(spec, "corpus")


def test_everything_that_decides_the_curve_is_in_the_id() -> None:
    plain = SingleSpec(model="2x64", steps=100)
    others = [
        replace(plain, seed=1),
        replace(plain, steps=101),
        replace(plain, training=SingleTraining(schedule="cosine")),
        replace(plain, training=SingleTraining(learning_rate=1e-3)),
        replace(plain, training=SingleTraining(optimizer="muon")),
        replace(plain, training=SingleTraining(precision="bf16")),
        replace(plain, data=DataConfig(vocabulary=512)),
    ]
    assert len({run_id(single_run(spec, "corpus")) for spec in (plain, *others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "huge"}, "no model is called"),
        ({"model": ""}, "no model is called ''"),
        ({"tokens": 1e6, "steps": 3}, "both say"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"tokens": 1e300}, r"tokens is 1e\+300, but must be at least 1 and below"),
        ({"seed": -1}, "seed is -1, but seeds lie from 0 to 4,294,967,295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"steps": 1}, "a run of 1 step is too short for 1 step of warm-up and 1 of decay"),
        (
            {"training": {"warmup_steps": 95}, "steps": 100},
            "a run of 100 steps is too short for 95 steps of warm-up and 20 of decay",
        ),
        (
            {"training": {"warmup_steps": 10, "schedule": "cosine"}, "steps": 10},
            "a run of 10 steps is too short for 10 steps of warm-up and 1 of decay",
        ),
        (
            {"training": {"warmup_steps": 11, "schedule": "constant"}, "steps": 10},
            "a run of 10 steps is too short for 11 steps of warm-up$",
        ),
        ({"model": "2x30"}, "no usual head size divides the width 30"),
        (
            {"model": "2x64", "shape": {"layers": 3}},
            "2x64 says how deep it is, and so does shape.layers",
        ),
        ({"model": "LLaMA-7B", "shape": {"aspect_ratio": 64}}, "so does shape.aspect_ratio"),
        ({"training": {"mup_base_width": 32}}, "no training.learning_rate is given"),
        (
            {"training": {"precision": "i16", "recompute": "full", "beta2": 2.0}},
            "(?s)2 problems.*beta2 is 2.*precision is i16",
        ),
        ({"model": "0x64"}, "layers is 0"),
        ({"model": "0"}, "cannot have 0 parameters"),
        ({"model": "1e300"}, r"cannot have 1e\+300 parameters"),
        ({"data": {"vocabulary": 0}}, "vocabulary is 0"),
        ({"training": {"learning_rate": 0.0}}, "learning_rate is 0, but must be more than 0"),
        ({"training": {"beta2": 1.5}}, "beta2 is 1.5, but must be at least 0 and less than 1"),
        ({"training": {"momentum": 1.0}}, "momentum is 1"),
        ({"training": {"weight_decay": -0.1}}, "weight_decay is -0.1"),
        ({"training": {"clip_norm": 0.0}}, "clip_norm is 0"),
        ({"training": {"final_fraction": 2.0}}, "final_fraction is 2"),
        ({"training": {"z_loss": -1.0}}, "z_loss is -1"),
        ({"training": {"initial_gain": 0.0}}, "initial_gain is 0"),
    ],
)
def test_what_makes_no_run_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        single_run(structure(fields, SingleSpec, source="here"), "corpus")


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_a_rate_that_is_no_number_is_refused_in_python_too(rate: float) -> None:
    with pytest.raises(InputError, match=f"learning_rate is {rate}"):
        SingleTraining(learning_rate=rate)


def test_all_that_is_amiss_is_told_at_once() -> None:
    recipe = {
        "model": "4x250",
        "seed": -1,
        "shape": {"head_size": 7},
        "training": {"schedule": "wds", "learning_rate": -1, "precision": "i16", "recompute": "full"},
    }
    with pytest.raises(InputError) as caught:
        structure(with_family_defaults(recipe), SingleSpec, source="here")
    told = caught.value.message.splitlines()
    wanted = ("wds", "learning_rate is -1", "precision is i16", "seed is -1", "width 250 is not a multiple")
    assert len(told) == 1 + len(wanted)
    assert all(any(words in line for line in told) for words in wanted)


def test_the_context_stays_when_a_recipe_says_something_else_of_the_shape() -> None:
    spec = structure(
        with_family_defaults({"model": "2x64", "shape": {"qk_norm": True}}), SingleSpec, source="here"
    )
    assert spec.shape == ShapeSpec(context=256, qk_norm=True)
