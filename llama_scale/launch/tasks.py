"""What launchers share: a run as a task, the whole sweep at a moment, and how a launch ended.

What a run's state is, only its folder says.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from llama_scale.errors import LlamaScaleError
from llama_scale.files import write_atomically
from llama_scale.frozen import frozen
from llama_scale.runs import RunConfig, RunFolder, stop_signals
from llama_scale.sweeps import Sweep

ATTEMPTS = 3  # of a run that fails without a step forward


@frozen
class Task:
    """A run as a launcher sees it: its own steps, what they are expected to take, what comes after."""

    folder: RunFolder
    config: RunConfig
    steps: int
    flops: float
    seconds: float
    path_seconds: float
    parent: RunFolder | None
    branches: tuple[tuple[RunFolder, int], ...]

    @property
    def run(self) -> str:
        return self.folder.run

    def is_finished(self, anew: Collection[str] = ()) -> bool:
        """A branch is finished by its result; a trunk when every unfinished branch has its point.

        The results of runs in `anew` do not count: they will be set aside.
        """
        if self.folder.is_finished and self.run not in anew:
            return True
        if self.config.role != "trunk":
            return False
        unfinished = [step for branch, step in self.branches if branch.run in anew or not branch.is_finished]
        return not unfinished or set(self.folder.checkpoint_steps()).issuperset(unfinished)

    def is_ready(self) -> bool:
        """Whether a worker can do something for it: train, or say that it diverged with its trunk."""
        if self.parent is None:
            return True
        point = self.config.first_step
        return (
            point in self.parent.checkpoint_steps()
            or bool(self.folder.checkpoint_steps())
            or self.parent.diverged_by(point)
        )


@frozen
class Running:
    """One member that trains now."""

    run: str
    width: int
    kind: str
    step: int
    last_step: int
    share: float
    loss_nats: float | None
    tokens_per_second: float | None
    remaining_seconds: float | None


@frozen
class Progress:
    """The whole sweep at a moment; `held` are runs that wait for another process to finish or to be gone."""

    done: int
    total: int
    running: tuple[Running, ...]
    failed: tuple[str, ...]
    flops_done: float
    flops_total: float
    elapsed_seconds: float
    remaining_seconds: float | None
    held: tuple[str, ...] = ()


@frozen
class LaunchReport:
    """How a launch ended: runs that failed, and the share of the workers' time that was spent on runs.

    The share is None where the workers are not ours to time.
    """

    failed: tuple[str, ...]
    seconds: float
    busy_share: float | None


def plan_tasks(store: Path, sweep: Sweep, seconds_per_step: Mapping[str, float]) -> list[Task]:
    """The tasks of a sweep with the time from each one's start to the end of the longest run behind it."""
    steps, flops = sweep.own_steps, sweep.own_flops
    children: dict[str, list[str]] = {}
    for run, config in sweep.by_id.items():
        if config.branch:
            children.setdefault(config.branch.parent, []).append(run)
    tasks = []
    for run, config in sweep.by_id.items():
        own = steps[run] * seconds_per_step[run]
        ends = (steps[child] * seconds_per_step[child] for child in children.get(run, []))
        branches = [(RunFolder(store / c), sweep.by_id[c].first_step) for c in children.get(run, [])]
        tasks.append(
            Task(
                folder=RunFolder(store / run),
                config=config,
                steps=steps[run],
                flops=flops[run],
                seconds=own,
                path_seconds=own + max(ends, default=0.0),
                parent=RunFolder(store / config.branch.parent) if config.branch else None,
                branches=tuple(branches),
            )
        )
    return tasks


def progress_of(
    tasks: Sequence[Task],
    *,
    finished: Collection[str],
    before: Mapping[str, float],
    running: Sequence[Task],
    failed: tuple[str, ...],
    elapsed_seconds: float,
    held: tuple[str, ...] = (),
) -> Progress:
    """The whole sweep now; `before` is the share of each run that was done when this launch began."""
    members = [running_now(task) for task in running]
    shares = {**before, **{m.run: m.share for m in members}, **dict.fromkeys(finished, 1.0)}
    spent = sum((shares.get(t.run, 0.0) - before.get(t.run, 0.0)) * t.seconds for t in tasks)
    left = sum((1 - shares.get(t.run, 0.0)) * t.seconds for t in tasks)
    # Expected times are scaled by how they have come out so far; before that there is nothing to say.
    remaining = left * elapsed_seconds / spent if spent > 0 and elapsed_seconds > 5 else None
    longest = max((m.remaining_seconds or 0.0 for m in members), default=0.0)
    return Progress(
        done=sum(task.run in finished for task in tasks),
        total=len(tasks),
        running=tuple(members),
        failed=failed,
        flops_done=sum(shares.get(task.run, 0.0) * task.flops for task in tasks),
        flops_total=sum(task.flops for task in tasks),
        elapsed_seconds=elapsed_seconds,
        remaining_seconds=None if remaining is None else max(remaining, longest),
        held=held,
    )


