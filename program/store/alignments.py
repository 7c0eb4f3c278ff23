"""The `pa_alignments` and `pa_steps` tables: start, checkpoint and end alignment runs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, select

from program.errors import StoreError
from program.processes import is_dead, process_name
from program.store import costs, personas, users
from program.store.records import AlignmentRow, AlignmentStatus, PersonaVersion
from program.store.schema import alignments, steps
from program.store.schema import trials as all_trials
from program.text_safety import repair

if TYPE_CHECKING:
    from program.usage import Usage


def start(connection: Connection, user_id: str, config: Mapping[str, Any]) -> str:
    """Add a running alignment and return its id; runs of dead processes become interrupted.

    Raises:
        PinnedPersonaError: A persona version is pinned.
    """
    user = users.get(connection, user_id, lock=True)
    personas.refuse_pinned(user)
    for row in _rows(connection, user_id):
        if row.status == "running" and is_dead(row.owner):
            _set(connection, row, status="interrupted", ended_at=users.now())
    last = connection.scalar(select(func.max(alignments.c.number)).where(alignments.c.user_id == user_id))
    alignment_id = uuid.uuid4().hex
    values = {
        "user_id": user_id,
        "id": alignment_id,
        "number": (last or 0) + 1,
        "status": "running",
        "owner": process_name(),
        "started_at": users.now(),
        "ended_at": None,
        "head": user.head,
        "interactions": user.interactions,
        "config": dict(config),
        "record": {},
        "error": "",
    }
    connection.execute(insert(alignments), values)
    return alignment_id


def save_step(
    connection: Connection, user_id: str, alignment_id: str, number: int, data: Mapping[str, Any]
) -> None:
    """Store one step of a running alignment; an existing step with this number is replaced."""
    _running(connection, user_id, alignment_id)
    _put_step(connection, user_id, alignment_id, number, data)


def _put_step(
    connection: Connection, user_id: str, alignment_id: str, number: int, data: Mapping[str, Any]
) -> None:
    keys = {"user_id": user_id, "alignment_id": alignment_id, "number": number}
    users.put(connection, steps, keys, {"data": dict(data)})


def read_steps(connection: Connection, user_id: str, alignment_id: str) -> list[dict[str, Any]]:
    """Return the stored steps, in order."""
    _get(connection, user_id, alignment_id)
    query = select(steps.c.data).where(steps.c.user_id == user_id, steps.c.alignment_id == alignment_id)
    return list(connection.scalars(query.order_by(steps.c.number)))


def finish(
    connection: Connection,
    user_id: str,
    alignment_id: str,
    record: Mapping[str, Any],
    persona: tuple[str, str] | None,
    *,
    parts: Mapping[str, Any] | None = None,
    trials: Sequence[tuple[float, float]] = (),
    cohort: str = "",
    cost: Usage | None = None,
    last_steps: Mapping[int, Mapping[str, Any]] | None = None,
) -> PersonaVersion | None:
    """End a running alignment and add its last steps, its cost, its trials and its new persona, if any."""
    row = _running(connection, user_id, alignment_id)
    ended = users.now()
    for number, data in (last_steps or {}).items():
        _put_step(connection, user_id, alignment_id, number, data)
    _set(connection, row, status="done", ended_at=ended, record=dict(record))
    paid = costs.amounts_of_record(record) if cost is None else costs.amounts(cost)
    costs.add(connection, user_id, ended, alignments=1, **paid, **costs.scores_of_record(record))
    for number, (n_plus, n_minus) in enumerate(trials, 1):
        values = {
            "user_id": user_id,
            "alignment_id": alignment_id,
            "number": number,
            "cohort": cohort,
            "n_plus": n_plus,
            "n_minus": n_minus,
            "created_at": ended,
        }
        connection.execute(insert(all_trials), values)
    if persona is not None:
        text, why = persona
        return personas.add(
            connection,
            user_id,
            text,
            source="alignment",
            why=why,
            expect_head=row.head,
            settled=row.interactions,
            since=row.started_at,
            alignment_id=alignment_id,
            parts=parts,
        )
    # The run confirmed the persona on these interactions: they no longer make it stale.
    users.settle(connection, users.get(connection, user_id), row.interactions, row.started_at)
    return None


def read_trials(connection: Connection, cohort: str, excluding: str, limit: int) -> list[tuple[float, float]]:
    """Return gains and losses of the cohort's trials, but those of one user, newest first."""
    query = (
        select(all_trials.c.n_plus, all_trials.c.n_minus)
        .where(all_trials.c.cohort == cohort, all_trials.c.user_id != excluding)
        # The ids settle the order of equal times.
        .order_by(
            all_trials.c.created_at.desc(),
            all_trials.c.user_id,
            all_trials.c.alignment_id,
            all_trials.c.number.desc(),
        )
        .limit(limit)
    )
    return [(n_plus, n_minus) for n_plus, n_minus in connection.execute(query)]


