"""What serving a model takes: how many accelerators hold it, how fast it answers, and what a token costs.

For each number of accelerators (1, 2, 4, ...) the batch is the largest that memory and the limits on
latency allow, in closed form, since every one of them is linear in it; more batch is always more
throughput. The number with the cheapest token is taken. See `roofline` for the times.

Up to `NODE` accelerators share every layer (tensor parallel). More than that hold the layers in stages
(pipeline parallel, one node each): memory adds up, and each stage works on its own part of the batch, so
that the nodes are as fast as nodes apart from each other, less a tenth that we assume and did not measure.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.costs.constants import Calibration, shipped_calibration
from llama_scale.costs.economics import Rental
from llama_scale.costs.roofline import (
    Array,
    Engine,
    Numbers,
    Phases,
    ServedShape,
    Traffic,
    batch_in_memory,
    phases,
    seconds_per_answer,
)
from llama_scale.errors import InputError
from llama_scale.frozen import frozen

NODE = 8  # accelerators whose links are fast enough to share every layer
LARGEST_GROUP = 1024

Limit = Literal["memory", "largest batch", "time per output token", "time to first token"]
LIMITS: tuple[Limit, ...] = get_args(Limit)


@frozen
class Deployment:
    """How a model is served: on what, in how many bits, requests of what length, within what limits.

    Bits count scales (4-bit weights: 4.5). A request reads `input_tokens` once and has `samples` answers of
    `output_tokens` each. The limits in seconds hold at the full batch; None is no limit.
    """

    rental: Rental
    weight_bits: float
    kv_bits: float
    input_tokens: float
    output_tokens: float
    samples: float = 1.0
    utilisation: float = 1.0
    calibration: Calibration = field(default_factory=shipped_calibration)
    most_accelerators: int = NODE
    largest_batch: float = math.inf
    time_per_output_token_seconds: float | None = None
    time_to_first_token_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight_bits", "kv_bits", "output_tokens", "samples", "utilisation", "largest_batch"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"{name} is {getattr(self, name):g}, but must be above 0", hint=f"set {name}"
                )
        if not self.input_tokens >= 0:
            raise InputError("a request cannot read fewer than 0 tokens", hint="set --input-tokens")
        if not 1 <= self.most_accelerators <= LARGEST_GROUP:
            raise InputError(
                f"one copy of a model on at most {self.most_accelerators} accelerators is out of range",
                hint=f"give a number from 1 to {LARGEST_GROUP}",
            )

    def __hash__(self) -> int:
        """Of its numbers: its accelerator has no hash. What is worked out of one may be kept by it."""
        limits = (self.largest_batch, self.time_per_output_token_seconds, self.time_to_first_token_seconds)
        return hash((self.traffic, self.weight_bits, self.kv_bits, self.most_accelerators, limits))

    @property
    def traffic(self) -> Traffic:
        """What one request reads and writes."""
        return Traffic(self.input_tokens, self.output_tokens, self.samples)

    @property
    def groups(self) -> tuple[int, ...]:
        """The numbers of accelerators a copy that are tried: powers of two, 1 where no link is known."""
        most = 1 if self.rental.accelerator.interconnect_bytes_per_second is None else self.most_accelerators
        return tuple(1 << i for i in range(most.bit_length()))


class Throughput(NamedTuple):
    """Serving at its cheapest, an array a field; nan where it cannot be, `limited_by` then says why.

    `batch` counts answers that all `accelerators` of one copy of the model write at a time; the rate is of
    one accelerator, and the `accelerator_seconds_...` are what one token takes of paid time (divided by the
    utilisation): of the tokens read, of those written, and of both together.
    """

    accelerators: NDArray[np.float64]
    batch: NDArray[np.float64]
    time_per_output_token_seconds: NDArray[np.float64]
    time_to_first_token_seconds: NDArray[np.float64]
    output_tokens_per_second: NDArray[np.float64]
    accelerator_seconds_per_token: NDArray[np.float64]
    accelerator_seconds_per_input_token: NDArray[np.float64]
    accelerator_seconds_per_output_token: NDArray[np.float64]
    limited_by: NDArray[np.str_]


class Fleet(NamedTuple):
    """All accelerators, and how many of them hold each copy; arrays, nan where none serves."""

    accelerators: NDArray[np.float64]
    per_copy: NDArray[np.float64]


def serve(deployment: Deployment, shape: ServedShape) -> Throughput:
    """The cheapest way to serve each of `shape` within the limits."""
    options = _options(deployment, shape)
    costs = np.where(np.isnan(options.seconds), np.inf, options.seconds)
    best = costs.argmin(axis=0)
    # where no group serves, the largest one says what stands in the way
    best = np.where(np.isinf(costs.min(axis=0)), len(costs) - 1, best)
    chosen = best.reshape(-1) * best.size + np.arange(best.size)
    taken = (column.reshape(-1)[chosen].reshape(best.shape) for column in options)
    return _throughput(deployment, _Option._make(taken))


def accelerators_for(deployment: Deployment, shape: ServedShape, requests_per_second: ArrayLike) -> Fleet:
    """The least number of accelerators that answer so many requests a second at the utilisation given.

    Whole copies of the model are counted, and each number of accelerators a copy is tried, so that a copy
    may be on fewer than where a token is cheapest; nan where none serves.
    """
    options, rate = _options(deployment, shape), np.asarray(requests_per_second, float)
    copies = [
        group
        * np.maximum(
            np.ceil(rate * (seconds * deployment.samples / (group * deployment.utilisation)) - 1e-9), 1
        )
        for group, seconds in zip(deployment.groups, options.seconds, strict=True)
    ]
    counts = np.stack(copies)
    costs = np.where(np.isnan(counts), np.inf, counts)
    least, groups = costs.min(axis=0), np.array(deployment.groups, float)[costs.argmin(axis=0)]
    return Fleet(*(np.where(np.isinf(least), np.nan, column) for column in (least, groups)))


def engine(deployment: Deployment, group: ArrayLike) -> Engine:
    """What works on a copy that is spread over `group` accelerators; an array of them gives arrays."""
    chip = deployment.rental.accelerator
    tensor = np.minimum(np.asarray(group, float), NODE)
    return Engine(
        tensor=tensor,
        peak_flops_per_second=chip.peak(deployment.rental.precision),
        attention_flops_per_second=chip.peak(chip.trains_in),
        bandwidth_bytes_per_second=chip.bandwidth_bytes_per_second,
        link_bytes_per_second=chip.interconnect_bytes_per_second or math.inf,
        memory_bytes=chip.memory_bytes,
        weight_bytes=deployment.weight_bits / 8,
        kv_bytes=deployment.kv_bits / 8,
        stages=np.ceil(np.asarray(group) / NODE),
    )


class _Option(NamedTuple):
    """Ways to serve, an array a field; `batch` is a stage's, `limit` counts in LIMITS.

    `seconds` are accelerator-seconds of one answer, nan where the limits cannot be met.
    """

    group: Array
    batch: Array
    limit: NDArray[np.intp]
    seconds: Array
    prompt: Array
    step_fixed: Array
    step_per_sequence: Array


def _options(deployment: Deployment, shape: ServedShape) -> _Option:
    """Serving each shape (last axes) on each number of accelerators a copy (first axis)."""
    sizes = np.broadcast_shapes(*(np.shape(field) for field in shape))
    groups = np.array(deployment.groups, float).reshape(-1, *(1 for _ in sizes))
    machine, traffic = engine(deployment, groups), deployment.traffic
    times = phases(deployment.calibration, machine, shape, traffic)
    bounds = np.stack(np.broadcast_arrays(*_bounds(deployment, machine, shape, times)))
    batch = bounds.min(axis=0)
    batch = np.where(batch > 0, batch, np.nan)
    seconds = machine.tensor * seconds_per_answer(times, traffic, batch)
    columns = (groups, batch, bounds.argmin(axis=0), seconds, *times)
    return _Option(*(np.broadcast_to(column, batch.shape) for column in columns))


def _bounds(deployment: Deployment, machine: Engine, shape: ServedShape, times: Phases) -> tuple[Array, ...]:
    """The largest batch of a stage that each of LIMITS allows; 0 where not even one answer."""
    traffic, stages = deployment.traffic, np.asarray(machine.stages)
    memory = np.fmax(batch_in_memory(machine, shape, traffic), 0.0) / stages
    by_token = by_first = np.asarray(math.inf)
    if deployment.time_per_output_token_seconds is not None:
        prompt_share = np.asarray(times.prompt / (deployment.samples * deployment.output_tokens))
        room = deployment.time_per_output_token_seconds - times.step_fixed + prompt_share
        by_token = _at_least_one(room / (times.step_per_sequence + prompt_share))
    if deployment.time_to_first_token_seconds is not None:
        room = deployment.time_to_first_token_seconds - times.step_fixed - times.prompt
        by_first = _at_least_one(room / times.step_per_sequence)
    return memory, np.asarray(deployment.largest_batch / stages), by_token, by_first


def _at_least_one(batch: Numbers) -> Array:
    return np.where(np.asarray(batch) >= 1, batch, 0.0)


def _throughput(deployment: Deployment, option: _Option) -> Throughput:
    """What the chosen options come to."""
    traffic, served = deployment.traffic, ~np.isnan(option.batch)
    group = np.where(served, option.group, np.nan)
    tensor = np.minimum(group, NODE)
    together = np.maximum(option.batch, 1)  # fewer sequences than stages leave stages idle, but are no faster
    step = option.step_fixed + together * option.step_per_sequence
    paid = option.seconds / deployment.utilisation
    prompt = tensor * option.prompt / (deployment.samples * deployment.utilisation)
    read, written = traffic.read_tokens, traffic.output_tokens
    return Throughput(
        accelerators=group,
        batch=option.batch * group / tensor,
        time_per_output_token_seconds=step + (together - 1) * option.prompt / (deployment.samples * written),
        time_to_first_token_seconds=step + option.prompt,
        output_tokens_per_second=written / option.seconds,
        accelerator_seconds_per_token=paid / (read + written),
        accelerator_seconds_per_input_token=prompt / read if read else np.zeros_like(prompt),
        accelerator_seconds_per_output_token=(paid - prompt) / written,
        limited_by=np.asarray(LIMITS)[option.limit],
    )
