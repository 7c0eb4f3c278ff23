"""What each line of a persona rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from program.evidence import Evidence
from program.persona import Line, Persona
from program.store.records import PersonaVersion


@dataclass(frozen=True)
class ExplainedLine:
    """A line of a persona.

    Attributes:
        text: As the model reads it now.
        origin: Who wrote it, and the persona version that brought it.
        interaction_ids: What it rests on, in time order for code.
        since: That version.
    """

    text: str
    origin: str
    interaction_ids: tuple[str, ...]
    since: int


def parts_by_version(versions: Sequence[PersonaVersion]) -> list[tuple[int, Persona | None]]:
    """Return number and parts of each version; ``None`` for a text that was written freely."""
    return [(row.version, Persona.from_dict(row.parts) if row.parts else None) for row in versions]


def explain_lines(
    versions: Sequence[tuple[int, Persona | None]], evidence: Sequence[Evidence]
) -> list[ExplainedLine]:
    """Return the facts and learned lines of a persona, in its order.

    Args:
        versions: From `parts_by_version`, oldest first. The last one is explained and has parts.
        evidence: What code counts in the user's history (`program.evidence.collect`).

    Example:
        >>> persona = Persona(lines=(Line(text="Likes heists.", interaction_ids=("7",), since=2),))
        >>> explain_lines([(1, Persona()), (2, persona)], evidence=[])
        [ExplainedLine(text='Likes heists.', origin='learned, since v2', interaction_ids=('7',), since=2)]
    """
    persona = versions[-1][1]
    if persona is None:
        return []
    facts = [
        _explained("counted by code", item, _since(item, versions)) for item in persona.shown_facts(evidence)
    ]
    return [*facts, *(_explained(_origin(line), line, line.since) for line in persona.lines)]


def _explained(author: str, line: Evidence | Line, since: int) -> ExplainedLine:
    return ExplainedLine(line.text, f"{author}, since v{since}", line.interaction_ids, since)


def _origin(line: Line) -> str:
    return f"corrected by the person on {line.corrected}" if line.corrected else "learned"


def _since(item: Evidence, versions: Sequence[tuple[int, Persona | None]]) -> int:
    """Return the first of the latest versions that show a fact."""
    since = versions[-1][0]
    for number, persona in reversed(versions):
        if persona is None or not persona.shown_facts([item]):
            break
        since = number
    return since
