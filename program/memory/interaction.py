"""An interaction: the unit that memories, tools and optimizers work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """A query and the user's true response (paper, section 2.1: q, r, m).

    Attributes:
        id: Unique for the user.
        user_id: The user. Never reaches a prompt.
        query: The query text, without the task's instruction. Retrieval indexes it, and alignment
            gives it to the agent.
        response: The user's true response, always as text ("4", "comedy").
        timestamp: Timezone-aware UTC; ``None`` if the source has no dates.
        metadata: Other fields of the source, as text. The agent does not interpret them.

    Example:
        >>> film = Interaction(id="1", user_id="ana", query="A heist goes wrong.", response="comedy")
        >>> film.response
        'comedy'
    """

    id: str
    user_id: str
    query: str
    response: str
    timestamp: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
