"""One run from wherever it stands to its end: train, log, checkpoint, evaluate, record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from llama_scale.errors import StoreError
from llama_scale.frozen import frozen
from llama_scale.runs import PASSED_OVER, EventLog, RunFolder, RunStatus, branches_of, run_folders
from llama_scale.runs.manifests import Notes
from llama_scale.training.checkpoint import (
    Restored,
    clear_leftovers,
    delete_checkpoint,
    prune_checkpoints,
    restore_checkpoint,
    restore_newest,
    save_checkpoint,
)
from llama_scale.training.data import TokenFiles, seen
from llama_scale.training.environment import software, using_threads
from llama_scale.training.starts import fill_start
from llama_scale.training.trainer import Step, Trainer
from llama_scale.training.weights import save_weights
from llama_scale.training.world import ALONE, World

Outcome = Literal["done", "stopped", "waiting", "diverged"]
UNKNOWN_LOSS = {"loss_nats": None, "bits_per_byte": None}  # of a run that diverged
LOG_STEPS = 50
CHECKPOINT_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two looks at what the steps were like and at whether to stop


class SilentLog:
    """The log of a process that does not lead: as an EventLog, without the events."""

    def append(self, event: str, **fields: Any) -> None: ...
    def check(self) -> None: ...
    def sync(self) -> None: ...
    def conclude(self, result: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


Log = EventLog | SilentLog


@frozen
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


def _once_cleared(goal: Goal, folder: RunFolder) -> Goal:
    """`goal` when checkpoints that cannot be used are gone: branch points among them are missing again."""
    missing = goal.needed - set(folder.checkpoint_steps())
    return replace(goal, missing=missing, last_step=max(missing)) if missing > goal.missing else goal


@frozen
class Glance:
    """The steps taken since the last glance, in order, and the seconds that they took together."""

    steps: tuple[Step, ...]
    seconds: float


Watch = Callable[[Glance], None]
Tell = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class _Interval:
    """The steps since the last log: what the next log is the mean of. Seconds are of this process alone."""

    steps: list[Step] = field(default_factory=list)
    timed: int = 0
    seconds: float = 0.0

    def add(self, glance: Glance) -> None:
        self.steps.extend(glance.steps)
        self.timed += len(glance.steps)
        self.seconds += glance.seconds

    def until(self, step: int) -> _Interval | None:
        """The part before `step`; None if there is none."""
        steps = [known for known in self.steps if known.step < step]
        return replace(self, steps=steps) if steps else None

    def report(self, tokens_per_step: int) -> dict[str, Any]:
        """What to log: the means, the learning rate of the first step, and each step's own numbers."""
        losses, norms = [s.loss_nats for s in self.steps], [s.gradient_norm for s in self.steps]
        return {
            "step": self.steps[-1].step,
            "loss_nats": math.fsum(losses) / len(losses),
            "gradient_norm": math.fsum(norms) / len(norms),
            "learning_rate": self.steps[0].learning_rate,
            "tokens_per_second": self.timed * tokens_per_step / self.seconds,
            "each_loss_nats": losses,
            "each_gradient_norm": norms,
        }


def train_run(
    store: Path,
    folder: RunFolder,
    files: TokenFiles,
    *,
    device: torch.device,
    should_stop: Callable[[], bool],
    watch: Watch | None = None,
    tell: Tell | None = None,
    world: World = ALONE,
) -> Outcome:
    """Bring one run to its end, from its newest checkpoint or its branch point; a finished one is left alone.

    Returns "stopped" if `should_stop` said so (a checkpoint was saved first), "waiting" if its trunk has
    not reached the branch point yet, and "diverged" if its loss is no number any more, or its trunk's was.
    `watch` sees every step, about once a second; `tell` hears of checkpoints that could not be used. Raises
    StoreError where the disk refuses.
    """
    if world.agree(folder.result() is not None):  # before the run is claimed, as in a store that is read-only
        return "done"
    with ExitStack() as stack:
        # Only the leader reads and writes the folder's log; were it refused, torchrun would end the others.
        lease = stack.enter_context(folder.claim()) if world.leads else None
        goal = world.agree(None if folder.result() is not None else goal_of(folder, store))
        if goal is None or goal.last_step == 0:
            return "done"
        if world.leads:
            clear_leftovers(folder)
        stack.enter_context(using_threads(world.agree(_first_threads(folder, device))))
        trainer = Trainer(folder.config, files, device, world)
        log = stack.enter_context(closing(EventLog(folder, lease) if lease else SilentLog()))
        interval = _start(trainer, store, folder, log, goal, tell)
        if interval is None:
            return _without_trunk(trainer, store, log)
        goal = world.agree(_once_cleared(goal, folder))
        outcome = _train(trainer, folder, log, goal, interval, should_stop, watch)
        if outcome == "done" and folder.config.schedule.total_steps is not None:
            return _finish(trainer, store, folder, log)
        return outcome


