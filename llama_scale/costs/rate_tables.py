"""Serving rates from anybody's CSV: header aliases, models by name or shape, errors that name the line."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llama_scale.costs.formats import weight_bits
from llama_scale.costs.measurements import Measurement, Measurements, stack
from llama_scale.costs.roofline import ServedShape, Traffic, batch_in_memory
from llama_scale.errors import InputError, LlamaScaleError, UnidentifiedError
from llama_scale.files import shipped_tables
from llama_scale.hardware import Accelerator, accelerator, name_key, nearest_names_hint
from llama_scale.quantities import parse_count

ALIASES: Mapping[str, tuple[str, ...]] = {
    "run": ("row_id", "run", "id", "name"),
    "model": ("model", "model_name"),
    "accelerator": ("accelerator", "gpu", "hardware", "device"),
    "accelerators": ("n_accel", "accelerators", "gpus", "n_gpus", "num_gpus"),
    "tensor": ("tp", "tensor_parallel", "tensor_parallel_size"),
    "stages": ("pp", "pipeline_parallel", "pipeline_parallel_size"),
    "weights": ("weight_bits", "weights", "weight_format", "precision", "dtype", "quantization"),
    "kv_bits": ("kv_bits", "kv_cache_bits"),
    "batch": ("batch", "batch_size", "concurrency"),
    "input_tokens": ("input_len", "input_tokens", "isl", "input"),
    "output_tokens": ("output_len", "output_tokens", "osl", "output"),
    "rate": ("out_tok_s", "output_tokens_per_second", "output_throughput", "tokens_per_second"),
    "engine": ("engine", "framework", "source"),
    "parameters": ("parameters", "params", "params_total"),
    "layers": ("layers", "n_layers"),
    "heads": ("heads", "n_heads"),
    "kv_heads": ("kv_heads", "n_kv_heads"),
    "head_size": ("head_size", "head_dim"),
}
REQUIRED = ("model", "accelerator", "weights", "input_tokens", "output_tokens", "rate")
SHAPE = ("parameters", "layers", "heads", "kv_heads", "head_size")
MIXTURES = re.compile(r"\d+x\d+b|-a\d+(\.\d+)?b|deepseek-?(v[23]|r1)|llama-?4|gpt-oss|dbrx|grok-1")
MOST_NAMED = 5  # bad lines that one error names


class Table(NamedTuple):
    """What a file held: the rows to fit, of how many different setups, and why rows were left out."""

    measurements: Measurements
    setups: int
    left_out: tuple[str, ...]


def read_measurements(path: Path) -> Table:
    """Reads a CSV of serving rates; columns as in ALIASES, `#` lines are comments.

    Rows of mixtures of experts are left out and named. Raises InputError naming every bad line,
    UnidentifiedError where no row is left.
    """
    rows, left_out, problems = [], [], []
    columns, lines = _read(path)
    for number, cells in lines:
        named = {ours: cells[theirs] for ours, theirs in columns.items()}
        row = _Row(path.name, number, named, columns)
        if MIXTURES.search(row.cells["model"].lower()):
            left_out.append(f"{row.name}: {row.cells['model']} is a mixture of experts, outside this model")
            continue
        try:
            rows.append(row.measurement())
        except LlamaScaleError as error:
            problems.append((f"{row.place}: {error.message}", error.hint))
    if problems:
        messages = [message for message, _ in problems[:MOST_NAMED]]
        more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise InputError("; ".join(messages) + more, hint=problems[0][1])
    if not rows:
        raise UnidentifiedError(
            f"{path.name} holds no row that can be used; {left_out[0]}", hint="give rates of dense models"
        )
    setups = {repr(row._replace(name="", source="", rate=0.0)) for row in rows}
    return Table(stack(rows), len(setups), tuple(left_out))


@cache
def known_shapes() -> Mapping[str, ServedShape]:
    """Shapes of published dense models by name and alias (`data/reference_models.toml`)."""
    shapes = {}
    for entry in shipped_tables("reference_models.toml")["model"]:
        shape = ServedShape(
            weights=float(entry["total"]),
            active_weights=float(entry["total"] - (0 if entry["tied"] else entry["embedding"])),
            layers=float(entry["layers"]),
            query_width=float(entry["heads"] * entry["head_size"]),
            kv_width=float(entry["kv_heads"] * entry["head_size"]),
        )
        shapes |= dict.fromkeys((entry["name"], *entry.get("aliases", ())), shape)
    return shapes


class _Row(NamedTuple):
    """One line's cells by our names for the columns, and what the file calls these."""

    file: str
    number: int
    cells: Mapping[str, str]
    columns: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.cells.get("run") or f"line {self.number}"

    @property
    def place(self) -> str:
        named = self.cells.get("run")
        return f"{self.file} line {self.number}" + (f" ({named})" if named else "")

    def measurement(self) -> Measurement:
        """The row's values, checked."""
        chip, shape = accelerator(self.cells["accelerator"]), self.shape()
        weights, accelerators = self.weights(chip), self.number_of("accelerators", 1.0)
        tensor = self.number_of("tensor", 1.0 if accelerators == 1 else math.nan)
        row = Measurement(
            name=self.name,
            model=self.cells["model"],
            chip=chip,
            source=(self.cells.get("engine", "").split() or [""])[0],
            shape=shape,
            weights=weights,
            kv_bits=self.number_of("kv_bits", 16.0),
            accelerators=accelerators,
            tensor=tensor,
            stages=self.number_of("stages", 1.0),
            batch=self.number_of("batch", math.inf),
            traffic=Traffic(self.number_of("input_tokens", least=0.0), self.number_of("output_tokens")),
            rate=self.number_of("rate"),
        )
        return _checked(row)

    def number_of(self, column: str, default: float | None = None, *, least: float = 1e-9) -> float:
        """A number of at least `least`; `default` where the cell is empty."""
        text, theirs = self.cells.get(column, ""), self.columns.get(column, column)
        if not text and default is not None:
            return default
        hint = f"give a number above 0 in column {theirs}"
        if not text:
            raise InputError(f"{theirs} is empty", hint=hint)
        try:
            value = float(text) if _is_plain(text) else parse_count(text)
        except LlamaScaleError:
            raise InputError(f"{theirs} is {text!r}, which is no number", hint=hint) from None
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{theirs} is {text}", hint=hint)
        return value

    def weights(self, chip: Accelerator) -> str:
        """The format of the weights: a word, or bits as the accelerator computes with them."""
        text = self.cells["weights"].lower()
        native = chip.peak_flops_per_second
        by_bits = {
            "16": chip.trains_in,
            "8": "fp8" if "fp8" in native else "int8",
            "4": "fp4" if "fp4" in native else "int4",
        }
        named = by_bits.get(text.removesuffix(".0"), text)
        weight_bits(named)
        return named

    def shape(self) -> ServedShape:
        """The shape that the row gives, else that of the model it names."""
        if not self.cells.get("layers"):
            known = {name_key(name): shape for name, shape in known_shapes().items()}
            if found := known.get(name_key(self.cells["model"])):
                return found
            near = nearest_names_hint(self.cells["model"], known_shapes())
            meant = f"{near} Else " if near.startswith("did you mean") else ""
            raise InputError(
                f"unknown model '{self.cells['model']}'",
                hint=f"{meant}give its shape in columns {', '.join(SHAPE)}",
            )
        parameters, layers = self.number_of("parameters"), self.number_of("layers")
        heads, head_size = self.number_of("heads"), self.number_of("head_size", 128.0)
        kv_heads = self.number_of("kv_heads", heads)
        return ServedShape(parameters, parameters, layers, heads * head_size, kv_heads * head_size)


