"""Why a persona says what it says: line, feedback, interactions, version and decision in one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from program.corrections import list_lines
from program.errors import UnknownVersionError
from program.evidence import collect
from program.memory.interaction import Interaction
from program.persona import Persona
from program.provenance import ExplainedLine, explain_lines, parts_by_version
from program.store import UserStore
from program.store.records import AlignmentRow, PersonaVersion
from program.task import get_task


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What led to a persona version.

    Attributes:
        version: The version.
        source: The kind of change, as in `PersonaVersion`.
        why: The reason that is stored with it.
        at: When it was stored.
        feedback: The texts that the rewrite was asked to follow, by interaction; empty if none are stored.
        answers: What the agent had answered in the rollouts, by interaction.
        decisions: What the gate decided of each change, by the changes on one line; the key of a free
            rewrite is empty. Each has ``outcome``, ``reason`` and ``numbers``.
    """

    version: int
    source: str
    why: str
    at: datetime
    feedback: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    decisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def last_decision(self) -> Mapping[str, Any] | None:
        """What the gate decided last; ``None`` if no gate decided."""
        return list(self.decisions.values())[-1] if self.decisions else None

    def decision_of(self, text: str) -> Mapping[str, Any] | None:
        """Return what the gate decided of the change that brought a line; ``None`` if no gate did."""
        for changes, decision in self.decisions.items():
            if text and f"+ {text}" in changes:
                return decision
        return self.last_decision


@dataclass(frozen=True, kw_only=True)
class WhyLine:
    """A line of a persona with all that is known of where it comes from.

    Attributes:
        text: As the model reads it now.
        origin: Who wrote it, and the version that brought it.
        since: That version; 0 if it is not known.
        interaction_ids: What it rests on, in time order for code.
        feedback: The feedback on these interactions, each as id and text.
        decision: What the gate decided of it: ``outcome``, ``reason`` and ``numbers``; ``None`` if it was
            not tested.
    """

    text: str
    origin: str
    since: int
    interaction_ids: tuple[str, ...]
    feedback: tuple[tuple[str, str], ...] = ()
    decision: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Why:
    """A persona version with what it rests on.

    Attributes:
        persona: The version.
        cause: What led to it.
        outcome: What the gate says of it now, later reviews included: ``confirmed``, ``provisional``,
            ``rolled back``; ``approved`` by a person; empty if no gate tested it.
        review: The latest review by newer interactions; ``None`` without one.
        lines: What was written freely before lines were added, facts and other lines; ``None`` if all of it
            was written freely.
        interactions: The user's interactions by id, without forgotten ones.

    Example:
        >>> from program.persona import first_persona
        >>> persona = first_persona().with_line("Likes heists.", ["7"])
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.add_persona(
        ...         "ana", persona.render([]), source="edit", why="she said so", parts=persona.as_dict()
        ...     )
        ...     why = explain(store, "ana")
        >>> [(line.text, line.since, line.interaction_ids) for line in why.lines], why.cause.why
        ([('Likes heists.', 1, ('7',))], 'she said so')
    """

    persona: PersonaVersion
    cause: Cause
    outcome: str
    review: Mapping[str, Any] | None
    lines: tuple[WhyLine, ...] | None
    interactions: Mapping[str, Interaction]

    def as_dict(self, *, shown: int = 20) -> dict[str, Any]:
        """Return JSON data: of each line at most ``shown`` interactions, the newest first.

        A forgotten interaction is an id without texts.
        """
        cause = self.cause
        return {
            "version": cause.version,
            "source": cause.source,
            "why": cause.why,
            "created_at": cause.at,
            "outcome": self.outcome,
            "review": self.review,
            "feedback": [{"interaction_id": name, "text": text} for name, text in cause.feedback.items()],
            "lines": None if self.lines is None else [self._line(line, shown) for line in self.lines],
        }

    def _line(self, line: WhyLine, shown: int) -> dict[str, Any]:
        known = self.interactions
        return {
            **vars(line),
            "interaction_ids": list(line.interaction_ids),
            "feedback": [{"interaction_id": name, "text": text} for name, text in line.feedback],
            "evidence": [
                {"id": name, **({} if name not in known else _texts(known[name]))}
                for name in line.interaction_ids[-shown:][::-1]
            ],
        }


