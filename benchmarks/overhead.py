"""What the store, the heartbeat and what one sees cost a run: the budget is 1 % of its time.

    python benchmarks/overhead.py [--steps 3000] [--width 48] [--repeats 3] [--mirrors tensorboard wandb]

A straight run at one width of the default recipe, trained by the loop that workers use: every way from it to
the store, to the meter with its plain lines and to the mirrors is timed where it is called.
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

from llama_scale.cli.train_view import PlainLines
from llama_scale.runs import EventLog, RunConfig, RunFolder, create_run, run_id
from llama_scale.runs.leases import HEARTBEAT_SECONDS, Lease
from llama_scale.sweeps import expand, load_recipe
from llama_scale.training import loop
from llama_scale.training.corpus import read_corpus
from llama_scale.training.loop import Glance
from llama_scale.training.meter import Meter
from llama_scale.training.mirrors import MIRRORS, Mirror, MirrorName, mirrors
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


def showing(config: RunConfig, copies: list[Mirror]) -> Callable[[Glance], None]:
    """What `train` does with a glance where there is no terminal."""
    meter = Meter(config, last_step=config.schedule.total_steps or 0, peak_flops_per_second=1e12)
    say = PlainLines(lambda line: None)

    def watch(glance: Glance) -> None:
        reading = meter.read(glance)
        for look in (say, *copies):
            look(reading)

    return watch


def measure(
    config: RunConfig, corpus: Any, spent: Spent, shown: Spent, names: tuple[MirrorName, ...]
) -> tuple[float, float, float]:
    """Seconds of a whole run: by the clock, of the process's CPU; and of one heartbeat's CPU."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place)
        files = prepare(corpus, config.data, store)
        folder = create_run(store, replace(config, corpus=files.corpus))
        with mirrors(names, folder, 0) as copies:
            watch = shown.timed(showing(config, copies))
            spent.wall = spent.cpu = shown.wall = shown.cpu = 0.0
            wall, cpu = time.perf_counter(), time.process_time()
            loop.train_run(
                store, folder, files, device=torch.device("cpu"), should_stop=lambda: False, watch=watch
            )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu, heartbeat_cpu(folder.path, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mirrors", nargs="*", choices=MIRRORS, default=())
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    config, corpus = straight_run(chosen.width, chosen.steps)
    print(f"run {run_id(config)}: width {chosen.width}, {chosen.steps:,} steps, one thread")
    spent, shown = Spent(), Spent()
    for home, name in IN_THE_LOOP:
        setattr(home, name, spent.timed(getattr(home, name)))
    for _ in range(chosen.repeats):
        wall, cpu, beat = measure(config, corpus, spent, shown, tuple(chosen.mirrors))
        beats = beat / HEARTBEAT_SECONDS
        print(
            f"{wall:6.1f} s: store {spent.wall / wall:.2%} of it (CPU {spent.cpu / cpu:.2%}), "
            f"heartbeat {beats:.4%} of a core, what one sees {shown.cpu / cpu:.2%}; budget {BUDGET:.0%}"
        )


if __name__ == "__main__":
    main()
