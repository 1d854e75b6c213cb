"""Reads words one by one, each with its limits: what cannot be meant is refused, with a way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from llama_scale.checked import known_word
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.quantities import (
    CountRange,
    format_count,
    format_seconds,
    parse_count,
    parse_count_range,
    parse_fraction,
    parse_rate,
    parse_seconds,
    parse_usd_per_hour,
)

Parsed = TypeVar("Parsed")

LARGEST_LOSS = 25.0  # nats: a uniform guess among 7e10 words


@frozen(kw_only=False)
class Words:
    """The given words, read one by one with their limits; a word that is not given has its default."""

    given: Mapping[str, Any]

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A count between `low` and `high`."""
        found = self.optional_number(name, low=low, high=high)
        return default if found is None else found

    def optional_number(self, name: str, *, low: float, high: float) -> float | None:
        """A count between `low` and `high`, or None."""
        if name not in self.given:
            return None
        given = self.given[name]
        value = self._read(name, parse_count) if isinstance(given, str) else float(given)
        if not low <= value <= high:
            raise InputError(
                f"{option(name)} {format_count(value)} is out of all proportion",
                hint=f"give a number from {format_count(low)} to {format_count(high)}",
            )
        return value

    def whole(self, name: str, *, low: int, high: int) -> int | None:
        """A whole number between `low` and `high`, or None."""
        value = self.optional_number(name, low=low, high=high)
        if value is not None and value != int(value):
            raise InputError(f"{option(name)} {value:g} is not whole", hint=f"write {round(value) or 1}")
        return None if value is None else int(value)

    def count_range(self, name: str, *, high: float) -> CountRange | None:
        """A count, a range of counts, or either of a month, up to `high`."""
        if name not in self.given:
            return None
        found = self._read(name, parse_count_range)
        if found.high > high:
            raise InputError(
                f"{option(name)} {format_count(found.high)} is out of all proportion",
                hint=f"give at most {format_count(high)}, such as {option(name)} 1e12",
            )
        return found

    def loss(self, name: str) -> float | None:
        """A loss in nats per token."""
        if name not in self.given:
            return None
        hint = "give nats per token, such as --target-loss 1.95"
        value = self._float(name, hint)
        if not 0 < value <= LARGEST_LOSS:
            raise InputError(f"{option(name)} {value:g} is no loss of a language model", hint=hint)
        return value

    def _read(self, name: str, parse: Callable[[Any], Parsed]) -> Parsed:
        """What a word says; the error of one that says nothing of the kind names its option."""
        try:
            return parse(self.given[name])
        except InputError as error:
            raise InputError(f"{option(name)}: {error.message}", hint=error.hint) from error

    def _float(self, name: str, hint: str) -> float:
        try:
            return float(self.given[name])
        except ValueError as error:
            raise InputError(f"{option(name)} '{self.given[name]}' is no number", hint=hint) from error

    def fraction(self, name: str, default: float, *, low: float = 0.0, high: float = 1.0) -> float:
        """A share above 0, unless `low` is below it, and at most `high`."""
        value = self._read(name, parse_fraction) if name in self.given else default
        if not (low < value <= high):
            raise InputError(
                f"{option(name)} {self.given[name]} is not between {max(low, 0):g} and {high:g}",
                hint=f"write a fraction such as {default:g}, or a percentage such as {default:.0%}",
            )
        return value

    def rate(self, name: str, *, months: int, low: float, high: float) -> float:
        """A rate of change that compounds over so many months; 0 where it is not given."""
        if name not in self.given:
            return 0.0
        value = self._read(name, partial(parse_rate, months=months))
        if not low <= value <= high:
            each = "a month" if months == 1 else "a year"
            raise InputError(
                f"{option(name)} {self.given[name]} is out of all proportion",
                hint=f"give {low:.0%} to {high:.0%} {each}",
            )
        return value

    def seconds(self, name: str, *, low: float, high: float, example: str) -> float | None:
        """A duration between `low` and `high`, or None."""
        if name not in self.given:
            return None
        value = self._read(name, parse_seconds)
        if not low <= value <= high:
            raise InputError(
                f"{option(name)} {format_seconds(value)} is out of all proportion",
                hint=f"give {format_seconds(low)} to {format_seconds(high)}, such as {example}",
            )
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """One of a few words, in capitals or not."""
        value = str(known_word(str(self.given.get(name, default)), choices))
        if value not in choices:
            hint = f"choose from {', '.join(choices)}"
            raise InputError(f"{option(name)} '{value}' is unknown", hint=hint)
        return value

    def price(self, name: str) -> float | None:
        """Dollars an hour, above 0."""
        if name not in self.given:
            return None
        value = self._read(name, parse_usd_per_hour)
        if not 0 < value <= 1e4:
            raise InputError(
                f"{option(name)} {self.given[name]} is no price for an hour of one accelerator",
                hint="write it like $2.50/h",
            )
        return value

    def read_and_written(self, name: str, default: tuple[float, float]) -> tuple[float, float]:
        """Shares of tokens read and of tokens written, given as `0.5/0.2`; one number holds for both."""
        named = self.given.get(name, default)
        parts = named if isinstance(named, tuple | list) else (named,)
        if isinstance(named, str):
            parts = named.split("/")
        if len(parts) not in (1, 2):
            raise InputError(
                f"{option(name)} {named} has {len(parts)} parts",
                hint="write it as read/written, such as 0.55/0.20, or one number for both",
            )
        read, written = (Words({name: part}).fraction(name, 0.5) for part in (parts[0], parts[-1]))
        return read, written

    def refuse_together(self, *names: str, why: str) -> None:
        """Raises InputError where more than one of the words is given."""
        found = [option(name) for name in names if name in self.given]
        if len(found) > 1:
            raise InputError(f"{' and '.join(found)} are {why}", hint="give one of them")


def option(name: str) -> str:
    """A word as its option is written."""
    return "--" + name.replace("_", "-")
