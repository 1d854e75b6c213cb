"""Accelerators: peak rates, memory, bandwidth, power and dated prices (`data/accelerators.toml`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, get_args

from llama_scale.errors import InputError
from llama_scale.files import shipped_tables
from llama_scale.frozen import frozen

Precision = Literal["bf16", "fp16", "fp8", "int8", "fp4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OTHERS = {"mig", "laptop", "max", "d", "ti"}  # in a driver's name: RTX 4090 Laptop GPU, ... D, Max-Q, 3090 Ti
FORMS = {"sxm", "pcie", "nvl", "dgxs", "fhhl"}  # of one chip, often at rates of their own


@frozen
class Price:
    """Dollars quoted for an hour of one accelerator on `date`; `reference` is None where none was found."""

    reference: float | None
    low: float | None = None
    high: float | None = None
    date: str
    source: str


@frozen
class Accelerator:
    """One accelerator: dense peaks in operations/s by precision, sizes in bytes, bandwidths in bytes/s.

    `drivers` are what drivers call cards that differ from it in no peak.
    """

    name: str
    vendor: str
    year: int
    peak_flops_per_second: Mapping[str, float]
    memory_bytes: float
    bandwidth_bytes_per_second: float
    interconnect_bytes_per_second: float | None
    power_watts: float | None
    price: Price | None
    source: str
    aliases: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    unconfirmed: str | None = None
    note: str | None = None

    @property
    def trains_in(self) -> Precision:
        """The number format that models are trained in on it: bf16, or fp16 where it has none."""
        return "bf16" if "bf16" in self.peak_flops_per_second else "fp16"

    def peak(self, precision: Precision = "bf16") -> float:
        """Dense operations/s at `precision`; where only bf16 is listed, fp16 runs at its rate.

        Raises InputError naming the precisions that this accelerator has.
        """
        peaks = self.peak_flops_per_second
        if precision == "fp16" and "bf16" in peaks:
            return peaks["bf16"]
        if precision not in peaks:
            raise InputError(
                f"{self.name} has no {precision} rate in our table",
                hint=f"use one of its precisions ({', '.join(peaks)}; models train in {self.trains_in}), or "
                "another accelerator",
            )
        return peaks[precision]


def accelerator(name: str) -> Accelerator:
    """The accelerator of this name or alias; upper case, dashes and blanks do not matter.

    Raises InputError with the nearest names.

    >>> accelerator("h100").name
    'H100-SXM'
    """
    if found := _by_name().get(name_key(name)):
        return found
    raise InputError(f"unknown accelerator '{name}'", hint=nearest_names_hint(name, accelerator_names()))


def accelerator_of_device(device_name: str) -> Accelerator | None:
    """The accelerator that a driver calls `device_name`, or None where none of ours is surely meant.

    Every part of our name must be among the words of the driver's; of several the longest match counts. A
    chip that our table knows by its form (H100-SXM) is not meant by the name of another form. A part of a
    card (MIG) is not the card, nor are others that share its name.

    >>> accelerator_of_device("NVIDIA H100 80GB HBM3").name
    'H100-SXM'
    >>> accelerator_of_device("NVIDIA A100-SXM4-40GB").name
    'A100-40GB-SXM'
    """
    words = set(_words(device_name))
    if words & OTHERS:
        return None
    form = _forms(words)
    found = [
        (len(parts), chip)
        for chip in accelerators()
        for parts in (set(_words(name)) for name in (chip.name, *chip.aliases, *chip.drivers))
        if parts <= words | form and (form <= _forms(parts) or not _forms(_words(chip.name)))
    ]
    return max(found, key=lambda match: match[0], default=(0, None))[1]


def _forms(words: Iterable[str]) -> set[str]:
    return {word.rstrip("0123456789") for word in words} & FORMS  # SXM4 is an SXM


def _words(name: str) -> list[str]:
    return name.lower().replace("-", " ").replace("_", " ").split()


def accelerator_names() -> tuple[str, ...]:
    """Names of every accelerator that we ship figures for."""
    return tuple(chip.name for chip in accelerators())


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """Every accelerator of `data/accelerators.toml`."""
    return tuple(_accelerator_from(entry) for entry in shipped_tables("accelerators.toml")["accelerator"])


@cache
def _by_name() -> dict[str, Accelerator]:
    """Accelerators by name and alias, with and without who makes them."""
    return {
        name_key(maker + word): chip
        for chip in accelerators()
        for maker in ("", chip.vendor)
        for word in (chip.name, *chip.aliases)
    }


def nearest_names_hint(name: str, names: Iterable[str]) -> str:
    """A hint that offers the names most like `name`, or all of them if none is."""
    from difflib import get_close_matches

    by_key = {name_key(known): known for known in names}
    wanted = name_key(name)
    alike = [by_key[key] for key in get_close_matches(wanted, by_key, n=4, cutoff=0.5)]
    within = [known for key, known in by_key.items() if wanted and wanted in key and known not in alike]
    nearest = (within + alike)[:5]
    if nearest:
        return f"did you mean {' or '.join(nearest)}?"
    return f"choose from: {', '.join(by_key.values())}"


def name_key(name: str) -> str:
    """A name as it is compared: lower case, letters, digits and points only."""
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == ".")


def _accelerator_from(entry: Mapping[str, Any]) -> Accelerator:
    link, price = entry.get("interconnect_gb_s"), entry.get("price")
    return Accelerator(
        name=entry["name"],
        vendor=entry["vendor"],
        year=entry["year"],
        peak_flops_per_second={name: 1e12 * rate for name, rate in entry["peak_tflops"].items()},
        memory_bytes=entry["memory_gib"] * 2**30,
        bandwidth_bytes_per_second=1e12 * entry["bandwidth_tb_s"],
        interconnect_bytes_per_second=None if link is None else 1e9 * link,
        power_watts=entry.get("power_w"),
        price=None if price is None else Price(**{"reference": None, **price}),
        source=entry["source"],
        aliases=tuple(entry.get("aliases", ())),
        drivers=tuple(entry.get("drivers", ())),
        unconfirmed=entry.get("unconfirmed"),
        note=entry.get("note"),
    )
