"""Frozen values behave as the frozen dataclasses of the standard library."""

import copy
import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any, get_type_hints

import numpy as np
import pytest

from llama_scale.checked import Checked
from llama_scale.errors import InputError
from llama_scale.frozen import frozen


@frozen
class Point:
    """A value with a default, a factory, and fields left out of equality or of what is shown."""

    x: float
    label: str = ""
    tags: Sequence[str] = field(default_factory=list)
    weight: float = field(default=1.0, compare=False)
    secret: str = field(default="s", repr=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """The same fields, decorated by the standard library."""

    x: float
    label: str = ""
    tags: Sequence[str] = field(default_factory=list)
    weight: float = field(default=1.0, compare=False)
    secret: str = field(default="s", repr=False)


@frozen
class Further(Point):
    """A child with a field of its own."""

    y: float = 0.0


@frozen
class Nothing:
    """A value without fields."""


@frozen(eq=False)
class Arrays:
    """Equal to itself alone."""

    values: np.ndarray
    total: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", float(self.values.sum()))


@frozen
class Lone(Checked):
    """One field, compared by a rule of its own, with a check and a field that nobody gives."""

    value: float
    rest: int = field(default=3, init=False)

    def problems(self) -> Iterator[InputError]:
        if self.value > 1:
            yield InputError("too much", hint="give less")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lone) and abs(self.value - other.value) < 1


@frozen
class Single:
    """One field."""

    value: float


@frozen(kw_only=False)
class Pair:
    """Written by position; its own text stays."""

    left: int
    right: int = 2

    def __repr__(self) -> str:
        return f"{self.left} and {self.right}"


def test_a_value_is_made_shown_and_compared_as_by_the_standard_library():
    ours, theirs = Point(x=1.5, label="a"), Standard(x=1.5, label="a")
    assert repr(ours) == repr(theirs).replace("Standard", "Point")
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert Point.__match_args__ == Standard.__match_args__
    assert ours == Point(x=1.5, label="a", weight=9.0)
    assert ours != Point(x=1.5, label="b")
    assert ours != theirs
    assert Point(x=1, tags=()) == Point(x=1, tags=()) and hash(Point(x=1, tags=())) == hash(
        Point(x=1, tags=())
    )
    assert Nothing() == Nothing() and hash(Nothing()) == hash(Nothing())


def test_each_value_gets_a_new_default_from_its_factory():
    assert Point(x=1).tags is not Point(x=1).tags


def test_a_value_can_not_change():
    point = Point(x=1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        point.x = 2  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        del point.x  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.other = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize("wrong", [{}, {"x": 1, "z": 2}])
def test_missing_and_unknown_fields_are_named_with_the_class(wrong: dict[str, Any]):
    with pytest.raises(TypeError, match=r"Point\.__init__\(\).*'[xz]'"):
        Point(**wrong)


def test_checks_run_when_a_value_is_made_and_when_it_is_replaced():
    with pytest.raises(ValueError, match="negative"):
        Point(x=-1)
    assert dataclasses.replace(Point(x=1), label="b") == Point(x=1, label="b")
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(Point(x=1), x=-1.0)


def test_a_child_has_the_fields_of_both():
    child = Further(x=1, y=2)
    assert (child.x, child.y) == (1, 2)
    assert child != Point(x=1) and child != Further(x=1, y=3)
    assert repr(child).startswith("Further(x=1, label=''")


def test_arrays_are_equal_to_themselves_alone_and_fields_may_be_left_to_the_check():
    one = Arrays(values=np.ones(3))
    assert one == one and one != Arrays(values=np.ones(3)) and len({one}) == 1
    assert one.total == 3


def test_a_value_with_its_own_equality_can_still_be_hashed_and_checked():
    assert Lone(value=0.5) == Lone(value=1.0)
    assert hash(Lone(value=0.5)) != hash(Lone(value=1.0))
    assert Lone(value=0.5).rest == 3
    with pytest.raises(InputError, match="too much"):
        Lone(value=2)


def test_nan_is_equal_to_itself_as_in_tuples():
    nan = float("nan")
    assert Single(value=nan) == Single(value=nan)


def test_init_is_of_the_class_s_own_module_and_types():
    assert Point.__init__.__module__ == __name__
    assert get_type_hints(Point.__init__)["tags"] == Sequence[str]


def test_positions_and_an_own_method_are_kept():
    assert repr(Pair(1)) == "1 and 2" and Pair(1, 3) == Pair(1, right=3)


@pytest.mark.parametrize("value", [Point(x=1.0, tags=("a",)), Further(x=1, y=2), Nothing(), Pair(1)])
def test_values_survive_pickles_and_copies(value: object):
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == value and copy.deepcopy(value) == value
