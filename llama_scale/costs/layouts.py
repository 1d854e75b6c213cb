"""Parallel layouts that fit: data, FSDP, tensor and pipeline degrees for the accelerators given, best first.

A layout is worse by the time that it loses: what is recomputed, the pipeline's bubble, and communication
that does not hide behind the products. FSDP alone is simplest: tensor parallelism must save 5 % of the useful
time to be worth its trouble, a pipeline 10 %. Among equals the least tensor parallelism, the smallest group
that shards its states and the largest micro-batch win.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.costs.memory import (
    Memory,
    Sharding,
    memory_per_accelerator,
    recompute_overhead,
)
from llama_scale.costs.serving import NODE
from llama_scale.frozen import frozen
from llama_scale.hardware import Accelerator

NETWORK_BYTES_PER_SECOND = 50e9  # across nodes: 400 Gb/s a chip (Llama 3, arXiv 2407.21783, section 3.3.1)
PCIE_BYTES_PER_SECOND = 32e9  # where no faster link is known
BATCH_TOLERANCE = 0.1  # a batch may be that much off, to be whole micro-batches on every replica
MICRO_BATCHES = (8, 4, 2, 1)
TENSOR_TROUBLE, PIPELINE_TROUBLE = 0.05, 0.10  # shares of the useful time
LARGEST_CLUSTER = 2**17


@frozen
class Workload:
    """What is trained, on what, and how: `mfu` is useful FLOPs over the peak while training runs."""

    shape: ModelConfig
    accelerator: Accelerator
    peak_flops_per_second: float
    batch_tokens: float
    mfu: float = 0.4
    recompute: Recompute | None = None

    @property
    def sequences(self) -> float:
        """Sequences of one batch."""
        return self.batch_tokens / self.shape.context

    @property
    def modes(self) -> tuple[Recompute, ...]:
        """What may be recomputed: fused attention alone, or whole layers, unless one mode is asked for."""
        return ("selective", "full") if self.recompute is None else (self.recompute,)


@frozen
class Layout:
    """A feasible way to spread training: degrees, micro-batch, what is recomputed, memory and lost time.

    Losses are shares of the useful time of a step: `recompute_overhead`, `bubble` and `exposed`
    (communication that the products do not hide).
    """

    sharding: Sharding
    micro_batch: int
    micro_steps: int
    recompute: Recompute
    batch_tokens: int
    memory: Memory
    recompute_overhead: float
    bubble: float
    exposed: float

    @property
    def lost(self) -> float:
        """Time lost in all, as a share of the useful time."""
        return self.recompute_overhead + self.bubble + self.exposed

    def to_json(self) -> dict[str, object]:
        """Degrees, batch, memory in bytes and losses."""
        spread, memory = self.sharding, self.memory
        return {
            "data": spread.data,
            "fsdp": spread.fsdp,
            "tensor": spread.tensor,
            "pipeline": spread.pipeline,
            "accelerators": spread.accelerators,
            "micro_batch": self.micro_batch,
            "micro_steps": self.micro_steps,
            "batch_tokens": self.batch_tokens,
            "recompute": self.recompute,
            "recompute_overhead": self.recompute_overhead,
            "bubble": self.bubble,
            "exposed_communication": self.exposed,
            "memory_bytes": memory.total_bytes,
            "usable_bytes": memory.usable_bytes,
            "memory": {
                "weights": memory.weights_bytes,
                "gradients": memory.gradients_bytes,
                "optimizer": memory.optimizer_bytes,
                "gathered": memory.gathered_bytes,
                "activations": memory.activations_bytes,
                "logits": memory.logits_bytes,
            },
        }

    @property
    def text(self) -> str:
        """The layout in a few words: `FSDP 256 x tensor 8, micro-batch 1, recomputing attention`."""
        spread = self.sharding
        degrees = ("data", spread.data), ("FSDP", spread.fsdp), ("tensor", spread.tensor)
        named = [f"{name} {n}" for name, n in (*degrees, ("pipeline", spread.pipeline)) if n > 1]
        again = {
            "none": "nothing recomputed",
            "selective": "fused attention",
            "full": f"full recompute ({self.recompute_overhead:.0%} more FLOPs)",
        }[self.recompute]
        return f"{' x '.join(named) or 'one accelerator'}, micro-batch {self.micro_batch}, {again}"


def layouts(work: Workload, accelerators: int, most: int = 5) -> tuple[Layout, ...]:
    """The best layouts of `work` on so many accelerators, best first; none where nothing fits.

    >>> from llama_scale.architecture import LLAMA_7B
    >>> from llama_scale.hardware import accelerator
    >>> h100 = accelerator("H100")
    >>> work = Workload(shape=LLAMA_7B, accelerator=h100, peak_flops_per_second=989e12, batch_tokens=2**22)
    >>> layouts(work, 64)[0].text
    'data 8 x FSDP 8, micro-batch 4, fused attention'
    """
    found = (layout for layout in _all_layouts(work, accelerators) if layout.memory.fits)
    return tuple(sorted(found, key=_rank)[:most])


def fewest_accelerators(work: Workload) -> int | None:
    """The least power of two of accelerators on which something fits; None beyond 131,072."""
    count = 1
    while count <= LARGEST_CLUSTER:
        if any(_fits_at_all(work, sharding) for sharding in _shardings(work, count)):
            return count
        count *= 2
    return None


def _fits_at_all(work: Workload, sharding: Sharding) -> bool:
    """Whether the smallest micro-batch fits so, recomputing whatever may be: none takes less memory."""
    held = (_held(work, sharding, recompute, MICRO_BATCHES[-1]) for recompute in work.modes)
    return any(found is not None and found.memory.fits for found in held)


def why_none_fits(work: Workload, accelerators: int) -> str:
    """Why no layout fits `accelerators`, in one sentence, and how many would do."""
    chip, sequences = work.accelerator.name, round(work.sequences)
    tried = list(_all_layouts(work, accelerators))
    if not tried:
        return (
            f"a batch of {sequences:,} sequences cannot be split evenly over {accelerators:,} x {chip}: use "
            f"a power of two up to {_power_of_two(sequences):,}, or a larger batch"
        )
    least = min(tried, key=lambda layout: layout.memory.total_bytes).memory
    needed = fewest_accelerators(work)
    enough = f"{needed:,} would do" if needed else "no cluster of up to 131,072 would do"
    return (
        f"training takes at least {least.total_bytes / 2**30:,.0f} GiB of each of {accelerators:,} x {chip}, "
        f"which has {least.usable_bytes / 2**30:,.0f} GiB to use: {enough}"
    )


def _all_layouts(work: Workload, accelerators: int) -> Iterator[Layout]:
    """Every layout whose degrees divide heads, layers, accelerators and, nearly, the batch."""
    for sharding in _shardings(work, accelerators):
        for recompute in work.modes:
            tried = [
                layout
                for micro_batch in MICRO_BATCHES
                if (layout := _layout(work, sharding, recompute, micro_batch)) is not None
            ]
            # the largest micro-batch that fits, or the smallest to say how much is missing
            fitting = [layout for layout in tried if layout.memory.fits]
            yield from fitting[:1] or tried[-1:]


def _shardings(work: Workload, accelerators: int) -> Iterator[Sharding]:
    shape = work.shape
    for tensor in (1, 2, 4, 8):
        if accelerators % tensor or not _splits(shape, tensor):
            continue
        for pipeline in _divisors(math.gcd(shape.layers, accelerators // tensor)):
            replicas = accelerators // tensor // pipeline
            for fsdp in {1, math.gcd(replicas, NODE // tensor), replicas}:
                yield Sharding(data=replicas // fsdp, fsdp=fsdp, tensor=tensor, pipeline=pipeline)


def _splits(shape: ModelConfig, tensor: int) -> bool:
    """Whether heads and hidden layer divide; KV heads that are fewer are held more than once."""
    shared = shape.kv_heads % tensor == 0 or tensor % shape.kv_heads == 0
    return shape.heads % tensor == 0 and shape.hidden % tensor == 0 and shared


def _layout(work: Workload, sharding: Sharding, recompute: Recompute, micro_batch: int) -> Layout | None:
    """One layout with its memory and losses; None where the batch does not divide."""
    held = _held(work, sharding, recompute, micro_batch)
    if held is None:
        return None
    overhead = recompute_overhead(work.shape, recompute)
    return Layout(
        sharding=sharding,
        micro_batch=micro_batch,
        micro_steps=held.micro_steps,
        recompute=recompute,
        batch_tokens=held.micro_steps * sharding.replicas * micro_batch * work.shape.context,
        memory=held.memory,
        recompute_overhead=overhead,
        bubble=(sharding.pipeline - 1) / held.micro_steps,
        exposed=_exposed(work, sharding, micro_batch, held.micro_steps, overhead),
    )


class _Held(NamedTuple):
    """How many micro-batches make a step, and the memory that they take."""

    micro_steps: int
    memory: Memory


def _held(work: Workload, sharding: Sharding, recompute: Recompute, micro_batch: int) -> _Held | None:
    """What a layout holds; None where the batch does not divide."""
    step = sharding.replicas * micro_batch
    micro_steps = max(1, round(work.sequences / step))
    if abs(micro_steps * step / work.sequences - 1) > BATCH_TOLERANCE:
        return None
    memory = memory_per_accelerator(
        work.shape,
        sharding,
        work.accelerator,
        micro_batch=micro_batch,
        micro_steps=micro_steps,
        recompute=recompute,
    )
    return _Held(micro_steps, memory)


def _exposed(
    work: Workload, sharding: Sharding, micro_batch: int, micro_steps: int, overhead: float
) -> float:
    """Communication that the products do not hide, as a share of their time.

    FSDP gathers the weights forward and backward and scatters gradients in fp32 at every micro-batch, behind
    the products; replicas add their gradients up once a step. Tensor parallelism waits for eight exchanges
    of activations a layer, four forward and four backward (Korthikanti et al., section 4.2.2).
    """
    shape, link = work.shape, work.accelerator.interconnect_bytes_per_second or PCIE_BYTES_PER_SECOND
    across = link if work.accelerator.vendor == "Google" else min(link, NETWORK_BYTES_PER_SECOND)
    held = shape.parameters.total / sharding.tensor / sharding.pipeline
    tokens = micro_batch * shape.context * micro_steps
    useful = tokens * shape.train_flops_per_token() / sharding.tensor / sharding.pipeline
    products = useful / (work.peak_flops_per_second * work.mfu)
    in_node = sharding.fsdp * sharding.tensor <= NODE
    gathered = (2 * 2 + 4) * held * micro_steps * (1 - 1 / sharding.fsdp) / (link if in_node else across)
    whole_in_node = sharding.accelerators <= NODE
    summed = 2 * 4 * held / sharding.fsdp * (1 - 1 / sharding.data) / (link if whole_in_node else across)
    layers = shape.layers / sharding.pipeline
    exchanged = 8 * 2 * tokens * shape.width * layers * (1 - 1 / sharding.tensor) / link
    hidden = products * (1 + overhead)
    return (max(0.0, gathered + summed - hidden) + exchanged) / products


def _rank(layout: Layout) -> tuple[float, ...]:
    spread = layout.sharding
    trouble = TENSOR_TROUBLE * (spread.tensor > 1) + PIPELINE_TROUBLE * (spread.pipeline > 1)
    worse = round(layout.lost + trouble, 2)
    return worse, spread.pipeline, spread.tensor, spread.fsdp, -layout.micro_batch, layout.lost


def _divisors(number: int) -> Iterable[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


def _power_of_two(number: float) -> int:
    return 2 ** math.floor(math.log2(max(1.0, number)))
