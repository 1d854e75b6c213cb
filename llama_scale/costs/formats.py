"""The formats that weights are served in: the bits each weight takes, and the precision that computes."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from llama_scale.costs.economics import Rental, rental
from llama_scale.errors import InputError
from llama_scale.hardware import Accelerator, Precision, accelerator, nearest_names_hint

WeightFormat = Literal["bf16", "fp16", "fp8", "int8", "int4", "fp4"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)

BITS: dict[WeightFormat, float] = {
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "int4": 4.5,  # with a scale of 8 bits for every 16 weights
    "fp4": 4.5,
}
COMPUTES: dict[WeightFormat, Precision] = {"fp8": "fp8", "int8": "int8", "fp4": "fp4"}


class ServedFormat(NamedTuple):
    """How weights are held and multiplied: bits each (scales included), and the rental that computes."""

    rental: Rental
    weight_bits: float


def weight_bits(name: str) -> float:
    """Bits of a weight in this format; raises InputError with the nearest names."""
    for known in WEIGHT_FORMATS:
        if known == name:
            return BITS[known]
    raise InputError(f"unknown weight format '{name}'", hint=nearest_names_hint(name, WEIGHT_FORMATS))


def compute_precision(chip: Accelerator, weights: str) -> Precision:
    """What `chip` multiplies such weights in: the format itself where that is faster than 16 bits.

    Weights of 4 bits in integers are always expanded to 16 bits first.
    """
    weight_bits(weights)
    peaks = chip.peak_flops_per_second
    usual: Precision = "bf16" if "bf16" in peaks else "fp16"
    for known, native in COMPUTES.items():
        if known == weights and peaks.get(native, 0.0) > peaks[usual]:
            return native
    return usual


def serve_in(name: str, weights: str, *, price_usd_per_hour: float | None = None) -> ServedFormat:
    """The accelerator of this name serving weights in this format.

    >>> serve_in("A100", "fp8").rental.precision
    'bf16'
    """
    precision = compute_precision(accelerator(name), weights)
    return ServedFormat(
        rental=rental(name, precision=precision, price_usd_per_hour=price_usd_per_hour),
        weight_bits=weight_bits(weights),
    )
