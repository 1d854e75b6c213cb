"""What is rented, at what price, and how much of it does useful work: defaults with their source and age.

At constant MFUs a model costs train_flops x (training rate) + serve_flops x (serving rate). The rates are
1 in FLOPs; in GPU-hours they are 1 / (peak x MFU x the share of paid hours that do useful work); in dollars
they are those hours x a price. Serving has one MFU for tokens read and one for tokens written.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.hardware import Accelerator, Precision, accelerator

CostUnit = Literal["flops", "usd", "gpu_hours"]


class Default(NamedTuple):
    """A value that we assume when nobody says otherwise, where it comes from and how old it is."""

    value: float
    source: str
    date: str


DEFAULT_ACCELERATOR = "H100-SXM"
DEFAULT_PREFILL_MFU = Default(
    0.55, "our calibration on published saturated rates of dense models (TensorRT-LLM, MLPerf)", "2025"
)
DEFAULT_DECODE_MFU = Default(
    0.20, "the same rows at 1,000 in and 1,000 out: 16 % at 8B, 21 % at 70B, 25 % at 405B", "2025"
)
DEFAULT_UTILISATION = Default(1.0, "a saturated fleet; real ones idle, and every idle hour is paid", "")
DEFAULT_INPUT_SHARE = Default(0.80, "1,000 tokens read for 250 written, as Sardana & Frankle ask", "2024")


@frozen
class Assumption:
    """One input of a plan: its value in words, where it came from, and the option that changes it."""

    name: str
    value: str
    source: str
    date: str = ""
    option: str = ""
    is_default: bool = False


class Formula(NamedTuple):
    """What is computed, the formula, the formula with numbers, and where it comes from."""

    name: str
    formula: str
    numbers: str
    source: str


@frozen
class Rental:
    """An accelerator at a precision and a price; `price_usd_per_hour` is None where nobody named one."""

    accelerator: Accelerator
    precision: Precision
    price_usd_per_hour: float | None
    price_source: str
    price_date: str = ""

    @property
    def peak_flops_per_hour(self) -> float:
        """Dense operations an hour at its precision."""
        return 3600 * self.accelerator.peak(self.precision)


@frozen
class Training:
    """How training runs: `mfu` is useful FLOPs over the peak while it runs, `goodput` how often it runs.

    `recomputed` are FLOPs that it does twice, as a share of the useful ones, beyond what the MFU has lost.
    """

    rental: Rental
    mfu: float
    goodput: float = 1.0
    recomputed: float = 0.0

    @property
    def gpu_hours_per_flop(self) -> float:
        """Hours of one accelerator for one useful training FLOP."""
        return (1 + self.recomputed) / (self.rental.peak_flops_per_hour * self.mfu * self.goodput)


@frozen
class Serving:
    """How serving runs: MFU of tokens read and of tokens written, and the share of paid hours in use."""

    rental: Rental
    prefill_mfu: float = DEFAULT_PREFILL_MFU.value
    decode_mfu: float = DEFAULT_DECODE_MFU.value
    utilisation: float = DEFAULT_UTILISATION.value

    def gpu_hours_per_flop(self, input_share: float) -> float:
        """Hours of one accelerator for one FLOP of serving, over tokens read and written."""
        slowness = input_share / self.prefill_mfu + (1 - input_share) / self.decode_mfu
        return slowness / (self.rental.peak_flops_per_hour * self.utilisation)


def rental(name: str, *, precision: Precision, price_usd_per_hour: float | None = None) -> Rental:
    """An accelerator by name, at the price given or else the one quoted in our table."""
    chip = accelerator(name)
    chip.peak(precision)  # refuses a precision that the chip lacks
    if price_usd_per_hour is not None:
        return Rental(
            accelerator=chip,
            precision=precision,
            price_usd_per_hour=price_usd_per_hour,
            price_source="given",
        )
    quoted = chip.price
    if quoted is None or quoted.reference is None:
        why = quoted.source if quoted else "no dated price in our table"
        return Rental(accelerator=chip, precision=precision, price_usd_per_hour=None, price_source=why)
    return Rental(
        accelerator=chip,
        precision=precision,
        price_usd_per_hour=quoted.reference,
        price_source=quoted.source,
        price_date=quoted.date,
    )


def missing_price(hired: Rental, option: str) -> InputError:
    """The error for dollars without a price."""
    return InputError(
        f"no price for {hired.accelerator.name}: {hired.price_source}",
        hint=f"say what you pay for an hour of it: {option} '$2.50/h'",
    )
