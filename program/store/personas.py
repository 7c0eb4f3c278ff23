"""The `pa_personas` table: add persona versions, never change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select

from program import corrections
from program.errors import DataError, PinnedPersonaError, StoreError, UnknownVersionError
from program.persona import Persona, first_persona
from program.store import interactions, users
from program.store.records import PersonaSource, PersonaVersion, UserSummary
from program.store.schema import personas
from program.store.schema import users as all_users
from program.task import get_task
from program.text_safety import find_problem

_CURRENT = (
    select(personas)
    .join(all_users, all_users.c.user_id == personas.c.user_id)
    .where(
        all_users.c.user_id == bindparam("user"),
        personas.c.version == func.coalesce(all_users.c.pinned, all_users.c.head),
    )
)


def add(
    connection: Connection,
    user_id: str,
    text: str,
    *,
    source: PersonaSource,
    why: str,
    parent: int | None = None,
    expect_head: int | None = None,
    settled: int = 0,
    since: datetime | None = None,
    alignment_id: str | None = None,
    parts: Mapping[str, Any] | None = None,
    has_corrections: bool = False,
) -> PersonaVersion:
    """Add a version and make it the current one (see `UserStore.add_persona`).

    The user's number of settled interactions never gets smaller; ``since`` as in `users.settle`. What the
    person corrected is put back unless the version has it already.

    Raises:
        PinnedPersonaError: A version is pinned.
    """
    _check_texts(user_id, text=text, why=why)
    user = users.get(connection, user_id, lock=True)
    refuse_pinned(user)
    if expect_head is not None and expect_head != user.head:
        raise StoreError(
            f"the persona of user {user_id!r} is now version {user.head}, not {expect_head}: it "
            "changed in the meantime; read the current version and try again"
        )
    if parent is not None:
        get(connection, user_id, parent)
    if not has_corrections:
        text, parts = with_corrections(connection, user, text, parts)
    # Only `forget` deletes versions, all at once: the head is always the highest version.
    version = user.head + 1
    created = users.now()
    row = {
        "user_id": user_id,
        "version": version,
        "text": text,
        "parent": parent or user.head or None,
        "source": source,
        "why": why,
        "created_at": created,
        "alignment_id": alignment_id,
        "parts": None if parts is None else _with_origin(parts, version),
    }
    connection.execute(insert(personas), row)
    users.settle(connection, user, settled, since or created, head=version)
    return get(connection, user_id, version)


def with_corrections(
    connection: Connection, user: Row[Any], text: str, parts: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any] | None]:
    """Return the text and the parts of a persona with what the person has corrected until now."""
    before = _parts(get(connection, user.user_id, user.head)) if user.head else None
    if before is None or not before.is_corrected:
        return text, parts
    from program.evidence import collect  # brings regex

    new = text if parts is None else Persona.from_dict(parts)
    kept = corrections.keep_corrections(new, before)
    if kept == new or not isinstance(kept, Persona):
        return text, parts
    evidence = collect(interactions.latest(connection, user.user_id, None), get_task(user.task))
    kept = corrections.fit(kept, evidence)
    return kept.render(evidence), kept.as_dict()


def _parts(version: PersonaVersion) -> Persona | None:
    """Return the parts of a version; ``None`` without any that can be read."""
    if version.parts is not None:
        with suppress(DataError):
            return Persona.from_dict(version.parts)
    return None


def correctable(version: PersonaVersion | None) -> Persona:
    """Return the parts that a person can correct: of a version, of its free text, or of the first persona."""
    if version is None:
        return first_persona()
    return _parts(version) or Persona.of_text(version.text)


def correct(
    connection: Connection, user_id: str, *, line: str | int | None, text: str | None, why: str
) -> PersonaVersion:
    """Add a version with a correction of the person (see `UserStore.correct`)."""
    from program.evidence import collect  # brings regex

    user = users.get(connection, user_id, lock=True)
    refuse_pinned(user)
    evidence = collect(interactions.latest(connection, user_id, None), get_task(user.task))
    now = get(connection, user_id, user.head) if user.head else None
    persona = correctable(now)
    day = users.now().date().isoformat()
    corrected = corrections.correct(persona, evidence, line=line, text=text, day=day)
    persona = corrections.fit(corrected, evidence)
    what = "added" if line is None else "took out" if text is None else "replaced"
    return add(
        connection,
        user_id,
        persona.render(evidence),
        source="correction",
        why=why or f"the person {what} a line",
        parts=persona.as_dict(),
        has_corrections=True,
    )


def restore(
    connection: Connection, user_id: str, versions: Sequence[PersonaVersion], pinned: int | None
) -> None:
    """Add the versions of a user who has none, with their numbers, times and reasons.

    Args:
        connection: In a write transaction that holds the user's lock.
        user_id: The user.
        versions: In rising order; each parent is one of them.
        pinned: The version to pin, one of them; ``None`` for none.
    """
    for row in versions:
        _check_texts(user_id, text=row.text, why=row.why)
    connection.execute(insert(personas), [{**vars(row), "user_id": user_id} for row in versions])
    users.change(connection, user_id, head=versions[-1].version, pinned=pinned)


def _check_texts(user_id: str, **texts: str) -> None:
    for field, value in texts.items():
        if problem := find_problem(value):
            raise StoreError(f"the persona of user {user_id!r} cannot be stored: `{field}` {problem}")


def approve(connection: Connection, user_id: str, version: int) -> PersonaVersion:
    """Add a version that keeps the current text because a person approved it (see `UserStore.approve`)."""
    user = users.get(connection, user_id, lock=True)
    refuse_pinned(user)
    old = get(connection, user_id, version)
    if version != user.head:
        raise StoreError(
            f"version {version} of user {user_id!r} is not the current one, which is {user.head}: roll back "
            "to it first"
        )
    why = f"version {version} approved by a person"
    return add(connection, user_id, old.text, source="approval", why=why, parts=old.parts)


def refuse_pinned(user: Row[Any] | UserSummary) -> None:
    """Raise `PinnedPersonaError` if a version of the user is pinned."""
    if user.pinned is not None:
        raise PinnedPersonaError(
            f"the persona of user {user.user_id!r} is pinned at version {user.pinned} and does not change; "
            "`personaagent persona unpin USER` lets it change again"
        )


def pin(connection: Connection, user_id: str, version: int) -> PersonaVersion:
    """Pin a version and return it (see `UserStore.pin`)."""
    user = users.get(connection, user_id, lock=True)
    pinned = get(connection, user_id, version)
    if with_corrections(connection, user, pinned.text, pinned.parts) != (pinned.text, pinned.parts):
        raise StoreError(
            f"version {version} of user {user_id!r} lacks what the person corrected since; "
            f"`personaagent persona rollback USER {version}` makes a version that has both: pin that one"
        )
    users.change(connection, user_id, pinned=version)
    return pinned


def unpin(connection: Connection, user_id: str) -> PersonaVersion | None:
    """Let the persona change again; return the version that is current now, ``None`` without a persona."""
    user = users.get(connection, user_id, lock=True)
    users.change(connection, user_id, pinned=None)
    return get(connection, user_id, user.head) if user.head else None


def _with_origin(parts: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return the parts with ``version`` as the origin of lines that have none."""
    lines = {
        name: [{**line, "since": line.get("since") or version} for line in parts[name]]
        for name in ("lines", "removed")
        if name in parts
    }
    return {**parts, "lines": [], **lines}


def get(connection: Connection, user_id: str, version: int) -> PersonaVersion:
    """Return one version.

    Raises:
        UnknownVersionError: The user has no such version.
    """
    row = connection.execute(
        select(personas).where(personas.c.user_id == user_id, personas.c.version == version)
    ).one_or_none()
    if row is None:
        raise UnknownVersionError(
            f"user {user_id!r} has no persona version {version!r}; "
            "`personaagent persona history USER` lists them"
        )
    return _version(row)


def current(connection: Connection, user_id: str) -> PersonaVersion | None:
    """Return the version that agents read, in one query; ``None`` if the user has no persona.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
    """
    row = connection.execute(_CURRENT, {"user": user_id}).one_or_none()
    if row is None:
        version = users.current(users.get(connection, user_id))
        return get(connection, user_id, version) if version else None
    return _version(row)


def history(connection: Connection, user_id: str) -> list[PersonaVersion]:
    """Return all versions, oldest first."""
    users.get(connection, user_id)
    query = select(personas).where(personas.c.user_id == user_id).order_by(personas.c.version)
    return [_version(row) for row in connection.execute(query)]


def _version(row: Row[Any]) -> PersonaVersion:
    return PersonaVersion(**row._mapping)
