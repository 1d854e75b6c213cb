"""Which column of anybody's table holds what: aliases, units in headers, conventions, what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.cells import BARE_NUMBER, Cells, present, repeated_names
from llama_scale.fitting.filters import plain_name
from llama_scale.fitting.headers import (
    BITS,
    Header,
    count_factor,
    flops_factor,
    in_bits,
    loss_factor,
    read_header,
)
from llama_scale.frozen import frozen
from llama_scale.quantities import parse_count, parse_flops

EVALUATED_LOSS = (
    *("loss", "l", "loss_nats", "val_loss", "eval_loss", "validation_loss", "test_loss", "final_loss"),
)
TRAINING_LOSS = ("train_loss", "training_loss")  # taken where no other is there, and said
ALIASES: Mapping[str, tuple[str, ...]] = {
    "parameters": (
        *("parameters", "params", "n", "n_params", "num_params", "n_parameters", "num_parameters"),
        *("param_count", "parameter_count", "model_size", "size"),
    ),
    "tokens": (
        *("tokens", "d", "n_tokens", "num_tokens", "train_tokens", "training_tokens"),
        *("tokens_seen", "total_tokens"),
    ),
    "loss": (*EVALUATED_LOSS, *TRAINING_LOSS),
    "train_flops": (
        *("train_flops", "flops", "c", "compute", "training_flops", "training_flop", "flop"),
        "total_flops",
    ),
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
# Columns that ours can be made of, by their plain names, and how.
MADE_OF = (
    ("loss", re.compile(r"perplexity|ppl"), "the natural logarithm of {!r}"),
    ("loss", re.compile(r"bpb|bpc|per_(?:byte|char)"), "{!r} times ln 2 and the bytes that a token has"),
    (
        "tokens",
        re.compile(r"token\w*(?:_per_|_?/_?)param|^d/n$|token_param_ratio"),
        "{!r} times the parameters",
    ),
)
STEMS = {  # what a column holds, by a part of its name: the first of these that is in it
    "other": re.compile(r"batch|vocab|context|[mg]i?b$"),
    "loss": re.compile(r"loss|entropy|nll|xent|bits|(?:^|_)ce$"),
    "tokens": re.compile(r"token|data|corpus"),
    "parameters": re.compile(r"param|model|size"),
}
NEED = "a law needs parameters, tokens and loss; train_flops may stand in for either count"
CURVES_NEED = "whole loss curves, with their learning rates, are fitted by `--form multi-power`"
TABLE_CONVENTION: ParameterConvention = "total"
COUNTS = ("parameters", "tokens", "unique_tokens", *(f"parameters_{name}" for name in CONVENTIONS))
FLOPS = ("train_flops", "budget")
_UNIT = re.compile(r"[_\s](k|m|b|t|(?:thousand|million|billion|trillion)s?|1e\d+|bits)$", re.IGNORECASE)


@frozen
class Columns:
    """Where a table keeps what: positions by our names, headers as written, what they multiply numbers by."""

    at: Mapping[str, int]
    header: Sequence[str]
    factors: Mapping[str, float]

    @property
    def notes(self) -> list[str]:
        """What was made of the losses, and what they are where they are not of held-out text."""
        loss, said = self.header[self.at["loss"]], []
        if self.factors.get("loss") == BITS:
            said.append(f"{loss} is taken times ln 2, as nats a token")
        if read_header(loss).name in TRAINING_LOSS:
            said.append(
                f"{loss} is of training: where it is a mean of many steps, it lags behind the run's end"
            )
        return said

    def factor_at(self, at: int) -> float:
        """What bare numbers of the column at that position are times."""
        return next((self.factors[ours] for ours in self.factors if self.at[ours] == at), 1.0)

    def text(self, cells: Sequence[str], ours: str) -> str:
        """The cell of one of our columns; empty where the table has none, or no value in it."""
        return present(cells[self.at[ours]]) if ours in self.at else ""

    def tell_units(self, rows: Sequence[Sequence[str]]) -> bool:
        """Whether all sizes and durations are written with a unit, such as 7B."""
        names = ("parameters", "tokens")
        return all(
            name in self.at and not BARE_NUMBER.fullmatch(cells[self.at[name]])
            for name in names
            for cells in rows
        )

    def number(self, place: str, cells: Sequence[str], ours: str) -> float:
        """The number in that cell; InputError names place and column where there is none."""
        text = self.text(cells, ours)
        column = self.header[self.at[ours]]
        if not text:
            raise InputError(
                f"{place}, column {column}: the cell is {cells[self.at[ours]] or 'empty'}",
                hint=f"fill it in, or leave out such rows: --where '{column} > 0'",
            )
        try:
            return self.parsed(text, ours)
        except (InputError, ValueError, OverflowError) as error:
            reason = error.message if isinstance(error, InputError) else f"{text!r} is not a number"
            hint = error.hint if isinstance(error, InputError) else "write it as 3.21"
            raise InputError(f"{place}, column {column}: {reason}", hint=hint) from None

    def parsed(self, text: str, ours: str) -> float:
        """The number that a cell of one of our columns says; InputError or ValueError where it says none."""
        factor, parse = self.factors.get(ours, 1.0), _parser(ours)
        if factor != 1.0 and BARE_NUMBER.fullmatch(text):
            return factor * parse(text)
        try:
            return float(text)  # the fastest way, and one that lets nan through to where values are checked
        except ValueError:
            return parse(text)

    def maybe(self, place: str, cells: Sequence[str], ours: str) -> float | None:
        """The number in that cell; None where the table has no such column or leaves it empty."""
        return self.number(place, cells, ours) if self.text(cells, ours) else None


def _parser(ours: str) -> Callable[[str], float]:
    return parse_count if ours in COUNTS else parse_flops if ours in FLOPS else float


def named_columns(
    path: Path, table: Cells, aliases: Mapping[str, Sequence[str]], *, required: Sequence[str], need: str
) -> Columns:
    """The columns of a table by the names in `aliases`, and the units that their headers tell.

    Raises InputError where a `required` one is missing: what there is, the nearest, and `need`, what for.
    """
    headers = [read_header(name) for name in table.header]
    found = _found(path, [header.name for header in headers], aliases)
    if missing := [ours for ours in required if ours not in found]:
        raise _missing(path, table.header, found.values(), {ours: aliases[ours] for ours in missing}, need)
    return Columns(at=found, header=table.header, factors=_factors(path, headers, found))


def find_columns(path: Path, table: Cells, convention: ParameterConvention | None) -> Columns:
    """Our names for the columns that the table has; N or D may be missing where C stands in."""
    headers = [read_header(name) for name in table.header]
    found = _found(path, [column_name(header) for header in headers], ALIASES)
    _choose_parameters(path, table, found, convention)
    missing = {ours: ALIASES[ours] for ours in ("parameters", "tokens", "loss") if ours not in found}
    if "loss" in missing or (missing and "train_flops" not in found) or len(missing) > 1:
        need = f"{NEED}; {CURVES_NEED}" if "step" in found else NEED
        raise _missing(path, table.header, found.values(), missing, need)
    return Columns(at=found, header=table.header, factors=_factors(path, headers, found))


def _found(path: Path, names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Where each of our columns stands that has one of its names; InputError where two have it."""
    repeated = repeated_names(names)
    found: dict[str, int] = {}
    for ours, others in aliases.items():
        named = next((alias for alias in others if alias in names), None)
        if named in repeated:
            raise InputError(
                f"{path.name} has more than one column {named!r}", hint="rename or delete all but one of them"
            )
        if named:
            found[ours] = names.index(named)
    return found


