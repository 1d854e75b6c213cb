"""Tokens a second of a training step, beside transformers' Llama and litgpt: forward, backward, clip, update.

    pip install 'llama-scale[bench]'    # in an environment of its own: litgpt wants older packages
    python benchmarks/train_step.py [--quick] [--sizes 0.1M 1M] [--vocabularies 256] [--json FILE]
    python benchmarks/train_step.py --device cuda
    python benchmarks/train_step.py --sweep

Each contestant is a process of its own that sleeps between its turns; in every round each takes some steps,
and ratios are medians over rounds of the ratio within a round, so that what else the machine does cancels.
On a CPU each has one thread, and rates are tokens per second of CPU time. On a GPU, whose memory may not hold
all, they take their rounds one after another; rates are by the clock, with the share of the card's measured
bf16 matrix-product rate that they use (MFU), and several members share the card. `--sweep` tells what the
default sweep takes with shared trunks, two runs at a time, and what its runs one after another do, each from
its own start.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parent))  # the processes of the contestants import it too
from contestants import PEERS, Contestant, Running

from llama_scale.architecture import ModelConfig
from llama_scale.frozen import frozen
from llama_scale.runs import INTEGERS, Precision

TURN_SECONDS = 0.5  # of a contestant in a round, about
TORCH_TYPES = {"f32": "float32", "bf16": "bfloat16"}
HOPELESS = 2.0  # who is this many times slower than the best peer in a first turn is measured no further


@frozen(kw_only=False)
class Size:
    """A shape of about `name` non-embedding parameters, and the sequences of a step."""

    name: str
    layers: int
    width: int
    heads: int
    hidden: int
    sequences: int

    def model(self, vocabulary: int, context: int) -> ModelConfig:
        return ModelConfig(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.heads,
            head_size=self.width // self.heads,
            hidden=self.hidden,
            vocabulary=vocabulary,
            context=context,
        )


CPU_SIZES = (
    Size("0.1M", 2, 64, 4, 192, 8),
    Size("1M", 5, 128, 4, 384, 8),
    Size("10M", 8, 320, 5, 896, 4),
    Size("50M", 16, 512, 8, 1408, 2),
)
GPU_SIZES = (
    Size("1M", 5, 128, 2, 384, 64),
    Size("10M", 8, 320, 5, 896, 64),
    Size("100M", 12, 768, 6, 2304, 32),
    Size("400M", 24, 1152, 9, 3072, 16),
    Size("1B", 20, 2048, 16, 5632, 8),
)
SHARED = ("1M", "10M")  # sizes of which several members share a card
MEMBERS = 4


@frozen(kw_only=False)
class Race:
    """One shape: every contestant's turns, in the order of the rounds, in seconds a step."""

    size: str
    model: ModelConfig
    tokens_per_step: int
    seconds: dict[Contestant, list[float]]

    def rate(self, contestant: Contestant) -> float:
        """Tokens a second, median over rounds."""
        return self.tokens_per_step / statistics.median(self.seconds[contestant])

    @property
    def best_peer(self) -> Contestant | None:
        peers = [c for c in self.seconds if not c.is_ours]
        return max(peers, key=self.rate, default=None)

    def ratio(self, ours: Contestant, theirs: Contestant) -> float:
        """How many times faster `ours` is: the median over rounds; by first turns where one was dropped."""
        our, their = self.seconds[ours], self.seconds[theirs]
        if len(our) != len(their):
            return self.rate(ours) / self.rate(theirs)
        return statistics.median(b / a for a, b in zip(our, their, strict=True))


def contestants(asked: argparse.Namespace) -> list[Contestant]:
    both = (False,) if asked.quick or asked.eager else (False, True)
    # On a CPU kernels of ours are faster than what torch compiles.
    ours = [
        Contestant(who="llama-scale", compiled=compiled, precision=precision, device=asked.device)
        for compiled in (both if asked.device == "cuda" else (False,))
        for precision in asked.precisions
    ]
    others = [precision for precision in asked.precisions if precision not in INTEGERS]  # ours alone
    if asked.device == "cpu":
        ours.append(Contestant(who="llama-scale, torch alone"))
    peers = [
        Contestant(who=who, compiled=compiled, precision=precision, device=asked.device)
        for who in PEERS
        for compiled in both
        for precision in others
    ]
    return ours + peers


def race(size: Size, model: ModelConfig, entrants: Sequence[Contestant], rounds: int) -> Race:
    """All in turns; on a GPU one after another, as its memory does not hold all of them at a time."""
    groups = [[entrant] for entrant in entrants] if entrants[0].device == "cuda" else [entrants]
    seconds = {c: s for group in groups for c, s in turns(size, model, group, rounds).items()}
    return Race(size.name, model, size.sequences * model.context, seconds)


