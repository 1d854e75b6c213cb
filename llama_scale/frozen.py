"""Values that never change: frozen dataclasses with slots, whose classes are cheap to make.

The standard decorator compiles six functions for each class, 1.1 ms on a slow core: the fifty classes
of a plan were a sixth of its time. Here only `__init__` is compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T", bound=type)


@overload
def frozen(cls: T, /) -> T: ...
@overload
def frozen(*, eq: bool = True, kw_only: bool = True) -> Callable[[T], T]: ...
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(cls: type | None = None, /, *, eq: bool = True, kw_only: bool = True) -> Any:
    """The class as a dataclass whose fields are set once, by keyword: `@frozen`.

    Equal, hashed and shown by its fields; with `eq=False`, for arrays, equal to itself alone. What the
    class defines of these itself stays. Its children are `@frozen` too.
    """

    def decorate(cls: type) -> type:
        own = {name for name, value in vars(cls).items() if value is not None}  # __eq__ alone unsets __hash__
        made: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
        of_class = fields(made)
        methods = [_init(made, of_class), *_methods(of_class), *(_equality(of_class) if eq else ())]
        for method in methods:
            if method.__name__ not in own:
                setattr(made, method.__name__, method)
        return made

    return decorate if cls is None else decorate(cls)


def _methods(of_class: Sequence[Field[Any]]) -> list[Callable[..., Any]]:
    names = tuple(one.name for one in of_class)
    shown = tuple(one.name for one in of_class if one.repr)

    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __setattr__(self: Any, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self: Any, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    return [__repr__, __setattr__, __delattr__, __getstate__, __setstate__]


def _equality(of_class: Sequence[Field[Any]]) -> list[Callable[..., Any]]:
    compared = attrgetter("__class__", *(one.name for one in of_class if one.compare))

    def __eq__(self: Any, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(compared(self))

    return [__eq__, __hash__]


def _init(cls: type, of_class: Sequence[Field[Any]]) -> Callable[..., None]:
    """`__init__`, which sets each field past `__setattr__` and then calls `__post_init__`, if there is one.

    A field with `init=False` gets its default, or else waits for `__post_init__`.
    """
    known: dict[str, Any] = {"_missing": MISSING, "_set": object.__setattr__}
    positional, by_keyword, body = [], [], []
    for one in of_class:
        name, parameter, value = one.name, one.name, one.name
        if one.default is not MISSING:
            known[f"_default_{name}"] = one.default
            parameter, value = f"{name}=_default_{name}", name if one.init else f"_default_{name}"
        elif one.default_factory is not MISSING:
            known[f"_new_{name}"] = one.default_factory
            parameter, new = f"{name}=_missing", f"_new_{name}()"
            value = f"{new} if {name} is _missing else {name}" if one.init else new
        elif not one.init:
            continue
        if one.init:
            (by_keyword if one.kw_only else positional).append(parameter)
        body.append(f"_set(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join(["self", *positional, *(["*", *by_keyword] if by_keyword else [])])
    lines = [
        f"def make({', '.join(known)}):",
        f" def __init__({parameters}):",
        *(f"  {line}" for line in body or ["pass"]),
        " return __init__",
    ]
    made: dict[str, Any] = {}
    exec("\n".join(lines), sys.modules[cls.__module__].__dict__, made)  # as annotations name what is there
    init = made["make"](**known)
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {one.name: one.type for one in of_class if one.init} | {"return": None}
    return init
