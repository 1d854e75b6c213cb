"""Which column of anybody's table holds what: aliases, units in headers, conventions, what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.cells import Cells, repeated_names
from llama_scale.fitting.filters import plain_name
from llama_scale.frozen import frozen
from llama_scale.quantities import parse_count, parse_flops

ALIASES: Mapping[str, tuple[str, ...]] = {
    "parameters": ("parameters", "params", "n", "n_params", "num_params", "model_size", "size"),
    "tokens": ("tokens", "d", "n_tokens", "num_tokens", "train_tokens", "training_tokens"),
    "loss": ("loss", "l", "loss_nats", "val_loss", "eval_loss", "validation_loss"),
    "train_flops": ("train_flops", "flops", "c", "compute", "training_flops", "training_flop", "flop"),
    "budget": ("budget", "budget_flops"),
    "run": ("run", "run_id", "name", "id"),
    "family": ("family",),
    "role": ("role",),
    "corpus": ("corpus",),
    "tokenizer": ("tokenizer",),
    "status": ("status", "state"),
    "schedule_complete": ("schedule_complete",),
    "step": ("step",),
    "flagged": ("outlier", "flagged", "is_outlier"),
    "unique_tokens": ("unique_tokens", "unique", "unique_data_tokens"),
    "epochs": ("epochs", "epoch", "num_epochs"),
    "parameter_convention": ("parameter_convention", "convention"),
    "parameters_total": ("parameters_total", "params_total", "total_params", "total_parameters"),
    "parameters_non_embedding": (
        "parameters_non_embedding",
        "params_non_embedding",
        "params_no_embed",
        "params_no_embedding",
        "non_embedding_params",
        "non_embedding_parameters",
        "n_non_embedding",
    ),
    "parameters_matmul": ("parameters_matmul", "params_matmul"),
}
PERPLEXITIES = ("perplexity", "ppl", "val_ppl", "val_perplexity", "eval_perplexity")
TABLE_CONVENTION: ParameterConvention = "total"
COUNTS = ("parameters", "tokens", "unique_tokens", *(f"parameters_{name}" for name in CONVENTIONS))
FLOPS = ("train_flops", "budget")
_HEADER_UNIT = re.compile(r"\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]\s*$")
_BARE_NUMBER = re.compile(r"[\d.,_eE+-]+")


@frozen
class Columns:
    """Where a table keeps what: positions by our names, headers as written, units that headers name."""

    at: Mapping[str, int]
    header: Sequence[str]
    units: Mapping[str, str]

    def text(self, cells: Sequence[str], ours: str) -> str:
        """The cell of one of our columns; empty where the table has none."""
        return cells[self.at[ours]] if ours in self.at else ""

    def number(self, place: str, cells: Sequence[str], ours: str) -> float:
        """The number in that cell; InputError names place and column where there is none."""
        text = self.text(cells, ours)
        column = self.header[self.at[ours]]
        if not text:
            raise InputError(
                f"{place}, column {column}: the cell is empty",
                hint=f"fill it in, or leave out such rows: --where '{column} > 0'",
            )
        try:
            return _number(text, ours, self.units.get(ours, ""))
        except (InputError, ValueError, OverflowError) as error:
            reason = error.message if isinstance(error, InputError) else f"{text!r} is not a number"
            hint = error.hint if isinstance(error, InputError) else "write it as 3.21"
            raise InputError(f"{place}, column {column}: {reason}", hint=hint) from None

    def maybe(self, place: str, cells: Sequence[str], ours: str) -> float | None:
        """The number in that cell; None where the table has no such column or leaves it empty."""
        return self.number(place, cells, ours) if self.text(cells, ours) else None


def _number(text: str, ours: str, unit: str) -> float:
    parse: Callable[[str], float]
    parse = parse_count if ours in COUNTS else parse_flops if ours in FLOPS else float
    if unit and _BARE_NUMBER.fullmatch(text):
        return parse(f"{text} {unit}")
    try:
        return float(text)  # the fastest way, and the one that lets nan through to where values are checked
    except ValueError:
        return parse(text)


def find_columns(path: Path, table: Cells, convention: ParameterConvention | None) -> Columns:
    """Our names for the columns that the table has; N or D may be missing where C stands in."""
    bare = [_HEADER_UNIT.sub("", name) for name in table.header]
    names = [plain_name(name) for name in bare]
    repeated = repeated_names(names)
    found: dict[str, int] = {}
    for ours, aliases in ALIASES.items():
        named = next((alias for alias in aliases if alias in names), None)
        if named in repeated:
            raise InputError(
                f"{path.name} has more than one column {named!r}", hint="rename or delete all but one of them"
            )
        if named:
            found[ours] = names.index(named)
    _choose_parameters(path, table, found, convention)
    missing = [ours for ours in ("loss", "parameters", "tokens") if ours not in found]
    if "loss" in missing or (missing and "train_flops" not in found) or len(missing) > 1:
        raise _missing(path, missing, table.header)
    units = {
        ours: match.group(1)
        for ours, at in found.items()
        if ours in COUNTS + FLOPS and (match := _HEADER_UNIT.search(table.header[at]))
    }
    return Columns(at=found, header=table.header, units=units)


def _choose_parameters(
    path: Path, table: Cells, found: dict[str, int], convention: ParameterConvention | None
) -> None:
    """Let the column of the convention that was asked for, or the only one there is, be the parameters."""
    asked = [f"parameters_{c}" for c in ((convention,) if convention else CONVENTIONS)]
    exact = next((name for name in asked if name in found), None)
    if exact and (convention or "parameters" not in found):
        found["parameters"] = found[exact]
    elif convention and "parameters" not in found and any(f"parameters_{c}" in found for c in CONVENTIONS):
        others = [c for c in CONVENTIONS if f"parameters_{c}" in found]
        raise InputError(
            f"{path.name} counts parameters as {' and '.join(others)} only, not as {convention}",
            hint=f"use --convention {others[0]}, or add a column 'parameters_{convention}'",
        )


def _missing(path: Path, missing: Sequence[str], header: Sequence[str]) -> InputError:
    """Which columns are missing, what was found, and the nearest of it to each."""
    wanted = [name for name in ("parameters", "tokens", "loss") if name in missing]
    near = {ours: found for ours in wanted if (found := _nearest(ours, header))}
    steps = [f"rename {found!r} to {ours!r}" for ours, found in near.items()]
    steps += [f"add a column {ours!r}{_made_of(ours, header)}" for ours in wanted if ours not in near]
    if len(header) == 1 and " " in header[0].strip():
        steps = ["separate the cells by commas"]
    shown = ", ".join(name or "''" for name in header[:20]) + (", ..." if len(header) > 20 else "")
    return InputError(
        f"{path.name} has no column {' nor '.join(repr(name) for name in wanted)}; found: {shown}",
        hint=f"{', '.join(steps)}: a law needs parameters, tokens and loss; train_flops may stand in for"
        " either count",
    )


def _made_of(ours: str, header: Sequence[str]) -> str:
    """How to make a column of ours from another that the table has."""
    perplexity = next((name for name in header if plain_name(name) in PERPLEXITIES), None)
    return f", the natural logarithm of {perplexity!r}" if ours == "loss" and perplexity else ""


def _nearest(ours: str, header: Sequence[str]) -> str | None:
    """The column that was most likely meant: spelt alike, or with one of the words that name ours."""
    plain = {text: name for name in header if (text := plain_name(name)) not in PERPLEXITIES}
    for alias in ALIASES[ours]:
        close = get_close_matches(alias, plain, n=1, cutoff=0.6)
        if close:
            return plain[close[0]]
    stem = {"parameters": ("param", "size"), "tokens": ("token",), "loss": ("loss",)}[ours]
    return next((name for text, name in plain.items() if any(word in text for word in stem)), None)


def convention_of(
    path: Path, table: Cells, columns: Columns, asked: ParameterConvention | None
) -> tuple[ParameterConvention, list[str]]:
    """How the table counts parameters, and what to say of it."""
    parameters = columns.at.get("parameters")
    for known in CONVENTIONS:
        exact = columns.at.get(f"parameters_{known}")
        if exact is not None and all(cells[exact] == cells[parameters or 0] for cells in table.rows):
            return known, []
    named: set[str] = set()
    if "parameter_convention" in columns.at:
        named = {columns.text(cells, "parameter_convention") for cells in table.rows}
    for known in CONVENTIONS:
        if named == {known} and asked in (None, known):
            return known, []
    if named:
        wanted = f", not {asked}" if asked else ""
        raise InputError(
            f"{path.name} names the parameter convention {', '.join(sorted(named))}{wanted}",
            hint=f"use one of {', '.join(CONVENTIONS)} in every row, and the same in --convention",
        )
    if asked:
        return asked, []
    note = f"{path.name} names no parameter convention: taken as {TABLE_CONVENTION}; --convention changes it"
    return TABLE_CONVENTION, [note]
