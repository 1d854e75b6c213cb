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


def told(table: dict[str, Any]) -> list[str]:
    """What is said of a table, a line a problem, without their hints."""
    with pytest.raises(InputError) as refusal:
        structure(table, Outing, source="x")
    head, *lines = refusal.value.message.split("\n")
    assert not lines or head == f"x has {len(lines)} problems"
    return [line.strip().partition(" (")[0] for line in lines] or [head]


def test_a_value_tells_all_its_problems_once() -> None:
    assert told({"people": 3, "seats": 0}) == ["no seats", "too few seats", "no days"]
    assert structure({"people": 1, "days": [1]}, Outing, source="x") == Outing(people=1, days=(1,))


def test_one_problem_is_told_with_its_own_hint() -> None:
    with pytest.raises(InputError) as refusal:
        structure({"people": 1}, Outing, source="x")
    assert (refusal.value.message, refusal.value.hint) == ("x: no days", "add days = [1]")


@pytest.mark.parametrize(("table", "expected"), [
    (
        {"people": 1, "seats": 0, "rain": "no"},
        ['rain = "no": expected true or false', "no seats", "too few seats", "no days"],
    ),
    ({"people": None, "seats": 0}, ["people = null: expected a whole number", "no seats"]),
    ({"seats": 0}, ["people is missing", "no seats"]),
    ({"people": 1, "seats": 0, "day": [1]}, ["day is not a known key", "no seats", "too few seats"]),
    ({"people": 1, "days": 2}, ["x: days = 2: expected a list"]),
])  # fmt: skip
def test_what_cannot_be_read_hides_no_other_problem_and_makes_none(
    table: dict[str, Any], expected: list[str]
) -> None:
    assert told(table) == expected


def test_several_errors_of_one_value_are_told_beside_those_of_others() -> None:
    def several() -> None:
        raise_all([InputError("a", hint="b"), InputError("c", hint="d")])

    with pytest.raises(InputError, match=r"2 problems\n  a \(b\)\n  c \(d\)"):
        several()
    with pytest.raises(InputError, match=r"^a$"):
        raise_all([InputError("a", hint="b")])
    raise_all([])


def test_what_several_checks_find_is_told_once() -> None:
    same = [InputError("too few seats", hint="hire a bus") for _ in range(3)]
    with pytest.raises(InputError, match=r"^too few seats$"):
        raise_all(same)
    with pytest.raises(InputError, match=r"^2 problems\n"):
        raise_all([*same, InputError("no days", hint="add days = [1]"), *same])
