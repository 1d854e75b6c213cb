"""How long a store of 10,000 runs takes to list, and a sweep of 1,000 planned runs to its first worker.

    python benchmarks/store.py [--runs 10000] [--repeats 3]

The store is made here, with the files that real runs leave: spec, log, result. CPU seconds of the whole
command, Python's start included; the machine's wall clock beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llama_scale.architecture import llama
from llama_scale.config import canonical_json
from llama_scale.runs import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, run_id

LOGGED = 40  # training reports in each log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs"
        make_store(store, asked.runs)
        for words in (("ls", "--json"), ("ls",), ("export", str(Path(folder) / "x.csv"), "--force")):
            show(
                f"runs {words[0]} {words[-1] if len(words) == 2 else ''}",
                store,
                ("runs", *words),
                asked.repeats,
            )


def show(name: str, store: Path, words: tuple[str, ...], repeats: int) -> None:
    """Print the median CPU and wall seconds of a command over the store."""
    taken = sorted(timed([*words, "--store", str(store)]) for _ in range(repeats))
    cpu, wall = taken[len(taken) // 2]
    print(f"{name:30s} {cpu:6.2f} s CPU  {wall:6.2f} s wall")


def timed(words: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "llama_scale", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def make_store(store: Path, runs: int) -> None:
    """Finished runs of ten models: what the trainer leaves, without its weights."""
    for number in range(runs):
        config = planned(number)
        folder = store / run_id(config)
        folder.mkdir(parents=True)
        spec = {"schema": 1, "run": folder.name, "config": json.loads(canonical_json(config))}
        (folder / "spec.json").write_text(json.dumps(spec, indent=1))
        result = {
            "status": "done",
            "steps": 1000,
            "tokens": 512_000,
            "train_flops": 1e12,
            "loss_nats": 3.5,
            "bits_per_byte": 1.5,
            "tokenizer": "t" * 64,
            "corpus": config.corpus,
        }
        (folder / "result.json").write_text(json.dumps({"schema": 1, "run": folder.name, **result}, indent=1))
        line = (
            '{"event":"train","loss_nats":3.5,"seq":0,"step":50,"tokens_per_second":1e5,"crc32":"00000000"}\n'
        )
        (folder / "events.jsonl").write_text(line * LOGGED)


def planned(number: int) -> RunConfig:
    """One of the runs, each with a seed of its own."""
    width = 16 * (1 + number % 10)
    return RunConfig(
        role="train",
        model=llama(2, width, heads=width // 16, hidden=3 * width, vocabulary=1024, context=64, qk_norm=True),
        data=DataConfig(vocabulary=1024),
        corpus="c" * 64,
        optimizer=OptimizerConfig(learning_rate=0.128 / width),
        schedule=ScheduleConfig(kind="wsd", total_steps=1000, decay_steps=200),
        sequences_per_step=8,
        seed=number,
    )


if __name__ == "__main__":
    main()
