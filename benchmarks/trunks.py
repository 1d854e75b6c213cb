"""Do a trunk and its decay branches end where runs of their own do? Real runs on the built-in corpus.

    python benchmarks/trunks.py runs-trunks      # about 7 CPU-minutes; prints the table of docs/training.md

For each duration: branches of one trunk a seed, runs of the same schedule from their own start with other
seeds, and cosine runs. The seeds of the second are others, because with the same seed a branch and a
straight run are equal to the bit (tests/test_training_loop.py).
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch

from llama_scale.architecture import ModelConfig
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
MODEL = ModelConfig(
    layers=2,
    width=32,
    heads=2,
    kv_heads=2,
    head_size=16,
    hidden=96,
    vocabulary=1024,
    context=64,
    qk_norm=True,
)
DURATIONS = (307_200, 614_400)
SEEDS = 3


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


def main(store: Path) -> None:
    torch.set_num_threads(1)
    files = prepare(find_text(DATA, store), DATA, store)
    columns: dict[tuple[str, int], list[float]] = {}
    for seed in range(SEEDS):
        trunk = trunk_of(files.corpus, seed)
        other = replace(trunk, seed=seed + SEEDS)
        grown = losses(store, files, [trunk, *(branch(trunk, tokens) for tokens in DURATIONS)])
        own = losses(store, files, [straight(other, tokens, "wsd") for tokens in DURATIONS])
        cosine = losses(store, files, [straight(trunk, tokens, "cosine") for tokens in DURATIONS])
        for name, row in (("trunk + branch", grown), ("own run", own), ("cosine", cosine)):
            for tokens, loss in zip(DURATIONS, row, strict=True):
                columns.setdefault((name, tokens), []).append(loss)
        for (name, tokens), values in columns.items():
            shown = ", ".join(f"{value:.4f}" for value in values)
            spread = f", sd {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(
                f"{name}, {tokens:,} tokens: mean {statistics.mean(values):.4f}{spread} ({shown})", flush=True
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
