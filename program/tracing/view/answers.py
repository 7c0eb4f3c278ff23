"""Finds an answer of a user's agent in the traces, and what the agent was shown for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from program.errors import StoreError
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT
from program.tracing.view.reader import MAX_CALLS, call_line, op_names
from program.tracing.view.texts import mapping

_ID = re.compile("[0-9a-f-]{4,36}")
_MAX_SEARCHED = 200
# What a person was told comes before what only a test saw.
_TOLD = ("ask", "evaluate")


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """One tool call before an answer.

    Attributes:
        call: Its name and arguments.
        interaction_ids: The interactions that it showed, best match first.
    """

    call: str
    interaction_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TracedAnswer:
    """An answer of a user's agent.

    Attributes:
        call_id: The traced call of the agent.
        kind: The name of the trace: ``ask`` for a user's question, ``align`` for a rollout.
        persona_version: The store's version that the agent ran under; for a rollout the one that the
            alignment began with. ``None`` if it is not recorded.
        lookups: What the agent looked up, in order.
        prompt: All that the model was told, as far as it is traced; empty if it is not.
        others: How many other traced answers of this kind match.
    """

    call_id: str
    trace_id: str
    kind: str
    at: str
    query: str
    answer: str
    persona_version: int | None
    lookups: tuple[Lookup, ...]
    prompt: str
    others: int


def find_answer(
    store: TraceStore, user_id: str, wanted: str, *, project: str = LOCAL_PROJECT
) -> TracedAnswer:
    """Return an answer that was traced: the newest that was given to a question, else the newest rollout.

    Args:
        store: The open trace file.
        user_id: The user.
        wanted: The answer's text or a part of it, in any case; the first characters of a trace or call id;
            or ``last``.
        project: ``entity/project``.

    Raises:
        StoreError: No traced answer of the user matches.
    """
    calls = _of_id(store, user_id, wanted, project) or _of_text(store, user_id, wanted, project)
    if not calls:
        raise StoreError(
            f"no answer {wanted!r:.80} of user {user_id!r} is traced: `ask`, `align`, `eval` and `serve` "
            "trace what agents answer; chats that `serve` forwards are not traced"
        )
    kinds = _kinds(store, calls, project)
    matching = [call for call in calls if kinds[call["trace_id"]] in _TOLD] or calls
    call = matching[0]
    inputs, finished = call["inputs"], mapping(mapping(call["output"]).get("finished"))
    version = call["attributes"].get("persona_version")
    return TracedAnswer(
        call_id=call["id"],
        trace_id=call["trace_id"],
        kind=kinds[call["trace_id"]],
        at=call["started_at"],
        query=str(inputs.get("query") or ""),
        answer=str(finished.get("answer") or ""),
        persona_version=version if isinstance(version, int) else None,
        lookups=tuple(_lookups(finished)),
        prompt=_prompt(store, call, project),
        others=len(matching) - 1,
    )


def _of_id(store: TraceStore, user_id: str, wanted: str, project: str) -> list[dict[str, Any]]:
    if not _ID.fullmatch(wanted):
        return []
    ids = store.trace_ids(project, wanted)
    if len(ids) != 1:
        return []
    calls = _agents(store, user_id, project, filter_={"trace_ids": ids})
    named = [call for call in calls if f"{call['id']}|{call['parent_id']}".find(wanted) in (0, 37)]
    return named or calls


def _of_text(store: TraceStore, user_id: str, wanted: str, project: str) -> list[dict[str, Any]]:
    answer, literal = {"$getField": "output.finished.answer"}, {"$literal": wanted}
    holds: dict[str, Any] = {"$contains": {"input": answer, "substr": literal, "case_insensitive": True}}
    if wanted == "last":
        return _agents(store, user_id, project, limit=_MAX_SEARCHED)
    equal: dict[str, Any] = {"$eq": [answer, literal]}
    return _agents(store, user_id, project, equal, limit=_MAX_SEARCHED) or _agents(
        store, user_id, project, holds, limit=_MAX_SEARCHED
    )


def _agents(
    store: TraceStore,
    user_id: str,
    project: str,
    *conditions: Mapping[str, Any],
    filter_: Mapping[str, Any] | None = None,
    limit: int = MAX_CALLS,
) -> list[dict[str, Any]]:
    """Return the finished answers of a user's agent, newest first."""
    own = {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}
    calls = store.calls(
        project,
        filter={**(filter_ or {}), "op_names": op_names(project, "agent")},
        query={"$expr": {"$and": [own, *conditions]}},
        sort_by=[{"field": "started_at", "direction": "desc"}],
        limit=limit,
    )
    return [call for call in calls if mapping(call["output"]).get("finished")]


def _kinds(store: TraceStore, calls: Sequence[Mapping[str, Any]], project: str) -> dict[str, str]:
    """Return the name of each trace."""
    ids = list(dict.fromkeys(call["trace_id"] for call in calls))
    roots = store.calls(
        project,
        filter={"trace_ids": ids, "trace_roots_only": True},
        columns=["id", "summary", "attributes", "exception"],
    )
    names = {line.trace_id: line.name for line in map(call_line, roots)}
    return {trace_id: names.get(trace_id, "agent") for trace_id in ids}


def _lookups(finished: Mapping[str, Any]) -> Iterator[Lookup]:
    for step in finished.get("steps") or ():
        arguments = mapping(mapping(step).get("arguments"))
        words = ", ".join(str(value) for value in arguments.values())
        yield Lookup(
            call=f"{mapping(step).get('tool')}({words})",
            interaction_ids=tuple(mapping(step).get("interaction_ids") or ()),
        )


def _prompt(store: TraceStore, agent: Mapping[str, Any], project: str) -> str:
    """Return the texts of all messages to the model below a call."""
    below, parents = set(), [agent["id"]]
    messages: list[Any] = []
    while parents:
        calls = store.calls(project, filter={"parent_ids": parents}, columns=["inputs"], limit=MAX_CALLS)
        parents = [call["id"] for call in calls if call["id"] not in below]
        below.update(parents)
        messages += [message for call in calls for message in call["inputs"].get("messages") or ()]
    return "\n".join(str(mapping(message).get("content") or "") for message in messages)
