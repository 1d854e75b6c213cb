"""Measured serving rates as arrays: on what, which model, which requests, how many tokens a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs.formats import compute_precision, weight_bits
from llama_scale.costs.roofline import Array, Engine, ServedShape, Traffic
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


@dataclass(frozen=True, slots=True, kw_only=True)
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
    chips = [row.chip for row in rows]
    peaks = [chip.peak_flops_per_second for chip in chips]
    return Measurements(
        names=np.array([row.name for row in rows]),
        labels=Labels(
            np.array([row.model for row in rows]),
            np.array([chip.name for chip in chips]),
            np.array([row.source for row in rows]),
        ),
        engine=Engine(
            tensor=np.array([row.tensor for row in rows]),
            peak_flops_per_second=np.array(
                [
                    chip.peak(compute_precision(chip, row.weights))
                    for chip, row in zip(chips, rows, strict=True)
                ]
            ),
            attention_flops_per_second=np.array([peak.get("bf16") or peak["fp16"] for peak in peaks]),
            bandwidth_bytes_per_second=np.array([chip.bandwidth_bytes_per_second for chip in chips]),
            link_bytes_per_second=np.array(
                [chip.interconnect_bytes_per_second or math.nan for chip in chips]
            ),
            memory_bytes=np.array([chip.memory_bytes for chip in chips]),
            weight_bytes=np.array([weight_bits(row.weights) / 8 for row in rows]),
            kv_bytes=np.array([row.kv_bits / 8 for row in rows]),
            stages=np.array([row.stages for row in rows]),
        ),
        shape=ServedShape(
            *(np.array(column, float) for column in zip(*(row.shape for row in rows), strict=True))
        ),
        traffic=Traffic(
            *(np.array(column, float) for column in zip(*(row.traffic for row in rows), strict=True))
        ),
        largest_batch=np.array([row.batch for row in rows]),
        accelerators=np.array([row.accelerators for row in rows]),
        rate=np.array([row.rate for row in rows]),
    )


def _kept(value: Any, keep: NDArray[np.bool_]) -> Any:
    """Rows of an array, or of each array of a named tuple of them."""
    if isinstance(value, tuple):
        return type(value)(*(column[keep] for column in value))
    return value[keep]
