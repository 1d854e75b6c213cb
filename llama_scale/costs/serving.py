"""What serving a model takes: how many accelerators hold it, how fast it answers, and what a token costs.

For each number of accelerators (1, 2, 4, ...) the batch is the largest that memory and the limits on
latency allow, in closed form, since every one of them is linear in it; more batch is always more
throughput. The number with the cheapest token is taken. See `roofline` for the times.

Up to `NODE` accelerators share every layer (tensor parallel). More than that hold the layers in stages
(pipeline parallel, one node each): memory adds up, and each stage works on its own part of the batch, so
that the nodes are as fast as nodes apart from each other; what they send each other is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.costs.economics import Rental
from llama_scale.costs.roofline import (
    PROVISIONAL,
    RESERVED_BYTES,
    USABLE_MEMORY,
    Calibration,
    Engine,
    Numbers,
    Phases,
    Request,
    ServedShape,
    cache_bytes,
    phases,
    served_shape,
)
from llama_scale.errors import InputError

__all__ = [
    "LIMITS",
    "NODE",
    "Calibration",
    "Deployment",
    "Limit",
    "ServedShape",
    "Throughput",
    "accelerators_for",
    "serve",
    "served_shape",
]

NODE = 8  # accelerators whose links are fast enough to share every layer
LARGEST_GROUP = 1024

Limit = Literal["memory", "largest batch", "time per output token", "time to first token"]
LIMITS: tuple[Limit, ...] = get_args(Limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """How a model is served: on what, in how many bits, requests of what length, within what limits.

    Bits count scales (4-bit weights: 4.5). The limits in seconds hold at the full batch; None is no limit.
    """

    rental: Rental
    weight_bits: float
    kv_bits: float
    input_tokens: float
    output_tokens: float
    utilisation: float = 1.0
    calibration: Calibration = PROVISIONAL
    most_accelerators: int = NODE
    context: float = math.inf
    largest_batch: float = math.inf
    time_per_output_token_seconds: float | None = None
    time_to_first_token_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight_bits", "kv_bits", "output_tokens", "utilisation", "largest_batch"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"{name} is {getattr(self, name):g}, but must be above 0", hint=f"set {name}"
                )
        if not self.input_tokens >= 0:
            raise InputError("a request cannot read fewer than 0 tokens", hint="set --input-tokens")
        if self.input_tokens + self.output_tokens > self.context:
            raise InputError(
                f"a request of {self.input_tokens:g} tokens read and {self.output_tokens:g} written does not "
                f"fit in a context of {self.context:g}",
                hint="raise --context, or lower --input-tokens or --output-tokens",
            )
        if not 1 <= self.most_accelerators <= LARGEST_GROUP:
            raise InputError(
                f"one copy of a model on at most {self.most_accelerators} accelerators is out of range",
                hint=f"give a number from 1 to {LARGEST_GROUP}",
            )

    @property
    def request(self) -> Request:
        """What one request reads and writes."""
        return Request(self.input_tokens, self.output_tokens)

    @property
    def groups(self) -> tuple[int, ...]:
        """The numbers of accelerators that are tried: powers of two."""
        return tuple(1 << i for i in range(self.most_accelerators.bit_length()))


class Throughput(NamedTuple):
    """Serving at its cheapest, an array a field; nan where it cannot be, `limited_by` then says why.

    `batch` counts sequences of all `accelerators` of one copy of the model; rates and seconds are of one
    accelerator, and the `accelerator_seconds_...` are what one token takes of paid time (divided by the
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


def serve(deployment: Deployment, shape: ServedShape) -> Throughput:
    """The cheapest way to serve each of `shape` within the limits."""
    options = [_with_group(deployment, shape, group) for group in deployment.groups]
    costs = np.stack([option.accelerator_seconds_per_token for option in options])
    best = np.argmin(np.where(np.isnan(costs), np.inf, costs), axis=0)
    # where no group serves, the largest one says what stands in the way
    best = np.where(np.isnan(costs).all(axis=0), len(options) - 1, best)
    return _choose(options, best)


def accelerators_for(
    deployment: Deployment, shape: ServedShape, requests_per_second: ArrayLike
) -> NDArray[np.float64]:
    """The least number of accelerators that answer so many requests a second at the utilisation given.

    Whole copies of the model are counted, and each group size is tried; nan where none serves.
    """
    rate = np.asarray(requests_per_second, float)
    counts = []
    for group in deployment.groups:
        option = _with_group(deployment, shape, group)
        tokens = deployment.input_tokens + deployment.output_tokens
        seconds = option.accelerator_seconds_per_token * tokens / group
        counts.append(np.maximum(np.ceil(rate * seconds - 1e-9), 1) * group)
    found = np.stack(np.broadcast_arrays(*counts))
    least = np.where(np.isnan(found), np.inf, found).min(axis=0)
    return np.where(np.isinf(least), np.nan, least)


def engine(deployment: Deployment, group: int) -> Engine:
    """The engine of one stage of `group` accelerators."""
    chip = deployment.rental.accelerator
    return Engine(
        tensor=min(group, NODE),
        peak_flops_per_second=chip.peak(deployment.rental.precision),
        bandwidth_bytes_per_second=chip.bandwidth_bytes_per_second,
        memory_bytes=chip.memory_bytes,
        weight_bytes=deployment.weight_bits / 8,
        kv_bytes=deployment.kv_bits / 8,
    )


def batch_in_memory(
    machine: Engine, shape: ServedShape, request: Request, accelerators: Numbers
) -> NDArray[np.float64]:
    """Sequences whose cache fits beside the weights on `accelerators`; nan where not one whole request does.

    Sequences hold c = n_in + n_out / 2 tokens on average, since they are at different places.
    """
    room = accelerators * (USABLE_MEMORY * machine.memory_bytes - RESERVED_BYTES)
    left = room - shape.weights * machine.weight_bytes
    each = cache_bytes(shape, machine.kv_bytes)
    whole = each * (request.input_tokens + request.output_tokens)
    return np.where(left >= whole, left / (each * request.held_tokens), np.nan)


def _with_group(deployment: Deployment, shape: ServedShape, group: int) -> Throughput:
    """Serving on `group` accelerators a copy, whether or not it is the cheapest."""
    machine, request = engine(deployment, group), deployment.request
    times = phases(deployment.calibration, machine, shape, request)
    stages = group // min(group, NODE)
    in_memory = batch_in_memory(machine, shape, request, group) / stages
    allowed = np.broadcast_arrays(in_memory, *_other_limits(deployment, times, stages))
    bounds = np.stack([np.where(np.isnan(bound), 0.0, bound) for bound in allowed])
    limit = bounds.argmin(axis=0)
    batch = np.where(bounds.min(axis=0) > 0, bounds.min(axis=0), np.nan)
    return _throughput(deployment, times, batch, group=group, limited_by=np.asarray(LIMITS)[limit])


def _other_limits(deployment: Deployment, times: Phases, stages: int) -> tuple[NDArray[np.float64], ...]:
    """The largest batch of a stage that each of the other limits allows; 0 where not even one sequence."""
    prompt_share = times.prompt / deployment.output_tokens
    per_token, first = deployment.time_per_output_token_seconds, deployment.time_to_first_token_seconds
    by_token = np.inf if per_token is None else per_token - times.step_fixed + prompt_share
    by_first = np.inf if first is None else first - times.step_fixed - times.prompt
    by_token = by_token / np.asarray(times.step_per_sequence + prompt_share, float)
    by_first = by_first / np.asarray(times.step_per_sequence, float)
    return (
        np.asarray(deployment.largest_batch / stages, float),
        np.where(by_token >= 1, by_token, 0.0),
        np.where(by_first >= 1, by_first, 0.0),
    )


def _throughput(
    deployment: Deployment,
    times: Phases,
    batch: NDArray[np.float64],
    *,
    group: int,
    limited_by: NDArray[np.str_],
) -> Throughput:
    """What `batch` sequences a stage come to; a request takes its prompt and its share of n_out steps."""
    request, tensor = deployment.request, min(group, NODE)
    written = times.step_fixed / batch + times.step_per_sequence
    together = np.maximum(batch, 1)  # fewer sequences than stages leave stages idle, but are no faster
    step = times.step_fixed + together * times.step_per_sequence
    paid = tensor / deployment.utilisation
    of_request = paid * (times.prompt + request.output_tokens * written)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_input = paid * times.prompt / np.asarray(request.input_tokens, float)
    return Throughput(
        accelerators=np.where(np.isnan(batch), np.nan, float(group)),
        batch=batch * (group // tensor),
        time_per_output_token_seconds=step + (together - 1) * times.prompt / request.output_tokens,
        time_to_first_token_seconds=step + times.prompt,
        output_tokens_per_second=request.output_tokens
        / (tensor * (times.prompt + request.output_tokens * written)),
        accelerator_seconds_per_token=of_request / (request.input_tokens + request.output_tokens),
        accelerator_seconds_per_input_token=np.where(np.isnan(batch), np.nan, of_input),
        accelerator_seconds_per_output_token=paid * written,
        limited_by=np.broadcast_to(limited_by, batch.shape),
    )


def _choose(options: list[Throughput], best: NDArray[np.intp]) -> Throughput:
    """Of each shape the option that `best` numbers."""
    fields = (np.stack(np.broadcast_arrays(*column)) for column in zip(*options, strict=True))
    return Throughput(*(np.take_along_axis(field, best[None], axis=0)[0] for field in fields))
