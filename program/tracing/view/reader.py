"""Reads traces as data, for the terminal, the trace page and scripts.

Reads Weave's own records, so it also shows calls that Weave's client wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from program.errors import StoreError
from program.text_safety import repair
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT
from program.tracing.view.texts import TELLING, call_texts, mapping

Status = Literal["success", "error", "running", "descendant_error", "interrupted", "damaged"]

MAX_CALLS = 20_000
"""Number of calls read per trace; a longer trace is cut off."""

MAX_DEPTH = 100
"""Levels of calls shown per trace; deeper ones are left out."""

MAX_MATCHES = 5_000
"""Questions that a search reads, the newest first."""


@dataclass(frozen=True, kw_only=True)
class CallLine:
    """One call without its inputs and output.

    Attributes:
        name: The span's name; ops of Weave keep their own.
        title: Tells siblings apart (``step 2``); may be empty.
        seconds: Wall time; ``None`` while the call is open.
        model_calls: Language model calls in this call and below.
        tokens: Input and output tokens in this call and below.
        usd: Known cost of this call and below; a lower bound if ``unpriced`` is above zero.
        unpriced: Model calls without a known price.
    """

    id: str
    trace_id: str
    parent_id: str | None
    name: str
    title: str
    user_id: str | None
    run_id: str | None
    started: str
    seconds: float | None
    status: Status
    model_calls: int
    tokens: int
    usd: float
    unpriced: int


@dataclass(frozen=True, kw_only=True)
class CallNode:
    """A call and the calls below it, in order of start. Steps have a decision.

    Attributes:
        texts: What was asked, answered and said (`program.tracing.view.texts`), without what the call
            above says already; empty unless they were asked for.
    """

    line: CallLine
    children: Sequence[CallNode] = ()
    decision: Mapping[str, Any] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


def call_line(call: Mapping[str, Any]) -> CallLine:
    """Return the line of a call record in Weave's wire format."""
    summary = call["summary"]
    weave, cost = summary["weave"], mapping(summary.get("cost"))
    usage = [mapping(model) for model in mapping(summary.get("usage")).values()]
    status = weave["status"]
    if status == "error":
        kind = _kind_of_error(call.get("exception"))
        status = {"Interrupted": "interrupted", "InterruptedError": "interrupted", "Damaged": "damaged"}.get(
            kind, status
        )
    attributes = call["attributes"]
    latency = weave["latency_ms"]
    return CallLine(
        id=call["id"],
        trace_id=call["trace_id"],
        parent_id=call["parent_id"],
        name=str(weave["trace_name"]).removeprefix("personaagent."),
        title=str(call["display_name"] or ""),
        user_id=_text(attributes.get("user_id")),
        run_id=_text(attributes.get("run_id")),
        started=call["started_at"],
        seconds=None if latency is None else latency / 1000,
        status=status,
        model_calls=int(sum(_number(model.get("requests")) for model in usage)),
        tokens=int(sum(_number(model.get("total_tokens")) for model in usage)),
        usd=float(_number(cost.get("usd"))),
        unpriced=int(_number(cost.get("unpriced"))),
    )


def _text(value: Any) -> str | None:
    return None if value is None else repair(str(value))


def _number(value: Any) -> float:
    """Return a number that another client of Weave may have written; 0 if it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e18 else 0


def _kind_of_error(exception: str | None) -> str:
    try:
        return str(mapping(json.loads(exception or "{}")).get("type"))
    except (ValueError, RecursionError):
        return ""


def list_traces(
    store: TraceStore,
    *,
    user_id: str | None = None,
    run_id: str | None = None,
    name: str | None = None,
    failed: bool = False,
    query: str | None = None,
    limit: int = 50,
    offset: int = 0,
    project: str = LOCAL_PROJECT,
) -> list[CallLine]:
    """Return one page of traces, newest first.

    Args:
        store: The open trace file.
        user_id: Only traces with this user id, or pseudonym, as stored.
        run_id: Only traces of this run.
        name: Only traces whose root span has this name.
        failed: Only traces with a failed or interrupted call.
        query: Only traces in which a question holds this text, in upper or lower case. The newest
            `MAX_MATCHES` are searched for the other conditions.
        limit: Size of the page.
        offset: Number of traces to skip.
        project: ``entity/project``.
    """
    conditions: list[dict[str, Any]] = [
        {"$eq": [{"$getField": path}, {"$literal": value}]}
        for path, value in (("attributes.user_id", user_id), ("attributes.run_id", run_id))
        if value is not None
    ]
    filter_: dict[str, Any] = {"trace_roots_only": True, "with_failures": failed or None}
    if name is not None:
        filter_["op_names"] = op_names(project, name)
    if query is not None:
        filter_["trace_ids"] = _traces_that_ask(store, query, conditions, project)
    calls = store.calls(
        project,
        filter=filter_,
        query={"$expr": {"$and": conditions}} if conditions else None,
        sort_by=[{"field": "started_at", "direction": "desc"}],
        columns=["id", "summary", "attributes", "exception"],
        limit=limit,
        offset=offset,
    )
    return [call_line(call) for call in calls]


def _traces_that_ask(
    store: TraceStore, text: str, conditions: Sequence[Mapping[str, Any]], project: str
) -> list[str]:
    asked = {"$getField": "inputs.query"}
    found = {"$contains": {"input": asked, "substr": {"$literal": text}, "case_insensitive": True}}
    calls = store.calls(
        project,
        filter={"op_names": op_names(project, "ask", "agent", "evaluate")},
        query={"$expr": {"$and": [*conditions, found]}},
        sort_by=[{"field": "started_at", "direction": "desc"}],
        columns=["id"],
        limit=MAX_MATCHES,
    )
    return list(dict.fromkeys(call["trace_id"] for call in calls))


def op_names(project: str, *names: str) -> list[str]:
    """Return a filter's ``op_names`` for spans of these names; ops of Weave keep their own."""
    full = [name if "." in name else f"personaagent.{name}" for name in names]
    return [*(f"weave:///{project}/op/{name}:*" for name in full), *full]


