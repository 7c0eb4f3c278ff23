"""From the fields of one record to an interaction, the same way for every layout."""

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


def read_line(user_id: str, line: Mapping[str, object], task: Task) -> Interaction:
    """Return the interaction of one JSONL object; fields that are not ours become metadata.

    Raises:
        FieldError: A field is missing or cannot be stored.
    """
    fields = _as_text(line, but=("metadata",))
    nested = line.get("metadata") or {}
    if not isinstance(nested, Mapping):
        raise FieldError("metadata", f"must be an object, not {_kind(nested)}")
    for name in ("query", "response"):
        if name not in fields:
            raise FieldError(name, "is missing")
    ours = ("user_id", "id", "query", "response", "timestamp")
    return _interaction(
        user_id,
        task,
        given_id=fields.get("id"),
        query=fields["query"],
        response=fields["response"],
        response_field="response",
        timestamp=parse_time("timestamp", fields.get("timestamp", "")),
        metadata={name: text for name, text in fields.items() if name not in ours} | _as_text(nested),
    )


def read_item(user_id: str, item: Mapping[str, object], task: Task) -> Interaction:
    """Return the interaction of one profile item of a LaMP or OPPU file.

    What became neither id, query, response nor time is kept as metadata.

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
    """Return the user id of a record from the first of ``names`` that it has.

    Raises:
        FieldError: It has none of them, or the value cannot be an id.
    """
    for name in names:
        if name in record:
            user_id = _scalar(name, record[name])
            if problem := id_problem(user_id):
                raise FieldError(name, problem)
            return user_id
    raise FieldError(names[0], "is missing")


def parse_time(field: str, text: str) -> datetime | None:
    """Return the UTC time of a year, a date or an ISO-8601 time; ``None`` for an empty text.

    A time without a timezone counts as UTC, a year as its first day.

    Raises:
        FieldError: It is none of these.
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
    raise FieldError(field, f"{text[:40]!r} is no time; write YYYY, YYYY-MM-DD or an ISO-8601 time")


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
    # A free text is parsed by cutting it to the length an answer may have; the history keeps all.
    whole = response.strip()
    response = whole if whole.startswith(parsed) else parsed
    interaction = Interaction(
        id=_content_id(query, response, str(timestamp), metadata) if given_id is None else given_id,
        user_id=user_id,
        query=query.strip(),
        response=response,
        timestamp=timestamp,
        metadata=metadata,
    )
    if found := interaction_problem(interaction):
        raise FieldError(*found)
    return interaction


def _content_id(*content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _as_text(record: Mapping[str, object], but: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        name: _scalar(name, value) for name, value in record.items() if value is not None and name not in but
    }


def _scalar(name: str, value: object) -> str:
    # Ids, years and scores were seen both as text and as numbers.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(name, f"must be text or a number, not {_kind(value)}")
    return str(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "a truth value", str: "text", type(None): "null"}
    return names.get(type(value), "a number")
