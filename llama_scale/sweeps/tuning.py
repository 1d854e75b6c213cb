"""Rate, batch, beta2 and warm-up of a member: by hand where the recipe says so, else by its rule."""

from __future__ import annotations

from llama_scale.architecture import ModelConfig
from llama_scale.frozen import frozen
from llama_scale.hyperparameters import FIXED_BETA2, FIXED_WARMUP, hyperparameters
from llama_scale.sweeps.spec import TrainingSpec


@frozen
class Tuning:
    """What depends on the size of a model and on how long it trains."""

    learning_rate: float
    sequences_per_step: int
    beta2: float
    warmup_steps: int


def tuning(training: TrainingSpec, model: ModelConfig, tokens: float) -> Tuning:
    """What `training` means for `model` on `tokens`."""
    sequences = training.sequences_per_step
    if sequences is None and training.batch_tokens is not None:
        sequences = max(1, round(training.batch_tokens / model.context))
    rate = training.learning_rate
    if rate is None and training.learning_rate_times_width is not None:
        rate = training.learning_rate_times_width / model.width
    rule = training.named_rule
    if rule == "fixed":
        chosen = Tuning(
            learning_rate=rate or 0.0,  # given, for a spec of fixed numbers has both
            sequences_per_step=sequences or 0,
            beta2=FIXED_BETA2,
            warmup_steps=FIXED_WARMUP,
        )
    else:
        found = hyperparameters(rule, model, tokens, sequences_per_step=sequences)
        chosen = Tuning(
            learning_rate=rate or found.learning_rate,
            sequences_per_step=found.sequences_per_step,
            beta2=found.beta2,
            warmup_steps=found.warmup_steps,
        )
    return Tuning(
        learning_rate=chosen.learning_rate,
        sequences_per_step=chosen.sequences_per_step,
        beta2=chosen.beta2 if training.beta2 is None else training.beta2,
        warmup_steps=chosen.warmup_steps if training.warmup_steps is None else training.warmup_steps,
    )
