"""What a recipe's [training] may say, of one run or of a sweep, and the run that it means."""

from __future__ import annotations

from collections.abc import Iterator

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.canonical import added
from llama_scale.checked import Checked
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.hyperparameters import Tuning
from llama_scale.runs.configs import (
    DecayShape,
    OptimizerConfig,
    OptimizerKind,
    Precision,
    RunConfig,
    RunRole,
    ScheduleConfig,
    ScheduleKind,
)
from llama_scale.runs.data import DataConfig
from llama_scale.runs.limits import mup_problems, out_of_limits, precision_problems


@frozen
class TrainingTable(Checked):
    """How runs are trained, in the words of a run's own settings (`configs.py`)."""

    learning_rate: float | None = None
    sequences_per_step: int | None = None
    warmup_steps: int | None = None
    decay_fraction: float = 0.2
    initial_gain: float = 0.25
    beta2: float | None = None
    weight_decay: float = 0.1
    optimizer: OptimizerKind = added("adamw")
    momentum: float = added(0.95)
    beta1: float = added(0.9)
    clip_norm: float = added(1.0)
    schedule: ScheduleKind = added("wsd")
    decay_shape: DecayShape = added("1-sqrt")
    final_fraction: float = added(0.0)
    precision: Precision = added("f32")
    z_loss: float = added(0.0)
    mup_base_width: int | None = added(None)
    recompute: Recompute = added("none")
    compile: bool = added(False)
    micro_batch: int | None = added(None)

    def problems(self) -> Iterator[InputError]:
        yield from out_of_limits(self)
        yield from precision_problems(self.precision, self.recompute, compiled=self.compile)
        yield from mup_problems(
            self.mup_base_width, optimizer=self.optimizer, rate_is_given=self.learning_rate is not None
        )

    def run(
        self,
        tuned: Tuning,
        *,
        role: RunRole,
        model: ModelConfig,
        data: DataConfig,
        corpus: str,
        seed: int,
        total_steps: int | None = None,
        decay_steps: int = 0,
    ) -> RunConfig:
        """The run of `model` by these settings, where they leave some open by those that were `tuned`."""
        return RunConfig(
            role=role,
            model=model,
            data=data,
            corpus=corpus,
            optimizer=OptimizerConfig(
                learning_rate=tuned.learning_rate,
                beta1=self.beta1,
                beta2=tuned.beta2,
                weight_decay=self.weight_decay,
                clip_norm=self.clip_norm,
                kind=self.optimizer,
                momentum=self.momentum,
            ),
            schedule=ScheduleConfig(
                kind=self.schedule,
                total_steps=total_steps,
                warmup_steps=tuned.warmup_steps,
                decay_steps=decay_steps,
                decay_shape=self.decay_shape,
                final_fraction=self.final_fraction,
            ),
            sequences_per_step=tuned.sequences_per_step,
            seed=seed,
            initial_gain=self.initial_gain,
            precision=self.precision,
            z_loss=self.z_loss,
            mup_base_width=self.mup_base_width,
            recompute=self.recompute,
            compile=self.compile,
            micro_batch=self.micro_batch,
        )
