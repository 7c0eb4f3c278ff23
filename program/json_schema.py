"""Walks JSON schemas, and finds the ones that providers with strict schemas cannot enforce."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import PydanticUserError, TypeAdapter

_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "propertyNames", "not", "contains")
_TYPED = ("type", "$ref", "enum", "const", "not", *_LISTED)


def parts(schema: Any, resolve: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Iterator[Any]:
    """Yield a schema and all schemas inside it, each once.

    Args:
        schema: A JSON schema.
        resolve: Returns the definition that a part with ``$ref`` names; ``None`` stays in the schema.
    """
    waiting, visited = [schema], set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or id(part) in visited:
            continue
        visited.add(id(part))
        yield part
        if resolve is not None and "$ref" in part:
            waiting.append(resolve(part))
        for key in _NAMED:
            waiting += list(part.get(key, {}).values())
        for key in _LISTED:
            waiting += part.get(key, [])
        waiting += [part[key] for key in _SINGLE if key in part]


def is_open(part: dict[str, Any]) -> bool:
    """Return whether an object may have fields that the schema does not name.

    Example:
        >>> is_open({"type": "object", "additionalProperties": {"type": "string"}})
        True
        >>> is_open({"type": "object", "properties": {"city": {"type": "string"}}})
        False
    """
    if part.get("type") not in ("object", ["object"]):
        return False
    extra = part.get("additionalProperties", "properties" not in part)
    return extra is not False or "patternProperties" in part


def is_open_type(annotation: Any) -> bool:
    """Return whether a type has a mapping with free keys, a part of any type, or no JSON schema.

    A strict schema needs all names and types, so it cannot describe such a type.

    Example:
        >>> is_open_type(dict[str, str]), is_open_type(list[str])
        (True, False)
    """
    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, ValueError):
        return True
    return any(is_open(part) or not any(key in part for key in _TYPED) for part in parts(schema))
