"""What a run is: everything that decides its loss curve, and the id that is a hash of it."""

from __future__ import annotations

import math
from typing import Literal

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.config import added, canonical_hash
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.runs.data import DataConfig

RunRole = Literal["train", "holdout", "trunk", "search", "continued"]
OptimizerKind = Literal["adamw", "muon"]
ScheduleKind = Literal["wsd", "cosine", "linear", "constant"]
DecayShape = Literal["1-sqrt", "linear"]
Precision = Literal["f32", "bf16", "i16"]  # i16: of matrix products alone, all else as in f32


@frozen
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with the whole gradient clipped to `clip_norm`.

    `kind` muon moves the matrices of the blocks by Muon with this `momentum` (`training/muon.py`), and the
    rest, embedding and head among them, by AdamW.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    kind: OptimizerKind = added("adamw")
    momentum: float = added(0.95)

    def __post_init__(self) -> None:
        _check("learning_rate", self.learning_rate, above=0.0)
        _check("epsilon", self.epsilon, above=0.0)
        _check("clip_norm", self.clip_norm, above=0.0)
        _check("weight_decay", self.weight_decay, least=0.0)
        for name in ("beta1", "beta2", "momentum"):
            _check(name, getattr(self, name), least=0.0, below=1.0)


@frozen
class ScheduleConfig:
    """Learning rate over steps; `total_steps` is None for a trunk, which is as long as its branches need."""

    kind: ScheduleKind
    total_steps: int | None
    warmup_steps: int = 100
    decay_steps: int = 0
    decay_shape: DecayShape = "1-sqrt"
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check("final_fraction", self.final_fraction, least=0.0, below=1.0)


@frozen
class Branch:
    """Where a decay branch leaves its trunk."""

    parent: str
    step: int


@frozen
class RunConfig:
    """Everything that decides a run's loss curve. Its hash is the run's id.

    `z_loss` weighs the squared log of softmax's denominator (PaLM, arXiv 2204.02311, section 5). With
    `mup_base_width` starts and rates are those of muP (`training/scaling.py`). `recompute` says what the
    backward pass computes again rather than keeps. `micro_batch` are sequences that go through the model
    at once; None finds what fits. `initial_weights` is the sha256 of weights that a continued run starts
    from (`training/starts.py`); None draws them.
    """

    role: RunRole
    model: ModelConfig
    data: DataConfig
    corpus: str
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    sequences_per_step: int
    seed: int
    initial_gain: float = 0.25
    branch: Branch | None = None
    budget_flops: float | None = None
    precision: Precision = added("f32")
    z_loss: float = added(0.0)
    mup_base_width: int | None = added(None)
    recompute: Recompute = added("none")
    micro_batch: int | None = added(None)
    initial_weights: str | None = added(None)

    def __post_init__(self) -> None:
        _check("z_loss", self.z_loss, least=0.0, below=1.0)
        _check("initial_gain", self.initial_gain, above=0.0)
        for name in ("sequences_per_step", "micro_batch", "mup_base_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(
                    f"training.{name} is {value}, but must be at least 1",
                    hint=f"set training.{name} to 1 or more",
                )
        if self.model.vocabulary < self.data.vocabulary:
            raise InputError(
                f"model.vocabulary is {self.model.vocabulary}, fewer than data.vocabulary: "
                f"{self.data.vocabulary} tokens",
                hint=f"set model.vocabulary to {self.data.vocabulary} or more",
            )
        if self.precision == "i16" and self.recompute != "none":
            raise InputError(
                f"training.precision is i16, whose kernels keep what training.recompute = {self.recompute} "
                "would compute again",
                hint='set training.recompute = "none", or training.precision = "f32"',
            )
        if self.mup_base_width is not None:
            self._check_mup()

    def _check_mup(self) -> None:
        """Raises InputError for what muP has no rule for."""
        if self.model.tied_head:
            raise InputError(
                "muP has different rules for embedding and head, but shape.tied_head makes them one",
                hint="set shape.tied_head = false, or leave training.mup_base_width out",
            )
        if self.optimizer.kind != "adamw":
            raise InputError(
                "training.mup_base_width scales the rates of AdamW, but training.optimizer is muon, whose "
                "updates have the same size at every width by themselves",
                hint='set training.optimizer = "adamw", or leave training.mup_base_width out',
            )

    @property
    def tokens_per_step(self) -> int:
        return self.sequences_per_step * self.model.context

    @property
    def first_step(self) -> int:
        """Where this run's own steps begin: 0, or the branch point."""
        return self.branch.step if self.branch else 0

    def train_flops(self, steps: int) -> float:
        """FLOPs of the model's history up to `steps`, a branch's trunk included."""
        return float(self.model.train_flops_per_token()) * steps * self.tokens_per_step


def _check(
    name: str, value: float, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> None:
    """Raises InputError unless `value` is a number within its limits."""
    if least <= value < below and value > above:
        return
    limits = f"at least {least:g}" if above == -math.inf else f"more than {above:g}"
    limits += f" and less than {below:g}" if below < math.inf else " and finite"
    raise InputError(
        f"training.{name} is {value:g}, but must be {limits}",
        hint=f"correct training.{name}, or leave it out",
    )


def run_id(config: RunConfig) -> str:
    """The run's name: a hash of everything that decides its loss curve."""
    return canonical_hash(config)