def _checked(row: Measurement) -> Measurement:
    """The row if its model can be held as it says; raises InputError otherwise."""
    spread = row.accelerators if math.isnan(row.tensor) else row.tensor * row.stages
    if spread > row.accelerators:
        raise InputError(
            f"a copy on tp x pp = {spread:g} accelerators, but only {row.accelerators:g} in all",
            hint="n_accel counts all accelerators that the rate was measured on",
        )
    if spread > 1 and row.chip.interconnect_bytes_per_second is None:
        raise InputError(
            f"the bandwidth of {row.chip.name}'s links is not known", hint="leave rows of several of them out"
        )
    fastest = row.accelerators * max(row.chip.peak_flops_per_second.values())
    if 2 * row.shape.active_weights * row.rate > fastest:
        raise InputError(
            f"{row.rate:.4g} tokens/s of {row.model} take more FLOPs than {row.accelerators:g} x "
            f"{row.chip.name} can do",
            hint="rates are output tokens a second of all n_accel together",
        )
    one = stack([row._replace(tensor=spread / row.stages)])
    if np.isnan(batch_in_memory(one.engine, one.shape, one.traffic)).any():
        raise InputError(
            f"{row.model} in {row.weights} with one request does not fit on {spread:g} x {row.chip.name}",
            hint="check weight_bits, kv_bits, tp and the lengths",
        )
    return row


def _read(path: Path) -> tuple[dict[str, str], list[tuple[int, dict[str, str]]]]:
    """Our names of the file's columns, and its lines as numbered cells by the file's names."""
    lines = list(_numbered_cells(path))
    if len(lines) < 2:
        raise InputError(f"{path} holds no rows", hint=f"give a header line with {', '.join(_theirs())}")
    header = [name.strip().lower() for name in lines[0][1]]
    for number, cells in lines:
        if len(cells) != len(header):
            raise InputError(
                f"{path.name} line {number} has {len(cells)} cells, but the header has {len(header)}",
                hint="separate cells by commas and quote those that hold one",
            )
    named = [(number, dict(zip(header, map(str.strip, cells), strict=True))) for number, cells in lines[1:]]
    return _columns(path, header), named


def _numbered_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of every line that says something, by its number (its last, where quotes hold a break)."""
    numbered = [
        (number, line)
        for number, line in enumerate(_text(path).splitlines(), 1)
        if line.strip() and line[0] != "#"
    ]
    reader = csv.reader(line for _, line in numbered)
    try:
        for cells in reader:
            yield numbered[reader.line_num - 1][0], cells
    except csv.Error as error:
        place = numbered[reader.line_num - 1][0]
        raise InputError(f"{path.name} line {place} is not CSV: {error}", hint="correct that line") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}", hint="give a CSV file of serving rates") from None


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """The file's names of the columns by ours; raises InputError where one that we need is missing."""
    found = {ours: next((n for n in names if n in header), "") for ours, names in ALIASES.items()}
    if missing := [ALIASES[ours][0] for ours in REQUIRED if not found[ours]]:
        raise InputError(
            f"{path.name} has no column {', '.join(missing)}; found: {', '.join(header)}",
            hint=f"name the columns {', '.join(_theirs())}",
        )
    return {ours: theirs for ours, theirs in found.items() if theirs}


def _theirs() -> Iterator[str]:
    return (ALIASES[ours][0] for ours in REQUIRED)


def _is_plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
