"""HTML from plain values: everything that came from outside is escaped here, and nowhere else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

PLACE = re.compile(r"\{\{(\w+)\}\}")


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put into a page."""


class Column(NamedTuple):
    """The head of a column of a table: numbers stand to the right, sources in soft ink."""

    name: str
    kind: str = ""


def text(value: object) -> Markup:
    """A value as HTML: what is not Markup is escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def tag(name: str, *children: object, **attributes: str) -> Markup:
    """One element around its children; `class_` is written class."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{''.join(map(text, children))}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one after the other."""
    return Markup("".join(map(text, parts)))


def paragraph(words: object, kind: str = "") -> Markup:
    """A paragraph."""
    return tag("p", words, class_=kind) if kind else tag("p", words)


def described(rows: Iterable[tuple[object, object]]) -> Markup:
    """Headings with what they say beside them."""
    return tag("dl", *(joined((tag("dt", name), tag("dd", what))) for name, what in rows))


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[object]], *, chosen: int | None = None
) -> Markup:
    """A table that scrolls by itself where it is too wide; its first column names the rows."""
    head = tag("tr", *(_cell("th", column.name, column, scope="col") for column in columns))
    body = [
        tag("tr", *(_row(row, columns)), **({"class_": "chosen"} if index == chosen else {}))
        for index, row in enumerate(rows)
    ]
    whole = tag("table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _row(row: Sequence[object], columns: Sequence[Column]) -> list[Markup]:
    first, *others = zip(row, columns, strict=True)
    return [_cell("th", *first, scope="row"), *(_cell("td", value, column) for value, column in others)]


def _cell(name: str, value: object, column: Column, **attributes: str) -> Markup:
    kind = {"class_": column.kind} if column.kind else {}
    return tag(name, value, **kind, **attributes)


def as_data(value: Any) -> Markup:
    """A value as JSON that may stand inside a script element, whatever its texts hold.

    Raises ValueError for infinities and nan, which JSON lacks.
    """
    whole = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        whole = whole.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(whole)


def filled(template: str, parts: Mapping[str, object]) -> str:
    """A template with each `{{name}}` replaced once; what is put in is not looked at again."""
    return PLACE.sub(lambda found: text(parts[found[1]]), template)
