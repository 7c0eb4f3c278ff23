"""Queries select the same rows in SQL as in a plain Python evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from program.tracing.server.call_fields import call_field
from program.tracing.server.query import compile_query
from program.tracing.server.request_errors import BadRequestError
from program.tracing.server.trace_store import TraceStore

PROJECT = "local/test"
SCALARS: list[Any] = [None, True, False, 0, 1, 2, -1, 1.5, "", "a", "A", "ab", "1", "Straße"]


def call(number: int, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "project_id": PROJECT,
        "id": f"c{number:04}",
        "trace_id": "t",
        "op_name": "op",
        "started_at": 1_000.0 + number,
        "ended_at": 1_001.0 + number,
        "attributes": {},
        "inputs": inputs,
        "output": None,
        "summary": {},
        "exception": None,
    }


ROWS: list[dict[str, Any]] = [
    {},
    *({"x": value} for value in SCALARS),
    *({"x": a, "y": {"z": b}} for a, b in zip(SCALARS, reversed(SCALARS), strict=True)),
    {"x": "a" * 500, "y": {"z": "b" * 500}},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceStore]:
    opened = TraceStore(tmp_path_factory.mktemp("traces") / "t.db")
    for number, inputs in enumerate(ROWS):
        opened.call_start(call(number, inputs))
        opened.call_end(call(number, inputs))
    yield opened
    opened.close()


def value(expr: Any, inputs: dict[str, Any]) -> Any:
    if "$literal" in expr:
        return expr["$literal"]
    node: Any = {"inputs": inputs}
    for part in expr["$getField"].split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def comparable(a: Any, b: Any) -> bool:
    numbers = isinstance(a, (bool, int, float)) and isinstance(b, (bool, int, float))
    return numbers or (isinstance(a, str) and isinstance(b, str))


def holds(expr: Any, inputs: dict[str, Any]) -> bool:
    operator, operand = next(iter(expr.items()))
    if operator == "$and":
        return all(holds(part, inputs) for part in operand)
    if operator == "$or":
        return any(holds(part, inputs) for part in operand)
    if operator == "$not":
        return not holds(operand[0], inputs)
    if operator == "$contains":
        text, part = value(operand["input"], inputs), value(operand["substr"], inputs)
        if operand.get("case_insensitive"):
            text, part = text.casefold() if isinstance(text, str) else text, part.casefold()
        return isinstance(text, str) and part in text
    a = value(operand[0], inputs)
    if operator == "$in":
        return any(a == value(item, inputs) for item in operand[1])
    b = value(operand[1], inputs)
    if operator == "$eq":
        return bool(a == b)
    return (
        comparable(a, b)
        and {
            "$gt": lambda: a > b,
            "$gte": lambda: a >= b,
            "$lt": lambda: a < b,
            "$lte": lambda: a <= b,
        }[operator]()
    )


FIELD = st.sampled_from(["inputs.x", "inputs.y.z", "inputs.missing"]).map(lambda path: {"$getField": path})
LITERAL = st.sampled_from(SCALARS).map(lambda scalar: {"$literal": scalar})
OPERAND = FIELD | LITERAL
COMPARISON = st.builds(
    lambda operator, a, b: {operator: [a, b]},
    st.sampled_from(["$eq", "$gt", "$gte", "$lt", "$lte"]),
    OPERAND,
    OPERAND,
)
IN = st.builds(lambda a, items: {"$in": [a, items]}, OPERAND, st.lists(LITERAL, max_size=3))
CONTAINS = st.builds(
    lambda a, part, fold: {"$contains": {"input": a, "substr": {"$literal": part}, "case_insensitive": fold}},
    st.sampled_from([{"$getField": "inputs.x"}, {"$getField": "inputs.y.z"}]),
    st.sampled_from(["a", "A", "ss", "aaaa"]),
    st.booleans(),
)
EXPRESSION = st.recursive(
    COMPARISON | IN | CONTAINS,
    lambda inner: (
        st.builds(lambda op, parts: {op: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner))
        | inner.map(lambda part: {"$not": [part]})
    ),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EXPRESSION)
def test_sql_selects_the_same_rows_as_python(store: TraceStore, expr: dict[str, Any]) -> None:
    ids = [row["id"] for row in store.calls(PROJECT, query={"$expr": expr})]
    assert ids == [f"c{n:04}" for n, inputs in enumerate(ROWS) if holds(expr, inputs)]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ({"$gt": [{"$getField": "started_at"}, {"$literal": 1_028.0}]}, 1),
        ({"$gte": [{"$getField": "started_at"}, {"$literal": "1970-01-01T00:17:09Z"}]}, 1),
        ({"$eq": [{"$getField": "summary.weave.latency_ms"}, {"$literal": 1000}]}, 30),
        ({"$eq": [{"$getField": "summary.weave.status"}, {"$literal": "success"}]}, 30),
        ({"$eq": [{"$convert": {"input": {"$getField": "inputs.x"}, "to": "string"}}, {"$literal": "1"}]}, 6),
        (
            {
                "$eq": [
                    {"$convert": {"input": {"$getField": "inputs.x"}, "to": "exists"}},
                    {"$literal": False},
                ]
            },
            3,
        ),
        (
            {"$gt": [{"$convert": {"input": {"$getField": "inputs.x"}, "to": "double"}}, {"$literal": 0.5}]},
            10,
        ),
    ],
)
def test_queries_cover_times_statuses_and_conversions(
    store: TraceStore, expr: dict[str, Any], expected: int
) -> None:
    assert store.count(PROJECT, query={"$expr": expr}) == expected


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"$and": []},
        {"$expr": {"$regex": ["a", "b"]}},
        {"$expr": {"$eq": [{"$getField": "inputs.x"}]}},
        {"$expr": {"$eq": [{"$getField": "nonsense"}, {"$literal": 1}]}},
        {"$expr": {"$eq": [{"$getField": 'inputs.x"y'}, {"$literal": 1}]}},
        {"$expr": {"$eq": [{"$literal": {"a": 1}}, {"$literal": 1}]}},
        {"$expr": {"$convert": {"input": {"$literal": 1}, "to": "date"}}},
        {"$expr": {"$contains": {"input": {"$literal": 1}}}},
        {"$expr": {"$gt": [{"$getField": "started_at"}, {"$literal": "soon"}]}},
        {"$expr": {"$not": {"$eq": [1, 1]}}},
        {"$expr": []},
    ],
)
def test_invalid_query_is_rejected(query: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        compile_query(query, call_field)


def test_query_values_are_never_executed_as_sql(store: TraceStore) -> None:
    evil = "x'); DROP TABLE calls; --"
    expr = {"$eq": [{"$getField": f"inputs.{evil}"}, {"$literal": evil}]}
    assert store.calls(PROJECT, query={"$expr": expr}) == []
    assert store.count(PROJECT) == len(ROWS)
