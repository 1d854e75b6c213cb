"""How long a step takes here, measured on a few real ones, so that a sweep's cost in hours is known first."""

from __future__ import annotations

import time

import numpy as np

from llama_scale.runs import RunConfig
from llama_scale.training.data import TokenFiles, files_in_memory
from llama_scale.training.environment import choose_device, using_threads
from llama_scale.training.tokenizer import byte_tokenizer
from llama_scale.training.trainer import Trainer

WARM_STEPS = 3
TIMED_STEPS = 8


def seconds_per_step(config: RunConfig, device: str = "auto", threads: int = 1) -> float:
    """Median seconds of one training step of `config` on `threads` threads, over random tokens."""
    with using_threads(threads):
        trainer = Trainer(config, random_tokens(config), choose_device(device))
        times = []
        for _ in range(WARM_STEPS + TIMED_STEPS):
            began = time.perf_counter()
            trainer.advance()
            trainer.collect()  # waits for the device
            times.append(time.perf_counter() - began)
    return sorted(times[WARM_STEPS:])[TIMED_STEPS // 2]


def random_tokens(config: RunConfig) -> TokenFiles:
    """As many tokens as a measurement takes, and then some, of no language."""
    count = config.tokens_per_step * (WARM_STEPS + TIMED_STEPS) + 1
    ids = np.random.default_rng(0).integers(config.model.vocabulary, size=count).astype(np.uint32)
    return files_in_memory(ids, byte_tokenizer())
