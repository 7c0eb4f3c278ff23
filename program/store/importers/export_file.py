"""Reads an export of one user (`program.store.exported`): interactions, profile and persona versions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from program.errors import DataError, ForgottenUserError, UnparsableAnswerError
from program.files import TextFile
from program.json_text import JsonError, parse
from program.memory.interaction import Interaction
from program.memory.semantic import Profile
from program.persona import Persona
from program.plain import FieldError, decode
from program.store.exported import SCHEMA
from program.store.importers.report import ImportReport
from program.store.records import PersonaSource, PersonaVersion
from program.store.user_store import UserStore
from program.task import Task, get_task, task_spec
from program.text import counted
from program.values import to_time

_START = re.compile(rb'\{\s*"schema"\s*:\s*"personaagent\.export/')
_MOST_BYTES = 1 << 30
_PROFILE = TypeAdapter(Profile)
_NOT_CARRIED = ("alignments", "costs", "audit", "keys", "traces")


@dataclass(frozen=True, kw_only=True)
class _User:
    user_id: str
    task: str
    stale: bool = False
    stale_since: str | None = None
    pinned: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Item:
    id: str
    query: str
    response: str
    timestamp: str | None = None
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Version:
    version: int
    text: str
    parent: int | None = None
    source: PersonaSource
    why: str
    created_at: str
    alignment_id: str | None = None
    parts: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _Export:
    schema: str
    user: _User
    interactions: Sequence[_Item]
    personas: Sequence[_Version] = ()
    profile: Mapping[str, Any] | None = None


def is_export(source: TextFile) -> bool:
    """Return whether a file is an export of a user."""
    return _START.match(source.head()) is not None


def import_export(store: UserStore, source: TextFile, task: str | None) -> ImportReport:
    """Store the user of an export, who stays forgotten if the store says so.

    Profile and persona versions are taken over if the user has none in the store, and if all of the
    interactions, on which they may rest, are there.

    Args:
        store: Receives the user.
        source: The export.
        task: Must be the user's task; ``None`` to trust the file.

    Raises:
        DataError: The file is damaged; the message names the field. Nothing is stored.
        StoreError: As for `program.store.importers.run.import_users`.
    """
    held, content = _read(source)
    spec = task_spec(held.user.task)
    if task not in (None, spec):
        raise DataError(f"`{source.name}` is an export of a user of task {spec!r}; leave out `--task`")
    user_id = held.user.user_id
    items = _interactions(source, held, get_task(spec))
    versions = _versions(source, held)
    profile = _profile(source, held)
    stale_since = _time(source, "user.stale_since", held.user.stale_since)
    try:
        new = store.append(user_id, items, task=spec)
    except ForgottenUserError:
        return ImportReport(users=1, interactions=len(items), new=0, forgotten=1)
    left_out = [name for name in _NOT_CARRIED if _has_content(content.get(name))]
    warnings = [f"left out, because an import cannot carry it: {', '.join(left_out)}"] if left_out else []
    if versions or profile is not None:
        known = {item.id for item in store.interactions(user_id)}
        if not known.issuperset(item.id for item in items):
            warnings.append("left out, because interactions that it may quote are forgotten: the persona")
        elif not store.restore(
            user_id,
            versions,
            profile=profile,
            pinned=held.user.pinned,
            stale=held.user.stale,
            stale_since=stale_since,
        ):
            warnings.append("left out, because the user has one in this store: the persona")
    return ImportReport(users=1, interactions=len(items), new=new, warnings=tuple(warnings))


def _read(source: TextFile) -> tuple[_Export, Mapping[str, Any]]:
    if source.size > _MOST_BYTES:
        raise DataError(f"`{source.name}` has more than {_MOST_BYTES >> 20} MB; export it without traces")
    source.file.seek(source.start)
    try:
        content = parse(source.file.read())
        held = decode(_Export, content)
    except JsonError as error:
        raise DataError(f"`{source.name}` {error}; export the user again, or restore a copy") from error
    except FieldError as error:
        raise _damaged(source, str(error)) from error
    if held.schema != SCHEMA:
        raise DataError(
            f"`{source.name}` has schema {held.schema[:40]!r}, but this version reads {SCHEMA!r}: "
            "update personaagent"
        )
    return held, content


def _interactions(source: TextFile, held: _Export, task: Task) -> list[Interaction]:
    items = []
    for number, item in enumerate(held.interactions):
        at = f"interactions[{number}]"
        try:
            task.response_type.parse(item.response)
        except UnparsableAnswerError as error:
            problem = f"field `{at}.response` does not fit task {task.name}: {error}"
            raise _damaged(source, problem) from error
        items.append(
            Interaction(
                id=item.id,
                user_id=held.user.user_id,
                query=item.query,
                response=item.response,
                timestamp=_time(source, f"{at}.timestamp", item.timestamp),
                metadata=item.metadata,
            )
        )
    return items


def _versions(source: TextFile, held: _Export) -> list[PersonaVersion]:
    """Return the persona versions, which must be numbered upwards and have parents among them."""
    versions: list[PersonaVersion] = []
    seen: set[int] = set()
    for number, row in enumerate(held.personas):
        at = f"personas[{number}]"
        if row.version <= max(seen, default=0):
            raise _damaged(source, f"field `{at}.version` is not above the version before it")
        if row.parent is not None and row.parent not in seen:
            raise _damaged(source, f"field `{at}.parent` is no version before it")
        if row.parts is not None:
            try:
                Persona.from_dict(row.parts)
            except DataError as error:
                raise _damaged(source, f"field `{at}.parts`: {error}") from error
        seen.add(row.version)
        created = _time(source, f"{at}.created_at", row.created_at)
        if created is None:
            raise _damaged(source, f"field `{at}.created_at` is empty")
        versions.append(PersonaVersion(**{**vars(row), "user_id": held.user.user_id, "created_at": created}))
    if held.user.pinned is not None and held.user.pinned not in seen:
        raise _damaged(source, "field `user.pinned` is no version in it")
    return versions


def _profile(source: TextFile, held: _Export) -> Profile | None:
    if held.profile is None:
        return None
    try:
        return _PROFILE.validate_python(held.profile.get("parts"))
    except ValidationError as error:
        raise _damaged(
            source, f"field `profile.parts` has {counted(error.error_count(), 'error')}"
        ) from error


def _time(source: TextFile, field: str, text: str | None) -> datetime | None:
    try:
        return to_time(text)
    except ValueError as error:
        raise _damaged(source, f"field `{field}`: {error}") from error


def _damaged(source: TextFile, problem: str) -> DataError:
    return DataError(f"`{source.name}`: {problem}; export the user again, or restore a copy")


def _has_content(value: object) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)
