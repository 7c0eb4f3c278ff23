"""Compiles Weave's query language to parameterised SQL.

A query is ``{"$expr": E}``. A predicate is 0 or 1, never null, so ``$not`` of a comparison with a
missing field is true. Numbers compare with numbers and text with text; any other order comparison
is false. Unknown operators and fields raise `BadRequestError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from program.tracing.server.codec import micros
from program.tracing.server.request_errors import BadRequestError


class Sql(NamedTuple):
    """An SQL fragment and the values of its ``?`` placeholders."""

    text: str
    params: tuple[Any, ...] = ()


class Field(NamedTuple):
    """A field that a query may name.

    Attributes:
        sql: The expression.
        kind: ``time`` columns hold microseconds and compare with seconds or ISO text.
        rows: The ``FROM … WHERE …`` of a field with many values per row; a predicate is then true
            if it is true for one of them.
    """

    sql: Sql
    kind: Literal["any", "time"] = "any"
    rows: Sql | None = None


Fields = Callable[[str], Field]
"""Maps a dotted path to a field; raises `BadRequestError` if it is unknown."""

_BARE = re.compile(r"[a-z]\.[a-z_]+")
_EMPTY = Sql("?", ("",))
_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_CONVERSIONS = ("double", "string", "int", "bool", "exists")


def compile_query(query: Mapping[str, Any], fields: Fields) -> Sql:
    """Return the SQL condition of a ``{"$expr": …}`` query.

    Raises:
        BadRequestError: An operator or field is unknown, or the number of operands is wrong.

    Example:
        >>> query = {"$expr": {"$gt": [{"$getField": "n"}, {"$literal": 3}]}}
        >>> compile_query(query, lambda path: Field(Sql(f"t.{path}"))).params
        (3, 3)
    """
    if set(query) != {"$expr"}:
        raise BadRequestError(f"`query` must be {{'$expr': ...}}, got the keys {sorted(query)!r:.120}")
    return _predicate(query["$expr"], fields)


def project_condition(project: int, request: Mapping[str, Any], fields: Fields) -> Sql:
    """Return the condition for rows of table ``t`` in one project that match the request's query.

    Raises:
        BadRequestError: As `compile_query`.
    """
    condition = Sql("t.project = ?", (project,))
    if not request.get("query"):
        return condition
    query = compile_query(request["query"], fields)
    return Sql(f"{condition.text} AND {query.text}", (*condition.params, *query.params))


def limit_and_offset(request: Mapping[str, Any]) -> tuple[int, int]:
    """Return the request's page for ``LIMIT ? OFFSET ?``; without a limit, -1 means all rows."""
    limit = request.get("limit")
    return -1 if limit is None else int(limit), int(request.get("offset") or 0)


def compile_sort(sort_by: Sequence[Mapping[str, Any]] | None, fields: Fields) -> list[Sql]:
    """Return the terms of an ``ORDER BY``, without a tie-breaker.

    Raises:
        BadRequestError: A field or direction is unknown.
    """
    terms = []
    for item in sort_by or ():
        direction = str(item.get("direction", "asc")).upper()
        if direction not in ("ASC", "DESC"):
            raise BadRequestError(f"`direction` must be asc or desc, got {item.get('direction')!r}")
        field = fields(str(item.get("field")))
        if field.rows is not None:
            raise BadRequestError(f"cannot sort by {item.get('field')!r}: it has many values per row")
        terms.append(Sql(f"{field.sql.text} {direction}", field.sql.params))
    return terms


def all_params(parts: Sequence[Sql]) -> tuple[Any, ...]:
    """Return the parameters of all parts, in order."""
    return tuple(value for part in parts for value in part.params)


_PLAIN_KEY = re.compile(r'[^"\\]+')


def json_at(document: str, path: Sequence[str]) -> Sql:
    """Return the value at ``path`` in a JSON column; a number in the path is a key or an index.

    Raises:
        BadRequestError: A key is empty, or has a quote or a backslash.
    """
    if not path:
        return Sql(f"json_extract({document}, '$')")
    for part in path:
        if not _PLAIN_KEY.fullmatch(part):
            raise BadRequestError(f"cannot query the key {part!r}: it is empty or has a quote or a backslash")
    keys = Sql(f"json_extract({document}, ?)", ("$" + "".join(f'."{part}"' for part in path),))
    if not any(part.isdecimal() for part in path):
        return keys
    indexes = "$" + "".join(f"[{part}]" if part.isdecimal() else f'."{part}"' for part in path)
    return Sql(f"coalesce({keys.text}, json_extract({document}, ?))", (*keys.params, indexes))


