"""A model and its optimiser at a step: take the next one, say what it was, measure the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from llama_scale.errors import InputError
from llama_scale.quantities import counted
from llama_scale.runs import INTEGERS, RunConfig
from llama_scale.training.data import TokenFiles, evaluation_batches, training_sequences
from llama_scale.training.environment import has_bf16
from llama_scale.training.kernels import gradients_of
from llama_scale.training.micro_batch import (
    check_model_fits,
    first_micro_batch,
    halved,
    is_out_of_memory,
    model_too_large,
)
from llama_scale.training.model import Llama
from llama_scale.training.optimizer import FlatOptimizer
from llama_scale.training.scaling import initialise
from llama_scale.training.schedule import learning_rate_factor
from llama_scale.training.world import ALONE, World

if TYPE_CHECKING:
    from llama_scale.training.sharding import ShardedOptimizer

LN2 = math.log(2)
# An evaluation keeps nothing for a backward pass: where it finds no room, that went to somebody else.
FREED = "steps took more: free what others hold, then give the same command, which resumes the run"
T = TypeVar("T")


class Step(NamedTuple):
    """What one step was like: its number counts from 1, its loss is in nats per token."""

    step: int
    loss_nats: float
    gradient_norm: float
    learning_rate: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss_nats + self.gradient_norm)


class Trainer:
    """A model and its optimiser at a step; every step is a function of (config, step) alone.

    In a world of several processes each takes its share of the rows of every batch.
    """

    def __init__(
        self, config: RunConfig, files: TokenFiles, device: torch.device, world: World = ALONE
    ) -> None:
        self.config, self.files, self.device, self.world = config, files, device, world
        self.model, self.optimizer = _build(config, device, world)
        own = config.sequences_per_step // world.size
        at_once = min(own, config.micro_batch or own)
        self.gradients = gradients_of(self.model, config.precision, sequences=at_once)
        # The same in every process: a shared model goes through all of them together.
        self.micro_batch = min(world.gather(first_micro_batch(config, device, processes=world.size)))
        self.step = 0
        self._uncollected: list[tuple[Tensor, Tensor]] = []

    @property
    def computed_by(self) -> str:
        """What computes gradients and updates, for the run's record."""
        return " and ".join(dict.fromkeys((self.gradients.name, self.optimizer.name)))

    def advance(self) -> None:
        """Take one step; its loss and gradient norm stay on the device until they are collected."""
        config, sequences = self.config, self.config.sequences_per_step
        own = np.arange(self.step * sequences, (self.step + 1) * sequences)[self.world.rows(sequences)]
        ids = training_sequences(self.files, own, seed=config.seed, context=config.model.context)
        batch = _sent(torch.from_numpy(ids), self.device)
        loss = self._fitting(lambda: self._accumulate(batch), self._smaller)
        norm = self.optimizer.step(self.learning_rate(self.step))
        self.step += 1
        self._uncollected.append((loss, norm))

    def _accumulate(self, batch: Tensor) -> Tensor:
        """Add up the gradients of this process's rows, a micro-batch at a time.

        Returns the loss of these rows times their share of the step's.
        """
        total = torch.zeros((), device=self.device)
        for part in batch.split(self.micro_batch):
            share = len(part) / self.config.sequences_per_step
            loss = self.gradients(part[:, :-1], part[:, 1:], self.config.z_loss, share)
            self.optimizer.gather()
            total += loss * share
        return total

    def _fitting(self, work: Callable[[], T], advice: Callable[[], str]) -> T:
        """What `work` gives, done again with half the micro-batch whenever memory runs out.

        Raises InputError with `advice` where nothing smaller can be tried.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # The others of a world would go on without this one.
                if self.micro_batch == 1 or self.world.shards:
                    raise InputError(
                        f"{counted(self.micro_batch, 'sequence')} of {self.config.model.context} tokens at "
                        f"once {'does' if self.micro_batch == 1 else 'do'} not fit in the memory of "
                        f"{self.device}",
                        hint=advice(),
                    ) from error
            self.optimizer.discard()  # once the error, whose frames hold memory, is gone
            self.micro_batch = halved(self.micro_batch)

    def _smaller(self) -> str:
        """What would make a step take less memory."""
        precision, recompute = self.config.precision, self.config.recompute
        ways = {
            f"training.micro_batch below {self.micro_batch}": self.micro_batch > 1,
            'training.precision = "f32" with training.recompute = "full"': precision in INTEGERS,
            'training.recompute = "full"': precision not in INTEGERS and recompute != "full",
            'training.precision = "bf16"': precision == "f32" and has_bf16(self.device),
        }
        left = ", ".join(way for way, is_left in ways.items() if is_left)
        return f"set {left}, or a shorter context" if left else "set a shorter context"

    def learning_rate(self, step: int) -> float:
        return self.config.optimizer.learning_rate * learning_rate_factor(self.config.schedule, step)

    def collect(self) -> list[Step]:
        """The steps since the last call, in order; waits for the device, once for all of them."""
        if not self._uncollected:
            return []
        losses, norms = (torch.stack(values) for values in zip(*self._uncollected, strict=True))
        first = self.step - len(self._uncollected)
        self._uncollected.clear()
        rows = torch.stack([self.world.sum(losses), norms], dim=1).tolist()
        return [
            Step(step=step + 1, loss_nats=loss, gradient_norm=norm, learning_rate=self.learning_rate(step))
            for step, (loss, norm) in enumerate(rows, start=first)
        ]

    def evaluate(self) -> dict[str, float | int]:
        """Loss on the fixed validation text, in nats per token and in bits per byte.

        In batches as large as in training, so it fits where that does.
        """
        return self._fitting(self._evaluated, lambda: FREED)

    def _evaluated(self) -> dict[str, float | int]:
        context = self.config.model.context
        lengths = torch.from_numpy(self.files.tokenizer.token_bytes)
        nats, tokens, size = torch.zeros((), dtype=torch.float64), 0, 0
        for ids in evaluation_batches(
            self.files,
            tokens=self.config.data.evaluation_tokens,
            sequences=self.world.size * self.micro_batch,
            context=context,
        ):
            targets = torch.from_numpy(ids)[:, 1:]
            size += int(lengths[targets].sum())
            tokens += targets.numel()
            own = ids[self.world.rows(len(ids))]
            # All processes run the model, for it is shared: one without rows of its own counts for nothing.
            batch = torch.from_numpy(own if len(own) else ids[:1]).to(self.device)
            loss = self.gradients.loss(batch[:, :-1], batch[:, 1:]).item()
            nats += loss if len(own) else 0.0
        total = self.world.sum(nats).item()
        return {"loss_nats": total / tokens, "bits_per_byte": total / size / LN2, "evaluation_tokens": tokens}

    def resume(self, step: int, *, micro_batch: int | None = None) -> None:
        """Stand at `step`, after the optimiser's tensors were filled with the state there.

        With the `micro_batch` of then: sums in another order differ in their last bits.
        """
        self.micro_batch = micro_batch or self.micro_batch
        self.optimizer.resume(step)
        self.step = step
        self._uncollected.clear()


def _build(
    config: RunConfig, device: torch.device, world: World
) -> tuple[Llama, FlatOptimizer | ShardedOptimizer]:
    """The model at its start on `device`, and its optimiser."""
    if world.shards:
        from llama_scale.training.sharding import sharded

        return sharded(config, device, world)
    try:
        check_model_fits(config, device)  # a GPU that others fill refuses even to say what is free
        model = Llama(config.model, recompute=config.recompute, compiled=config.compile)
        initialise(model, config.seed, config.initial_gain, mup_base_width=config.mup_base_width)
        model.to(device)
        return model, FlatOptimizer(model, config)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise model_too_large(config, device, "which this process was not given") from error


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """`batch` on `device`; for a GPU by pinned memory, as a copy from any other waits for earlier steps."""
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)
