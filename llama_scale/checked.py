"""Values that say all that is amiss with them at once, even where a part of them could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from llama_scale.errors import InputError

T = TypeVar("T")


class Checked:
    """A value that is checked when it is made: its `problems` are raised together."""

    __slots__ = ()

    def __post_init__(self) -> None:
        raise_all(self.problems())

    def problems(self) -> Iterator[InputError]:
        """What is amiss, in the order of reading; a check that cannot be made for want of a field ends it."""
        yield from ()


class SeveralErrors(InputError):
    """Several things that are wrong with one input, told together; `source` is where they stand."""

    def __init__(self, errors: Iterable[InputError], source: str = "") -> None:
        self.errors = tuple(errors)
        told = f"{source} has {len(self.errors)} problems" if source else f"{len(self.errors)} problems"
        lines = (f"  {error.message}" + (f" ({error.hint})" if error.hint else "") for error in self.errors)
        super().__init__("\n".join([told, *lines]), hint="correct them all, then run the same command again")


def raise_all(errors: Iterable[InputError]) -> None:
    """Raises what was found amiss: nothing, the one error, or one that tells them all, each once."""
    found = list({(error.message, error.hint): error for error in errors}.values())
    if len(found) == 1:
        raise found[0]
    if found:
        raise SeveralErrors(found)


def all_of(makers: Iterable[Callable[[], T]]) -> list[T]:
    """What each maker makes; raises InputError with all that failed."""
    made, errors = [], []
    for make in makers:
        try:
            made.append(make())
        except InputError as error:
            errors += problems_in(error)
    raise_all(errors)
    return made


def problems_in(error: InputError) -> tuple[InputError, ...]:
    """The problems that an error tells: itself, or the several that it holds."""
    return error.errors if isinstance(error, SeveralErrors) else (error,)


def problems_of_rest(
    type_: type[Checked], read: Mapping[str, Any], unread: Iterable[str]
) -> list[InputError]:
    """What is amiss with the fields in `read`, and with defaults, where those in `unread` are not known.

    No check guesses at these: the first that needs one of them is the last.
    """
    part = object.__new__(type_)
    for one in fields(type_):  # pyright: ignore[reportArgumentType]
        if one.name in read:
            object.__setattr__(part, one.name, read[one.name])
        elif one.name not in unread and one.default is not MISSING:
            object.__setattr__(part, one.name, one.default)
        elif one.name not in unread and one.default_factory is not MISSING:
            object.__setattr__(part, one.name, one.default_factory())
    found = []
    with suppress(AttributeError):
        found.extend(part.problems())
    return found


def known_word(given: Any, words: Iterable[str]) -> Any:
    """The one of a few words that is given, in capitals or not: `6ND` is 6nd. What is none of them stays.

    The command line's own choices (`cli.options.one_of`) and those of TOML (`config`) are read alike.
    """
    if not isinstance(given, str):
        return given
    return next((word for word in words if word.casefold() == given.casefold()), given)