def column_name(header: Header) -> str:
    """Its plain name, with how parameters are counted where its brackets say it."""
    counted = header.name in ALIASES["parameters"] and header.convention
    return f"parameters_{counted}" if counted else header.name


def _factors(path: Path, headers: Sequence[Header], found: Mapping[str, int]) -> dict[str, float]:
    """What the numbers of each of our columns are to be multiplied by."""
    factors = {}
    for names, factor_of in ((COUNTS, count_factor), (FLOPS, flops_factor), (("loss",), loss_factor)):
        for ours in names:
            if ours in found:
                try:
                    factors[ours] = factor_of(headers[found[ours]])
                except InputError as error:
                    raise InputError(f"{path.name}, {error.message}", hint=error.hint) from None
    return factors


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


def _missing(
    path: Path,
    header: Sequence[str],
    taken: Collection[int],
    wanted: Mapping[str, Sequence[str]],
    need: str,
) -> InputError:
    """Which columns are missing, what was found, and the nearest to each of those that are not taken."""
    free = [name for at, name in enumerate(header) if at not in taken]
    near = {ours: found for ours, names in wanted.items() if (found := _nearest(ours, names, free))}
    steps = [f"rename {found!r} to {_with_unit(ours, found)!r}" for ours, found in near.items()]
    steps += [f"add a column {ours!r}{_made_of(ours, free)}" for ours in wanted if ours not in near]
    if len(header) == 1 and " " in header[0].strip():
        steps = ["separate the cells by commas"]
    shown = ", ".join(name or "''" for name in header[:20]) + (", ..." if len(header) > 20 else "")
    return InputError(
        f"{path.name} has no column {' nor '.join(map(repr, wanted))}; found: {shown}",
        hint=f"{', '.join(steps)}: {need}",
    )


def _made_of(ours: str, header: Sequence[str]) -> str:
    """How to make a column of ours from another that the table has."""
    for made, others, how in MADE_OF:
        found = next((name for name in header if made == ours and others.search(plain_name(name))), None)
        if found:
            return f", {how.format(found)}"
    return ""


def _nearest(ours: str, aliases: Sequence[str], header: Sequence[str]) -> str | None:
    """The column that was most likely meant: spelt alike, or with one of the words that name ours."""
    plain = {_UNIT.sub("", plain_name(name)): name for name in header}
    held = {text: next((held for held, stem in STEMS.items() if stem.search(text)), ours) for text in plain}
    meant = [
        text
        for text in plain
        if held[text] == ours and not any(other.search(text) for _, other, _ in MADE_OF)
    ]
    for alias in aliases:
        close = get_close_matches(alias, meant, n=1, cutoff=0.6 if len(alias) > 1 else 1.0)
        if close:
            return plain[close[0]]
    stem = STEMS.get(ours)
    return next((plain[text] for text in meant if stem and stem.search(text)), None)


def _with_unit(ours: str, found: str) -> str:
    """Our name for a column, with the unit that its own name tells: `parameters (M)` for `params_M`."""
    unit = _UNIT.search(found.strip())
    if ours == "loss":
        return "loss (bits)" if in_bits(found) else "loss"
    return f"{ours} ({unit[1]})" if unit else ours


def convention_of(
    path: Path, table: Cells, columns: Columns, asked: ParameterConvention | None
) -> tuple[ParameterConvention, list[str]]:
    """How the table counts parameters, and what to say of that."""
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
