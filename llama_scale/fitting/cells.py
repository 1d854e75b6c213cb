"""The cells of anybody's table as text, with the line of each row: CSV of any common dialect, or Parquet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.frozen import frozen

SEPARATORS = (",", ";", "\t", "|")
PARQUET = b"PAR1"
OTHER_FILES = {  # the first bytes of files that people give for a CSV
    b"PK\x03\x04": "it is a spreadsheet or a zip archive",
    b"\x1f\x8b": "it is compressed by gzip",
    b"(\xb5/\xfd": "it is compressed by zstd",
    b"\xff\xfe": "it is UTF-16 text",
    b"\xfe\xff": "it is UTF-16 text",
}
ABSENT = frozenset(
    {"none", "nan", "-nan", "na", "<na>", "n/a", "#n/a", "nat", "null", "-"}
)  # no value, as people and programs write it
BARE_NUMBER = re.compile(r"[\d.,_eE+-]+")  # one that a unit in its header multiplies
_TOLD_SEPARATOR = re.compile(r"sep=([,;\t|])\s*", re.IGNORECASE)  # Excel's own first line
_JSON = re.compile(r"\s*(\{|\[\s*(\{|$))")  # an object, or the start of a list, perhaps of objects
_COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s?[kKmMbBtT]?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3},\d{3}\s?[kKmMbBtT]?")


@frozen
class Cells:
    """A table as text: its header as written, and a place (`line 7`) and stripped cells for each row."""

    header: tuple[str, ...]
    places: tuple[str, ...]
    rows: tuple[Sequence[str], ...]


def read_cells(path: Path) -> Cells:
    """The cells of a CSV or Parquet file.

    CSV: UTF-8, a byte order mark or not; separated by commas, semicolons, tabs or bars, or as Excel's line
    sep=; says; lines that start with # are comments; decimal commas are understood where the separator is
    another. Raises InputError, which names the line, for anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, (error.strerror or "it cannot be opened").lower()) from None
    if data[:4] == PARQUET:
        return _parquet(path)
    for start, what in OTHER_FILES.items():
        if data.startswith(start):
            raise _unreadable(path, what, hint="save it as CSV, UTF-8")
    if b"\0" in data:
        raise _unreadable(
            path, "it holds zero bytes, so it is no text", hint="give a CSV file or a run store"
        )
    return _csv(path, _text(path, data))


def _unreadable(path: Path, reason: str, *, hint: str = "give a CSV file or a run store") -> InputError:
    return InputError(f"cannot read {path}: {reason}", hint=hint)


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = data[error.start]
        reason = f"it is not UTF-8 text: byte 0x{byte:02x} in line {line}"
        raise _unreadable(path, reason, hint="save it as CSV, UTF-8") from None


