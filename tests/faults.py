"""Faults on a real run, many times over, each in a process forked from one that has imported torch.

Run by test_faults.py, in a process of its own: KIND STORE RUN COUNT SEED. Prints one JSON object. The run
is trained by the same worker that launchers start; a fault is a real signal, the death of the process just
before it reaches its folder (`write`), or an error of the disk at a chosen sync or rename (`error`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_scale.runs import EXIT_DONE, EXIT_FAILED, EXIT_RETRY, RunFolder, leases
from llama_scale.training import loop
from llama_scale.training.worker import stop_on_signals, work

# What Python reports of our ways to the disk (it reports no writes: a file is torn by its next event).
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL, as of a machine that is taken back
REACHES = ("open", "os.rename", "os.truncate", "os.remove", "os.mkdir", "os.rmdir", "os.link")


def forked(action: Callable[[], int]) -> int:
    """The process number of a child that does `action` and leaves with what it returns."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = action()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """The exit code of a child, below 0 for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(store: Path, run: str) -> int:
    torch.set_num_threads(1)
    return work(store, run, device="cpu", should_stop=stop_on_signals(os.getppid()), wait_seconds=30)


@dataclass
class Reaches:
    """Counts the times that a run's folder is reached, and dies just before the one of number `last`."""

    place: str
    count: int = 0
    last: int = 0

    def __call__(self, event: str, words: tuple[object, ...]) -> None:
        if event in REACHES and str(words[0]).startswith(self.place):
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


class Disk:
    """Counts syncs and renames, and refuses the one of number `last` as a failing disk does."""

    def __init__(self) -> None:
        self.count = self.last = 0
        for name in ("fsync", "rename", "replace"):
            setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*words: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.last:
                number = errno.EIO if self.count % 2 else errno.ENOSPC
                raise OSError(number, os.strerror(number))
            return call(*words, **options)

        return refusing


def clear(store: Path, run: str) -> None:
    """Back to a run that was planned and never begun."""
    folder = store / run
    spec = (folder / "spec.json").read_bytes()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "spec.json").write_bytes(spec)


def outcome(store: Path, run: str) -> str:
    folder = RunFolder(store / run)
    result, curve = folder.result(), folder.curve()
    return json.dumps([result, list(curve.steps), list(curve.loss_nats)])


def main() -> None:
    kind, store, run, count, seed = sys.argv[1], Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:6])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    loop.CHECKPOINT_SECONDS = 0.0  # faults fall on both sides of checkpoints
    leases.HEARTBEAT_SECONDS, leases.LEASE_SECONDS = 0.05, 1.0
    reaches, disk = Reaches(str(store / run)), Disk()
    sys.addaudithook(reaches)
    assert train(store, run) == 0  # here, so that no child imports what a first step imports
    expected, total = outcome(store, run), {"write": reaches.count, "error": disk.count}.get(kind, 0)
    clear(store, run)
    began = time.monotonic()
    assert ended(forked(lambda: train(store, run))) == 0
    seconds = time.monotonic() - began
    clear(store, run)
    generator = np.random.default_rng(seed)
    if kind in ("write", "error"):
        places = [int(place) for place in generator.permutation(np.arange(1, total + 1))[:count]]
        survives = {"write": survives_death_at, "error": survives_error_at}[kind]
        counter = {"write": reaches, "error": disk}[kind]
        wrong = [place for place in places if not survives(place, counter, store / run, expected)]
        faults = len(places)
    else:
        faults, wrong = killed_at_times(kind, count, seconds, generator, store / run, expected)
    print(json.dumps({"faults": faults, "places": total, "wrong": wrong}))


def survives_death_at(place: int, reaches: Any, folder: Path, expected: str) -> bool:
    """Whether a run that dies there goes on to the same end."""

    def die() -> int:
        reaches.count, reaches.last = 0, place
        return train(folder.parent, folder.name)

    died = ended(forked(die)) in (-signal.SIGKILL, 0)  # 0: this time it reached the folder less often
    return goes_on(folder, expected) and died


def survives_error_at(place: int, disk: Any, folder: Path, expected: str) -> bool:
    """Whether a run whose disk fails there says so, reports nothing saved that is not, and goes on.

    Only letting go of the lease may fail unsaid: the run has ended by then, and who comes next waits it out.
    """

    def suffer() -> int:
        disk.count, disk.last = 0, place
        code = train(folder.parent, folder.name)
        return 99 if disk.count < place else code  # this time it synced less often

    code = ended(forked(suffer))
    run = RunFolder(folder)
    honest = run.is_finished if code == EXIT_DONE else code in (EXIT_FAILED, 99)
    said = code != EXIT_FAILED or "error: cannot" in run.log.read_text()
    return goes_on(folder, expected) and honest and said


def goes_on(folder: Path, expected: str) -> bool:
    """Whether the run, started again, ends as one that nothing happened to; the folder is cleared then."""
    went_on = ended(forked(lambda: train(folder.parent, folder.name))) == 0
    same = outcome(folder.parent, folder.name) == expected
    clear(folder.parent, folder.name)
    return went_on and same


def killed_at_times(
    kind: str, count: int, seconds: float, generator: np.random.Generator, folder: Path, expected: str
) -> tuple[int, list[int]]:
    """Stop runs `count` times at random moments, each started again until it ends; which went otherwise."""
    store, run = folder.parent, folder.name
    faults, wrong = 0, []
    while True:
        child = forked(lambda: train(store, run))
        if faults < count:
            time.sleep(float(generator.uniform(0.02, 0.6 * seconds)))
            if not left_as_it_should(kind, child, generator):
                wrong.append(faults)
            faults += 1
        elif ended(child) != 0:
            wrong.append(faults)
        if RunFolder(folder).is_finished:
            if outcome(store, run) != expected:
                wrong.append(faults)
            clear(store, run)
            if faults >= count:
                return faults, wrong


def left_as_it_should(kind: str, child: int, generator: np.random.Generator) -> bool:
    """Whether a child that is stopped so leaves with a code that this may end in."""
    if kind == "SIGKILL":
        os.kill(child, signal.SIGKILL)
        return ended(child) in (-signal.SIGKILL, EXIT_DONE)
    if kind == "SIGINT":  # twice: once to save, once more at once
        os.kill(child, signal.SIGINT)
        time.sleep(float(generator.uniform(0.0, 0.05)))
        os.kill(child, signal.SIGINT)
        return ended(child) in (-signal.SIGINT, EXIT_RETRY, EXIT_DONE)
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) in (-signal.SIGTERM, EXIT_RETRY, EXIT_DONE)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    ended(child)
    return False


if __name__ == "__main__":
    main()