def fail(
    connection: Connection,
    user_id: str,
    alignment_id: str,
    error: str,
    usage: Mapping[str, Usage],
    cost: Usage | None,
) -> None:
    """End a running alignment as failed, and add its cost."""
    row = _running(connection, user_id, alignment_id)
    ended = users.now()
    record = {"usage": {stage: asdict(used) for stage, used in usage.items()}} if usage else {}
    _set(connection, row, status="failed", ended_at=ended, error=repair(error), record=record)
    paid = costs.amounts_of_record(record) if cost is None else costs.amounts(cost)
    costs.add(connection, user_id, ended, failed=1, **paid)


def interrupt(connection: Connection, user_id: str, since: datetime) -> None:
    """End running alignments that started at a time or later: their process is known to have ended."""
    users.get(connection, user_id, lock=True)
    for row in _rows(connection, user_id):
        if row.status == "running" and row.started_at >= since:
            _set(connection, row, status="interrupted", ended_at=users.now())


def history(connection: Connection, user_id: str) -> list[AlignmentRow]:
    """Return the user's alignments, oldest first."""
    users.get(connection, user_id)
    return [_alignment(row) for row in _rows(connection, user_id)]


def latest(connection: Connection, user_id: str, status: AlignmentStatus) -> AlignmentRow | None:
    """Return the newest alignment with this status, or ``None``."""
    users.get(connection, user_id)
    query = select(alignments).where(alignments.c.user_id == user_id).order_by(alignments.c.number.desc())
    if status in ("done", "failed"):
        query = query.where(alignments.c.status == status).limit(1)
    else:
        # A run of a dead process is still stored as running.
        query = query.where(alignments.c.status.in_(("running", "interrupted")))
    rows = (_alignment(row) for row in connection.execute(query))
    return next((row for row in rows if row.status == status), None)


def last_tries(connection: Connection, user_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the newest alignment that ended, well or with an error, started, by user."""
    columns = alignments.c
    query = (
        select(columns.user_id, func.max(columns.started_at))
        .where(columns.user_id.in_(user_ids), columns.status.in_(("done", "failed")))
        .group_by(columns.user_id)
    )
    return {user_id: started_at for user_id, started_at in connection.execute(query)}


def _rows(connection: Connection, user_id: str) -> list[Row[Any]]:
    query = select(alignments).where(alignments.c.user_id == user_id).order_by(alignments.c.number)
    return list(connection.execute(query))


def _get(connection: Connection, user_id: str, alignment_id: str) -> Row[Any]:
    row = connection.execute(
        select(alignments).where(alignments.c.user_id == user_id, alignments.c.id == alignment_id)
    ).one_or_none()
    if row is None:
        raise StoreError(f"user {user_id!r} has no alignment {alignment_id!r}")
    return row


def _running(connection: Connection, user_id: str, alignment_id: str) -> Row[Any]:
    users.get(connection, user_id, lock=True)
    row = _get(connection, user_id, alignment_id)
    if row.status != "running":
        raise StoreError(
            f"alignment {alignment_id!r} of user {user_id!r} has ended ({row.status}); start a new one"
        )
    return row


def _set(connection: Connection, row: Row[Any], **values: Any) -> None:
    key = (alignments.c.user_id == row.user_id, alignments.c.id == row.id)
    connection.execute(alignments.update().where(*key).values(values))


def _alignment(row: Row[Any]) -> AlignmentRow:
    status: AlignmentStatus = row.status
    if status == "running" and is_dead(row.owner):
        status = "interrupted"
    return AlignmentRow(
        id=row.id,
        user_id=row.user_id,
        status=status,
        started_at=row.started_at,
        ended_at=row.ended_at,
        config=row.config,
        record=row.record,
        error=row.error,
    )
