"""What a trace says, as data: for the terminal, for the viewer, for scripts.

Reads the local store in Weave's own records, so whatever Weave's client wrote can be read too.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from program.errors import StoreError
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT

Status = Literal["success", "error", "running", "descendant_error", "interrupted"]

MOST_CALLS = 20_000
"""Calls of one trace that are read; a longer trace is cut there."""


@dataclass(frozen=True, kw_only=True)
class CallLine:
    """One call without its payload.

    Attributes:
        name: Of the span, without the prefix of our ops.
        title: What tells it from its siblings (``step 2``); empty where nothing does.
        seconds: Wall time; ``None`` while it is open.
        model_calls: Language model calls in it and below.
        tokens: Input and output tokens in it and below.
        usd: Known cost in it and below: a lower bound where ``unpriced`` is above zero.
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
    """A call with what is below it, in order of start."""

    line: CallLine
    children: Sequence[CallNode] = ()
    decision: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class PersonaChange:
    """One step or edit that ended with a persona, kept or new.

    Attributes:
        number: Counts a user's distinct personas in order of first appearance, from 1.
        parent: Number of the persona it came from; ``None`` for the first.
        text: The persona's text; empty where content is not stored.
        source: ``step`` for an iteration of an alignment, else what the ``persona`` span said.
        changed: Whether the user's persona was another one before.
        detail: The recorded step: simulations, feedback, decision, usage.
    """

    number: int
    parent: int | None
    text: str
    source: str
    at: str
    changed: bool
    call_id: str
    trace_id: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def call_line(call: Mapping[str, Any]) -> CallLine:
    """Return the line of a wire record."""
    summary = call["summary"]
    weave, usage, cost = summary["weave"], summary.get("usage") or {}, summary.get("cost") or {}
    status = weave["status"]
    if status == "error" and _is_interrupted(call.get("exception")):
        status = "interrupted"
    latency = weave["latency_ms"]
    return CallLine(
        id=call["id"],
        trace_id=call["trace_id"],
        parent_id=call["parent_id"],
        name=str(weave["trace_name"]).removeprefix("personaagent."),
        title=call["display_name"] or "",
        user_id=call["attributes"].get("user_id"),
        run_id=call["attributes"].get("run_id"),
        started=call["started_at"],
        seconds=None if latency is None else latency / 1000,
        status=status,
        model_calls=sum(int(one.get("requests") or 0) for one in usage.values()),
        tokens=sum(int(one.get("total_tokens") or 0) for one in usage.values()),
        usd=float(cost.get("usd") or 0.0),
        unpriced=int(cost.get("unpriced") or 0),
    )


def _is_interrupted(exception: str | None) -> bool:
    try:
        return json.loads(exception or "{}").get("type") in ("Interrupted", "InterruptedError")
    except ValueError:
        return False


def list_traces(
    store: TraceStore,
    *,
    user_id: str | None = None,
    run_id: str | None = None,
    name: str | None = None,
    failed: bool = False,
    limit: int = 50,
    offset: int = 0,
    project: str = LOCAL_PROJECT,
) -> list[CallLine]:
    """Return one page of traces, newest first.

    Args:
        store: Where to read.
        user_id: Only this user's, as it stands in the traces (an id or a pseudonym).
        run_id: Only this run's.
        name: Only those whose root is a span of this name.
        failed: Only those in which something failed or was interrupted.
        limit: Size of the page.
        offset: Traces to skip.
        project: ``entity/project``.
    """
    wanted: list[dict[str, Any]] = [
        {"$eq": [{"$getField": path}, {"$literal": value}]}
        for path, value in (("attributes.user_id", user_id), ("attributes.run_id", run_id))
        if value is not None
    ]
    filter_: dict[str, Any] = {"trace_roots_only": True, "with_failures": failed or None}
    if name is not None:
        filter_["op_names"] = [f"weave:///{project}/op/{_op_name(name)}:*", _op_name(name)]
    calls = store.calls(
        project,
        filter=filter_,
        query={"$expr": {"$and": wanted}} if wanted else None,
        sort_by=[{"field": "started_at", "direction": "desc"}],
        columns=["id", "summary", "attributes", "exception"],
        limit=limit,
        offset=offset,
    )
    return [call_line(call) for call in calls]


def _op_name(name: str) -> str:
    return name if "." in name else f"personaagent.{name}"


