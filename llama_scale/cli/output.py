"""The one output sink: results on stdout, for people or as one JSON object; everything else on stderr."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from llama_scale.errors import LlamaScaleError
from llama_scale.frozen import frozen

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

SCHEMA = 1
NARROWEST = 80
WIDTH = 78  # of prose, where there is room
MARGIN = 11  # of the headings beside it
LONG_JSON = 100_000  # characters
LONG_TABLE = 300  # rows
PROSE = 24  # cells longer than this are prose, and fold first where a table is too wide


@frozen
class Output:
    """How a command speaks: `json` turns its result into one object, `quiet` silences its talk."""

    json: bool = False
    quiet: bool = False

    def result(self, value: Mapping[str, Any], human: Callable[[], Any] | Any) -> None:
        """Prints the answer on stdout: `value` where JSON was asked for, else `human`.

        `human` is text, something that rich can draw, a sequence of these, or a function that gives one
        (so that nothing is drawn, and rich not imported, for JSON). Infinities and nan become null.
        """
        shown = json_text(value) if self.json else human() if callable(human) else human
        with reader_may_leave(sys.stdout):
            _show(shown)

    def talk(self, text: str) -> None:
        """Says something on the way, on stderr: never part of the result."""
        if not self.quiet:
            _say(text)

    def warn(self, text: str) -> None:
        """Says what the reader must not miss, on stderr, `--quiet` or not."""
        _say(f"warning: {text}")

    def warn_each(self, texts: Iterable[str]) -> None:
        """Warns of each."""
        for text in texts:
            self.warn(text)


def current_output() -> Output:
    """The output of the running command, by its `--json` and `--quiet`; plain talk outside a command."""
    context = click.get_current_context(silent=True)
    found: dict[str, Any] = {}
    while context is not None:
        found = {**context.params, **found}
        context = context.parent
    return Output(json=bool(found.get("as_json")), quiet=bool(found.get("quiet")))


def json_text(value: Mapping[str, Any]) -> str:
    """The JSON object that a command prints: `schema` first, infinities and nan as null.

    Indented where it is short enough for a reader: Python's encoder is ten times slower that way.
    """
    from llama_scale.canonical import plain

    whole = {"schema": SCHEMA, **value}
    try:
        text = json.dumps(whole, default=plain, allow_nan=False, ensure_ascii=False)
    except ValueError:
        whole = _finite(plain(whole))
        text = json.dumps(whole, allow_nan=False, ensure_ascii=False)
    if len(text) > LONG_JSON:
        return text
    return json.dumps(whole, default=plain, indent=2, allow_nan=False, ensure_ascii=False)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as lines of CSV under their names: numbers in base units, nothing for None."""
    import csv
    import io

    page = io.StringIO()
    writer = csv.DictWriter(page, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return page.getvalue().rstrip("\n")


def print_error(error: LlamaScaleError, *, as_json: bool) -> None:
    """What went wrong and how to fix it, on stderr; in JSON mode on stdout too, for programs."""
    with suppress(OSError):  # stderr, or stdout below, may be what failed
        _say(f"error: {error.message}\nhint: {error.hint}")
    if as_json:
        told = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        with suppress(OSError):
            click.echo(json_text({**told, **error.details}))


def _say(text: str) -> None:
    with reader_may_leave(sys.stderr):
        click.echo(text, err=True)


@contextmanager
def reader_may_leave(stream: TextIO) -> Iterator[None]:
    """Writes to a stream whose reader may go away, which is no failure: the rest goes nowhere.

    So do `| head` and a terminal that is closed.
    """
    try:
        yield
    except OSError as error:
        if not (isinstance(error, BrokenPipeError) or _is_closed_terminal(error, stream)):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_closed_terminal(error: OSError, stream: TextIO) -> bool:
    """Whether it was one that failed: isatty says no by then. The same error of a file is the disk's."""
    return error.errno == errno.EIO and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)


