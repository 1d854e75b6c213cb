"""The formats that weights are served in: the bits each weight takes, and the precision that computes."""

from __future__ import annotations

from typing import NamedTuple

from llama_scale.costs.economics import Rental, rental
from llama_scale.errors import InputError
from llama_scale.hardware import Accelerator, Precision, accelerator, nearest_names_hint

BITS: dict[str, float] = {
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "int4": 4.5,  # with a scale of 8 bits for every 16 weights
    "fp4": 4.5,
}
WEIGHT_FORMATS = tuple(BITS)
COMPUTES: dict[str, Precision] = {"fp8": "fp8", "int8": "int8", "fp4": "fp4"}


class ServedFormat(NamedTuple):
    """How weights are held and multiplied: bits each (scales included), and the rental that computes."""

    rental: Rental
    weight_bits: float


def weight_bits(name: str) -> float:
    """Bits of a weight in this format; raises InputError with the nearest names."""
    if name not in BITS:
        raise InputError(f"unknown weight format '{name}'", hint=nearest_names_hint(name, WEIGHT_FORMATS))
    return BITS[name]


def compute_precision(chip: Accelerator, weights: str) -> Precision:
    """What `chip` multiplies such weights in: the format itself where that is faster than 16 bits.

    Weights of 4 bits in integers are always expanded to 16 bits first.
    """
    peaks, native = chip.peak_flops_per_second, COMPUTES.get(weights)
    return native if native and peaks.get(native, 0.0) > chip.peak(chip.trains_in) else chip.trains_in


def serve_in(name: str, weights: str, *, price_usd_per_hour: float | None = None) -> ServedFormat:
    """The accelerator of this name serving weights in this format.

    >>> serve_in("A100", "fp8").rental.precision
    'bf16'
    """
    precision = compute_precision(accelerator(name), weights)
    hired = rental(name, precision=precision, price_usd_per_hour=price_usd_per_hour)
    return ServedFormat(hired, weight_bits(weights))
