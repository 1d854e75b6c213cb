"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math

from llama_scale.runs import ScheduleConfig


def learning_rate_factor(schedule: ScheduleConfig, step: int) -> float:
    """Share of the peak learning rate at `step` (0-based): linear warm-up, then the schedule's own shape.

    Without `total_steps` the rate stays at its peak: that is the trunk that decay branches grow from.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.total_steps is None or schedule.kind == "constant":
        return 1.0
    decay_start = (
        schedule.total_steps - schedule.decay_steps if schedule.kind == "wsd" else schedule.warmup_steps
    )
    if step < decay_start or schedule.total_steps <= decay_start:
        return 1.0
    progress = min(1.0, (step + 1 - decay_start) / (schedule.total_steps - decay_start))
    floor = schedule.final_fraction
    return floor + (1 - floor) * _remaining(schedule, progress)


def _remaining(schedule: ScheduleConfig, progress: float) -> float:
    """Falls from 1 to 0 as the decay goes from 0 to 1."""
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "linear" or schedule.decay_shape == "linear":
        return 1 - progress
    return 1 - math.sqrt(progress)  # Haegele et al. 2024: better than linear for WSD
