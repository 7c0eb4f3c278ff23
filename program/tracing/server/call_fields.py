"""Translates the fields and filters of a call query to SQL."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from program.tracing.server.database import name_id
from program.tracing.server.query import Field, Sql, all_params, compile_query, json_at
from program.tracing.server.request_errors import BadRequestError

OP = "(SELECT text FROM names WHERE id = c.op)"
TRACE_NAME = "(SELECT short FROM names WHERE id = c.op)"
STATUS = (
    "CASE WHEN c.failed THEN 'error' WHEN c.ended_at IS NULL THEN 'running' "
    "WHEN c.errors > 0 THEN 'descendant_error' ELSE 'success' END"
)

_PLAIN = (
    "id trace_id parent_id display_name thread_id turn_id wb_user_id wb_run_id wb_run_step wb_run_step_end"
)
_COLUMNS = {name: f"c.{name}" for name in _PLAIN.split()}
_COMPUTED = {
    "op_name": OP,
    "project_id": "(SELECT text FROM names WHERE id = c.project)",
    "exception": "plain((SELECT exception FROM payloads WHERE seq = c.seq))",
    "summary.weave.status": f"({STATUS})",
    "summary.weave.latency_ms": "((c.ended_at - c.started_at) / 1000)",
    "summary.weave.trace_name": TRACE_NAME,
    "summary.weave.display_name": f"coalesce(c.display_name, {TRACE_NAME})",
    # Copied from the attributes when written, because columns can have indexes.
    "attributes.user_id": "c.user_id",
    "attributes.run_id": "c.run_id",
    "attributes.step": "c.step",
    "deleted_at": "NULL",
}
_DOCUMENTS = {
    "summary": "c.summary",
    **{
        name: f"plain((SELECT {name} FROM payloads WHERE seq = c.seq))"
        for name in ("attributes", "inputs", "output")
    },
}
_FEEDBACK = re.compile(r"feedback\.\[([^\]]+)\]\.?(.*)")


def call_field(path: str) -> Field:
    """Return the field of a call at a dotted path; see `program.tracing.server.query.Fields`.

    Raises:
        BadRequestError: Calls have no such field.
    """
    if path in ("started_at", "ended_at"):
        return Field(Sql(f"c.{path}"), "time")
    column = _COLUMNS.get(path) or _COMPUTED.get(path)
    if column is not None:
        return Field(Sql(column))
    if match := _FEEDBACK.fullmatch(path):
        return _feedback_field(match[1], match[2])
    root, *rest = path.split(".")
    if root in _DOCUMENTS:
        return Field(json_at(_DOCUMENTS[root], rest))
    raise BadRequestError(f"calls have no field {path!r:.80}")


def _feedback_field(kind: str, path: str) -> Field:
    rows = Sql("FROM feedback f WHERE f.project = c.project AND f.call_id = c.id")
    if kind != "*":
        rows = Sql(f"{rows.text} AND f.feedback_type = ?", (kind,))
    return Field(json_at("f.body", path.split(".") if path else []), rows=rows)


_LISTS = {
    "parent_ids": "c.parent_id",
    "trace_ids": "c.trace_id",
    "call_ids": "c.id",
    "thread_ids": "c.thread_id",
    "turn_ids": "c.turn_id",
    "wb_user_ids": "c.wb_user_id",
    "wb_run_ids": "c.wb_run_id",
}


def call_conditions(
    db: sqlite3.Connection,
    project: str,
    filter_: Mapping[str, Any] | None,
    query: Mapping[str, Any] | None,
) -> Sql:
    """Return the ``WHERE`` condition of a call query over ``calls c``. All parts must hold.

    Raises:
        BadRequestError: A filter, operator or field is unknown.
    """
    parts = [Sql("c.project = ? AND c.started_at IS NOT NULL", (name_id(db, project),))]
    for name, value in (filter_ or {}).items():
        if value is None:
            continue
        if name in _LISTS:
            parts.append(_one_of(_LISTS[name], value))
        elif name == "op_names":
            parts.append(_op_names(value))
        elif name in ("input_refs", "output_refs"):
            parts.append(_refs(value, side=int(name == "output_refs")))
        elif name == "with_failures":
            # Not one of Weave's filters. The same expression as in the index on failed traces.
            parts.append(Sql("(c.failed OR c.errors > 0)" if value else "1"))
        elif name == "trace_roots_only":
            parts.append(Sql("c.parent_id IS NULL" if value else "1"))
        else:
            raise BadRequestError(f"calls have no filter {name!r:.60}")
    if query:
        parts.append(compile_query(query, call_field))
    return Sql(" AND ".join(part.text for part in parts), all_params(parts))


def _one_of(column: str, values: list[Any]) -> Sql:
    if len(values) == 1:
        # With `=`, SQLite uses the column's own index, which is sorted by time.
        return Sql(f"{column} = ?", (values[0],))
    return Sql(f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(values),))


def _op_names(names: list[str]) -> Sql:
    exact = [name for name in names if not name.endswith(":*")]
    texts = ["text IN (SELECT value FROM json_each(?))"]
    params: list[Any] = [json.dumps(exact)]
    for name in names:
        if name.endswith(":*"):
            texts.append("substr(text, 1, ?) = ?")
            params += [len(name) - 1, name[:-1]]
    return Sql(f"c.op IN (SELECT id FROM names WHERE {' OR '.join(texts)})", tuple(params))


def _refs(refs: list[str], *, side: int) -> Sql:
    texts, params = [], []
    for ref in refs:
        if ref.endswith(":*"):
            texts.append("substr(r.ref, 1, ?) = ?")
            params += [len(ref) - 1, ref[:-1]]
        else:
            texts.append("r.ref = ?")
            params.append(ref)
    condition = " OR ".join(texts) or "0"
    return Sql(
        "c.seq IN (SELECT r.seq FROM call_refs r "
        f"WHERE r.project = c.project AND r.side = {side} AND ({condition}))",
        tuple(params),
    )
