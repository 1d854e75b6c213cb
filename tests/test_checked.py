"""All that is amiss with a value is told at once, and nothing that is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llama_scale.checked import Checked, raise_all
from llama_scale.config import structure
from llama_scale.errors import InputError
from llama_scale.frozen import frozen


@frozen
class Outing(Checked):
    """Checks of one field, then of two."""

    people: int
    seats: int = 2
    rain: bool = False
    days: tuple[int, ...] = ()

    def problems(self) -> Iterator[InputError]:
        if self.seats < 1:
            yield InputError("no seats", hint="hire a bus")
        if self.people > self.seats:
            yield InputError("too few seats", hint="hire a bus")
        if not self.days:
            yield InputError("no days", hint="add days = [1]")


def told(table: dict[str, Any]) -> str:
    with pytest.raises(InputError) as refusal:
        structure(table, Outing, source="x")
    return refusal.value.message


def test_a_value_tells_all_its_problems() -> None:
    assert all(text in told({"people": 3, "seats": 0}) for text in ("no seats", "too few seats", "no days"))
    assert structure({"people": 1, "days": [1]}, Outing, source="x") == Outing(people=1, days=(1,))


@pytest.mark.parametrize(("table", "expected", "guessed"), [
    ({"people": 1, "seats": 0, "rain": "no"}, ["rain", "no seats", "too few seats", "no days"], []),
    ({"people": "x", "seats": 0}, ["people", "no seats"], ["too few"]),
    ({"seats": 0}, ["people is missing", "no seats"], ["too few"]),
    ({"people": 1, "seats": 0, "day": [1]}, ["day is not a known key", "no seats"], ["no days"]),
    ({"people": 1, "days": ["a"]}, ["days"], ["no days"]),
])  # fmt: skip
def test_what_cannot_be_read_hides_no_other_problem_and_makes_none(
    table: dict[str, Any], expected: list[str], guessed: list[str]
) -> None:
    message = told(table)
    assert all(text in message for text in expected), message
    assert not any(text in message for text in guessed), message


def test_several_errors_of_one_value_are_told_beside_those_of_others() -> None:
    def several() -> None:
        raise_all([InputError("a", hint="b"), InputError("c", hint="d")])

    with pytest.raises(InputError, match=r"2 problems\n  a \(b\)\n  c \(d\)"):
        several()
    with pytest.raises(InputError, match=r"^a$"):
        raise_all([InputError("a", hint="b")])
    raise_all([])
