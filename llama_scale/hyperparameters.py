"""Peak learning rate, batch, beta2 and warm-up by a named rule, from a model's size and its tokens.

`measured` is this trainer's own: found on real runs of two-layer models of 7 to 107 thousand parameters
without embeddings (benchmarks/learning_rates.py; docs/training.md has the runs). From 210 million on it is
Step Law (`step_law.py`); between the two, where nobody measured, straight lines of logarithms join them.

In formulas: N parameters without embeddings, D tokens, B tokens a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from llama_scale import step_law
from llama_scale.architecture import ModelConfig
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.step_law import step_law_batch, step_law_rate

Rule = Literal["measured", "step law", "fixed"]
Regime = Literal["measured", "joined", "step law"]

MEASURED_PARAMETERS = (6.8e3, 1.07e5)  # without embeddings
MEASURED_TOKENS = (3e5, 8e6)  # the longest are hold-outs of the default sweep
LARGEST_MEASURED = 1e6  # the rule is taken on as it is that far
RATE, RATE_BY_SIZE, RATE_BY_TOKENS, RATE_BY_BATCH = 5.8e-3, -0.40, -0.30, 0.5
BATCH, BATCH_BY_TOKENS = 0.25, 0.571  # the exponent is Step Law's
RATE_FORMULA = f"{RATE:g} (N/25k)^{RATE_BY_SIZE:g} (D/600k)^{RATE_BY_TOKENS:g} (B/512)^{RATE_BY_BATCH:g}"
BATCH_FORMULA = f"{BATCH:g} D^{BATCH_BY_TOKENS:g} tokens"
SMALL_BETA2, LARGE_BETA2 = 0.99, 0.95  # small batches are noisy: their squares want a longer memory
SMALL_WARMUP, LARGE_WARMUP = 100, 2_000  # steps; the second is LLaMA's (section 2.3)
WARMUP_SHARE = 0.05  # of a run too short for that
FIXED_BETA2, FIXED_WARMUP = 0.99, 100  # where rate and batch are given by hand


@frozen
class Tuning:
    """What depends on the size of a model and on how long it trains.

    `learning_rate` is AdamW's peak, warm-up is in steps.
    """

    learning_rate: float
    sequences_per_step: int
    beta2: float
    warmup_steps: int


@frozen
class HyperParameters(Tuning):
    """What a rule chose; `extrapolation` are factors beyond the range that it was found on, 1 within it."""

    regime: Regime
    extrapolation: Mapping[str, float]


def tuning(
    rule: Rule,
    shape: ModelConfig,
    tokens: float,
    *,
    learning_rate: float | None = None,
    sequences_per_step: int | None = None,
    beta2: float | None = None,
    warmup_steps: int | None = None,
) -> Tuning:
    """What is given by hand, and what `rule` says of the rest.

    Raises InputError where the fixed rule has no rate or no batch.
    """
    if rule == "fixed":
        if learning_rate is None or sequences_per_step is None:
            missing = "learning_rate" if learning_rate is None else "sequences_per_step"
            raise InputError(
                f"training.rule is fixed, but no training.{missing} is given",
                hint=f"set training.{missing}, or another training.rule",
            )
        found = Tuning(
            learning_rate=learning_rate,
            sequences_per_step=sequences_per_step,
            beta2=FIXED_BETA2,
            warmup_steps=FIXED_WARMUP,
        )
    else:
        found = hyperparameters(rule, shape, tokens, sequences_per_step=sequences_per_step)
    return Tuning(
        learning_rate=found.learning_rate if learning_rate is None else learning_rate,
        sequences_per_step=found.sequences_per_step,
        beta2=found.beta2 if beta2 is None else beta2,
        warmup_steps=found.warmup_steps if warmup_steps is None else warmup_steps,
    )


def hyperparameters(
    rule: Literal["measured", "step law"],
    shape: ModelConfig,
    tokens: float,
    *,
    sequences_per_step: int | None = None,
) -> HyperParameters:
    """What `rule` says of `shape` on `tokens`; a batch given by hand moves the rate as its square root.

    (Malladi et al. 2022, arXiv 2205.10287; confirmed on this trainer from 128 to 2,048 tokens.)

    >>> from llama_scale.architecture import LLAMA_7B
    >>> hyperparameters("measured", LLAMA_7B, 1e12).regime
    'step law'
    """
    parameters = shape.parameters.non_embedding
    large = 1.0 if rule == "step law" else largeness(parameters)
    batch = _joined(BATCH * tokens**BATCH_BY_TOKENS, step_law_batch(tokens), large)
    # a power of two of sequences divides over any power of two of accelerators; the optimum is broad
    sequences = sequences_per_step or max(1, 2 ** round(math.log2(batch / shape.context)))
    own_batch = sequences * shape.context
    measured = measured_rate(parameters, tokens, own_batch)
    by_hand = math.sqrt(own_batch / batch) if sequences_per_step else 1.0
    steps = math.ceil(tokens / own_batch)
    warmup = _joined(SMALL_WARMUP, LARGE_WARMUP, large)
    return HyperParameters(
        regime="step law" if large == 1 else "measured" if large == 0 else "joined",
        learning_rate=_joined(measured, step_law_rate(parameters, tokens) * by_hand, large),
        sequences_per_step=sequences,
        beta2=1 - round(_joined(1 - SMALL_BETA2, 1 - LARGE_BETA2, large), 3),
        warmup_steps=max(1, min(round(warmup), math.ceil(WARMUP_SHARE * steps))),
        extrapolation=_extrapolation(parameters, tokens, large),
    )


def measured_rate(parameters: float, tokens: float, batch_tokens: float) -> float:
    """Peak learning rate as measured on this trainer: `RATE_FORMULA`."""
    return (
        RATE
        * (parameters / 25e3) ** RATE_BY_SIZE
        * (tokens / 6e5) ** RATE_BY_TOKENS
        * (batch_tokens / 512) ** RATE_BY_BATCH
    )


def largeness(parameters: float) -> float:
    """Where a size lies between the measured rule (0) and Step Law (1), by its logarithm."""
    first, last = math.log(LARGEST_MEASURED), math.log(step_law.PARAMETERS[0])
    return min(1.0, max(0.0, (math.log(parameters) - first) / (last - first)))


def _joined(small: float, large: float, share: float) -> float:
    """`small` at 0, `large` at 1, a straight line of logarithms between."""
    return small ** (1 - share) * large**share


def _extrapolation(parameters: float, tokens: float, large: float) -> dict[str, float]:
    """Factors outside the range of the rule that is nearer."""
    sizes, lengths = (
        (step_law.PARAMETERS, step_law.TOKENS) if large > 0.5 else (MEASURED_PARAMETERS, MEASURED_TOKENS)
    )
    return {"parameters": _beyond(parameters, sizes), "tokens": _beyond(tokens, lengths)}


def _beyond(value: float, known: tuple[float, float]) -> float:
    """1 within the range, else how many times above its largest or below its least."""
    low, high = known
    return value / high if value > high else value / low if value < low else 1.0
