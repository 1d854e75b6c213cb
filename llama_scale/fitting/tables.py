"""Runs from anybody's CSV: header aliases, units, `#` comments, row filters, errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.filters import Filter, check_columns, plain_name
from llama_scale.fitting.observations import TABLE_CONVENTION, Exclusion, Row, Rows
from llama_scale.quantities import parse_count, parse_flops

ALIASES: Mapping[str, tuple[str, ...]] = {
    "parameters": ("parameters", "params", "n", "n_params", "num_params", "model_size"),
    "tokens": ("tokens", "d", "n_tokens", "num_tokens", "train_tokens"),
    "loss": ("loss", "l", "loss_nats", "val_loss", "eval_loss"),
    "train_flops": ("train_flops", "flops", "c", "compute"),
    "budget": ("budget", "budget_flops"),
    "run": ("run", "run_id", "name", "id"),
    "family": ("family",),
    "role": ("role",),
    "corpus": ("corpus",),
    "tokenizer": ("tokenizer",),
    "status": ("status",),
    "parameter_convention": ("parameter_convention", "convention"),
}
REQUIRED = ("parameters", "tokens", "loss")
HELD_OUT = ("holdout", "held_out", "test")


def read_table(
    path: Path, *, where: Sequence[Filter] = (), convention: ParameterConvention | None = None
) -> Rows:
    """Rows of a CSV file.

    Raises InputError naming the file, the line and the column of what is wrong. A table that names no
    parameter convention is taken as total, one without FLOPs as 6ND, and both are said.
    """
    lines, header = _read_cells(path)
    columns = _find_columns(path, header, convention)
    check_columns(where, [plain_name(name) for name in header], path.name)
    rows, left = [], []
    for number, cells in lines:
        name = cells.get(columns.get("run", ""), "") or f"line {number}"
        place = f"{path.name} line {number}" + (f" ({name})" if not name.startswith("line ") else "")
        failed = next((c for c in where if not c.keeps(cells[c.column])), None)
        if failed:
            left.append(Exclusion(run=name, reason=f"not {failed}"))
        elif cells.get(columns.get("status", ""), "done") not in ("done", ""):
            left.append(Exclusion(run=name, reason=f"its status is {cells[columns['status']]}"))
        elif cells.get(columns.get("role", ""), "") == "trunk":
            left.append(
                Exclusion(run=name, reason="a trunk at constant learning rate: its loss is not decayed")
            )
        else:
            rows.append(_row(name, place, cells, columns))
    counted, notes = _convention(path, lines, columns, convention)
    if "train_flops" not in columns:
        notes.append(f"{path.name} has no FLOPs: taken as 6ND")
    return Rows(
        source=str(path), rows=tuple(rows), convention=counted, exclusions=tuple(left), warnings=tuple(notes)
    )


def _read_cells(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Numbered rows as {plain column name: cell}, and the header as it is written."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}", hint="give a CSV file or a run store") from None
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    if len(lines) < 2:
        raise InputError(f"{path} holds no rows", hint="a header line and a line a run are needed")
    cells = list(csv.reader(line for _, line in lines))
    header = cells[0]
    names = [plain_name(name) for name in header]
    for (number, _), row in zip(lines, cells, strict=False):
        if len(row) != len(header):
            raise InputError(
                f"{path.name} line {number} has {len(row)} cells, but the header has {len(header)}",
                hint="separate cells by commas, quote those that hold one, and check for a torn line",
            )
    pairs = zip(lines[1:], cells[1:], strict=True)
    return [
        (number, dict(zip(names, map(str.strip, row), strict=True))) for (number, _), row in pairs
    ], header


def _find_columns(
    path: Path, header: Sequence[str], convention: ParameterConvention | None
) -> dict[str, str]:
    """Our names for the columns that the table has."""
    found, names = {}, [plain_name(name) for name in header]
    for ours, aliases in ALIASES.items():
        named = next((alias for alias in aliases if alias in names), None)
        if named:
            found[ours] = named
    by_convention = [f"parameters_{c}" for c in ((convention,) if convention else CONVENTIONS)]
    exact = next((name for name in by_convention if name in names), None)
    if exact and (convention or "parameters" not in found):
        found["parameters"] = exact
    for name in REQUIRED:
        if name not in found:
            raise _missing(path, ALIASES[name], header)
    return found


def _missing(path: Path, aliases: Sequence[str], header: Sequence[str]) -> InputError:
    plain = {plain_name(name): name for name in header}
    near = [plain[match] for alias in aliases for match in get_close_matches(alias, plain, n=1, cutoff=0.6)]
    rename = f"rename {near[0]!r} to {aliases[0]!r}" if near else f"add a column {aliases[0]!r}"
    others = f" (or {', '.join(aliases[1:])})" if len(aliases) > 1 else ""
    return InputError(
        f"{path.name} has no column {aliases[0]!r}{others}; found: {', '.join(header)}",
        hint=f"{rename}: llama-scale needs parameters, tokens and loss",
    )


def _row(name: str, place: str, cells: Mapping[str, str], columns: Mapping[str, str]) -> Row:
    def cell(ours: str) -> str:
        return cells.get(columns.get(ours, ""), "")

    def number(ours: str, parse: Callable[[str], float]) -> float:
        try:
            return parse(cell(ours))
        except (InputError, ValueError) as error:
            reason = error.message if isinstance(error, InputError) else f"{cell(ours)!r} is not a number"
            hint = error.hint if isinstance(error, InputError) else "write it as 3.21"
            raise InputError(f"{place}, column {columns[ours]}: {reason}", hint=hint) from None

    return Row(
        name=name,
        place=place,
        parameters=number("parameters", _or_nan(parse_count)),
        tokens=number("tokens", _or_nan(parse_count)),
        loss=number("loss", float),
        train_flops=number("train_flops", _or_nan(parse_flops)) if cell("train_flops") else None,
        budget=number("budget", _or_nan(parse_flops)) if cell("budget") else None,
        family=cell("family"),
        corpus=cell("corpus"),
        tokenizer=cell("tokenizer"),
        held_out=cell("role") in HELD_OUT,
    )


def _or_nan(parse: Callable[[str], float]) -> Callable[[str], float]:
    """Let `nan` and plain floats through, so that one place says what is wrong with their values."""

    def read(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return parse(text)

    return read


def _convention(
    path: Path,
    lines: Iterable[tuple[int, Mapping[str, str]]],
    columns: Mapping[str, str],
    asked: ParameterConvention | None,
) -> tuple[ParameterConvention, list[str]]:
    """How the table counts parameters, and what to say of it."""
    if asked:
        return asked, []
    for known in CONVENTIONS:
        if columns["parameters"] == f"parameters_{known}":
            return known, []
    named = (
        {cells[columns["parameter_convention"]] for _, cells in lines}
        if "parameter_convention" in columns
        else set()
    )
    for known in CONVENTIONS:
        if named == {known}:
            return known, []
    if named:
        raise InputError(
            f"{path.name} names the parameter convention {', '.join(sorted(named))}",
            hint=f"use one of {', '.join(CONVENTIONS)} in every row",
        )
    note = f"{path.name} names no parameter convention: taken as {TABLE_CONVENTION}; --convention changes it"
    return TABLE_CONVENTION, [note]
