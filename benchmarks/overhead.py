"""What the store and the heartbeat cost a run: seconds in them, of all the seconds that the run takes.

A straight run at one width of the default recipe, trained by the loop that workers use, with every way from
the loop to the store timed where it is called. The budget is 1 % of a run's time.

Run: python benchmarks/overhead.py [--steps 3000] [--width 48] [--repeats 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llama_scale.runs import EventLog, RunConfig, RunFolder, create_run, run_id
from llama_scale.runs.leases import HEARTBEAT_SECONDS, Lease
from llama_scale.sweeps import expand, load_recipe
from llama_scale.training import loop
from llama_scale.training.corpus import read_corpus
from llama_scale.training.preparing import prepare

BUDGET = 0.01
IN_THE_LOOP = (
    (RunFolder, "claim"),
    (EventLog, "__init__"),
    (EventLog, "append"),
    (EventLog, "sync"),
    (EventLog, "conclude"),
    (loop, "save_checkpoint"),
    (loop, "prune_checkpoints"),
    (loop, "restore_newest"),
    (loop, "save_weights"),
)


@dataclass
class Spent:
    """Seconds by the clock and of this thread's CPU."""

    wall: float = 0.0
    cpu: float = 0.0
    depth: int = 0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its seconds added; a call within a call counts once."""

        def measured(*words: Any, **options: Any) -> Any:
            self.depth += 1
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return call(*words, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.wall += time.perf_counter() - wall
                    self.cpu += time.thread_time() - cpu

        return measured


def straight_run(width: int, steps: int) -> tuple[RunConfig, Any]:
    """A run of its own at `width` of the default recipe, and the recipe's data."""
    spec = load_recipe("default", ())
    text = Path(loop.__file__).parent.parent
    data = replace(spec.data, source=str(text), evaluation_tokens=16_384)
    corpus = read_corpus(data, text)
    sweep = expand("default", replace(spec, data=data), corpus.corpus)
    branch = next(run for run in sweep.runs if run.branch and run.model.width == width)
    schedule = replace(branch.schedule, total_steps=steps, decay_steps=steps // 5)
    return replace(branch, branch=None, schedule=schedule), corpus


def heartbeat_cpu(folder: Path, seconds: float) -> float:
    """CPU seconds of one beat, over as many as fit into `seconds`."""
    with RunFolder(folder).claim() as lease:
        assert isinstance(lease, Lease)
        path, count, began = folder / "leases" / f"{lease.token}.held", 0, time.thread_time()
        while time.thread_time() - began < seconds:
            count += 1
            with path.open("r+b", buffering=0) as file:
                file.write(f"{count:012d}\n".encode())
        return (time.thread_time() - began) / count


def measure(config: RunConfig, corpus: Any, spent: Spent) -> tuple[float, float, float]:
    """Seconds of a whole run: by the clock, of the process's CPU; and of one heartbeat's CPU."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place)
        files = prepare(corpus, config.data, store)
        folder = create_run(store, replace(config, corpus=files.corpus))
        spent.wall = spent.cpu = 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        loop.train_run(store, folder, files, device=torch.device("cpu"), should_stop=lambda: False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu, heartbeat_cpu(folder.path, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    config, corpus = straight_run(chosen.width, chosen.steps)
    print(f"run {run_id(config)}: width {chosen.width}, {chosen.steps:,} steps, one thread")
    spent = Spent()
    for home, name in IN_THE_LOOP:
        setattr(home, name, spent.timed(getattr(home, name)))
    for _ in range(chosen.repeats):
        wall, cpu, beat = measure(config, corpus, spent)
        beats = beat / HEARTBEAT_SECONDS
        print(
            f"{wall:6.1f} s: store {spent.wall / wall:.2%} of it (CPU {spent.cpu / cpu:.2%}), "
            f"heartbeat {beats:.4%} of a core; budget {BUDGET:.0%}"
        )


if __name__ == "__main__":
    main()
