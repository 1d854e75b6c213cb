"""Which peak learning rate, batch, beta2 and warm-up suit this trainer: real runs on the built-in corpus.

    python benchmarks/learning_rates.py measure runs-tuning/results.jsonl   # about 40 CPU-minutes, one thread
    python benchmarks/learning_rates.py fit runs-tuning/results.jsonl

`measure` appends one line a run and leaves out what the file holds already. `fit` finds the best rate of
every (width, tokens, batch) by a parabola in log rate through the means over seeds, and the rule of
`llama_scale/hyperparameters.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_scale.architecture import llama
from llama_scale.runs import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from llama_scale.training.data import TokenFiles
from llama_scale.training.loop import Trainer
from llama_scale.training.preparing import find_text, prepare

DATA = DataConfig(vocabulary=1024)
SHORT, LONG, LONGEST = 307_200, 1_228_800, 2_457_600  # tokens
Settings = dict[str, Any]


RATES = {  # tried at each (width, tokens, sequences a step)
    (16, SHORT, 8): (2e-3, 4e-3, 8e-3, 16e-3),
    (32, SHORT, 8): (1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
    (64, SHORT, 8): (1e-3, 2e-3, 4e-3, 8e-3),
    (32, SHORT, 2): (1e-3, 2e-3, 4e-3, 8e-3),
    (32, SHORT, 32): (2e-3, 4e-3, 8e-3, 16e-3),
    (32, LONG, 8): (2e-3, 4e-3, 8e-3),
    (16, LONG, 8): (4e-3, 8e-3, 16e-3),
}
LENGTHS = {  # what the exponent of tokens comes from: each with every one of SEEDS
    (width, tokens, 8): tuple(first * 2**step for step in range(4))
    for tokens in (LONGEST, LONG, SHORT)
    for width, first in ((16, 2e-3), (32, 2e-3), (64, 1e-3))
}
SEEDS = (0, 1)
DEARER = {(32, LONG, 32): (4e-3, 8e-3, 16e-3)}
BETAS = ((8, 8e-3, 0.95), (8, 8e-3, 0.98), (8, 8e-3, 0.999), (32, 16e-3, 0.95), (2, 4e-3, 0.999))
BASE: Settings = {"width": 32, "tokens": SHORT, "sequences": 8, "beta2": 0.99, "warmup": 100, "seed": 0}


def grid() -> Iterator[Settings]:
    """The runs: rates by size and length, by size and batch, beta2, warm-up, noise of seeds, dearer rates."""
    for seed in SEEDS:
        for settings in _rates(LENGTHS):
            yield settings | {"seed": seed}
    yield from _rates(RATES)
    for sequences, rate, beta2 in BETAS:
        yield BASE | {"sequences": sequences, "rate": rate, "beta2": beta2}
    for warmup in (10, 30, 200):
        yield BASE | {"rate": 8e-3, "warmup": warmup}
    for seed in (1, 2):
        yield BASE | {"rate": 8e-3, "seed": seed}
    yield from _rates(DEARER)


def _rates(rates: dict[tuple[int, int, int], tuple[float, ...]]) -> Iterator[Settings]:
    for (width, tokens, sequences), tried in rates.items():
        for rate in tried:
            yield BASE | {"width": width, "tokens": tokens, "sequences": sequences, "rate": rate}


def config_of(settings: Settings, corpus: str) -> RunConfig:
    """A member of the default sweep's family, trained by WSD from its own start."""
    width = settings["width"]
    shape = {"hidden": 3 * width, "vocabulary": DATA.vocabulary, "context": 64, "qk_norm": True}
    model = llama(2, width, heads=width // 16, **shape)
    steps = settings["tokens"] // (settings["sequences"] * model.context)
    return RunConfig(
        role="train",
        model=model,
        data=DATA,
        corpus=corpus,
        optimizer=OptimizerConfig(learning_rate=settings["rate"], beta2=settings["beta2"]),
        schedule=ScheduleConfig(
            kind="wsd",
            total_steps=steps,
            warmup_steps=min(settings["warmup"], steps // 3),
            decay_steps=steps // 5,
        ),
        sequences_per_step=settings["sequences"],
        seed=settings["seed"],
    )


def measure(path: Path) -> None:
    torch.set_num_threads(1)
    files = prepare(find_text(DATA, path.parent), DATA, path.parent)
    path.touch()
    done = {json.dumps(row["settings"]) for row in _rows(path)}
    for settings in grid():
        if json.dumps(settings) not in done:
            done.add(json.dumps(settings))
            row = {"settings": settings, **trained(settings, files)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def trained(settings: Settings, files: TokenFiles) -> dict[str, float]:
    config = config_of(settings, files.corpus)
    began = time.process_time()
    trainer = Trainer(config, files, torch.device("cpu"))
    for _ in range(config.schedule.total_steps or 0):
        trainer.advance()
        trainer.collect()
    return {"loss_nats": trainer.evaluate()["loss_nats"], "cpu_seconds": time.process_time() - began}


def fit(path: Path) -> None:
    """The best rate of every group, and the rule through them: log rate on log N, log D and log B."""
    groups: dict[tuple[int, int, int], list[tuple[float, float]]] = defaultdict(list)
    for row in _rows(path):
        settings = row["settings"]
        if (settings["beta2"], settings["warmup"], settings["seed"]) == (0.99, 100, 0):
            group = settings["width"], settings["tokens"], settings["sequences"]
            groups[group].append((settings["rate"], row["loss_nats"]))
    features, rates = [], []
    for (width, tokens, sequences), points in groups.items():
        if len(points) < 3:
            continue
        rate, loss = best_of(points)
        size = config_of(BASE | {"width": width, "rate": rate}, "").model.parameters.non_embedding
        print(
            f"width {width}, N {size:,}, D {tokens:,}, B {64 * sequences}: "
            f"best rate {rate:.2e}, loss {loss:.3f}"
        )
        features.append([1.0, np.log(size / 25e3), np.log(tokens / 6e5), np.log(sequences / 8)])
        rates.append(np.log(rate))
    solution, *_ = np.linalg.lstsq(np.array(features), np.array(rates), rcond=None)
    left = np.exp(np.abs(np.array(features) @ solution - rates).max())
    print(
        f"rate = {np.exp(solution[0]):.2e} (N / 25k)^{solution[1]:.2f} (D / 600k)^{solution[2]:.2f} "
        f"(B / 512)^{solution[3]:.2f}, within a factor of {left:.2f}"
    )


def best_of(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Rate and loss at the bottom of the parabola in log rate through the best point and its neighbours."""
    points = sorted(points)
    middle = min(max(1, int(np.argmin([loss for _, loss in points]))), len(points) - 2)
    logs, losses = np.array([(np.log(rate), loss) for rate, loss in points[middle - 1 : middle + 2]]).T
    a, b, c = np.polyfit(logs, losses, 2)
    bottom = np.clip(-b / (2 * a), logs[0] - 0.35, logs[-1] + 0.35)  # at most half a step of the grid outside
    return float(np.exp(bottom)), float(np.polyval([a, b, c], bottom))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    command, file = sys.argv[1], Path(sys.argv[2])
    file.parent.mkdir(parents=True, exist_ok=True)
    {"measure": measure, "fit": fit}[command](file)