def _lines(path: Path, text: str) -> tuple[list[tuple[int, str]], str | None]:
    """Numbered lines that are no comments, and the separator that a first one states."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [
        (number, line) for number, line in enumerate(plain, 1) if line.strip() and line.lstrip()[0] != "#"
    ]
    if lines and _JSON.match(lines[0][1]):
        raise _unreadable(
            path, "it is JSON, not a table", hint="write it as CSV; in Python, fit takes a list of dicts"
        )
    told = _TOLD_SEPARATOR.fullmatch(lines[0][1]) if lines else None
    return (lines[1:], told[1]) if told else (lines, None)


def _csv(path: Path, text: str) -> Cells:
    lines, told = _lines(path, text)
    if len(lines) < 2:
        raise InputError(f"{path} holds no rows", hint="a header line and a line a run are needed")
    separator = told or max(SEPARATORS, key=lambda mark: len(_first_row(lines[0][1], mark)))
    records = list(_records(path, lines, separator))
    header = [cell.strip() for cell in records[0][1]]
    _check_header(path, lines[0][0], header)
    for number, cells in records[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{path.name} line {number} has {len(cells)} cells, but the header has {len(header)}",
                hint="quote cells that hold a separator, thousands such as 7,000 among them; is a line torn?",
            )
    rows = [[cell.strip() for cell in cells] for _, cells in records[1:]]
    places = tuple(f"line {number}" for number, _ in records[1:])
    if separator != ",":
        rows = _without_decimal_commas(path, rows, places)
    return Cells(header=tuple(header), places=places, rows=tuple(rows))


def _check_header(path: Path, line: int, header: Sequence[str]) -> None:
    """Raises InputError for a first line that is no header: a row, as of a file whose header is a comment.

    One cell of it may be a run's name; no table that anything is read from has fewer than two names.
    """
    numbers = sum(bool(BARE_NUMBER.fullmatch(cell)) for cell in header)
    if numbers and len(header) - numbers < 2:
        raise InputError(
            f"{path.name} line {line} is its first that is no comment, but holds numbers, not names",
            hint="put a header above it, such as parameters,tokens,loss, with no # in front",
        )


def _first_row(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _records(path: Path, lines: list[tuple[int, str]], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Cells with the number of the line that they start in."""
    text = (line + "\n" for _, line in lines)
    reader = csv.reader(text, delimiter=separator, skipinitialspace=True)  # a quote may follow a blank
    start = 0
    try:
        for cells in reader:
            yield lines[start][0], cells
            start = reader.line_num
    except csv.Error as error:
        place = f"line {lines[min(start, len(lines) - 1)][0]}"
        raise InputError(
            f"{path.name} {place} cannot be read as CSV: {error}", hint="check that line's quotes"
        ) from None


def _without_decimal_commas(path: Path, rows: list[list[str]], places: Sequence[str]) -> list[list[str]]:
    """3,25 as 3.25, where the table shows that its commas are decimal; 3,250 alone may be either."""
    written = [
        (cell, place)
        for row, place in zip(rows, places, strict=True)
        for cell in row
        if "," in cell and _COMMA_NUMBER.fullmatch(cell)
    ]
    if not written:
        return rows
    if all(_THOUSANDS.fullmatch(cell) for cell, _ in written):
        cell, place = written[0]
        raise InputError(
            f"{path.name} {place} has {cell!r}: is its comma a decimal one, or does it part thousands?",
            hint="write 3.25 for a decimal, and 7000 or 7e3 for thousands",
        )
    return [
        [cell.replace(",", ".") if _COMMA_NUMBER.fullmatch(cell) else cell for cell in row] for row in rows
    ]


def _parquet(path: Path) -> Cells:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            f"{path} is a Parquet file, and pyarrow, which reads them, is not installed",
            hint="pip install 'llama-scale[parquet]', or write the table as CSV",
        ) from None
    try:
        table = parquet.read_table(path)
        columns = [table.column(index).to_pylist() for index in range(table.num_columns)]
    except Exception as error:  # pyarrow's errors have no common class of their own
        raise _unreadable(path, f"it is no whole Parquet file ({str(error).splitlines()[0]})") from None
    rows = tuple([_as_text(cell) for cell in row] for row in zip(*columns, strict=True))
    if not rows:
        raise InputError(f"{path} holds no rows", hint="a row a run is needed")
    return Cells(
        header=tuple(table.column_names), places=tuple(f"row {i}" for i in range(1, len(rows) + 1)), rows=rows
    )


def cells_of_rows(rows: Sequence[Mapping[Any, Any]]) -> Cells:
    """The cells of rows in memory, each a mapping from column to value; a row may lack a column."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return Cells(
        header=tuple(str(name) for name in header),
        places=tuple(f"row {i}" for i in range(1, len(rows) + 1)),
        rows=tuple([_as_text(row.get(name)) for name in header] for row in rows),
    )


def _as_text(cell: Any) -> str:
    return present(str(int(cell)) if isinstance(cell, bool) else str(cell).strip())


def present(text: str) -> str:
    """A cell's text; empty where it says that there is no value."""
    return "" if text.lower() in ABSENT else text


def repeated_names(names: Iterable[str]) -> set[str]:
    """Names that occur more than once."""
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}
