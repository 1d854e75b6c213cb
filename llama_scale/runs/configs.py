"""What a run is: everything that decides its loss curve, and the id that is a hash of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.canonical import added, canonical_hash
from llama_scale.checked import Checked
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.runs.data import DataConfig
from llama_scale.runs.limits import mup_problems, out_of_limits, precision_problems

RunRole = Literal["train", "holdout", "trunk", "search", "continued"]
OptimizerKind = Literal["adamw", "muon"]
ScheduleKind = Literal["wsd", "cosine", "linear", "constant"]
DecayShape = Literal["1-sqrt", "linear"]
Precision = Literal["f32", "bf16", "i16", "i8"]  # i16, i8: of matrix products alone


@frozen
class OptimizerConfig(Checked):
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

    def problems(self) -> Iterator[InputError]:
        return out_of_limits(self)


@frozen
class ScheduleConfig(Checked):
    """Learning rate over steps; `total_steps` is None for a trunk, which is as long as its branches need."""

    kind: ScheduleKind
    total_steps: int | None
    warmup_steps: int = 100
    decay_steps: int = 0
    decay_shape: DecayShape = "1-sqrt"
    final_fraction: float = 0.0

    def problems(self) -> Iterator[InputError]:
        return out_of_limits(self)


@frozen
class Branch:
    """Where a decay branch leaves its trunk."""

    parent: str
    step: int


@frozen
class RunConfig(Checked):
    """Everything that decides a run's loss curve. Its hash is the run's id.

    `z_loss` weighs the squared log of softmax's denominator (PaLM, arXiv 2204.02311, section 5). With
    `mup_base_width` starts and rates are those of muP (`training/scaling.py`). `recompute` says what the
    backward pass computes again rather than keeps, `compile` whether torch.compile has a part in it.
    `micro_batch` are sequences that go through the model at once; None finds what fits. `initial_weights` is
    the sha256 of weights that a continued run starts from (`training/starts.py`); None draws them.
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
    compile: bool = added(False)
    micro_batch: int | None = added(None)
    initial_weights: str | None = added(None)

    def problems(self) -> Iterator[InputError]:
        yield from out_of_limits(self)
        if self.model.vocabulary < self.data.vocabulary:
            yield InputError(
                f"model.vocabulary is {self.model.vocabulary}, fewer than data.vocabulary: "
                f"{self.data.vocabulary} tokens",
                hint=f"set data.vocabulary to {self.model.vocabulary} or less, or give the model more",
            )
        yield from precision_problems(self.precision, self.recompute, compiled=self.compile)
        yield from mup_problems(
            self.mup_base_width, optimizer=self.optimizer.kind, tied_head=self.model.tied_head
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
