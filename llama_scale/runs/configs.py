"""What a run is: everything that decides its loss curve, and the id that is a hash of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_scale.architecture import ModelConfig
from llama_scale.config import canonical_hash
from llama_scale.errors import InputError

RunRole = Literal["train", "holdout", "trunk", "search"]
ScheduleKind = Literal["wsd", "cosine", "constant"]
DecayShape = Literal["1-sqrt", "linear"]
TokenizerName = Literal["bpe", "bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which text a run learns from and how it is cut into tokens.

    `source` is "builtin" or a path; `evaluation_tokens` of the validation part, the same for every
    run, measure the loss; `shuffle_seed` orders the documents.
    """

    source: str = "builtin"
    tokenizer: TokenizerName = "bpe"
    vocabulary: int = 1024
    evaluation_tokens: int = 131_072
    shuffle_seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with the whole gradient clipped to `clip_norm`."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over steps; `total_steps` is None for a trunk, which is as long as its branches need."""

    kind: ScheduleKind
    total_steps: int | None
    warmup_steps: int = 100
    decay_steps: int = 0
    decay_shape: DecayShape = "1-sqrt"
    final_fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where a decay branch leaves its trunk."""

    parent: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's loss curve. Its hash is the run's id."""

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

    def __post_init__(self) -> None:
        if self.sequences_per_step < 1:
            raise InputError(
                f"training.sequences_per_step is {self.sequences_per_step}, but a step needs a sequence",
                hint="set training.sequences_per_step to 1 or more",
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


def run_id(config: RunConfig) -> str:
    """The run's name: a hash of everything that decides its loss curve."""
    return canonical_hash(config)
