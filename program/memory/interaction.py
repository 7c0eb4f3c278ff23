"""One thing a user did: the unit that every memory, tool and optimizer works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """What a user asked and what the user's true response was (paper, section 2.1: q, r, m).

    Attributes:
        id: Unique within the user.
        user_id: Whose interaction this is. It never reaches a prompt.
        query: The text that was asked about, without the task's instruction: what retrieval
            reads and what the agent would be asked if this were new.
        response: What the user truly answered, always as text ("4", "comedy").
        timestamp: When, timezone-aware UTC; ``None`` where the source has no dates.
        metadata: Whatever else the source knew, as text, never interpreted by the agent.
    """

    id: str
    user_id: str
    query: str
    response: str
    timestamp: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
