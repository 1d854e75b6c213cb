"""TOML and JSON to frozen dataclasses: every error at once, overrides, did-you-mean."""

from __future__ import annotations

import copy
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llama_scale import quantities
from llama_scale.canonical import shown
from llama_scale.checked import Checked, SeveralErrors, known_word, problems_of_rest
from llama_scale.errors import InputError, LlamaScaleError
from llama_scale.files import reason_of
from llama_scale.frozen import frozen

if TYPE_CHECKING:
    from cattrs import Converter
    from cattrs.errors import ClassValidationError

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]  # of a raw value and the type expected
MOST_RECALLED = 1_000  # tables of each type

_PARSERS: dict[str, Callable[[str], float]] = {
    "flops": quantities.parse_flops,
    "usd_per_hour": quantities.parse_usd_per_hour,
    "gpu_hours": quantities.parse_gpu_hours,
    "usd": quantities.parse_usd,
    "bytes": quantities.parse_bytes,
    "seconds": quantities.parse_seconds,
    "fraction": quantities.parse_fraction,
    "tokens": quantities.parse_count,
    "parameters": quantities.parse_count,
}


def load_toml(
    path: Path,
    type_: type[T],
    *,
    overrides: Iterable[str] = (),
    read: Callable[[Path], dict[str, Any]] | None = None,
) -> T:
    """The value of `type_` that a TOML file describes, with `a.b=c` overrides applied first.

    `read` gives the file's tables where more than `read_toml` is wanted. Raises InputError that names every
    problem of the file at once: key path, value, nearest key.
    """
    changes = tuple(overrides)
    source = f"{path} with {' '.join(f'--set {change}' for change in changes)}" if changes else str(path)
    return structure(apply_overrides((read or read_toml)(path), changes), type_, source=source)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises InputError where it is missing, unreadable or malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark in front
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}", hint=_other_files(path)) from error
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {reason_of(error)}", hint="give the path of a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", hint="save it as UTF-8, which TOML asks for") from error
    except (ValueError, RecursionError) as error:  # too deep, or numbers too long, are no TOMLDecodeError
        raise InputError(f"{path} is not TOML: {error}", hint="correct that line") from error


def structure(tables: Mapping[str, Any], type_: type[T], *, source: str) -> T:
    """The value of `type_` with the fields in `tables`; `source` is where they came from, for errors.

    Numbers may be text, read by the unit that ends the field's name (`_bytes`, `_seconds`, `_flops`, ...)
    or else as a count, so that "7B" means the same here as on the command line.
    """
    with suppress(Exception):  # what is right is read twice as fast without noting where it stands
        return _converter(detailed=False).structure(tables, type_)
    try:
        return _converter(detailed=True).structure(tables, type_)
    except Exception as error:
        problems = list(_problems(error, _Place(keys=(), value=tables, type=type_)))
        if not problems:
            raise
        if len(problems) > 1:
            raise SeveralErrors(problems, source) from error
        only = problems[0]
        raise InputError(f"{source}: {only.message}", hint=only.hint or "correct that value") from error


