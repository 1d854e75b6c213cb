"""Do a trunk and its decay branches end where runs of their own do? Real runs on the built-in corpus.

    python benchmarks/trunks.py runs-trunks      # about 8 CPU-minutes; prints the table of docs/training.md

For each duration: branches of one trunk a seed, runs of the same schedule from their own start with other
seeds, and cosine runs. The seeds of the second are others, because with the same seed a branch and a
straight run are equal to the bit (tests/test_training_loop.py): what is compared is seeds, and how often
dealing them out at random would set the two means as far apart is the last figure of each duration.
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
SEEDS, COSINE_SEEDS = 6, 3


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
    columns: dict[tuple[str, int], list[float]] = {}
    for seed in range(SEEDS):
        trunk = trunk_of(files.corpus, seed)
        other = replace(trunk, seed=seed + SEEDS)
        grown = losses(store, files, [trunk, *(branch(trunk, tokens) for tokens in DURATIONS)])
        own = losses(store, files, [straight(other, tokens, "wsd") for tokens in DURATIONS])
        rows = {"trunk + branch": grown, "own run": own}
        if seed < COSINE_SEEDS:
            rows["cosine"] = losses(store, files, [straight(trunk, tokens, "cosine") for tokens in DURATIONS])
        for name, row in rows.items():
            for tokens, loss in zip(DURATIONS, row, strict=True):
                columns.setdefault((name, tokens), []).append(loss)
        for (name, tokens), values in columns.items():
            shown = ", ".join(f"{value:.4f}" for value in values)
            spread = f", sd {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(
                f"{name}, {tokens:,} tokens: mean {statistics.mean(values):.4f}{spread} ({shown})", flush=True
            )
    for tokens in DURATIONS:
        found = chance(columns["trunk + branch", tokens], columns["own run", tokens])
        print(f"{tokens:,} tokens: seeds at random lie so far apart in {found:.0%} of all ways", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
