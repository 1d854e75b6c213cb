"""A small model and a run of it, for tests that change what they are about and leave the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_scale.architecture import ModelConfig
from llama_scale.runs import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig

MODEL = ModelConfig(
    layers=1, width=16, heads=2, kv_heads=2, head_size=8, hidden=32, vocabulary=64, context=32
)


def small_model(**changes: Any) -> ModelConfig:
    return replace(MODEL, **changes)


def small_run(model: ModelConfig = MODEL, *, learning_rate: float = 1e-3, **changes: Any) -> RunConfig:
    """Ten steps of `model` at a constant rate, on text of its vocabulary."""
    run = RunConfig(
        role="train",
        model=model,
        data=DataConfig(vocabulary=model.vocabulary),
        corpus="0" * 64,
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        schedule=ScheduleConfig(kind="constant", total_steps=10),
        sequences_per_step=8,
        seed=0,
    )
    return replace(run, **changes)
