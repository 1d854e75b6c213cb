"""Faults on a real run, many times over, each in a process forked from one that has imported torch.

Run by test_faults.py, in a process of its own: KIND STORE RUN COUNT SEED. Prints one JSON object. The run
is trained by the same worker that launchers start; a fault is a real signal, or the death of the process
at a chosen write, sync or rename.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llama_scale.runs import RunFolder, leases
from llama_scale.training import loop
from llama_scale.training.worker import stop_on_signals, work

# What Python reports of our ways to the disk (it reports no writes: a file is torn by its next event).
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
    loop.CHECKPOINT_SECONDS = 0.0  # faults fall on both sides of checkpoints
    leases.HEARTBEAT_SECONDS, leases.LEASE_SECONDS = 0.05, 1.0
    reaches = Reaches(str(store / run))
    sys.addaudithook(reaches)
    assert train(store, run) == 0  # here, so that no child imports what a first step imports
    expected, total = outcome(store, run), reaches.count
    clear(store, run)
    began = time.monotonic()
    assert ended(forked(lambda: train(store, run))) == 0
    seconds = time.monotonic() - began
    clear(store, run)
    generator = np.random.default_rng(seed)
    if kind == "write":
        places = generator.permutation(np.arange(1, total + 1))[:count]
        wrong = [int(place) for place in places if not survives_death_at(int(place), reaches, expected)]
        faults = len(places)
    else:
        faults, wrong = killed_at_times(
            signal.Signals[kind], count, seconds, generator, store / run, expected
        )
    print(json.dumps({"faults": faults, "places": total, "wrong": wrong}))


def survives_death_at(place: int, reaches: Reaches, expected: str) -> bool:
    """Whether a run that dies there goes on to the same end."""
    folder = Path(reaches.place)

    def die() -> int:
        reaches.count, reaches.last = 0, place
        return train(folder.parent, folder.name)

    died = ended(forked(die)) in (-signal.SIGKILL, 0)  # 0: this time it reached the folder less often
    went_on = ended(forked(lambda: train(folder.parent, folder.name))) == 0
    same = outcome(folder.parent, folder.name) == expected
    clear(folder.parent, folder.name)
    return died and went_on and same


def killed_at_times(
    kind: signal.Signals,
    count: int,
    seconds: float,
    generator: np.random.Generator,
    folder: Path,
    expected: str,
) -> tuple[int, list[int]]:
    """Kill runs `count` times at random moments, each started again until it ends; which ended otherwise."""
    store, run = folder.parent, folder.name
    faults, wrong = 0, []
    while True:
        child = forked(lambda: train(store, run))
        if faults < count:
            time.sleep(float(generator.uniform(0.02, 0.6 * seconds)))
            os.kill(child, kind)
            if kind == signal.SIGTERM:
                time.sleep(0.5)  # what preemption leaves before the kill, scaled down with the run
                os.kill(child, signal.SIGKILL)
        code = ended(child)
        faults += code != 0
        if code == 0:
            if outcome(store, run) != expected:
                wrong.append(faults)
            clear(store, run)
            if faults >= count:
                return faults, wrong


if __name__ == "__main__":
    main()
