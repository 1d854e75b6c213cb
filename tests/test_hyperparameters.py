"""The rules that choose rate, batch, beta2 and warm-up: where each holds, and how they meet."""

from __future__ import annotations

import itertools
import math

import pytest

from llama_scale import step_law
from llama_scale.architecture import LLAMA_7B, ModelConfig, llama, nearest_shape
from llama_scale.errors import InputError
from llama_scale.hyperparameters import (
    LARGEST_MEASURED,
    HyperParameters,
    hyperparameters,
    measured_rate,
    tuning,
)
from llama_scale.step_law import step_law_rate


def small(width: int) -> ModelConfig:
    return llama(2, width, heads=width // 16, hidden=3 * width, vocabulary=1024, context=64, qk_norm=True)


def test_small_models_get_what_was_measured_and_large_ones_step_law() -> None:
    found = hyperparameters("measured", small(32), 6e5)
    assert found.regime == "measured"
    assert found.beta2 == 0.99 and found.warmup_steps <= 100
    assert set(found.extrapolation.values()) == {1.0}
    large = hyperparameters("measured", LLAMA_7B, 1e12)
    assert large == hyperparameters("step law", LLAMA_7B, 1e12)
    assert large.learning_rate == step_law_rate(LLAMA_7B.parameters.non_embedding, 1e12)
    assert (large.beta2, large.warmup_steps) == (0.95, 2000)
    assert large.extrapolation["tokens"] == 10


def test_between_the_two_nothing_jumps() -> None:
    """From below a million to above 210 million parameters, rate and beta2 change by little a step."""
    sizes = [LARGEST_MEASURED * 1.05**i for i in range(-5, 120)]
    found = [at(size) for size in sizes]
    assert found[0].regime == "measured" and found[-1].regime == "step law"
    assert {each.regime for each in found} == {"measured", "joined", "step law"}
    for one, other in itertools.pairwise(found):
        assert abs(math.log(other.learning_rate / one.learning_rate)) < 0.5
        assert abs(other.beta2 - one.beta2) < 0.005


def at(parameters: float) -> HyperParameters:
    shape = nearest_shape(parameters, convention="non_embedding", vocabulary=1024, context=256)
    return hyperparameters("measured", shape, 4e9, sequences_per_step=256)


@pytest.mark.parametrize("rule", ["measured", "step law"])
@pytest.mark.parametrize("shape", [small(32), nearest_shape(5e8)])
def test_a_batch_by_hand_moves_the_rate_as_its_square_root(rule: str, shape: ModelConfig) -> None:
    one, four = (
        hyperparameters(rule, shape, 1e10, sequences_per_step=count)  # pyright: ignore[reportArgumentType]
        for count in (16, 64)
    )
    assert four.sequences_per_step == 64
    assert four.learning_rate == pytest.approx(2 * one.learning_rate)


def test_short_runs_warm_up_for_a_twentieth() -> None:
    short = hyperparameters("measured", small(16), 2e5, sequences_per_step=8)
    assert short.warmup_steps == math.ceil(0.05 * math.ceil(2e5 / 512))


def test_the_measured_rule_is_the_one_of_the_document() -> None:
    """docs/training.md, where the runs behind it are."""
    assert measured_rate(25e3, 6e5, 512) == pytest.approx(5.8e-3)
    assert measured_rate(5e4, 1.2e6, 512) == pytest.approx(5.8e-3 * 2**-0.7)
    for tokens, sequences in ((1.01e6, 8), (1.25e6, 16)):  # the nearest power of two, by ratio
        assert abs(math.log2(0.25 * tokens**0.571 / 64 / sequences)) < 0.5
        assert hyperparameters("measured", small(32), tokens).sequences_per_step == sequences


def test_the_fixed_rule_names_what_it_lacks() -> None:
    with pytest.raises(InputError, match=r"no training\.sequences_per_step is given"):
        tuning("fixed", small(16), 1e6, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"no training\.learning_rate is given"):
        tuning("fixed", small(16), 1e6, sequences_per_step=16)


def test_the_measured_rule_falls_with_size_and_rises_with_the_batch() -> None:
    assert measured_rate(1e5, 1e6, 512) < measured_rate(1e4, 1e6, 512)
    assert measured_rate(1e5, 1e6, 2048) == pytest.approx(2 * measured_rate(1e5, 1e6, 512))
    assert step_law.PARAMETERS[0] > LARGEST_MEASURED
