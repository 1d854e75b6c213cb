"""Values as plain JSON: its one text and hash, and where two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_ADDED = "added"  # in a field's metadata
LONGEST_SHOWN = 40  # characters of a value in an error


def plain(value: Any) -> Any:
    """`value` as the dicts, lists, text and numbers that JSON has; frozen dataclasses by their fields."""
    if value is None or type(value) in (str, int, float, bool):  # most of what there is
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, Path):
        return str(value)
    to_list = getattr(value, "tolist", None)  # numpy's scalars and arrays, without importing numpy
    return value if to_list is None else to_list()


def added(before: T) -> T:
    """The default of a dataclass field that was not there from the start: what was done before it was.

    While a field has this value its `canonical_json` leaves it out, so that what was written without it
    keeps its hash and its meaning. The value therefore never changes; another default needs another field.
    """
    return field(default=before, metadata={_ADDED: True})


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, shortest floats, ASCII, no unset `added` field.

    Raises ValueError for infinities and nan, which JSON lacks.
    """
    return _CANONICAL.encode(value)


def canonical_hash(value: Any) -> str:
    """The first 16 hexadecimal digits of the sha256 of `canonical_json(value)`."""
    from hashlib import sha256  # here: it loads OpenSSL, which a plan does without

    return sha256(canonical_json(value).encode("ascii")).hexdigest()[:16]


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted paths at which two documents differ, with both values, None where one has nothing.

    Items of lists count from 0.
    """
    before, after = plain(before), plain(after)
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield path, before, after


def shown(value: Any) -> str:
    """A value as an error shows it, cut to 40 characters."""
    try:
        text = json.dumps(plain(value), default=str)
    except (RecursionError, ValueError):  # nested too deep, or of more digits than Python writes
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _canonical(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        named = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: item for f, item in named if not (_ADDED in f.metadata and item == f.default)}
    return plain(value)


_CANONICAL = json.JSONEncoder(default=_canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
