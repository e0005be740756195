"""The ranges of numbers in settings, written in their types, and the one check of all of them.

A field `steps: Count` takes whole numbers from 1 on. `check_ranges` finds the fields of a dataclass
that lie outside, in nested ones, tuples and options too. Numbers are finite everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Real
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from vqvdm.errors import UserError


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`."""

    least: float
    most: float = math.inf
    open_below: bool = False
    """Whether `least` itself lies outside."""
    open_above: bool = False
    """Whether `most` itself lies outside."""
    zero: str = ""
    """What 0 stands for, where it is allowed below `least`: words that go on after "or 0"."""

    def __contains__(self, value: Any) -> bool:
        if not (_is_number(value) and math.isfinite(value)):
            return False
        if self.zero and value == 0:
            return True
        above = self.least < value if self.open_below else self.least <= value
        return above and (value < self.most if self.open_above else value <= self.most)

    def __str__(self) -> str:
        """What a number must do, as `be at least 1` or `lie in [0, 1)`."""
        if self.most < math.inf:
            left, right = "(" if self.open_below else "[", ")" if self.open_above else "]"
            words = f"lie in {left}{self.least}, {self.most}{right}"
        else:
            words = f"be {'above' if self.open_below else 'at least'} {self.least}"
        return f"{words}, or 0 {self.zero}" if self.zero else words


def _is_number(value: Any) -> bool:
    return isinstance(value, Real)  # those of NumPy are, too


Count = Annotated[int, Range(1)]
CountFrom0 = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open_below=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(-(2**63), 2**64 - 1)]
"""What PyTorch's generators take."""


def check_ranges(settings: Any, named: Callable[[str], str] = str) -> None:
    """`UserError` for the first number of a dataclass that lies outside the range in its type.

    `named` turns the dotted name of a field into what the user calls it.
    """
    for name, kind, value in numbers(settings):
        found = range_of(kind)
        if found and value not in found:
            raise UserError(f"{named(name)} must {found}, not {value}")


def numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The numbers of a dataclass: dotted name, type with its range, value."""
    for field in fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if is_dataclass(value):
            yield from numbers(value, f"{name}.")
        else:
            kind: Any = type(settings)
            hint = _hints(kind)[field.name]
            yield from ((name, part, each) for part, each in _flat(hint, value))


def range_of(kind: Any) -> Range | None:
    """The range in a type; None where it has none."""
    found = kind.__metadata__ if get_origin(kind) is Annotated else ()
    return next((each for each in found if isinstance(each, Range)), None)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _flat(kind: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """The numbers in a value, each with the type that it has there."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (int, float) or (origin is Annotated and inner[0] in (int, float)):
        yield kind, value
    elif origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        for part, each in zip(kinds, value, strict=True):
            yield from _flat(part, each)
    elif value is not None and type(None) in inner:
        (part,) = (each for each in inner if each is not type(None))
        yield from _flat(part, value)