def apply_overrides(tables: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `tables` with each `a.b=c` put at its key path; values are TOML, or else bare text.

    >>> apply_overrides({"model": {"layers": 2}}, ["model.layers=4", "corpus.path=text"])
    {'model': {'layers': 4}, 'corpus': {'path': 'text'}}
    """
    changed = copy.deepcopy(dict(tables))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys):
            raise InputError(f"--set {override!r} has no KEY=VALUE", hint="write it like --set seed=1")
        _put(changed, keys, _toml_value(text.strip()), override)
    return changed


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The name in `known` that `word` was most likely meant to be, if there is one like it."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in get_close_matches(word.lower(), by_lower, n=1)]


def _other_files(path: Path) -> str:
    others = sorted(other.name for other in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    close = nearest(path.name, others)
    if close:
        return f"did you mean {path.with_name(close[0])}?"
    return f"{path.parent} has {', '.join(others)}" if others else "check the path for typing errors"


def _toml_value(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def _put(tables: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    """Sets one value in place, making the tables on the way and counting into lists."""
    here: Any = tables
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        where: Any = key
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise InputError(
                    f"--set {override!r}: {'.'.join(keys[:depth])} is a list without an item {key!r}",
                    hint=f"count its items from 0 to {len(here) - 1}",
                )
            where = int(key)
        elif not isinstance(here, dict):
            raise InputError(
                f"--set {override!r}: {'.'.join(keys[:depth])} is {shown(here)}, not a table",
                hint="shorten the key path",
            )
        if last:
            here[where] = value
        else:
            here = here.setdefault(where, {}) if isinstance(here, dict) else here[where]


# From tables to dataclasses, strictly: cattrs alone would turn "3" and 3.7 into 3.


@cache
def _converter(*, detailed: bool) -> Converter:
    """Reads strictly; `detailed` notes on every error where it arose."""
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, detailed_validation=detailed)
    for kind in (int, float):
        converter.register_structure_hook(
            kind, lambda value, type_: _number(value, type_, quantities.parse_number)
        )
    for kind, words in ((str, "text in quotes"), (bool, "true or false")):
        converter.register_structure_hook(kind, _exactly(kind, words))
    converter.register_structure_hook(
        Path, lambda value, _: Path(_exactly(str, "a path in quotes")(value, str))
    )
    converter.register_structure_hook_func(lambda type_: get_origin(type_) is Literal, _word)
    converter.register_structure_hook_factory(
        _is_dataclass_type, lambda type_: _dataclass_hook(converter, type_)
    )
    return converter


def _is_dataclass_type(type_: Any) -> bool:
    return isinstance(type_, type) and is_dataclass(type_)


def _dataclass_hook(converter: Converter, type_: type) -> _Hook:
    from cattrs.errors import ClassValidationError
    from cattrs.gen import make_dict_structure_fn, override

    hints = get_type_hints(type_)
    hooks = {f.name: _field_hook(converter, f.name, hints[f.name]) for f in fields(type_)}
    overrides: dict[str, Any] = {
        name: override(struct_hook=hook) for name, hook in hooks.items() if hook is not None
    }
    read = make_dict_structure_fn(
        type_,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=converter.detailed_validation,
        **overrides,
    )

    def read_table(value: Any, expected: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("expected a table")
        try:
            return read(value, expected)
        except ClassValidationError as error:
            if _was_made(error) or not issubclass(type_, Checked):
                raise
            unread = _unread(error, hints)
            right = {name: value[name] for name in hints if name in value and name not in unread}
            rest = {name: (hooks[name] or converter.structure)(right[name], hints[name]) for name in right}
            raise error.derive([*error.exceptions, *problems_of_rest(type_, rest, unread)]) from None

    holds_tables = any(_is_dataclass_type(_type_but_none(hint) or hint) for hint in hints.values())
    return read_table if holds_tables else _recalling(read_table)


def _was_made(error: ClassValidationError) -> bool:
    """Whether all of a table could be read, so that the value's own checks have spoken."""
    return all(isinstance(inner, InputError) and not _fields_of(inner) for inner in error.exceptions)


def _fields_of(error: BaseException) -> set[str]:
    """The fields that cattrs noted on an error."""
    return {note.name for note in getattr(error, "__notes__", ()) if hasattr(note, "name")}


def _unread(error: ClassValidationError, known: Iterable[str]) -> set[str]:
    """The fields that could not be read, or that a key which nothing is called may have been meant for."""
    from cattrs.errors import ForbiddenExtraKeysError

    found: set[str] = set()
    for inner in error.exceptions:
        found |= _fields_of(inner)
        if isinstance(inner, ForbiddenExtraKeysError):
            found.update(name for key in inner.extra_fields for name in nearest(key, known))
    return found


def _recalling(read: _Hook) -> _Hook:
    """`read` with a memory of tables of plain values: most runs of a store share most of theirs.

    To list 10,000 of them takes two thirds of the time so. Values are frozen, so that they can be shared.
    """
    known: dict[Any, Any] = {}

    def recall(value: Any, expected: Any) -> Any:
        try:
            key = (tuple(value.items()), tuple(map(type, value.values())))
            found = known.get(key)
        except (AttributeError, TypeError):  # no table, or one that holds others
            return read(value, expected)
        if found is None:
            found = read(value, expected)
            if len(known) < MOST_RECALLED:
                known[key] = found
        return found

    return recall


def _field_hook(converter: Converter, name: str, type_: Any) -> _Hook | None:
    """How one field is read where the type alone does not say it: numbers have units, text is no list."""
    if (wanted := _type_but_none(type_)) is not None:
        inner = _field_hook(converter, name, wanted)
        return inner and (lambda value, expected: None if value is None else inner(value, expected))
    if (kinds := _tables_by_kind(type_)) is not None:
        return _kind_hook(converter, name, type_, kinds)
    parse = next((_PARSERS[unit] for unit in _PARSERS if name.endswith(unit)), quantities.parse_number)
    if type_ in (int, float):
        return lambda value, _: _number(value, type_, parse)
    return _list_hook(converter, type_, parse) if get_origin(type_) in (tuple, list) else None


def _list_hook(converter: Converter, type_: Any, parse: Callable[[str], float]) -> _Hook:
    arguments = get_args(type_)
    number = next((arg for arg in arguments if arg in (int, float)), None)
    counted = len(arguments) if get_origin(type_) is tuple and Ellipsis not in arguments else None

    def read_list(value: Any, _: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list")
        if counted is not None and len(value) != counted:
            raise ValueError(f"expected a list of {counted}")
        items = value if number is None else [_number(item, number, parse) for item in value]
        return converter.structure(items, type_)

    return read_list


@cache
def _tables_by_kind(type_: Any) -> dict[str, type] | None:
    """The dataclasses of a union by the one word that `kind` may be in each; None for other types."""
    choices = _choices(type_)
    if len(choices) < 2 or not all(_is_dataclass_type(choice) for choice in choices):
        return None
    return {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}


def kind_of(table: Mapping[str, Any], type_: Any) -> Any:
    """Which of a union of dataclasses a table is: the word of its `kind`, even where it is that of none.

    Without one, of those that know the most of its keys the first with the fewest problems.
    """
    kinds = _tables_by_kind(type_) or {}
    if "kind" in table:
        return known_word(table["kind"], kinds)
    known = {kind: len({field.name for field in fields(kinds[kind])} & table.keys()) for kind in kinds}
    likely = [kind for kind in kinds if known[kind] == max(known.values())]
    return min(likely, key=lambda kind: len(_problems_as(table, kinds[kind])))


def _problems_as(table: Mapping[str, Any], type_: type) -> list[InputError]:
    try:
        _converter(detailed=True).structure(table, type_)
    except Exception as error:
        return list(_problems(error, _Place(keys=(), value=table, type=type_)))
    return []


def _kind_hook(converter: Converter, name: str, type_: Any, kinds: Mapping[str, type]) -> _Hook:
    """Reads a table as what its `kind_of` says."""

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("expected a table")
        kind = kind_of(value, type_)
        if not isinstance(kind, str) or kind not in kinds:
            close = nearest(str(kind), kinds)
            raise InputError(
                f"{name}.kind is {shown(kind)}, not one of {', '.join(kinds)}",
                hint=f"did you mean {close[0]!r}?" if close else f"use {' or '.join(kinds)}",
            )
        return converter.structure(value, kinds[kind])

    return read


def _type_but_none(type_: Any) -> Any | None:
    """X of `X | None`; None for every other type."""
    wanted = [choice for choice in _choices(type_) if choice is not type(None)]
    return wanted[0] if len(wanted) == 1 else None


def _choices(union: Any) -> tuple[Any, ...]:
    """The types that a union may be; none for every other type."""
    return get_args(union) if get_origin(union) in (Union, UnionType) else ()


def _number(value: Any, type_: type, parse: Callable[[str], float]) -> int | float:
    number = parse(value) if isinstance(value, str) else value
    wanted = "a whole number" if type_ is int else "a number"
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        if not abs(number) <= sys.float_info.max:  # no float can hold an integer of 400 digits
            raise ValueError(f"expected {wanted} that is finite")
        if type_ is float or number == int(number):
            return type_(number)
    raise ValueError(f"expected {wanted}")


def _word(value: Any, type_: Any) -> str:
    """One of the words of a Literal, in capitals or not."""
    words = get_args(type_)
    if (word := known_word(value, words)) not in words:
        raise ValueError(f"expected one of {', '.join(words)}")
    return word


def _exactly(type_: type, words: str) -> _Hook:
    def check(value: Any, _: Any) -> Any:
        if type(value) is not type_:
            raise ValueError(f"expected {words}")
        return value

    return check


# From the errors of cattrs, a tree, to one line a problem.


@frozen
class _Place:
    """Where in a document an error was raised: the keys that lead there, what stands there, what should."""

    keys: tuple[str, ...]
    value: Any
    type: Any

    def child(self, key: str | int, type_: Any) -> _Place:
        try:
            value = self.value[key]
        except (KeyError, IndexError, TypeError):
            value = None
        return _Place(keys=(*self.keys, str(key)), value=value, type=type_)

    def of(self, error: BaseException) -> _Place:
        """The attribute or index of this place that cattrs was at."""
        place = self
        for note in getattr(error, "__notes__", ()):
            if hasattr(note, "type"):
                place = place.child(note.name if hasattr(note, "name") else note.index, note.type)
        return place


def _problems(error: BaseException, place: _Place) -> Iterator[InputError]:
    """What was wrong, key by key; the hint is empty where the message says it all."""
    from cattrs.errors import ForbiddenExtraKeysError

    place = place.of(error)
    name = ".".join(place.keys) or "the file"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _problems(inner, place)
    elif isinstance(error, SeveralErrors):
        yield from error.errors
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [f.name for f in fields(error.cl)]
        for key in sorted(error.extra_fields):
            yield unknown_key(".".join((*place.keys, key)), key, known)
    elif isinstance(error, KeyError) and place.keys and error.args == (place.keys[-1],):
        yield InputError(f"{name} is missing", hint=f"add {place.keys[-1]} = ...")
    elif isinstance(error, LlamaScaleError):
        given = f"{name} = {shown(place.value)}: " if not isinstance(place.value, Mapping) else ""
        yield InputError(given + error.message, hint=error.hint)
    else:
        what, hint = _explained(error, place)
        yield InputError(f"{name} = {shown(place.value)}: {what}", hint=hint)


def unknown_key(path: str, key: str, known: Sequence[str]) -> InputError:
    """The error for a key that nothing reads: `path` says where it stands, the hint which was meant."""
    close = nearest(key, known)
    hint = f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(known)}"
    return InputError(f"{path} is not a known key", hint=hint)


def _explained(error: BaseException, place: _Place) -> tuple[str, str]:
    types = (place.type, *get_args(place.type))
    choices = [str(choice) for type_ in types if get_origin(type_) is Literal for choice in get_args(type_)]
    if not choices and not isinstance(error, (ValueError, TypeError)):
        raise error  # a bug of ours, not of the file
    if not choices:
        return str(error), ""
    close = nearest(str(place.value), choices)
    return f"expected one of {', '.join(choices)}", f"did you mean {close[0]!r}?" if close else ""
