"""Converts the fields of one record to an interaction, for every layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

from program.errors import DataError, UnparsableAnswerError
from program.memory.interaction import Interaction
from program.store.checks import id_problem, interaction_problem
from program.store.importers.chat import chat_field, read_query
from program.store.importers.reader import FieldError
from program.task import Task
from program.text import cut
from program.values import is_missing, is_scalar, to_id, to_metadata, to_text, to_time

T = TypeVar("T")

_RECORD_FIELDS = ("user_id", "id", "query", "response", "timestamp", "metadata")
_MAX_NAMES, _MAX_NAME = 6, 30


def read_record(user_id: str, record: Mapping[str, object], task: Task) -> Interaction:
    """Return the interaction of one record with ``query`` and ``response``.

    Every other field becomes metadata: the fields of ``metadata`` by their names, lists and objects as
    JSON text. A chat log gives the query (`program.store.importers.chat`).

    Raises:
        FieldError: A field is missing or cannot be stored.
    """
    chat = chat_field(record) if is_missing(record.get("query")) else None
    query = read_query(record, chat) if chat else _read(record, "query", to_text)
    nested = record.get("metadata")
    fields = {name: value for name, value in record.items() if name not in _RECORD_FIELDS}
    fields |= nested if isinstance(nested, dict) else {"metadata": nested}
    return _interaction(
        user_id,
        task,
        given_id=_read_id(record),
        query=query,
        response=_read(record, "response", to_text),
        response_field="response",
        timestamp=_read_time(record, "timestamp"),
        metadata=_metadata(fields),
    )


def read_item(user_id: str, item: Mapping[str, object], task: Task) -> Interaction:
    """Return the interaction of one profile item of a LaMP or OPPU file.

    Fields other than id, date, query and response become metadata.

    Raises:
        FieldError: A field is missing or cannot be stored.
    """
    fields = {name: to_text(value) for name, value in item.items() if is_scalar(value)}
    try:
        query, response = task.read_item(fields)
    except KeyError as error:
        name = str(error.args[0])
        if name in item:
            _convert(name, item[name], to_text)
        raise FieldError(name, f"is missing; is this a file of task {task.name}?{_present(item)}") from error
    except DataError as error:
        raise FieldError("", str(error)) from error
    used = {query.strip(), response.strip()}
    return _interaction(
        user_id,
        task,
        given_id=_read_id(item),
        query=query,
        response=response,
        response_field=next((name for name, text in fields.items() if text == response), "response"),
        timestamp=_read_time(item, "date"),
        metadata={
            name: text
            for name, text in _metadata(item).items()
            if name not in ("id", "date") and text.strip() and text.strip() not in used
        },
    )


def read_user_id(record: Mapping[str, object], *names: str) -> str:
    """Return the user id from the first field of ``names`` that the record has.

    Raises:
        FieldError: The record has none of these fields, or the value is not a valid id.
    """
    name = next((name for name in names if name in record), names[0])
    user_id = _read(record, name, to_id)
    if problem := id_problem(user_id):
        raise FieldError(name, problem)
    return user_id


def _read(record: Mapping[str, object], name: str, convert: Callable[[object], T]) -> T:
    if name not in record:
        raise FieldError(name, f"is missing{_present(record)}")
    return _convert(name, record[name], convert)


def _convert(name: str, value: object, convert: Callable[[object], T]) -> T:
    try:
        return convert(value)
    except ValueError as error:
        raise FieldError(name, str(error)) from error


def _read_id(record: Mapping[str, object]) -> str | None:
    value = record.get("id")
    return None if is_missing(value) else _convert("id", value, to_id)


def _read_time(record: Mapping[str, object], name: str) -> datetime | None:
    return _convert(name, record.get(name), to_time)


def _metadata(fields: Mapping[str, object]) -> dict[str, str]:
    texts = ((name, to_metadata(value)) for name, value in fields.items())
    return {name: text for name, text in texts if text is not None}


def _present(record: Mapping[str, object]) -> str:
    """Return the names that a record has, so that its author sees which to rename."""
    names = ", ".join(f"`{cut(str(name), _MAX_NAME)}`" for name in list(record)[:_MAX_NAMES])
    more = ", ..." if len(record) > _MAX_NAMES else ""
    return f"; the record has {names}{more}" if names else "; the record is empty"


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
        response = task.response_type.parse(response)
    except UnparsableAnswerError as error:
        raise FieldError(response_field, f"does not fit task {task.name}: {error}") from error
    if not query.strip():
        raise FieldError("query", "is empty")
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
