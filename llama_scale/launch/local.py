"""The local launcher: it starts workers and looks at the store. What a run's state is, only its folder says.

It keeps a worker process per core (or several on one GPU) and gives each the ready run with the longest
way still to go behind it, so that no core idles before the last runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from llama_scale.runs import EXIT_DONE, EXIT_RETRY, RunConfig, RunFolder, run_id
from llama_scale.sweeps import Sweep

ATTEMPTS = 3
TICK_SECONDS = 0.2
RETRY_SECONDS = 2.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
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

    def is_finished(self) -> bool:
        """A branch is finished by its result; a trunk when every unfinished branch has its point."""
        if self.folder.is_finished:
            return True
        saved = set(self.folder.checkpoint_steps())
        unfinished = [step for branch, step in self.branches if not branch.is_finished]
        return bool(self.branches) and saved.issuperset(unfinished)

    def is_ready(self) -> bool:
        if self.parent is None:
            return True
        return self.config.first_step in self.parent.checkpoint_steps() or bool(
            self.folder.checkpoint_steps()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One member that trains now."""

    run: str
    width: int
    kind: str
    step: int
    last_step: int
    loss_nats: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The whole sweep at a moment."""

    done: int
    total: int
    running: tuple[Running, ...]
    failed: tuple[str, ...]
    flops_done: float
    flops_total: float
    elapsed_seconds: float
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchReport:
    """How a launch ended: runs that failed, and the share of the workers' time that was spent on runs."""

    failed: tuple[str, ...]
    seconds: float
    busy_share: float


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    task: Task | None = None
    busy_seconds: float = 0.0
    since: float = 0.0
    unread: bytes = b""

    def end(self) -> None:
        """Kill what is still there and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()


@dataclass(slots=True)
class _Pool:
    """Worker processes and what is known of the tasks; the store is the truth, this is a view of it."""

    tasks: dict[str, Task]
    command: list[str]
    threads: int
    cores: list[int]
    workers: list[_Worker] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    not_before: dict[str, float] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    failed: tuple[str, ...] = ()

    def look(self) -> None:
        """Bring `finished` and `failed` up to date with the store. Looking costs time, so only when idle."""
        self.finished |= {
            t.run for t in self.tasks.values() if t.run not in self.finished and t.is_finished()
        }
        self.failed = self._failed()

    def has_idle(self) -> bool:
        return any(worker.task is None for worker in self.workers)

    def _failed(self) -> tuple[str, ...]:
        """Runs that failed too often, and branches whose trunk ended without reaching their point."""
        worn_out = {run for run, attempts in self.attempts.items() if attempts >= ATTEMPTS}
        ended = self.finished | worn_out
        blocked = {
            task.run
            for task in self.tasks.values()
            if task.run not in ended and task.parent and task.parent.run in ended and not task.is_ready()
        }
        return tuple(sorted(worn_out | blocked))

    def start_worker(self, core: int | None) -> _Worker:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C reaches this process alone; it asks the workers to save and stop.
            start_new_session=True,
        )
        if process.stdout:
            os.set_blocking(process.stdout.fileno(), False)
        if core is not None and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):
                os.sched_setaffinity(process.pid, {core})
        return _Worker(process)

    def give(self, worker: _Worker, task: Task) -> None:
        worker.task, worker.since = task, time.monotonic()
        stdin = worker.process.stdin
        with suppress(BrokenPipeError):
            if stdin:
                stdin.write(f"{task.run}\n".encode())
                stdin.flush()

    def collect(self) -> None:
        """Take in what workers reported, and replace those that died."""
        for index, worker in enumerate(self.workers):
            code = self._reported(worker)
            dead = worker.process.poll() is not None
            if dead and code is None and worker.task is not None:
                code = -1
            if code is not None and worker.task is not None:
                self._settle(worker, worker.task, code)
            if dead:
                worker.end()
                busy = worker.busy_seconds
                self.workers[index] = self.start_worker(self.cores[index] if self.cores else None)
                self.workers[index].busy_seconds = busy

    def _reported(self, worker: _Worker) -> int | None:
        stdout = worker.process.stdout
        chunk = stdout.read() if stdout else None
        worker.unread += chunk or b""
        *lines, worker.unread = worker.unread.split(b"\n")
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                report = json.loads(line)
                if worker.task is not None and report["run"] == worker.task.run:
                    return int(report["exit_code"])
        return None

    def _settle(self, worker: _Worker, task: Task, code: int) -> None:
        now = time.monotonic()
        worker.busy_seconds += now - worker.since
        worker.task = None
        if code == EXIT_DONE:
            self.finished.add(task.run)
        elif code == EXIT_RETRY:
            self.not_before[task.run] = now + RETRY_SECONDS
            if task.parent and task.config.first_step not in task.parent.checkpoint_steps():
                # Its branch point turned out to be harmed and was deleted: the trunk makes it again.
                self.finished.discard(task.parent.run)
        else:
            # Only failures without a step forward count: a long run may be killed often and still arrive.
            reached = max(task.folder.checkpoint_steps(), default=0)
            if reached > self.reached.get(task.run, 0):
                self.reached[task.run] = reached
                self.attempts[task.run] = 0
            self.attempts[task.run] += 1

    def assign(self) -> None:
        """Give each idle worker the ready run with the longest way to go."""
        now = time.monotonic()
        taken = {w.task.run for w in self.workers if w.task}
        for worker in self.workers:
            if worker.task is not None:
                continue
            ready = [
                t
                for t in self.tasks.values()
                if t.run not in self.finished | taken
                and self.attempts[t.run] < ATTEMPTS
                and self.not_before.get(t.run, 0) <= now
                and t.is_ready()
            ]
            if not ready:
                return
            task = max(ready, key=lambda t: t.path_seconds)
            taken.add(task.run)
            self.give(worker, task)

    def is_over(self) -> bool:
        ended = self.finished | set(self.failed)
        return ended >= self.tasks.keys() and all(w.task is None for w in self.workers)

    def stop(self) -> None:
        """Ask every worker to save and leave; an interrupt while waiting kills them at once."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for worker in self.workers:
                if worker.process.stdin:
                    with suppress(BrokenPipeError):
                        worker.process.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for worker in self.workers:
                worker.end()


