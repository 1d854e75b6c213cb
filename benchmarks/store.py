"""How long a store of 10,000 runs takes to list, and a sweep of 1,000 planned runs to its first worker.

    python benchmarks/store.py [--runs 10000] [--repeats 3]

The store is made here, with the files that real runs leave: spec, log, result. CPU seconds of the whole
command, Python's start included; the machine's wall clock beside them, and how often the CPU time of
BASELINE, measured just before, fits into it: that says the same on a busy machine as on a calm one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from processes import cpu_seconds

from llama_scale.architecture import llama
from llama_scale.runs import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, create_runs, run_id
from llama_scale.runs.remembered import FILE

BASELINE = "import click, numpy"
LOGGED = 40  # training reports in each log
RECIPE = """
purpose = "A thousand small runs"
[data]
source = "{source}"
vocabulary = 1024
[shape]
layers = 2
head_size = 8
hidden_ratio = 3.0
context = 64
[training]
learning_rate_times_width = 0.128
sequences_per_step = 8
[design]
kind = "grid"
widths = {widths}
durations = {durations}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--source", default="builtin", help="the text of the sweep that is started")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs"
        make_store(store, asked.runs)
        show("runs ls, no cache yet", store, ("runs", "ls"), asked.repeats, cached=False)
        show("runs ls", store, ("runs", "ls"), asked.repeats)
        show("runs ls --json", store, ("runs", "ls", "--json"), asked.repeats)
        export = ("runs", "export", str(Path(folder) / "runs.csv"), "--force")
        show("runs export, CSV", store, export, asked.repeats)
        start_of_sweep(Path(folder), asked.source, asked.repeats)


def start_of_sweep(folder: Path, source: str, repeats: int) -> None:
    """Print how long a sweep of 1,000 new runs takes from the shell to its first worker, tokens prepared."""
    recipe = folder / "thousand.toml"
    widths, durations = list(range(8, 208, 8)), list(range(500_000, 2_450_000, 50_000))
    recipe.write_text(RECIPE.format(source=source, widths=widths, durations=durations))
    prepared = folder / "prepared"
    run = [sys.executable, "-m", "llama_scale"]
    subprocess.run(
        [*run, "data", "prepare", str(recipe), "--store", str(prepared), "--json"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    taken = []
    for turn in range(repeats):
        store = folder / f"start-{turn}"
        shutil.copytree(prepared, store)
        base, _ = timed([sys.executable, "-c", BASELINE])
        cpu, wall = _until_first_worker([*run, "sweep", str(recipe), "--store", str(store), "--quiet"])
        taken.append((cpu, wall, base))
    made = sum(1 for _ in (folder / "start-0").glob("*/spec.json"))
    print_median(f"start of {made:,} runs, {source[-20:]}", taken)


def _until_first_worker(words: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of the command when its first worker process appears; then it is ended."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    ours: list[str] = []
    while process.poll() is None:
        ours = [pid for pid in children.read_text().split() if _is_worker(pid)]
        if ours:
            break
        time.sleep(0.005)
    wall = time.perf_counter() - began
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    process.send_signal(signal.SIGINT)
    process.wait()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), wall


def _is_worker(pid: str) -> bool:
    with suppress(OSError):
        return b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def show(name: str, store: Path, words: tuple[str, ...], repeats: int, *, cached: bool = True) -> None:
    """Print what a command over the store takes, `cached` or not."""
    command = [sys.executable, "-m", "llama_scale", *words, "--store", str(store)]
    taken = []
    for _ in range(repeats):
        if not cached:
            (store / FILE).unlink(missing_ok=True)
        base, _ = timed([sys.executable, "-c", BASELINE])
        taken.append((*timed(command), base))
    print_median(name, taken)


def print_median(name: str, taken: list[tuple[float, float, float]]) -> None:
    """One line of the CPU and wall seconds of a command, each with the CPU seconds of the baseline then."""
    cpu, wall, base = sorted(taken, key=lambda times: times[0] / times[2])[len(taken) // 2]
    print(f"{name:34s} {cpu:6.2f} s CPU  {wall:6.2f} s wall  {cpu / base:5.1f} x {BASELINE}", flush=True)


def timed(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one command."""
    began = time.perf_counter()
    cpu = cpu_seconds(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return cpu, time.perf_counter() - began


def make_store(store: Path, runs: int) -> None:
    """Finished runs of ten models: what the trainer leaves, without its weights."""
    by_id = {run_id(config): config for config in map(planned, range(runs))}
    create_runs(store, by_id)
    for run, config in by_id.items():
        folder = store / run
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
