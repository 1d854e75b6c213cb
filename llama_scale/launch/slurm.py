"""The SLURM launcher: plain `sbatch` arrays that start the same worker; the store says how runs stand.

One array holds the runs that start afresh, longest first, or several where the cluster allows none so large.
Each trunk's branches are an array of their own that waits for it. A job whose time limit is near (USR2) saves
and goes back into the queue; one that is cancelled or preempted (TERM) saves, and SLURM says what becomes of
it; the jobs of a node that dies are requeued. Each goes on from its checkpoint. Jobs outlive this process:
the same command finds them in the queue by their scripts and watches again.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from llama_scale.canonical import canonical_hash
from llama_scale.errors import InputError, LlamaScaleError, StoreError
from llama_scale.files import write_atomically
from llama_scale.launch.tasks import Attempts, Launch, LaunchReport, Progress, Task, noting_interrupts
from llama_scale.runs import EXIT_RETRY

POLL_SECONDS = 2.0
WARNING_SECONDS = 90  # before a time limit, in which a worker saves
MOST_RESTARTS = 1000  # of one job, so that none goes round for ever
USUAL_ARRAY = 1001  # tasks: SLURM's own MaxArraySize, where the cluster states none
COMMAND_SECONDS = 120.0  # a busy controller answers late, a dead one never
PATIENCE_SECONDS = 3600.0  # with one that has answered before: jobs go on without it, and it comes back
# What sbatch says of a controller that does not answer it, by slurm/slurm_errno.h, not of what it was asked.
UNANSWERED = re.compile("timed out|unable to contact|connect failure|temporarily unavailable", re.IGNORECASE)
SCRIPT = """#!/bin/bash
#SBATCH --requeue --open-mode=append --signal=B:USR2@{warning} --kill-on-invalid-dep=yes
runs=({runs})
run="${{runs[$SLURM_ARRAY_TASK_ID]}}"
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}" MKL_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"
{command} "$run" &
worker=$!
cancelled=0
trap 'kill -TERM "$worker" 2>/dev/null' USR2
trap 'cancelled=1; kill -TERM "$worker" 2>/dev/null' TERM
wait "$worker"; code=$?
while [ "$code" -gt 128 ] && kill -0 "$worker" 2>/dev/null; do wait "$worker"; code=$?; done
if [ "$code" -gt 128 ]; then wait "$worker"; code=$?; fi
if [ "$code" -eq {retry} ] && [ "$cancelled" -eq 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" && sleep 60
fi
exit "$code"
"""


class _Unanswered(StoreError):
    """Nothing is heard from the controller."""


@dataclass(slots=True)
class _Queue:
    """The jobs of a store, and how often each run was submitted.

    Which run a job is, its script and its place in the array say: also of one that an earlier launch left, or
    that was taken although no answer came back.
    """

    store: Path
    options: list[str]
    device: str
    tell: Callable[[str], None]
    jobs: dict[str, str] | None = None  # of the runs that wait or train; None before anything was heard
    attempts: Attempts = field(default_factory=Attempts)
    silent_since: dict[str, float] = field(default_factory=dict)  # by command

    @property
    def folder(self) -> Path:
        return self.store.resolve() / "slurm"

    def active(self) -> dict[str, str]:
        """The job of each run that waits or trains; as last heard, while the controller does not answer."""
        with self.waiting_for("squeue"):
            listed = _call("squeue", "--noheader", "--array", "--format=%i %o").splitlines()
            folder = self.folder
            runs = {place: run for script in folder.glob("*.sh") for place, run in _runs_of(script)}
            found = {}
            for job, _, command in (line.strip().partition(" ") for line in listed):
                script = Path(command)
                run = runs.get((script.name, job.rpartition("_")[2]))
                # SLURM may know the folder by another name: a link to it was given, or is.
                if run and folder in (script.parent, script.parent.resolve()):
                    found[run] = job
            self.jobs = found
        return self.jobs or {}

    @contextmanager
    def waiting_for(self, command: str) -> Iterator[None]:
        """What is asked in it may go unanswered for PATIENCE_SECONDS, once SLURM has answered at all."""
        try:
            yield
        except _Unanswered as error:
            now = time.monotonic()
            if self.jobs is None or now - self.silent_since.get(command, now) > PATIENCE_SECONDS:
                raise
            if not self.silent_since:
                self.tell(f"{error.message}: the store is watched until SLURM answers again")
            self.silent_since.setdefault(command, now)
        else:
            self.silent_since.pop(command, None)

    def submit(self, tasks: Sequence[Task], after: str | None = None) -> None:
        """Arrays of `tasks`, in their order; `after` is the job that must have ended well before."""
        most = _largest_array()
        for first in range(0, len(tasks), most):
            self._submit_array([task.run for task in tasks[first : first + most]], after)

    def _submit_array(self, runs: Sequence[str], after: str | None) -> None:
        worker = ["-m", "llama_scale", "worker", "--store", str(self.store.resolve())]
        command = shlex.join([sys.executable, *worker, "--device", self.device])
        text = SCRIPT.format(
            warning=WARNING_SECONDS,
            runs=shlex.join(runs),
            command=command,
            retry=EXIT_RETRY,
            restarts=MOST_RESTARTS,
        )
        script = self.folder / f"{canonical_hash(text)}.sh"
        write_atomically(script, text)
        logs = f"{str(self.folder).replace('%', '%%')}/%A_%a.log"
        waiting = [f"--dependency=afterok:{after}"] if after else []
        said = _call(
            "sbatch",
            "--parsable",
            f"--array=0-{len(runs) - 1}",
            f"--job-name=llama-scale-{self.store.resolve().name}",
            f"--output={logs}",
            *waiting,
            *self.options,
            str(script),
        )
        job = said.strip().split(";")[0]
        self.jobs = {**(self.jobs or {}), **{run: f"{job}_{index}" for index, run in enumerate(runs)}}


@cache  # by its name, a hash of what it says
def _runs_of(script: Path) -> list[tuple[tuple[str, str], str]]:
    """Each run of an array, by the name of its script and its place there."""
    runs = script.read_text().partition("\nruns=(")[2].partition(")")[0].split()
    return [((script.name, str(index)), run) for index, run in enumerate(runs)]


def check_slurm() -> None:
    """Raises InputError where SLURM is missing."""
    for program in ("sbatch", "squeue"):
        if shutil.which(program) is None:
            raise InputError(
                f"there is no {program} on this machine",
                hint="run this on a login node of a SLURM cluster, or use --launcher local",
            )


def launch_on_slurm(
    store: Path,
    tasks: Sequence[Task],
    *,
    options: Sequence[str] = (),
    device: str,
    watch: Callable[[Progress], None],
    tell: Callable[[str], None],
) -> LaunchReport:
    """Queue every run that is not done, and watch the store until all are finished or have failed.

    `options` are passed to sbatch. Raises InputError where SLURM refuses them; KeyboardInterrupt leaves the
    jobs in the queue, to be watched again. A controller that falls silent is waited for; `tell` hears of it.
    """
    queue = _Queue(store=store, options=list(options), device=device, tell=tell)
    launch = Launch(tasks, watch, queue.attempts)
    with noting_interrupts() as interrupted:
        while True:
            active = queue.active()
            ended, report = launch.look(active)
            if report:
                return report
            if "squeue" not in queue.silent_since:
                _queue_what_waits(queue, [task for task in tasks if task.run not in ended.union(active)])
            until = time.monotonic() + POLL_SECONDS
            while time.monotonic() < until:
                if interrupted():
                    raise KeyboardInterrupt
                time.sleep(0.1)


def _queue_what_waits(queue: _Queue, tasks: Sequence[Task]) -> None:
    """Submit runs that are not in the queue: those that can start, then branches behind their trunk."""
    with queue.waiting_for("sbatch"):
        try:
            _submit_what_waits(queue, tasks)
        except InputError:
            queue.active()  # is it this that is refused, or has the controller fallen silent?
            if "squeue" not in queue.silent_since:
                raise


def _submit_what_waits(queue: _Queue, tasks: Sequence[Task]) -> None:
    if ready := queue.attempts.ready(tasks, ()):
        queue.submit(ready)
        for task in ready:  # now that it is in the queue
            queue.attempts.add(task)
    behind: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: -task.path_seconds):
        if task.parent and not task.is_ready() and not task.parent.is_finished:
            behind.setdefault(task.parent.run, []).append(task)
    active = queue.active() if behind else {}
    for trunk, branches in behind.items():
        if trunk in active:
            queue.submit(branches, after=active[trunk])


@cache
def _largest_array() -> int:
    """How many tasks an array of this cluster may have, where it says so."""
    with suppress(OSError, LlamaScaleError):  # not all clusters show their settings
        stated = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"), re.MULTILINE)
        return max(1, int(stated.group(1))) if stated else USUAL_ARRAY
    return USUAL_ARRAY


def _call(*command: str) -> str:
    """What a SLURM command says; raises _Unanswered where nothing is heard, InputError where it refuses."""
    up = "see whether the SLURM controller is up (`scontrol ping`), then run the same command again"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise _Unanswered(f"{command[0]} has not answered for {COMMAND_SECONDS:.0f} s", hint=up) from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        message = f"{command[0]} refused: {reason[-1] if reason else f'exit code {done.returncode}'}"
        # squeue is asked for nothing that could be refused.
        if command[0] == "squeue" or UNANSWERED.search(message):
            raise _Unanswered(message, hint=up)
        raise InputError(message, hint="correct --launcher-options, or see `scontrol ping` and `sinfo`")
    return done.stdout
