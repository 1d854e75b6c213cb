"""How well training uses an accelerator: dated defaults of MFU and goodput (`data/training.toml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llama_scale.costs.economics import Default
from llama_scale.files import shipped_tables
from llama_scale.hardware import Accelerator, Precision
from llama_scale.laws import FlopsAccounting
from llama_scale.quantities import format_fraction

STAND_IN = "H100-SXM"  # for accelerators of which nothing was published
USUAL_SIZE = 5e9  # parameters: where no size is given


def training_mfu(
    accelerator: Accelerator,
    parameters: float | None = None,
    *,
    accounting: FlopsAccounting = "6nd",
    precision: Precision = "bf16",
) -> Default:
    """The median published MFU of steady training on `accelerator`, at the size of `parameters` in all.

    `accounting` is what the useful FLOPs are counted as. Where nothing was published of an accelerator or a
    precision, the figure of H100-SXM at bf16 stands in, and the source says so.

    >>> from llama_scale.hardware import accelerator
    >>> training_mfu(accelerator("A100")).value
    0.47
    """
    entry = _entry("mfu", accelerator.name, precision)
    stands_in = "" if entry else f"nothing published of {accelerator.name} at {precision}; as {STAND_IN}: "
    entry = entry or _entry("mfu", STAND_IN, "bf16") or {}
    size = USUAL_SIZE if parameters is None else parameters
    sizes: Sequence[Mapping[str, Any]] = entry["sizes"]
    row = [row for row in sizes if row["from_parameters"] <= size][-1:] or sizes[:1]
    figure = row[0]
    spread = f"{format_fraction(figure['low'], 2)} to {format_fraction(figure['high'], 2)} on 6ND"
    rates = f"median of {figure['rows']} steady rates ({spread})" if figure["rows"] > 1 else "one steady rate"
    value = figure["six_nd"] if accounting == "6nd" else figure["exact"]
    return Default(value, f"{stands_in}{rates}, {entry['source']}", entry["date"])


def mfu_spread(accelerator: Accelerator, precision: Precision) -> tuple[float, float, str] | None:
    """The lowest and highest published steady MFU on 6ND, and their source; None unless two are known."""
    entry = _entry("mfu", accelerator.name, precision)
    rows = [row for row in entry["sizes"] if row["from_parameters"] <= USUAL_SIZE] if entry else []
    if not entry or not rows or rows[-1]["low"] == rows[-1]["high"]:
        return None
    return rows[-1]["low"], rows[-1]["high"], f"steady rates, {entry['source']}, {entry['date']}"


def training_goodput(accelerator: Accelerator) -> Default:
    """The share of paid hours that whole runs on `accelerator` train at the steady rate.

    Only for use with a steady MFU: an MFU of a whole run has lost these hours already.
    """
    entry = _entry("goodput", accelerator.name)
    stands_in = "" if entry else f"nothing published of {accelerator.name}; as {STAND_IN}: "
    entry = entry or _entry("goodput", STAND_IN) or {}
    return Default(entry["value"], stands_in + entry["source"], entry["date"])


def _entry(table: str, name: str, precision: str | None = None) -> Mapping[str, Any] | None:
    halves = ("bf16", "fp16")  # run at one rate
    alike = halves if precision in halves else (precision,)
    for entry in _tables()[table]:
        if name in entry["accelerators"] and (precision is None or entry["precision"] in alike):
            return entry
    return None


@cache
def _tables() -> Mapping[str, Any]:
    return shipped_tables("training.toml")
