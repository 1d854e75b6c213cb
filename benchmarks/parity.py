"""Whether runs in integers end where runs in f32 do, beside what a small push at the start makes of f32.

    llama-scale train --model 2x64 --steps 800    # prepares the text, and is what all runs are made from
    python benchmarks/parity.py runs [--seeds 6] [--push 1e-4]

For each seed: the run in f32, in i16, in i8, and in f32 from weights that were pushed, each times 1 + PUSH x
a normal number. Training amplifies any difference: it is the pushed runs that say how far apart equals end.
Prints the held-out losses, and how far from that in f32 they are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from llama_scale.runs import INTEGERS, RunConfig, RunFolder
from llama_scale.training.data import TokenFiles, open_tokens, prepared_folders
from llama_scale.training.trainer import Trainer

PUSHES = (1, 2)  # seeds of what weights are pushed by


def held_out(config: RunConfig, files: TokenFiles, push: float = 0.0, push_seed: int = 0) -> float:
    """Nats a token at the end of a run."""
    trainer = Trainer(config, files, torch.device("cpu"))
    generator = torch.Generator().manual_seed(push_seed)
    with torch.no_grad():
        for weight in trainer.optimizer.tensors()["weights"].values():
            weight.mul_(1 + push * torch.randn(weight.shape, generator=generator))
    for _ in range(config.schedule.total_steps or 0):
        trainer.advance()
    trainer.collect()
    return float(trainer.evaluate()["loss_nats"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="that holds one run of one text")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--push", type=float, default=1e-4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    (folder,), (spec,) = prepared_folders(asked.store), [*asked.store.glob("*/spec.json")]
    files, config = open_tokens(folder), RunFolder(spec.parent).config
    ends: dict[str, list[float]] = {}
    for seed in range(asked.seeds):
        run = replace(config, seed=seed)
        losses = {p: held_out(replace(run, precision=p), files) for p in ("f32", *INTEGERS)}
        losses |= {f"f32, push {n}": held_out(run, files, asked.push, n) for n in PUSHES}
        print(f"seed {seed}: " + ", ".join(f"{who} {loss:.5f}" for who, loss in losses.items()), flush=True)
        for who, loss in losses.items():
            ends.setdefault(who, []).append(loss)
    exact = np.array(ends["f32"])
    for who in [who for who in ends if who != "f32"]:
        change = np.array(ends[who]) / exact - 1
        print(f"{who}: {np.mean(change):+.3%} on average, {np.sqrt(np.mean(change**2)):.3%} rms")
    print(f"seeds in f32: {np.std(exact, ddof=1) / np.mean(exact):.3%} sd")


if __name__ == "__main__":
    main()