def _first_threads(folder: RunFolder, device: torch.device) -> int | None:
    """Threads of the process that began the run on a CPU: with others, sums differ in their last bits.

    So a sweep that goes on with more workers, and fewer threads each, changes no curve that it had begun.
    """
    first = next((event for event in folder.events() if event["event"] == "start"), None)
    return first.get("threads") if first and first.get("device") == device.type == "cpu" else None


def _start(
    trainer: Trainer, store: Path, folder: RunFolder, log: Log, goal: Goal, tell: Tell | None
) -> _Interval | None:
    """Load the newest usable state; None if this is a branch whose trunk is not there yet.

    A checkpoint counts only if the log reaches it (else the loss curve would have a gap) and if no
    branch point that is still missing lies before it.
    """
    world, state = trainer.world, trainer.optimizer.tensors()
    logged = max((e["step"] for e in folder.events() if e["event"] == "checkpoint"), default=0)
    up_to = world.agree(min(logged, *goal.missing) if goal.missing else logged)
    restored, passed_over = restore_newest(folder, state, up_to=up_to, world=world)
    for step, error in passed_over:
        # Deleted, or it would stand in the way of the one that is made again at its step.
        log.append(PASSED_OVER, reason=error.message)
        if world.leads:
            delete_checkpoint(folder, step)
    branch, interval = trainer.config.branch, _Interval()
    if restored is not None:
        interval = _Interval(steps=[Step(*row) for row in restored.notes.unlogged])
    elif branch is not None:
        restored = _branch_point(trainer, RunFolder(store / branch.parent), branch.step, log)
        if restored is None:
            return None
    if restored is not None:
        trainer.resume(restored.step, micro_batch=restored.notes.micro_batch)
    elif trainer.config.initial_weights is not None:
        fill_start(folder, state["weights"])
        trainer.resume(0)
    if passed_over and tell is not None and world.leads:
        reasons = "; ".join(error.message for _, error in passed_over)
        tell(f"{reasons}: the run goes on from step {trainer.step:,}")
    log.append(
        "start",
        step=trainer.step,
        micro_batch=trainer.micro_batch,
        config=trainer.config,
        tokenizer=trainer.files.tokenizer_sha256,
        **software(trainer.device, trainer.computed_by),
    )
    return interval


def _branch_point(trainer: Trainer, trunk: RunFolder, step: int, log: Log) -> Restored | None:
    """The trunk's state at `step`; None if it is not there yet, or harmed: the trunk will make it again."""
    world = trainer.world
    if not world.agree(step in trunk.checkpoint_steps()):
        return None
    try:
        return restore_checkpoint(trunk, step, trainer.optimizer.tensors(), world)
    except StoreError as error:
        log.append(PASSED_OVER, reason=error.message)
        if world.leads:
            delete_checkpoint(trunk, step)
        return None


def _without_trunk(trainer: Trainer, store: Path, log: Log) -> Outcome:
    """A branch whose trunk is not there yet waits for it; where that diverged, it would have too."""
    branch = trainer.config.branch
    trunk = RunFolder(store / branch.parent) if branch else None
    if trunk is None or not trainer.world.agree(trunk.diverged_by(trainer.config.first_step)):
        return "waiting"
    step = (trunk.result() or {})["steps"]
    return _diverged(trainer, log, step, trunk=trunk.run)


def _diverged(trainer: Trainer, log: Log, step: int, **why: str) -> Outcome:
    """The run ends here, for ever: what it would do again is known."""
    log.append("diverged", step=step, **why)
    _record(trainer, log, "diverged", step, UNKNOWN_LOSS)
    return "diverged"


def _train(
    trainer: Trainer,
    folder: RunFolder,
    log: Log,
    goal: Goal,
    interval: _Interval,
    should_stop: Callable[[], bool],
    watch: Watch | None,
) -> Outcome:
    saved_at, micro_batch = time.monotonic(), trainer.micro_batch
    for glance in _glances(trainer, goal):
        interval.add(glance)
        micro_batch = _noting_memory(trainer, log, micro_batch)
        if watch is not None:
            watch(glance)
        if bad := next((step for step in glance.steps if not step.is_finite), None):
            if finite := interval.until(bad.step):
                log.append("train", **finite.report(trainer.config.tokens_per_step))
            return _diverged(trainer, log, bad.step)
        if trainer.step in _ends(trainer.step - 1, goal):
            log.append("train", **interval.report(trainer.config.tokens_per_step))
            interval = _Interval()
        stopping = any(trainer.world.gather(should_stop())) and trainer.step < goal.last_step
        due = trainer.world.agree(time.monotonic() - saved_at >= CHECKPOINT_SECONDS)
        if stopping or due or trainer.step in goal.missing:
            _save(trainer, folder, log, goal, interval)
            saved_at = time.monotonic()
        if stopping:
            return "stopped"
    return "done"


