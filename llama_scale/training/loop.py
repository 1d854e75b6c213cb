"""One run from wherever it stands to its end: train, log, checkpoint, evaluate, record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llama_scale.errors import StoreError
from llama_scale.runs import EventLog, RunConfig, RunFolder, branches_of, run_folders
from llama_scale.training.checkpoint import (
    clear_leftovers,
    delete_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from llama_scale.training.data import TokenFiles, evaluation_batches, training_batch
from llama_scale.training.environment import software
from llama_scale.training.model import Llama, initialise
from llama_scale.training.optimizer import FlatAdamW
from llama_scale.training.schedule import learning_rate_factor
from llama_scale.training.weights import save_weights

Outcome = Literal["done", "stopped", "waiting", "diverged"]
LOG_STEPS = 50
CHECKPOINT_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two looks at whether to stop
EVALUATION_TOKENS_PER_BATCH = 4_096
LN2 = math.log(2)


class Trainer:
    """A model and its optimiser at a step; every step is a function of (config, step) alone."""

    def __init__(self, config: RunConfig, files: TokenFiles, device: torch.device) -> None:
        self.config, self.files, self.device = config, files, device
        self.model = Llama(config.model)
        initialise(self.model, config.seed, config.initial_gain)
        self.model.to(device)
        self.optimizer = FlatAdamW(self.model, config.optimizer)
        self.step = 0
        self.unlogged: list[tuple[Tensor, Tensor]] = []

    def advance(self) -> None:
        """Take one step; its loss and gradient norm join `unlogged`, left on the device."""
        config = self.config
        ids = training_batch(
            self.files.train,
            seed=config.seed,
            step=self.step,
            sequences=config.sequences_per_step,
            context=config.model.context,
        )
        batch = torch.from_numpy(ids).to(self.device)
        loss = self.model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        norm = self.optimizer.step(self.learning_rate(self.step))
        self.step += 1
        self.unlogged.append((loss.detach(), norm))

    def learning_rate(self, step: int) -> float:
        return self.config.optimizer.learning_rate * learning_rate_factor(self.config.schedule, step)

    def summary(self) -> dict[str, Any]:
        """What to log of the steps since the last log, which are then forgotten."""
        losses, norms = (torch.stack(values) for values in zip(*self.unlogged, strict=True))
        first = self.step - len(self.unlogged)
        self.unlogged.clear()
        return {
            "step": self.step,
            "loss_nats": losses.mean().item(),
            "gradient_norm": norms.mean().item(),
            "learning_rate": self.learning_rate(first),
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float | int]:
        """Loss on the fixed validation text, in nats per token and in bits per byte."""
        context = self.config.model.context
        lengths = torch.from_numpy(self.files.tokenizer.token_bytes)
        nats, tokens, size = 0.0, 0, 0
        for ids in evaluation_batches(
            self.files,
            tokens=self.config.data.evaluation_tokens,
            sequences=max(1, EVALUATION_TOKENS_PER_BATCH // context),
            context=context,
        ):
            batch = torch.from_numpy(ids)
            size += int(lengths[batch[:, 1:]].sum())
            batch = batch.to(self.device)
            nats += self.model.loss(batch[:, :-1], batch[:, 1:], reduction="sum").item()
            tokens += batch[:, 1:].numel()
        return {"loss_nats": nats / tokens, "bits_per_byte": nats / size / LN2, "evaluation_tokens": tokens}

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, and what is not logged yet."""
        return {**self.optimizer.state_dict(), "unlogged": self.unlogged}

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
        self.step = state["step"]
        self.unlogged = list(state.get("unlogged", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Where a run has to get to now: the steps to stop at, of which a trunk saves each for its branches.

    `needed` are the branch points of unfinished branches, `missing` those without a checkpoint yet.
    """

    last_step: int
    needed: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()


def goal_of(folder: RunFolder, store: Path) -> Goal:
    """A run with a schedule goes to its end; a trunk goes to the last branch point that is still missing."""
    if folder.config.schedule.total_steps is not None:
        return Goal(last_step=folder.config.schedule.total_steps)
    needed = {b.config.first_step for b in branches_of(folder, run_folders(store)) if not b.is_finished}
    missing = needed - set(folder.checkpoint_steps())
    return Goal(last_step=max(missing, default=0), needed=frozenset(needed), missing=frozenset(missing))


def train_run(
    store: Path,
    folder: RunFolder,
    files: TokenFiles,
    *,
    device: torch.device,
    should_stop: Callable[[], bool],
) -> Outcome:
    """Bring one run to its end, from its newest checkpoint or its branch point; a finished one is left alone.

    Returns "stopped" if `should_stop` said so (a checkpoint was saved first) and "waiting" if its trunk
    has not reached the branch point yet. Raises StoreError where the disk refuses.
    """
    with folder.claim() as lease:
        if folder.result() is not None:
            return "done"
        goal = goal_of(folder, store)
        if goal.last_step == 0:
            return "done"
        clear_leftovers(folder)
        trainer = Trainer(folder.config, files, device)
        with closing(EventLog(folder, lease)) as log:
            if not _start(trainer, store, folder, log, goal):
                return "waiting"
            outcome = _train(trainer, folder, log, goal, should_stop)
            if outcome == "done" and folder.config.schedule.total_steps is not None:
                _finish(trainer, store, folder, log)
        return outcome


def _start(trainer: Trainer, store: Path, folder: RunFolder, log: EventLog, goal: Goal) -> bool:
    """Load the newest usable state; False if this is a branch whose trunk is not there yet.

    A checkpoint counts only if the log reaches it (else the loss curve would have a gap) and if no
    branch point that is still missing lies before it.
    """
    logged = max((e["step"] for e in folder.events() if e["event"] == "checkpoint"), default=0)
    state, passed_over = newest_checkpoint(
        folder, trainer.device, up_to=min(logged, *goal.missing) if goal.missing else logged
    )
    for step, error in passed_over:
        # Deleted, or it would stand in the way of the one that is made again at its step.
        log.append("checkpoint_passed_over", reason=error.message)
        delete_checkpoint(folder, step)
    branch = trainer.config.branch
    if state is None and branch is not None:
        parent = RunFolder(store / branch.parent)
        if branch.step not in parent.checkpoint_steps():
            return False
        try:
            state = load_checkpoint(parent, branch.step, trainer.device)
        except StoreError as error:
            # The trunk will make it again from an older one.
            log.append("checkpoint_passed_over", reason=error.message)
            delete_checkpoint(parent, branch.step)
            return False
        state |= {"unlogged": ()}  # the trunk's own
    if state is not None:
        trainer.load(state)
    log.append("start", step=trainer.step, **software(trainer.device))
    return True


def _train(
    trainer: Trainer, folder: RunFolder, log: EventLog, goal: Goal, should_stop: Callable[[], bool]
) -> Outcome:
    saved_at = time.monotonic()
    for report in _intervals(trainer, goal):
        if report is not None:
            if not math.isfinite(report["loss_nats"] + report["gradient_norm"]):
                log.append("diverged", step=report["step"])
                _record(trainer, folder, "diverged", {"loss_nats": None, "bits_per_byte": None})
                return "diverged"
            log.append("train", **report)
        stopping = should_stop() and trainer.step < goal.last_step
        due = time.monotonic() - saved_at >= CHECKPOINT_SECONDS
        if stopping or due or trainer.step in goal.missing:
            _save(trainer, folder, log, goal)
            saved_at = time.monotonic()
        if stopping:
            return "stopped"
    return "done"


def _intervals(trainer: Trainer, goal: Goal) -> Iterator[dict[str, Any] | None]:
    """Train up to each multiple of LOG_STEPS and each branch point; yield what to log there.

    The boundaries depend on the steps alone, so a resumed run logs the same intervals. Between them
    None is yielded now and then: a moment to save or to stop, however slow the steps are.
    """
    looked = time.monotonic()
    while trainer.step < goal.last_step:
        began, first = time.monotonic(), trainer.step
        stops = [(first // LOG_STEPS + 1) * LOG_STEPS, goal.last_step, *goal.missing]
        until = min(step for step in stops if step > first)
        while trainer.step < until:
            trainer.advance()
            if trainer.step < until and time.monotonic() - looked > LOOK_SECONDS:
                yield None
                looked = time.monotonic()
        seconds = time.monotonic() - began
        rate = (until - first) * trainer.config.tokens_per_step / seconds
        yield {**trainer.summary(), "tokens_per_second": rate}


def _save(trainer: Trainer, folder: RunFolder, log: EventLog, goal: Goal) -> None:
    """The log reaches the disk before the checkpoint that goes with it, so that no curve has a gap."""
    log.append("checkpoint", step=trainer.step)
    log.sync()
    try:
        save_checkpoint(folder, trainer.step, trainer.state_dict(), check=log.lease.check)
    except StoreError:
        log.lease.check()  # whoever took the run over clears away what this process had begun
        raise
    prune_checkpoints(folder, keep=goal.needed, up_to=trainer.step)


def _finish(trainer: Trainer, store: Path, folder: RunFolder, log: EventLog) -> None:
    measured = trainer.evaluate()
    log.append("evaluation", step=trainer.step, **measured)
    log.sync()
    sha256 = save_weights(folder, trainer.model)
    _record(trainer, folder, "done", {**measured, "weights_sha256": sha256})
    prune_checkpoints(folder, keep=frozenset(), newest=0)
    if trainer.config.branch is not None:
        parent = RunFolder(store / trainer.config.branch.parent)
        prune_checkpoints(parent, keep=goal_of(parent, store).needed)


def _record(trainer: Trainer, folder: RunFolder, status: str, measured: dict[str, Any]) -> None:
    config = trainer.config
    folder.write_result(
        {
            "status": status,
            "steps": trainer.step,
            "tokens": trainer.step * config.tokens_per_step,
            "train_flops": config.train_flops(trainer.step),
            "parameters": asdict(config.model.parameters),
            **measured,
            "corpus": trainer.files.corpus,
            "tokenizer": trainer.files.tokenizer_sha256,
            **software(trainer.device),
        }
    )


def check_corpus(folder: RunFolder, files: TokenFiles) -> None:
    """Raises StoreError if the prepared data is not the corpus that the run was planned on."""
    if files.corpus != folder.config.corpus:
        raise StoreError(
            f"run {folder.run} was planned on corpus {folder.config.corpus[:12]}, but the data is of "
            f"{files.corpus[:12]}",
            hint="install the same package versions again, or start a new store with --store",
        )