def plan_tasks(store: Path, sweep: Sweep, seconds_per_step: Mapping[str, float]) -> list[Task]:
    """The tasks of a sweep with the time from each one's start to the end of the longest run behind it."""
    steps, flops = sweep.own_steps, sweep.own_flops
    children: dict[str, list[RunConfig]] = {}
    for config in sweep.runs:
        if config.branch:
            children.setdefault(config.branch.parent, []).append(config)
    tasks = []
    for config in sweep.runs:
        run = run_id(config)
        own = steps[run] * seconds_per_step[run]
        ends = (steps[child] * seconds_per_step[child] for child in map(run_id, children.get(run, [])))
        branches = [(RunFolder(store / run_id(c)), c.first_step) for c in children.get(run, [])]
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


@contextmanager
def _noting_interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a question that turns true on Ctrl-C, to be asked at a safe moment.

    Raised wherever it happens to strike, KeyboardInterrupt can fall into a destructor, where Python drops it.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def launch_locally(
    store: Path,
    tasks: list[Task],
    *,
    workers: int,
    device: str,
    watch: Callable[[Progress], None],
) -> LaunchReport:
    """Run every task on this machine; returns when all are finished or have failed.

    `watch` sees the progress a few times a second. KeyboardInterrupt asks the workers to save first.
    """
    command = [
        sys.executable,
        "-m",
        "llama_scale",
        "worker",
        "--listen",
        "--store",
        str(store),
        "--device",
        device,
    ]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pool = _Pool(
        tasks={t.run: t for t in tasks},
        command=command,
        threads=threads_per_worker(workers),
        cores=cores if len(cores) == workers else [],
    )
    began = time.monotonic()
    pool.look()
    already = set(pool.finished)
    if not pool.is_over():
        pool.workers = [pool.start_worker(pool.cores[i] if pool.cores else None) for i in range(workers)]
    try:
        with _noting_interrupts() as interrupted:
            while not pool.is_over():
                pool.collect()
                if pool.has_idle():
                    pool.look()
                    pool.assign()
                watch(_progress(pool, already, time.monotonic() - began))
                time.sleep(TICK_SECONDS)
                if interrupted():
                    raise KeyboardInterrupt
    finally:
        pool.stop()
    seconds = time.monotonic() - began
    busy = sum(w.busy_seconds for w in pool.workers)
    return LaunchReport(
        failed=pool.failed, seconds=seconds, busy_share=busy / (seconds * workers) if seconds else 0.0
    )


def _progress(pool: _Pool, already: set[str], elapsed: float) -> Progress:
    running, flops_running, seconds_running = [], 0.0, 0.0
    for worker in pool.workers:
        if worker.task is not None:
            member, share = _running(worker.task)
            running.append(member)
            flops_running += share * worker.task.flops
            seconds_running += share * worker.task.seconds
    finished = [pool.tasks[run] for run in pool.finished]
    spent = seconds_running + sum(t.seconds for t in finished if t.run not in already)
    left = sum(t.seconds for t in pool.tasks.values()) - sum(t.seconds for t in finished) - seconds_running
    return Progress(
        done=len(finished),
        total=len(pool.tasks),
        running=tuple(running),
        failed=pool.failed,
        flops_done=sum(t.flops for t in finished) + flops_running,
        flops_total=sum(t.flops for t in pool.tasks.values()),
        elapsed_seconds=elapsed,
        # Expected times are scaled by how they have come out so far; before that there is nothing to say.
        remaining_seconds=left * elapsed / spent if spent > 0 and elapsed > 5 else None,
    )


def _running(task: Task) -> tuple[Running, float]:
    config = task.config
    event = task.folder.last_event() or {}
    first = config.first_step
    last = first + task.steps
    step = min(max(int(event.get("step", first)), first), last)
    member = Running(
        run=task.run,
        width=config.model.width,
        kind=config.role,
        step=step,
        last_step=last,
        loss_nats=event.get("loss_nats"),
        tokens_per_second=event.get("tokens_per_second"),
    )
    return member, (step - first) / task.steps if task.steps else 1.0


def default_workers() -> int:
    """One worker per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(workers: int) -> int:
    """Cores shared evenly between workers."""
    return max(1, default_workers() // workers)
