"""Reads traces as data, for the terminal, the trace page and scripts.

Reads Weave's own records, so it also shows calls that Weave's client wrote.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from program.errors import StoreError
from program.text_safety import repair
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT

Status = Literal["success", "error", "running", "descendant_error", "interrupted", "damaged"]

MAX_CALLS = 20_000
"""Number of calls read per trace; a longer trace is cut off."""

MAX_DEPTH = 100
"""Levels of calls shown per trace; deeper ones are left out."""


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
    """A call and the calls below it, in order of start. Steps have a decision."""

    line: CallLine
    children: Sequence[CallNode] = ()
    decision: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class PersonaChange:
    """The user's persona after one step of an alignment, or after one edit.

    Attributes:
        number: Number of the persona: a user's distinct texts, counted from 1 as they first appear.
        parent: Number of the persona before; ``None`` for the first.
        text: The persona's text; empty if it is not stored.
        source: ``step``, or the source given by the ``persona`` span, such as ``rollback``.
        changed: Whether the persona differs from the one before.
        detail: The recorded step: rollouts (``simulations``), feedback, decision, usage.
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
    """Return the line of a call record in Weave's wire format."""
    summary = call["summary"]
    weave, cost = summary["weave"], _mapping(summary.get("cost"))
    usage = [_mapping(model) for model in _mapping(summary.get("usage")).values()]
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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return None if value is None else repair(str(value))


def _number(value: Any) -> float:
    """Return a number that another client of Weave may have written; 0 if it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e18 else 0


def _kind_of_error(exception: str | None) -> str:
    try:
        return str(_mapping(json.loads(exception or "{}")).get("type"))
    except (ValueError, RecursionError):
        return ""


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
        store: The open trace file.
        user_id: Only traces with this user id, or pseudonym, as stored.
        run_id: Only traces of this run.
        name: Only traces whose root span has this name.
        failed: Only traces with a failed or interrupted call.
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
        filter_["op_names"] = [f"weave:///{project}/op/{_op_name(name)}:*", _op_name(name)]
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


def _op_name(name: str) -> str:
    return name if "." in name else f"personaagent.{name}"


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


def show_trace(store: TraceStore, trace_id: str, *, project: str = LOCAL_PROJECT) -> CallNode:
    """Return a trace's call tree with the decision of each step.

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
    steps = store.calls(
        project,
        filter={"trace_ids": [trace_id], "op_names": [f"weave:///{project}/op/personaagent.step:*"]},
        columns=["output"],
    )
    decisions = {call["id"]: _mapping(_step(call).get("decision")) or None for call in steps}
    children_of: dict[str | None, list[CallLine]] = {}
    for call in calls:
        children_of.setdefault(call["parent_id"], []).append(call_line(call))
    ids = {call["id"] for call in calls}
    roots = [line for parent, lines in children_of.items() if parent not in ids for line in lines]
    shown: set[str] = set()

    def node(line: CallLine, depth: int) -> CallNode:
        # Calls that are their own ancestors, or very deep, come from damage or from other programs.
        shown.add(line.id)
        below = [child for child in children_of.get(line.id, ()) if child.id not in shown]
        shown.update(child.id for child in below)
        nodes = [node(child, depth + 1) for child in below] if depth < MAX_DEPTH else []
        return CallNode(line=line, children=tuple(nodes), decision=decisions.get(line.id))

    return node(roots[0] if roots else call_line(calls[0]), 1)


def _step(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_mapping(call["output"]).get("step"))


def persona_history(store: TraceStore, user_id: str, *, project: str = LOCAL_PROJECT) -> list[PersonaChange]:
    """Return every step and edit of a user's persona, oldest first; empty if none is traced."""
    ops = [f"weave:///{project}/op/personaagent.{name}:*" for name in ("step", "persona")]
    calls = store.calls(
        project,
        filter={"op_names": ops},
        query={"$expr": {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}},
    )
    numbers: dict[str, int] = {}
    history: list[PersonaChange] = []
    for call in calls:
        before, after, source = _personas_of(call)
        if not after:
            continue
        if before and before not in numbers:
            # No traced step led to the first persona.
            numbers[before] = len(numbers) + 1
            history.append(_change(store, call, numbers[before], None, before, "start", changed=True))
        parent = numbers[before] if before else None
        number = numbers.setdefault(after, len(numbers) + 1)
        changed = not history or history[-1].number != number
        history.append(_change(store, call, number, parent, after, source, changed=changed))
    return history


def _personas_of(call: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the personas before and after a call, as references or texts, and its source."""
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
    """Return the persona that a reference points at; other text unchanged."""
    if not persona.startswith("weave:///"):
        return persona
    value = store.value(persona)
    return str(value.get("content", "")) if isinstance(value, Mapping) else ""


def diff_lines(before: str, after: str) -> list[str]:
    """Return a unified diff of two personas, without file names; empty if they are equal.

    Example:
        >>> diff_lines("Likes tea.", "Likes mint tea.")
        ['@@ -1 +1 @@', '-Likes tea.', '+Likes mint tea.']
    """
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    return list(lines)[2:]


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