def finished_of(tasks: Iterable[Task]) -> set[str]:
    """The runs that are finished, as their folders tell."""
    return {task.run for task in tasks if task.is_finished()}


def shares_done(tasks: Sequence[Task], finished: Collection[str]) -> dict[str, float]:
    """How much of each run is done; runs that were never begun are left out."""
    shares = {task.run: 1.0 if task.run in finished else running_now(task).share for task in tasks}
    return {run: share for run, share in shares.items() if share}


@dataclass(slots=True)
class Attempts:
    """How often each run has failed since it last got further: ATTEMPTS times, and it is given up.

    A long run may be killed often and still arrive. `not_before` is when one may be tried again that was
    refused, on this process's monotonic clock.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reached: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)

    def add(self, task: Task) -> None:
        """Count one more, the first again where the run has saved a later step since the last."""
        step = max(task.folder.checkpoint_steps(), default=0)
        if step > self.reached.get(task.run, 0):
            self.reached[task.run] = step
            self.counts[task.run] = 0
        self.counts[task.run] += 1

    def ready(self, tasks: Iterable[Task], taken: Collection[str]) -> list[Task]:
        """The runs that can start now, but for those `taken`; the longest way to go first."""
        now = time.monotonic()
        ready = (
            task
            for task in tasks
            if task.run not in taken and self.not_before.get(task.run, 0.0) <= now and task.is_ready()
        )
        return sorted(ready, key=lambda task: -task.path_seconds)

    def worn_out(self) -> set[str]:
        """Runs that have failed too often."""
        return {run for run, count in self.counts.items() if count >= ATTEMPTS}

    def failed(
        self, tasks: Sequence[Task], finished: Collection[str], active: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Runs that are given up, and branches whose trunk never reached their point; `active` ones apart."""
        given_up = self.worn_out().difference(active)
        ended = given_up.union(finished)
        cut_off = {
            task.run
            for task in tasks
            if task.run not in ended and task.parent and task.parent.run in ended and not task.is_ready()
        }
        return tuple(sorted((given_up | cut_off).difference(finished, active)))


@dataclass(slots=True)
class Launch:
    """A launch on machines that are not ours to watch: how far its runs are, the store alone tells."""

    tasks: Sequence[Task]
    watch: Callable[[Progress], None]
    attempts: Attempts = field(default_factory=Attempts)
    began: float = field(default_factory=time.monotonic)
    before: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.before = shares_done(self.tasks, finished_of(self.tasks))

    def look(self, active: Collection[str]) -> tuple[set[str], LaunchReport | None]:
        """Show how it stands while `active` runs are out; which have ended, and how it did once all have."""
        finished = finished_of(self.tasks)
        failed = self.attempts.failed(self.tasks, finished, active)
        elapsed = time.monotonic() - self.began
        self.watch(
            progress_of(
                self.tasks,
                finished=finished,
                before=self.before,
                running=[task for task in self.tasks if task.run in active and task.folder.is_held()],
                failed=failed,
                elapsed_seconds=elapsed,
            )
        )
        ended = finished.union(failed)
        is_over = ended >= {task.run for task in self.tasks}
        return ended, LaunchReport(failed=failed, seconds=elapsed, busy_share=None) if is_over else None


def note_death(folder: RunFolder, code: int) -> None:
    """Say in a run's worker.log what ended its worker, which could not say so itself.

    `code` is the process's exit code, below 0 for a signal, as subprocess gives it.
    """
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
    why = ", by somebody or for want of memory" if code == -signal.SIGKILL else ""
    hint = "look into the system's log; fewer --workers leave each more memory"
    with suppress(LlamaScaleError, ValueError):
        write_atomically(folder.log, f"error: its process {how}{why}\nhint: {hint}\n")


def running_now(task: Task) -> Running:
    """Where a run is by the last report in its log."""
    config = task.config
    event = task.folder.last_event() or {}
    first = config.first_step
    last = first + task.steps
    step = min(max(int(event.get("step", first)), first), last)
    rate = event.get("tokens_per_second")
    return Running(
        run=task.run,
        width=config.model.width,
        kind=config.role,
        step=step,
        last_step=last,
        share=(step - first) / task.steps if task.steps else 0.0,
        loss_nats=event.get("loss_nats"),
        tokens_per_second=rate,
        remaining_seconds=(last - step) * config.tokens_per_step / rate if rate else None,
    )


@contextmanager
def noting_interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a question that turns true on Ctrl-C and the like, to be asked at a safe moment.

    Raised wherever it happens to strike, KeyboardInterrupt can fall into a destructor, where Python drops it.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = {number: signal.signal(number, lambda *_: noted.set()) for number in stop_signals()}
    try:
        yield noted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
