"""The records that a store returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from program.text import counted

PersonaSource = Literal["initial", "alignment", "rollback", "edit", "forget", "correction", "approval"]
AlignmentStatus = Literal["running", "done", "failed", "interrupted"]

COUNTS = ("calls", "input_tokens", "cached_tokens", "output_tokens", "unpriced", "cache_hits")
"""What is counted of model calls beside their price, as in `program.usage.Usage`."""


@dataclass(frozen=True, kw_only=True)
class UserSummary:
    """One stored user.

    Attributes:
        task: Name of the user's task.
        interactions: How many are stored.
        persona_version: The current version: the pinned one, or the newest. ``None`` without a persona.
        stale: Interactions arrived since the persona was first made from the data, or last aligned or
            confirmed by an alignment. Edits and rollbacks do not change it.
        stale_since: When the first of these interactions arrived; ``None`` if the user is not stale. If some
            arrived during an alignment, it is when that began. For users of a store of version 0.1 it is the
            earliest time that is possible.
        pinned: The version that is pinned (see `UserStore.pin`); ``None`` without one.

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
    stale_since: datetime | None = None
    pinned: int | None = None

    def __str__(self) -> str:
        persona = f"persona v{self.persona_version}" if self.persona_version else "no persona yet"
        if self.pinned:
            persona += " (pinned)"
        stale = ", new data" if self.stale else ""
        interactions = counted(self.interactions, "interaction")
        return f"{self.user_id!r} ({self.task}): {interactions}, {persona}{stale}"


@dataclass(frozen=True, kw_only=True)
class PersonaVersion:
    """One version of a user's persona. Stored versions never change, unless an interaction is forgotten.

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


@dataclass(frozen=True, kw_only=True)
class UserCost:
    """What a user cost in a month, and how well the user's agent did. Costs can be added up.

    Attributes:
        user_id: The user; ``None`` for all users together.
        month: In UTC, as ``2026-11``, of the end of each run; ``None`` for all months together.
        alignments: Alignments that ended well.
        failed: Alignments that failed.
        answers: Queries whose cost was recorded (`UserStore.record_answer`).
        calls: Model calls, cache hits included.
        input_tokens: Prompt tokens.
        cached_tokens: Prompt tokens that the provider read from its own cache.
        output_tokens: Completion tokens.
        usd: Price in US dollars; a lower bound if ``unpriced`` is above 0.
        unpriced: Calls without a known price.
        cache_hits: Calls answered from DSPy's cache; they cost nothing.
        scored: Rollouts of alignments that have a score.
        score_sum: The sum of these scores.

    Example:
        >>> from program import Usage, UserStore
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     store.record_answer("ana", Usage(calls=2, input_tokens=1200, output_tokens=30, usd=0.0004))
        ...     print(store.cost("ana"))
        'ana': 0 alignments, 1 answer, 2 calls, 1,230 tokens, $0.0004
    """

    user_id: str | None
    month: str | None
    alignments: int
    failed: int
    answers: int
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    usd: float
    unpriced: int
    cache_hits: int
    scored: int
    score_sum: float

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def agreement(self) -> float | None:
        """Mean agreement in [0, 1] of the agent's rollouts with what the user answered; ``None`` without any.

        Rollouts of all steps count; the answers that test a candidate do not.
        """
        return self.score_sum / self.scored if self.scored else None

    @property
    def price(self) -> str:
        """The price in words: ``$0.0004``, ``at least $0.0004``, or ``price unknown``."""
        cost = f"${self.usd:.4f}"
        if self.unpriced:
            cost = f"at least {cost}" if self.usd else "price unknown"
        return cost

    def as_dict(self) -> dict[str, Any]:
        """Return the cost as JSON data, without the sum of scores and with `tokens` and `agreement`."""
        data = {name: value for name, value in vars(self).items() if name != "score_sum"}
        return {**data, "tokens": self.tokens, "agreement": self.agreement}

    def __str__(self) -> str:
        who = "all users" if self.user_id is None else repr(self.user_id)
        when = f" in {self.month}" if self.month else ""
        failed = f" ({self.failed} failed)" if self.failed else ""
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.2f}"
        done = f"{counted(self.alignments, 'alignment')}{failed}, {counted(self.answers, 'answer')}"
        return (
            f"{who}{when}: {done}, "
            f"{counted(self.calls, 'call')}, {counted(self.tokens, 'token')}, {self.price}{agreement}"
        )


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who did what to a user's data, and when. It holds no content and no user id.

    Attributes:
        at: When it was done, in UTC.
        action: ``forget user``, ``forget interactions``, ``readmit`` or ``correct persona``.
        actor: Who asked for it: ``python``, ``command line``, or the name of a key.
        subject: The hash of the user's id (`program.store.tombstones.user_digest`).
        details: How much was deleted, by what it was.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.forget("ana")
        ...     print(store.audit()[0].action)
        forget user
    """

    at: datetime
    action: str
    actor: str
    subject: str
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