def _predicate(expr: Any, fields: Fields) -> Sql:
    operator, operand = _operation(expr)
    if operator in ("$and", "$or"):
        parts = [_predicate(part, fields) for part in _operands(operator, operand, None)]
        empty = "1" if operator == "$and" else "0"
        text = f" {operator[1:].upper()} ".join(part.text for part in parts) or empty
        return Sql(f"({text})", all_params(parts))
    if operator == "$not":
        inner = _predicate(_operands(operator, operand, 1)[0], fields)
        return Sql(f"(NOT {inner.text})", inner.params)
    if operator == "$eq":
        left, right = _pair(_operands(operator, operand, 2), fields)
        if left.rows is not None and right.sql == _EMPTY:
            # Weave's client compares with "" to ask for calls without such feedback.
            non_empty = _holds((left,), "coalesce({}, '') <> ''")
            return Sql(f"(NOT {non_empty.text})", non_empty.params)
        if _BARE.fullmatch(left.sql.text) and right.sql.text == "?" and right.sql.params != (None,):
            # The same as `IS`, but in a form for which SQLite uses an index.
            return Sql(f"({left.sql.text} = ? AND {left.sql.text} IS NOT NULL)", right.sql.params)
        return _holds((left, right), "({} IS {})")
    if operator in _ORDER:
        left, right = _pair(_operands(operator, operand, 2), fields)
        # Integers and reals are one type; null is not comparable.
        same = "replace(typeof({0}),'integer','real') = replace(typeof({1}),'integer','real')"
        return _holds((left, right), f"coalesce({same} AND {{0}} {_ORDER[operator]} {{1}}, 0)", repeat=2)
    if operator == "$in":
        needle, haystack = _operands(operator, operand, 2)
        if not isinstance(haystack, Sequence) or isinstance(haystack, str):
            raise BadRequestError("`$in` needs a value and a list")
        parts = [_predicate({"$eq": [needle, item]}, fields) for item in haystack]
        return Sql("(" + (" OR ".join(part.text for part in parts) or "0") + ")", all_params(parts))
    if operator == "$contains":
        return _contains(operand, fields)
    if operator in ("$getField", "$literal", "$convert"):
        value = _value(expr, fields)
        return _holds((value,), "coalesce({} NOT IN (0, ''), 0)")
    raise BadRequestError(f"unknown operator {operator!r:.60}")


def _contains(operand: Any, fields: Fields) -> Sql:
    if not isinstance(operand, Mapping) or not {"input", "substr"} <= set(operand):
        raise BadRequestError("`$contains` needs `input` and `substr`")
    parts = (_value(operand["input"], fields), _value(operand["substr"], fields))
    fold = "fold" if operand.get("case_insensitive") else ""
    return _holds(parts, f"coalesce(instr({fold}({{}}), {fold}({{}})) > 0, 0)")


def _value(expr: Any, fields: Fields) -> Field:
    operator, operand = _operation(expr)
    if operator == "$literal":
        if isinstance(operand, (Mapping, list)):
            raise BadRequestError("`$literal` must be text, a number, true, false or null")
        return Field(Sql("?", (operand,)))
    if operator == "$getField":
        return fields(str(operand))
    if operator == "$convert":
        if not isinstance(operand, Mapping) or operand.get("to") not in _CONVERSIONS:
            raise BadRequestError(f"`$convert` needs `input` and `to`, one of {', '.join(_CONVERSIONS)}")
        inner = _seconds(_value(operand.get("input"), fields))
        sql = Sql(f"convert_to({inner.sql.text}, ?)", (*inner.sql.params, operand["to"]))
        return Field(sql, rows=inner.rows)
    return Field(_predicate(expr, fields))


def _pair(operands: Sequence[Any], fields: Fields) -> tuple[Field, Field]:
    left, right = operands
    a, b = _value(left, fields), _value(right, fields)
    if a.kind == "time" and "$literal" in right:
        return a, _as_time(right["$literal"])
    if b.kind == "time" and "$literal" in left:
        return _as_time(left["$literal"]), b
    return _seconds(a), _seconds(b)


def _as_time(literal: Any) -> Field:
    # Converts the literal and not the column, so that SQLite can use the column's index.
    try:
        return Field(Sql("?", (None if literal is None else micros(literal),)))
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _seconds(field: Field) -> Field:
    if field.kind != "time":
        return field
    return Field(Sql(f"({field.sql.text} / 1e6)", field.sql.params), rows=field.rows)


def _holds(values: Sequence[Field], template: str, *, repeat: int = 1) -> Sql:
    params = all_params([value.sql for value in values]) * repeat
    text = template.format(*(value.sql.text for value in values))
    for value in values:
        if value.rows is not None:
            text, params = f"EXISTS (SELECT 1 {value.rows.text} AND {text})", (*value.rows.params, *params)
    return Sql(text, params)


def _operation(expr: Any) -> tuple[str, Any]:
    if not isinstance(expr, Mapping) or len(expr) != 1:
        raise BadRequestError("an expression must be one operator with its operands")
    return next(iter(expr.items()))


def _operands(operator: str, operand: Any, count: int | None) -> Sequence[Any]:
    if not isinstance(operand, (list, tuple)) or count not in (None, len(operand)):
        raise BadRequestError(f"`{operator}` needs a list of {f'{count} ' if count else ''}operands")
    return operand