def table(
    rows: Sequence[Sequence[object]], columns: Sequence[str], *, marked: int | None = None
) -> RenderableType:
    """A table without lines: columns of numbers align right, the `marked` row is bold after a `>`.

    One that is too wide goes on below itself, the names of its rows told again. A long one is plain text,
    unfolded: rich would take seconds over 10,000 rows.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if marked is not None:
        columns = ["", *columns]
        cells = [[">" if index == marked else "", *row] for index, row in enumerate(cells)]
    by_column = list(zip(columns, *cells, strict=True))
    widths = [max(map(len, column)) for column in by_column]
    if len(cells) > LONG_TABLE:
        return _lines([columns, *cells], widths, _layout(widths)[0])
    parts = [_drawn([by_column[place] for place in part], marked) for part in _beside(columns, widths)]
    if len(parts) == 1:
        return parts[0]
    from rich.console import Group

    return Group(*[line for part in parts for line in ("", part)][1:])


def _drawn(by_column: Sequence[Sequence[str]], marked: int | None) -> Table:
    """Columns, each a name and its cells, side by side."""
    from rich.table import Table

    widths = [max(map(len, column)) for column in by_column]
    gap, fits = _layout(widths)
    drawn = Table(box=None, padding=(0, gap, 0, 0), header_style="bold")
    for (name, *column), breadth in zip(by_column, widths, strict=True):
        right = bool(name and column) and all(map(_looks_numeric, column))
        no_wrap = fits and breadth <= PROSE
        drawn.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=no_wrap)
    for index, row in enumerate(zip(*(cells for _, *cells in by_column), strict=True)):
        drawn.add_row(*row, style="bold" if index == marked else None)
    return drawn


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int], gap: int) -> str:
    """Rows as aligned text."""
    space = " " * gap
    right = [all(map(_looks_numeric, column)) for column in zip(*rows[1:], strict=True)]
    return "\n".join(
        space.join(
            cell.rjust(breadth) if numeric else cell.ljust(breadth)
            for cell, breadth, numeric in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def _beside(names: Sequence[str], widths: Sequence[int]) -> list[list[int]]:
    """Which columns stand side by side: all, or as many at a time as fit after those that name the rows.

    These are the first column with a name and the marks before it. Any other without a name stays with the
    one before it.
    """
    lead = 1 + next((place for place, name in enumerate(names) if name), 0)
    groups: list[list[int]] = []
    for place in range(lead, len(names)):
        if names[place] or not groups:
            groups.append([])
        groups[-1].append(place)
    parts: list[list[int]] = []
    for group in groups:
        if not parts or not _layout([widths[place] for place in (*parts[-1], *group)])[1]:
            parts.append([*range(lead)])
        parts[-1] += group
    return parts or [[*range(lead)]]


def _layout(widths: Sequence[int]) -> tuple[int, bool]:
    """Spaces between columns, and whether all fit, prose folded."""
    needed = sum(min(breadth, PROSE) for breadth in widths)
    gap = 2 if needed + 2 * len(widths) <= width() else 1
    return gap, needed + gap * len(widths) <= width()


def wrapped(text: str, indent: int = 0) -> str:
    """Text in lines that are easy to read and fit, all of them indented alike."""
    from textwrap import fill

    margin = " " * indent
    return fill(
        text,
        min(WIDTH, width()),
        initial_indent=margin,
        subsequent_indent=margin,
        break_on_hyphens=False,
        break_long_words=False,
    )


def entry(heading: str, text: str, indent: int = MARGIN) -> str:
    """Text under a heading that stands in the margin."""
    whole = "\n".join(wrapped(line, indent) for line in text.split("\n"))
    if len(heading) < indent:
        return heading.ljust(indent) + whole[indent:]
    return f"{heading}\n{whole}"


def console(*, stderr: bool = False) -> Console:
    """A rich console that is plain text, 80 columns wide, wherever nobody looks at a terminal.

    NO_COLOR and TERM=dumb switch every escape sequence off, bold included. On stderr views live on, so the
    width is the terminal's, however it is resized.
    """
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    plain = not file.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Console(
        file=file,
        width=None if stderr and not plain else width(),
        force_terminal=False if plain else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def width() -> int:
    """Columns to write in: the terminal's or COLUMNS, 80 where there is neither."""
    from shutil import get_terminal_size  # here: it imports every compression, which JSON does without

    return max(40, get_terminal_size((NARROWEST, 24)).columns)


def _show(human: Any) -> None:
    if human is None:
        return
    if isinstance(human, str):
        click.echo(human)
    elif isinstance(human, Sequence):
        for part in human:
            _show(part)
    else:
        _draw(human)


def _draw(renderable: RenderableType) -> None:
    """Draws into lines first: rich pads them with spaces, which a file or a diff should not have."""
    screen = console()
    if screen.is_terminal:
        screen.print(renderable)
        return
    with screen.capture() as capture:
        screen.print(renderable)
    click.echo("\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n")))


def _looks_numeric(cell: str) -> bool:
    bare = cell.strip().lstrip("~<>≈±$+-−x×(")
    return not bare or bare[0].isdigit() or bare in ("nan", "inf", "–", "—")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
