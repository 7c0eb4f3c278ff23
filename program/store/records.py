"""What the store hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

PersonaSource = Literal["initial", "alignment", "rollback", "edit"]
AlignmentStatus = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class UserSummary:
    """One line of `personaagent users list`."""

    user_id: str
    task: str
    interactions: int
    persona_version: int | None
    stale: bool

    def __str__(self) -> str:
        persona = f"persona v{self.persona_version}" if self.persona_version else "no persona yet"
        stale = ", new data" if self.stale else ""
        return f"{self.user_id!r} ({self.task}): {self.interactions} interactions, {persona}{stale}"


@dataclass(frozen=True, kw_only=True)
class PersonaVersion:
    """One text the user's persona has had. Versions are never changed or overwritten.

    Attributes:
        version: Counts from 1 within the user.
        parent: The version this one was made from; ``None`` for the first.
        source: What made it; ``why`` says it in words.
        alignment_id: The alignment run that made it, where one did.
    """

    user_id: str
    version: int
    text: str
    parent: int | None
    source: PersonaSource
    why: str
    created_at: datetime
    alignment_id: str | None = None

    def __str__(self) -> str:
        parent = f", from v{self.parent}" if self.parent else ""
        return f"v{self.version} of {self.user_id!r} ({self.source}{parent}): {self.why}"


@dataclass(frozen=True, kw_only=True)
class AlignmentRow:
    """One run of the optimizer for one user.

    Attributes:
        config: Every setting that changes the result.
        record: The finished run as plain data (`optimizers.record`); empty until it ends.
        error: Why it failed, in one line; empty otherwise.
    """

    id: str
    user_id: str
    status: AlignmentStatus
    started_at: datetime
    ended_at: datetime | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
