"""Converts the fields of one record to an interaction, for every layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone

from pydantic import TypeAdapter

from program.errors import DataError, UnparsableAnswerError
from program.memory.interaction import Interaction
from program.store.checks import id_problem, interaction_problem
from program.store.importers.reader import FieldError
from program.task import Task

_TIME = TypeAdapter(datetime)
_JSONL_FIELDS = ("user_id", "id", "query", "response", "timestamp")


def read_line(user_id: str, line: Mapping[str, object], task: Task) -> Interaction:
    """Return the interaction of one JSONL object; unknown fields become metadata.

    Raises:
        FieldError: A field is missing or cannot be stored.
    """
    fields = _as_text(line, exclude=("metadata",))
    nested = line.get("metadata") or {}
    if not isinstance(nested, Mapping):
        raise FieldError("metadata", f"must be an object, not {_kind(nested)}")
    for name in ("query", "response"):
        if name not in fields:
            raise FieldError(name, "is missing")
    return _interaction(
        user_id,
        task,
        given_id=fields.get("id"),
        query=fields["query"],
        response=fields["response"],
        response_field="response",
        timestamp=parse_time("timestamp", fields.get("timestamp", "")),
        metadata={name: text for name, text in fields.items() if name not in _JSONL_FIELDS}
        | _as_text(nested),
    )


def read_item(user_id: str, item: Mapping[str, object], task: Task) -> Interaction:
    """Return the interaction of one profile item of a LaMP or OPPU file.

    Fields other than id, date, query and response become metadata.

    Raises:
        FieldError: A field is missing or cannot be stored.
    """
    fields = _as_text(item)
    try:
        query, response = task.read_item(fields)
    except KeyError as error:
        raise FieldError(str(error.args[0]), f"is missing; is this a file of task {task.name}?") from error
    except DataError as error:
        raise FieldError("", str(error)) from error
    used = {query.strip(), response.strip()}
    return _interaction(
        user_id,
        task,
        given_id=fields.get("id"),
        query=query,
        response=response,
        response_field=next((name for name, text in fields.items() if text == response), "response"),
        timestamp=parse_time("date", fields.get("date", "")),
        metadata={
            name: text
            for name, text in fields.items()
            if name not in ("id", "date") and text.strip() and text.strip() not in used
        },
    )


def read_user_id(record: Mapping[str, object], *names: str) -> str:
    """Return the user id from the first field of ``names`` that the record has.

    Raises:
        FieldError: The record has none of these fields, or the value is not a valid id.
    """
    for name in names:
        if name in record:
            user_id = _scalar(name, record[name])
            if problem := id_problem(user_id):
                raise FieldError(name, problem)
            return user_id
    raise FieldError(names[0], "is missing")


def parse_time(field: str, text: str) -> datetime | None:
    """Return a year, date or ISO-8601 time in UTC; ``None`` for empty text.

    A time without a timezone counts as UTC, a year as January 1.

    Raises:
        FieldError: ``text`` has another format.
    """
    text = text.strip()
    try:
        if not text:
            return None
        if re.fullmatch(r"\d{4}", text):
            return datetime(int(text), 1, 1, tzinfo=timezone.utc)
        if re.match(r"\d{4}-\d\d-\d\d", text):
            time = _TIME.validate_python(text)
            return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        pass
    raise FieldError(field, f"{text[:40]!r} is not a time; use YYYY, YYYY-MM-DD or ISO 8601")


def _interaction(
    user_id: str,
    task: Task,
    *,
    given_id: str | None,
    query: str,
    response: str,
    response_field: str,
    timestamp: datetime | None,
    metadata: dict[str, str],
) -> Interaction:
    try:
        parsed = task.response_type.parse(response)
    except UnparsableAnswerError as error:
        raise FieldError(response_field, f"does not fit task {task.name}: {error}") from error
    if not query.strip():
        raise FieldError("query", "is empty")
    # Parsing cuts a free text to the maximum length of an answer; the history stores all of it.
    full = response.strip()
    response = full if full.startswith(parsed) else parsed
    interaction = Interaction(
        id=_content_id(query, response, str(timestamp), metadata) if given_id is None else given_id,
        user_id=user_id,
        query=query.strip(),
        response=response,
        timestamp=timestamp,
        metadata=metadata,
    )
    if field_problem := interaction_problem(interaction):
        raise FieldError(*field_problem)
    return interaction


def _content_id(*content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _as_text(record: Mapping[str, object], exclude: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        name: _scalar(name, value)
        for name, value in record.items()
        if value is not None and name not in exclude
    }


def _scalar(name: str, value: object) -> str:
    # Real files have ids, years and scores both as text and as numbers.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(name, f"must be text or a number, not {_kind(value)}")
    return str(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", str: "text", type(None): "null"}
    return names.get(type(value), "a number")
