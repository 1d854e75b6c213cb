"""Do a trunk and its decay branches end where runs of their own do? Real runs on the built-in corpus.

    python benchmarks/trunks.py runs-trunks      # about 8 CPU-minutes; prints the table of docs/training.md

For each duration: branches of a trunk, runs of the same schedule from their own start, cosine runs. The first
seed has both a trunk and a run of its own, whose losses must be equal to the bit (as in
tests/test_training_loop.py); the other seeds differ, so that what is compared is seeds. The last figure of a
duration is how often dealing all of them out at random would set the two means as far apart.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from llama_scale.architecture import llama
from llama_scale.runs import (
    Branch,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    RunFolder,
    ScheduleConfig,
    create_run,
    run_id,
)
from llama_scale.training.data import TokenFiles
from llama_scale.training.loop import train_run
from llama_scale.training.preparing import find_text, prepare

DATA = DataConfig(vocabulary=1024, evaluation_tokens=65_536)
MODEL = llama(2, 32, heads=2, hidden=96, vocabulary=1024, context=64, qk_norm=True)
DURATIONS = (307_200, 614_400)
TRUNK_SEEDS, OWN_SEEDS = range(3), range(3, 9)


def trunk_of(corpus: str, seed: int) -> RunConfig:
    return RunConfig(
        role="trunk",
        model=MODEL,
        data=DATA,
        corpus=corpus,
        optimizer=OptimizerConfig(learning_rate=4e-3),
        schedule=ScheduleConfig(kind="wsd", total_steps=None),
        sequences_per_step=8,
        seed=seed,
    )


def straight(trunk: RunConfig, tokens: int, kind: str) -> RunConfig:
    steps = tokens // trunk.tokens_per_step
    schedule = replace(trunk.schedule, kind=kind, total_steps=steps, decay_steps=steps // 5)
    return replace(trunk, role="train", schedule=schedule)


def branch(trunk: RunConfig, tokens: int) -> RunConfig:
    run = straight(trunk, tokens, "wsd")
    start = (run.schedule.total_steps or 0) - run.schedule.decay_steps
    return replace(run, branch=Branch(parent=run_id(trunk), step=start))


def losses(store: Path, files: TokenFiles, runs: list[RunConfig]) -> list[float]:
    """Train `runs`, each after its trunk, and return the losses of those that end."""
    folders = [create_run(store, run) for run in runs]
    found = []
    for folder in folders:
        train_run(store, folder, files, device=torch.device("cpu"), should_stop=lambda: False)
        if result := RunFolder(folder.path).result():
            found.append(result["loss_nats"])
    return found


def chance(first: Sequence[float], second: Sequence[float]) -> float:
    """How often a random split of all values has means at least as far apart (a permutation test)."""
    values, size = [*first, *second], len(first)
    found = abs(statistics.fmean(first) - statistics.fmean(second))
    splits = [set(places) for places in combinations(range(len(values)), size)]
    gaps = [
        abs(
            statistics.fmean(values[i] for i in places)
            - statistics.fmean(v for i, v in enumerate(values) if i not in places)
        )
        for places in splits
    ]
    return sum(gap >= found - 1e-12 for gap in gaps) / len(gaps)


def main(store: Path) -> None:
    torch.set_num_threads(1)
    files = prepare(find_text(DATA, store), DATA, store)
    trunks = [trunk_of(files.corpus, seed) for seed in TRUNK_SEEDS]
    own = [trunk_of(files.corpus, seed) for seed in OWN_SEEDS]
    grown = [
        losses(store, files, [trunk, *(branch(trunk, tokens) for tokens in DURATIONS)]) for trunk in trunks
    ]
    same = losses(store, files, [straight(trunks[0], DURATIONS[0], "wsd")])
    print(f"seed 0, {DURATIONS[0]:,} tokens: trunk + branch {grown[0][0]!r}, own run {same[0]!r}", flush=True)
    for place, tokens in enumerate(DURATIONS):
        columns = {
            "trunk + branch": [row[place] for row in grown],
            "own run": losses(store, files, [straight(run, tokens, "wsd") for run in own]),
            "cosine": losses(store, files, [straight(run, tokens, "cosine") for run in trunks]),
        }
        for name, values in columns.items():
            shown = ", ".join(f"{value:.4f}" for value in values)
            told = f"mean {statistics.fmean(values):.4f}, sd {statistics.stdev(values):.4f} ({shown})"
            print(f"{name}, {tokens:,} tokens: {told}", flush=True)
        both = [*columns["trunk + branch"], *columns["own run"]]
        found = chance(columns["trunk + branch"], columns["own run"])
        print(
            f"{tokens:,} tokens: {len(both)} seeds, sd {statistics.stdev(both):.4f}; "
            f"as far apart at random in {found:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
