"""The records that a store returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from program.text import counted

PersonaSource = Literal["initial", "alignment", "rollback", "edit"]
AlignmentStatus = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class UserSummary:
    """One stored user.

    Attributes:
        task: Name of the user's task.
        interactions: How many are stored.
        persona_version: The current version; ``None`` without a persona.
        stale: Interactions arrived since the persona was first made from the data, or last aligned or
            confirmed by an alignment. Edits and rollbacks do not change it.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     print(store.user("ana"))
        'ana' (free-text): 0 interactions, no persona yet
    """

    user_id: str
    task: str
    interactions: int
    persona_version: int | None
    stale: bool

    def __str__(self) -> str:
        persona = f"persona v{self.persona_version}" if self.persona_version else "no persona yet"
        stale = ", new data" if self.stale else ""
        interactions = counted(self.interactions, "interaction")
        return f"{self.user_id!r} ({self.task}): {interactions}, {persona}{stale}"


@dataclass(frozen=True, kw_only=True)
class PersonaVersion:
    """One version of a user's persona. Stored versions never change.

    Attributes:
        version: Counts from 1 for each user.
        parent: The version that this one replaced or was rewritten from; ``None`` for the first.
        source: The kind of change.
        why: The reason for the change, in words.
        alignment_id: The alignment run that wrote it; ``None`` for other sources.
        parts: The parts behind the text (see `program.persona.Persona`); ``None`` if it was written freely.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     version = store.add_persona("ana", "Be brief.", source="edit", why="she said so")
        >>> print(version)
        v1 of 'ana' (edit): she said so
    """

    user_id: str
    version: int
    text: str
    parent: int | None
    source: PersonaSource
    why: str
    created_at: datetime
    alignment_id: str | None = None
    parts: Mapping[str, Any] | None = field(default=None, hash=False)

    def __str__(self) -> str:
        parent = f", from v{self.parent}" if self.parent else ""
        return f"v{self.version} of {self.user_id!r} ({self.source}{parent}): {self.why}"


@dataclass(frozen=True, kw_only=True)
class AlignmentRow:
    """One alignment run of one user.

    Attributes:
        config: Every setting that changes the result.
        record: The finished run as JSON data (`optimizers.record`); empty until it ends.
        error: One line; empty unless the run failed.
    """

    id: str
    user_id: str
    status: AlignmentStatus
    started_at: datetime
    ended_at: datetime | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
