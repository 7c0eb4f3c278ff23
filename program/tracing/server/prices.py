"""Stores prices of models and computes the cost of a call's tokens."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Mapping
from typing import Any

from program.tracing.server.codec import dumps, iso, micros
from program.tracing.server.database import Database, name_id
from program.tracing.server.query import Field, Sql, json_at, limit_and_offset, project_condition
from program.tracing.server.request_errors import BadRequestError

_PRICES = {
    "prompt_token_cost": ("prompt_tokens", "input_tokens"),
    "completion_token_cost": ("completion_tokens", "output_tokens"),
}


def create_costs(database: Database, db: sqlite3.Connection, request: Mapping[str, Any]) -> list[list[str]]:
    """Store prices per token and return ``[cost id, model]`` pairs."""
    project = database.intern_name(db, request["project_id"])
    ids = []
    for llm_id, price in request["costs"].items():
        cost_id, date = str(uuid.uuid4()), price.get("effective_date")
        effective = time.time_ns() // 1000 if date is None else micros(date)
        body = {**price, "effective_date": iso(effective), "id": cost_id, "llm_id": llm_id}
        db.execute(
            "INSERT INTO costs (project, id, llm_id, effective_date, body) VALUES (?, ?, ?, ?, ?)",
            (project, cost_id, llm_id, effective, dumps(body)),
        )
        ids.append([cost_id, llm_id])
    return ids


def _cost_field(path: str) -> Field:
    if path in ("id", "llm_id"):
        return Field(Sql(f"t.{path}"))
    if path == "effective_date":
        return Field(Sql("t.effective_date"), "time")
    return Field(json_at("t.body", path.split(".")))


def query_costs(db: sqlite3.Connection, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one page of prices, newest last."""
    where = _where(db, request)
    rows = db.execute(
        f"SELECT body FROM costs t WHERE {where.text} ORDER BY t.seq LIMIT ? OFFSET ?",
        (*where.params, *limit_and_offset(request)),
    )
    return [json.loads(body) for (body,) in rows]


def purge_costs(db: sqlite3.Connection, request: Mapping[str, Any]) -> None:
    """Delete the prices that match the query.

    Raises:
        BadRequestError: There is no query. Weave's client always sends one.
    """
    if not request.get("query"):
        raise BadRequestError("`query` is required to purge costs")
    where = _where(db, request)
    db.execute(f"DELETE FROM costs AS t WHERE {where.text}", where.params)


def _where(db: sqlite3.Connection, request: Mapping[str, Any]) -> Sql:
    return project_condition(name_id(db, request["project_id"]), request, _cost_field)


def cost_of(db: sqlite3.Connection, project: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return costs by model for a call's usage, including the calls below it.

    Uses the latest price that was in force at the start of the call, or else the earliest one.
    """
    number, costs = name_id(db, project), {}
    for model, usage in (call["summary"].get("usage") or {}).items():
        row = (
            db.execute(
                "SELECT body FROM costs WHERE project = ? AND llm_id = ? AND effective_date <= ? "
                "ORDER BY effective_date DESC, seq DESC LIMIT 1",
                (number, model, micros(call["started_at"])),
            ).fetchone()
            or db.execute(
                "SELECT body FROM costs WHERE project = ? AND llm_id = ? ORDER BY effective_date LIMIT 1",
                (number, model),
            ).fetchone()
        )
        price = json.loads(row[0]) if row else {}
        cost = dict(usage)
        for name, fields in _PRICES.items():
            tokens = sum(usage.get(field) or 0 for field in fields)
            cost[name] = price.get(name)
            cost[fields[0] + "_total_cost"] = None if price.get(name) is None else tokens * price[name]
        costs[model] = cost
    return costs
