"""How a user's persona changed: the versions of the store, with the steps that were traced.

The store has every version, rollbacks and hand edits among them; traces have the steps of alignments. If the
store is not at hand, versions are known as far as calls name the version that they ran under.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from program.tracing.content import redact_secrets
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT
from program.tracing.view.reader import op_names, step_of
from program.tracing.view.texts import mapping

if TYPE_CHECKING:
    from program.store.records import PersonaVersion


@dataclass(frozen=True, kw_only=True)
class PersonaChange:
    """The user's persona after one step of an alignment, or after one edit.

    Attributes:
        number: The store's version; ``None`` for a text that is no version, such as that of an alignment
            that failed later. If no call of the user names a version, the user's distinct texts are counted
            from 1 as they first appear.
        parent: Number of the persona before; ``None`` if there is none, or it has none.
        label: ``v3`` for the store's version, ``#3`` for a counted text, else ``no version``.
        text: The persona's text; empty if it is not stored.
        source: ``step``, or the source of the version, such as ``rollback``.
        changed: Whether the persona differs from the one before.
        call_id: The traced call; empty if the change was not traced, like the next one.
        detail: The recorded step: rollouts (``simulations``), feedback, decision, usage.
    """

    number: int | None
    parent: int | None
    label: str
    text: str
    source: str
    at: str
    changed: bool
    call_id: str = ""
    trace_id: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Traced:
    """A traced step or edit; personas are references or texts."""

    before: str
    after: str
    source: str
    call: Mapping[str, Any]
    # The version that the call ran under, and the one that an edit made.
    under: int | None
    version: int | None = None
    first: bool = False


def persona_history(
    store: TraceStore,
    user_id: str,
    versions: Sequence[PersonaVersion] = (),
    *,
    project: str = LOCAL_PROJECT,
) -> list[PersonaChange]:
    """Return every version, traced step and traced edit of a user's persona, oldest first.

    Args:
        store: The open trace file.
        user_id: The user, or the pseudonym, as stored.
        versions: The user's versions (`UserStore.persona_history`); empty if they are not at hand.
        project: ``entity/project``.
    """
    traced = list(_traced(store, user_id, project))
    if not versions and not any(row.under or row.version for row in traced):
        return _counted(store, traced)
    stored = {row.version: row for row in versions}
    known = _versions_by_text(traced)
    ended: dict[str, int | None] = {}
    changes: list[PersonaChange] = []
    made: set[int | None] = set()
    for row in traced:
        parent = row.under if row.first else ended.get(row.call["trace_id"])
        if not versions and parent is not None and parent not in made:
            made.add(parent)
            changes.append(_start(store, row, parent))
        text = persona_text(store, row.after)
        number = parent
        if row.version is not None:
            number = row.version
        elif row.after != row.before:
            number = _made(row, text, versions, parent) if versions else known.get(row.after)
            made.add(number)
        ended[row.call["trace_id"]] = number
        changes.append(_change(row, number, parent, stored[number].text if number in stored else text))
    changes += [_untraced(row) for row in versions if row.version not in made]
    return list(_marked(sorted(changes, key=lambda change: change.at)))


def _traced(store: TraceStore, user_id: str, project: str) -> Iterable[_Traced]:
    calls = store.calls(
        project,
        filter={"op_names": op_names(project, "step", "persona")},
        query={"$expr": {"$eq": [{"$getField": "attributes.user_id"}, {"$literal": user_id}]}},
    )
    seen: set[str] = set()
    for call in calls:
        under = _number(call["attributes"].get("persona_version"))
        if step := step_of(call):
            before, after = (str(step.get(f"persona_{when}") or "") for when in ("before", "after"))
            source, version = "step", None
        else:
            inputs = call["inputs"]
            before, after = str(inputs.get("parent_text") or ""), str(inputs.get("text") or "")
            source, version = str(inputs.get("source") or ""), _number(inputs.get("version"))
        # The span inside a step says what the step says.
        if after and source:
            first = call["trace_id"] not in seen
            seen.add(call["trace_id"])
            yield _Traced(
                before=before,
                after=after,
                source=source,
                call=call,
                under=under,
                version=version,
                first=first,
            )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _versions_by_text(traced: Sequence[_Traced]) -> dict[str, int]:
    """Return the versions that later calls name for the texts that they began with."""
    return {row.before: row.under for row in traced if row.first and row.under and row.before}


def _made(row: _Traced, text: str, versions: Sequence[PersonaVersion], parent: int | None) -> int | None:
    """Return the version that a step made; ``None`` if its text did not become one.

    Traces of version 0.1 do not name their alignment: then the texts tell.
    """
    alignment_id = row.call["attributes"].get("alignment_id")
    for version in versions:
        if alignment_id and version.alignment_id != alignment_id:
            continue
        same = text in (version.text, redact_secrets(version.text))
        if version.source == "alignment" and version.version > (parent or 0) and same:
            return version.version
    return None


def _change(row: _Traced, number: int | None, parent: int | None, text: str) -> PersonaChange:
    return PersonaChange(
        number=number,
        parent=parent,
        label="no version" if number is None else f"v{number}",
        text=text,
        source=row.source,
        at=row.call["started_at"],
        changed=False,
        call_id=row.call["id"],
        trace_id=row.call["trace_id"],
        detail=step_of(row.call) or mapping(row.call["inputs"]),
    )


def _start(store: TraceStore, row: _Traced, number: int) -> PersonaChange:
    """Return a persona that no traced step led to."""
    start = _change(replace(row, source="start"), number, None, persona_text(store, row.before))
    return replace(start, detail={})


def _untraced(row: PersonaVersion) -> PersonaChange:
    return PersonaChange(
        number=row.version,
        parent=row.parent,
        label=f"v{row.version}",
        text=row.text,
        source=row.source,
        at=row.created_at.isoformat(),
        changed=False,
        detail={"why": row.why},
    )


def _marked(changes: Iterable[PersonaChange]) -> Iterable[PersonaChange]:
    """Mark the changes whose persona differs from the one before."""
    before: tuple[int | None, str] | None = None
    for change in changes:
        now = (change.number, change.text)
        yield replace(change, changed=now != before)
        before = now


def _counted(store: TraceStore, traced: Iterable[_Traced]) -> list[PersonaChange]:
    """Return the history of a user without versions: an agent that was aligned without a store."""
    numbers: dict[str, int] = {}
    history: list[PersonaChange] = []
    for row in traced:
        if row.before and row.before not in numbers:
            numbers[row.before] = number = len(numbers) + 1
            history.append(replace(_start(store, row, number), label=f"#{number}"))
        number = numbers.setdefault(row.after, len(numbers) + 1)
        parent = numbers[row.before] if row.before else None
        change = _change(row, number, parent, persona_text(store, row.after))
        history.append(replace(change, label=f"#{number}"))
    return list(_marked(history))


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