def find_trace(store: TraceStore, prefix: str, *, project: str = LOCAL_PROJECT) -> str:
    """Return the trace id that starts with ``prefix``, or that of the call that does; ``last`` is the newest.

    Raises:
        StoreError: None, or more than one.
    """
    if prefix == "last":
        found = [line.trace_id for line in list_traces(store, limit=1, project=project)]
    else:
        found = store.traces_like(project, prefix)
    if len(found) != 1:
        raise StoreError(
            f"{'no' if not found else 'more than one'} trace {prefix!r}; see `personaagent trace list`"
        )
    return found[0]


def show_trace(store: TraceStore, trace_id: str, *, project: str = LOCAL_PROJECT) -> CallNode:
    """Return a trace's call tree with the decision of each step.

    Raises:
        StoreError: No such trace.
    """
    calls = store.calls(
        project,
        filter={"trace_ids": [trace_id]},
        columns=["id", "summary", "attributes", "exception"],
        limit=MOST_CALLS,
    )
    if not calls:
        raise StoreError(f"no trace {trace_id!r}; see `personaagent trace list`")
    steps = store.calls(
        project,
        filter={"trace_ids": [trace_id], "op_names": [f"weave:///{project}/op/personaagent.step:*"]},
        columns=["output"],
    )
    decisions = {call["id"]: _step(call).get("decision") for call in steps}
    below: dict[str | None, list[CallLine]] = {}
    for call in calls:
        below.setdefault(call["parent_id"], []).append(call_line(call))
    known = {call["id"] for call in calls}
    roots = [line for parent, lines in below.items() if parent not in known for line in lines]

    def node(line: CallLine) -> CallNode:
        children = tuple(node(child) for child in below.get(line.id, ()))
        return CallNode(line=line, children=children, decision=decisions.get(line.id))

    return node(roots[0])


def _step(call: Mapping[str, Any]) -> Mapping[str, Any]:
    step = (call["output"] or {}).get("step")
    return step if isinstance(step, Mapping) else {}


def persona_line(store: TraceStore, user_id: str, *, project: str = LOCAL_PROJECT) -> list[PersonaChange]:
    """Return how a user's persona came to be: every step and edit, oldest first."""
    ops = [f"weave:///{project}/op/personaagent.{name}:*" for name in ("step", "persona")]
    calls = store.calls(
        project,
        filter={"op_names": ops},
        query={"$expr": {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}},
    )
    numbers: dict[str, int] = {}
    made: list[PersonaChange] = []
    for call in calls:
        before, after, source = _ends(call)
        if not after:
            continue
        if before and before not in numbers:
            # The first persona of the line has no step of its own inside the traces.
            numbers[before] = len(numbers) + 1
            made.append(_change(store, call, numbers[before], None, before, "start", changed=True))
        parent = numbers[before] if before else None
        number = numbers.setdefault(after, len(numbers) + 1)
        changed = not made or made[-1].number != number
        made.append(_change(store, call, number, parent, after, source, changed=changed))
    return made


def _ends(call: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the persona before and after a call, as references or texts, and what made it."""
    step = _step(call)
    if step:
        return str(step.get("persona_before") or ""), str(step.get("persona_after") or ""), "step"
    inputs = call["inputs"]
    return (
        str(inputs.get("parent_text") or ""),
        str(inputs.get("text") or ""),
        str(inputs.get("source") or ""),
    )


def _change(
    store: TraceStore,
    call: Mapping[str, Any],
    number: int,
    parent: int | None,
    persona: str,
    source: str,
    *,
    changed: bool,
) -> PersonaChange:
    detail = {} if source == "start" else _step(call) or call["inputs"]
    return PersonaChange(
        number=number,
        parent=parent,
        text=persona_text(store, persona),
        source=source,
        at=call["started_at"],
        changed=changed,
        call_id=call["id"],
        trace_id=call["trace_id"],
        detail=detail,
    )


def persona_text(store: TraceStore, persona: str) -> str:
    """Return the text behind a reference to a persona; other text as it is."""
    if not persona.startswith("weave:///"):
        return persona
    value = store.value(persona)
    return str(value.get("content", "")) if isinstance(value, Mapping) else ""


def diff_lines(before: str, after: str) -> list[str]:
    """Return a unified diff of two personas, without file names."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    return list(lines)[2:]


def export_calls(
    store: TraceStore,
    *,
    trace_id: str | None = None,
    user_id: str | None = None,
    project: str = LOCAL_PROJECT,
) -> Iterator[dict[str, Any]]:
    """Yield Weave's wire records with payloads, oldest first, page by page."""
    query = None
    if user_id is not None:
        query = {"$expr": {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}}
    filter_ = {"trace_ids": [trace_id]} if trace_id is not None else None
    offset = 0
    while page := store.calls(project, filter=filter_, query=query, limit=500, offset=offset):
        yield from page
        offset += len(page)
