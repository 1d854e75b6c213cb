"""How far off the serving model is, on rows that were fitted and on rows that were not.

    python benchmarks/serving.py rates.csv            # prints the tables
    python benchmarks/serving.py rates.csv --write 2026-11    # and rewrites the shipped constants

The CSV holds measured output tokens a second (columns as in `docs/serving.md`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs.calibration import accuracy, calibrate, fit, held_out_errors, predicted_rates
from llama_scale.costs.constants import CONSTANTS, Accuracy, Calibration
from llama_scale.costs.formats import serve_in
from llama_scale.costs.measurements import Measurements
from llama_scale.costs.rate_tables import read_measurements
from llama_scale.costs.roofline import ServedShape
from llama_scale.costs.serving import Deployment, serve
from llama_scale.files import SHIPPED

SOURCE = (
    "saturated and batch-1 rates of dense models: TensorRT-LLM 1.0 performance overview (Apache-2.0), "
    "gpt-fast (BSD-3-Clause), medians of MLPerf Inference 5.1 and 4.1 closed division; "
    "rows of mixtures of experts left out"
)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rates", type=Path)
    parser.add_argument("--write", metavar="DATE", help="rewrite data/serving.toml, dated so")
    arguments = parser.parse_args()
    table = read_measurements(arguments.rates)
    found = calibrate(table.measurements)
    print_constants(found)
    print_errors(table.measurements, found)
    print_times(table.measurements)
    print(f"\n{len(table.left_out)} rows left out, the first: {table.left_out[:1]}")
    if arguments.write:
        (SHIPPED / "serving.toml").write_text(as_toml(found, arguments.write), encoding="utf-8")


def print_constants(found: Calibration) -> None:
    """Each constant with its relative standard error."""
    print("| constant | value | relative standard error |\n|---|---|---|")
    for name, value in found.constants.items():
        print(f"| {name} | {value:.3g} | {found.spread[name]:.0%} |")


def print_errors(rows: Measurements, found: Calibration) -> None:
    """Median error and share within 1.3x, by what was held out and by group."""
    labels = rows.labels
    scenario = np.where(np.isfinite(rows.largest_batch), "given batch", "saturated")
    cells = np.array([f"{m}|{a}" for m, a in zip(labels.model, labels.accelerator, strict=True)])
    errors = {
        "constant MFU": np.log(constant_mfu_rates(rows) / rows.rate),
        "fitted rows": np.log(predicted_rates(found, rows) / rows.rate),
        "model held out": held_out_errors(rows, labels.model),
        "chip held out": held_out_errors(rows, labels.accelerator),
        "engine held out": held_out_errors(rows, labels.source),
        "model on chip held out": held_out_errors(rows, cells),
        "model and chip held out": both_held_out(rows),
    }
    print("\n| rows | n | " + " | ".join(errors) + " |\n|---|---|" + "---|" * len(errors))
    print_line("all", np.ones(len(rows), bool), errors)
    for groups in (labels.model, labels.accelerator, labels.source, scenario):
        for group in sorted(set(groups.tolist())):
            print_line(group, groups == group, errors)


def print_times(rows: Measurements) -> None:
    """CPU milliseconds of what a plan asks for."""
    served = serve_in("H100", "bf16")
    asked = Deployment(
        rental=served.rental,
        weight_bits=served.weight_bits,
        kv_bits=16,
        input_tokens=1000,
        output_tokens=250,
        time_per_output_token_seconds=0.05,
    )
    layers = np.geomspace(8, 120, 100_000)
    width = 100 * layers
    sizes = ServedShape(12 * layers * width**2, 12 * layers * width**2, layers, width, width)
    print("\n| what | CPU ms |\n|---|---|")
    for name, work in (
        ("serving of 100,000 shapes, 1 to 8 accelerators each", lambda: serve(asked, sizes)),
        (f"constants of {len(rows)} rows", lambda: fit(rows)),
        ("the same with their spread and held-out error", lambda: calibrate(rows)),
    ):
        started = time.process_time()
        work()
        print(f"| {name} | {1e3 * (time.process_time() - started):.0f} |")


def print_line(name: str, keep: NDArray[np.bool_], errors: dict[str, NDArray[np.float64]]) -> None:
    """One line of the table: median error and share within 1.3x."""
    figures = [accuracy(values[keep], "") for values in errors.values()]
    cells = " | ".join(f"{figure.median_error:.0%}, {figure.within:.0%}" for figure in figures)
    print(f"| {name} | {keep.sum()} | {cells} |")


def constant_mfu_rates(rows: Measurements) -> NDArray[np.float64]:
    """What public calculators assume: MFU of 50 % for tokens read and 1 % for tokens written."""
    read, written = rows.traffic.input_tokens, rows.traffic.output_tokens
    flops = 2 * rows.shape.active_weights * (read / 0.5 + written / 0.01)
    return rows.accelerators * written * rows.engine.peak_flops_per_second / flops


def both_held_out(rows: Measurements) -> NDArray[np.float64]:
    """log(predicted / measured) of each row, with neither its model nor its chip in the fit."""
    errors = np.empty(len(rows))
    for model in set(rows.labels.model.tolist()):
        for chip in set(rows.labels.accelerator.tolist()):
            this, that = rows.labels.model == model, rows.labels.accelerator == chip
            if (this & that).any():
                kept = (this & that) | ~(this | that)
                part = rows.only(kept)
                groups = np.where((this & that)[kept], "test", "train")
                errors[this & that] = held_out_errors(part, groups)[groups == "test"]
    return errors


def as_toml(found: Calibration, date: str) -> str:
    """The shipped file."""
    lines = [
        "# Constants of the serving roofline (costs/roofline.py), fitted by benchmarks/serving.py.",
        "# Shares are of the data sheet; seconds are per layer of a step, and per sequence in each layer.",
        "# accuracy: median of |predicted / measured - 1| and share within 1.3x on rows the fit did not see.",
        f'date = "{date}"',
        f'source = "{SOURCE}"',
        f"rows = {found.rows}",
        "left_out = []",
        "",
        "[constants]",
        *(f"{name} = {found.constants[name]:.3g}" for name in CONSTANTS),
        "",
        "[relative_standard_errors]",
        *(f"{name} = {found.spread[name]:.2g}" for name in CONSTANTS),
    ]
    return "\n".join([*lines, *(line for figure in found.accuracy for line in _entry(figure))]) + "\n"


def _entry(figure: Accuracy) -> list[str]:
    return [
        "",
        "[[accuracy]]",
        f'held_out = "{figure.held_out}"',
        f"rows = {figure.rows}",
        f"median_error = {figure.median_error:.4f}",
        f"within = {figure.within:.4f}",
    ]


if __name__ == "__main__":
    main()
