"""Prices of models, and what a call's tokens cost at them."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Mapping
from typing import Any

from program.tracing.server.codec import dumps, iso, micros
from program.tracing.server.database import Database, known_name
from program.tracing.server.query import BadRequestError, Field, Sql, compile_query, json_at

_PRICES = {
    "prompt_token_cost": ("prompt_tokens", "input_tokens"),
    "completion_token_cost": ("completion_tokens", "output_tokens"),
}


def create_costs(store: Database, db: sqlite3.Connection, request: Mapping[str, Any]) -> list[list[str]]:
    """Store prices per token; return ``[cost id, model]`` pairs."""
    project = store.name(db, request["project_id"])
    made = []
    for llm_id, price in request["costs"].items():
        cost_id, when = str(uuid.uuid4()), price.get("effective_date")
        at = time.time_ns() // 1000 if when is None else micros(when)
        body = {**price, "effective_date": iso(at), "id": cost_id, "llm_id": llm_id}
        db.execute(
            "INSERT INTO costs (project, id, llm_id, effective_date, body) VALUES (?, ?, ?, ?, ?)",
            (project, cost_id, llm_id, at, dumps(body)),
        )
        made.append([cost_id, llm_id])
    return made


def _cost_field(path: str) -> Field:
    if path in ("id", "llm_id"):
        return Field(Sql(f"t.{path}"))
    if path == "effective_date":
        return Field(Sql("t.effective_date"), "time")
    return Field(json_at("t.body", path.split(".")))


def query_costs(db: sqlite3.Connection, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one page of prices, newest last."""
    where = _where(db, request)
    limit = request.get("limit")
    rows = db.execute(
        f"SELECT body FROM costs t WHERE {where.text} ORDER BY t.seq LIMIT ? OFFSET ?",
        (*where.params, -1 if limit is None else int(limit), int(request.get("offset") or 0)),
    )
    return [json.loads(body) for (body,) in rows]


def purge_costs(db: sqlite3.Connection, request: Mapping[str, Any]) -> None:
    """Delete the prices that match; a query is demanded, as Weave's client always sends one.

    Raises:
        BadRequestError: No query.
    """
    if not request.get("query"):
        raise BadRequestError("`query` is needed to purge costs")
    where = _where(db, request)
    db.execute(f"DELETE FROM costs AS t WHERE {where.text}", where.params)


def _where(db: sqlite3.Connection, request: Mapping[str, Any]) -> Sql:
    text, params = "t.project = ?", (known_name(db, request["project_id"]),)
    if request.get("query"):
        query = compile_query(request["query"], _cost_field)
        return Sql(f"{text} AND {query.text}", (*params, *query.params))
    return Sql(text, params)


def cost_of(db: sqlite3.Connection, project: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return costs by model for a call's summed usage, at the latest price known at its start."""
    number, costs = known_name(db, project), {}
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
        one = dict(usage)
        for name, tokens in _PRICES.items():
            used = sum(usage.get(key) or 0 for key in tokens)
            one[name] = price.get(name)
            one[tokens[0] + "_total_cost"] = None if price.get(name) is None else used * price[name]
        costs[model] = one
    return costs