def turns(
    size: Size, model: ModelConfig, entrants: Sequence[Contestant], rounds: int
) -> dict[Contestant, list[float]]:
    """Start all, drop the hopeless, then rounds: seconds a step of each, by round."""
    clock = "wall" if entrants[0].device == "cuda" else "cpu"
    running: list[Running] = []
    first: dict[Contestant, float] = {}
    for entrant in entrants:
        began = time.perf_counter()
        runner = Running(entrant, model, size.sequences)
        try:
            runner.take(1)
            runner.take(1)  # whatever is compiled or allocated late
            first[entrant] = min(getattr(runner.take(1), clock) for _ in range(3))
        except RuntimeError as error:
            say(f"  left out: {error}")
            runner.close()
            continue
        running.append(runner)
        say(
            f"  {entrant}: {first[entrant] * 1e3:.1f} ms a step, ready in {time.perf_counter() - began:.0f} s"
        )
    slowest = HOPELESS * min((first[c] for c in first if not c.is_ours), default=math.inf)
    for runner in [r for r in running if first[r.contestant] > slowest]:
        running.remove(runner)
        runner.close()
    steps = {c: max(1, math.ceil(TURN_SECONDS / seconds)) for c, seconds in first.items()}
    seconds: dict[Contestant, list[float]] = {c: [first[c]] for c in first}
    kept = {r.contestant: list[float]() for r in running}
    for _ in range(rounds):
        for runner in running:
            taken = getattr(runner.take(steps[runner.contestant]), clock)
            kept[runner.contestant].append(taken / steps[runner.contestant])
    for runner in running:
        runner.close()
    return seconds | kept


def rows(race: Race, peak_flops: float | None) -> Iterator[dict[str, Any]]:
    flops = race.model.train_flops_per_token(race.model.context // 2)  # causal: half of the pairs
    best = race.best_peer
    for contestant, seconds in sorted(race.seconds.items(), key=lambda item: statistics.median(item[1])):
        rate = race.rate(contestant)
        yield {
            "size": race.size,
            "vocabulary": race.model.vocabulary,
            "context": race.model.context,
            "contestant": str(contestant),
            "tokens_per_second": round(rate),
            "gflops": round(rate * flops / 1e9, 1),
            "mfu": round(rate * flops / peak_flops, 3) if peak_flops else None,
            "over_best_peer": round(race.ratio(contestant, best), 3) if best else None,
            "rounds": len(seconds),
        }


def matrix_product_flops(device: str, precision: str) -> float:
    """FLOPs a second of this device's best square product, by CPU time of one thread or by the clock."""
    import torch

    torch.set_num_threads(1)
    n = 8192 if device == "cuda" else 512
    kind = getattr(torch, TORCH_TYPES[precision])
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    clock = time.thread_time if device == "cpu" else time.perf_counter
    best = math.inf
    for _ in range(20):
        began = clock()
        _ = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - began)
    return 2 * n**3 / best


def members_together(size: Size, model: ModelConfig, rounds: int) -> dict[str, Any]:
    """Several members on one card against one after another: tokens a second of all, by the clock."""
    member = Contestant(who="llama-scale", precision="bf16", device="cuda")
    running = [Running(member, model, size.sequences) for _ in range(MEMBERS)]
    for runner in running:
        runner.take(5)
    steps = max(1, math.ceil(2 / (running[0].take(5).wall / 5)))
    ratios = []
    for _ in range(rounds):
        alone = sum(runner.take(steps).wall for runner in running)
        ratios.append(alone / together(running, [steps] * MEMBERS))
    for runner in running:
        runner.close()
    return {
        "size": size.name,
        "members": MEMBERS,
        "together_over_one_after_another": statistics.median(ratios),
    }


def together(running: Sequence[Running], steps: Sequence[int]) -> float:
    """Seconds by the clock until the last is done."""
    began = time.perf_counter()
    for runner, count in zip(running, steps, strict=True):
        runner.begin(count)
    for runner in running:
        runner.end()
    return time.perf_counter() - began


def sweep_throughput(rounds: int, peers: Sequence[str]) -> dict[str, Any]:
    """The default sweep as `sweep` trains it, against its runs one after another: seconds on two cores.

    As `sweep` does: trunks shared, two runs at a time on one thread each, so half of the CPU time of one.
    One after another: each run from its own start, in half of the CPU time of one thread, as if a second
    one halved every step, which none does. Peers lack QK-norm, which these models have.
    """
    entrants = [Contestant(who=who) for who in ("llama-scale", *peers)]
    steps, seconds, running = sweep_steps(), defaultdict[Contestant, list[float]](list), []
    first, sequences = next(iter(steps))
    for entrant in entrants:
        say(f"  {entrant}")
        running.append(Running(entrant, first, sequences))
    for model, sequences in steps:
        for runner in running:
            runner.turn_to(model, sequences)
        found = cpu_seconds_a_step(running, rounds)
        for contestant, value in found.items():
            seconds[contestant].append(value)
        say(f"  width {model.width}: " + ", ".join(f"{c} {v * 1e3:.2f} ms" for c, v in found.items()))
    for runner in running:
        runner.close()
    shared, alone = zip(*steps.values(), strict=True)
    ours = sum(map(operator.mul, shared, seconds[entrants[0]])) / 2
    apart = {c.who: sum(map(operator.mul, alone, seconds[c])) / 2 for c in entrants}
    return {
        "seconds": ours,
        "seconds_one_after_another": apart,
        "times_as_fast": {who: total / ours for who, total in apart.items()},
    }


