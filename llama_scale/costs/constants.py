"""The constants of the serving roofline: what each means, and the shipped ones with their error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import Any, NamedTuple

from llama_scale.files import shipped_tables
from llama_scale.frozen import frozen


class Constant(NamedTuple):
    """One constant: its symbol in the formulas, what it is, and what physics alone would guess.

    `guess` and its spread (a standard deviation, of log-odds or of the logarithm) start the fit and steady
    it where rows are few. `is_share` says that it lies between 0 and 1; otherwise it is in seconds.
    """

    symbol: str
    meaning: str
    guess: float
    spread: float
    is_share: bool


CONSTANTS: dict[str, Constant] = {
    "prefill_mfu": Constant("m_p", "share of the peak that prompts reach", 0.6, 0.7, True),
    "decode_mfu": Constant(
        "m_d", "share of the peak that steps reach, beyond what they wait for", 0.6, 0.7, True
    ),
    "bandwidth_share": Constant("e", "share of the memory bandwidth that steps reach", 0.85, 0.7, True),
    "link_share": Constant("s", "share of the link's bandwidth that all-reduces reach", 0.6, 0.7, True),
    "layer_seconds": Constant("u_L", "seconds that each layer adds to a step", 50e-6, 0.7, False),
    "sequence_seconds": Constant("u_B", "seconds that each sequence adds to each layer", 2e-7, 1.0, False),
}


class Accuracy(NamedTuple):
    """How far predictions were off on `rows` measurements, `held_out` naming what the fit did not see.

    `median_error` is the median of |predicted / measured - 1| taken as a ratio (1.1 too high or too low is
    0.1), `within` the share of rows within a factor of 1.3.
    """

    held_out: str
    rows: int
    median_error: float
    within: float


@frozen
class Calibration:
    """The constants that measurements fix, how sure they are, and how well they predict.

    `prefill_mfu`, `decode_mfu`, `bandwidth_share` and `link_share` are shares of what the data sheet says;
    `layer_seconds` is paid for each layer of a step, `sequence_seconds` for each sequence in each layer of
    it. `spread` is a relative standard error by name, over groups of rows left out in turn.
    """

    prefill_mfu: float
    decode_mfu: float
    bandwidth_share: float
    link_share: float
    layer_seconds: float
    sequence_seconds: float
    spread: Mapping[str, float] = field(default_factory=dict)
    accuracy: tuple[Accuracy, ...] = ()
    rows: int = 0
    left_out: tuple[str, ...] = ()
    source: str = ""
    date: str = ""

    @property
    def constants(self) -> dict[str, float]:
        """The constants by name."""
        return {name: getattr(self, name) for name in CONSTANTS}

    @property
    def summary(self) -> str:
        """The rows behind the constants and the error on them, on one line."""
        left = f", {len(self.left_out)} of mixtures of experts left out" if self.left_out else ""
        errors = (
            f"{figure.median_error:.0%} with {figure.held_out} held out"
            for figure in self.accuracy
            if figure.held_out != "nothing"
        )
        seen = next((f"{f.median_error:.0%} on them" for f in self.accuracy if f.held_out == "nothing"), "")
        return f"{self.rows} rates{left}; median error " + ", ".join(filter(None, (seen, *errors)))

    @property
    def description(self) -> str:
        """The constants in words."""
        return (
            f"prompts reach {self.prefill_mfu:.0%} and steps {self.decode_mfu:.0%} of the peak, "
            f"{self.bandwidth_share:.0%} of the memory's and {self.link_share:.0%} of the links' bandwidth; "
            f"{1e6 * self.layer_seconds:.3g} us a layer, {1e6 * self.sequence_seconds:.2g} us an answer in it"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "constants": self.constants,
            "relative_standard_errors": dict(self.spread),
            "accuracy": [accuracy._asdict() for accuracy in self.accuracy],
            "rows": self.rows,
            "left_out": list(self.left_out),
            "source": self.source,
            "date": self.date,
        }


@cache
def shipped_calibration() -> Calibration:
    """Our constants, fitted on published rates of dense models (`data/serving.toml`)."""
    table = shipped_tables("serving.toml")
    return Calibration(
        **table["constants"],
        spread=table["relative_standard_errors"],
        accuracy=tuple(Accuracy(**entry) for entry in table["accuracy"]),
        rows=table["rows"],
        left_out=tuple(table["left_out"]),
        source=table["source"],
        date=table["date"],
    )
