"""Builds dataclasses from plain JSON data, and names the first field that is damaged.

Only what stored records need: text, numbers, booleans, ``None``, literals, lists, mappings with text keys
and other dataclasses. Nothing is converted: the number 3 is not text, and ``true`` is not a number.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from program.values import kind

T = TypeVar("T")
Reader = Callable[[Any], Any]

_MAX_INT = 2**53


class FieldError(ValueError):
    """A value does not fit; the message is the rest of a sentence: "field `usage.calls` is missing"."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def __str__(self) -> str:
        """Return the field and the problem."""
        if not self.path:
            return self.problem
        name = "".join(part if part.startswith("[") else f".{part}" for part in reversed(self.path))
        return f"field `{name.removeprefix('.')[:80]}` {self.problem}"


def decode(data_type: type[T], value: object, *, strict: bool = False) -> T:
    """Return an instance of a dataclass from an object that JSON held.

    Args:
        data_type: A dataclass.
        value: The parsed JSON.
        strict: Refuse fields that the dataclass does not have, instead of ignoring them.

    Raises:
        FieldError: Names the first field that is missing or of another type.

    Example:
        >>> from program import Usage
        >>> decode(Usage, {"calls": 2, "usd": 0.5}).calls
        2
        >>> decode(Usage, {"calls": "2"})
        Traceback (most recent call last):
        program.plain.FieldError: field `calls` must be a whole number, not text
    """
    return cast(T, _dataclass_reader(cast(Any, data_type), strict)(value))


@cache
def _dataclass_reader(data_type: Any, strict: bool) -> Reader:
    hints = get_type_hints(data_type)
    readers = {field.name: _reader(hints[field.name], strict) for field in fields(data_type) if field.init}
    required = [
        field.name
        for field in fields(data_type)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise FieldError(f"must be an object, not {kind(value)}")
        for name in required:
            if name not in value:
                raise _inside(name, FieldError("is missing"))
        arguments = {}
        for name, item in value.items():
            reader = readers.get(name)
            if reader is None:
                if strict:
                    raise _inside(name, FieldError("is unknown"))
                continue
            try:
                arguments[name] = reader(item)
            except FieldError as error:
                raise _inside(name, error) from error
        return data_type(**arguments)

    return read


def _reader(hint: Any, strict: bool) -> Reader:
    if hint is Any or hint is object:
        return lambda value: value
    if hint in _SCALARS:
        return _SCALARS[hint]
    if is_dataclass(hint):
        return _dataclass_reader(cast(Any, hint), strict)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _literal_reader(arguments)
    if origin in (Union, types.UnionType):
        [other] = [argument for argument in arguments if argument is not type(None)]
        reader = _reader(other, strict)
        return lambda value: None if value is None else reader(value)
    if origin is Mapping:
        return _mapping_reader(_reader(arguments[1], strict))
    if origin is Sequence:
        return _sequence_reader(_reader(arguments[0], strict))
    raise TypeError(f"no rule for {hint!r}")


def _literal_reader(values: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in values:
            raise FieldError(f"must be one of {', '.join(map(str, values))}")
        return value

    return read


def _mapping_reader(reader: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise FieldError(f"must be an object, not {kind(value)}")
        items = {}
        for name, item in value.items():
            try:
                items[name] = reader(item)
            except FieldError as error:
                raise _inside(name, error) from error
        return items

    return read


def _sequence_reader(reader: Reader) -> Reader:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise FieldError(f"must be a list, not {kind(value)}")
        items = []
        for number, item in enumerate(value):
            try:
                items.append(reader(item))
            except FieldError as error:
                raise _inside(f"[{number}]", error) from error
        return items

    return read


def _inside(name: str, error: FieldError) -> FieldError:
    error.path.append(name)
    return error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FieldError(f"must be text, not {kind(value)}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"must be a whole number, not {kind(value)}")
    if abs(value) > _MAX_INT:
        raise FieldError("is too large")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FieldError(f"must be a number, not {kind(value)}")
    if abs(value) > _MAX_INT:
        raise FieldError("is too large")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldError(f"must be true or false, not {kind(value)}")
    return value


_SCALARS: dict[Any, Reader] = {str: _text, int: _whole, float: _number, bool: _flag}
