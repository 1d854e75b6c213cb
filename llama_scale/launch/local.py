"""The local launcher: it starts workers and looks at the store. What a run's state is, only its folder says.

It keeps a worker process per core, or several on a card, and gives each the ready run with the longest way
still to go behind it, so that no core idles before the last runs. Runs that would not fit into memory beside
those that train wait for room.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from llama_scale.launch.memory import memory_bytes
from llama_scale.launch.places import Card, Place, places_for, rooms_of, threads_per_worker
from llama_scale.launch.tasks import (
    Attempts,
    LaunchReport,
    Progress,
    Task,
    finished_of,
    note_death,
    noting_interrupts,
    progress_of,
    shares_done,
)
from llama_scale.runs import EXIT_DONE, EXIT_FAILED, EXIT_RETRY

TICK_SECONDS = 0.2
RETRY_SECONDS = 2.0
ASKING_SECONDS = 1.0  # within which a worker is refused a run that another process holds
STOP_SECONDS = 60.0
NOWHERE = Place()


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    place: Place = NOWHERE
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
    rooms: dict[str, float] = field(default_factory=dict)
    needs: dict[str, float] = field(default_factory=dict)
    workers: list[_Worker] = field(default_factory=list)
    attempts: Attempts = field(default_factory=Attempts)
    finished: set[str] = field(default_factory=set)
    failed: tuple[str, ...] = ()

    def look(self) -> None:
        """Bring `finished` and `failed` up to date with the store. Looking costs time, so only when idle."""
        self.finished |= finished_of(t for t in self.tasks.values() if t.run not in self.finished)
        active = {worker.task.run for worker in self.workers if worker.task}
        self.failed = self.attempts.failed(list(self.tasks.values()), self.finished, active)

    def has_idle(self) -> bool:
        return any(worker.task is None for worker in self.workers)

    def start_worker(self, place: Place) -> _Worker:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }
        if place.card:
            environment["CUDA_VISIBLE_DEVICES"] = place.card.name
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
        if place.cores and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):
                os.sched_setaffinity(process.pid, place.cores)
        return _Worker(process, place)

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
            died_of = worker.process.poll()
            if died_of is not None and code is None and worker.task is not None:
                note_death(worker.task.folder, died_of)
                code = died_of or EXIT_FAILED
            if code is not None and worker.task is not None:
                self._settle(worker, worker.task, code)
            if died_of is not None:
                worker.end()
                busy = worker.busy_seconds
                self.workers[index] = self.start_worker(worker.place)
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
            self.attempts.not_before[task.run] = now + RETRY_SECONDS
            if task.parent and task.config.first_step not in task.parent.checkpoint_steps():
                # Its branch point turned out to be harmed and was deleted: the trunk makes it again.
                self.finished.discard(task.parent.run)
        else:
            self.attempts.add(task)
            if code == -signal.SIGKILL:  # perhaps for want of memory: beside less it may get further
                self.needs[task.run] = 2 * self.needs.get(task.run, 0.0)

    def assign(self) -> None:
        """Give each idle worker the ready run with the longest way to go, of those that its memory holds."""
        taken = {worker.task.run for worker in self.workers if worker.task}
        ready = self.attempts.ready(self.tasks.values(), taken | self.finished | self.attempts.worn_out())
        for worker in self.workers:
            if worker.task is None:
                room = self._room_left(worker.place)
                task = next((task for task in ready if self.needs.get(task.run, 0.0) <= room), None)
                if task is not None:
                    ready.remove(task)
                    self.give(worker, task)

    def _room_left(self, place: Place) -> float:
        """Bytes for one more run at `place`; where none runs, any may be tried."""
        beside = [w.task.run for w in self.workers if w.task and w.place.room == place.room]
        if not beside:
            return float("inf")
        return self.rooms.get(place.room, float("inf")) - sum(self.needs.get(run, 0.0) for run in beside)

    def progress(self, before: Mapping[str, float], elapsed_seconds: float) -> Progress:
        running = self._training()
        return progress_of(
            list(self.tasks.values()),
            finished=self.finished,
            before=before,
            running=running,
            failed=self.failed,
            elapsed_seconds=elapsed_seconds,
            held=self._held(running),
        )

    def _training(self) -> list[Task]:
        """What our workers train, without runs that they only ask for again and are refused within a tick."""
        asked = time.monotonic() - ASKING_SECONDS
        busy = [(worker.task, worker.since) for worker in self.workers if worker.task]
        return [task for task, since in busy if task.run not in self.attempts.not_before or since < asked]

    def _held(self, training: Sequence[Task]) -> tuple[str, ...]:
        """Runs that our workers were refused, as another process holds them, or did when it was killed."""
        refused = self.attempts.not_before.keys() - self.finished - {task.run for task in training}
        return tuple(sorted(run for run in refused if self.tasks[run].folder.is_held()))

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


def launch_locally(
    store: Path,
    tasks: list[Task],
    *,
    workers: int,
    device: str,
    cards: Sequence[Card] = (),
    watch: Callable[[Progress], None],
) -> LaunchReport:
    """Run every task on this machine, on `cards` if there are any; returns when all have ended or failed.

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
        device.partition(":")[0] if cards else device,  # each sees its own card alone, as the first
    ]
    began = time.monotonic()
    pool = _Pool(
        tasks={t.run: t for t in tasks},
        command=command,
        threads=threads_per_worker(workers),  # of all that were asked for: sums differ with threads
        needs={t.run: memory_bytes(t.config) for t in tasks},
    )
    pool.look()
    places = places_for(min(workers, len(tasks) - len(pool.finished)), cards)
    pool.rooms = rooms_of(places)
    before = shares_done(tasks, pool.finished)
    try:
        with noting_interrupts() as interrupted:
            if not pool.is_over():
                pool.workers = [pool.start_worker(place) for place in places]
            while not pool.is_over():
                pool.collect()
                if pool.has_idle():
                    pool.look()
                    pool.assign()
                watch(pool.progress(before, time.monotonic() - began))
                wait([w.process.stdout.fileno() for w in pool.workers if w.process.stdout], TICK_SECONDS)
                if interrupted():
                    raise KeyboardInterrupt
    finally:
        pool.stop()
    seconds = time.monotonic() - began
    busy = sum(w.busy_seconds for w in pool.workers)
    offered = seconds * len(places)
    return LaunchReport(failed=pool.failed, seconds=seconds, busy_share=busy / offered if offered else 0.0)
