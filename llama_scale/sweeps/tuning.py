"""Rate, batch, beta2 and warm-up of a member: by hand where the recipe says so, else by its rule."""

from __future__ import annotations

from llama_scale import hyperparameters
from llama_scale.architecture import ModelConfig
from llama_scale.hyperparameters import Tuning
from llama_scale.sweeps.spec import TrainingSpec


def tuning(training: TrainingSpec, model: ModelConfig, tokens: float) -> Tuning:
    """What `training` means for `model` on `tokens`."""
    sequences = training.sequences_per_step
    if sequences is None and training.batch_tokens is not None:
        sequences = max(1, round(training.batch_tokens / model.context))
    rate = training.learning_rate
    if rate is None and training.learning_rate_times_width is not None:
        rate = training.learning_rate_times_width / model.width
    return hyperparameters.tuning(
        training.named_rule,
        model,
        tokens,
        learning_rate=rate,
        sequences_per_step=sequences,
        beta2=training.beta2,
        warmup_steps=training.warmup_steps,
    )
