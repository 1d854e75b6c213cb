"""How fast a run goes, how well it uses its hardware, and when it will end: from its glances alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_scale.frozen import frozen
from llama_scale.runs import RunConfig

if TYPE_CHECKING:
    from llama_scale.training.loop import Glance
    from llama_scale.training.trainer import Step

MEMORY_SECONDS = 20.0  # a rate is the mean of about so long
TREND = 0.02  # share of a step in the smoothed loss


@frozen
class Reading:
    """The run at its last step: rates in tokens/s, MFU as a share of the peak (None without one)."""

    steps: tuple[Step, ...]
    last_step: int
    smooth_loss_nats: float
    tokens_per_second: float
    mfu: float | None
    remaining_seconds: float

    @property
    def step(self) -> Step:
        return self.steps[-1]


class Meter:
    """Turns glances into readings; rates forget what is older than MEMORY_SECONDS."""

    def __init__(self, config: RunConfig, *, last_step: int, peak_flops_per_second: float | None) -> None:
        self.last_step, self.peak = last_step, peak_flops_per_second
        self.tokens_per_step = config.tokens_per_step
        self.flops_per_token = float(config.model.train_flops_per_token())
        self._steps = self._seconds = 0.0
        self._seen = 0
        self._smooth = 0.0

    def read(self, glance: Glance) -> Reading:
        """The reading after `glance`, which has at least one step."""
        kept = max(0.0, 1.0 - glance.seconds / MEMORY_SECONDS)
        self._steps = kept * self._steps + len(glance.steps)
        self._seconds = kept * self._seconds + glance.seconds
        for step in glance.steps:
            self._seen += 1  # the plain mean at first: a trend that began at the first loss would lag behind
            self._smooth += max(TREND, 1 / self._seen) * (step.loss_nats - self._smooth)
        rate = self._steps * self.tokens_per_step / max(self._seconds, 1e-9)
        return Reading(
            steps=glance.steps,
            last_step=self.last_step,
            smooth_loss_nats=self._smooth,
            tokens_per_second=rate,
            mfu=rate * self.flops_per_token / self.peak if self.peak else None,
            remaining_seconds=(self.last_step - glance.steps[-1].step) * self.tokens_per_step / rate,
        )