def sweep_steps() -> dict[tuple[ModelConfig, int], tuple[int, int]]:
    """Steps of the default sweep by model and sequences: with trunks shared, and with none."""
    from llama_scale.sweeps import expand, load_recipe

    sweep = expand("default", load_recipe("default"), corpus="random")
    steps: dict[tuple[ModelConfig, int], tuple[int, int]] = {}
    for name, run in sweep.by_id.items():
        shared, alone = steps.get((run.model, run.sequences_per_step), (0, 0))
        ends = run.schedule.total_steps or 0
        steps[run.model, run.sequences_per_step] = shared + sweep.own_steps[name], alone + ends
    return steps


def cpu_seconds_a_step(running: Sequence[Running], rounds: int) -> dict[Contestant, float]:
    """Median over rounds of each one's CPU time of a step."""
    counts = {}
    for runner in running:
        runner.take(3)
        counts[runner.contestant] = max(1, math.ceil(TURN_SECONDS / 2 / (runner.take(3).cpu / 3)))
    taken: dict[Contestant, list[float]] = {runner.contestant: [] for runner in running}
    for _ in range(rounds):
        for runner in running:
            count = counts[runner.contestant]
            taken[runner.contestant].append(runner.take(count).cpu / count)
    return {contestant: statistics.median(values) for contestant, values in taken.items()}


def machine(device: str) -> dict[str, Any]:
    names = ("torch", "transformers", "litgpt", "llama-scale")
    found = {
        "device": device,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device == "cuda":
        import torch

        found["card"] = torch.cuda.get_device_name()
    return found


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| size | vocabulary | context | who | tokens/s | GFLOP/s | MFU | over the best peer |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found:
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.0%}"
        ratio = "" if row["over_best_peer"] is None else f"{row['over_best_peer']:.2f}"
        cells = (
            row["size"],
            row["vocabulary"],
            row["context"],
            row["contestant"],
            f"{row['tokens_per_second']:,}",
        )
        yield f"| {' | '.join(map(str, cells))} | {row['gflops']:.0f} | {mfu} | {ratio} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+")
    parser.add_argument("--vocabularies", nargs="+", type=int)
    parser.add_argument("--contexts", nargs="+", type=int)
    parser.add_argument("--precisions", nargs="+", choices=get_args(Precision))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="two sizes, one vocabulary, nothing compiled")
    parser.add_argument("--eager", action="store_true", help="nothing compiled")
    parser.add_argument("--sweep", action="store_true", help="the default sweep's throughput instead")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    asked = parser.parse_args()
    on_gpu = asked.device == "cuda"
    asked.rounds = asked.rounds or (3 if asked.quick else 7)
    asked.precisions = asked.precisions or (["bf16"] if on_gpu else [*get_args(Precision)])
    asked.contexts = asked.contexts or ([1024, 2048] if on_gpu else [256])
    asked.vocabularies = asked.vocabularies or ([8192] if on_gpu else [256] if asked.quick else [256, 4096])
    known = GPU_SIZES if on_gpu else CPU_SIZES
    names = asked.sizes or [size.name for size in (known[:2] if asked.quick else known)]
    if unknown := set(names) - {size.name for size in known}:
        parser.error(f"no size is called {', '.join(unknown)}: use {', '.join(s.name for s in known)}")
    asked.sizes = [size for size in known if size.name in names]
    return asked


def main() -> None:
    asked = arguments()
    found: dict[str, Any] = {"machine": machine(asked.device), "steps": []}
    if asked.sweep:
        found["sweep"] = sweep_throughput(asked.rounds, ["transformers"] if asked.quick else list(PEERS))
        print(json.dumps(found, indent=2))
        return
    found["matrix_product_flops"] = {
        p: matrix_product_flops(asked.device, p) for p in asked.precisions if p in TORCH_TYPES
    }
    say(f"matrix products: {found['matrix_product_flops']}")
    peak = max(found["matrix_product_flops"].values(), default=None)
    for size in asked.sizes:
        for vocabulary in asked.vocabularies:
            for context in asked.contexts:
                model = size.model(vocabulary, context)
                say(f"{size.name}: {model.parameters.non_embedding:,} parameters, vocabulary {vocabulary}")
                found["steps"] += rows(race(size, model, contestants(asked), asked.rounds), peak)
                if asked.json:
                    asked.json.write_text(json.dumps(found, indent=2))
    print("\n".join(table(found["steps"])), flush=True)
    if asked.device == "cuda":
        small = [size for size in asked.sizes if size.name in SHARED]
        shapes = [(size, size.model(asked.vocabularies[0], asked.contexts[0])) for size in small]
        found["sharing"] = [members_together(size, model, asked.rounds) for size, model in shapes]
        say(json.dumps(found["sharing"]))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