def find_trace(store: TraceStore, prefix: str, *, project: str = LOCAL_PROJECT) -> str:
    """Return the id of the trace that has a call whose id starts with ``prefix``.

    Args:
        store: The open trace file.
        prefix: The first characters of a trace or call id, or ``last`` for the newest trace.
        project: ``entity/project``.

    Raises:
        StoreError: No trace matches, or more than one does.
    """
    if prefix == "last":
        ids = [line.trace_id for line in list_traces(store, limit=1, project=project)]
    else:
        ids = store.trace_ids(project, prefix)
    if len(ids) != 1:
        raise StoreError(
            f"{'no' if not ids else 'more than one'} trace {prefix!r}; see `personaagent trace list`"
        )
    return ids[0]


def show_trace(
    store: TraceStore, trace_id: str, *, texts: bool = False, project: str = LOCAL_PROJECT
) -> CallNode:
    """Return a trace's call tree with the decision of each step.

    Args:
        store: The open trace file.
        trace_id: The whole id.
        texts: Whether to read what was asked, answered and said as well.
        project: ``entity/project``.

    Raises:
        StoreError: There is no such trace.
    """
    calls = store.calls(
        project,
        filter={"trace_ids": [trace_id]},
        columns=["id", "summary", "attributes", "exception"],
        limit=MAX_CALLS,
    )
    if not calls:
        raise StoreError(f"no trace {trace_id!r}; see `personaagent trace list`")
    told = store.calls(
        project,
        filter={
            "trace_ids": [trace_id],
            "op_names": op_names(project, *(TELLING if texts else ("step",))),
        },
        columns=["inputs", "output"] if texts else ["output"],
        limit=MAX_CALLS,
    )
    payloads = {call["id"]: call for call in told}
    children_of: dict[str | None, list[Mapping[str, Any]]] = {}
    for call in calls:
        children_of.setdefault(call["parent_id"], []).append(call)
    ids = {call["id"] for call in calls}
    roots = [call for parent, below in children_of.items() if parent not in ids for call in below]
    shown: set[str] = set()

    def node(call: Mapping[str, Any], depth: int, said: Mapping[str, str]) -> CallNode:
        # Calls that are their own ancestors, or very deep, come from damage or from other programs.
        line, payload = call_line(call), payloads.get(call["id"], {})
        shown.add(line.id)
        below = [child for child in children_of.get(line.id, ()) if child["id"] not in shown]
        shown.update(child["id"] for child in below)
        own = call_texts(line.name, {**payload, "exception": call["exception"]}) if texts else {}
        nodes = [node(child, depth + 1, {**said, **own}) for child in below] if depth < MAX_DEPTH else []
        # Nothing is said twice, and a failure stands where it began.
        failures = _failures(nodes) if "failed" in own else set()
        return CallNode(
            line=line,
            children=tuple(nodes),
            decision=mapping(step_of(payload).get("decision")) or None if line.name == "step" else None,
            texts={
                label: text
                for label, text in own.items()
                if (text not in failures if label == "failed" else said.get(label) != text)
            },
        )

    return node(roots[0] if roots else calls[0], 1, {})


def _failures(nodes: Sequence[CallNode]) -> set[str]:
    """Return the reasons of all failures in and below these calls."""
    reasons = {node.texts["failed"] for node in nodes if "failed" in node.texts}
    return reasons.union(*(_failures(node.children) for node in nodes))


def step_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recorded step of a ``step`` call; empty if it has none."""
    return mapping(mapping(call.get("output")).get("step"))


def export_calls(
    store: TraceStore,
    *,
    trace_id: str | None = None,
    user_id: str | None = None,
    project: str = LOCAL_PROJECT,
) -> Iterator[dict[str, Any]]:
    """Yield complete call records in Weave's wire format, oldest first."""
    query = None
    if user_id is not None:
        query = {"$expr": {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}}
    filter_ = {"trace_ids": [trace_id]} if trace_id is not None else None
    offset = 0
    while page := store.calls(project, filter=filter_, query=query, limit=500, offset=offset):
        yield from page
        offset += len(page)