def _texts(item: Interaction) -> dict[str, str]:
    return {"query": item.query, "response": item.response}


def explain(store: UserStore, user_id: str, version: int | None = None) -> Why:
    """Return what a persona version rests on.

    Args:
        store: The user's store.
        user_id: A stored user with a persona.
        version: The version; ``None`` for the current one.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        UnknownVersionError: There is no such version, or no persona yet.
    """
    user = store.user(user_id)
    persona = store.persona(user_id, version)
    if persona is None:
        raise UnknownVersionError(
            f"user {user_id!r} has no persona yet; `personaagent align USER` makes one, or `ask`"
        )
    versions, runs, past = (
        store.persona_history(user_id),
        store.alignments(user_id),
        store.interactions(user_id),
    )
    until = [row for row in versions if row.version <= persona.version]
    causes = {row.version: cause_of(row, runs) for row in until}
    lines = None
    if persona.parts is not None:
        explained = explain_lines(parts_by_version(until), collect(past, get_task(user.task)))
        lines = tuple(_why_line(line, causes) for line in (*_free_lines(persona.parts), *explained))
    review = _review(persona, versions, runs)
    decision = review or causes[persona.version].last_decision or {}
    outcome = "approved" if persona.source == "approval" else str(decision.get("outcome") or "")
    return Why(
        persona=persona,
        cause=causes[persona.version],
        outcome=outcome,
        review=review,
        lines=lines,
        interactions={item.id: item for item in past},
    )


def cause_of(version: PersonaVersion, runs: Iterable[AlignmentRow]) -> Cause:
    """Return what led to a version: feedback and decisions of the steps whose rewrite was kept."""
    run = next((run for run in runs if run.id == version.alignment_id), None)
    feedback: dict[str, str] = {}
    answers: dict[str, str] = {}
    decisions: dict[str, Mapping[str, Any]] = {}
    for step in () if run is None else run.record.get("steps", ()):
        if not (step.get("decision") or {}).get("accept"):
            continue
        feedback |= {row["interaction_id"]: row["text"] for row in step.get("feedback") or () if row["text"]}
        answers |= {row["interaction_id"]: row["answer"] for row in step.get("simulations") or ()}
        kept = [check for check in step.get("checks") or () if check["decision"]["accept"]]
        decisions |= {"; ".join(check["changes"]): check["decision"] for check in kept}
        decisions.setdefault("", step["decision"])
    return Cause(
        version=version.version,
        source=version.source,
        why=version.why,
        at=version.created_at,
        feedback=feedback,
        answers=answers,
        decisions=decisions,
    )


def _free_lines(parts: Mapping[str, Any]) -> Iterator[ExplainedLine]:
    """Yield what a persona with parts still says in words that were written freely."""
    for row in list_lines(Persona.from_dict(parts), []):
        if row.kind == "text":
            yield ExplainedLine(row.text, "written freely", (), 0)


def _why_line(line: ExplainedLine, causes: Mapping[int, Cause]) -> WhyLine:
    cause = causes.get(line.since)
    feedback = {} if cause is None else cause.feedback
    return WhyLine(
        text=line.text,
        origin=line.origin,
        since=line.since,
        interaction_ids=line.interaction_ids,
        feedback=tuple((name, feedback[name]) for name in line.interaction_ids if name in feedback),
        decision=None if cause is None else cause.decision_of(line.text),
    )


def _review(
    persona: PersonaVersion, versions: Sequence[PersonaVersion], runs: Iterable[AlignmentRow]
) -> Mapping[str, Any] | None:
    """Return what later interactions said of a version, while it was the current one."""
    if persona.alignment_id is None:
        return None
    following = next((row for row in versions if row.version == persona.version + 1), None)
    review: Mapping[str, Any] | None = None
    for run in runs:
        before = following is None or run.started_at < following.created_at
        if run.started_at > persona.created_at and before:
            review = run.record.get("review") or review
    return review