def _noting_memory(trainer: Trainer, log: Log, before: int) -> int:
    """Log that memory ran out if the micro-batch is no more what it was `before`; gives what it is."""
    if trainer.micro_batch != before:
        log.append("out_of_memory", step=trainer.step, micro_batch=trainer.micro_batch)
    return trainer.micro_batch


def _glances(trainer: Trainer, goal: Goal) -> Iterator[Glance]:
    """Train to the goal, with a glance at each end of an interval and about every LOOK_SECONDS between.

    A glance is also the moment to save or to stop. How many steps lie between two of them is what the
    last steps took, at most twice as many as before: on a GPU to look at a step is to wait for it.
    """
    stride = 1
    while trainer.step < goal.last_step:
        began, first = time.monotonic(), trainer.step
        until = min(first + stride, *_ends(first, goal))
        while trainer.step < until:
            trainer.advance()
        steps = trainer.collect()
        seconds = time.monotonic() - began
        wanted = max(1, min(2 * stride, int(LOOK_SECONDS * (until - first) / max(seconds, 1e-9))))
        stride = trainer.world.agree(wanted)
        yield Glance(steps=tuple(steps), seconds=seconds)


def _ends(step: int, goal: Goal) -> set[int]:
    """Where intervals that may follow `step` end: they depend on the steps alone.

    So a resumed run logs the same intervals.
    """
    ends = {(step // LOG_STEPS + 1) * LOG_STEPS, goal.last_step, *goal.missing}
    return {end for end in ends if end > step}


def _save(trainer: Trainer, folder: RunFolder, log: Log, goal: Goal, interval: _Interval) -> None:
    """The log reaches the disk before the checkpoint that goes with it, so that no curve has a gap."""
    log.append("checkpoint", step=trainer.step)
    log.sync()
    try:
        save_checkpoint(
            folder,
            trainer.step,
            trainer.optimizer.tensors(),
            notes=Notes(micro_batch=trainer.micro_batch, unlogged=tuple(interval.steps)),
            check=log.check,
            world=trainer.world,
        )
    except StoreError:
        log.check()  # whoever took the run over clears away what this process had begun
        raise
    if trainer.world.leads:
        prune_checkpoints(folder, keep=goal.needed, up_to=trainer.step)


def _finish(trainer: Trainer, store: Path, folder: RunFolder, log: Log) -> Outcome:
    micro_batch, measured = trainer.micro_batch, trainer.evaluate()
    _noting_memory(trainer, log, micro_batch)
    if not math.isfinite(measured["loss_nats"]):  # the last update was too much
        return _diverged(trainer, log, trainer.step)
    log.append("evaluation", step=trainer.step, **measured)
    log.sync()
    sha256 = save_weights(folder, trainer.model, trainer.world)
    _record(trainer, log, "done", trainer.step, {**measured, "weights_sha256": sha256})
    if trainer.world.leads:
        prune_checkpoints(folder, keep=frozenset(), newest=0)
        if trainer.config.branch is not None:
            parent = RunFolder(store / trainer.config.branch.parent)
            prune_checkpoints(parent, keep=goal_of(parent, store).needed)
    return "done"


def _record(trainer: Trainer, log: Log, status: RunStatus, steps: int, measured: dict[str, Any]) -> None:
    config = trainer.config
    log.conclude(
        {
            "status": status,
            "steps": steps,
            "tokens": steps * config.tokens_per_step,
            "train_flops": config.train_flops(steps),
            "parameters": asdict(config.model.parameters),
            **measured,
            "corpus": trainer.files.corpus,
            "tokenizer": trainer.files.tokenizer_sha256,
            "data": seen(
                trainer.files,
                seed=config.seed,
                sequences=steps * config.sequences_per_step,
                context=config.model.context,
            ),
            **software(trainer.device, trainer.computed_by),
            "processes": trainer.world.size,
        }
    )


def check_corpus(folder: RunFolder, files: TokenFiles) -> None:
    """Raises StoreError if the prepared data is not the corpus that the run was planned on.

    Nor may its tokenizer be another than that of the run's steps so far, or of its trunk's.
    """
    config = folder.config
    if files.corpus != config.corpus:
        raise StoreError(
            f"run {folder.run} was planned on corpus {config.corpus[:12]}, but the data is of "
            f"{files.corpus[:12]}",
            hint="install the same package versions again, or start a new store with --store",
        )
    trunk = RunFolder(folder.path.parent / config.branch.parent) if config.branch else folder
    for begun in dict.fromkeys((folder, trunk)):
        before = next((event["tokenizer"] for event in begun.events() if "tokenizer" in event), None)
        if before not in (None, files.tokenizer_sha256):
            raise StoreError(
                f"run {begun.run} began on tokenizer {before[:12]}, but the data is of tokenizer "
                f"{files.tokenizer_sha256[:12]}, so losses would not be of the same tokens",
                hint="prepare the data with the version of tokenizers used then, or start a new store with "
                "--store",
            )
