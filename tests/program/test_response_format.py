"""Requests to the embedded model, without loading it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from dspy import lm15

from program.models.embedded import _body, _bounded

TEXT = {"type": "string"}


def schema(**properties: Any) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": properties}},
    }


def lengths(response_format: dict[str, Any], max_tokens: int) -> dict[str, int | None]:
    properties = _bounded(response_format, max_tokens)["json_schema"]["schema"]["properties"]
    return {name: part.get("maxLength") for name, part in properties.items()}


def body(temperature: float = 0.0, **config: Any) -> dict[str, Any]:
    settings = lm15.Config(temperature=temperature, **config)
    return _body(lm15.Request(model="m", messages=(lm15.Message.user("hi"),), config=settings))


def test_only_string_gets_two_characters_a_token() -> None:
    assert lengths(schema(text=TEXT), 300) == {"text": 600}


def test_several_strings_get_one_sentence_each() -> None:
    assert lengths(schema(thought=TEXT, query=TEXT), 300) == {"thought": 80, "query": 80}


def test_several_strings_share_few_tokens() -> None:
    assert lengths(schema(thought=TEXT, query=TEXT), 50) == {"thought": 50, "query": 50}


def test_limit_is_at_least_sixteen_characters() -> None:
    assert lengths(schema(text=TEXT), 4) == {"text": 16}


@pytest.mark.parametrize("bound", [{"enum": ["a"]}, {"const": "a"}, {"maxLength": 5}, {"pattern": "a"}])
def test_bounded_strings_are_unchanged_and_do_not_count(bound: dict[str, Any]) -> None:
    response_format = schema(label={**TEXT, **bound}, text=TEXT)
    assert lengths(response_format, 300) == {"label": bound.get("maxLength"), "text": 600}


def test_strings_in_arrays_and_unions_are_bounded() -> None:
    nested = schema(
        items={"type": "array", "items": dict(TEXT)}, choice={"anyOf": [dict(TEXT), {"type": "null"}]}
    )
    properties = _bounded(nested, 300)["json_schema"]["schema"]["properties"]
    assert properties["items"]["items"]["maxLength"] == 80
    assert properties["choice"]["anyOf"] == [{"type": "string", "maxLength": 80}, {"type": "null"}]


def test_schema_of_the_caller_is_not_changed() -> None:
    response_format = schema(text=dict(TEXT))
    before = copy.deepcopy(response_format)
    _bounded(response_format, 300)
    assert response_format == before


def test_schema_without_strings_is_unchanged() -> None:
    response_format = schema(stars={"type": "integer"})
    assert _bounded(response_format, 300) == response_format


def test_answers_are_limited_to_300_tokens_by_default() -> None:
    assert body()["max_tokens"] == 300
    assert body(max_tokens=7)["max_tokens"] == 7
    assert "max_completion_tokens" not in body(max_tokens=7)


def test_plain_text_is_penalized_for_repetition_and_json_is_not() -> None:
    assert body()["frequency_penalty"] == 0.15
    assert "dry_multiplier" in body()
    response_format = {
        "type": "json_schema",
        "name": "x",
        "schema": {"type": "object", "properties": {"a": TEXT}, "required": ["a"]},
    }
    structured = body(response_format=response_format)
    assert "dry_multiplier" not in structured
    assert "frequency_penalty" not in structured
