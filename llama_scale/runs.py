"""What a run is (RunConfig), what it left behind (RunRecord), and the folder that holds them (RunStore)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_scale.architecture import ParameterCounts

RunStatus = Literal["planned", "running", "done", "diverged", "failed"]
RunRole = Literal["train", "holdout", "trunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run's outcome: what a law is fitted on, tested with (`holdout`) or never sees (`trunk`).

    `family` names the constant-rate trunk that a decay branch grew from: runs of one family share
    its noise. `corpus` and `tokenizer` are hashes; losses compare only where both are equal.
    """

    run: str
    role: RunRole
    status: RunStatus
    parameters: ParameterCounts
    tokens: int
    train_flops: float
    budget_flops: float | None
    loss_nats: float | None
    bits_per_byte: float | None
    seed: int
    family: str
    corpus: str
    tokenizer: str
    schedule_complete: bool
