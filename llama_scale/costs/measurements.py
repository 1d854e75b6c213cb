"""Measured serving rates as arrays: on what, which model, which requests, how many tokens a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs.formats import compute_precision, weight_bits
from llama_scale.costs.roofline import Array, Engine, ServedShape, Traffic
from llama_scale.frozen import frozen
from llama_scale.hardware import Accelerator


class Measurement(NamedTuple):
    """One row: a rate of output tokens a second of `accelerators` together; nan where nothing was said.

    `tensor` x `stages` accelerators hold a copy of the model; `batch` is what each copy had at most.
    """

    name: str
    model: str
    chip: Accelerator
    source: str
    shape: ServedShape
    weights: str
    kv_bits: float
    accelerators: float
    tensor: float
    stages: float
    batch: float
    traffic: Traffic
    rate: float


class Labels(NamedTuple):
    """What rows are held out by."""

    model: NDArray[np.str_]
    accelerator: NDArray[np.str_]
    source: NDArray[np.str_]


@frozen
class Measurements:
    """Rows as arrays; `engine.tensor` is nan where the row does not say how a copy was spread."""

    names: NDArray[np.str_]
    labels: Labels
    engine: Engine
    shape: ServedShape
    traffic: Traffic
    largest_batch: Array
    accelerators: Array
    rate: Array

    def __len__(self) -> int:
        return len(self.rate)

    def only(self, keep: NDArray[np.bool_]) -> Measurements:
        """The rows that are kept."""
        return Measurements(**{field.name: _kept(getattr(self, field.name), keep) for field in fields(self)})


def stack(rows: Sequence[Measurement]) -> Measurements:
    """Rows as arrays."""
    shapes = zip(*(row.shape for row in rows), strict=True)
    return Measurements(
        names=np.array([row.name for row in rows]),
        labels=Labels(
            np.array([row.model for row in rows]),
            np.array([row.chip.name for row in rows]),
            np.array([row.source for row in rows]),
        ),
        engine=Engine(*(np.array(column, float) for column in zip(*map(_engine, rows), strict=True))),
        shape=ServedShape(*(np.array(column, float) for column in shapes)),
        traffic=Traffic(
            np.array([row.traffic.input_tokens for row in rows], float),
            np.array([row.traffic.output_tokens for row in rows], float),
        ),
        largest_batch=np.array([row.batch for row in rows]),
        accelerators=np.array([row.accelerators for row in rows]),
        rate=np.array([row.rate for row in rows]),
    )


def _engine(row: Measurement) -> Engine:
    """What one copy of the row's model runs on."""
    chip = row.chip
    return Engine(
        tensor=row.tensor,
        peak_flops_per_second=chip.peak(compute_precision(chip, row.weights)),
        attention_flops_per_second=chip.peak(chip.trains_in),
        bandwidth_bytes_per_second=chip.bandwidth_bytes_per_second,
        link_bytes_per_second=chip.interconnect_bytes_per_second or math.nan,
        memory_bytes=chip.memory_bytes,
        weight_bytes=weight_bits(row.weights) / 8,
        kv_bytes=row.kv_bits / 8,
        stages=row.stages,
    )


def _kept(value: Any, keep: NDArray[np.bool_]) -> Any:
    """Rows of an array, or of each array of a named tuple; a number holds for all rows."""
    if isinstance(value, tuple):
        return type(value)(*(_kept(column, keep) for column in value))
    return value[keep] if isinstance(value, np.ndarray) else value
