"""Row filters such as `excluded = 0`, for tables and run stores alike."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from llama_scale.errors import InputError, shown
from llama_scale.fitting.cells import BARE_NUMBER, present
from llama_scale.frozen import frozen
from llama_scale.quantities import parse_count, parse_flops

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
ORDERS = ("<", "<=", ">", ">=")


@frozen
class Filter:
    """Rows to keep: those whose `column` compares so with `value`, as numbers where both are."""

    column: str
    comparison: str
    value: str

    def __str__(self) -> str:
        return f"{self.column} {self.comparison} {self.value}"

    def keeps(self, cell: str, factor: float = 1.0) -> bool:
        """Whether a row with this cell stays; `factor` is what bare numbers of its column are times.

        Raises InputError where a number is to be less or more than a word.
        """
        cell, value = present(cell), present(self.value)
        if not cell and self.comparison in ORDERS:
            return False
        numbers = (_number(cell, factor), _number(value, factor))
        if numbers[0] is not None and numbers[1] is None and self.comparison in ORDERS:
            raise InputError(
                f"the filter '{self}' compares {cell} with {self.value!r}, which is no number",
                hint=f"write --where '{self.column} {self.comparison} {cell}'",
            )
        pair: tuple[Any, Any] = (cell, value) if None in numbers else numbers
        return _COMPARE[self.comparison](*pair)


def _number(text: str, factor: float) -> float | None:
    """A bare number times the factor, or a count such as 7B, or FLOPs; None for other text."""
    scale = factor if BARE_NUMBER.fullmatch(text) else 1.0
    for parse in (float, parse_count, parse_flops):
        try:
            number = parse(text)
        except (InputError, ValueError):
            continue
        return number if scale == 1.0 else float(f"{scale * number:.15g}")  # .07 in billions is to equal 70M
    return None


def parse_filter(text: str) -> Filter:
    """A filter such as `excluded = 0` or `dataset = rpj`; also !=, <, <=, > and >=."""
    match = re.fullmatch(r"\s*([^=!<>]+?)\s*(!=|<=|>=|==|=|<|>)\s*([^=!<>].*?)?\s*", text)
    if not match:
        raise InputError(f"cannot read the filter {text!r}", hint="write it as --where 'column = value'")
    column, comparison, value = match.groups("")
    return Filter(
        column=plain_name(column), comparison=comparison.replace("==", "="), value=value.strip("'\"")
    )


def parse_filters(where: str | Sequence[str] | None) -> list[Filter]:
    """Filters as Python gives them, one or several; InputError for what is no text."""
    texts = [where] if isinstance(where, str) else [] if where is None else where
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"the filters are {shown(where)}", hint="write where=['parameters > 1e8']")
    return [parse_filter(text) for text in texts]


def check_columns(filters: Sequence[Filter], columns: Sequence[str], source: str) -> None:
    """Raises InputError for a filter on a column that `source` doesn't have, with the nearest one."""
    for condition in filters:
        if condition.column not in columns:
            near = get_close_matches(condition.column, columns, n=1)
            raise InputError(
                f"{source} has no column {condition.column!r} to filter by; found: {', '.join(columns)}",
                hint=f"use --where '{near[0] if near else columns[0]} = VALUE'",
            )


def plain_name(column: str) -> str:
    """A column's name as it is compared: lower case, underscores for spaces."""
    return column.strip().lower().replace(" ", "_")
