from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from llama_scale.architecture import LLAMA_7B, LLAMA_13B, LLAMA_65B, ModelConfig, llama, nearest_shape
from llama_scale.hyperparameters import measured_rate
from llama_scale.planning.recipe import recipe
from llama_scale.step_law import PARAMETERS, TOKENS, step_law_batch, step_law_rate

LLAMAS = [(LLAMA_7B, 1e12, 3e-4), (LLAMA_13B, 1e12, 3e-4), (LLAMA_65B, 1.4e12, 1.5e-4)]


@pytest.mark.parametrize(("shape", "tokens", "rate"), LLAMAS)
def test_batches_are_llamas_and_rates_within_a_factor_of_three(
    shape: ModelConfig, tokens: float, rate: float
) -> None:
    found = recipe(shape, tokens)
    assert found.batch_tokens == 2**22  # "4M"
    assert 1 / 3 < found.peak_learning_rate / rate < 3
    assert (found.beta1, found.beta2, found.weight_decay, found.gradient_clip) == (0.9, 0.95, 0.1, 1.0)
    assert found.warmup_steps == 2000
    assert found.steps == math.ceil(tokens / 2**22)
    assert rate in [practice.peak_learning_rate for practice in found.practice]


def test_the_rule_is_step_laws() -> None:
    assert step_law_rate(1e9, 1e11) == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert step_law_batch(1e11) == pytest.approx(0.58 * 1e11**0.571)
    found = recipe(LLAMA_7B, 1e12)
    assert found.peak_learning_rate == step_law_rate(LLAMA_7B.parameters.non_embedding, 1e12)
    assert abs(math.log2(found.batch_tokens / step_law_batch(1e12))) <= 0.5


def test_the_rule_costs_a_quarter_percent_of_loss_on_its_own_grids(shared_data: Path) -> None:
    """Loss at the rule's point, from its nearest grid points, against the grid's best (17 grids)."""
    lines = (shared_data / "steplaw_dense_lr_bs.csv").read_text().splitlines()
    grids: dict[tuple[float, float], list[tuple[float, float, float]]] = defaultdict(list)
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        point = float(row["lr"]), 2048 * float(row["batch_seqs"]), float(row["loss"])
        grids[float(row["params"]), float(row["tokens"])].append(point)
    assert len(grids) == 17
    penalties = []
    for (parameters, tokens), points in grids.items():
        rate, batch, loss = np.array(points).T
        distance = np.hypot(
            np.log(rate / step_law_rate(parameters, tokens)), np.log(batch / step_law_batch(tokens))
        )
        nearest = np.argsort(distance)[:3]
        weights = 1 / (distance[nearest] + 1e-3)
        penalties.append(np.sum(weights * loss[nearest]) / np.sum(weights) / loss.min() - 1)
        assert PARAMETERS[0] <= parameters <= PARAMETERS[1]
        assert TOKENS[0] <= tokens <= TOKENS[1]
    assert np.median(penalties) < 0.002
    assert max(penalties) < 0.004


def test_within_the_rules_range_nothing_is_extrapolated() -> None:
    inside = recipe(nearest_shape(9e8, convention="non_embedding"), 2e10)
    assert set(inside.extrapolation.values()) == {1.0}
    assert not any("range" in warning for warning in inside.warnings)
    beyond = recipe(LLAMA_65B, 1.4e12)
    assert beyond.extrapolation["tokens"] == pytest.approx(14)
    assert beyond.extrapolation["parameters"] > 59
    assert "beyond its range" in beyond.warnings[0] and "14 x its tokens" in beyond.warnings[0]


def test_a_rate_far_from_practice_is_warned_about() -> None:
    found = recipe(LLAMA_7B, 1e12)
    assert found.peak_learning_rate > 2 * 3e-4
    assert any("llama-7b (0.0003)" in warning for warning in found.warnings)


def test_what_is_beyond_the_rule_is_said_with_its_factors() -> None:
    assert recipe(LLAMA_65B, 1e14).warnings == (
        "the rule for the learning rate is used beyond its range: 60 x its parameters, 1,000 x its tokens",
        "the rule's learning rate is up to 4.6 times above that of llama-65b (0.00015) and llama-2-70b"
        " (0.00015): try both on a small one",
    )
    beyond, below = recipe(LLAMA_65B, 1e9).warnings
    assert beyond.endswith("60 x its parameters, 1/4 of its tokens")
    assert below.startswith("the rule's learning rate is up to 7.4 times below that of llama-65b (0.00015)")
    assert len(recipe(LLAMA_65B, 1.4e12).warnings) == 1  # .00019 is near enough to .00015


def test_tiny_models_train_as_was_measured_here() -> None:
    shape = llama(2, 64, heads=4, hidden=192, vocabulary=1024, context=64)
    found = recipe(shape, 2e6)
    assert found.rule == "measured"
    rate = measured_rate(shape.parameters.non_embedding, 2e6, found.batch_tokens)
    assert found.peak_learning_rate == pytest.approx(rate)
    assert 1 / 2 < found.peak_learning_rate / (0.128 / 64) < 2  # as the default sweep trains
    assert found.batch_tokens in (512, 1024)
    assert (found.schedule, found.decay_share, found.beta2) == ("wsd", 0.2, 0.99)
    assert "constant, last 20% falling" in found.text
    assert [row[0] for row in found.formulas()] == ["peak learning rate", "batch", "steps"]


def test_short_runs_warm_up_for_less() -> None:
    short = recipe(nearest_shape(1e9), 1e9)
    assert short.warmup_steps == math.ceil(0.05 * short.steps) < 2000


def test_a_recipe_is_one_line_and_one_json() -> None:
    found = recipe(LLAMA_7B, 1e12)
    assert "\n" not in found.text
    assert found.text.startswith("AdamW (0.9, 0.95), peak learning rate 0.00087, cosine to 1e-5, 2,000 steps")
    document = json.loads(json.dumps(found.to_json()))
    assert document["batch_tokens"] == 2**22
    assert document["practice"][0]["model"] == "llama-7b"
    rows = list(found.formulas())
    assert all(all(row) for row in rows)
    assert rows[0][2].endswith("= 0.000874")
